"""The planner: from everything on record to the one next decision.

Rules in the order in which they are asked; the first that applies decides. Pure: the same view gives the same draft,
so a decision can be replayed. A draft may judge a run, plan one, or end the campaign; None means that only a person's
answer can go on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from policies import cost
from policies.checks import ceilings
from policies.confirmation import (
    candidate_inputs,
    confirmed,
    is_furthest,
    is_promotion_open,
    last_opening,
    may_open,
    measure,
    measure_base,
    next_opening,
    open_for,
    open_requests,
    openings,
    was_opened_late,
    was_refused,
)
from policies.cost import memory_limits
from policies.drafts import Draft, assumed, beliefs_about, conclude, done, draft, halt, holds_end, start_of
from policies.followups import before_end, drop_saves, tell_question
from policies.gate import GateVerdict, judge_gate
from policies.guards import machine_guards, measuring_guards, sentence_of, training_guards
from policies.history import WITHDRAWN, Judgement, View, hard_stops
from policies.next_run import (
    HOPELESS,
    Choice,
    affords,
    case_table,
    choose,
    class_end,
    counts,
    estimate_of,
    evaluate_save,
    evaluation_s,
    evidence_of,
    fusion,
    in_order,
    interim,
    is_first_of,
    judged_at,
    loss_of,
    parent_of,
    planned_s,
    postponed,
    run_before,
    saved_by,
    saves_compared,
    skipped,
    tokens_of,
    whole_of,
)
from policies.pace import no_signal, passed_over, refuse_blind, signal_first, time_first, without_signal
from policies.recipes import OVERFIT_RISE, RecipeProposal
from policies.repairs import repair_of_runs, repair_of_stops
from policies.validity import MEASURING, NOTED, SPENDING
from policies.verdict import BucketVerdict, StopVerdict, judge_run
from state.errors import ConfigError
from state.hashing import hash_json
from state.records import (
    NO_REASON,
    Action,
    ActionKind,
    Alternative,
    Belief,
    Commitment,
    Decision,
    Instrument,
    Json,
    Request,
    Run,
    Save,
)


def fuse_again(view: View) -> Draft | None:
    """Make a fused model again that is gone or changed, before anything else is spent; give up where that fails."""
    for adapter in sorted(view.missing_fused):
        run = next(run for run in view.runs if run.adapter == adapter)
        tried = fusion(view, adapter)
        what = f"The fused model of {run.id} is gone or no longer as it was made"
        if tried is not None and tried.state == "failed" and tried.key not in view.previous_session:
            why = tried.exit.reason or NO_REASON
            inputs = {"state": "failed", "after": len(view.previous_session)}
            return draft(view, "conclude", "tool.failed", f"{what}, and it could not be made again: {why}", inputs)
        return _fuse(view, run, "carry.again", f"{what}; it is made again from adapter and base, in a fresh folder.")
    return None


def _fuse(view: View, run: Run, rule: str, sentence: str) -> Draft:
    inputs: Json = {"adapter": run.adapter, "weights": view.trained(run).weights}
    made = sum(a.kind == "fuse" and a.state == "done" and a.inputs["adapter"] == run.adapter for a in view.actions)
    # One that was made is another act than one that is made again: its folder is a fresh one.
    inputs |= {"attempt": made + 1} if made else {}
    return draft(view, "fuse", rule, sentence, inputs, run_id=run.id)


def fuse_first(view: View, instrument: Instrument) -> Draft | None:
    """Make, then measure, the model that a class is to start from, where the campaign file asks for a fused one.

    What could not be fused, or scores otherwise than adapter and base, is carried as an adapter.
    """
    run = run_before(view, instrument) if view.goal.search.start_from == "fused" else None
    if run is None:
        return None
    made = fusion(view, run.adapter)
    if made is None:
        sentence = (
            f"Fuse {run.id} into its base, dequantized, in a fresh folder, for {instrument} to start from; it has to "
            "answer as base and adapter do."
        )
        return _fuse(view, run, "carry.fuse", sentence)
    if made.state != "done":
        return None
    sentence = f"Measure {run.id} fused: it has to score what adapter and base did before {instrument} starts from it."
    return measure(view, "parent", made.made.weights, "selection", "carry.measure", sentence)


def not_fused(view: View, instrument: Instrument) -> tuple[Alternative, ...]:
    """Say why a class starts from an adapter although the campaign file asks for a fused model."""
    run = run_before(view, instrument) if view.goal.search.start_from == "fused" else None
    if run is None or parent_of(view, instrument).is_fused:
        return ()
    made = fusion(view, run.adapter)
    fused = made.made.weights if made is not None else ""
    lost = loss_of(view, parent_of(view, instrument).weights, fused) if fused else "it could not be fused"
    return (Alternative(action="fuse", reason=f"{run.id} is carried as an adapter: {lost}"),)


BY_EDIT = "edit"
"""Who stopped a training that the campaign file no longer asks for; its run is set aside, not tried again."""

BY_ANSWER = "answer"
"""Who stopped a training when a person accepted the promotion of an earlier run: the goal is reached without it."""

VOIDING = frozenset({BY_EDIT, BY_ANSWER})

MAX_FAILURES = 2
"""Times an act may fail in one sitting before the campaign stops trying: twice the same way is no accident."""


CENSUS_PARTS = {"tokens": "tokens", "grades": "harness"}
"""Part of the census -> the identity that it stands on; a part is taken again when its identity changes."""


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
        if view.is_withdrawn(decision) or (halted and decision.action not in _DESPITE_STOPS):
            continue
        if view.missing_fused and decision.action in SPENDING:
            continue
        if decision.needs is None:
            return decision
        question = view.answer_to(decision)
        if question is not None and question.answer == "yes":
            return decision
    return None


_DESPITE_STOPS = frozenset({"halt", "notify"})
"""What a hard stop does not hold back: the end itself, and the word about it."""


def must_verify(view: View, action: ActionKind, key: str, verified: str) -> bool:
    """Say whether what an act stands on has to be looked at again before it may begin; one that has begun goes on."""
    return action in SPENDING and action != verified and view.action(key) is None


def plan(view: View) -> Draft | None:
    """Return the next decision, or None when only a person's answer can go on."""
    proposed = next((proposed for rule in _RULES if (proposed := rule(view)) is not None), None)
    if proposed is None:
        return None
    proposed = _limit_assumed(view, proposed)
    if holds_end(proposed.decision.action, view.approvals):
        return None
    return _guarded(view, before_end(view, proposed) or proposed)


