"""The evaluation worker: `python -m tools.evaluation.worker JOB`; generates, grades, and stores every case.

Resumable: a case whose row is in out/cases.jsonl is not generated again, unless the harness changed in between.
The rows are `{"split", "use", "case", "prompt_tokens", "output_tokens", "finish_reason", "characters", "text",
"metrics", "grader_error"}`, the text empty where it is private; result.json holds identities, means and speed.

`form` says how an adapter is used: `apart` and `fused` as the two exports have it, else in the weights where that is
quicker and the same on average. `other_form` names the form that the same cases are answered in once more, and
`orders` how often more, the first `repeated` of each split, in other orders: half precision rounds otherwise beside
other rows. What that moves is told in the result, and the rows are left in files of their own.
"""

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.files import read_json, read_jsonl, write_atomic, write_json
from tools.data.cases import iter_split
from tools.evaluation.generation import Decoding, Generation, Prompt, generate
from tools.evaluation.harness import harness_hash, harness_parts
from tools.evaluation.prompts import render_prompt
from tools.graders.contract import GraderSpec
from tools.graders.host import Grader
from tools.jobs.worker import WorkerContext, run_job, tell_phase
from tools.models.identity import expected_weights


@dataclass(frozen=True)
class Split:
    """The cases of one split for one use."""

    name: str
    use: str
    cases: tuple[dict[str, Any], ...]

    @property
    def key(self) -> str:
        """`split.use`, the name of its scores."""
        return f"{self.name}.{self.use}"


def read_split(spec: dict[str, Any]) -> Split:
    """Read the cases of one split row `{"name", "use", "file", "case_ids"}`.

    Raises:
        ConfigError: As `iter_split`; or a wanted case is not in the file.
    """
    path = Path(spec["file"])
    by_id = {str(case["id"]): case for case in iter_split(path)}
    wanted = by_id.keys() if spec.get("case_ids") is None else [str(name) for name in spec["case_ids"]]
    missing = [name for name in wanted if name not in by_id]
    if missing:
        raise ConfigError(
            f"{path} lacks {len(missing)} of the cases to evaluate, first {missing[0]}; the file changed since.",
            what="case_ids",
            value=missing[:5],
            where=str(path),
        )
    return Split(str(spec["name"]), str(spec["use"]), tuple(by_id[name] for name in wanted))


Row = dict[str, Any]
_Key = tuple[str, str, str]


@dataclass
class _Pace:
    """What this process has generated, for rates; cases of an earlier process are not its speed."""

    started: float
    output_tokens: int = 0
    cut: int = 0

    @property
    def tokens_per_s(self) -> float | None:
        elapsed_s = time.monotonic() - self.started
        return self.output_tokens / elapsed_s if self.output_tokens and elapsed_s > 0 else None


class CaseFile:
    """The rows written so far, and the file that keeps them.

    Args:
        out: The job's `out/` folder.
        harness: Fingerprint of this run; rows of another one are dropped.
        splits: The cases wanted, in their final order.
        name: Of the file.
    """

    def __init__(self, out: Path, harness: str, splits: Iterable[Split], name: str = "cases") -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / f"{name}.jsonl"
        self._order = [(split.name, split.use, str(case["id"])) for split in splits for case in split.cases]
        marker = out / ("harness.json" if name == "cases" else f"harness-{name}.json")
        kept = read_jsonl(self._path) if read_json(marker) == harness else []
        wanted = set(self._order)
        self.rows: dict[_Key, Row] = {key: row for row in kept if (key := _row_key(row)) in wanted}
        # Rewritten whole: a row torn by a kill must not swallow the next one.
        self._rewrite()
        write_json(marker, harness)

    def add(self, rows: Iterable[Row]) -> None:
        """Append graded cases."""
        with self._path.open("a", encoding="ascii") as stream:
            for row in rows:
                stream.write(_line(row))
                self.rows[_row_key(row)] = row

    def seal(self) -> list[Row]:
        """Put the rows into their final order on disk, and return them."""
        self._rewrite()
        return [self.rows[key] for key in self._order]

    def _rewrite(self) -> None:
        rows = [self.rows[key] for key in self._order if key in self.rows]
        write_atomic(self._path, "".join(map(_line, rows)))


