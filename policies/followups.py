"""What follows from the campaign's work and changes none of it: notices, hand-outs, saves given up, lessons.

Each lesson is a belief about a run or an instrument, with its row of the failure catalogue; it warns and does not halt.

All of it is asked for by keys of the campaign file (`notify`, `export`, `retention`), planned at most once for each
occasion whatever came of it, and never holds the campaign up. A notice is made of names and numbers of ours, no text
of a case and no person's words: it leaves the machine.
"""

from collections.abc import Iterator

from policies import cost
from policies.drafts import Draft, draft
from policies.history import View
from policies.next_run import exhaustion_of, fusion, next_proposals, slack_of
from policies.verdict import ExhaustionVerdict
from state.goal import NotifyEvent
from state.hashing import hash_json
from state.records import (
    BEST_FIRST,
    CLASSES,
    Action,
    ActionKind,
    Approval,
    Belief,
    Decision,
    Evidence,
    Json,
    Run,
    runbook_of,
)

_PRECOMPUTED = frozenset({"demonstration", "preference"})
"""Classes whose feedback is on outputs that were written beforehand."""
_LEAST_FLAT = 2
"""Runs that leave the target flat while the control moves before that is worth saying."""

_UNNOTICED_S = 60.0
"""Seconds beside the planned span that no night is planned by: starting and saving take them, or a busy machine."""


def diagnostics(view: View) -> list[Belief]:
    """Return what the record shows now; the same record gives the same beliefs."""
    return [*_of_runs(view), *_of_classes(view)]


def _of_runs(view: View) -> Iterator[Belief]:
    launched = {d.run: d for d in view.decisions if d.action == "train"}
    for action in view.actions:
        run = view.run(str(action.inputs.get("run"))) if action.kind == "train" else None
        if run is None or action.state == "intent":
            continue
        yield from _health(run, action)
        if action.state == "done" and run.id in launched:
            yield from _wall_time(run, action, launched[run.id])
        if action.state == "done":
            taken = cost.taken(view.beliefs, run, action)
            yield from () if taken is None else (taken,)


def _health(run: Run, action: Action) -> Iterator[Belief]:
    """Say how a training ended, where its end is one that the catalogue knows."""
    error: Json = action.result.get("error") or {}
    verdict, step = action.guard_word, action.made.iters
    at = f" at step {step}" if step is not None else ""
    what = "It is judged at its last healthy save." if step is not None else "No healthy save is left to judge."
    if verdict == "collapsed":
        figures = "; ".join(action.made.collapse.get("reasons") or ())
        symptom = f"loop or drift where neither its start's nor the references do{f' ({figures})' if figures else ''}"
        yield _lesson(
            f"run:{run.id}",
            "generates_as_its_parent",
            f"{run.id} was stopped{at}: its sampled generations {symptom}. {what}",
            "1",
            action,
            fix="Lower the adapter's scale or rank, add dropout, train for fewer passes.",
        )
    if verdict == "loss_collapsed":
        yield _lesson(
            f"run:{run.id}",
            "changes_generation",
            f"{run.id} was stopped{at}: its loss left nothing to learn while generation had hardly changed. "
            "It learned to tell the pairs apart, not to answer otherwise.",
            "14",
            action,
            fix="Look for one surface feature that tells chosen from rejected (P3), and build the pairs anew.",
        )
    if verdict == "rewards_equal":
        yield _lesson(
            f"run:{run.id}",
            "reward_tells_answers_apart",
            f"{run.id} was stopped{at}: the reward was the same for all answers to a prompt, report after report. "
            "Where no answer does better than another, nothing is learned.",
            "P10",
            action,
            fix="Look at the answers in out/rollouts.jsonl: let the grader tell them apart, take cases that the parent "
            "gets right now and then, or start from a parent that does.",
        )
    if error.get("what") == "probe_loss":
        yield _lesson(
            f"run:{run.id}",
            "loads_as_it_was_saved",
            f"{run.id} could not go on: {error.get('sentence')}",
            "12",
            action,
            fix="Restore the save or the model folder; or remove the job's saves to begin the run anew.",
        )