def to_override(view: View) -> list[Belief]:
    """Return the hard stops that would halt the campaign now and that `approvals.override` has asked, or answers now.

    Contradictions are none of them: which of two beliefs holds is no question of yes or no.
    """
    stops = [stop for stop in hard_stops(view) if stop.status == "refuted"]
    rule = view.goal.approvals.override
    if rule is None or not stops or repair_of_stops(view) is not None:
        return []
    questions = [row for row in view.approvals if row.kind == "override"]
    waiting = {row.decision for row in questions if row.answer is None}
    answered = {row.decision for row in questions} - waiting
    if rule.mode == "reject":
        return [stop for stop in stops if stop.id in waiting]
    settled = answered | waiting if rule.mode == "wait" else answered
    return [stop for stop in stops if stop.id not in settled]


_UNGUARDED = {"census": 0, "evaluate": 1, "confirm": 1, "pace": 0, "notify": 0, "fuse": 0}
"""Acts by jobs whose own rule names no guards -> whether how long they take is known from those that ended."""

FUSE_S = 1800.0
"""Three times as long and a fusion is stopped: it reads and writes the weights, and answers a few rows three times."""


def _guarded(view: View, proposed: Draft) -> Draft:
    """Give a job that measures its guards: the budget ends what hangs, before anything was trained too."""
    decision, notify = proposed.decision, view.goal.notify
    if decision.action not in _UNGUARDED or "guards" in decision.action_inputs:
        return proposed
    # A notice's worker waits for the command as long as the file says; what is handed out is made, budget or not.
    own_s = {"notify": notify.timeout_s if notify is not None else 0.0, "fuse": FUSE_S}.get(decision.action)
    wall_s = _UNGUARDED[decision.action] * evaluation_s(view) if own_s is None else own_s
    left_s = affords(view, 0.0, runs=0).nearest_s if own_s is None else None
    guards = measuring_guards(wall_s=wall_s, memory=memory_limits(view.beliefs), left_s=left_s)
    inputs = {**decision.action_inputs, "guards": [guard.model_dump(mode="json") for guard in guards]}
    return replace(proposed, decision=decision.model_copy(update={"action_inputs": inputs}))


# What may forbid everything else


def _halt(view: View) -> Draft | None:
    """Stop before spending on a claim that was refuted or contradicted, and say what it would have cost."""
    stops = hard_stops(view)
    if not stops:
        return None
    first, saved_s = stops[0], planned_s(view)
    others = f" and {len(stops) - 1} more" if len(stops) > 1 else ""
    sentence = f"Hard stop{others}: {_halting(view, first)} Not spent: about {cost.minutes(saved_s)} of training."
    why = "what it would stand on is refuted"
    return halt(view, "hard_stop", sentence, stops, saved_s=saved_s, reason=why, runbook=first.runbook)


