"""Everything one sitting of the agent holds: the campaign, its store under a lease, the backend, the clock."""

import json
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent.campaign import LoadedCampaign
from state.clock import Clock
from state.files import read_json, write_json
from state.goal import Goal
from state.hashing import HashCache, hash_file
from state.ledger import CaseSet
from state.log import passed_over
from state.paths import CampaignPaths
from state.records import Belief, JobKind
from state.store import Store
from tools.jobs.backend import Backend

WORKERS: Mapping[JobKind, str] = {
    "training": "tools.training.worker",
    "evaluation": "tools.evaluation.worker",
    "census": "tools.evaluation.census",
    "fuse": "tools.training.fuse",
    "notice": "tools.jobs.notice",
    "pace": "tools.training.pace",
}
"""Which module does which kind of job, always in a child process."""


@dataclass
class Session:
    """One sitting: from `vigil run` to its return or its death.

    Args:
        loaded: The campaign file as read last.
        paths: Where the campaign's files are.
        store: The record, open for writing under this sitting's lease.
        backend: What runs jobs.
        clock: Time.
        model: Folder of the base model's files.
        revision: Commit of a hub id, empty for a local folder.
        environment: Variables for worker processes.
        workers: Module per kind of job; tests put a quick worker here.
        goal_version: Version of the goal that decisions are made under.
        previous_session: Ids of the decisions and keys of the actions that were on record when this sitting began.
        requests_before: Number of the last request before this sitting began.
        last_file_hash: Hash of the campaign file as looked at last, valid or not.
        say: Where progress sentences go.
        show: Where goes what happens now: a job as gathered (agent/render/record.py), or words.
        ask: Where the lines of a question go that waits for a person.
        shown_questions: Ids of the questions that this sitting has put so.
        case_sets: Split -> confirmation cases, and what they were read from.
        openings_read: What the ledger says of the confirmation cases, and the head and the cases that it was read for.
        noted: Keys of the uses of cases that the ledger has.
    """

    loaded: LoadedCampaign
    paths: CampaignPaths
    store: Store
    backend: Backend
    clock: Clock
    model: Path
    revision: str
    environment: Mapping[str, str]
    workers: Mapping[JobKind, str] = field(default_factory=lambda: dict(WORKERS))
    goal_version: int = 1
    previous_session: frozenset[str] = frozenset()
    requests_before: int = 0
    last_file_hash: str = ""
    say: Callable[[str], None] = lambda _: None
    show: Callable[[dict[str, Any] | str], None] = lambda _: None
    ask: Callable[[list[str]], None] = lambda _: None
    shown_questions: set[str] = field(default_factory=set)
    is_stopping: bool = False
    courier: "subprocess.Popen[str] | None" = None
    """The process that waits beside this one for notices to send; None before the first address is named."""
    measured_use: tuple[tuple[tuple[str, str], ...], float] | None = None
    """The actions when the campaign's folder was measured last, and what it held, decimal gigabytes."""
    proposed: LoadedCampaign | None = None
    """An edited campaign file that waits for an answer; the version on record stands meanwhile."""
    cache: HashCache = field(default_factory=HashCache)
    case_sets: tuple[str, Mapping[str, CaseSet]] = ("", MappingProxyType({}))
    openings_read: tuple[Any, Any] = (None, None)
    noted: set[str] = field(default_factory=set)
    trackers: dict[str, tuple[float, Any]] = field(default_factory=dict)
    """Tracker -> when the process that fills it was started, by the monotonic clock, and the process."""
    trackers_at: float = float("-inf")
    """When the trackers are looked at next."""

    @property
    def goal(self) -> Goal:
        """The campaign as understood now."""
        return self.loaded.goal

    @property
    def adapter(self) -> Path | None:
        """Folder of the adapter that runs go on from, where the campaign names one."""
        written = self.goal.model.adapter
        return self.loaded.resolve(written) if written else None

    def standing(self) -> list[Belief]:
        """Return what is believed now; history stays in the store."""
        return self.store.read.all_standing()

    @property
    def utc_offset_s(self) -> float:
        """Seconds that local time is ahead of UTC now."""
        offset = datetime.fromtimestamp(self.clock.now(), tz=UTC).astimezone().utcoffset()
        return offset.total_seconds() if offset else 0.0

    @property
    def used_gb(self) -> float:
        """Decimal gigabytes that the campaign's folder holds, but for kept rows and what trackers hold: only copies."""
        total = 0
        for path in self.paths.root.rglob("*"):
            if self.paths.rows in path.parents or self.paths.trackers in path.parents:
                continue
            # A job of `vigil pairs` may work meanwhile, and its side files come and go.
            with passed_over("disk_use.file_gone", FileNotFoundError):
                entry = path.lstat()
                total += entry.st_size if stat.S_ISREG(entry.st_mode) else 0
        return total / 1e9

    def load_cache(self) -> None:
        """Read content hashes remembered from earlier sittings; a broken file only costs time."""
        try:
            known = read_json(self.paths.root / "hashes.json")
        except json.JSONDecodeError:
            known = None
        self.cache = HashCache(known if isinstance(known, dict) else None)

    def cache_hash(self, path: str) -> str:
        """Return a file's content hash, or `missing`."""
        return hash_file(Path(path), self.cache) if Path(path).is_file() else "missing"

    def save_cache(self) -> None:
        """Remember content hashes for the next sitting."""
        write_json(self.paths.root / "hashes.json", self.cache.dump())
