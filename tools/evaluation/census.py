"""The census: `python -m tools.evaluation.census JOB`; what can be known before any weights run.

The gold answers go through the real tokenizer, the decode budget and the grader: their scores are the ceiling of
every metric (failure mode P1). Empty answers give the floor, the user's own text the echo. Training rows are counted
in tokens under the real template (P8), and training prompts compared with evaluation prompts (P7).

Two parts, since they stand on different things: `tokens` (lengths and prompts) and `grades` (what the grader says). An
edited grader makes only the second stale. The input's `parts` names those wanted; both when left out.
"""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from tools.data.balance import count_groups
from tools.data.cases import case_messages, iter_data, iter_split, user_prompt
from tools.data.rows import Row
from tools.evaluation.harness import harness_hash, harness_parts
from tools.evaluation.prompts import (
    PLACEHOLDER,
    answer_openings,
    decode,
    gold_tokens,
    skeleton,
    with_system,
)
from tools.evaluation.rendered import Numbered, rendered_pairs, rendered_rows, source_of
from tools.evaluation.worker import Split, read_split
from tools.graders.contract import Grade, GraderSpec
from tools.graders.host import Grader
from tools.jobs.worker import WorkerContext, run_job, tell_phase
from tools.probes.outputs import adversarial_outputs
from tools.probes.stock import StockRows

PARTS = ("tokens", "grades")
"""What a census can count: lengths and prompts, and what the grader says."""

_MOST_BUDGETS = 8
"""Points of a budget curve; each costs one grading of every gold answer that it cuts."""
_MOST_REPORTED = 50
"""Sentences and line numbers kept of each kind of trouble; counts are of all."""
_REPEATED_CASES = 8
"""Gold answers graded repeatedly, by split."""
_BAD_OUTPUT_CASES = 12
"""Golds by split whose bad outputs are graded; each makes up to eight."""
_HELD_ROWS = 500
"""Training rows held against what the template makes of them; it treats all alike."""
_SKELETON_SHOWN = 400
"""Characters."""


@dataclass(frozen=True)
class Gold:
    """One case's reference answer as the model would have to generate it."""

    case: dict[str, Any]
    tokens: list[int]

    @property
    def needs(self) -> int:
        """Decode budget that lets it finish: its tokens and the end token."""
        return len(self.tokens) + 1


class GoldCuts:
    """Gold answers of one split, cut to decode budgets and graded; equal cuts are graded once.

    Args:
        golds: The answers.
        tokenizer: mlx-lm tokenizer wrapper.
        grade: Grades items of (case, text, finish_reason).
    """

    def __init__(self, golds: list[Gold], tokenizer: Any, grade: Callable[[list[Any]], list[Grade]]) -> None:
        self.golds = golds
        self._tokenizer = tokenizer
        self._grade = grade
        self._known: dict[tuple[int, int], Grade] = {}

    @cached_property
    def needs(self) -> list[int]:
        """Sufficient budgets of the golds, sorted."""
        return sorted(gold.needs for gold in self.golds)

    def output(self, gold: Gold, max_tokens: int) -> tuple[str, str]:
        """Return (text, finish_reason) of a perfect model under a budget."""
        if gold.needs <= max_tokens:
            return decode(self._tokenizer, gold.tokens), "stop"
        return decode(self._tokenizer, gold.tokens[:max_tokens]), "length"

    def grades(self, max_tokens: int) -> list[Grade]:
        """Return the grades of all golds under a budget, in order."""
        keys = [(number, min(gold.needs, max_tokens)) for number, gold in enumerate(self.golds)]
        new = [key for key in keys if key not in self._known]
        items = [(self.golds[key[0]].case, *self.output(self.golds[key[0]], key[1])) for key in new]
        self._known.update(zip(new, self._grade(items), strict=True))
        return [self._known[key] for key in keys]

    def budgets(self, max_tokens: int) -> list[int]:
        """Return the budgets worth knowing: the one in force, and those by which more golds become whole."""
        longer = sorted({needs for needs in self.needs if needs > max_tokens})
        if len(longer) >= _MOST_BUDGETS:
            step = (len(longer) - 1) / (_MOST_BUDGETS - 2)
            longer = sorted({longer[round(position * step)] for position in range(_MOST_BUDGETS - 1)})
        return [max_tokens, *longer]