def _halting(view: View, first: Belief) -> str:
    """Return what is refuted and its fix; of a contradiction, both sides and how to settle it."""
    if first.status == "refuted":
        return f"{first.statement} Fix: {first.fix}"
    sides = [b for b in view.beliefs if (b.subject, b.claim, b.status) == (first.subject, first.claim, first.status)]
    both = " ".join(f"{b.id} says: {b.statement}" for b in sides)
    return (
        f"Two beliefs about {first.subject} {first.claim} stand on the same files and contradict each other. {both} "
        f"Fix: find out which holds and approve that one, {first.id} or {sides[-1].id}."
    )


def _limit_assumed(view: View, proposed: Draft) -> Draft:
    """Refuse to spend on more assumptions than the campaign file allows, each named with what would settle it."""
    taken = assumed(proposed.decision.premises)
    limit = view.goal.search.max_assumed
    if limit is None or len(taken) <= limit or proposed.decision.action != "train":
        return proposed
    known = {belief.id: belief for belief in view.beliefs}
    stops = [known[premise.belief] for premise in taken]
    named = " ".join(f"{b.id}: {b.statement} Settled by: {b.fix or 'no probe is known'}" for b in stops)
    sentence = (
        f"The next training would stand on {len(taken)} assumed beliefs, and search.max_assumed allows {limit}. {named}"
    )
    why = "what it would stand on is only assumed"
    return halt(view, "assumed.limit", sentence, stops, saved_s=planned_s(view), reason=why)


def has_fallen(view: View) -> bool:
    """Say whether something that was decided stands on a belief that was refuted since, and nobody has noted it."""
    return _note_refuted(view) is not None


def _note_refuted(view: View) -> Draft | None:
    """Put on record what fell with a refuted belief, once for each."""
    invalidated = view.invalidated
    noted = {belief for d in view.decisions if d.rule == NOTED for belief in d.verdict["contaminated"]["refuted"]}
    if not invalidated.decisions or invalidated.refuted <= noted:
        return None
    refuted = [b for b in view.beliefs if b.id in invalidated.refuted - noted]
    promoted = [d.run for d in view.decisions if d.action == "promote" and d.id in invalidated.decisions]
    parts = [
        f"{len(invalidated.evaluations)} evaluations" if invalidated.evaluations else "",
        f"the verdicts on {', '.join(sorted(invalidated.verdicts))}" if invalidated.verdicts else "",
        f"the training of {', '.join(sorted(invalidated.trainings))}" if invalidated.trainings else "",
        f"the promotion of {', '.join(promoted)}" if promoted else "",
    ]
    what = "; ".join(part for part in parts if part) or f"{len(invalidated.decisions)} decisions"
    why = " ".join(f"{b.id} is {b.status}: {b.statement}" for b in refuted)
    return draft(
        view,
        "judge",
        NOTED,
        f"No longer counted, and made again where it can be: {what}. {why}".strip(),
        {},
        verdict={"contaminated": {name: sorted(ids) for name, ids in invalidated.model_dump().items()}},
        premises=refuted,
    )


def _give_up(view: View) -> Draft | None:
    """Stop when the same kind of work failed again and again in this sitting."""
    failed = [
        action
        for action in view.actions
        if action.state == "failed"
        and action.key not in view.previous_session
        and (action.kind in MEASURING or not _was_stopped(action))
    ]
    for kind in ("census", "evaluate", "confirm", "train", "promote"):
        of_kind = [action for action in failed if action.kind == kind]
        # These fail again: what a promotion would switch to is not there, and what a person wrote stays as it is.
        is_refused = any(_is_mistake(a) for a in of_kind)
        is_final = kind == "promote" or is_refused or any(a.guard_word for a in of_kind)
        if len(of_kind) >= (1 if is_final else MAX_FAILURES):
            why = _HUNG.get(of_kind[-1].guard_word, "") + of_kind[-1].exit.why
            return draft(
                view,
                "conclude",
                "input.refused" if is_refused else "tool.failed",
                f"{kind} failed{_times(len(of_kind))}: {why} Mend that, then run the campaign again.",
                {"state": "failed", "after": len(view.previous_session)},
            )
    return None


_HUNG = {
    "out_of_time": "the time for it was over before it ended; ",
    "stalled": "it reported nothing for too long, so something in it hangs (the template, the grader, the disk); ",
    "out_of_memory": "it took more memory than a job may hold here; ",
    "gpu_timeout": "the system ended its work on the GPU; ",
    "rebooted": "the machine was booted anew while it ran, twice; ",
}
"""Word of a guard -> what that means for a job that measures."""


def _is_mistake(action: Action) -> bool:
    """Say whether a worker refused what a person wrote, which no second try changes."""
    refusal: Json = action.result.get("error") or {}
    return refusal.get("exit_code") == ConfigError.exit_code or str(refusal.get("what") or "").startswith("recipe.")


def _times(count: int) -> str:
    return f" {count} times" if count > 1 else ""


# What is measured before anything is trained


