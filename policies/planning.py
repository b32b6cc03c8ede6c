"""The planner: from everything on record to the one next decision.

Rules in the order in which they are asked; the first that applies decides. Pure: the same view gives the same draft,
so a decision can be replayed. A draft may judge a run, plan one, or end the campaign; None means that only a person's
answer can go on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from policies import budget
from policies.buckets import BucketVerdict, Prediction, RunEvidence, judge_run
from policies.cases import CaseTable
from policies.exhaustion import ExhaustionVerdict, judge_exhaustion, run_fact
from policies.findings import ceilings
from policies.gate import GateVerdict, judge_gate
from policies.guards import sentence_of, training_guards
from policies.recipes import RecipeProposal, Tried, first_recipe, next_recipe, tried
from policies.stopping import conclusion
from policies.target import find_target
from policies.walltime import RunEstimate, StepSample, estimate_run_s, fit, lengths_from_quantiles
from state.goal import Goal
from state.hashing import hash_json
from state.records import (
    Action,
    ActionKind,
    Alternative,
    Approval,
    ApprovalKind,
    Belief,
    Bucket,
    Campaign,
    CampaignState,
    Commitment,
    Decision,
    Json,
    Measurement,
    Premise,
    Run,
    Side,
    SplitUse,
)

MAX_FAILURES = 2
"""Times an action may fail in one sitting before the campaign stops trying: failing twice the same way is no accident."""

_ENDED: frozenset[CampaignState] = frozenset({"promoted", "not_promoted", "halted", "stopped", "failed"})


@dataclass(frozen=True)
class View:
    """What the planner may look at.

    Args:
        goal: The campaign as understood now.
        goal_version: Its version.
        now: Unix seconds.
        campaign: The campaign's row.
        sitting_at: When this sitting of the agent began, Unix seconds.
        utc_offset_s: Local time minus UTC, for `budget.until`.
        used_gb: What the campaign's folder holds, decimal gigabytes.
    """

    goal: Goal
    goal_version: int
    now: float
    campaign: Campaign
    sitting_at: float
    utc_offset_s: float
    used_gb: float
    beliefs: tuple[Belief, ...] = ()
    runs: tuple[Run, ...] = ()
    actions: tuple[Action, ...] = ()
    decisions: tuple[Decision, ...] = ()
    approvals: tuple[Approval, ...] = ()
    commitments: tuple[Commitment, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    @property
    def has_ended(self) -> bool:
        """Whether the campaign's row says so."""
        return self.campaign.state in _ENDED

    def identity(self, name: str) -> str:
        """Return the hash that Knowing recorded for `harness`, `weights`, `data` or `census`."""
        belief = self.belief(f"identity:{name}", "is")
        return str(belief.value) if belief is not None else ""

    def belief(self, subject: str, claim: str) -> Belief | None:
        """Return the belief that stands about a subject's claim."""
        return next(
            (b for b in self.beliefs if b.subject == subject and b.claim == claim and b.status != "superseded"), None
        )

    def action(self, key: str) -> Action | None:
        """Return the action with a key."""
        return next((action for action in self.actions if action.key == key), None)

    def answer_to(self, decision: Decision) -> Approval | None:
        """Return the question put about a decision."""
        return next((row for row in self.approvals if row.decision == decision.id and row.kind == decision.needs), None)


Closing = Literal["kept", "cancelled", "lapsed"]
"""How a commitment ends."""


@dataclass(frozen=True)
class Draft:
    """A decision before it has an id, with everything that is committed in the same transaction."""

    decision: Decision
    run: Run | None = None
    bucket: Bucket | None = None
    """Verdict on `decision.run`."""
    run_updates: Mapping[str, Json] = field(default_factory=dict)
    commitments: tuple[Commitment, ...] = ()
    closes: Mapping[str, Closing] = field(default_factory=dict)
    """Commitment id -> kept, cancelled or lapsed."""