def summary(grades: Iterable[Grade], n_whole: int) -> dict[str, dict[str, Any]]:
    """Return {metric: {mean, n, cases_whole}}; a case without a value counts neither in the mean nor in n."""
    values: dict[str, list[float]] = {}
    for grade in grades:
        for name, value in grade.metrics.items():
            values.setdefault(name, []).extend([] if value is None else [value])
    return {
        name: {"mean": sum(scores) / len(scores) if scores else None, "n": len(scores), "cases_whole": n_whole}
        for name, scores in values.items()
    }


class SplitCensus:
    """What the census finds about one split; `errors` and `varies` are sentences.

    Args:
        split: Its cases.
        tokenizer: mlx-lm tokenizer wrapper.
        grader: An open grader; None where only tokens are counted.
        max_tokens: Decode budget in force.
        system: System text of the track.
    """

    def __init__(
        self, split: Split, tokenizer: Any, grader: Grader | None, max_tokens: int, system: str | None
    ) -> None:
        self.split = split
        self.max_tokens = max_tokens
        self.errors: list[str] = []
        self.other_errors: list[str] = []
        self._asked = grader
        golds = [
            Gold(case, gold_tokens(tokenizer, case, system))
            for case in split.cases
            if case.get("reference") is not None
        ]
        self.cuts = GoldCuts(golds, tokenizer, self._grade)

    @property
    def _grader(self) -> Grader:
        if self._asked is None:
            raise RuntimeError("a census of tokens alone asks no grader")
        return self._asked

    def _grade(self, items: list[Any]) -> list[Grade]:
        """Ask the grader, which a census of tokens alone has none of."""
        return self._grader.grade(items)

    @property
    def has_golds(self) -> bool:
        """Whether a ceiling can be told at all."""
        return bool(self.cuts.golds)

    @property
    def n_whole(self) -> int:
        """Golds that finish within the budget in force."""
        return sum(needs <= self.max_tokens for needs in self.cuts.needs)

    def ceiling(self) -> dict[str, dict[str, Any]]:
        """Grade the golds under the budget in force."""
        grades = self.cuts.grades(self.max_tokens)
        self.errors += self._sentences(grades, "the gold answer")
        return summary(grades, self.n_whole)

    def floor(self) -> dict[str, dict[str, Any]]:
        """Grade empty answers."""
        return self._constant(lambda _case: "", "an empty answer")

    def echo(self) -> dict[str, dict[str, Any]]:
        """Grade the user's text given back."""
        return self._constant(user_prompt, "the echoed prompt")

    def _constant(self, text: Callable[[dict[str, Any]], str], what: str) -> dict[str, dict[str, Any]]:
        grades = self._grader.grade((case, text(case), "stop") for case in self.split.cases)
        self.other_errors += self._sentences(grades, what)
        return summary(grades, len(self.split.cases))

    def budget(self) -> dict[str, Any]:
        """Return what the golds need; `of_case` by case, since a run's answers are held against their own lengths."""
        needs = self.cuts.needs
        of_case = {str(gold.case["id"]): gold.needs for gold in self.cuts.golds}
        whole = {"whole": self.n_whole, "n": len(needs), "smallest_sufficient": needs[-1]}
        return {"gold_tokens": needs, "of_case": of_case, **whole}

    def budget_curve(self) -> dict[str, list[list[float]]]:
        """Return {metric: [[max_tokens, ceiling], …]} from the budget in force upward."""
        curve: dict[str, list[list[float]]] = {}
        for budget in self.cuts.budgets(self.max_tokens):
            for name, row in summary(self.cuts.grades(budget), 0).items():
                if row["mean"] is not None:
                    curve.setdefault(name, []).append([budget, row["mean"]])
        return curve

    def bad_outputs(self) -> dict[str, Any]:
        """Grade outputs that no reward may pay for, beside the golds they were made from.

        Returns:
            `cases`, `gold` {metric: [score per case]}, `scores` {kind: {metric: [score per case, None without one]}}.
        """
        golds = self.cuts.golds[:_BAD_OUTPUT_CASES]
        made = [adversarial_outputs(user_prompt(g.case), str(g.case["reference"])) for g in golds]
        items = [(gold.case, text, "stop") for gold, bad in zip(golds, made, strict=True) for text in bad.values()]
        grades = iter(self._grader.grade(items))
        graded = [{kind: next(grades).metrics for kind in bad} for bad in made]
        of_golds = self._grader.grade((gold.case, str(gold.case["reference"]), "stop") for gold in golds)
        names = sorted({name for grade in of_golds for name in grade.metrics})
        kinds = sorted({kind for bad in graded for kind in bad})
        return {
            "cases": len(golds),
            "gold": {name: [grade.metrics.get(name) for grade in of_golds] for name in names},
            "scores": {
                kind: {name: [bad.get(kind, {}).get(name) for bad in graded] for name in names} for kind in kinds
            },
        }

    def varies(self) -> list[str]:
        """Grade some answers repeatedly and return what differs; golds where there are any, else echoes."""
        if self.has_golds:
            items = [(g.case, *self.cuts.output(g, self.max_tokens)) for g in self.cuts.golds[:_REPEATED_CASES]]
        else:
            items = [(case, user_prompt(case), "stop") for case in self.split.cases[:_REPEATED_CASES]]
        return [f"{self.split.key}: {change.sentence}" for change in self._grader.repeat_check(items)]

    def _sentences(self, grades: Iterable[Grade], what: str) -> list[str]:
        return [f"{self.split.key}, case {g.case_id}, {what}: {g.error}" for g in grades if g.error]