def _census(view: View) -> Draft | None:
    """Measure what a perfect and an empty answer would score before any weights are run."""
    wanted = {name: view.identity(name) for name in CENSUS_PARTS.values()}
    missing = {name: value for name, value in wanted.items() if done(view, "census", **{name: value}) is None}
    if not missing:
        return None
    again = "" if len(missing) == len(wanted) else f" Only what stands on the changed {' and '.join(missing)} is taken."
    return draft(
        view,
        "census",
        "ceiling.first",
        "Check tokens, grader and reference answers first: it costs seconds and can stop the campaign." + again,
        missing,
        alternatives=(Alternative(action="train", reason="a gate above the ceiling cannot be met by any adapter"),),
    )


def _baseline(view: View) -> Draft | None:
    """Measure the base on the selection splits under this very harness."""
    known = _beside_bounds(view, "The reference answers score", ceilings(view.beliefs, "selection"))
    sentence = f"{known} Measure the base under this harness; every comparison stands on it.".strip()
    return measure_base(view, "selection", "baseline.first", sentence)


def _beside_bounds(view: View, who: str, scores: Mapping[str, float]) -> str:
    """Return scores beside the numbers that the gate asks, as a sentence; empty where it asks none of them."""
    scored = [
        f"{scores[metric]:.3g} on {metric} (asked: at {'least' if condition.sign > 0 else 'most'} "
        f"{condition.threshold:g})"
        for condition, metric in view.goal.gate.demands
        if condition.against == "value" and condition.statistic == "mean" and metric in scores
    ]
    return f"{who} {', '.join(scored)}." if scored else ""


def _base_beside_bounds(view: View) -> str:
    table = case_table(view, "")
    means = {metric: table.mean("base", metric, "selection") for metric in sorted(view.goal.gate.metrics)}
    scores = {metric: mean.mean for metric, mean in means.items() if mean is not None}
    return _beside_bounds(view, "The base scores", scores)


def _start(view: View) -> Draft | None:
    """Measure the adapter that runs go on from, where the campaign names one."""
    if view.start == view.identity("weights"):
        return None
    sentence = "Measure the adapter that runs go on from, beside the base."
    return measure(view, "parent", view.start, "selection", "baseline.parent", sentence)


# Promotion


def is_requested(view: View) -> bool:
    """Say whether a person asked something of a run that is not done yet, though the campaign may have ended."""
    return _requested(view) is not None


def _requested(view: View) -> Draft | None:
    """Do what a person asked of a run: open confirmation for it and judge it, or promote it; all else waits."""
    for request, run in open_requests(view):
        measured = fuse_again(view) or _census(view) or _baseline(view) or _start(view)
        if measured is not None:
            return measured
        if not counts(view, run) or view.training(run) is None:
            return _follow(view, run)
        if request.kind == "promote":
            return _promote_on_request(view, run, request)
        why = f"{request.by} asked for it: {run.id} meets the gate on selection"
        return open_for(view, run, candidate_inputs(view, run), "confirm.asked", why, request.id)
    return next((_follow(view, run) for run in view.runs if was_opened_late(view, run)), None)


def _promote_on_request(view: View, run: Run, request: Request) -> Draft:
    """Promote a run that holds on confirmation: the request is the yes of a person, and on record as such."""
    judged = view.judged(run.id)
    gate = judged.verdict["gate"] if judged is not None else {}
    return draft(
        view,
        "promote",
        "promote.asked",
        f"Promote {run.id}, as {request.by} asked: {gate['sentence']}",
        {"adapter": run.adapter, "run": run.id, "harness": view.identity("harness"), "asked": request.id},
        run_id=run.id,
        verdict={"gate": gate},
        premises=beliefs_about(view, f"score:{run.id}.", "means"),
    )


def _promotion(view: View) -> Draft | None:
    """End with the newest promotion that was made, if it meets the gate as it is now; a "no" leaves the others open.

    Where the best is looked for, one of an older version of the campaign file is gone on from while the budget allows.
    """
    decision = _promoted(view)
    is_best_wanted = view.goal.search.goal == "best"
    if decision is None or (is_best_wanted and decision.goal_version < view.goal_version) or is_promotion_open(view):
        return None
    return _reached(view, decision)


def _promoted(view: View) -> Decision | None:
    """Return the newest promotion that was made, unless it does not meet the gate as it is now."""
    made = {action.key for action in view.actions if action.kind == "promote" and action.state == "done"}
    newest = next((d for d in reversed(view.decisions) if d.action == "promote" and d.action_key in made), None)
    return newest if newest is not None and _still_holds(view, newest) else None


def _reached(view: View, decision: Decision) -> Draft:
    """End with a promotion."""
    return conclude(
        view,
        "promoted",
        "goal.reached",
        f"{decision.run} is promoted: its {_gate_sentence(decision)}",
        decision.run,
        {run_id: {"state": "lost"} for run_id in _abandoned(view)},
    )


