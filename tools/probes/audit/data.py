"""Data files of a project: can they be read (8), and what do they teach (5, 7, P3, P11).

What the rows say is judged by `tools/probes/rows`, as in a campaign. No text of a row goes into a finding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from state.records import EXAMPLES, Finding, Severity
from tools.models.headers import NOT_FETCHED
from tools.probes.audit.configs import TrainingConfig
from tools.probes.audit.discovery import Project
from tools.probes.audit.evaluations import Stated
from tools.probes.audit.report import Report
from tools.probes.audit.rows import WHOLE, Bounds, DataFile, Features, Row, answer_text, text_of

SPLITS = ("train", "valid", "test")
_FORMS = (
    "Write each row as prompt and completion, as messages, or as text; or name the columns in the configuration "
    "(prompt_feature, completion_feature)."
)
_MOST_FOLDERS = 60
"""Data folders whose content is judged."""


@dataclass
class DataSet:
    """One data folder: its files by split, read with the column names of the configurations that use it."""

    folder: Path
    files: dict[str, DataFile] = field(default_factory=dict)

    @cached_property
    def conversations(self) -> list[tuple[str, str]]:
        """(what the user says last, the answer) of the training rows that have both."""
        train = self.files.get("train")
        rows = train.rows() if train is not None else ()
        return [(row.prompt, row.answer) for row in rows if row.answer is not None and row.form != "text"]

    @cached_property
    def is_pairs(self) -> bool:
        """Whether it holds preference pairs."""
        train = self.files.get("train")
        return train is not None and train.scan.form == "pairs"


def data_sets(project: Project, configs: Sequence[TrainingConfig], bounds: Bounds) -> list[DataSet]:
    """Return the data folders of a project, those that configurations name among them."""
    features = {config.data: config.features for config in configs if config.data is not None}
    found = []
    for folder in dict.fromkeys([*project.data_folders, *features]):
        here = project.by_folder.get(folder, {})
        files = {
            name: DataFile(here[f"{name}.jsonl"], features.get(folder, Features()), bounds)
            for name in SPLITS
            if f"{name}.jsonl" in here
        }
        if files:
            found.append(DataSet(folder, files))
    return found


def other_rows(project: Project, sets: Sequence[DataSet], stated: Sequence[Stated], bounds: Bounds) -> list[DataFile]:
    """Return the files of JSON lines that are neither in a data folder nor an evaluation's."""
    known = {file.path for one in sets for file in one.files.values()} | {one.path for one in stated}
    return [DataFile(path, bounds=bounds) for path in project.with_suffix(".jsonl") if path not in known]


def check_readable(project: Project, sets: Sequence[DataSet], others: Sequence[DataFile], report: Report) -> None:
    """Report lines that a trainer would stop at."""
    for one in sets:
        for file in one.files.values():
            report.look("8")
            _check_file(project, file, report)
    for file in others:
        if file.scan.is_binary or (file.scan.n_fatal and file.scan.form != "other"):
            _check_file(project, file, report, is_trained_on=False)


def _check_file(project: Project, file: DataFile, report: Report, *, is_trained_on: bool = True) -> None:
    name, scan = project.name(file.path), file.scan
    subject = f"data:{name}"
    severity: Severity = "hard_stop" if is_trained_on else "warning"
    if scan.unread == NOT_FETCHED:
        report.skip(("5", "7", "8", "P3", "P8", "P11"), f"{name}: {NOT_FETCHED}")
        return
    if scan.is_binary or (scan.unread and not scan.rows):
        report.add(
            "8",
            subject,
            f"{name} cannot be read as JSON lines: {scan.unread}.",
            severity,
            "Write it again as UTF-8 text, one JSON object a line, or give it another name.",
            check="data_binary" if scan.is_binary else "data_unread",
            file=name,
            line=1,
        )
        return
    if scan.unread or scan.rest:
        report.skip(("5", "7", "8", "P3", "P8", "P11"), f"{name}: {scan.unread or scan.rest}")
    if is_trained_on and not scan.rows and not scan.n_fatal:
        report.add(
            "8",
            subject,
            f"{name} is empty.",
            "hard_stop",
            "Write its rows, or remove the file.",
            check="data_empty",
            file=name,
            line=1,
        )
    if scan.n_fatal:
        _add_faults(name, subject, file, report, is_fatal=True, severity=severity)
    if scan.n_strange and is_trained_on:
        _add_faults(name, subject, file, report, is_fatal=False, severity="warning")


def _add_faults(name: str, subject: str, file: DataFile, report: Report, *, is_fatal: bool, severity: Severity) -> None:
    faults = [fault for fault in file.scan.faults if fault.is_fatal == is_fatal]
    count = file.scan.n_fatal if is_fatal else file.scan.n_strange
    first = faults[0] if faults else None
    said = f"line {first.line}: {first.sentence}" if first is not None else "beyond the first faults of another kind"
    trains = "mlx-lm stops there or trains on something else" if is_fatal else "such a row teaches nothing, or nonsense"
    report.add(
        "8",
        subject,
        f"{count:,} of {file.scan.rows + file.scan.n_fatal:,} lines of {name} are no good rows ({said}); {trains}.",
        severity,
        "Repair or remove these lines." if file.scan.rows else _FORMS,
        check="data_rows" if is_fatal else "data_strange_rows",
        count=count,
        rows=file.scan.rows,
        lines=[fault.line for fault in faults],
        file=name,
        line=first.line if first is not None else 1,
    )


