"""`vigil doctor`: whether this machine would get through a night, as beliefs with their evidence.

Not covered: what a desktop does beyond the system's own settings, and what a network would answer; nothing is asked of
one. What macOS tells was read from manuals and sample outputs; none of it was run on a Mac.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.campaign import LoadedCampaign, read_yaml
from state.clock import Clock, SystemClock
from state.errors import ConfigError, VigilError
from state.hashing import HashCache
from state.records import Belief
from state.text import shown
from tools.machine import hardware, readiness
from tools.machine.blas import worker_env
from tools.machine.facts import System
from tools.machine.readiness import Line, Outcome

READY, WOULD_FAIL = 0, 3
"""Exit codes."""


@dataclass(frozen=True)
class Finding:
    """One line with its belief."""

    belief: Belief
    outcome: Outcome

    def to_json(self) -> dict[str, Any]:
        """Return it as `vigil beliefs --json` prints a belief, with `outcome`."""
        return {**self.belief.model_dump(mode="json"), "outcome": self.outcome}


def examine(
    loaded: LoadedCampaign | None,
    home: Path,
    *,
    system: System | None = None,
    clock: Clock | None = None,
    env: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Look at the machine.

    Args:
        loaded: The campaign that is to run tonight, if one is named.
        home: Folder of all campaigns.
        system: The machine; this one by default.
        clock: Time.
        env: Our environment.

    Side effects: starts short child processes; keeps the machine awake for an instant to see that it can.
    """
    system, clock, env = system or System(), clock or SystemClock(), os.environ if env is None else env
    now, began = clock.now(), clock.monotonic()
    lines = [
        *_hardware(loaded, home, system, env),
        *(
            look(system)
            for look in (readiness.power, readiness.sleep, readiness.heat, readiness.restart, readiness.logout)
        ),
        *_readiness(loaded, env),
        hardware.open_files(),
    ]
    drift_s = (clock.now() - now) - (clock.monotonic() - began)
    lines.append(readiness.clock(system, clock, drift_s))
    return [Finding(line.belief(number, now), line.outcome) for number, line in enumerate(lines, 1)]


def _hardware(loaded: LoadedCampaign | None, home: Path, system: System, env: Mapping[str, str]) -> Iterator[Line]:
    workers = worker_env()
    told = hardware.ask_mlx(workers)
    yield hardware.python(system)
    yield hardware.mlx(told, system)
    if isinstance(told, dict):
        yield hardware.speed(workers, told["backend"])
    yield hardware.memory(system, told)
    if loaded is not None:
        yield from _fits(loaded, home, workers)
    yield hardware.home_disk(home)
    yield hardware.cache_disk(readiness.hub_cache(env))


def _fits(loaded: LoadedCampaign, home: Path, workers: Mapping[str, str]) -> Iterator[Line]:
    """Ask the campaign's own probe whether the model fits into memory."""
    from tools.models.hub import resolve
    from tools.probes.catalogue import ProbeContext
    from tools.probes.machine import PROBES

    spec = loaded.goal.model
    try:
        folder = resolve(spec.path, online=False, revision=spec.revision, base=loaded.folder).folder
    except VigilError:
        # Said by the line about the model itself.
        return
    context = ProbeContext(loaded.goal, loaded.folder, folder, home, HashCache(), workers)
    probe = next(probe for probe in PROBES if probe.id == "machine.memory")
    for seen in probe.observe(context):
        outcome: Outcome = "good" if seen.holds else "bad"
        # A probe says what would mend a claim that fell, whether or not it did.
        fix = "" if seen.holds else seen.fix
        yield Line(seen.subject, seen.claim, seen.statement, outcome, seen.value, seen.evidence[0].ref, fix=fix)


def _readiness(loaded: LoadedCampaign | None, env: Mapping[str, str]) -> Iterator[Line]:
    is_missing = False
    if loaded is None:
        yield readiness.cache(readiness.hub_cache(env), env)
    else:
        model = _told("model:base", "is_local", lambda: _model(loaded))
        is_missing = model.outcome == "bad"
        yield model
        yield _told("campaign:inputs", "are_local", lambda: _inputs(loaded))
    # Vigil's own recipes report to nobody, so what asks beside a campaign is not what runs tonight.
    home = Path(env.get("HOME") or Path.home())
    yield from readiness.exporters(_reports(loaded), env, home, is_tonight=loaded is None)
    yield readiness.token(env, is_needed=is_missing)


def _told(subject: str, claim: str, look: Callable[[], Iterable[str]]) -> Line:
    """Return what a check of the campaign said, or its refusal."""
    try:
        said = " ".join(look())
    except ConfigError as error:
        return Line(
            subject, claim, error.sentence, "bad", asked=error.where or "campaign file", fix=_read(error.runbook)
        )
    return Line(subject, claim, said, "good", asked="campaign file")


def _read(runbook: str) -> str:
    from agent.render import typed

    there = typed.runbook(runbook)
    return f"Read {there}." if there else ""


def _model(loaded: LoadedCampaign) -> Iterator[str]:
    from tools.models.hub import resolve

    spec = loaded.goal.model
    found = resolve(spec.path, online=False, revision=spec.revision, base=loaded.folder, campaign=str(loaded.path))
    yield f"The model is whole on this disk ({found.folder})."


def _inputs(loaded: LoadedCampaign) -> Iterator[str]:
    """Check data, splits, recipe and grader as `vigil run --check` does."""
    from agent.checks import check_campaign

    yield from check_campaign(loaded, is_rehearsal=True)


def _reports(loaded: LoadedCampaign | None) -> dict[str, list[str]]:
    """Return the exporters that mlx-lm configurations report to, beside the campaign or in the current folder."""
    folder = loaded.folder if loaded is not None else Path.cwd()
    asked: dict[str, list[str]] = {}
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            written = read_yaml(path).get("report_to") or ()
        except ConfigError:
            continue
        names = written.split(",") if isinstance(written, str) else written
        for name in names if isinstance(names, list | tuple) else ():
            asked.setdefault(str(name).strip().lower(), []).append(path.name)
    return asked


def exit_code(found: Iterable[Finding]) -> int:
    """Return how the command ends."""
    return WOULD_FAIL if any(row.outcome == "bad" for row in found) else READY


_MARKS = {
    "good": ("good", "green"),
    "warn": ("warn", "yellow"),
    "bad": ("BAD", "bold red"),
    "not_told": ("not told", "dim"),
}


def print_table(found: list[Finding]) -> None:
    """Print the lines for people.

    Side effects: writes to stdout.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from agent.render.words import count

    console = Console(highlight=False)
    table = Table(expand=True, show_lines=False, box=None, pad_edge=False)
    table.add_column("", no_wrap=True, min_width=8)
    table.add_column("", no_wrap=True)
    table.add_column("what was seen, and what to do", overflow="fold", ratio=1)
    for row in found:
        word, style = _MARKS[row.outcome]
        said = Text(shown(row.belief.statement))
        if row.belief.fix:
            said.append(f"\n→ {shown(row.belief.fix)}", style="bold" if row.outcome == "bad" else "dim")
        table.add_row(Text(word, style=style), Text(shown(row.belief.subject)), said)
    console.print(table)
    counts = {outcome: sum(row.outcome == outcome for row in found) for outcome in _MARKS}
    verdict = "A night would fail here." if counts["bad"] else "A night can begin."
    console.print(
        Text(
            f"{verdict} {counts['good']} good, {count(counts['warn'], 'warning')}, {counts['bad']} bad,"
            f" {counts['not_told']} not told."
        )
    )