def _refusals(view: View) -> list[str]:
    """Say of each run that met the gate as it is now and was not promoted who said no and why."""
    refusals = []
    for decision in view.decisions:
        question = view.answer_to(decision) if decision.action == "promote" else None
        is_old = decision.goal_version < view.gate_since
        if question is None or question.answer != "no" or question.answered_by == WITHDRAWN or is_old:
            continue
        because = f": {question.reason}" if question.reason else ""
        by_deadline = question.answered_by == "deadline"
        who = "nobody answered before the deadline" if by_deadline else f"{question.answered_by} said no"
        refusals.append(f"{decision.run} met the gate and was not promoted; {who}{because}.")
    return refusals


def _still_holds(view: View, decision: Decision) -> bool:
    """Say whether what was promoted meets the gate as it is now; an edit may have raised it since."""
    if decision.id in view.invalidated.decisions:
        return False
    if decision.goal_version >= view.gate_since:
        return True
    # Of several saves of a run the one that was handed out.
    linked = decision.action_inputs["adapter"]
    opened = [action for action in openings(view) if action.inputs.get("adapter") == linked]
    # At the level it was opened at, a bound covers the truth whatever is asked of it later: nothing is spent.
    tables = [(case_table(view, str(a.inputs["weights"])), view.level_of(a)) for a in opened[-1:]]
    return any(judge_gate(view.goal.gate, table, level, use="confirmation").holds for table, level in tables)


def _gate_sentence(decision: Decision) -> str:
    """Return what the gate said at a promotion, to stand after "its"."""
    gate: Json = decision.verdict.get("gate") or {}
    sentence = str(gate.get("sentence") or "gate holds.")
    return f"confirmation says {sentence}"


# One run from its training to its verdict


_UNJUDGED = frozenset({"planned", "trained", "evaluated"})


def _open_run(view: View) -> Run | None:
    abandoned = {*_abandoned(view), *view.invalidated.trainings}
    is_open = (
        run
        for run in view.runs
        if run.state in _UNJUDGED or (run.bucket and (not counts(view, run) or was_opened_late(view, run)))
    )
    return next((run for run in is_open if run.id not in abandoned), None)


def _abandoned(view: View) -> list[str]:
    """Return the runs that are no longer wanted: of other data or weights and never begun, or stopped on purpose."""
    withdrawn = {d.id for d in view.decisions if d.action == "train" and view.is_withdrawn(d)}
    begun = {action.decision for action in view.actions}
    voided = {action.decision for action in view.actions if action.exit.by in VOIDING}
    gone = (withdrawn - begun) | voided
    left = [run.id for run in view.runs if run.state == "planned" and run.decision in gone]
    return [*left, *(run.id for run in view.runs if run.id in view.invalidated.trainings and run.state != "lost")]


def _was_stopped(action: Action) -> bool:
    """Whether a guard, an edit or an answer ended an action's job, which is no failure of a tool."""
    return bool(action.guard_word) or action.exit.by in VOIDING


def _follow_run(view: View) -> Draft | None:
    """Take the open run one step further."""
    run = _open_run(view)
    return _follow(view, run) if run is not None else None


def _follow(view: View, run: Run) -> Draft | None:
    """Take a run one step further: launched, measured, confirmed, judged."""
    trained = view.training(run)
    if trained is None:
        return _refused_launch(view, run)
    if trained.state == "failed" and trained.guard_word:
        return _judge(view, run, judge_run(evidence_of(view, run, case_table(view, ""), None)))
    if trained.state == "failed":
        return _lost_run(view, run, trained)
    inputs, left = candidate_inputs(view, run), trained.made
    if done(view, "evaluate", **inputs) is None:
        update = {"adapter": inputs["adapter"], "state": "trained", "cost_s_actual": left.wall_s}
        where = f" at its save of step {left.judged_step}" if left.judged_step else ""
        return draft(
            view,
            "evaluate",
            "run.measure",
            f"Measure {run.id}{where} on the selection splits, beside {start_of(run.parent)} under the same harness."
            f"{_turned(left.saves)}",
            inputs,
            run_id=run.id,
            run_updates={run.id: update},
            alternatives=skipped(view, trained),
        )
    if not left.looks and (draft_of_save := _try_saves(view, run, trained, inputs)) is not None:
        return draft_of_save
    return _after_selection(view, run, inputs)


def _turned(saves: Sequence[Save]) -> str:
    """Say at which save validation was best, where it got much worse after it: rows are learned by heart then."""
    losses = [(save.val_loss, save.step) for save in saves if save.val_loss is not None]
    (best, step), (last, end) = min(losses, default=(0.0, 0)), losses[-1] if losses else (0.0, 0)
    if last <= OVERFIT_RISE * best:
        return ""
    return f" Its validation loss turned: {best:.3g} at the save of step {step}, {last:.3g} at step {end}."