def check_content(project: Project, sets: Sequence[DataSet], report: Report) -> None:
    """Report what training rows teach beside the point: one policy, a template's glitches, a surface of pairs."""
    if len(sets) > _MOST_FOLDERS:
        report.skip(("5", "7", "P3", "P11"), f"more than {_MOST_FOLDERS} data folders; the content of the rest")
    for one in sets[:_MOST_FOLDERS]:
        train = one.files.get("train")
        if train is None:
            continue
        if not train.is_judged_whole():
            report.skip(("5", "7", "P3"), _only(project, train, "judged"))
        if one.is_pairs:
            _check_pairs(project, train, report)
        elif one.conversations:
            _check_conversations(project, train, one, report)


def _check_pairs(project: Project, train: DataFile, report: Report) -> None:
    from tools.probes.rows.pairs import check_pairs

    report.look("P3", "7")
    add_row_findings(report, check_pairs(row.pair for row in train.rows()), project.name(train.path))


def _check_conversations(project: Project, train: DataFile, one: DataSet, report: Report) -> None:
    from tools.probes.rows.glitches import check_glitches
    from tools.probes.rows.gold_policy import check_gold_policy

    report.look("5", "7")
    name = project.name(train.path)
    add_row_findings(report, check_gold_policy(one.conversations), name)
    add_row_findings(report, check_glitches(answer for _, answer in one.conversations), name)


def add_row_findings(report: Report, found: Iterable[Finding], name: str) -> None:
    """Record what was found in a file's rows, without the rows' text."""
    for row in found:
        detail = {key: value for key, value in row.value.items() if key != EXAMPLES}
        report.add(
            row.mode, f"data:{name}", row.sentence, row.severity, row.fix, check=row.claim, file=name, detail=detail
        )


def check_sets(project: Project, sets: Sequence[DataSet], stated: Sequence[Stated], report: Report) -> None:
    """Report cases that stand in two sets (P11): each data folder within itself, and beside every evaluation."""
    from tools.probes.rows.leakage import check_leakage

    evaluations = {one.path: one for one in stated if one.path is not None and one.golds}
    for one in sets[:_MOST_FOLDERS]:
        texts: dict[str, Callable[[], Iterator[tuple[str, str]]]] = {
            name: _labelled(name, file)
            for name, file in one.files.items()
            if file.path not in evaluations or name == "train"
        }
        texts |= {f"evaluation {e.evaluation.name}": _cases(e) for e in evaluations.values()}
        if len(texts) < 2:  # noqa: PLR2004 - one set shares nothing
            continue
        report.look("P11")
        cut = [file for file in one.files.values() if not file.is_judged_whole()]
        for file in cut:
            report.skip(("P11",), _only(project, file, "compared"))
        found = check_leakage({name: read() for name, read in texts.items()})
        # Nothing is trained or chosen on test.jsonl: an evaluation may well be a part of it.
        found = [row for row in found if not _is_of_test_alone(row)]
        add_row_findings(report, found, project.name(one.folder) or ".")
    if not sets and len(evaluations) > 1:
        report.look("P11")
        found = check_leakage({f"evaluation {e.evaluation.name}": _cases(e)() for e in evaluations.values()})
        add_row_findings(report, found, "evaluations")


def _is_of_test_alone(found: Finding) -> bool:
    sets = set(found.value.get("sets", ()))
    return "test" in sets and not sets & {"train", "valid"}


def _only(project: Project, file: DataFile, done: str) -> str:
    """Say what of a long file was looked at."""
    more = "; --whole looks at more" if file.bounds != WHOLE else ""
    return f"{project.name(file.path)}: only {file.bounds.content} were {done}{more}"


def _labelled(name: str, file: DataFile) -> Callable[[], Iterator[tuple[str, str]]]:
    def read() -> Iterator[tuple[str, str]]:
        for row in file.rows():
            yield f"{name}:{row.line}", prompt_of(row)

    return read


def prompt_of(row: Row) -> str:
    """Return what makes a row the case it is: of a conversation, everything that the user says."""
    if row.form == "text":
        return row.prompt
    turns = [text_of(turn) for turn in row.messages if turn.get("role") in {"user", "tool"}]
    return "\n".join(turns)


def _cases(one: Stated) -> Callable[[], Iterator[tuple[str, str]]]:
    def read() -> Iterator[tuple[str, str]]:
        for gold in one.golds:
            yield f"{one.evaluation.name}:{gold.line}", case_prompt(gold.data)

    return read


def case_prompt(data: Mapping[str, object]) -> str:
    """Return what a case asks, however its row names it; empty where it cannot be told."""
    for key in ("prompt", "question", "input", "instruction"):
        value = data.get(key)
        if isinstance(value, list):
            return "\n".join(text_of(turn) for turn in value if isinstance(turn, dict) and turn.get("role") == "user")
        if isinstance(value, str) and value:
            return value
    messages = data.get("messages")
    if isinstance(messages, list):
        turns = [turn for turn in messages if isinstance(turn, dict) and turn.get("role") in {"user", "tool"}]
        return "\n".join(map(text_of, turns))
    return answer_text(data.get("text"))