def token_census(rows: Iterable[Numbered], tokenizer: Any, max_seq_length: int) -> dict[str, Any]:
    """Count training rows in tokens.

    Args:
        rows: As the real template renders them.
        tokenizer: mlx-lm tokenizer wrapper, for its end tokens.
        max_seq_length: Most tokens a row may have.

    Returns:
        rows, max_tokens, max_answer and mean_answer (tokens of the longest answer and of one on average), p50, p95,
        truncated (rows longer than `max_seq_length`), prompt_longer_than_max (rows whose whole answer would be cut),
        lines (first truncated lines), without_end (rows that no end token closes), prompt_mismatch (rows whose
        beginning is not the prompt that evaluation renders).
    """
    lengths: list[int] = []
    answers: list[int] = []
    lines: list[int] = []
    lost = unended = mismatched = 0
    ends = np.array(sorted(tokenizer.eos_token_ids), dtype=np.int64)
    for line, rendered in rows:
        lengths.append(len(rendered.tokens))
        answers.append(len(rendered.tokens) - rendered.prompt_length)
        mismatched += not rendered.is_prefix
        unended += not np.isin(rendered.tokens[rendered.prompt_length :], ends).any()
        if len(rendered.tokens) > max_seq_length:
            lines.append(line)
            # Nothing of the answer is left to learn from: with masking, the loss is 0/0.
            lost += rendered.prompt_length >= max_seq_length
    ordered = sorted(lengths)
    return {
        "rows": len(lengths),
        "max_tokens": ordered[-1],
        "max_answer": max(answers),
        "mean_answer": sum(answers) / len(answers),
        "p50": _percentile(ordered, 0.50),
        "p95": _percentile(ordered, 0.95),
        "truncated": len(lines),
        "prompt_longer_than_max": lost,
        "lines": lines[:_MOST_REPORTED],
        "without_end": unended,
        "prompt_mismatch": mismatched,
    }