def _try_saves(view: View, run: Run, trained: Action, inputs: Json) -> Draft | None:
    """Look at the other saves of a run whose end does not meet the gate, or of any where the best is wanted."""
    table = case_table(view, str(inputs["weights"]), run.parent_hash)
    alpha = view.goal.gate.alpha / saves_compared(view, run)
    if view.goal.search.goal == "gate" and judge_gate(view.goal.gate, table, alpha, use="selection").holds:
        return None
    return evaluate_save(view, run, trained)


def _refused_launch(view: View, run: Run) -> Draft | None:
    """Close a run whose launch a person refused; while nobody has answered, there is nothing to do here."""
    decision = view.decision(run.decision)
    question = view.answer_to(decision) if decision is not None else None
    if question is None or question.answer != "no":
        return None
    sentence = f"The launch of {run.id} was refused by {question.answered_by}."
    return conclude(view, "not_promoted", "launch.refused", sentence, run.id, {run.id: {"state": "lost"}})


def _why_not_again(view: View, run: Run) -> str:
    """Return why a run that was lost is not trained again: the file was edited since, or the time left is too short."""
    decided = view.decision(run.decision)
    if decided is not None and decided.goal_version < view.goal_version:
        return f"{run.id} was lost before the campaign file was edited; what follows is planned from the file as it is."
    seconds = estimate_of(view, run.recipe, run.instrument).seconds + 2 * evaluation_s(view)
    left = affords(view, seconds, runs=0, instrument=run.instrument)
    sentence = f"{run.id} was lost to the machine, and the budget does not allow it again. {left.sentence}"
    return "" if left.is_affordable else sentence


def _lost_run(view: View, run: Run, trained: Action) -> Draft:
    """Set aside a run that was lost: no bucket; the same recipe again, unless something speaks against it."""
    if sentence := _why_not_again(view, run):
        return draft(
            view, "judge", "run.set_aside", sentence, {}, run_id=run.id, run_updates={run.id: {"state": "lost"}}
        )
    attempt = int(trained.inputs.get("attempt", 1)) + 1
    changes = {"id": _next_run_id(view), "recipe_hash": hash_json([run.recipe_hash, attempt])}
    again = run.model_copy(update={**changes, "decision": "", "state": "planned", "created_at": view.now})
    # From its beginning: it may be the state that it went on from that failed it.
    before = {name: value for name, value in trained.inputs.items() if name != "continues"}
    inputs: Json = {**before, "attempt": attempt, "run": again.id, "recipe_hash": again.recipe_hash}
    return draft(
        view,
        "train",
        "run.again",
        f"{run.id} was lost to the machine, not to its recipe; train the same recipe again.",
        inputs,
        run=again,
        run_id=again.id,
        run_updates={run.id: {"state": "lost"}},
        needs="launch",
    )


def _after_selection(view: View, run: Run, inputs: Json) -> Draft | None:
    """Open confirmation for a run that meets the gate on selection; judge every other."""
    weights = str(inputs["weights"])
    table = case_table(view, weights, run.parent_hash)
    if (opened := confirmed(view, inputs)) is not None:
        known = ceilings(view.beliefs, "confirmation")
        gate = judge_gate(view.goal.gate, table, view.level_of(opened), use="confirmation", ceilings=known)
        return _judge(view, run, judge_run(evidence_of(view, run, table, gate)), gate, str(inputs["adapter"]))
    judged = judge_run(evidence_of(view, run, table, None))
    # The last of several openings is kept for the furthest run, once nothing gets further.
    is_first = not any(action.inputs.get("run") == run.id for action in openings(view))
    keep = int(view.goal.gate.max_confirmations > 1 and is_first)
    is_free = view.goal.search.goal == "gate" and not is_promotion_open(view) and not _waits_for_verdict(view, run)
    may = is_free and may_open(view, weights, keep) and not was_refused(view, run, weights)
    if judged.gate.holds and may and is_furthest(view, judged, run):
        return open_for(view, run, inputs, "confirm.open", f"{run.id} meets the gate on selection")
    return _judge(view, run, judged)


def _waits_for_verdict(view: View, run: Run) -> bool:
    """Say whether another run has to be judged again: the best is confirmed first, so all are judged before."""
    gone = {run.id, *_abandoned(view), *view.invalidated.trainings}
    return any(other.bucket is not None and other.id not in gone and not counts(view, other) for other in view.runs)