def _wall_time(run: Run, action: Action, decision: Decision) -> Iterator[Belief]:
    """Hold the time that a run took against the time it was planned with."""
    foreseen: Json = decision.verdict.get("estimate") or {}
    took = action.made.wall_s
    if not foreseen or took is None:
        return
    low, high = float(foreseen["low_s"]), float(foreseen["high_s"])
    sentence = f"{run.id} took {took:.0f} s; {low:.0f} to {high:.0f} s were planned"
    share = f"{took / float(foreseen['seconds']):.2g} times the expected time"
    if took <= high + _UNNOTICED_S:
        # Done sooner than planned is worth a word, and nobody's failure.
        early = f": {share}" if took < low - _UNNOTICED_S else ""
        yield _fine(f"run:{run.id}", "took_the_planned_time", f"{sentence}{early}.", "10", action)
        return
    yield _lesson(
        f"run:{run.id}",
        "took_the_planned_time",
        f"{sentence}: {share}.",
        "10",
        action,
        fix="Nothing to do: the next estimate is fitted on what was measured here.",
    )


def _of_classes(view: View) -> Iterator[Belief]:
    verdicts = exhaustion_of(view)
    for verdict in verdicts:
        if len(verdict.counted) >= _LEAST_FLAT and verdict.state != "exhausted":
            yield _class_lesson(
                verdict,
                "moves_the_target",
                f"{len(verdict.counted)} {CLASSES[verdict.instrument]} runs ({', '.join(verdict.counted)}) left the "
                "target flat within noise while the control moved: training works, and more of it does not help.",
                "11",
                "Change another axis; if that is flat too, the class is exhausted.",
            )
        if verdict.state == "exhausted":
            first = f"Try it once from {verdict.start_from}, then go" if verdict.start_from else "Go"
            yield _class_lesson(
                verdict,
                "moves_the_target",
                verdict.sentence,
                "13",
                f"{first} on to the next class of instruments; rollouts act on generation itself.",
            )
    given_up = [v for v in verdicts if v.state == "exhausted" and not v.start_from]
    spent = [v for v in given_up if CLASSES[v.instrument] in _PRECOMPUTED]
    if len({CLASSES[v.instrument] for v in spent}) == len(_PRECOMPUTED):
        yield _class_lesson(
            spent[-1].model_copy(update={"counted": tuple(run for v in spent for run in v.counted)}),
            "precomputed_classes_suffice",
            "Demonstrations and preferences are both exhausted: feedback on written outputs does not move the target.",
            "15",
            "Take rollouts with the grader as reward, anchored at the best parent.",
        )


def _class_lesson(verdict: ExhaustionVerdict, claim: str, statement: str, mode: str, fix: str) -> Belief:
    evidence = Evidence(
        kind="record", ref=",".join(verdict.counted), summary=verdict.sentence, detail={"runs": list(verdict.counted)}
    )
    return Belief(
        subject=f"instrument:{verdict.instrument}",
        claim=claim,
        statement=statement,
        value={"runs": list(verdict.counted), "state": verdict.state},
        tag="inferred",
        status="refuted",
        severity="warning",
        evidence=(evidence,),
        mode=mode,
        fix=fix,
        runbook=runbook_of(mode),
    )


def _lesson(subject: str, claim: str, statement: str, mode: str, action: Action, *, fix: str) -> Belief:
    return _fine(subject, claim, statement, mode, action).model_copy(
        update={"status": "refuted", "severity": "warning", "fix": fix, "runbook": runbook_of(mode)}
    )


def _fine(subject: str, claim: str, statement: str, mode: str, action: Action) -> Belief:
    evidence = Evidence(kind="record", ref=action.key, summary=statement)
    return Belief(subject=subject, claim=claim, statement=statement, tag="confirmed", evidence=(evidence,), mode=mode)


_ENDS = frozenset({"conclude", "halt"})


def tell_question(view: View) -> Draft | None:
    """Tell a person of the oldest question that waits and was not told yet, before other work goes on."""
    waiting = (row for row in view.approvals if row.answer is None)
    return next(
        (notice for row in waiting if (notice := _notice(view, "question", row.id, *_question_of(view, row)))), None
    )


_MOST_SCORES = 3


def _scores(view: View, run: str) -> str:
    """Return what a run scores by its newest verdict, and how sure that is; empty where it has none."""
    verdicts = (
        d.verdict["gate"] for d in reversed(view.decisions) if d.run == run and d.bucket and "gate" in d.verdict
    )
    gate: Json = next(verdicts, {})
    rows = [row for row in gate.get("conditions") or () if row["value"] is not None]
    return " ".join(f"{run}: {_score(row, gate['use'])}." for row in rows[:_MOST_SCORES])