def action_key(campaign: str, kind: ActionKind, inputs: Json, attempt: int) -> str:
    """Return the identity of an act, fixed before it happens."""
    return hash_json([campaign, kind, inputs, attempt])[:24]


def standing(view: View) -> Decision | None:
    """Return the decision whose action has begun or may begin and has not ended.

    An action that has not begun waits behind a hard stop; one that has begun is seen to its end.
    """
    halted = bool(hard_stops(view))
    for decision in view.decisions:
        if not decision.action_key:
            continue
        action = view.action(decision.action_key)
        if action is not None:
            if action.state == "intent":
                return decision
            continue
        if _is_withdrawn(view, decision) or (halted and decision.action != "halt"):
            continue
        if decision.needs is None:
            return decision
        question = view.answer_to(decision)
        if question is not None and question.answer == "yes":
            return decision
    return None


def _is_withdrawn(view: View, decision: Decision) -> bool:
    """Say whether a decision that never began no longer fits the world it was made for."""
    current = {
        "harness": view.identity("harness"),
        "weights_base": view.identity("weights"),
        "census": view.identity("census"),
    }
    return any(
        name in decision.action_inputs and decision.action_inputs[name] != value for name, value in current.items()
    ) or (decision.action in {"halt", "conclude"} and decision.made_at < view.sitting_at)


def hard_stops(view: View) -> list[Belief]:
    """Return the refuted claims that forbid spending and that nobody has overridden."""
    overridden = {row.decision for row in view.approvals if row.kind == "override" and row.answer == "yes"}
    return [b for b in view.beliefs if b.status == "refuted" and b.severity == "hard_stop" and b.id not in overridden]


def plan(view: View) -> Draft | None:
    """Return the next decision, or None when only a person's answer can go on."""
    for rule in _RULES:
        draft = rule(view)
        if draft is not None:
            return draft
    return None


# What may forbid everything else


def _halt(view: View) -> Draft | None:
    """Stop before spending on a claim that was refuted, and say what it would have cost."""
    stops = hard_stops(view)
    if not stops:
        return None
    first = stops[0]
    saved_s = _planned_s(view)
    others = f" and {len(stops) - 1} more" if len(stops) > 1 else ""
    return _draft(
        view,
        "halt",
        "hard_stop",
        f"Hard stop{others}: {first.statement} Not spent: about {_minutes(saved_s)} of training. Fix: {first.fix}",
        {
            "state": "halted",
            "belief": first.id,
            "beliefs": [b.id for b in stops],
            "saved_s": saved_s,
            "runbook": first.runbook,
        },
        premises=stops,
        alternatives=(Alternative(action="train", reason="what it would stand on is refuted"),),
    )


def _give_up(view: View) -> Draft | None:
    """Stop when the same kind of work failed again and again in this sitting."""
    failed = [a for a in view.actions if a.state == "failed" and a.created_at >= view.sitting_at]
    for kind in ("census", "evaluate", "confirm", "train"):
        of_kind = [action for action in failed if action.kind == kind]
        if len(of_kind) >= MAX_FAILURES:
            exit_record = of_kind[-1].result.get("exit") or {}
            lines = exit_record.get("last_lines") or [""]
            why = exit_record.get("reason") or lines[-1] or "no reason was left"
            return _draft(
                view,
                "conclude",
                "tool.failed",
                f"{kind} failed {len(of_kind)} times: {why} See vigil jobs, then run the same command again.",
                {"state": "failed", "at": view.sitting_at},
            )
    return None


# What is measured before anything is trained


def _census(view: View) -> Draft | None:
    """Measure what a perfect and an empty answer would score before any weights are run."""
    wanted = view.identity("census")
    if _done(view, "census", census=wanted) is not None:
        return None
    return _draft(
        view,
        "census",
        "ceiling.first",
        "Measure the gold ceiling, the floor and the token census first: they cost seconds and can stop the campaign.",
        {"census": wanted},
        alternatives=(Alternative(action="train", reason="a gate above the ceiling cannot be met by any adapter"),),
    )