def _judge(
    view: View, run: Run, judged: BucketVerdict, confirmation: GateVerdict | None = None, adapter: str = ""
) -> Draft:
    """Give the run its bucket; the verdict A on an adapter that is not promoted yet proposes that.

    The verdict is A whatever the person then says.
    """
    changed, standing = view.trained(run).changed_inputs, _promoted(view)
    verdict = Judgement(
        gate=confirmation or judged.gate,
        bucket=judged,
        harness=view.identity("harness"),
        dense=view.goal.evaluation.dense,
        selection=judged.gate if confirmation is not None else None,
        changed_inputs=changed,
    )
    of_run = partial(
        draft,
        view,
        run_id=run.id,
        bucket=judged.bucket,
        verdict=verdict.recorded(),
        prediction=run.predicted,
        premises=beliefs_about(view, f"score:{run.id}.", "means"),
        # Those made when it was planned.
        closes={c.id: "kept" for c in view.commitments if c.status == "open" and c.decision == run.decision},
    )
    learned = f" While it was trained, {', '.join(changed)} changed on the disk." if changed else ""
    is_standing = standing is not None and standing.action_inputs["adapter"] == adapter
    if confirmation is None or judged.bucket != "A" or is_standing:
        sentence = f"Verdict {judged.bucket} on {judged.sentence}{judged_at(view.trained(run))}{learned}"
        return of_run("judge", judged.rule, sentence, {})
    labels = f" Labelled: {'; '.join(confirmation.labels)}." if confirmation.labels else ""
    return of_run(
        "promote",
        judged.rule,
        f"Promote {run.id}: {confirmation.sentence}{labels}{learned}",
        {"adapter": adapter, "run": run.id, "harness": view.identity("harness")},
        needs="promotion",
        alternatives=(Alternative(action="train", reason="the gate holds on cases that no tuning has seen"),),
    )


# What follows: another run, or the end


def _next_run(view: View) -> Draft | None:
    """Plan the next run within the class, or within the next class once one has ended, if the budget affords it."""
    promoted = _promoted(view)
    if _open_run(view) is not None or (promoted is not None and is_promotion_open(view)):
        return None
    refused = _refusals(view)
    if refused and view.goal.approvals.promotion.mode == "reject":
        return conclude(view, "not_promoted", "promotion.refused", " ".join(refused), "")
    if (spent := view.spending.refusal) and not is_promotion_open(view):
        return _end(
            view,
            promoted,
            "confirmations.spent",
            f"Not promoted: {spent[0].lower()}{spent[1:]} Nothing more could be promoted{_unused(view)}."
            f" {' '.join(refused)}".strip(),
        )
    if (opening := next_opening(view)) is not None:
        return opening
    ends: list[StopVerdict] = []
    ended: dict[str, list[str]] = {}
    for instrument in in_order(view):
        if (power := _power_gone(view)) is not None:
            ends.append(power)
            ended[power.sentence] = [instrument]
            break
        choice = choose(view, instrument)
        if (timing := time_first(view, instrument, choice)) is not None:
            return timing
        stop = class_end(view, instrument, choice) or postponed(view, instrument, choice, without_signal(view))
        if stop is None and choice.proposal is not None:
            opening = last_opening(view, keep=1) if ends and is_first_of(view, instrument) else None
            recipe = choice.proposal.recipe
            before = opening or fuse_first(view, instrument) or signal_first(view, instrument, recipe)
            stop = no_signal(view, instrument, recipe)
            if before is not None or stop is None:
                return before or _train(view, choice.proposal, choice, ends)
        if stop is not None and (skipped := passed_over(view, instrument, choice, stop)) is not None:
            return skipped
        ends += [stop] if stop is not None else []
        ended |= {stop.sentence: [*ended.get(stop.sentence, []), instrument]} if stop is not None else {}
        if stop is not None and (stop.rule in _OF_ALL_CLASSES or choice.left.limit in {"runs", "disk_gb"}):
            break
    opening = last_opening(view, keep=0)
    if opening is not None:
        return opening
    if is_promotion_open(view) or not ends:
        return None
    if (blind := refuse_blind(view, ends)) is not None:
        return blind
    last = ends[-1]
    sentence = " ".join(
        f"{' and '.join(names)}: {sentence}" if len(ended) > 1 else sentence for sentence, names in ended.items()
    )
    if (mended := repair_of_runs(view, {end.rule for end in ends}, sentence)) is not None:
        return mended
    rule = "measurement.first" if last.rule == "runs.unclear" else last.rule
    return _end(view, promoted, rule, " ".join([f"Not promoted: {sentence}", *refused]))


def _end(view: View, promoted: Decision | None, rule: str, sentence: str) -> Draft:
    """End a search that found nothing more to promote: with what is promoted already, where something is."""
    return _reached(view, promoted) if promoted is not None else conclude(view, "not_promoted", rule, sentence, "")


