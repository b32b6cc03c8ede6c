"""What follows from the campaign's work and changes none of it: notices, what is handed out, saves that are given up.

All of it is asked for by keys of the campaign file (`notify`, `export`, `retention`), planned at most once for each
occasion whatever came of it, and never holds the campaign up. A notice is made of names and numbers of ours, no text
of a case and no person's words: it leaves the machine.
"""

from policies.drafts import Draft, draft
from policies.guards import measuring_guards
from policies.memory import limit_gb
from policies.proposals import fusion, next_proposals, slack_of
from policies.view import View
from state.goal import NotifyEvent
from state.hashing import hash_json
from state.records import ActionKind, Approval, Decision, Json

_RANK = "ABCUD"
"""Buckets, best first."""

FUSE_S = 1800.0
"""Three times as long and a fusion is stopped: it reads and writes the weights, and answers a few rows three times."""

_ENDS = frozenset({"conclude", "halt"})


def tell_question(view: View) -> Draft | None:
    """Tell a person of the oldest question that waits and was not told yet, before other work goes on."""
    waiting = (row for row in view.approvals if row.answer is None)
    return next((told for row in waiting if (told := _told(view, "question", row.id, *_asked(view, row)))), None)


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
    return _told(view, event, f"end {ended_before + 1}", _said(view, decision), f"vigil status {view.goal.campaign}")


def _is_the_last_end(view: View, end: Decision) -> bool:
    """Say whether the campaign ended last with this very promotion: taken up for an edit that changed nothing of it."""
    ended = next((action for action in reversed(view.actions) if action.kind in _ENDS), None)
    return ended is not None and any(
        d.id == ended.decision and d.run == end.run and d.action_inputs["state"] == "promoted" for d in view.decisions
    )


def _told(view: View, event: NotifyEvent, about: str, sentence: str, typed: str) -> Draft | None:
    """Return the notice of one event, unless the campaign file does not ask for it or it was tried before."""
    notify, occasion = view.goal.notify, {"event": event, "about": about}
    if notify is None or event not in notify.on or _was_tried(view, "notify", occasion):
        return None
    title = f"{view.goal.campaign}: {_TITLES[event]}"
    inputs: Json = {**occasion, "title": title, "sentence": sentence, "type": typed}
    what = f"question {about}" if event == "question" else _TITLES[event]
    return draft(view, "notify", f"notify.{event}", f"Notify of {what}: {sentence}", inputs)


_TITLES: dict[NotifyEvent, str] = {
    "question": "a question waits",
    "stopped": "hard stop",
    "ended": "the end",
    "failed": "a tool failed",
}


def _was_tried(view: View, kind: ActionKind, occasion: Json) -> bool:
    """Say whether an act was begun for an occasion, whatever came of it."""
    tried = (action.inputs for action in view.actions if action.kind == kind)
    return any(all(inputs.get(name) == value for name, value in occasion.items()) for inputs in tried)


def _asked(view: View, question: Approval) -> tuple[str, str]:
    """Return a question in our own words, and what answers it."""
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
    return what, f"vigil approve {name}, or vigil reject {name} --reason WHY"


def _said(view: View, end: Decision) -> str:
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
    guards = measuring_guards(wall_s=FUSE_S, memory_gb=limit_gb(view.beliefs))
    inputs["guards"] = [guard.model_dump(mode="json") for guard in guards]
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
    judged = [run for run in view.runs if run.bucket is not None]
    # The best is the last: by bucket, then by slack, the later of equals, as `vigil status` names it.
    place = {run.id: (-_RANK.index(run.bucket or "D"), slack_of(view, run), index) for index, run in enumerate(judged)}
    best = sorted(place, key=lambda name: place[name])[-1:]
    parents = {run.parent for run in view.runs if run.bucket is None}
    reached = {run.id for run in judged if run.bucket == "A"}
    return frozenset({*parents, *reached, view.campaign.promoted, *best, *_gone_on_from(view)})


def _gone_on_from(view: View) -> set[str]:
    """Return the runs whose state an unjudged run goes on from, or a longer one that may be next would."""
    planned = {run.decision for run in view.runs if run.bucket is None}
    open_ones = (d.action_inputs.get("continues") for d in view.decisions if d.id in planned)
    offered = (proposal.continues for name in view.goal.instruments for proposal in next_proposals(view, name))
    return {*(str(told["run"]) for told in open_ones if told), *offered}
