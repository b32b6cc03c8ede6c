"""What the planner may look at: the rows of the record, the goal and the time, with the questions asked of them."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pydantic import ConfigDict, Field

from policies import cost
from policies.comparison import Noise
from policies.gate import GateVerdict
from policies.ledger import LEAST, LEDGER, Opening, Recorded, Spending, goal_of, is_more, levels
from policies.recipes import Suggest
from policies.validity import Contamination, with_replaced_weights
from policies.verdict import BucketVerdict
from state.goal import Gate, Goal, split_of
from state.hashing import hash_json
from state.records import (
    CAMPAIGN_ENDED,
    Action,
    Approval,
    Belief,
    Campaign,
    Commitment,
    Decision,
    GoalVersion,
    Json,
    Measurement,
    Record,
    Request,
    Run,
    TrainResult,
)

WITHDRAWN = "withdrawn"
"""Who closed a question about an act that no longer fits the world; nobody refused it."""

_NOTHING = Contamination()


class Judgement(Record):
    """What a decision that judges a run holds as its `verdict`."""

    model_config = ConfigDict(extra="ignore")

    gate: GateVerdict
    """On the confirmation cases where they were opened for the run, else on the selection cases."""
    bucket: BucketVerdict
    harness: str = ""
    """What the run was measured under; empty: an older Vigil did not say."""
    dense: dict[str, str] = Field(default_factory=dict)
    """`split.metric` -> the metric on which its progress was read."""
    selection: GateVerdict | None = None
    """On the selection cases, where `gate` is on the confirmation cases."""
    changed_inputs: tuple[str, ...] = ()
    """What changed on the disk while the run was trained."""

    def recorded(self) -> Json:
        """Return it as it goes on record: without what there is nothing of."""
        return {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, [])}


@dataclass(frozen=True)
class View:
    """What the planner may look at.

    Args:
        goal: The campaign as understood now.
        goal_version: Its version.
        now: Unix seconds.
        campaign: The campaign's row.
        previous_session: Ids of decisions and keys of actions from before this session of the agent: clocks change.
        utc_offset_s: Local time minus UTC, for `budget.until`.
        used_gb: What the campaign's folder holds, decimal gigabytes; 0 where no `budget.disk_gb` asks for it.
    """

    goal: Goal
    goal_version: int
    now: float
    campaign: Campaign
    previous_session: frozenset[str]
    utc_offset_s: float
    used_gb: float
    beliefs: tuple[Belief, ...] = ()
    runs: tuple[Run, ...] = ()
    actions: tuple[Action, ...] = ()
    decisions: tuple[Decision, ...] = ()
    approvals: tuple[Approval, ...] = ()
    commitments: tuple[Commitment, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    requests: tuple[Request, ...] = ()
    """What people asked of runs, as it was accepted: `confirm` and `promote`."""
    invalidated: Contamination = _NOTHING
    """What stands on refuted beliefs, or on weights that are no longer there, and does not count."""
    missing_fused: frozenset[str] = frozenset()
    """Adapters whose fused model, made for a class to start from, is gone or no longer as it was made."""
    saves: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Key of an ended training -> name of a resumable save on disk -> bytes; empty without a rule of retention."""
    resumable: Mapping[str, str] = field(default_factory=dict)
    """Key of a training that ended as planned -> name of the save at its last step, which a longer run may go on from.
    """
    gate_since: int = 1
    """First version of the goal from which on the gate is read as it is now; older verdicts are given again."""
    taught_since: int = 1
    """First version of the goal from which on model, track and data are as they are now."""
    suggest: Suggest | None = None
    """Samples numbers from the runs so far; None: rules alone propose."""

    @cached_property
    def measured(self) -> dict[str, list[Measurement]]:
        """Weights hash -> what was measured of them, in order: a verdict needs those of three, a record holds many."""
        by_weights: dict[str, list[Measurement]] = {}
        for row in self.measurements:
            by_weights.setdefault(row.weights, []).append(row)
        return by_weights

    @cached_property
    def _runs(self) -> dict[str, Run]:
        return {run.id: run for run in self.runs}

    @cached_property
    def _decisions(self) -> dict[str, Decision]:
        return {decision.id: decision for decision in self.decisions}

    @cached_property
    def _trainings(self) -> dict[str, Action]:
        return {str(a.inputs.get("recipe_hash")): a for a in self.actions if a.kind == "train"}

    @cached_property
    def _judged(self) -> dict[str, Decision]:
        return {decision.run: decision for decision in self.decisions if decision.bucket is not None}

    @cached_property
    def _judgements(self) -> dict[str, Judgement]:
        verdicts = {each.id: each.verdict for each in self.decisions if "bucket" in each.verdict}
        return {decision: Judgement.model_validate(verdict) for decision, verdict in verdicts.items()}

    def run(self, run_id: str) -> Run | None:
        """Return the run with an id."""
        return self._runs.get(run_id)

    def decision(self, decision_id: str) -> Decision | None:
        """Return the decision with an id."""
        return self._decisions.get(decision_id)

    def training(self, run: Run) -> Action | None:
        """Return the newest training of a run."""
        return self._trainings.get(run.recipe_hash)

    def trained(self, run: Run) -> TrainResult:
        """Return what the newest training of a run left, at the save that it is judged at; empty before."""
        training = self.training(run)
        return TrainResult() if training is None else training.made

    def judged(self, run: str) -> Decision | None:
        """Return the newest decision that gave a run its bucket."""
        return self._judged.get(run)

    def judgement(self, decision: Decision) -> Judgement | None:
        """Return what a decision that judges a run holds; None of any other."""
        return self._judgements.get(decision.id)

    def verdict(self, run: Run) -> BucketVerdict | None:
        """Return the newest verdict on a run."""
        newest_first = (
            self._judgements[d.id] for d in reversed(self.decisions) if d.run == run.id and d.id in self._judgements
        )
        newest = next(newest_first, None)
        return newest.bucket if newest is not None else None

    @property
    def has_ended(self) -> bool:
        """Whether the campaign's row says so."""
        return self.campaign.state in CAMPAIGN_ENDED

    def identity(self, name: str) -> str:
        """Return the hash that Knowing recorded for `harness`, `weights`, `data` or `census`."""
        belief = self.belief(f"identity:{name}", "is")
        return str(belief.value) if belief is not None else ""

    @property
    def start(self) -> str:
        """Hash of the weights that the first run starts from: the base, or the base with the campaign's adapter."""
        return self.identity("parent") or self.identity("weights")

    def on_present_weights(self) -> "View":
        """Return the view in which runs on weights that were replaced since do not count."""
        gone = with_replaced_weights(self.invalidated, self.runs, self.identity("weights"), self.start)
        return replace(self, invalidated=gone)

    def belief(self, subject: str, claim: str) -> Belief | None:
        """Return the belief that stands about a subject's claim."""
        return next(
            (b for b in self.beliefs if b.subject == subject and b.claim == claim and b.status != "superseded"), None
        )

    @property
    def spending(self) -> Spending:
        """What of alpha is spent on the confirmation cases as they are; by this record alone where no ledger was read.

        Openings of an older Vigil are in no ledger; they count while the harness is the one they were made under.
        """
        belief = self.belief(*LEDGER)
        ledger = Recorded(cases="")
        if belief is not None:
            ledger = Recorded.model_validate({name: belief.value[name] for name in Recorded.model_fields}, strict=False)
        own: dict[tuple[str, str, str], Opening] = {}
        for action in self.actions:
            if action.kind == "confirm" and (belief is None or self._is_unwritten(action)):
                opening = self._opening(action)
                own.setdefault(opening.question, opening)
        openings = (*(each for each in own.values() if each.cases == ledger.cases), *ledger.openings)
        gate, read = self.goal.gate, tuple(self.own_openings)
        return Spending(alpha=gate.alpha, most=gate.max_confirmations, openings=openings, cases=ledger.cases, read=read)

    @property
    def own_openings(self) -> list[Opening]:
        """The acts of this record that opened confirmation cases, oldest first."""
        return [self._opening(action) for action in self.actions if action.kind == "confirm"]

    def _is_unwritten(self, action: Action) -> bool:
        return "alpha" not in action.inputs and action.inputs.get("harness") == self.identity("harness")

    def _opening(self, action: Action) -> Opening:
        """Return an act of this record as an opening of confirmation cases."""
        inputs = action.inputs
        return Opening(
            key=action.key,
            alpha=float(inputs.get("alpha", self.goal.gate.confirmation_alpha)),
            candidate=inputs.get("candidate") or self.candidate_of(str(inputs.get("weights"))),
            goal=inputs.get("goal") or goal_of(self.goal.gate),
            cases=inputs.get("case_set") or self.spent_on,
            at=action.created_at,
        )

    @property
    def spent_on(self) -> str:
        """Name of the set of confirmation cases as it is now."""
        belief = self.belief(*LEDGER)
        return "" if belief is None else str(belief.value["cases"])

    def level_of(self, action: Action) -> float:
        """Return the level at which a candidate is judged on the confirmation cases that an act opened for it.

        Where an edit left nothing of alpha for it, a level that no luck meets.
        """
        return max(LEAST, levels(self.goal.gate.alpha, self.own_openings)[self._opening(action).question])

    def candidate_of(self, weights: str) -> str:
        """Return the identity of what weights answer and score, whatever checkout of Vigil asks and on which cases."""
        belief = self.belief("identity:harness", "is")
        parts = belief.evidence[0].detail if belief is not None and belief.evidence else {}
        measure = {name: value for name, value in parts.items() if name != "code" and not name.startswith("split:")}
        return hash_json([weights, measure])[:24]

    @property
    def noise(self) -> dict[str, Noise]:
        """What the order of the cases alone moves, by `split.metric`; empty where it was not measured."""
        belief = self.belief("harness:order", "noise")
        if belief is None or belief.status != "fresh":
            return {}
        counts = belief.value["cases"]
        return {metric: Noise(sd=sd, n=counts[split_of(metric)]) for metric, sd in belief.value["noise_sd"].items()}

    @cached_property
    def _actions(self) -> dict[str, Action]:
        return {action.key: action for action in self.actions}

    def action(self, key: str) -> Action | None:
        """Return the action with a key."""
        return self._actions.get(key)

    def is_closed(self, decision: Decision) -> bool:
        """Say whether the question about a decision, or the yes to it, no longer fits the world."""
        question = self.answer_to(decision)
        if question is None:
            return False
        is_late = question.answer != "no" and self._is_edited_since(decision)
        return question.answered_by == WITHDRAWN or is_late

    def is_withdrawn(self, decision: Decision) -> bool:
        """Say whether a decision that never began no longer fits the world it was made for."""
        if self.action(decision.action_key) is not None:
            return False
        if self.is_closed(decision) or self._is_edited_since(decision) or self._is_overtaken(decision):
            return True
        gone = self.invalidated
        if decision.run in gone.trainings or (decision.action == "promote" and decision.id in gone.decisions):
            return True
        if decision.action in {"halt", "conclude"}:
            return decision.id in self.previous_session
        if decision.action == "confirm" and self._is_overspent(decision.action_inputs):
            return True
        if decision.action == "train" and self._is_time_over:
            # Asked in the evening and answered in the morning: the hours it was planned into have gone.
            return True
        inputs = decision.action_inputs
        now = {name: self.identity(name) for name in ("harness", "tokens", "data")}
        # A candidate's weights are its own; the base's, and those that runs start from, are files that may change.
        side = inputs.get("side", "parent")
        of_run = side == "candidate" or inputs.get("adapter") or inputs.get("parent", "base") not in {"base", "start"}
        of_run = of_run or inputs.get("weights") in self.fused
        if not of_run:
            now["weights"] = self.identity("weights") if side == "base" else self.start
        return any(name in inputs and inputs[name] != value for name, value in now.items())

    @property
    def fused(self) -> frozenset[str]:
        """Hashes of the models that fusions made."""
        return frozenset(a.made.weights for a in self.actions if a.kind == "fuse" and a.state == "done")

    def _is_edited_since(self, decision: Decision) -> bool:
        """Say whether a promotion that has not begun was decided before an edit, which may have raised the gate."""
        is_waiting = decision.action == "promote" and self.action(decision.action_key) is None
        return is_waiting and decision.goal_version < self.goal_version

    def _is_overspent(self, inputs: Json) -> bool:
        """Say whether cases that were to be opened were edited since, or opened by others: less of alpha is left."""
        if "alpha" not in inputs:
            # Decided by an older Vigil and never begun: decided again, with its level.
            return True
        spending = self.spending
        question = (goal_of(self.goal.gate), spending.cases)
        left = spending.alpha_for(str(inputs["candidate"]), str(inputs["goal"]))
        return question != (inputs["goal"], inputs["case_set"]) or is_more(float(inputs["alpha"]), left)

    def _is_overtaken(self, decision: Decision) -> bool:
        """Say whether another run was promoted after a promotion was asked about, as a person may ask for."""
        if decision.action != "promote":
            return False
        done = {action.key for action in self.actions if action.kind == "promote" and action.state == "done"}
        later = reversed(self.decisions)
        return any(d.action_key in done for d in itertools.takewhile(lambda each: each.id != decision.id, later))

    @property
    def _is_time_over(self) -> bool:
        """Whether no time is left in which a training may begin."""
        spent = cost.Spent(queued_s=cost.queued_s(self.actions))
        given = self.goal.budget.model_copy(update={"runs": None, "disk_gb": None})
        left = cost.affordable(
            given, spent, cost.Estimate(), self.now, self.campaign.started_at, utc_offset_s=self.utc_offset_s
        )
        return not left.is_affordable

    def answer_to(self, decision: Decision) -> Approval | None:
        """Return the question put about a decision."""
        return next((row for row in self.approvals if row.decision == decision.id and row.kind == decision.needs), None)