def _score(row: Json, use: str) -> str:
    before = "" if row["reference"] is None else f", {row['reference']:.3f} before"
    sure = ""
    if row["low"] is not None:
        of = "" if row["against"] == "value" else " of the difference"
        sure = f", {100 * (1 - 2 * row['alpha']):.3g} % interval{of} {row['low']:.3f} to {row['high']:.3f}"
    return f"{row['metric']} {row['value']:.3f}{before}{sure}, {row['n']} {use} cases"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1.0, seconds / 60):.0f} min"  # noqa: PLR2004 - an hour


def before_end(view: View, end: Draft) -> Draft | None:
    """Return what has to come before an end, so that a campaign that has ended is never taken up for it."""
    decision = end.decision
    if decision.action not in _ENDS:
        return None
    state = str(decision.action_inputs["state"])
    if state == "promoted" and (handed := _fuse(view, decision) or _export(view, decision)) is not None:
        return handed
    if state == "promoted" and _is_the_last_end(view, decision):
        return None
    event: NotifyEvent = "stopped" if decision.action == "halt" else "failed" if state == "failed" else "ended"
    ended_before = sum(action.kind in _ENDS for action in view.actions)
    about, typed = f"end {ended_before + 1}", f"vigil status {view.goal.campaign}"
    if decision.action == "halt":
        spared = decision.action_inputs.get("saved_s")
        figures = f"About {_hours(spared)} of training were not spent." if spared else ""
    else:
        best = decision.run or next(iter(_best(view)), "")
        figures = _scores(view, best)
    return _notice(view, event, about, _end_of(view, decision), typed, figures)


def _is_the_last_end(view: View, end: Decision) -> bool:
    """Say whether the campaign ended last with this very promotion: taken up for an edit that changed nothing of it."""
    ended = next((action for action in reversed(view.actions) if action.kind in _ENDS), None)
    last = view.decision(ended.decision) if ended is not None else None
    return last is not None and last.run == end.run and last.action_inputs["state"] == "promoted"


def _notice(  # noqa: PLR0917 - the parts of a notice
    view: View, event: NotifyEvent, about: str, sentence: str, typed: str, figures: str
) -> Draft | None:
    """Return the notice of one event, unless the campaign file does not ask for it or it was tried before."""
    notify, occasion = view.goal.notify, {"event": event, "about": about}
    if notify is None or event not in notify.on or _was_tried(view, "notify", occasion):
        return None
    title = f"{view.goal.campaign}: {_TITLES[event]}"
    inputs: Json = {**occasion, "title": title, "sentence": sentence, "figures": figures, "type": typed}
    what = f"question {about}" if event == "question" else _TITLES[event]
    return draft(view, "notify", f"notify.{event}", f"Notify of {what}: {sentence}", inputs)


_TITLES: dict[NotifyEvent, str] = {
    "question": "a question waits",
    "stopped": "hard stop",
    "ended": "the end",
    "failed": "a tool failed",
}
"""Of the events that the campaign itself decides to tell; that its agent is gone is told by another process."""


def _was_tried(view: View, kind: ActionKind, occasion: Json) -> bool:
    """Say whether an act was begun for an occasion, whatever came of it."""
    tried = (action.inputs for action in view.actions if action.kind == kind)
    return any(all(inputs.get(name) == value for name, value in occasion.items()) for inputs in tried)


def _question_of(view: View, question: Approval) -> tuple[str, str, str]:
    """Return a question in our own words, what answers it, and the figures that it is answered by."""
    # What a person asks of a run stands under the request's id, what the campaign asks under the decision's.
    runs = {**{d.id: d.run for d in view.decisions}, **{request.id: request.target for request in view.requests}}
    run = runs.get(question.decision, "the run")
    what = {
        "launch": f"May {run} be trained?",
        "promotion": f"{run} meets the gate. May it be promoted?",
        "override": f"May the campaign go on although {question.decision} is refuted?",
        "edit": "May the edited campaign file be followed?",
        "confirmation": f"May the confirmation cases be opened for {run}?",
    }[question.kind]
    name = f"{view.goal.campaign}:{question.id}"
    takes = next((r.cost_s_estimate for r in view.runs if r.id == run and question.kind == "launch"), None)
    figures = f"It takes about {_hours(takes)}." if takes else _scores(view, run)
    return what, f"vigil approve {name}, or vigil reject {name} --reason WHY", figures


