"""What only a tokenizer can tell: do training rows fit (P8), do prompts agree (P7), do answers fit (P1).

The tokenizer runs in a child process (tools/evaluation/audit.py). Without one, P7 compares system texts alone, and what
it cannot settle is told as not checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from state.records import Json
from tools.machine.sandbox import ask
from tools.probes.audit.configs import TrainingConfig
from tools.probes.audit.data import DataSet
from tools.probes.audit.evaluations import Stated
from tools.probes.audit.reading import shown
from tools.probes.audit.recipes import sequence_length
from tools.probes.audit.report import Report
from tools.probes.audit.rows import DataFile

MODULE = "tools.evaluation.audit"
_MOST_SHARE_CUT = 0.01
"""More rows than this share cut at max_seq_length stop; fewer are a warning."""
_SHOWN = 160


@dataclass(frozen=True)
class Training:
    """A configuration and the rows it trains on."""

    config: TrainingConfig
    file: DataFile

    @property
    def name(self) -> str:
        """Its file in the project."""
        return self.config.project.name(self.file.path)


@dataclass(frozen=True)
class Counted:
    """What a tokenizer said; empty where none was asked."""

    trainings: list[Json] = field(default_factory=list)
    evaluations: list[Json] = field(default_factory=list)
    why: str = ""
    """Why it said nothing; empty where nobody asked or all was answered."""
    is_asked: bool = False


def trainings_of(configs: Sequence[TrainingConfig], sets: Sequence[DataSet]) -> list[Training]:
    """Return the configurations that train on rows of the project."""
    by_folder = {one.folder: one for one in sets}
    found = []
    for config in configs:
        data = by_folder.get(config.data) if config.data is not None else None
        train = data.files.get("train") if data is not None else None
        if train is not None and train.scan.rows and config.trains:
            found.append(Training(config, train))
    return found


def count(
    model: Path | None, trainings: Sequence[Training], sets: Sequence[DataSet], stated: Sequence[Stated]
) -> Counted:
    """Ask the model's tokenizer.

    Args:
        model: Its folder; None asks nothing.
        trainings: Whose rows are counted.
        sets: Whose prompts evaluations are compared with, where no configuration trains.
        stated: Whose answers are counted and prompts compared.
    """
    asked = [one for one in stated if one.golds]
    if model is None or not (trainings or asked):
        return Counted()
    request = {
        "model": str(model),
        "trainings": [{**named_file(one.file), "max_seq_length": sequence_length(one.config)} for one in trainings],
        "taught": [named_file(file) for file in taught_by(trainings, sets)],
        "evaluations": [
            {
                "file": str(one.path),
                "gold_field": one.evaluation.gold_field,
                "system": one.evaluation.system,
                "max_tokens": one.evaluation.max_tokens,
            }
            for one in asked
        ],
    }
    answer = ask(MODULE, request, "counting")
    if "why" in answer:
        return Counted(why=str(answer["why"]), is_asked=True)
    return Counted(list(answer["trainings"]), list(answer["evaluations"]), is_asked=True)


def named_file(file: DataFile) -> Json:
    """Return a data file as workers are told of it."""
    return {"file": str(file.path), "features": vars(file.features), "bounds": list(file.bounds)}


def taught_by(trainings: Sequence[Training], sets: Sequence[DataSet]) -> list[DataFile]:
    """Return the files whose rows evaluations are compared with."""
    configured = {training.file.path: training.file for training in trainings}
    return list(configured.values()) or [one.files["train"] for one in sets if "train" in one.files]


def check_lengths(trainings: Sequence[Training], counted: Counted, report: Report) -> None:
    """Report rows that training cuts (P8)."""
    if not trainings:
        return
    if not counted.trainings:
        why = (
            f"the tokenizer did not answer: {counted.why}" if counted.is_asked else "rows are counted with --model only"
        )
        report.skip(("P8",), why)
        return
    for training, census in zip(trainings, counted.trainings, strict=True):
        if "why" in census:
            report.skip(("P8",), f"{training.name}: {shown(str(census['why']))[:200]}")
            continue
        report.look("P8")
        if not training.file.is_judged_whole():
            report.skip(("P8",), f"{training.name}: only {training.file.bounds.content} were counted")
        if census["truncated"]:
            _cut(training, census, report)
        if census["without_end"] > census["rows"] / 2:
            _unended(training, census, report)


def _cut(training: Training, census: Json, report: Report) -> None:
    config, limit = training.config, sequence_length(training.config)
    cut, rows, lost = census["truncated"], census["rows"], census["prompt_longer_than_max"]
    is_nothing_left = lost and config.masks_prompt
    prompts = f", {lost:,} of them already in the prompt" if lost else ""
    masked = " With mask_prompt their loss is NaN, and so is the adapter." if is_nothing_left else ""
    report.add(
        "P8",
        config.subject,
        f"{cut:,} of {rows:,} rows of {training.name} are longer than max_seq_length {limit} (longest "
        f"{census['max_tokens']:,} tokens; lines {', '.join(map(str, census['lines'][:3]))}){prompts}: their ends are "
        f"cut, the end token with them.{masked}",
        "hard_stop" if is_nothing_left or cut > _MOST_SHARE_CUT * rows else "warning",
        f"Set max_seq_length to {census['max_tokens']}, or remove these lines.",
        check="truncated",
        rows=rows,
        truncated=cut,
        longest=census["max_tokens"],
        p95=census["p95"],
        max_seq_length=limit,
        prompt_longer_than_max=lost,
        lines=census["lines"],
        **config.where("max_seq_length"),
    )


def _unended(training: Training, census: Json, report: Report) -> None:
    report.add(
        "P8",
        f"data:{training.name}",
        f"{census['without_end']:,} of {census['rows']:,} rows of {training.name} end without the model's end token "
        "under its template: the model is not taught to stop.",
        "warning",
        "Use a template that closes the assistant's turn with the end token, or add that token to the model's own.",
        check="without_end",
        rows=census["rows"],
        without_end=census["without_end"],
        file=training.name,
        line=1,
    )


def check_prompts(
    trainings: Sequence[Training], sets: Sequence[DataSet], stated: Sequence[Stated], counted: Counted, report: Report
) -> None:
    """Report evaluations that ask otherwise than training taught (P7)."""
    asked = [one for one in stated if one.golds]
    if counted.evaluations:
        for one, row in zip(asked, counted.evaluations, strict=True):
            parity = row.get("parity")
            if parity:
                report.look("P7")
                if not parity["ok"]:
                    _differ(one, parity["train_prefix"], parity["eval_prefix"], report)
            elif trainings or sets:
                why = shown(str(row.get("why", "no prompts to compare")))[:200]
                report.skip(("P7",), f"{one.subject}: {why}")
        return
    taught = _systems(taught_by(trainings, sets))
    if not asked or taught is None:
        return
    for one in asked:
        _check_system(one, taught, report)
    why = (
        f"the tokenizer did not answer: {counted.why}"
        if counted.is_asked
        else "templates are rendered with --model only"
    )
    report.skip(("P7",), why)


def _systems(files: Sequence[DataFile]) -> dict[str | None, None] | None:
    """Return the system texts of training rows, None among them; None where rows bring their own template."""
    found: dict[str | None, None] = {}
    for file in files:
        if file.scan.form == "text":
            return None
        found |= dict.fromkeys(row.system or None for row in file.rows())
    return found or None


def _check_system(one: Stated, taught: dict[str | None, None], report: Report) -> None:
    """Hold the system texts of an evaluation against those of training; the first that was never taught is told."""
    for gold in one.golds:
        messages = gold.data.get("messages")
        first = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], dict) else {}
        own = first.get("content") if first.get("role") == "system" else gold.data.get("system")
        system = (own if isinstance(own, str) else None) or one.evaluation.system or None
        if system not in taught:
            known = next(iter(taught))
            _differ(one, _named(known), _named(system), report)
            return


def _named(system: str | None) -> str:
    return f"the system text {shown(system)!r}" if system else "no system text"


def _differ(one: Stated, taught: str, asked: str, report: Report) -> None:
    """Report two ways to ask; where the file does not say whether evaluation puts a system text, it is a warning."""
    is_stated = one.evaluation.system is not None
    report.look("P7")
    report.add(
        "P7",
        one.subject,
        f"{one.evaluation.name} asks in another way than training taught: training has {shown(taught)[:_SHOWN]}, "
        f"evaluation {shown(asked)[:_SHOWN]}.",
        "hard_stop" if is_stated else "warning",
        "Use one system text and one form of message for both."
        if is_stated
        else "State the evaluation's `system` in vigil-audit.yaml (an empty text for none), and use one for both.",
        check="prompts",
        train_prefix=shown(taught)[:_SHOWN],
        eval_prefix=shown(asked)[:_SHOWN],
        **one.where("system"),
    )
