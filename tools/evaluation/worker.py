"""The evaluation worker: `python -m tools.evaluation.worker JOB`; generates, grades, and stores every case.

Resumable: a case whose row is in out/cases.jsonl is not generated again, unless the harness changed in between.
The rows are `{"split", "use", "case", "prompt_tokens", "output_tokens", "finish_reason", "characters", "text",
"metrics", "grader_error"}`, the text empty where it is private; result.json holds identities, means and speed.
"""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state.errors import ConfigError, VigilError
from state.files import read_json, read_jsonl, write_atomic, write_json
from tools.evaluation.cases import Split, read_split
from tools.evaluation.generation import Decoding, Generation, Prompt, generate
from tools.evaluation.harness import harness_hash, harness_parts
from tools.evaluation.prompts import render_prompt
from tools.jobs.worker import WorkerContext, begin
from tools.models.identity import weights_hash
from tools.tracks.contract import GraderSpec
from tools.tracks.host import Grader

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
    """

    def __init__(self, out: Path, harness: str, splits: Iterable[Split]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._path = out / "cases.jsonl"
        self._order = [(split.name, split.use, str(case["id"])) for split in splits for case in split.cases]
        marker = out / "harness.json"
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


def evaluate(context: WorkerContext) -> None:
    """Do the whole job.

    Raises:
        VigilError: The input cannot be evaluated; the sentence is for a person.
    """
    started = time.monotonic()
    inputs = context.input
    weights = _checked_weights(inputs)
    splits = [read_split(row) for row in inputs["splits"]]
    parts = harness_parts(inputs)
    file = CaseFile(context.folder.out, harness_hash(parts), splits)
    pace = _Pace(time.monotonic())
    todo = [(split, case) for split in splits for case in split.cases if _case_key(split, case) not in file.rows]
    peak_memory_gb = None
    if todo:
        peak_memory_gb = _run(context, file, todo, pace)
    rows = file.seal()
    context.finish(
        {
            "weights": weights,
            "harness": harness_hash(parts),
            "harness_parts": parts,
            "cases": len(rows),
            "means": means(rows),
            "cut": _cut(rows),
            "ungraded": sum(bool(row["grader_error"]) for row in rows),
            "tokens_per_s": pace.tokens_per_s,
            "peak_memory_gb": peak_memory_gb,
            "wall_s": time.monotonic() - started,
        }
    )


def _case_key(split: Split, case: dict[str, Any]) -> _Key:
    return split.name, split.use, str(case["id"])


def _checked_weights(inputs: dict[str, Any]) -> str:
    """Return the hash of the weights about to generate.

    Raises:
        ConfigError: They are not the ones that the decision was made about (failure mode P2).
    """
    found = weights_hash(inputs["model"], inputs.get("adapter"))
    expected = inputs.get("expect_weights")
    if expected and expected != found:
        adapter = f" with adapter {inputs['adapter']}" if inputs.get("adapter") else ""
        raise ConfigError(
            f"The weights in {inputs['model']}{adapter} are {found[:12]}, but {expected[:12]} were to be evaluated:"
            " the model folder or the adapter changed since; restore them, or start a new campaign on the new ones.",
            what="weights",
            value=found,
            limit=expected,
            where=str(inputs["model"]),
        )
    return found


def _run(context: WorkerContext, file: CaseFile, todo: list[tuple[Split, dict[str, Any]]], pace: _Pace) -> float:
    """Generate and grade what is missing; return peak memory, GB.

    Side effects: leaves the process as stopped when a stop is asked for; finished cases are kept.
    """
    inputs = context.input
    batch_size = int(inputs.get("batch_size") or 16)
    with Grader(GraderSpec.model_validate(inputs["grader"])) as grader:
        import mlx.core as mx

        from tools.models.load import load_model

        adapter = Path(inputs["adapter"]) if inputs.get("adapter") else None
        model, tokenizer = load_model(Path(inputs["model"]), adapter, inputs.get("dtype"))
        system = inputs.get("system")
        named = {"/".join(_case_key(split, case)): (split, case) for split, case in todo}
        prompts = {name: render_prompt(tokenizer, case, system) for name, (_, case) in named.items()}
        pace.started = time.monotonic()
        outputs = generate(
            model,
            tokenizer,
            [Prompt(name, tokens) for name, tokens in prompts.items()],
            Decoding(int(inputs["max_tokens"]), float(inputs.get("temperature") or 0.0), int(inputs.get("seed") or 0)),
            batch_size=batch_size,
            should_stop=lambda: context.should_stop,
        )
        for group in _groups(outputs, max(1, batch_size // 2)):
            file.add(_graded(grader, group, named, prompts, is_private=context.is_private))
            pace.output_tokens += sum(output.output_tokens for output in group)
            pace.cut += sum(output.finish_reason == "length" for output in group)
            context.emit(
                {
                    "step": len(file.rows),
                    "tokens_per_s": pace.tokens_per_s,
                    "cut": pace.cut,
                    "peak_memory_gb": mx.get_peak_memory() / 1e9,
                }
            )
        peak_memory_gb = float(mx.get_peak_memory() / 1e9)
    if context.should_stop:
        context.leave_stopped()
    return peak_memory_gb


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
        where: {name: sum(found) / len(found) if found else None for name, found in metrics.items()}
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
    # Before any import of the hub's client: a night makes no network request.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    context = begin(argv[0])
    try:
        evaluate(context)
    except VigilError as error:
        context.fail(error.sentence, what=error.what, where=error.where)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