def _baseline(view: View) -> Draft | None:
    """Measure the base on the selection splits under this very harness."""
    return _measure_base(
        view, "selection", "baseline.first", "Measure the base under this harness; every comparison stands on it."
    )


def _measure_base(view: View, use: SplitUse, rule: str, sentence: str) -> Draft | None:
    inputs: Json = {
        "side": "base",
        "run": "",
        "use": use,
        "harness": view.identity("harness"),
        "weights": view.identity("weights"),
    }
    if _done(view, "evaluate", **inputs) is not None:
        return None
    return _draft(view, "evaluate", rule, sentence, inputs, premises=_beliefs(view, "harness:", "ceiling"))


# Promotion


def _promotion(view: View) -> Draft | None:
    """Follow a promotion to its end: switched, refused, or still asked."""
    for decision in reversed(view.decisions):
        if decision.action != "promote":
            continue
        action = view.action(decision.action_key)
        if action is not None and action.state == "done":
            return _conclude(
                view, "promoted", "goal.reached", f"{decision.run} is promoted: {decision.sentence}", decision.run
            )
        question = view.answer_to(decision)
        if question is not None and question.answer == "no" and decision.goal_version == view.goal_version:
            because = f": {question.reason}" if question.reason else ""
            who = (
                "nobody answered before the deadline"
                if question.answered_by == "deadline"
                else f"{question.answered_by} said no"
            )
            return _conclude(
                view,
                "not_promoted",
                "promotion.refused",
                f"{decision.run} met the gate and was not promoted; {who}{because}.",
                decision.run,
            )
        return None
    return None


def _is_promotion_open(view: View) -> bool:
    """Say whether a promotion waits for its answer."""
    for decision in view.decisions:
        question = view.answer_to(decision) if decision.action == "promote" else None
        if question is not None and question.answer is None:
            return True
    return False


# One run from its training to its verdict


def _open_run(view: View) -> Run | None:
    return next((run for run in view.runs if run.state in {"planned", "trained", "evaluated"}), None)


def _follow_run(view: View) -> Draft | None:
    """Take the open run one step further."""
    run = _open_run(view)
    if run is None:
        return None
    trained = next(
        (a for a in reversed(view.actions) if a.kind == "train" and a.inputs.get("recipe_hash") == run.recipe_hash),
        None,
    )
    if trained is None:
        return _refused_launch(view, run)
    if trained.state == "failed":
        return _lost_run(view, run, trained)
    inputs: Json = {
        "side": "candidate",
        "run": run.id,
        "use": "selection",
        "harness": view.identity("harness"),
        "weights": str(trained.result.get("weights") or ""),
        "adapter": str(trained.result.get("adapter") or ""),
    }
    if _done(view, "evaluate", **inputs) is None:
        update = {"adapter": inputs["adapter"], "state": "trained", "cost_s_actual": trained.result.get("wall_s")}
        return _draft(
            view,
            "evaluate",
            "run.measure",
            f"Measure {run.id} on the selection splits, beside the base under the same harness.",
            inputs,
            run_id=run.id,
            run_updates={run.id: update},
        )
    return _after_selection(view, run, inputs)


def _refused_launch(view: View, run: Run) -> Draft | None:
    """Close a run whose launch a person refused; while nobody has answered, there is nothing to do here."""
    decision = next((d for d in view.decisions if d.id == run.decision), None)
    question = view.answer_to(decision) if decision is not None else None
    if question is None or question.answer != "no":
        return None
    update = {"state": "lost"}
    return _conclude(
        view,
        "not_promoted",
        "launch.refused",
        f"The launch of {run.id} was refused by {question.answered_by}.",
        run.id,
        {run.id: update},
    )


