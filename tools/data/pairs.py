"""Preference pairs, built: `prompt`, `chosen` and `rejected`, one object per line.

    python -m tools.data.pairs --cases data/rollouts.jsonl --outputs JOB/out/rollouts.jsonl --metric rows_kept
        --out data/pairs.jsonl

Pairs are built from a model's own graded outputs: best against worst, or the reference against what was wrong. The
outputs are rows of evaluation's `cases.jsonl` on *training* prompts (`training_cases`), or the completion log of a run
of rollouts; never outputs on the splits that judge. Pairs are held to the artefact check before they are written: a
difference beside the point would be all that a preference loss learns. No token is counted here; that needs the model's
tokenizer, in a worker.
"""

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from state.errors import ConfigError, HardStop, VigilError
from state.files import read_jsonl, write_atomic
from state.records import Finding, Json
from tools.data.cases import case_messages, iter_data, iter_split, user_prompt

Source = Literal["best_worst", "reference"]
"""best_worst: two outputs for one prompt, graded apart. reference: the case's own answer against a wrong output."""

_RUNBOOK = "runbooks/hard_stops.md"


@dataclass(frozen=True)
class Built:
    """Pairs, and what became of the prompts that gave none.

    Args:
        pairs: Rows of a pairs file, each with the case's `id` and the `margin` between its scores.
        left_out: Reason -> number of prompts.
        findings: What the artefact check says, hard stops first.
    """

    pairs: list[Json]
    left_out: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def training_cases(path: Path) -> Iterator[Json]:
    """Yield the rows of a training file as cases to generate for, named after their lines.

    Raises:
        ConfigError: As `iter_data`; or a row has no prompt, so that nothing can be asked.
    """
    for row in iter_data(path):
        messages = row.messages
        if len(messages) < 2 or not isinstance(messages[-1].get("content"), str):  # noqa: PLR2004 - prompt and answer
            what = "text in its answer" if len(messages) > 1 else "prompt with an answer"
            raise ConfigError(
                f"{path}:{row.line}: the row has no {what}, so no pair can be built from it.",
                what="data",
                where=f"{path}:{row.line}",
            )
        case: Json = {"id": f"line-{row.line}", "messages": messages[:-1]}
        yield case | {"reference": row.answer} | _tools(row.data)


def _tools(row: Mapping[str, Any]) -> Json:
    return {"tools": row["tools"]} if row.get("tools") is not None else {}


def build_pairs(
    cases: Iterable[Mapping[str, Any]],
    outputs: Iterable[Mapping[str, Any]],
    *,
    metric: str,
    source: Source,
    least_margin: float,
    reference_score: float = 1.0,
) -> Built:
    """Return at most one pair per case, in the order of the cases.

    Outputs that the decode budget cut take no part: as an answer they would be taught with an end they never had.

    Args:
        cases: With `id`, a prompt, and `reference` where the source is that.
        outputs: With `case`, `text`, `finish_reason` and `metrics`; several runs over the same cases may follow each
            other, which is how one prompt gets several outputs.
        metric: What tells better from worse; more is better.
        source: Where the chosen side comes from.
        least_margin: Scores this close or closer give no pair, above or equal 0.
        reference_score: The metric of a reference answer: its measured ceiling.
    """
    from tools.probes.pairs import check_pairs

    by_case: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for output in outputs:
        by_case[str(output["case"])].append(output)
    left_out: Counter[str] = Counter()
    pairs: list[Json] = []
    texts: list[tuple[str, str, str]] = []
    for case in cases:
        usable, reason = _graded(by_case[str(case["id"])], metric)
        sides = [(score, text) for text, score in usable]
        if source == "reference" and sides:
            if not case.get("reference"):
                left_out["no reference"] += 1
                continue
            sides.append((reference_score, str(case["reference"])))
        if len(sides) < 2:  # noqa: PLR2004 - a pair has two
            left_out[reason] += 1
            continue
        # The last of equals is the reference, which is the chosen side whatever an output scored.
        better = sides[-1] if source == "reference" else max(sides, key=_score)
        worse = min(sides[:-1] if source == "reference" else sides, key=_score)
        margin = better[0] - worse[0]
        if margin <= least_margin or better[1] == worse[1]:
            left_out["too close"] += 1
            continue
        pairs.append(
            {
                "prompt": case_messages(case),
                "chosen": better[1],
                "rejected": worse[1],
                "id": str(case["id"]),
                "margin": margin,
                **_tools(case),
            }
        )
        texts.append((user_prompt(case), better[1], worse[1]))
    return Built(pairs, dict(left_out), check_pairs(texts))