def _line(row: Row) -> str:
    # All ASCII: a model may write any character, also the ones that readers take for line ends (U+2028, U+0085).
    return json.dumps(row) + "\n"


def _row_key(row: Row) -> _Key:
    return str(row.get("split")), str(row.get("use")), str(row.get("case"))


@dataclass(frozen=True)
class _Pass:
    """One time that cases are answered.

    Args:
        file: Of their rows.
        splits: The cases.
        form: How an adapter is used.
        order: See `Decoding`.
    """

    file: CaseFile
    splits: list[Split]
    form: str
    order: int = 0

    def todo(self) -> list[tuple[Split, dict[str, Any]]]:
        """Return the cases without a row."""
        cases = [(split, case) for split in self.splits for case in split.cases]
        return [(split, case) for split, case in cases if _case_key(split, case) not in self.file.rows]


def evaluate(context: WorkerContext) -> None:
    """Do the whole job.

    Raises:
        VigilError: The input cannot be evaluated; the sentence is for a person.
    """
    started = time.monotonic()
    inputs, out = context.input, context.folder.out
    weights = expected_weights(inputs, inputs.get("adapter"), "evaluated")
    splits = [read_split(row) for row in inputs["splits"]]
    parts = harness_parts(inputs)
    harness = harness_hash(parts)
    form, other = str(inputs.get("form") or ""), str(inputs.get("other_form") or "")
    passes = [_Pass(CaseFile(out, harness, splits), splits, form)]
    repeated = [_first(split, int(inputs.get("repeated") or len(split.cases))) for split in splits]
    passes += [
        _Pass(CaseFile(out, harness, repeated, f"order{order}"), repeated, form, order)
        for order in range(1, int(inputs.get("orders") or 0) + 1)
    ]
    if other:
        passes.append(_Pass(CaseFile(out, harness, splits, other), splits, other))
    pace = _Pace(time.monotonic())
    run = _Run(context, pace, [each.file for each in passes])
    for each in passes:
        run.answer(each, is_needed=each.form == form)
    rows, *more = [each.file.seal() for each in passes if each.form not in run.skipped]
    others = more.pop() if other and other not in run.skipped else None
    context.finish(
        {
            "weights": weights,
            "harness": harness,
            "harness_parts": parts,
            "cases": len(rows),
            "means": means(rows),
            "cut": _cut(rows),
            "ungraded": sum(bool(row["grader_error"]) for row in rows),
            "form": run.form,
            **({"noise": noise([rows, *more])} if more else {}),
            **({"other_form": {"form": other, **moved(rows, others)}} if others else {}),
            **({"other_form": {"form": other, "skipped": run.skipped[other]}} if other in run.skipped else {}),
            "tokens_per_s": pace.tokens_per_s,
            "startup_s": run.startup_s,
            "peak_memory_gb": run.peak_memory_gb,
            "wall_s": time.monotonic() - started,
        }
    )


def _first(split: Split, n: int) -> Split:
    return Split(split.name, split.use, split.cases[:n])