def _power_gone(view: View) -> StopVerdict | None:
    """Return why a search for the best ends with the battery: its guard stopped the newest training of this sitting."""
    trained = [action for action in view.actions if action.kind == "train" and action.key not in view.previous_session]
    if view.goal.search.goal == "gate" or not trained or trained[-1].guard_word != "battery_low":
        return None
    sentence = f"the battery fell below machine.min_battery_percent while {trained[-1].inputs['run']} trained."
    return StopVerdict(rule="power.gone", sentence=sentence)


def _unused(view: View) -> str:
    """Return what of a limited time budget is left, to stand at the end of a clause; empty where nothing is."""
    left_s = affords(view, 0.0, runs=0).nearest_s
    return f", though {cost.minutes(left_s)} of the budget are left" if left_s is not None and left_s > 0 else ""


_OF_ALL_CLASSES = frozenset({"runs.max", "measurement.first"})
"""Ends that no other class changes: what one instrument could not show, the next cannot show either."""


def _next_run_id(view: View) -> str:
    return f"R{1 + max((int(run.id[1:]) for run in view.runs), default=0)}"


def _train(
    view: View,
    proposal: RecipeProposal,
    choice: Choice,
    ends: Sequence[StopVerdict] = (),
) -> Draft:
    """Plan one run: hypothesis, prediction, cost, stop conditions, and what each outcome will mean.

    Args:
        view: The record.
        proposal: What to run.
        choice: What it will cost, what the budget leaves, and what was passed over for it.
        ends: Why earlier classes are not gone on with.
    """
    estimate, left = choice.estimate, choice.left
    further = "further " if proposal.continues else ""
    before, whole = "", ""
    if not view.runs:
        before = f"{_base_beside_bounds(view)} ".lstrip()
        whole = f" {whole_of(view, estimate)}"
    start = f", from {proposal.parent} fused" if parent_of(view, proposal.instrument).is_fused else ""
    run = Run(
        id=_next_run_id(view),
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
    # What nobody has timed here is a guess, and a guess ends nothing that gets on while the budget lasts.
    is_guess = estimate.source == "assumed" and left.nearest_s is not None
    guards = (
        *training_guards(
            proposal.recipe,
            step_s=estimate.step_s,
            wall_s=max(estimate.high_s, left.nearest_s or 0.0) if is_guess else estimate.high_s,
            memory=memory_limits(view.beliefs),
            left_s=left.nearest_s,
        ),
        *machine_guards(view.goal.machine),
    )
    watched, why_none = interim(
        view, proposal.recipe, proposal.instrument, tokens_of(view, proposal.recipe, proposal.instrument)
    )
    guards += (HOPELESS,) if watched else ()
    inputs: Json = {
        "run": run.id,
        "recipe_hash": run.recipe_hash,
        "weights": run.parent_hash,
        "parent": run.parent,
        "data": run.data_hash,
        **_continued(view, proposal),
        **({"interim": watched} if watched else {}),
        "guards": [guard.model_dump(mode="json") for guard in guards],
    }
    return draft(
        view,
        "train",
        proposal.rule,
        f"{before}Train {run.id} ({proposal.instrument}{start}): {proposal.hypothesis} Expected {further}"
        f"{estimate.sentence}{whole}",
        inputs,
        run=run,
        run_id=run.id,
        prediction=proposal.predicted,
        needs="launch",
        run_updates={run_id: {"state": "lost"} for run_id in _abandoned(view)},
        alternatives=(
            *(Alternative(action="train", reason=e.sentence) for e in ends),
            *proposal.alternatives,
            *choice.skipped,
            *((Alternative(action="evaluate", reason=why_none),) if why_none else ()),
            *not_fused(view, proposal.instrument),
        ),
        verdict={"estimate": estimate.model_dump(mode="json"), "grounds": proposal.grounds},
        premises=[
            belief
            for name in dict.fromkeys((proposal.grounds.get("follows"), proposal.grounds.get("best")))
            if name
            for belief in beliefs_about(view, f"score:{name}.", "means")
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
                cancelled_by="vigil stop, an edit that removes the instrument, or a guard. "
                + " ".join(sentence_of(guard) for guard in guards),
            ),
        ),
    )


def _continued(view: View, proposal: RecipeProposal) -> Json:
    """Return what the training of a run that goes on from another one's state is told; empty for all others."""
    if not proposal.continues:
        return {}
    job, save = saved_by(view, proposal.continues)
    return {"continues": {"run": proposal.continues, "job": job, "save": save, "is_same": proposal.is_same}}


_RULES: tuple[Callable[[View], Draft | None], ...] = (
    tell_question,
    repair_of_stops,
    _halt,
    _note_refuted,
    _give_up,
    drop_saves,
    _requested,
    _promotion,
    fuse_again,
    _census,
    _baseline,
    _start,
    _follow_run,
    _next_run,
)
