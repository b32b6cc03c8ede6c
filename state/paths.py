"""Where a campaign's files are; no other module spells these names."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobPaths:
    """Files of one job folder, in the order they come to be."""

    folder: Path

    @property
    def spec(self) -> Path:
        """What to run, written by the agent before anything starts."""
        return self.folder / "job.json"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the one supervisor."""
        return self.folder / "supervisor.lock"

    @property
    def lock(self) -> Path:
        """Held while the supervisor or its worker lives."""
        return self.folder / "lock"

    @property
    def start(self) -> Path:
        """The supervisor's identity."""
        return self.folder / "start.json"

    @property
    def worker(self) -> Path:
        """The worker's identity."""
        return self.folder / "worker.json"

    @property
    def heartbeat(self) -> Path:
        """Touched by the supervisor."""
        return self.folder / "heartbeat"

    @property
    def metrics(self) -> Path:
        """One JSON row per report of the worker."""
        return self.folder / "metrics.jsonl"

    @property
    def log(self) -> Path:
        """The worker's output."""
        return self.folder / "log.txt"

    @property
    def supervisor_log(self) -> Path:
        """The supervisor's log for the operator, JSON lines."""
        return self.folder / "supervisor.jsonl"

    @property
    def worker_log(self) -> Path:
        """The worker's log for the operator, JSON lines."""
        return self.folder / "worker.jsonl"

    @property
    def held(self) -> Path:
        """Number of the process that a text is bounded in just now: what outlives the process tells what ended it."""
        return self.folder / "held"

    @property
    def stop(self) -> Path:
        """A request to stop: by whom and why."""
        return self.folder / "stop.json"

    @property
    def waiting(self) -> Path:
        """Whom the supervisor waits for before it starts the worker; absent while it does not wait."""
        return self.folder / "waiting.json"

    @property
    def error(self) -> Path:
        """The worker's own sentence on why it cannot go on."""
        return self.folder / "error.json"

    @property
    def result(self) -> Path:
        """The worker's result, its last file."""
        return self.folder / "result.json"

    @property
    def exit(self) -> Path:
        """The exit record, the supervisor's last file; nothing is finished without it."""
        return self.folder / "exit.json"

    @property
    def out(self) -> Path:
        """What the worker makes."""
        return self.folder / "out"

    @property
    def campaign(self) -> str:
        """Name of the campaign whose job this is, as `CampaignPaths.job` places it."""
        return self.folder.parent.parent.name


@dataclass(frozen=True)
class MachinePaths:
    """Files that all campaigns of one user on one machine share."""

    folder: Path

    @property
    def turns(self) -> Path:
        """One file per job that has the accelerator or waits for it."""
        return self.folder / "accelerator"

    @property
    def queue_lock(self) -> Path:
        """Held by whoever changes the queue."""
        return self.turns / "queue.lock"

    def turn(self, number: int) -> Path:
        """Return the file of one turn."""
        return self.turns / f"{number:09d}.json"

    @property
    def steps(self) -> Path:
        """How long training steps took here, of all campaigns."""
        return self.folder / "steps.json"

    @property
    def ledger(self) -> Path:
        """Which cases were opened, trained and selected on, by all campaigns."""
        return self.folder / "ledger.db"


@dataclass(frozen=True)
class CampaignPaths:
    """Files of one campaign below the home.

    Args:
        home: Folder of all campaigns, `.vigil` unless moved.
        name: The campaign's name, a plain folder name.
    """

    home: Path
    name: str

    @property
    def root(self) -> Path:
        """The campaign's folder."""
        return self.home / self.name

    @property
    def db(self) -> Path:
        """The store: the truth about the campaign."""
        return self.root / "state.db"

    @property
    def head(self) -> Path:
        """The store's newest write, by number and hash: what a store that lost its log falls short of."""
        return self.root / "journal.head"

    @property
    def graph(self) -> Path:
        """LangGraph's checkpoints: where the graph stands, not what is true."""
        return self.root / "graph.db"

    @property
    def lock(self) -> Path:
        """Flocked by the agent that holds the campaign."""
        return self.root / "lock"

    @property
    def jobs(self) -> Path:
        """One folder per action key."""
        return self.root / "jobs"

    @property
    def data(self) -> Path:
        """Training files that runs were given in place of the campaign's own."""
        return self.root / "data"

    @property
    def pairs(self) -> Path:
        """Prompts and jobs of `vigil pairs`: one folder per key, none of them on record."""
        return self.root / "pairs"

    @property
    def exports(self) -> Path:
        """Jobs of `vigil export`: one folder per key."""
        return self.root / "exports"

    @property
    def artifacts(self) -> Path:
        """Content-addressed folders."""
        return self.root / "artifacts"

    @property
    def rows(self) -> Path:
        """Training rows as tokens, made again where they are gone."""
        return self.root / "rows"

    @property
    def notices(self) -> Path:
        """What is to be sent to the addresses of `notify.to`, a file each, and a mark for each that was tried."""
        return self.root / "notices"

    @property
    def backups(self) -> Path:
        """Verified copies of the store."""
        return self.root / "backups"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.root / "report.html"

    @property
    def source(self) -> Path:
        """Where the campaign file was when it was run last, for commands that name it."""
        return self.root / "source.json"

    @property
    def ledger(self) -> Path:
        """A ledger of opened cases of its own, where the campaign file says that it is an example."""
        return self.root / "ledger.db"

    @property
    def known_ledger(self) -> Path:
        """What campaigns of the home saw last of the machine's ledger, by number and hash: its loss shows."""
        return self.home / "ledger.head"

    @property
    def log(self) -> Path:
        """The agent's log for the operator, JSON lines."""
        return self.root / "agent.jsonl"

    @property
    def trackers(self) -> Path:
        """What trackers hold that keep it on this disk: a folder each, beside the logs of who fills them."""
        return self.root / "trackers"

    def tracker_lock(self, name: str) -> Path:
        """Return the file that is held by the process that fills a tracker."""
        return self.trackers / f"{name}.lock"

    def tracker_log(self, name: str) -> Path:
        """Return that process's log for the operator, JSON lines."""
        return self.trackers / f"{name}.jsonl"

    @property
    def promoted(self) -> Path:
        """Link to the promoted adapter's artifact folder."""
        return self.root / "promoted"

    def job(self, key: str) -> JobPaths:
        """Return the files of the job of one action key."""
        return JobPaths(self.jobs / key)

    def artifact(self, name: str) -> Path:
        """Return the folder of one artifact."""
        return self.artifacts / name[:16]
