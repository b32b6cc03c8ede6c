"""Probes of what training data say: leakage, one-sided golds, a template's glitches, pairs told apart by their surface.

The judgement is in `leakage`, `golds` and `pairs`; here the campaign's files are read, and what was found becomes
observations. Of a project's data files also: can they be read (8). No text of a row goes into a finding.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from state.errors import ConfigError
from state.records import EXAMPLES, Evidence, Finding, Fingerprint, Json, Severity
from tools.data.cases import iter_data, iter_pairs, iter_split, user_prompt
from tools.data.rows import WHOLE, Bounds, DataFile, Features, Row, answer_text, fix_of, text_of
from tools.models.identity import NOT_FETCHED
from tools.probes.catalogue import RUNNING, Observation, Probe, ProbeContext
from tools.probes.configs import TrainingConfig
from tools.probes.evaluations import Stated
from tools.probes.files import data_files, file_print, split_paths
from tools.probes.folder import Project, Report


def _rows(context: ProbeContext, name: str) -> Iterator[Row]:
    path = data_files(context).get(name)
    yield from iter_data(path) if path is not None else ()


def _conversations(context: ProbeContext) -> Iterator[tuple[str, str]]:
    """Yield (what the user says last, the answer) of each training row that has both."""
    for row in _rows(context, "train"):
        if row.answer is not None:
            yield row.prompt, row.answer


def _pair_rows(context: ProbeContext) -> Iterator[tuple[str, str, str]]:
    path = context.goal.data.pairs
    for pair in iter_pairs(context.path(path)) if path else ():
        yield pair.prompt, *pair.sides


def _leakage(context: ProbeContext) -> list[Finding]:
    from tools.probes.leakage import check_leakage

    # A prompt may be demonstrated and rolled out: that is one use, training.
    names = dict.fromkeys([*data_files(context), *(name for name, _ in _rollout_files(context).values())])
    sets: dict[str, Iterable[tuple[str, str]]] = {name: _texts_for(context, name) for name in names}
    sets |= {name: _case_texts(name, path) for name, path in split_paths(context).items()}
    return check_leakage(sets)


def _rollout_files(context: ProbeContext) -> dict[str, tuple[str, Path]]:
    """Return the files of cases for rollouts: key of the campaign file -> what they are used for, and where."""
    data = context.goal.data
    found = {"rollouts": ("train", data.rollouts), "valid_rollouts": ("valid", data.valid_rollouts)}
    return {key: (use, context.path(written)) for key, (use, written) in found.items() if written}


def _texts_for(context: ProbeContext, use: str) -> Iterator[tuple[str, str]]:
    """Yield (label, what the user says) of all data for one use, `train` or `valid`."""
    yield from _data_texts(context, use)
    for key, (name, path) in _rollout_files(context).items():
        yield from _case_texts(key, path) if name == use else ()


def _data_texts(context: ProbeContext, name: str) -> Iterator[tuple[str, str]]:
    """Yield (`name:line`, what the user says) of a data file."""
    for row in _rows(context, name):
        yield f"{name}:{row.line}", row.prompt


def _case_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield (`name:id`, what the user says) of an evaluation file."""
    for case in iter_split(path):
        yield f"{name}:{case['id']}", user_prompt(case)


def _gold_policy(context: ProbeContext) -> list[Finding]:
    from tools.probes.golds import check_gold_policy

    return check_gold_policy(_conversations(context))


def _glitches(context: ProbeContext) -> list[Finding]:
    from tools.probes.golds import check_glitches

    return check_glitches(answer for _, answer in _conversations(context))


def _pairs(context: ProbeContext) -> list[Finding]:
    from tools.probes.pairs import check_pairs

    return check_pairs(_pair_rows(context))


def _train_print(context: ProbeContext) -> tuple[Fingerprint, ...]:
    return (file_print(context, "data:train", data_files(context)["train"]),)


def _all_prints(context: ProbeContext) -> tuple[Fingerprint, ...]:
    cases = (file_print(context, f"cases:{name}", path) for name, path in split_paths(context).items())
    data = (file_print(context, f"data:{name}", path) for name, path in data_files(context).items())
    rollouts = (file_print(context, f"data:{key}", path) for key, (_, path) in _rollout_files(context).items())
    return (*data, *rollouts, *cases)


def _pair_print(context: ProbeContext) -> tuple[Fingerprint, ...]:
    written = context.goal.data.pairs
    return (file_print(context, "data:pairs", context.path(written)),) if written else ()


_RANK: tuple[Severity, ...] = ("note", "warning", "hard_stop")