def _lost_run(view: View, run: Run, trained: Action) -> Draft:
    """Set aside a run that the machine lost: no bucket, and the same recipe may be tried again."""
    attempt = int(trained.inputs.get("attempt", 1)) + 1
    again = run.model_copy(update={"id": "", "decision": "", "state": "planned", "bucket": None, "adapter": ""})
    inputs: Json = {**trained.inputs, "attempt": attempt, "recipe_hash": hash_json([run.recipe_hash, attempt])}
    again = again.model_copy(update={"recipe_hash": inputs["recipe_hash"]})
    return _draft(
        view,
        "train",
        "run.again",
        f"{run.id} was lost to the machine, not to its recipe; train the same recipe again.",
        inputs,
        run=again,
        run_updates={run.id: {"state": "lost"}},
        needs="launch",
    )


def _after_selection(view: View, run: Run, inputs: Json) -> Draft | None:
    """Open confirmation for a run that meets the gate on selection; judge every other."""
    table = case_table(view, str(inputs["weights"]))
    selection = judge_gate(view.goal.gate, table, view.goal.gate.alpha, use="selection", seed=view.goal.seed)
    confirm_inputs = {**inputs, "use": "confirmation"}
    confirmed = _done(view, "confirm", **confirm_inputs)
    if confirmed is not None:
        verdict = judge_gate(view.goal.gate, table, use="confirmation", seed=view.goal.seed)
        if verdict.holds:
            return _promote(view, run, verdict, selection, str(inputs["adapter"]))
        return _judge(view, run, table, selection, verdict)
    opened = sum(a.kind == "confirm" and a.state == "done" for a in view.actions)
    if selection.holds and opened < view.goal.gate.max_confirmations and not _is_promotion_open(view):
        base = _measure_base(
            view,
            "confirmation",
            "confirm.base",
            "Measure the base on the confirmation splits, beside which the run is confirmed.",
        )
        return base or _draft(
            view,
            "confirm",
            "confirm.open",
            f"{run.id} meets the gate on selection; open confirmation {opened + 1} of {view.goal.gate.max_confirmations}, "
            f"judged at alpha {view.goal.gate.confirmation_alpha:.4f}.",
            confirm_inputs,
            run_id=run.id,
        )
    return _judge(view, run, table, selection, None)


def case_table(view: View, candidate: str) -> CaseTable:
    """Return the cases of a candidate, its parent and the base, all under today's harness.

    Args:
        view: The record.
        candidate: Weights hash of the candidate; the parent is the base until runs start from runs.
    """
    base = view.identity("weights")
    current = {
        a.key
        for a in view.actions
        if a.kind in {"evaluate", "confirm"} and a.inputs.get("harness") == view.identity("harness")
    }
    sides: dict[Side, str] = {"base": base, "parent": base, "candidate": candidate}
    return CaseTable.from_measurements((row for row in view.measurements if row.evaluation in current), sides)


def _promote(view: View, run: Run, verdict: GateVerdict, selection: GateVerdict, adapter: str) -> Draft | None:
    """Propose a promotion; the verdict is A whatever the person then says."""
    if any(d.action == "promote" and d.run == run.id for d in view.decisions):
        return None
    labels = f" Labelled: {'; '.join(verdict.labels)}." if verdict.labels else ""
    return _draft(
        view,
        "promote",
        "bucket.A",
        f"Promote {run.id}: {verdict.sentence}{labels}",
        {"adapter": adapter, "run": run.id},
        run_id=run.id,
        bucket="A",
        verdict={"gate": verdict.model_dump(mode="json"), "selection": selection.model_dump(mode="json")},
        prediction=run.predicted,
        needs="promotion",
        alternatives=(Alternative(action="train", reason="the gate holds on cases that no tuning has seen"),),
        premises=_beliefs(view, f"score:{run.id}", "means"),
    )