def pair_census(sides: Iterable[Numbered], max_seq_length: int | None) -> dict[str, Any]:
    """Count preference pairs in tokens, both sides of each.

    Args:
        sides: As the real template renders them, chosen and rejected in turn.
        max_seq_length: Of the runs on pairs; None: chosen from what is counted here.

    Returns:
        rows (pairs), and of their sides max_tokens, p50, p95; truncated (pairs with a longer side), lines (the first).
    """
    lengths: list[int] = []
    long: dict[int, None] = {}
    for line, rendered in sides:
        lengths.append(len(rendered.tokens))
        if max_seq_length is not None and len(rendered.tokens) > max_seq_length:
            long[line] = None
    lines = list(long)
    ordered = sorted(lengths)
    return {
        "rows": len(lengths) // 2,
        "max_tokens": ordered[-1],
        "p50": _percentile(ordered, 0.50),
        "p95": _percentile(ordered, 0.95),
        "truncated": len(lines),
        "lines": lines[:_MOST_REPORTED],
    }


def _percentile(ordered: list[int], share: float) -> int:
    """Return the smallest value that at least `share` of the values do not exceed."""
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]


def prompt_parity(
    rows: Iterable[Row], splits: Iterable[Split], tokenizer: Any, system: str | None = None
) -> dict[str, Any]:
    """Compare how training and evaluation wrap the user's text: system text, template, the assistant's opening.

    Returns:
        ok, train_prefix and eval_prefix (the prompt with `{prompt}` for the user's words). When they differ: the first
        evaluation form that training never shows, beside the first training form; or, around the place where they
        part, the opening of an answer.
    """
    forms = _Forms(tokenizer)
    evaluated = dict.fromkeys(forms.of(case_messages(c, system), c.get("tools")) for s in splits for c in s.cases)
    taught: dict[str, None] = {}
    texts = []
    openings = None
    for row in rows:
        if row.form == "text":
            texts.append(row.prompt)
            continue
        for plain in row.plain:
            messages, tools = with_system(plain["messages"], system), plain.get("tools")
            form = forms.of(messages, tools)
            # One row of each form shows how its template opens an answer.
            if form not in taught and openings is None:
                openings = answer_openings(tokenizer, messages, tools)
            taught[form] = None
    taught |= dict.fromkeys(form for form in evaluated if any(_wraps(form, text) for text in texts))
    strange = next((form for form in evaluated if form not in taught), None)
    first = next(iter(evaluated), "")
    pair = (first, first)
    if strange is not None:
        pair = (next(iter([*taught, *texts]), ""), strange)
    elif openings is not None:
        pair = openings
    return {
        "ok": strange is None and openings is None,
        "train_prefix": pair[0][:_SKELETON_SHOWN],
        "eval_prefix": pair[1][:_SKELETON_SHOWN],
    }


def without_words(parity: dict[str, Any]) -> dict[str, Any]:
    """Return a parity with the sizes of both prefixes in place of their text: a form may hold words of a case."""
    taught, evaluated = parity["train_prefix"], parity["eval_prefix"]
    pairs = enumerate(zip(taught, evaluated, strict=False))
    parted = next((place for place, (one, other) in pairs if one != other), min(len(taught), len(evaluated)))
    sizes = [f"({len(text)} characters, the first {parted} alike)" for text in (taught, evaluated)]
    return {**parity, "train_prefix": sizes[0], "eval_prefix": sizes[1]}


