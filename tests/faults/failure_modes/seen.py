"""What a whole process of Vigil says: its exit code, its sentence, its findings, and how long each took."""

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.campaign import warm
from tests.faults.campaign import world as campaigns
from tests.faults.failure_modes.worlds import NAME, World

TIMEOUT_S = 400.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Finding:
    """One thing that Vigil says is wrong."""

    mode: str
    severity: str
    subject: str
    claim: str
    sentence: str
    value: Any
    after_s: float
    """From the start of the campaign, or of the audit."""
    saved_s: float | None = None
    """Training that was not spent because of it, as Vigil itself reckons; None: nobody knows."""


@dataclass(frozen=True)
class Seen:
    """What came of one campaign or one audit."""

    code: int
    said: str
    findings: list[Finding]
    held: dict[tuple[str, str], str] = field(default_factory=dict)
    """(subject, claim) -> statement of each belief that stands; nothing for an audit."""
    home: Path = Path()
    report: dict[str, Any] = field(default_factory=dict)
    """What `vigil audit --json` printed."""
    took_s: float = 0.0

    def of(self, mode: str) -> list[Finding]:
        """Return the findings of one mode."""
        return [finding for finding in self.findings if finding.mode == mode]

    @property
    def alarms(self) -> list[Finding]:
        """Hard stops and warnings."""
        return [finding for finding in self.findings if finding.severity != "note"]


def vigil(*arguments: str, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
    """Run a command as a person would."""
    return warm.vigil(*arguments, timeout_s=timeout_s)


def start(campaign: Path, home: Path, workers: Mapping[str, str], first_on_path: Path | None = None) -> warm.Agent:
    """Start `vigil run` on a campaign; `first_on_path` holds modules that its processes find first."""
    # A machine of its own: it neither waits for other campaigns' turns nor learns from their steps.
    machine = {"XDG_STATE_HOME": str(home.parent.resolve() / "machine")}
    if first_on_path is None:
        return warm.start(campaign, home, wait=False, workers=workers, environment=machine)
    return campaigns.start(
        campaign, home, wait=False, workers=workers, environment=machine, first_on_path=first_on_path
    )


Step = Callable[[Path, Path, World], None]
"""What happens outside of Vigil, given the campaign file, the home and the world."""


def run(
    world: World,
    folder: Path,
    *,
    during: Step | None = None,
    then: Step | None = None,
    first_on_path: Path | None = None,
) -> Seen:
    """Write a campaign and run it to its end.

    Args:
        world: The campaign.
        folder: An empty place for its files and its home.
        during: What happens while it runs.
        then: What happens after it has ended; it is run once more then.
        first_on_path: See `start`.
    """
    campaign, home = world.write(folder / "files"), folder / "home"
    started = time.monotonic()
    with _started(campaign, home, world, first_on_path) as agent:
        if during is not None:
            during(campaign, home, world)
        code = agent.wait(timeout=TIMEOUT_S)
    if then is not None:
        then(campaign, home, world)
        with _started(campaign, home, world, first_on_path) as agent:
            code = agent.wait(timeout=TIMEOUT_S)
    return read(home, code, time.monotonic() - started)


@contextmanager
def _started(campaign: Path, home: Path, world: World, first_on_path: Path | None) -> Iterator[warm.Agent]:
    """Start a campaign and leave neither an agent nor a job behind."""
    agent = start(campaign, home, world.workers, first_on_path)
    try:
        yield agent
    finally:
        if agent.poll() is None:
            _end(agent, home)


def _end(agent: warm.Agent, home: Path) -> None:
    """Stop a campaign, its job with it; one that does not listen is killed."""
    try:
        vigil("stop", "--home", str(home))
        agent.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()


def run_once(make: Callable[[], World], shared: Path, *, during: Step | None = None, then: Step | None = None) -> Seen:
    """Run a clean campaign, or read what came of it where it was run before: many failures are changes of one.

    Args:
        make: Makes the campaign; its name is the campaign's.
        shared: A folder that all processes of this session of tests have in common.
        during: As `run` takes it.
        then: As `run` takes it.
    """
    name = ".".join(part.__qualname__ for part in (make, during, then) if part is not None)
    folder = shared / f"clean.{name}"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / "code").exists():
            return read(folder / "home", int((folder / "code").read_text()))
        seen = run(make(), folder, during=during, then=then)
        (folder / "code").write_text(str(seen.code))
        return seen


def read(home: Path, code: int, took_s: float = 0.0) -> Seen:
    """Return what a campaign has on record, by Vigil's own reading commands."""
    said = home.with_suffix(".log").read_text()
    if not (home / NAME / "state.db").exists():
        return Seen(code, said, [], home=home, took_s=took_s)
    beliefs = json.loads(vigil("beliefs", "--json", "--home", str(home)).stdout)
    tally = json.loads(vigil("beliefs", "--tally", "--json", "--home", str(home)).stdout)
    began = json.loads(vigil("status", "--json", "--home", str(home)).stdout)["campaign"]["started_at"]
    saved = {row["source"]: row["saved_s"] for row in tally["findings"]}
    guarded = {row["mode"]: row["saved_s"] for row in tally["findings"] if row["source"].startswith("J")}
    findings = [
        Finding(
            mode=row["mode"],
            severity=row["severity"],
            subject=row["subject"],
            claim=row["claim"],
            sentence=row["statement"],
            value=row["value"],
            after_s=row["formed_at"] - began,
            saved_s=guarded.get(row["mode"]) or saved.get(row["id"]),
        )
        for row in beliefs
        # A finding whose ground changed afterwards, as when code is edited meanwhile, is stale and was still made.
        if row["status"] in {"refuted", "contradicted"} or (row["status"] == "stale" and row["id"] in saved)
    ]
    held = {(row["subject"], row["claim"]): row["statement"] for row in beliefs if row["status"] == "fresh"}
    return Seen(code, said, findings, held=held, home=home, took_s=took_s)


def audit(path: Path, *options: str) -> Seen:
    """Run `vigil audit` on a project folder."""
    started = time.monotonic()
    done = vigil("audit", str(path), "--json", *options)
    took_s = time.monotonic() - started
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        return Seen(done.returncode, done.stdout + done.stderr, [], took_s=took_s)
    findings = [
        Finding(
            mode=row["id"],
            severity=row["severity"],
            subject=row["subject"],
            claim=row["claim"],
            sentence=row.get("sentence") or row["claim"],
            value=row["evidence"],
            after_s=took_s,
        )
        for row in report["findings"]
    ]
    return Seen(done.returncode, done.stderr, findings, report=report, took_s=took_s)