def _judge(view: View, run: Run, table: CaseTable, selection: GateVerdict, confirmation: GateVerdict | None) -> Draft:
    """Give the run its bucket and say what follows."""
    verdict = judge_run(evidence_of(view, run, table, confirmation))
    detail: Json = {
        "gate": (confirmation or selection).model_dump(mode="json"),
        "bucket": verdict.model_dump(mode="json"),
    }
    if confirmation is not None:
        detail["selection"] = selection.model_dump(mode="json")
    return _draft(
        view,
        "judge",
        verdict.rule,
        f"{run.id} is {verdict.bucket}: {verdict.sentence}",
        {},
        run_id=run.id,
        bucket=verdict.bucket,
        verdict=detail,
        prediction=run.predicted,
        premises=_beliefs(view, f"score:{run.id}", "means"),
        closes={c.id: "kept" for c in view.commitments if c.status == "open" and c.decision == run.decision},
    )


def evidence_of(view: View, run: Run, table: CaseTable, confirmation: GateVerdict | None) -> RunEvidence:
    """Return all that a verdict on one run stands on."""
    predicted = Prediction.model_validate(run.predicted) if run.predicted else None
    return RunEvidence(
        run=run.id,
        gate=view.goal.gate,
        cases=table,
        ceilings=ceilings(view.beliefs, "selection"),
        confirmation=confirmation,
        predicted=predicted,
        control=view.goal.evaluation.control,
        noise_floor=view.goal.evaluation.noise_floor,
        seed=view.goal.seed,
    )


# What follows: another run, or the end


def _next_run(view: View) -> Draft | None:
    """Plan the next run within the class, if the rules have one and the budget affords it."""
    if _open_run(view) is not None:
        return None
    proposal = _proposal(view)
    estimate = _estimate(view, proposal.recipe if proposal is not None else view.goal.recipe)
    left = budget.affordable(
        view.goal.budget,
        budget.Spent(runs=len(view.runs), disk_gb=view.used_gb),
        budget.Estimate(seconds=estimate.seconds, runs=1),
        view.now,
        view.campaign.started_at,
        utc_offset_s=view.utc_offset_s,
    )
    stop = conclusion(
        promoted=view.campaign.promoted,
        buckets=[run.bucket for run in view.runs if run.bucket is not None],
        search=view.goal.search,
        budget=left,
        exhaustion=_exhaustion(view),
        has_proposal=proposal is not None,
    )
    if stop is None and proposal is not None:
        return _train(view, proposal, estimate, left)
    if _is_promotion_open(view) or stop is None:
        return None
    return _conclude(view, "not_promoted", stop.rule, f"Not promoted: {stop.sentence}", "")


def _train(view: View, proposal: RecipeProposal, estimate: RunEstimate, left: budget.BudgetVerdict) -> Draft:
    """Plan one run: hypothesis, prediction, cost, stop conditions, and what each outcome will mean."""
    number = 1 + max((int(run.id[1:]) for run in view.runs), default=0)
    run = Run(
        id=f"R{number}",
        instrument=proposal.instrument,
        parent=proposal.parent,
        parent_hash=proposal.parent_hash,
        recipe=proposal.recipe,
        recipe_hash=proposal.recipe_hash,
        data_hash=view.identity("data"),
        seed=proposal.seed,
        axis=proposal.axis,
        hypothesis=proposal.hypothesis,
        predicted=proposal.predicted,
        cost_s_estimate=estimate.seconds,
        created_at=view.now,
    )
    guards = training_guards(proposal.recipe, step_s=estimate.step_s, wall_s=estimate.high_s, left_s=left.left_s)
    inputs: Json = {
        "run": run.id,
        "recipe_hash": run.recipe_hash,
        "weights": run.parent_hash,
        "data": run.data_hash,
        "guards": [guard.model_dump(mode="json") for guard in guards],
    }
    return _draft(
        view,
        "train",
        proposal.rule,
        f"Train {run.id} ({proposal.instrument}): {proposal.hypothesis} Expected {estimate.sentence}",
        inputs,
        run=run,
        run_id=run.id,
        prediction=proposal.predicted,
        needs="launch",
        alternatives=proposal.alternatives,
        premises=[
            *_beliefs(view, "harness:", "ceiling"),
            *_beliefs(view, "score:base.", "means"),
            *_beliefs(view, "data:train", "fits_sequence"),
            *_beliefs(view, "machine:memory", "fits_the_model"),
        ],
        commitments=(
            Commitment(
                will=f"Measure {run.id} on the selection splits and judge it.",
                when=f"{run.id} has ended or a guard has stopped it",
                implies={
                    "A": "the gate holds on the confirmation splits: ask for promotion",
                    "B": "the target moved: stay in class and tune toward the failing condition",
                    "C": "the target is flat: change the axis and count toward exhaustion",
                    "D": "something was lost: back to the parent with a gentler recipe",
                    "U": "the measurement cannot tell: more cases or more training, nothing counts",
                },
                cancelled_by=f"vigil stop, an edit that removes the instrument, or: {'; '.join(sentence_of(g) for g in guards[:3])}",
            ),
        ),
    )


