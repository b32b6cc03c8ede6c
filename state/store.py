"""The store of one campaign, kept through any crash: a handle for each node, requests of others, views.

A node gets one handle; its tables are the only ones it reaches (design section 2). Other processes read with
`state/reading.py` and write requests only.

Every method is one transaction: the lease is checked, the rows change, their images go to the journal, or nothing
happens at all. All are safe to repeat after a crash: what is there already is returned as it stands.

`vigil approve`, `reject`, `stop` and the web page come this way. They need no lease and touch no other table; a row
enters the journal when the holder has dealt with it.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

from sqlite_utils import Database

from state import backup
from state.clock import Clock
from state.errors import CorruptError, LeaseLostError, MigrationError, StoreError
from state.files import sweep
from state.journal import Head, HeadFile, Rows, Writer, encode, head_of, json_text, verify_rows
from state.lease import Lease, Unshared
from state.paths import CampaignPaths
from state.reading import Reading, Views, open_reader
from state.records import (
    Action,
    Answer,
    Approval,
    Belief,
    BeliefStatus,
    Bucket,
    Campaign,
    Commitment,
    Decision,
    Evidence,
    GoalVersion,
    Job,
    Json,
    Measurement,
    Request,
    Run,
)
from state.schema import (
    SCHEMA_VERSION,
    TABLES,
    authorizer,
    check_header,
    configure,
    connect,
    connect_to_read,
    migrate,
    restore_advice,
    spoken_errors,
    spoken_sql_errors,
)

Writing = Callable[[], AbstractContextManager[Writer]]
"""Opens one transaction in a node's name, or joins the one that is open."""

_OWN_BOOKKEEPING = frozenset({"id", "formed_at", "superseded_by"})


class Handle:
    """Base of the four.

    Args:
        writing: Opens a transaction in the node's name.
    """

    def __init__(self, writing: Writing) -> None:
        self._writing = writing