class _Forms:
    """Skeletons of conversations, rendered once for each system text and set of tools: nothing else changes them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, str] = {}

    def of(self, messages: list[dict[str, Any]], tools: Any) -> str:
        system = next((str(m.get("content")) for m in messages if m["role"] == "system"), None)
        key = repr((system, tools))
        if key not in self._known:
            self._known[key] = skeleton(self._tokenizer, messages, tools)
        return self._known[key]


def _wraps(form: str, text: str) -> bool:
    """Say whether a text row has a prompt of this form in it: text rows carry their template already."""
    before, _, after = form.partition(PLACEHOLDER)
    return text.startswith(before) and after in text[len(before) :]


def take_census(context: WorkerContext) -> None:
    """Do the whole job.

    Raises:
        VigilError: A file, the grader or the template cannot be used; the sentence is for a person.
    """
    started = time.monotonic()
    inputs = context.input
    splits = [read_split(row) for row in inputs["splits"]]
    parts = harness_parts(inputs)
    from tools.models.load import load_tokenizer

    tokenizer = load_tokenizer(Path(inputs["model"]))
    wanted = frozenset(inputs.get("parts") or PARTS)
    result = _grades(context, splits, tokenizer) if "grades" in wanted else {}
    if "tokens" in wanted:
        result["budget"] = _budgets(context, splits, tokenizer)
        tell_phase("counting the tokens of the rows")
    if "tokens" in wanted and (inputs.get("data") or {}).get("train"):
        train = source_of(inputs, inputs["data"]["train"])
        result["train"] = token_census(rendered_rows(train, tokenizer), tokenizer, int(inputs["max_seq_length"]))
        stock = StockRows(tokenizer, masks_prompt=False, system=inputs.get("system"))
        stock.render(islice(iter_data(train.path), _HELD_ROWS))
        result["rendered"] = stock.told()
        # Read again rather than held: 200,000 rows as Python's own objects take half a gigabyte.
        if inputs.get("group_by"):
            result["train"]["groups"] = count_groups((row.data for row in iter_data(train.path)), inputs["group_by"])
        parity = prompt_parity(iter_data(train.path), splits, tokenizer, inputs.get("system"))
        result["prompt_parity"] = without_words(parity) if context.is_private else parity
    if "tokens" in wanted and (pairs := (inputs.get("data") or {}).get("pairs")):
        result["pairs"] = pair_census(
            rendered_pairs(source_of(inputs, pairs), tokenizer), inputs.get("pair_seq_length")
        )
    if "tokens" in wanted and (rollouts := (inputs.get("data") or {}).get("rollouts")):
        result["rollouts"] = {"rows": sum(1 for _ in iter_split(Path(rollouts)))}
    harness = {"harness": harness_hash(parts), "harness_parts": parts}
    context.finish({**result, **harness, "wall_s": time.monotonic() - started})


def _budgets(context: WorkerContext, splits: list[Split], tokenizer: Any) -> dict[str, Any]:
    """Return what the golds of each split need, in tokens."""
    limit, system = int(context.input["max_tokens"]), context.input.get("system")
    censuses = [SplitCensus(split, tokenizer, None, limit, system) for split in splits]
    return {census.split.key: census.budget() for census in censuses if census.has_golds}


def _grades(context: WorkerContext, splits: list[Split], tokenizer: Any) -> dict[str, Any]:
    """Grade each split's golds, empty answers and echoes.

    Leaves as stopped when asked to, and starts over next time: it is short.
    """
    inputs = context.input
    result: dict[str, Any] = {name: {} for name in ("ceiling", "floor", "echo", "budget_for", "bad_outputs")}
    no_reference, errors, other_errors, varies = [], [], [], []
    done = 0
    with Grader(GraderSpec.model_validate(inputs["grader"])) as grader:
        for split in splits:
            if context.should_stop:
                context.leave_stopped()
            if not done:
                tell_phase(f"grading reference answers and bad ones, of {len(split.cases):,} cases first")
            census = SplitCensus(split, tokenizer, grader, int(inputs["max_tokens"]), inputs.get("system"))
            if census.has_golds:
                result["ceiling"][split.key] = census.ceiling()
                result["budget_for"][split.key] = census.budget_curve()
                result["bad_outputs"][split.key] = census.bad_outputs()
            else:
                no_reference.append(split.key)
            result["floor"][split.key] = census.floor()
            result["echo"][split.key] = census.echo()
            varies += census.varies()
            # Without golds the other answers are all that can show a broken grader.
            errors += census.errors if census.has_golds else census.other_errors
            other_errors += census.other_errors if census.has_golds else []
            done += len(split.cases)
            context.emit({"step": done, "split": split.key})
    kept = {"errors": errors[:_MOST_REPORTED], "varies": varies[:_MOST_REPORTED]}
    return {
        **result,
        "no_reference": no_reference,
        "grader": {**kept, "n_errors": len(errors), "other_errors": other_errors[:_MOST_REPORTED]},
    }


def main(argv: list[str]) -> int:
    """Run the job of one folder; return the exit status."""
    return run_job(take_census, argv[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