def _end_of(view: View, end: Decision) -> str:
    """Return an end in our own words: names and numbers."""
    state = str(end.action_inputs["state"])
    if state == "promoted":
        return f"{end.run} is promoted."
    if end.action == "halt":
        stop = next((belief for belief in view.beliefs if belief.id == end.action_inputs["belief"]), None)
        about = f" on {stop.subject} {stop.claim}" if stop is not None else ""
        return f"Halted by {end.rule}{about}, before anything was spent on it."
    judged = sum(run.bucket is not None for run in view.runs)
    how = "Failed" if state == "failed" else "Not promoted"
    return f"{how} ({end.rule}) after {judged} judged run{'' if judged == 1 else 's'}."


def _promotion(view: View, end: Decision) -> Decision | None:
    return next((d for d in reversed(view.decisions) if d.action == "promote" and d.run == end.run), None)


def _fuse(view: View, end: Decision) -> Draft | None:
    """Make one model of base and promoted adapter, where the export is to have it."""
    wanted, promotion = view.goal.export, _promotion(view, end)
    if wanted is None or not wanted.fused or promotion is None:
        return None
    inputs: Json = {"promotion": promotion.id, "adapter": promotion.action_inputs["adapter"]}
    if fusion(view, inputs["adapter"]) is not None:
        return None
    sentence = f"Fuse {end.run} into its base, dequantized, in a fresh folder; it has to answer as base and adapter do."
    return draft(view, "fuse", "export.fuse", sentence, inputs, run_id=end.run)


def _export(view: View, end: Decision) -> Draft | None:
    """Hand out what was promoted; without the fused model where that could not be made."""
    wanted, promotion = view.goal.export, _promotion(view, end)
    if wanted is None or promotion is None:
        return None
    inputs: Json = {"promotion": promotion.id, "to": wanted.to, "adapter": promotion.action_inputs["adapter"]}
    made = fusion(view, inputs["adapter"]) if wanted.fused else None
    if made is not None and made.state == "done":
        inputs["fused"] = made.key
    if _was_tried(view, "export", inputs):
        return None
    sentence = f"Export {end.run}, as promoted by {promotion.id}, to a folder of its own in {wanted.to}."
    return draft(view, "export", "export.promotion", sentence, inputs, run_id=end.run)


def drop_saves(view: View) -> Draft | None:
    """Delete the resumable saves of a judged run beyond the newest that the campaign file keeps."""
    keep = view.goal.retention.saves
    if keep is None or not any(view.saves.values()):
        return None
    needed = _needed(view)
    for run in view.runs:
        if run.bucket is None or run.id in needed:
            continue
        for action in view.actions:
            is_its = action.kind == "train" and action.inputs.get("run") == run.id and action.state != "intent"
            saves = view.saves.get(action.key, {}) if is_its else {}
            names = sorted(saves)[: max(0, len(saves) - keep)]
            inputs: Json = {"job": action.key, "names": names, "hash": hash_json(names)}
            if not names or _was_tried(view, "delete", inputs):
                continue
            size = sum(saves[name] for name in names)
            return draft(
                view,
                "delete",
                "retention.saves",
                f"Delete {len(names)} of {len(saves)} saves of {run.id} ({size / 1e9:.3g} GB): it is judged, it is not "
                f"the best, and retention.saves keeps {keep}. Its adapter, figures and answers stay.",
                {**inputs, "bytes": size},
                run_id=run.id,
            )
    return None


def _needed(view: View) -> frozenset[str]:
    """Return the runs whose saves stay: in promotion or promoted, the best one, and what an open run starts from."""
    judged, best = [run for run in view.runs if run.bucket is not None], _best(view)
    parents = {run.parent for run in view.runs if run.bucket is None}
    reached = {run.id for run in judged if run.bucket == "A"}
    return frozenset({*parents, *reached, view.campaign.promoted, *best, *_gone_on_from(view)})


def _best(view: View) -> list[str]:
    """Return the best judged run: by bucket, then by slack, the later of equals, as `vigil status` names it."""
    judged = [run for run in view.runs if run.bucket is not None]
    place = {
        run.id: (-BEST_FIRST.index(run.bucket or "D"), slack_of(view, run), index) for index, run in enumerate(judged)
    }
    return sorted(place, key=lambda name: place[name])[-1:]


def _gone_on_from(view: View) -> set[str]:
    """Return the runs whose state an unjudged run goes on from, or a longer one that may be next would."""
    planned = {run.decision for run in view.runs if run.bucket is None}
    open_ones = (d.action_inputs.get("continues") for d in view.decisions if d.id in planned)
    offered = (proposal.continues for name in view.goal.instruments for proposal in next_proposals(view, name))
    return {*(str(source["run"]) for source in open_ones if source), *offered}