def _score(side: tuple[float, str]) -> float:
    return side[0]


def _graded(outputs: Iterable[Mapping[str, Any]], metric: str) -> tuple[list[tuple[str, float]], str]:
    """Return the outputs that can stand in a pair with their scores, and why others cannot."""
    found, reason = [], "too few outputs"
    for output in outputs:
        score = output["metrics"].get(metric)
        if output["finish_reason"] != "stop":
            reason = "cut by the decode budget"
        elif score is None:
            reason = "not graded"
        else:
            found.append((str(output["text"]), float(score)))
    return found, reason


def pairs_text(built: Built) -> str:
    """Return what a pairs file holds.

    Raises:
        ConfigError: There is no pair.
        HardStop: Something beside the point tells chosen from rejected (failure modes 7 and P3).
    """
    if not built.pairs:
        why = ", ".join(f"{count} {reason}" for reason, count in built.left_out.items()) or "there was no case"
        raise ConfigError(
            f"No pair could be built ({why}); ask for more outputs per prompt, a larger decode budget, or a smaller "
            "margin.",
            what="pairs",
            value=built.left_out,
        )
    worst = built.findings[0] if built.findings else None
    if worst is not None and worst.severity == "hard_stop":
        raise HardStop(
            "The built pairs teach the difference that is meant.",
            evidence=worst.sentence,
            fix=worst.fix,
            runbook=_RUNBOOK,
        )
    # All ASCII: a model may write any character, also the ones that readers take for line ends.
    return "".join(json.dumps(pair) + "\n" for pair in built.pairs)


def write_pairs(path: Path, built: Built) -> None:
    """Write a pairs file, whole or not at all.

    Raises:
        ConfigError: As `pairs_text`.
        HardStop: As `pairs_text`.
    """
    write_atomic(path, pairs_text(built))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.data.pairs", description=__doc__)
    cases = parser.add_mutually_exclusive_group(required=True)
    cases.add_argument("--cases", type=Path, help="what was answered, in the form of evaluation cases")
    cases.add_argument("--train", type=Path, help="what was answered, as training rows; their answers are references")
    parser.add_argument("--outputs", type=Path, nargs="+", required=True, help="graded outputs, JSON lines")
    parser.add_argument("--metric", required=True, help="what tells better from worse; more is better")
    parser.add_argument("--source", choices=get_args(Source), default="best_worst")
    parser.add_argument("--least-margin", type=float, default=0.1, help="scores this close give no pair")
    parser.add_argument("--reference-score", type=float, default=1.0, help="the metric of a reference answer")
    parser.add_argument("--out", type=Path, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Write a pairs file and say what became of the prompts; return the exit code."""
    asked = _parser().parse_args(argv)
    try:
        built = build_pairs(
            iter_split(asked.cases) if asked.cases else training_cases(asked.train),
            [row for path in asked.outputs for row in read_jsonl(path)],
            metric=asked.metric,
            source=asked.source,
            least_margin=asked.least_margin,
            reference_score=asked.reference_score,
        )
        write_pairs(asked.out, built)
    except VigilError as error:
        sys.stderr.write(f"{error.sentence}\n")
        return error.exit_code
    left_out = "".join(f"; {count} {reason}" for reason, count in built.left_out.items())
    sys.stdout.write(f"{len(built.pairs)} pairs in {asked.out}{left_out}.\n")
    sys.stdout.writelines(f"{finding.severity}: {finding.sentence}\n" for finding in built.findings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
