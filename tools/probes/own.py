"""Probes that users write: one Python file each, named by `probes` in the campaign file.

A file declares, as plain values at its top level, `refuted_by` (what outcome would refute its claim), and optionally
`cost_s` and `stands_on` (files and folders whose change makes its findings stale, relative to the campaign file). It
defines `observe(context)`, which answers one finding or a list of them:

    {"claim", "statement", "holds"} and optionally {"subject", "value", "severity", "fix", "evidence"}

A subject is `own:NAME`, NAME being the file's without `.py`, or `own:NAME.PART`; other families belong to Vigil's own
probes. The context holds `folder`, `model`, `data`, `splits` (absolute paths) and `goal` (the campaign file, without
what it may spend, whom it asks and how long it looks).

The file runs in a child process with a time-out; here it is only read. One that fails says nothing about its claim, and
that is itself a finding: a warning, tagged assumed. One without `refuted_by` proves nothing (failure mode P6).

All probes that run inside the agent, cheapest first: those that come with Vigil, and a campaign's own.
"""

import ast
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from state.goal import Goal
from state.hashing import hash_json, hash_tree
from state.records import Belief, Evidence, Fingerprint, Json, Record, Severity
from tools.graders.imports import imported_files
from tools.graders.pipe import ChildDiedError, ChildHungError, LineChild
from tools.machine.sandbox import Limits, clean_env
from tools.probes import capability, data, files, machine
from tools.probes.catalogue import Observation, Probe, ProbeContext
from tools.probes.files import data_files, file_print, split_paths

COUNTS = "counts_as_evidence"
"""Claim that Vigil itself makes about every file of a user."""

_CHILD = Path(__file__).with_name("own_child.py")
_FAMILY = "own"
_DEFAULT_COST_S = 1.0
_PATIENCE = 30.0
"""Times its own cost that a probe may take before it counts as hung."""
_LEAST_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 60.0
"""A file may import a large library first."""
_MOST_FINDINGS = 100
_MOST_VALUE = 20_000
"""Characters of a finding's value as JSON: the record is for figures, not for data."""
_NOT_IN_CONTEXT = frozenset({"budget", "approvals", "search", "probes"})
_KEPT_BACK = "its own words are kept out of the record"


@dataclass(frozen=True)
class Declared:
    """What a file says about itself, read without running it.

    Args:
        refuted_by: Empty where it names no outcome.
        cost_s: Expected seconds.
        stands_on: Names of files and folders.
        faults: Declarations that are not plain values of the right kind.
        words: Texts that stand in the file as they are.
    """

    refuted_by: str = ""
    cost_s: float = _DEFAULT_COST_S
    stands_on: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()


class Finding(Record):
    """One finding, as a file answers it."""

    subject: str = Field(default="", max_length=200)
    claim: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    statement: str = Field(min_length=1, max_length=2000)
    holds: bool
    value: Any = None
    severity: Severity = "warning"
    fix: str = Field(default="", max_length=2000)
    evidence: tuple[str, ...] = Field(default=(), max_length=20)
    """Sentences; a single one may be given as it is."""


def declared(path: Path) -> Declared:
    """Read what a probe's file declares; one that is missing or does not parse declares nothing."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return Declared()
    found, faults = {}, []
    for name, node in _assigned(tree):
        if name not in _READERS:
            continue
        kind, what = _READERS[name]
        try:
            found[name] = kind(ast.literal_eval(node))
        except (ValueError, TypeError, SyntaxError, RecursionError):
            faults.append(f"`{name}` is not {what}")
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return replace(Declared(faults=tuple(faults), words=frozenset(words)), **found)


def _assigned(tree: ast.Module) -> Iterable[tuple[str, ast.expr]]:
    """Yield (name, value) of the assignments at a file's top level."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))


