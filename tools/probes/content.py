"""Probes of what training data say: leakage, one-sided golds, a template's glitches, pairs told apart by their surface.

The judgement is in `tools/probes/rows`; here the campaign's files are read, and what was found becomes observations.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from state.errors import ConfigError
from state.records import EXAMPLES, Evidence, Finding, Fingerprint, Json, Severity
from tools.probes.contract import RUNNING, Observation, Probe, ProbeContext
from tools.probes.files import data_files, file_print, split_paths
from tools.tracks.formats import DataRow, iter_data, iter_split, user_prompt
from tools.tracks.pairs import iter_pairs


def _rows(context: ProbeContext, name: str) -> Iterator[DataRow]:
    path = data_files(context).get(name)
    yield from iter_data(path) if path is not None else ()


def _conversations(context: ProbeContext) -> Iterator[tuple[str, str]]:
    """Yield (what the user says last, the answer) of each training row that has both."""
    for row in _rows(context, "train"):
        turns = row.messages
        if turns:
            yield user_prompt(row.row), str(turns[-1].get("content") or "")


def _pair_rows(context: ProbeContext) -> Iterator[tuple[str, str, str]]:
    path = context.goal.data.pairs
    for pair in iter_pairs(context.path(path)) if path else ():
        yield str(pair.messages[-1].get("content") or ""), pair.chosen, pair.rejected


def _leakage(context: ProbeContext) -> list[Finding]:
    from tools.probes.rows.leakage import check_leakage

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
        yield f"{name}:{row.line}", user_prompt(row.row)


def _case_texts(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield (`name:id`, what the user says) of an evaluation file."""
    for case in iter_split(path):
        yield f"{name}:{case['id']}", user_prompt(case)


def _gold_policy(context: ProbeContext) -> list[Finding]:
    from tools.probes.rows.gold_policy import check_gold_policy

    return check_gold_policy(_conversations(context))


def _glitches(context: ProbeContext) -> list[Finding]:
    from tools.probes.rows.pairs import check_glitches

    return check_glitches(answer for _, answer in _conversations(context))


def _pairs(context: ProbeContext) -> list[Finding]:
    from tools.probes.rows.pairs import check_pairs

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
        "golds that only ever remove what is odd",
        _train_print,
        _gold_policy,
        "data:train",
        "teaches_more_than_removal",
        "The golds do not teach removal alone.",
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