def _proposal(view: View) -> RecipeProposal | None:
    """Return the next configuration that was never run, from the first or from the latest run's diagnosis."""
    census = view.belief("data:train", "fits_sequence")
    rows = dict(census.value) if census is not None and census.value else {}
    base = view.identity("weights")
    known = ceilings(view.beliefs, "selection")
    target = find_target(
        view.goal.gate, case_table(view, base), ceilings=known, noise_floor=view.goal.evaluation.noise_floor
    )
    if not view.runs:
        return first_recipe(
            view.goal, rows, parent_hash=base, data_hash=view.identity("data"), target=target, ceilings=known
        )
    return next_recipe(
        [_tried(view, run) for run in view.runs],
        parent_hash=base,
        data_hash=view.identity("data"),
        target=target,
        ceilings=known,
        rows=rows.get("rows"),
    )


def _tried(view: View, run: Run) -> Tried:
    """Return a run as the recipe rules see it."""
    trained = _done(view, "train", recipe_hash=run.recipe_hash)
    result = trained.result if trained is not None else {}
    return tried(run, verdict_of(view, run), result, [{"val_loss": loss} for loss in result.get("val_losses") or ()])


def verdict_of(view: View, run: Run) -> BucketVerdict | None:
    """Return the verdict that the record holds on a run."""
    for decision in reversed(view.decisions):
        if decision.run == run.id and "bucket" in decision.verdict:
            return BucketVerdict.model_validate(decision.verdict["bucket"])
    return None


def _exhaustion(view: View) -> list[ExhaustionVerdict]:
    """Return one verdict per instrument that the campaign may use."""
    facts = [run_fact(run, verdict) for run in view.runs if (verdict := verdict_of(view, run)) is not None]
    known = ceilings(view.beliefs, "selection")
    metrics = [(c, m) for c in view.goal.gate.conditions if c.against == "value" for m in c.metrics]
    above = all(c.sign * (known[m] - c.threshold) >= 0 for c, m in metrics if m in known)
    is_above = above if all(m in known for _, m in metrics) else None
    return [judge_exhaustion(name, facts, is_ceiling_above_gate=is_above) for name in view.goal.instruments]


def _estimate(view: View, recipe: Json) -> RunEstimate:
    """Return how long a recipe takes here: from this campaign's own runs once there is one."""
    samples = []
    for action in view.actions:
        run = next(
            (r for r in view.runs if action.kind == "train" and r.recipe_hash == action.inputs.get("recipe_hash")), None
        )
        tokens, wall_s, iters = (action.result.get(name) for name in ("trained_tokens", "wall_s", "iters"))
        if run is not None and tokens and wall_s and iters and not action.result.get("resumed_from"):
            size = int(run.recipe["batch_size"])
            samples.append(StepSample(batch_size=size, padded_tokens=tokens / iters / size, seconds=wall_s / iters))
    census = view.belief("data:train", "fits_sequence")
    row = dict(census.value) if census is not None and census.value else {}
    longest = float(row.get("max_tokens") or 512)
    lengths = lengths_from_quantiles(float(row.get("p50") or longest), float(row.get("p95") or longest), longest)
    full = {"iters": 100, "batch_size": 4, "max_seq_length": 2048, **recipe}
    return estimate_run_s(fit(samples), lengths, full)