def _sentence(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value.strip().rstrip(".")


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 3600:  # noqa: PLR2004 - an hour
        raise ValueError
    return float(value)


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise TypeError
    return tuple(value)


_READERS: Mapping[str, Any] = {
    "refuted_by": (_sentence, "a text written out"),
    "cost_s": (_seconds, "a number of seconds, above 0 and at most 3600"),
    "stands_on": (_names, "a list of names written out"),
}


def own_probe(written: str, folder: Path) -> Probe:
    """Return a user's file as a probe.

    Args:
        written: The path as the campaign file has it.
        folder: Folder of the campaign file.
    """
    path = (folder / Path(written).expanduser()).resolve()
    found = declared(path)
    return Probe(
        id=f"{_FAMILY}:{written}",
        cost_s=found.cost_s,
        refuted_by=found.refuted_by or "nothing: the file names no outcome that would",
        stands_on=partial(_prints, path, found, written),
        observe=partial(_observe, path, found),
    )


def unsaid(beliefs: Iterable[Belief], probes: Iterable[Probe]) -> list[tuple[Belief, str]]:
    """Return what own probes once found and nobody stands behind now.

    Args:
        beliefs: Those that stand.
        probes: The campaign's.

    Returns:
        Each belief with the id of what its file says instead; empty where the campaign no longer names the file, and
        then a belief that is stale already is left out.
    """
    rows = [(belief, _prober(belief)) for belief in beliefs if belief.subject.startswith(f"{_FAMILY}:")]
    newest = {prober: belief for belief, prober in rows if belief.claim == COUNTS}
    listed = {probe.id for probe in probes}
    found = []
    for belief, prober in rows:
        if prober not in listed:
            found += [(belief, "")] if belief.status != "stale" else []
        elif prober in newest and belief.stands_on != newest[prober].stands_on:
            found.append((belief, newest[prober].id))
    return found


def _prober(belief: Belief) -> str:
    prefix = f"{_FAMILY}:"
    return next((row.ref for row in belief.evidence if row.kind == "probe" and row.ref.startswith(prefix)), "")


def probe_context(context: ProbeContext) -> Json:
    """Return what a user's probe is told."""
    goal = context.goal.model_dump(mode="json", exclude=set(_NOT_IN_CONTEXT))
    return {
        "folder": str(context.folder.resolve()),
        "model": str(context.model) if context.model is not None else None,
        "data": {name: str(path) for name, path in data_files(context).items()},
        "splits": {name: str(path) for name, path in split_paths(context).items()},
        "goal": goal,
    }


def _prints(path: Path, found: Declared, written: str, context: ProbeContext) -> tuple[Fingerprint, ...]:
    """Return what a finding stands on: the code, the files it names, and what it was told."""
    code = imported_files([path]) if path.is_file() else [path]
    named = [context.path(name) for name in found.stands_on]
    told = Fingerprint(kind="settings", name=f"context of {written}", value=hash_json(probe_context(context)))
    return (*(_print(context, file) for file in dict.fromkeys([*code, *named])), told)


def _print(context: ProbeContext, path: Path) -> Fingerprint:
    if path.is_dir():
        return Fingerprint(kind="tree", name=str(path), value=hash_tree(path, context.cache))
    return file_print(context, str(path), path)


def _observe(path: Path, found: Declared, context: ProbeContext) -> tuple[Observation, ...]:
    """Run the file; its findings, and last whether they count."""
    is_private = context.goal.privacy == "redact"
    answer = _ask(path, found, context)
    failure = str(answer.get("bare", "it failed") if is_private else answer.get("error") or "")
    observations: list[Observation] = []
    faults = [*found.faults, *([failure] if "error" in answer else [])]
    rows = answer.get("findings", [])
    faults += ["it answered with no finding"] if rows == [] else []
    faults += (
        [f"it answered with {len(rows)} findings, more than {_MOST_FINDINGS}"] if len(rows) > _MOST_FINDINGS else []
    )
    said = {(f"{_FAMILY}:{path.stem}", COUNTS)}
    for number, row in enumerate(rows[:_MOST_FINDINGS], start=1):
        try:
            finding = _finding(row, path.stem)
        except ValueError as error:
            why = "not of the form that a finding has" if is_private else str(error)
            faults.append(f"finding {number} of {len(rows)} is unusable: {why}")
            continue
        if is_private:
            finding = _redacted(finding, found.words, number)
        if (finding.subject, finding.claim) in said:
            faults.append(f"finding {number} of {len(rows)} speaks of {finding.claim} a second time")
            continue
        said.add((finding.subject, finding.claim))
        observations.append(_observation(finding, path, found))
    return (*observations, _standing(path, found, faults, len(observations)))


def _ask(path: Path, found: Declared, context: ProbeContext) -> Json:
    """Have the file look, in a process of its own.

    Returns:
        `findings`; or `error`, why there are none, and `bare`, the same without words of the file's own making.
    """
    timeout_s = max(_LEAST_TIMEOUT_S, _PATIENCE * found.cost_s)
    if not path.is_file():
        return _failed(f"there is no file {path.name}")
    track = context.goal.track
    limits = Limits(memory_bytes=int(track.memory_gb * 1e9), network=track.network)
    environment = {**clean_env(track.env, network=track.network), **context.environment}
    try:
        child = LineChild((sys.executable, "-P", str(_CHILD), str(path)), context.folder, environment, limits)
    except OSError as error:
        return _failed(f"its process could not be started ({error.strerror})")
    try:
        greeting = json.loads(child.ask("", _START_TIMEOUT_S))
        if "fatal" in greeting:
            return {"error": greeting["fatal"], "bare": greeting.get("bare", greeting["fatal"])}
        answer = child.ask(json.dumps({"op": "observe", "context": probe_context(context)}), timeout_s)
        return dict(json.loads(answer))
    except ChildHungError:
        return _failed(f"it gave no answer within {timeout_s:g} s, {_PATIENCE:g} times its `cost_s`")
    except ChildDiedError:
        return {"error": f"its process {child.last_words()}", "bare": "its process ended"}
    except (ValueError, TypeError, RecursionError):
        return _failed("its process answered with what is no JSON")
    finally:
        child.close()


def _failed(why: str) -> Json:
    return {"error": why, "bare": why}


def _finding(row: Any, stem: str) -> Finding:
    """Return one finding as answered, its subject filled in.

    Raises:
        ValueError: It is not of the form, too large, or about something that is not this file's.
    """
    if not isinstance(row, dict):
        raise ValueError(f"it is {json.dumps(row)[:60]}, not an object")  # noqa: TRY004 - one kind of error, told alike
    evidence = row.get("evidence")
    row = {**row, **({"evidence": [evidence]} if isinstance(evidence, str) else {})}
    try:
        finding = Finding.model_validate_json(json.dumps(row), strict=True)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ValueError(f"`{'.'.join(map(str, fault['loc']))}`: {fault['msg']}") from None
    if len(json.dumps(finding.value)) > _MOST_VALUE:
        raise ValueError(f"its value is longer than {_MOST_VALUE:,} characters")
    own = f"{_FAMILY}:{stem}"
    subject = finding.subject or own
    if not re.fullmatch(rf"{re.escape(own)}(\.[A-Za-z0-9_.-]+)?", subject):
        raise ValueError(f"its subject is {subject!r}; here it is {own} or {own}.PART")
    return finding.model_copy(update={"subject": subject})


def _redacted(finding: Finding, words: frozenset[str], number: int) -> Finding:
    """Return a finding with nothing in it but numbers and texts that stand in the file as they are."""
    holds = "holds" if finding.holds else "does not hold"
    own = finding.subject.partition(".")[0]
    subject = finding.subject if finding.subject in {own, *words} else f"{own}.{number}"
    claim = finding.claim if finding.claim in words else f"claim{number}"
    statement = finding.statement if finding.statement in words else f"{subject} {claim} {holds}; {_KEPT_BACK}."
    return finding.model_copy(
        update={
            "subject": subject,
            "claim": claim,
            "statement": statement,
            "value": _numbers(finding.value, words),
            "fix": finding.fix if finding.fix in words else "",
            "evidence": tuple(text for text in finding.evidence if text in words),
        }
    )


def _numbers(value: Any, words: frozenset[str]) -> Any:
    """Return a value with the length in place of each text that does not stand in the file."""
    if isinstance(value, str):
        return value if value in words else {"characters": len(value)}
    if isinstance(value, list):
        return [_numbers(part, words) for part in value]
    if isinstance(value, dict):
        return {
            key if key in words else f"key{place}": _numbers(part, words)
            for place, (key, part) in enumerate(value.items(), start=1)
        }
    return value


def _observation(finding: Finding, path: Path, found: Declared) -> Observation:
    """Return a finding as one that Vigil's own probes make; without `refuted_by` it stops nothing."""
    severity = finding.severity if found.refuted_by or finding.severity != "hard_stop" else "warning"
    return Observation(
        subject=finding.subject,
        claim=finding.claim,
        statement=finding.statement,
        holds=finding.holds,
        value=finding.value,
        evidence=tuple(Evidence(kind="file", ref=path.name, summary=text) for text in finding.evidence),
        tag="confirmed" if found.refuted_by else "assumed",
        severity=severity,
        fix=finding.fix or f"See {path.name}.",
    )


def _standing(path: Path, found: Declared, faults: list[str], n_findings: int) -> Observation:
    """Return whether what the file found counts as evidence."""
    about = Observation(subject=f"{_FAMILY}:{path.stem}", claim=COUNTS, statement="", severity="warning")
    if faults:
        return replace(
            about,
            statement=f"{path.name} settles nothing: {'; '.join(faults)}.",
            holds=False,
            tag="assumed",
            fix=f"Repair {path.name}, or take it out of `probes`; until then what it checks is not known.",
        )
    if not found.refuted_by:
        return replace(
            about,
            statement=f"{path.name} names no outcome that would refute it, so its {n_findings} "
            "findings are assumed and not counted as evidence.",
            holds=False,
            mode="P6",
            fix='Add `refuted_by = "..."` to the file: the outcome that would show its claim to be false.',
        )
    return replace(
        about,
        statement=f"{path.name} answered with {n_findings} findings; refuted by {found.refuted_by}.",
        value={"findings": n_findings},
        mode="P6",
    )


PROBES: tuple[Probe, ...] = tuple(
    sorted((*files.PROBES, *machine.PROBES, *data.PROBES, *capability.PROBES), key=lambda probe: probe.cost_s)
)


def probes_of(goal: Goal, folder: Path) -> tuple[Probe, ...]:
    """Return the probes of a campaign, cheapest first.

    Args:
        goal: The campaign.
        folder: Folder of the campaign file.
    """
    shipped = (probe for probe in PROBES if probe.id != "data.pairs" or goal.data.pairs)
    own = (own_probe(written, folder) for written in goal.probes)
    return tuple(sorted((*shipped, *own), key=lambda probe: probe.cost_s))