def noise(passes: list[list[Row]]) -> dict[str, Any]:
    """Return how much the order of the cases alone moves a mean: the same weights, at least three other orders.

    Args:
        passes: Rows of the same cases; the first may have more.

    Returns:
        `orders`, how many there were; `cases` by split; `differ`, share of the cases that are not answered alike in
        all; `noise_sd` by `split.metric`: standard deviation of the difference of two means over those cases, estimated
        from all pairs of orders.
    """
    known = set(map(_row_key, passes[-1]))
    passes = [[row for row in rows if _row_key(row) in known] for rows in passes]
    moments = [means(rows) for rows in passes]
    spread: dict[str, float] = {}
    for where in moments[0]:
        for metric in moments[0][where]:
            values = [mean for each in moments if (mean := each[where].get(metric)) is not None]
            gaps = [(one - other) ** 2 for one, other in combinations(values, 2)]
            if gaps:
                spread[f"{where.partition('.')[0]}.{metric}"] = math.sqrt(sum(gaps) / len(gaps))
    texts = list(zip(*([row["metrics"] | {"": row["characters"]} for row in rows] for rows in passes), strict=True))
    return {
        "orders": len(passes),
        "cases": dict(Counter(row["split"] for row in passes[0])),
        "differ": sum(any(each != same[0] for each in same) for same in texts) / max(1, len(texts)),
        "noise_sd": spread,
    }


def moved(rows: list[Row], others: list[Row]) -> dict[str, Any]:
    """Return how the same cases in another form differ: `differ`, the share not answered alike, and `mean_change`."""
    ours, theirs = means(rows), means(others)
    pairs = list(zip(rows, others, strict=True))
    same = sum(
        (one["characters"], one["output_tokens"], one["metrics"], one["text"])
        == (other["characters"], other["output_tokens"], other["metrics"], other["text"])
        for one, other in pairs
    )
    return {
        "cases": len(pairs),
        "differ": 1 - same / max(1, len(pairs)),
        "mean_change": {
            f"{where.partition('.')[0]}.{metric}": other - mean
            for where, known in ours.items()
            for metric, mean in known.items()
            if mean is not None and (other := theirs[where].get(metric)) is not None
        },
    }


def _case_key(split: Split, case: dict[str, Any]) -> _Key:
    return split.name, split.use, str(case["id"])