def _planned_s(view: View) -> float:
    """Return what the campaign would have spent on training, seconds: its runs at the expected time of one."""
    runs = view.goal.budget.runs or view.goal.search.max_runs or view.goal.search.max_runs_without_progress
    proposal = _proposal(view)
    return _estimate(view, proposal.recipe if proposal is not None else view.goal.recipe).seconds * max(
        0, runs - len(view.runs)
    )


def _conclude(
    view: View, state: CampaignState, rule: str, sentence: str, run: str, run_updates: Mapping[str, Json] | None = None
) -> Draft:
    """End the campaign with a verdict."""
    return _draft(
        view,
        "conclude",
        rule,
        sentence,
        {"state": state, "goal_version": view.goal_version},
        run_id=run,
        run_updates=run_updates or {},
        closes={c.id: "lapsed" for c in view.commitments if c.status == "open"},
    )


_RULES: tuple[Callable[[View], Draft | None], ...] = (
    _halt,
    _give_up,
    _promotion,
    _census,
    _baseline,
    _follow_run,
    _next_run,
)


# Building drafts


def _draft(
    view: View,
    action: ActionKind,
    rule: str,
    sentence: str,
    inputs: Json,
    *,
    run: Run | None = None,
    run_id: str = "",
    bucket: Bucket | None = None,
    verdict: Json | None = None,
    prediction: Json | None = None,
    premises: list[Belief] | None = None,
    alternatives: tuple[Alternative, ...] = (),
    needs: ApprovalKind | None = None,
    run_updates: Mapping[str, Json] | None = None,
    commitments: tuple[Commitment, ...] = (),
    closes: Mapping[str, Closing] | None = None,
) -> Draft:
    """Return a draft whose action key is fixed by what it does and how often that has failed before."""
    failed = sum(a.kind == action and a.state == "failed" and _is_same(a.inputs, inputs) for a in view.actions)
    acts = action != "judge"
    key = action_key(view.goal.campaign, action, inputs, failed + _ended_before(view, action)) if acts else ""
    decision = Decision(
        rule=rule,
        sentence=sentence,
        action=action,
        action_key=key,
        action_inputs=inputs,
        run=run_id,
        bucket=bucket,
        verdict=verdict or {},
        prediction=prediction or {},
        premises=tuple(Premise(belief=b.id, tag=b.tag, statement=b.statement) for b in premises or ()),
        alternatives=alternatives,
        needs=needs,
    )
    return Draft(decision, run, bucket, run_updates or {}, commitments, closes or {})


def _ended_before(view: View, action: ActionKind) -> int:
    """Return how often the campaign has ended already: taken up again, it may end again for the same reason."""
    return sum(a.kind == action for a in view.actions) if action in {"halt", "conclude"} else 0


def _is_same(ours: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(ours.get(name) == value for name, value in wanted.items())


def _done(view: View, kind: ActionKind, **inputs: Any) -> Action | None:
    """Return the finished action of a kind with these inputs."""
    return next((a for a in view.actions if a.kind == kind and a.state == "done" and _is_same(a.inputs, inputs)), None)


def _beliefs(view: View, prefix: str, claim: str) -> list[Belief]:
    """Return the beliefs that stand about subjects with a prefix."""
    return [b for b in view.beliefs if b.subject.startswith(prefix) and b.claim == claim and b.status == "fresh"]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"  # noqa: PLR2004 - a minute and a half