class Knowing(Handle):
    """Writes beliefs and measurements."""

    def believe(self, belief: Belief) -> Belief:
        """Record a belief; it supersedes what stood for the same subject and claim.

        A belief that says exactly what already stands is not written again: the standing one is returned. One that
        was refuted stays so when it is superseded, since what stood on it stays contaminated. Two confirmed beliefs
        that stand on the same fingerprints and give different values contradict each other: both are kept, marked
        `contradicted`, until a person settles it or what they stand on changes.
        """
        with self._writing() as writer:
            standing = [
                old for old in writer.find(Belief, subject=belief.subject, claim=belief.claim) if not old.superseded_by
            ]
            for old in standing:
                if _says(old) == _says(belief) or (old.status == "contradicted" and _repeats(old, belief)):
                    return old
            new = belief.model_copy(update={"id": writer.next_id(Belief), "superseded_by": ""})
            if standing and _contradict(standing[-1], new):
                for old in standing[:-1]:
                    writer.update(old, superseded_by=new.id)
                writer.update(standing[-1], status="contradicted")
                return writer.insert(new.model_copy(update={"status": "contradicted"}))
            for old in standing:
                kept = "refuted" if old.status == "refuted" else "superseded"
                writer.update(old, status=kept, superseded_by=new.id)
            return writer.insert(new)

    def settle(self, belief_id: str, evidence: Evidence) -> Belief:
        """Let one of two contradicting beliefs stand, on a person's word; the other is refuted by it.

        Raises:
            NotFoundError: There is no such belief.
            StoreError: It contradicts nothing.
        """
        with self._writing() as writer:
            chosen = writer.get(Belief, belief_id)
            if chosen.status != "contradicted" or chosen.superseded_by:
                raise StoreError(f"Belief {belief_id} is {chosen.status}; only a contradicted one can be settled.")
            for other in writer.find(Belief, subject=chosen.subject, claim=chosen.claim, status="contradicted"):
                if other.id != belief_id and not other.superseded_by:
                    writer.update(
                        other, status="refuted", superseded_by=belief_id, evidence=(*other.evidence, evidence)
                    )
            return writer.update(chosen, status="fresh", evidence=(*chosen.evidence, evidence))

    def mark(
        self, belief_id: str, status: BeliefStatus, superseded_by: str = "", evidence: Evidence | None = None
    ) -> Belief:
        """Change a belief's status, with what was seen.

        Raises:
            NotFoundError: There is no such belief.
            StoreError: It would be the second fresh one of its claim.
        """
        with self._writing() as writer:
            belief = writer.get(Belief, belief_id)
            others = writer.find(Belief, subject=belief.subject, claim=belief.claim, status="fresh")
            if status == "fresh" and any(other.id != belief_id for other in others):
                raise StoreError(
                    f"Belief {belief_id} cannot be fresh: {others[0].id} is, of {belief.subject} {belief.claim}.",
                    what=belief_id,
                )
            grounds = (*belief.evidence, evidence) if evidence is not None else belief.evidence
            return writer.update(
                belief, status=status, superseded_by=superseded_by or belief.superseded_by, evidence=grounds
            )

    def refute(self, belief_id: str, evidence: Evidence) -> list[str]:
        """Record that evidence says a belief is false; fresh beliefs reasoned from it become stale.

        Returns:
            Ids of everything that stood on it, transitively: beliefs, then decisions, then the runs these judged or
            started. Decisions and runs are not changed here; Deciding draws the consequence.

        Raises:
            NotFoundError: There is no such belief.
        """
        with self._writing() as writer:
            belief = writer.get(Belief, belief_id)
            writer.update(belief, status="refuted", evidence=(*belief.evidence, evidence))
            contaminated = _reasoned_from(belief_id, writer.find(Belief))
            for other in contaminated:
                if other.status == "fresh":
                    writer.update(other, status="stale")
            beliefs = {belief_id, *(other.id for other in contaminated)}
            decisions = [
                each for each in writer.find(Decision) if any(premise.belief in beliefs for premise in each.premises)
            ]
            runs = {each.run for each in decisions if each.run}
            return [other.id for other in contaminated] + [each.id for each in decisions] + sorted(runs)

    def measure(self, measurements: Iterable[Measurement]) -> None:
        """Record measured cases; a case that the same evaluation has measured already is left as it is.

        A metric that is not a finite number is recorded as None: the grader could not say.
        """
        with self._writing() as writer:
            known: dict[str, set[tuple[str, str, str]]] = {}
            for measurement in measurements:
                evaluation = measurement.evaluation
                if evaluation not in known:
                    known[evaluation] = {
                        (row["split"], row["use"], row["case"])
                        for row in writer.select(
                            'SELECT split, use, "case" FROM measurement WHERE evaluation = ?', (evaluation,)
                        )
                    }
                place = (measurement.split, measurement.use, measurement.case)
                if place not in known[evaluation]:
                    known[evaluation].add(place)
                    metrics = {name: _finite(value) for name, value in measurement.metrics.items()}
                    writer.insert(measurement.model_copy(update={"id": "", "metrics": metrics}))


class Doing(Handle):
    """Writes actions and jobs."""

    def intend(self, action: Action) -> Action:
        """Record the intent to act, before acting; the key's action is returned as it stands if there is one."""
        with self._writing() as writer:
            known = writer.find(Action, key=action.key)
            return known[0] if known else writer.insert(action)

    def finish(self, key: str, result: Json, side_effects: Sequence[str] = ()) -> Action:
        """Record that an action was done.

        Raises:
            NotFoundError: It was never intended.
            StoreError: It has failed already.
        """
        return self._end(key, "done", result, side_effects)

    def fail(self, key: str, result: Json, side_effects: Sequence[str] = ()) -> Action:
        """Record that an action failed.

        Raises:
            NotFoundError: It was never intended.
            StoreError: It is done already.
        """
        return self._end(key, "failed", result, side_effects)

    def _end(self, key: str, state: Literal["done", "failed"], result: Json, side_effects: Sequence[str]) -> Action:
        with self._writing() as writer:
            action = writer.get(Action, key)
            if action.state == state:
                return action
            if action.state != "intent":
                raise StoreError(f"Action {key} is {action.state} already and cannot be {state}.", what=key)
            return writer.update(
                action, state=state, result=result, side_effects=tuple(side_effects), finished_at=writer.now
            )

    def record_job(self, job: Job) -> Job:
        """Record a job; its key's job is returned as it stands if there is one."""
        with self._writing() as writer:
            known = writer.find(Job, key=job.key)
            return known[0] if known else writer.insert(job.model_copy(update={"id": ""}))

    def update_job(self, key: str, **fields: Any) -> Job:
        """Copy what a job's files say into its row.

        Raises:
            NotFoundError: The key has no job.
        """
        with self._writing() as writer:
            return writer.update(writer.one(Job, key=key), **fields)


