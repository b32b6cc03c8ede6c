"""What each node may write. A node gets one handle; its tables are the only ones it reaches (design section 2).

Every method is one transaction: the lease is checked, the rows change, their images go to the journal, or nothing
happens at all. All are safe to repeat after a crash: what is there already is returned as it stands.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from state.errors import StoreError
from state.journal import Rows, Writer
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
from state.rows import json_text

Reading = Callable[[], AbstractContextManager[Rows]]
"""Gives the connection for the time of one read."""

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
            seen = (*belief.evidence, evidence) if evidence is not None else belief.evidence
            return writer.update(
                belief, status=status, superseded_by=superseded_by or belief.superseded_by, evidence=seen
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
                    metrics = {name: _said(value) for name, value in measurement.metrics.items()}
                    writer.insert(measurement.model_copy(update={"id": "", "metrics": metrics}))


class Doing(Handle):
    """Writes actions and jobs."""

    def intend(self, action: Action) -> Action:
        """Record the intent to act, before acting; the key's action is returned as it stands if there is one."""
        with self._writing() as writer:
            found = writer.find(Action, key=action.key)
            return found[0] if found else writer.insert(action)

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
            found = writer.find(Job, key=job.key)
            return found[0] if found else writer.insert(job.model_copy(update={"id": ""}))

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
            run: The experiment it starts; `decision` is filled in. An id from `read.next_id(Run)` is kept.

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
            found = writer.find(Campaign)
            if found:
                return found[0]
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
            found = writer.find(GoalVersion, version=goal.version)
            if not found:
                return writer.insert(goal)
            if found[0].file_hash != goal.file_hash:
                raise StoreError(f"Version {goal.version} of the goal is another file already.", what="goal")
            return found[0]

    def ask(self, approval: Approval) -> Approval:
        """Record a question; the one of the same kind about the same decision is returned as it stands."""
        with self._writing() as writer:
            found = writer.find(Approval, kind=approval.kind, decision=approval.decision)
            return found[0] if found else writer.insert(approval.model_copy(update={"id": ""}))

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


def _said(value: float | None) -> float | None:
    return value if value is not None and value - value == 0 else None


def _reasoned_from(root: str, beliefs: list[Belief]) -> list[Belief]:
    """Return the beliefs that stand on one, directly or through others, nearest first."""
    found: dict[str, Belief] = {}
    frontier = {root}
    while frontier:
        near = [
            belief
            for belief in beliefs
            if belief.id != root and belief.id not in found and not frontier.isdisjoint(belief.premises)
        ]
        found.update((belief.id, belief) for belief in near)
        frontier = {belief.id for belief in near}
    return list(found.values())


def _chooses(newest: Decision, decision: Decision, run: Run | None) -> bool:
    """Tell whether a decision is the newest one again."""
    own = {"id", "made_at"} | ({"run"} if run is not None and not decision.run else set())
    return json_text(newest.model_dump(mode="json", exclude=own)) == json_text(
        decision.model_dump(mode="json", exclude=own)
    )
