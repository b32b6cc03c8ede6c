"""What the record itself shows: predictions of time that failed, collapses, classes that cannot move the target.

Each lesson is a belief about a run or an instrument, with its row of the failure catalogue; it warns and does not halt.
"""

from collections.abc import Iterator

from policies import memory
from policies.exhaustion import CLASSES, ExhaustionVerdict
from policies.proposals import exhaustion_of
from policies.view import View
from state.records import Action, Belief, Decision, Evidence, Json, Run, runbook_of

_PRECOMPUTED = frozenset({"demonstration", "preference"})
"""Classes whose feedback is on outputs that were written beforehand."""
_LEAST_FLAT = 2
"""Runs that leave the target flat while the control moves before that is worth saying."""

_UNNOTICED_S = 60.0
"""Seconds beside the planned span that no night is planned by: starting and saving take them, or a busy machine."""


def lessons(view: View) -> list[Belief]:
    """Return what the record shows now; the same record gives the same beliefs."""
    return [*_of_runs(view), *_of_classes(view)]


def _of_runs(view: View) -> Iterator[Belief]:
    launched = {d.run: d for d in view.decisions if d.action == "train"}
    for action in view.actions:
        run = next((r for r in view.runs if action.kind == "train" and r.id == action.inputs.get("run")), None)
        if run is None or action.state == "intent":
            continue
        yield from _health(run, action)
        if action.state == "done" and run.id in launched:
            yield from _wall_time(run, action, launched[run.id])
        if action.state == "done":
            taken = memory.taken(view.beliefs, run.id, run.instrument, run.recipe, action.result)
            yield from () if taken is None else (taken,)


def _health(run: Run, action: Action) -> Iterator[Belief]:
    """Say how a training ended, where its end is one that the catalogue knows."""
    exit_record: Json = action.result.get("exit") or {}
    error: Json = action.result.get("error") or {}
    verdict = str(action.result.get("verdict") or exit_record.get("verdict") or "")
    step = action.result.get("iters")
    at = f" at step {step}" if step is not None else ""
    what = "It is judged at its last healthy save." if step is not None else "No healthy save is left to judge."
    if verdict == "collapsed":
        figures = "; ".join((action.result.get("collapse") or {}).get("reasons") or ())
        seen = f"loop or drift where neither its start's nor the references do{f' ({figures})' if figures else ''}"
        yield _lesson(
            f"run:{run.id}",
            "generates_as_its_parent",
            f"{run.id} was stopped{at}: its sampled generations {seen}. {what}",
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
    took = action.result.get("wall_s")
    if not foreseen or took is None:
        return
    low, high = float(foreseen["low_s"]), float(foreseen["high_s"])
    said = f"{run.id} took {float(took):.0f} s; {low:.0f} to {high:.0f} s were planned"
    share = f"{float(took) / float(foreseen['seconds']):.2g} times the expected time"
    if float(took) <= high + _UNNOTICED_S:
        # Done sooner than planned is worth a word, and nobody's failure.
        early = f": {share}" if float(took) < low - _UNNOTICED_S else ""
        yield _fine(f"run:{run.id}", "took_the_planned_time", f"{said}{early}.", "10", action)
        return
    yield _lesson(
        f"run:{run.id}",
        "took_the_planned_time",
        f"{said}: {share}.",
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
    seen = Evidence(kind="record", ref=action.key, summary=statement)
    return Belief(subject=subject, claim=claim, statement=statement, tag="confirmed", evidence=(seen,), mode=mode)