class Deciding(Handle):
    """Writes decisions, commitments and runs."""

    def decide(self, decision: Decision, commitments: Iterable[Commitment] = (), run: Run | None = None) -> Decision:
        """Record a decision, what it commits to and the run it starts, all or nothing.

        A decision equal to the newest one (its time and run aside) is that one, repeated after a crash: it is returned
        and nothing is written.

        Args:
            decision: The choice; `run` is filled in from the new run unless it judges another one.
            commitments: What will be done; `decision` is filled in.
            run: The experiment it starts; `decision` is filled in. Its id, where it has one, must be the next.

        Raises:
            StoreError: The run's id is not the next one.
        """
        with self._writing() as writer:
            newest = writer.last(Decision)
            if newest is not None and _chooses(newest, decision, run):
                return newest
            decision_id = writer.next_id(Decision)
            if run is not None:
                run_id = writer.next_id(Run)
                if run.id not in {"", run_id}:
                    raise StoreError(f"The next run is {run_id}, not {run.id}.", what="run", value=run.id)
                run = writer.insert(run.model_copy(update={"id": run_id, "decision": decision_id}))
                decision = decision.model_copy(update={"run": decision.run or run.id})
            decision = writer.insert(decision.model_copy(update={"id": decision_id}))
            for commitment in commitments:
                writer.insert(commitment.model_copy(update={"id": "", "decision": decision_id}))
            return decision

    def judge(self, run_id: str, bucket: Bucket | None, state: Literal["judged", "lost"] = "judged") -> Run:
        """Record a run's verdict; a lost run gets no bucket.

        Raises:
            NotFoundError: There is no such run.
        """
        return self.update_run(run_id, bucket=bucket, state=state)

    def update_run(self, run_id: str, **fields: Any) -> Run:
        """Change fields of a run.

        Raises:
            NotFoundError: There is no such run.
        """
        with self._writing() as writer:
            return writer.update(writer.get(Run, run_id), **fields)

    def close_commitment(
        self, commitment_id: str, status: Literal["kept", "cancelled", "lapsed"], closed_by: str
    ) -> Commitment:
        """Close an open commitment; a closed one stays as it was closed first.

        Raises:
            NotFoundError: There is no such commitment.
        """
        with self._writing() as writer:
            commitment = writer.get(Commitment, commitment_id)
            if commitment.status != "open":
                return commitment
            return writer.update(commitment, status=status, closed_by=closed_by)


class Agent(Handle):
    """Writes the campaign, its goal, questions and what became of requests.

    Args:
        writing: Opens a transaction in the agent's name.
        reading: Gives access to the rows without a transaction: requests are looked for every second.
    """

    def __init__(self, writing: Writing, reading: Reading) -> None:
        super().__init__(writing)
        self._reading = reading

    def begin(self, goal: GoalVersion) -> Campaign:
        """Start the campaign with the first version of its goal; one that has begun is returned as it stands."""
        with self._writing() as writer:
            known = writer.find(Campaign)
            if known:
                return known[0]
            writer.insert(goal)
            return writer.insert(
                Campaign(
                    name=goal.campaign,
                    goal_version=goal.version,
                    started_at=writer.now,
                    agent_starts=1,
                    epoch=writer.epoch,
                )
            )

    def set_campaign(self, **fields: Any) -> Campaign:
        """Change fields of the campaign row.

        Raises:
            NotFoundError: The campaign has not begun.
        """
        with self._writing() as writer:
            return writer.update(writer.one(Campaign), **fields)

    def record_goal(self, goal: GoalVersion) -> GoalVersion:
        """Record a new version of the goal; a version that is there already is returned as it stands.

        Raises:
            StoreError: That version is there and says something else.
        """
        with self._writing() as writer:
            known = writer.find(GoalVersion, version=goal.version)
            if not known:
                return writer.insert(goal)
            if known[0].file_hash != goal.file_hash:
                raise StoreError(f"Version {goal.version} of the goal is another file already.", what="goal")
            return known[0]

    def ask(self, approval: Approval) -> Approval:
        """Record a question; the one of the same kind about the same decision is returned as it stands."""
        with self._writing() as writer:
            known = writer.find(Approval, kind=approval.kind, decision=approval.decision)
            return known[0] if known else writer.insert(approval.model_copy(update={"id": ""}))

    def answer(self, approval_id: str, answer: Answer, by: str, reason: str = "") -> Approval:
        """Answer a question; the first answer wins, and the row is returned as it stands.

        Raises:
            NotFoundError: There is no such question.
        """
        with self._writing() as writer:
            approval = writer.get(Approval, approval_id)
            if approval.answer is not None:
                return approval
            return writer.update(approval, answer=answer, answered_by=by, reason=reason, answered_at=writer.now)

    def pending_requests(self) -> list[Request]:
        """Return what other processes asked for and nobody has dealt with, oldest first."""
        with self._reading() as rows:
            return [request for request in rows.find(Request) if request.applied_at is None]

    def apply_request(self, request_id: str, outcome: str) -> Request:
        """Record what became of a request; the first outcome stays.

        Raises:
            NotFoundError: There is no such request.
        """
        with self._writing() as writer:
            request = writer.get(Request, request_id)
            if request.applied_at is not None:
                return request
            return writer.update(request, applied_at=writer.now, outcome=outcome)