def _observer(
    look: Callable[[ProbeContext], list[Finding]], subject: str, claim: str, holding: str, mode: str
) -> Callable[[ProbeContext], tuple[Observation, ...]]:
    """Return what observes one check as one claim, whatever the number of its findings.

    Args:
        look: Reads and judges.
        subject: What the claim is about.
        claim: Its name.
        holding: What is believed where the check finds nothing.
        mode: Row of the failure catalogue.
    """

    def observe(context: ProbeContext) -> tuple[Observation, ...]:
        try:
            found = look(context)
        except ConfigError as error:
            # data.readable says so with its own severity; a file that cannot be read has no content to judge.
            said, fix = f"Not checked: {error.sentence}", "Repair the file; it is then read again, in seconds."
            return (Observation(subject, claim, said, tag="assumed", mode=mode, fix=fix),)
        told = [finding for finding in found if finding.severity != "note"]
        worst = max(told, key=lambda finding: _RANK.index(finding.severity), default=None)
        return (
            Observation(
                subject,
                claim,
                " ".join(finding.sentence for finding in told) or holding,
                holds=worst is None,
                value={finding.claim: _detail(context, finding) for finding in found},
                severity=worst.severity if worst else "warning",
                mode=worst.mode if worst else mode,
                evidence=tuple(
                    Evidence(kind="probe", ref=f.claim, summary=f.sentence, detail=_detail(context, f)) for f in found
                ),
                fix=worst.fix if worst else "",
            ),
        )

    return observe


def _detail(context: ProbeContext, finding: Finding) -> Json:
    """Return a finding's figures; where case text is private, without the examples."""
    is_private = context.goal.privacy == "redact"
    return {name: value for name, value in finding.value.items() if not (is_private and name == EXAMPLES)}


def _probe(  # noqa: PLR0917 - a row of the table
    name: str,
    cost_s: float,
    refuted_by: str,
    stands_on: Callable[[ProbeContext], tuple[Fingerprint, ...]],
    look: Callable[[ProbeContext], list[Finding]],
    subject: str,
    claim: str,
    holding: str,
    mode: str,
) -> Probe:
    return Probe(name, cost_s, refuted_by, stands_on, _observer(look, subject, claim, holding, mode), before=RUNNING)


PROBES = (
    _probe(
        "data.leakage",
        3.0,
        "a row of the training data that stands, or nearly stands, among the cases",
        _all_prints,
        _leakage,
        "data:sets",
        "are_apart",
        "No training row stands among the validation rows or the evaluation cases, or nearly so.",
        "P11",
    ),
    _probe(
        "data.gold_policy",
        3.0,
        "references that only ever remove what is odd",
        _train_print,
        _gold_policy,
        "data:train",
        "teaches_more_than_removal",
        "The references do not teach removal alone.",
        "5",
    ),
    _probe(
        "data.glitches",
        1.0,
        "words repeated by the template that made the answers",
        _train_print,
        _glitches,
        "data:train",
        "has_no_glitches",
        "No answer repeats a word as a broken template would.",
        "7",
    ),
    _probe(
        "data.pairs",
        2.0,
        "one surface feature that tells chosen from rejected",
        _pair_print,
        _pairs,
        "data:pairs",
        "differ_in_content",
        "No single surface feature tells the chosen answers from the rejected ones.",
        "P3",
    ),
)


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
        _check_names(project, one, report)
        for file in one.files.values():
            report.look("8")
            _check_file(project, file, report)
    for file in others:
        if file.scan.is_binary or (file.scan.n_fatal and file.scan.form != "other"):
            _check_file(project, file, report, is_trained_on=False)


_ALSO_VALID = frozenset({"val", "validation", "dev", "eval"})


def _check_names(project: Project, one: DataSet, report: Report) -> None:
    """Report rows for validation under a name, and system texts in a column, that mlx-lm does not read."""
    is_watched = "train" not in one.files or "valid" in one.files
    here = () if is_watched else project.by_folder.get(one.folder, {})
    names = [name for name in here if name.lower().endswith(".jsonl")]
    for name in names:
        stem = name.lower().removesuffix(".jsonl")
        if stem in _ALSO_VALID or (stem == "valid" and name != "valid.jsonl"):
            report.add(
                "8",
                f"data:{project.name(one.folder / name)}",
                f"{project.name(one.folder / name)} is never read: mlx-lm validates on valid.jsonl alone, and trains "
                "without validation, and without a word, where it is not there.",
                "warning",
                "Rename it to valid.jsonl.",
                check="data_name",
                file=project.name(one.folder / name),
                line=1,
            )
    for name, file in one.files.items():
        first = next((data for _, data in file.objects(1)), {})
        if name == "train" and file.scan.form in {"chat", "completions"} and isinstance(first.get("system"), str):
            report.add(
                "P8",
                f"data:{project.name(file.path)}",
                f"The rows of {project.name(file.path)} have a column `system`, which mlx-lm does not read: the model "
                "never sees its text.",
                "warning",
                "Write it as the first message, of the role system.",
                check="system_column",
                file=project.name(file.path),
                line=1,
            )


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
            fix_of(file.path, scan) or "Write it again as UTF-8 text, one JSON object a line, or give it another name.",
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
        fix_of(file.path, file.scan) or ("Repair or remove these lines." if file.scan.rows else _FORMS),
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
    from tools.probes.pairs import check_pairs

    report.look("P3", "7")
    add_row_findings(report, check_pairs((row.prompt, *row.sides) for row in train.rows()), project.name(train.path))


def _check_conversations(project: Project, train: DataFile, one: DataSet, report: Report) -> None:
    from tools.probes.golds import check_glitches, check_gold_policy

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
    from tools.probes.leakage import check_leakage

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
