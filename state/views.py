"""Typed reading for the holder of a campaign. Other processes use `state/reading.py`, which costs no imports."""

from typing import TypeVar

from state.handles import Reading
from state.journal import Rows, records
from state.records import (
    Action,
    ActionState,
    Approval,
    Belief,
    BeliefStatus,
    Campaign,
    Commitment,
    Decision,
    GoalVersion,
    Job,
    Measurement,
    Record,
    Request,
    Run,
    Side,
    SplitUse,
    Tag,
)
from state.rows import Row

_AnyRecord = TypeVar("_AnyRecord", bound=Record)


_NEVER: tuple[None, None] = (None, None)


class _Kept:
    """All beliefs as read last: a visit asks for them many times over, and of ten thousand a few have changed."""

    def __init__(self) -> None:
        self._changes: int | None = None
        self._seen: dict[int, tuple[Row, Belief]] = {}
        self._beliefs: list[Belief] = []

    def beliefs(self, rows: Rows) -> list[Belief]:
        """Return all beliefs; only those whose row differs from the one seen last are built anew."""
        if rows.changes is None or rows.changes != self._changes:
            now = rows.select("SELECT * FROM belief ORDER BY number")
            fresh = [row for row in now if self._seen.get(row["number"], _NEVER)[0] != row]
            built = zip(fresh, records(Belief, fresh), strict=True)
            self._seen |= {row["number"]: (row, belief) for row, belief in built}
            self._beliefs = [self._seen[row["number"]][1] for row in now]
            self._changes = rows.changes
        return list(self._beliefs)


class Views:
    """Every record of the campaign, in the order of writing.

    Args:
        reading: Gives access to the rows.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._kept = _Kept()

    def _find(self, kind: type[_AnyRecord], /, **equals: object) -> list[_AnyRecord]:
        with self._reading() as rows:
            return rows.find(kind, **equals)

    def _one(self, kind: type[_AnyRecord], /, **equals: object) -> _AnyRecord:
        with self._reading() as rows:
            return rows.one(kind, **equals)

    def campaign(self) -> Campaign:
        """Return the campaign row.

        Raises:
            NotFoundError: The campaign has not begun.
        """
        return self._one(Campaign)

    def goals(self) -> list[GoalVersion]:
        """Return every version of the goal."""
        return self._find(GoalVersion)

    def goal(self, version: int | None = None) -> GoalVersion:
        """Return one version of the goal, the newest by default.

        Raises:
            NotFoundError: There is no such version.
        """
        return self._one(GoalVersion, version=self.campaign().goal_version if version is None else version)

    def beliefs(
        self,
        subject: str | None = None,
        claim: str | None = None,
        status: BeliefStatus | None = None,
        tag: Tag | None = None,
    ) -> list[Belief]:
        """Return beliefs, superseded ones too unless a status is asked for."""
        if {subject, claim, status, tag} == {None}:
            with self._reading() as rows:
                return self._kept.beliefs(rows)
        return self._find(Belief, subject=subject, claim=claim, status=status, tag=tag)

    def all_standing(self) -> list[Belief]:
        """Return what is now believed, whatever its status; what was superseded is left out."""
        return [belief for belief in self.beliefs() if not belief.superseded_by]

    def standing(self, subject: str, claim: str) -> Belief | None:
        """Return what is now believed of a claim, whatever its status, or None where nothing was ever believed."""
        found = [belief for belief in self.beliefs(subject, claim) if not belief.superseded_by]
        return found[-1] if found else None

    def belief(self, belief_id: str) -> Belief:
        """Return one belief.

        Raises:
            NotFoundError: There is none.
        """
        return self._one(Belief, id=belief_id)

    def actions(self, state: ActionState | None = None) -> list[Action]:
        """Return actions."""
        return self._find(Action, state=state)

    def action(self, key: str) -> Action:
        """Return one action.

        Raises:
            NotFoundError: There is none.
        """
        return self._one(Action, key=key)

    def jobs(self) -> list[Job]:
        """Return jobs."""
        return self._find(Job)

    def job(self, key: str) -> Job:
        """Return the job of one action key.

        Raises:
            NotFoundError: There is none.
        """
        return self._one(Job, key=key)

    def runs(self) -> list[Run]:
        """Return runs."""
        return self._find(Run)

    def run(self, run_id: str) -> Run:
        """Return one run.

        Raises:
            NotFoundError: There is none.
        """
        return self._one(Run, id=run_id)

    def measurements(
        self,
        evaluation: str | None = None,
        run: str | None = None,
        side: Side | None = None,
        split: str | None = None,
        use: SplitUse | None = None,
    ) -> list[Measurement]:
        """Return measured cases."""
        return self._find(Measurement, evaluation=evaluation, run=run, side=side, split=split, use=use)

    def decisions(self) -> list[Decision]:
        """Return decisions."""
        return self._find(Decision)

    def decision(self, decision_id: str) -> Decision:
        """Return one decision.

        Raises:
            NotFoundError: There is none.
        """
        return self._one(Decision, id=decision_id)

    def commitments(self, status: str | None = None) -> list[Commitment]:
        """Return commitments, all or those of one status."""
        return self._find(Commitment, status=status)

    def approvals(self, *, pending: bool = False) -> list[Approval]:
        """Return questions, all or those without an answer."""
        return [approval for approval in self._find(Approval) if not (pending and approval.answer)]

    def approval(self, approval_id: str) -> Approval:
        """Return one question.

        Raises:
            NotFoundError: There is none.
        """
        return self._one(Approval, id=approval_id)

    def requests(self) -> list[Request]:
        """Return what other processes asked for."""
        return self._find(Request)

    def next_id(self, kind: type[Record]) -> str:
        """Return the id that the next record of a kind will get; with one writer it cannot be taken in between."""
        with self._reading() as rows:
            return rows.next_id(kind)