class _Run:
    """What this process loads and answers; nothing is loaded where all rows are there.

    Args:
        context: Of the job.
        pace: For rates.
        files: Of all rows.
    """

    def __init__(self, context: WorkerContext, pace: _Pace, files: list[CaseFile]) -> None:
        self._context = context
        self._pace = pace
        self._files = files
        self._loaded: tuple[Any, Any] | None = None
        self.form = ""
        """How the adapter was used for what is judged."""
        self.startup_s: float | None = None
        """From the start of the process to the first token asked for, seconds."""
        self.peak_memory_gb: float | None = None
        self.skipped: dict[str, str] = {}
        """Form that this machine has no room for -> why."""

    def answer(self, wanted: _Pass, *, is_needed: bool) -> None:
        """Generate and grade what is missing.

        Args:
            wanted: What.
            is_needed: Whether it is what is judged; else a form without room is skipped.

        Side effects: leaves the process as stopped when a stop is asked for; finished cases are kept.

        Raises:
            ConfigError: There is no room for the form that is judged.
        """
        todo = wanted.todo()
        if not todo:
            return
        context, inputs = self._context, self._context.input
        batch_size = int(inputs.get("batch_size") or 16)
        with Grader(GraderSpec.model_validate(inputs["grader"])) as grader:
            import mlx.core as mx

            from tools.evaluation.adapters import no_room, used_as

            tell_phase("loading the model")
            model, tokenizer = self._model()
            if why := no_room(model, wanted.form):
                if is_needed:
                    raise ConfigError(
                        f"The adapter cannot be judged as the export hands it out: {why}. Set export.fused: false to "
                        "hand it out beside its base, or use a machine with more memory.",
                        what="export.fused",
                        where=str(inputs.get("adapter")),
                    )
                self.skipped[wanted.form] = why
                return
            system = inputs.get("system")
            named = {"/".join(_case_key(split, case)): (split, case) for split, case in todo}
            tell_phase(f"reading {len(todo):,} prompts")
            prompts = {name: render_prompt(tokenizer, case, system) for name, (_, case) in named.items()}
            with used_as(model, wanted.form) as form:
                self.form = self.form or form
                if self.startup_s is None:
                    self.startup_s = context.age_s
                    self._pace.started = time.monotonic()
                tell_phase(f"first answers, to {min(batch_size, len(todo)):,} of {len(todo):,} prompts at a time")
                outputs = generate(
                    model,
                    tokenizer,
                    [Prompt(name, prompts[name], _expected(tokenizer, case)) for name, (_, case) in named.items()],
                    Decoding(
                        int(inputs["max_tokens"]),
                        float(inputs.get("temperature") or 0.0),
                        int(inputs.get("seed") or 0),
                        wanted.order,
                    ),
                    batch_size=batch_size,
                    should_stop=lambda: context.should_stop,
                )
                for group in _groups(outputs, max(1, batch_size // 2)):
                    wanted.file.add(_graded(grader, group, named, prompts, is_private=context.is_private))
                    self._report(group)
            self.peak_memory_gb = float(mx.get_peak_memory() / 1e9)
        if context.should_stop:
            context.leave_stopped()

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            from tools.models.load import load_model

            inputs = self._context.input
            adapter = Path(inputs["adapter"]) if inputs.get("adapter") else None
            self._loaded = load_model(Path(inputs["model"]), adapter, inputs.get("dtype"))
        return self._loaded

    def _report(self, group: list[Generation]) -> None:
        import mlx.core as mx

        pace = self._pace
        pace.output_tokens += sum(output.output_tokens for output in group)
        pace.cut += sum(output.finish_reason == "length" for output in group)
        self._context.emit(
            {
                "step": sum(len(file.rows) for file in self._files),
                "tokens_per_s": pace.tokens_per_s,
                "cut": pace.cut,
                "peak_memory_gb": mx.get_peak_memory() / 1e9,
            }
        )


def _expected(tokenizer: Any, case: dict[str, Any]) -> int:
    """Return how long an answer is expected to be; 0 where the case has no reference."""
    reference = case.get("reference")
    return len(tokenizer.encode(reference)) if isinstance(reference, str) else 0


def _groups(outputs: Iterator[Generation], size: int) -> Iterator[list[Generation]]:
    """Yield outputs in groups: a kill loses at most one group, and the grader is not asked one by one."""
    group: list[Generation] = []
    for output in outputs:
        group.append(output)
        if len(group) >= size:
            yield group
            group = []
    if group:
        yield group


def _graded(
    grader: Grader,
    group: list[Generation],
    named: dict[str, tuple[Split, dict[str, Any]]],
    prompts: dict[str, list[int]],
    *,
    is_private: bool,
) -> list[Row]:
    grades = grader.grade((named[output.name][1], output.text, output.finish_reason) for output in group)
    return [
        {
            "split": named[output.name][0].name,
            "use": named[output.name][0].use,
            "case": str(named[output.name][1]["id"]),
            "prompt_tokens": len(prompts[output.name]),
            "output_tokens": output.output_tokens,
            "finish_reason": output.finish_reason,
            "characters": len(output.text),
            "text": "" if is_private else output.text,
            "metrics": grade.metrics,
            "grader_error": grade.error,
        }
        for output, grade in zip(group, grades, strict=True)
    ]


def means(rows: Iterable[Row]) -> dict[str, dict[str, float | None]]:
    """Return the mean of each metric by `split.use`; a case without a value does not count, and never as zero."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        place = values.setdefault(f"{row['split']}.{row['use']}", {})
        for name, value in row["metrics"].items():
            place.setdefault(name, [])
            if value is not None:
                place[name].append(value)
    return {
        where: {name: sum(scores) / len(scores) if scores else None for name, scores in metrics.items()}
        for where, metrics in values.items()
    }


def _cut(rows: Iterable[Row]) -> dict[str, int]:
    """Return by `split.use` how many outputs the decode budget cut."""
    counts: dict[str, int] = {}
    for row in rows:
        where = f"{row['split']}.{row['use']}"
        counts[where] = counts.get(where, 0) + (row["finish_reason"] == "length")
    return counts


def main(argv: list[str]) -> int:
    """Run the job of one folder; return the exit status."""
    return run_job(evaluate, argv[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