def _says(belief: Belief) -> str:
    """Return what a belief says, without the store's own bookkeeping."""
    return json_text(belief.model_dump(mode="json", exclude=set(_OWN_BOOKKEEPING)))


def _repeats(old: Belief, new: Belief) -> bool:
    """Say whether a belief only says again what one of two contradicting ones said of the same world."""
    return old.value == new.value and old.stands_on == new.stands_on


def _contradict(old: Belief, new: Belief) -> bool:
    """Say whether two beliefs of one claim say different things about the very same world."""
    sure = old.tag == new.tag == "confirmed" and old.status == "fresh" and new.status in {"fresh", "refuted"}
    return sure and bool(old.stands_on) and old.stands_on == new.stands_on and old.value != new.value


def _finite(value: float | None) -> float | None:
    return value if value is not None and value - value == 0 else None


def _reasoned_from(root: str, beliefs: list[Belief]) -> list[Belief]:
    """Return the beliefs that stand on one, directly or through others, nearest first."""
    reached: dict[str, Belief] = {}
    frontier = {root}
    while frontier:
        near = [
            belief
            for belief in beliefs
            if belief.id != root and belief.id not in reached and not frontier.isdisjoint(belief.premises)
        ]
        reached.update((belief.id, belief) for belief in near)
        frontier = {belief.id for belief in near}
    return list(reached.values())


def _chooses(newest: Decision, decision: Decision, run: Run | None) -> bool:
    """Tell whether a decision is the newest one again."""
    own = {"id", "made_at"} | ({"run"} if run is not None and not decision.run else set())
    return json_text(newest.model_dump(mode="json", exclude=own)) == json_text(
        decision.model_dump(mode="json", exclude=own)
    )


def insert_request(paths: CampaignPaths, request: Request) -> Request:
    """Leave a request for the campaign's holder.

    Returns:
        The request with its id.

    Raises:
        NotFoundError: There is no such campaign.
        CorruptError: The store is damaged; nothing was written.
        MigrationError: A newer Vigil wrote the store, or an older one that has no place for this request.
        StoreError: The store cannot be written.
        LimitExceededError: The disk is full.
    """
    # A writer drops what it cannot read of a damaged log; whoever only asks for something must not.
    open_reader(paths).close()
    with spoken_errors(paths.db):
        connection = connect(paths.db)
        try:
            version = check_header(connection, paths.db)
            _refuse_lost(request, version, paths.db)
            configure(connection)
            return _insert(connection, request, version)
        finally:
            connection.close()


def last_request(paths: CampaignPaths) -> int:
    """Return the number of the newest request; 0 before there is one, or where the store cannot be read yet."""
    if not paths.db.exists():
        return 0
    try:
        # Read-only: a writer drops what it cannot read of a damaged log.
        with closing(connect_to_read(paths.db)) as connection:
            return int(connection.execute("SELECT coalesce(max(number), 0) FROM request").fetchone()[0])
    except (sqlite3.Error, UnicodeError):
        # A store that has no tables yet; a damaged one is told by whoever opens it.
        return 0