def gate_since(versions: Sequence[GoalVersion]) -> int:
    """Return the first version of a goal from which on verdicts are read as by the newest one.

    Args:
        versions: All of them, in any order.
    """
    read = ("control", "noise_floor")
    return _since(
        versions,
        lambda spec: [
            # As parsed: a version of an older Vigil lacks keys that stand for the same.
            Gate.model_validate(spec["gate"], strict=False).model_dump(exclude={"max_confirmations", "ledger"}),
            *(spec["evaluation"].get(key) for key in read),
            spec["track"].get("ranges") or {},
        ],
    )


def taught_since(versions: Sequence[GoalVersion]) -> int:
    """Return the first version of a goal from which on a run is given the same model, prompts and data as now."""
    return _since(
        versions,
        # A range says how scores are read, which teaches nothing.
        lambda spec: [spec["model"], {**spec["track"], "ranges": {}}, spec["data"]],
    )


def _since(versions: Sequence[GoalVersion], read: Callable[[Json], list[Any]]) -> int:
    newest_first = sorted(versions, key=lambda each: each.version, reverse=True)
    same = list(itertools.takewhile(lambda each: read(each.spec) == read(newest_first[0].spec), newest_first))
    return same[-1].version if same else 1


def hard_stops(view: View) -> list[Belief]:
    """Return the claims that forbid spending and that nobody has overridden: refuted hard stops, and contradictions.

    A stale one does not: what it stood on was changed, so it is looked at again first.
    """
    overridden = {row.decision for row in view.approvals if row.kind == "override" and row.answer == "yes"}
    refuted = (b for b in view.beliefs if b.status == "refuted" and b.severity == "hard_stop")
    stops = (*refuted, *(b for b in view.beliefs if b.status == "contradicted"))
    return [b for b in stops if b.id not in overridden]