def _refuse_lost(request: Request, version: int, path: Path) -> None:
    """Refuse a request that a store of an older version has no column for."""
    if request.payload and version < TABLES["request"].column("payload").since:
        raise MigrationError(
            f"{path} was written by an older Vigil; run vigil run FILE once, which brings it up to date, then repeat"
            " this command.",
            what="user_version",
            value=version,
            limit=SCHEMA_VERSION,
            where=str(path),
        )


def _insert(connection: sqlite3.Connection, request: Request, version: int) -> Request:
    table = TABLES["request"]
    connection.execute("BEGIN IMMEDIATE")
    number = int(connection.execute("SELECT coalesce(max(number), 0) + 1 FROM request").fetchone()[0])
    given = request.model_copy(update={"id": f"{table.letter}{number}", "applied_at": None, "outcome": ""})
    values = encode(table, given.model_dump(mode="json"))
    row = {"number": number, **{name: value for name, value in values.items() if table.column(name).since <= version}}
    names = ", ".join(f'"{name}"' for name in row)
    marks = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO request ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608 - our own names
    connection.execute("COMMIT")
    return given


BACKUP_EVERY_S = 3600.0
"""Opening makes a backup when the newest is older, so that a crash loop does not push the good ones out."""


class Holder(Protocol):
    """What the store asks of a lease."""

    epoch: int

    @property
    def is_held(self) -> bool:
        """Whether writing is still allowed."""


class Store:
    """A campaign's record, open for writing.

    Args:
        connection: An open, migrated and verified connection.
        place: The file, for messages.
        clock: Time of writes.
        lease: The right to write.
    """

    def __init__(self, connection: sqlite3.Connection, place: Path, clock: Clock, lease: Holder) -> None:
        self._connection = connection
        self._place = place
        self._clock = clock
        self._lease = lease
        self._paths: CampaignPaths | None = None
        self._head: HeadFile | None = None
        self._mutex = threading.RLock()
        self._nodes: list[str] = []
        self._database = Database(connection)
        self._connection.set_authorizer(authorizer(""))
        self.read = Views(self._reading, is_only_writer=True)
        self.knowing = Knowing(self._writing("knowing"))
        self.doing = Doing(self._writing("doing"))
        self.deciding = Deciding(self._writing("deciding"))
        self.agent = Agent(self._writing("agent"), self._reading)

    @classmethod
    def open(cls, paths: CampaignPaths, clock: Clock, lease: Lease) -> Self:
        """Open a campaign's store, checked from end to end, and become its one writer.

        Side effects: creates or migrates the file (after a backup), raises the epoch, makes a backup when the newest
        is older than an hour.

        Raises:
            LeaseLostError: The lease is not held, or is another campaign's.
            MigrationError: A newer Vigil wrote the file, or a migration failed.
            CorruptError: A check failed; the sentence says how to restore.
            LimitExceededError: The disk is full.
        """
        if not lease.is_held or lease.paths != paths:
            raise LeaseLostError(f"Opening {paths.name} needs its lease.", what="lease", where=str(paths.lock))
        _sweep(paths)
        known = backup.acknowledged(paths)
        with backup.with_offer(paths), spoken_errors(paths.db):
            _refuse_missing(paths, known)
            _verify_file(paths, known)
            connection = connect(paths.db)
            try:
                _prepare(connection, paths, clock)
                store = cls(connection, paths.db, clock, lease)
                store._paths = paths
                store._head = HeadFile(paths.head, paths.db)
                store._take_over()
                age_s = backup.newest_age_s(paths, clock)
                # Under a clock that was set back the newest seems to come from the future.
                if age_s is None or not 0 <= age_s < BACKUP_EVERY_S:
                    store.backup()
            except BaseException:
                connection.close()
                raise
        return store

    @classmethod
    def in_memory(cls, clock: Clock) -> Self:
        """Return a store that no other process sees and no crash survives, for tests and rehearsals."""
        place = Path(":memory:")
        connection = connect(str(place))
        migrate(connection, place)
        store = cls(connection, place, clock, Unshared())
        store._take_over()
        return store

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Join several writes into one: all are kept or none. A transaction inside another is a part of it.

        Raises:
            LeaseLostError: Another process has taken the campaign; nothing was written.
            LimitExceededError: The disk is full; nothing was written.
            StoreError: SQLite refused.
        """
        with self._mutex, spoken_sql_errors(self._place):
            if self._connection.in_transaction:
                with self._database.atomic():
                    yield
                return
            # Deferred transactions that read first failed at once in half of all cases with two writers.
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._check_lease()
                yield
                self._connection.execute("COMMIT")
                if self._head is not None:
                    self._head.write(head_of(self._connection))
            finally:
                # After a commit, and where SQLite has rolled back by itself, this does nothing.
                self._connection.rollback()

    def backup(self) -> Path:
        """Make a verified copy now and keep the newest three.

        Raises:
            StoreError: The store is in memory.
            CorruptError: The copy failed its checks, so the store is damaged.
            LimitExceededError: The disk is full.
        """
        if self._paths is None:
            raise StoreError("A store in memory has no backups.", what="backup")
        with self._mutex:
            return backup.backup(self._connection, self._paths, self._clock)

    def close(self) -> None:
        """Close the file; the lease stays with whoever acquired it."""
        self._connection.close()
        if self._head is not None:
            self._head.close()
            self._head = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[Rows]:
        with self._mutex, spoken_errors(self._place):
            yield Rows(self._connection)

    def _writing(self, node: str) -> Callable[[], AbstractContextManager[Writer]]:
        return partial(self._write, node)

    @contextmanager
    def _write(self, node: str) -> Iterator[Writer]:
        """Open a transaction in one node's name: its tables can be written, no others."""
        with self.transaction(), spoken_errors(self._place):
            self._nodes.append(node)
            self._connection.set_authorizer(authorizer(node))
            try:
                yield Writer(self._database, node, self._lease.epoch, self._clock.now())
            finally:
                self._nodes.pop()
                self._connection.set_authorizer(authorizer(self._nodes[-1] if self._nodes else ""))

    def _epoch(self) -> int:
        row = self._connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
        return int(row[0]) if row else 0

    def _check_lease(self) -> None:
        epoch = self._epoch()
        if not self._lease.is_held or epoch != self._lease.epoch:
            raise LeaseLostError(
                f"This process no longer holds the campaign (it is number {self._lease.epoch} of {epoch});"
                " nothing was written.",
                what="epoch",
                value=self._lease.epoch,
                limit=epoch,
                where=str(self._place),
            )

    def _take_over(self) -> None:
        """Raise the epoch, which shuts every earlier holder out, and count the start."""
        self._lease.epoch = self._epoch()
        with self._write("lease") as writer:
            epoch = self._lease.epoch + 1
            writer.epoch = epoch
            meta = TABLES["meta"]
            row = {"name": "epoch", "value": str(epoch)}
            if epoch == 1:
                writer.insert_row(meta, 1, row)
            else:
                writer.update_row(meta, row, {"value": row["value"]})
            for campaign in writer.find(Campaign):
                writer.update(campaign, epoch=epoch, agent_starts=campaign.agent_starts + 1)
        self._lease.epoch = epoch


def _sweep(paths: CampaignPaths) -> None:
    """Delete what killed processes left half written; nobody else who holds the campaign is alive."""
    sweep(paths.root, ".promoted.*")
    sweep(paths.root, ".restored.part")
    sweep(paths.backups, ".*.part*")
    sweep(paths.artifacts, ".*")
    for folder in paths.jobs.glob("*"):
        sweep(folder)


def _refuse_missing(paths: CampaignPaths, known: Head | None) -> None:
    """Refuse to begin anew where a store was lost: its jobs may still be running."""
    is_there = paths.db.exists() and paths.db.stat().st_size > 0
    if not is_there and (known is not None or backup.backups(paths)):
        raise CorruptError(
            f"The store {paths.db} is gone or empty, but there are backups of it. {restore_advice(paths.db)}",
            where=str(paths.db),
        )


def _verify_file(paths: CampaignPaths, known: Head | None) -> None:
    """Check a file as it is; read-only, since a writer drops what it cannot read of the log, and with it what was."""
    if not paths.db.exists() or paths.db.stat().st_size == 0:
        return
    with closing(connect_to_read(paths.db)) as connection:
        backup.verify_readable(connection, paths, known)


def _prepare(connection: sqlite3.Connection, paths: CampaignPaths, clock: Clock) -> None:
    """Bring a checked file to this version."""
    version = check_header(connection, paths.db)
    configure(connection)
    if 0 < version < SCHEMA_VERSION:
        backup.backup(connection, paths, clock)
    if version < SCHEMA_VERSION:
        migrate(connection, paths.db)
        verify_rows(connection, paths.db)
