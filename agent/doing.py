"""Doing: perform the approved decision exactly once, and record the effect. It never judges a result."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import effects, inbox, notices, openings, trackers
from agent.inputs import job_kind, job_spec
from agent.loop import GraphState
from agent.render import record
from agent.render.record import about, with_folder
from agent.session import Session
from agent.view import view_of
from policies.confirmation import open_requests
from policies.next_run import may_be_better
from policies.plan import BY_ANSWER, BY_EDIT, VOIDING
from state.errors import JobNotStartedError, LimitExceededError, NotFoundError
from state.files import read_json, read_jsonl, read_object
from state.goal import Goal
from state.hashing import hash_file
from state.log import bind_log, hand_on, log_info, log_warning, passed_over
from state.paths import JobPaths
from state.records import BY_DISK, JOB_ENDED, Action, ActionKind, Decision, ExitRecord, Job, Json, Save
from tools.jobs.spec import JobSpec, JobStatus, read_record
from tools.models.identity import weights_hash
from tools.training.progress import damaged_steps, is_sound, newest_healthy_folder, whole_saves

_COPY_EVERY_S = 5.0
"""How often a running job's progress is copied into its row; the job's own files are always newer."""


class StopAskedError(Exception):
    """A person asked the agent to stop; the job in flight has saved and ended."""


def doing(session: Session, state: GraphState) -> dict[str, Any]:
    """Read the standing decision, perform its action under its key, record what came of it."""
    decision = session.store.read.decision(state["deciding"]["decision"])
    # Before the act is begun: killed in between, the opening is on record under the key that the act will have.
    if decision.action == "confirm" and not openings.record_opening(session, decision):
        return {"doing": {"key": decision.action_key, "state": "withdrawn"}}
    openings.note_use(session, decision)
    action = session.store.doing.intend(
        Action(
            key=decision.action_key,
            kind=decision.action,
            decision=decision.id,
            inputs=decision.action_inputs,
            created_at=session.clock.now(),
        )
    )
    bind_log(decision=decision.id, job=action.key)
    hand_on(decision=decision.id)
    if action.state == "intent":
        log_info("action.begin", action=action.kind, run=decision.run)
        action = _PERFORM.get(decision.action, _run_job)(session, decision, action)
        (log_warning if action.state == "failed" else log_info)("action.end", action=action.kind, state=action.state)
    bind_log(decision=None, job=None)
    return {}


def _run_job(session: Session, decision: Decision, action: Action) -> Action:
    """Launch or adopt the action's job, watch it to its end, and collect what it made."""
    kind = job_kind(decision.action)
    folder = session.paths.job(action.key).folder
    spec = _spec(session, decision)
    job = session.store.doing.record_job(
        Job(
            key=action.key,
            kind=kind,
            folder=str(folder.relative_to(session.paths.root)),
            run=decision.run,
            steps=spec.steps,
            started_at=session.clock.now(),
        )
    )
    shown = {**job.model_dump(mode="json"), "about": about(decision.action_inputs)}
    if not session.is_stopping:
        _reopen(session, action.key)
    _stop_unknown(session, action.key)
    if kind == "training":
        _take_saves(session, spec)
    session.backend.launch(folder, spec)
    status = _watch(session, spec, folder, shown)
    if status.exit is not None and status.exit.waits_for_room:
        raise _no_room(folder, status.exit)
    ended: Json = {"job": action.key, "exit": status.exit.model_dump(mode="json") if status.exit else {}}
    result = _result(session.paths.job(action.key), status.exit)
    is_given_up = status.exit is not None and status.exit.by in VOIDING
    if not result and kind == "training" and status.state == "stopped" and not is_given_up:
        result = _last_save(session, spec, folder, str(ended["exit"].get("verdict") or ""))
    if not result:
        failure = read_json(session.paths.job(action.key).error)
        return session.store.doing.fail(action.key, result={**ended, "error": failure} if failure else ended)
    kept: Json = effects.keep(session, folder, result)
    if result.get("adapter_hash", kept.get("adapter")) != kept.get("adapter"):
        sentence = f"The adapter of {decision.run} is not what was trained: its files changed on the disk."
        return session.store.doing.fail(action.key, result={**ended, "exit": {**ended["exit"], "reason": sentence}})
    if kind == "training" and (saves := _other_saves(session, spec, folder, result)):
        saves.append(_delivered(result).model_copy(update={"adapter": kept["adapter"]}))
        kept["saves"] = [save.model_dump(mode="json") for save in saves]
    return session.store.doing.finish(
        action.key, result={**ended, **result, **kept}, side_effects=tuple(map(str, kept.values()))
    )


def _result(paths: JobPaths, record: ExitRecord | None) -> Json:
    """Return what a job left as its result, empty where it left none, or where that is not what it wrote."""
    if (
        record is not None
        and record.result_hash
        and paths.result.exists()
        and hash_file(paths.result) != record.result_hash
    ):
        return {}
    return read_object(paths.result)


def _take_saves(session: Session, spec: JobSpec) -> None:
    """Give a training the sound saves of an earlier try at the very same, so that what was given up is resumed."""
    target = session.paths.job(spec.key).out / "saves"
    if target.exists():
        return
    tried = [a for a in session.store.read.actions(state="failed") if a.kind == "train"]
    for before in (session.paths.job(action.key) for action in reversed(tried)):
        if not before.spec.exists() or not _is_same_training(before, spec):
            continue
        saves = [save for save in sorted((before.out / "saves").glob("[0-9]*")) if is_sound(save, session.cache)]
        if saves:
            side = target.with_name(".saves.part")
            shutil.rmtree(side, ignore_errors=True)
            for save in saves:
                shutil.copytree(save, side / save.name, copy_function=effects.link_or_copy)
            side.rename(target)
            return


def _is_same_training(before: JobPaths, spec: JobSpec) -> bool:
    """Say whether a job trained the same recipe on the same bytes; a file may have another name."""
    theirs, ours = dict(read_object(before.spec).get("input") or {}), dict(spec.input)
    for inputs in (theirs, ours):
        # Where rows are kept, not what is trained on: older jobs have none, and the home may have been moved.
        inputs.pop("row_cache", None)
    files = [(theirs.pop("data", None) or {}), (ours.pop("data", None) or {})]
    contents = [{name: path and hash_file(Path(path)) for name, path in named.items()} for named in files]
    return theirs == ours and contents[0] == contents[1]


def _run_side_job(session: Session, decision: Decision, action: Action) -> Action:
    """Run a job that the campaign's verdict does not need, like a notice; that it fails stops nothing."""
    try:
        return _run_job(session, decision, action)
    except (JobNotStartedError, NotFoundError) as error:
        return session.store.doing.fail(action.key, result={"exit": {"reason": error.sentence}})


def _notify(session: Session, decision: Decision, action: Action) -> Action:
    """Leave a notice for the addresses, and run the user's own command where there is one."""
    left: Json = {}
    with passed_over("notice.not_left", OSError):
        left = notices.leave(session, action)
    if session.goal.notify is None or session.goal.notify.command:
        return _run_side_job(session, decision, action)
    if left:
        return session.store.doing.finish(action.key, result=left)
    return session.store.doing.fail(
        action.key, result={"exit": {"reason": "The notice could not be left on the disk."}}
    )


def _spec(session: Session, decision: Decision) -> JobSpec:
    """Return the job's specification: the one in its folder where there is one, since it is fixed once written."""
    paths = session.paths.job(decision.action_key)
    return read_record(paths.spec, JobSpec) or job_spec(session, decision)


def _reopen(session: Session, key: str) -> None:
    """Let a job that was stopped on request go on from its last save; its first ending stays on file."""
    paths = session.paths.job(key)
    record = read_record(paths.exit, ExitRecord)
    if record is None or not (record.waits_for_room or (record.state == "stopped" and record.by != "guard")):
        return
    # Before the files: killed at any point, what its folder says is newer than the record, and no damage.
    session.store.doing.update_job(key, state="queued", exit={}, finished_at=None)
    number = len(list(paths.folder.glob("exit.*.json"))) + 1
    paths.stop.unlink(missing_ok=True)
    paths.exit.rename(paths.folder / f"exit.{number}.json")


def _no_room(folder: Path, record: ExitRecord) -> LimitExceededError:
    """Return the error of a job that waits for disk space; its act stays open, and the same command goes on with it."""
    why = record.reason if record.by == BY_DISK else f"The disk of {folder} is nearly full: {record.reason}"
    return LimitExceededError(
        f"{why} Free some space and run the same command again: the job goes on from what it saved.",
        what="disk",
        where=str(folder),
        runbook="runbooks/disk_full.md",
    )


def _stop_unknown(session: Session, key: str) -> None:
    """Stop what runs for no act on record, before another job is started beside it.

    A record that went back to a copy decides again. What it decides alike is found in its folder; what it decides
    otherwise would run beside a job that nobody waits for. A stopped one has saved, and goes on where it is decided.
    """
    known = {action.key for action in session.store.read.actions()}
    if session.paths.job(key).spec.exists():
        return
    for spec in session.paths.jobs.glob("*/job.json"):
        if spec.parent.name not in known and not JobPaths(spec.parent).exit.exists():
            session.backend.stop(spec.parent, by="restore", reason="the restored record did not ask for it")


def _last_save(session: Session, spec: JobSpec, folder: Path, verdict: str) -> Json:
    """Return the newest healthy save of a run that a guard stopped: it is judged at its last healthy state."""
    saves = folder / "out" / "saves"
    newest = newest_healthy_folder(saves, session.cache)
    if newest is None:
        return {}
    # Its steps were timed as well as any: without them the next run is planned on an assumption that this one refuted.
    then = read_json(newest / "state.json") or {}
    return {
        **{name: then[name] for name in _OF_SAVE if name in then},
        "damaged_saves": damaged_steps(saves, session.cache),
        "adapter": str(newest.relative_to(folder)),
        "weights": weights_hash(Path(spec.input["model"]), newest, session.cache),
        "iters": int(newest.name),
        "verdict": verdict,
        **_shown_until(folder),
    }


_OF_SAVE = ("padded_tokens", "steps_s", "trained_tokens", "continued_from", "begun_anew")
"""What a save tells of its run."""


def _shown_until(folder: Path) -> Json:
    """Return what a run that a guard stopped had shown: its validation losses, and what was seen of a collapse."""
    rows = read_jsonl(folder / "metrics.jsonl")
    losses = [row["val_loss"] for row in rows if row.get("val_loss") is not None]
    collapse = next((row["collapse_figures"] for row in reversed(rows) if row.get("sample_collapsed")), None)
    shown: Json = {"val_losses": losses, "val_loss": losses[-1]} if losses else {}
    return shown | ({"collapse": collapse} if collapse else {})


def _delivered(result: Json) -> Save:
    """Return the save that a training delivered."""
    return Save(step=result["adapter_step"], weights=result["weights"], val_loss=result.get("val_loss"))


def _other_saves(session: Session, spec: JobSpec, folder: Path, result: Json) -> list[Save]:
    """Return the healthy saves that may be better than what a training that ended as planned delivered, each kept.

    Side effects: puts their adapters among the artifacts.
    """
    if result.get("verdict") or result.get("adapter_step") is None or not session.goal.evaluation.look_cases:
        return []
    model, healthy, folders = Path(spec.input["model"]), [], {}
    for save, progress in whole_saves(folder / "out" / "saves"):
        if progress.is_healthy and progress.step < result["adapter_step"]:
            weights = weights_hash(model, save, session.cache)
            loss = dict(progress.val_losses).get(progress.step)
            healthy.append(Save(step=progress.step, weights=weights, val_loss=loss))
            folders[progress.step] = save
    chosen = may_be_better([*healthy, _delivered(result)])
    return [each.model_copy(update={"adapter": effects.store_artifact(session, folders[each.step])}) for each in chosen]


def _watch(session: Session, spec: JobSpec, folder: Path, shown: Json) -> JobStatus:
    """Wait until the job has an exit record, applying requests meanwhile and showing how it goes.

    Raises:
        StopAskedError: A person asked to stop; the job has saved and ended first.
    """
    copied_at = -_COPY_EVERY_S
    pause_s = 0.1
    is_stop_sent = is_queued = False
    while True:
        status = session.backend.status(folder)
        now = session.clock.monotonic()
        # How it ended stands in its folder too.
        alive = "running" if status.state in JOB_ENDED else status.state
        session.show(with_folder(session.paths, {**shown, "state": alive, "restarts": status.restarts}))
        if bool(status.waits_for) != is_queued:
            is_queued = not is_queued
            waits = f"{record.waits(status.waits_for)}. It goes on by itself; nobody needs to do anything."
            session.say(f"The {spec.kind} waits: {waits}" if is_queued else "It goes on.")
        if status.state in JOB_ENDED or now - copied_at >= _COPY_EVERY_S:
            _copy(session, spec.key, status)
            copied_at = now
        if status.state in JOB_ENDED:
            if session.is_stopping and status.state == "stopped":
                raise StopAskedError
            return status
        if status.needs_launch:
            # Nobody serves the job any more (its supervisor was killed, or the machine restarted): the same key again.
            session.backend.launch(folder, spec)
        trackers.keep_going(session)
        inbox.apply_requests(session)
        inbox.apply_deadlines(session)
        before = session.goal
        if inbox.absorb_edit(session) and spec.kind == "training" and _invalidates(before, session.goal):
            session.backend.stop(folder, by=BY_EDIT, reason="the campaign file no longer asks for this training")
        if spec.kind == "training" and _is_promotion_accepted(session):
            session.backend.stop(folder, by=BY_ANSWER, reason="the promotion of an earlier run was accepted")
        if session.is_stopping and not is_stop_sent:
            session.backend.stop(folder, by="person", reason="vigil stop")
            is_stop_sent = True
        session.clock.sleep(pause_s)
        pause_s = min(1.0, pause_s * 1.3)


def _is_promotion_accepted(session: Session) -> bool:
    """Say whether a promotion was answered yes and is not carried out yet: the goal is reached without more."""
    read = session.store.read
    accepted = {row.decision for row in read.approvals() if row.kind == "promotion" and row.answer == "yes"}
    left = accepted - {action.decision for action in read.actions()} if accepted else accepted
    if not left:
        return False
    view = view_of(session)
    # What a person asked for is answered under the request's id; what an edit withdrew is not carried out.
    requested = {request.id for request, _ in open_requests(view) if request.kind == "promote"}
    return bool(left & (requested | {decision.id for decision in view.decisions if not view.is_withdrawn(decision)}))


def _invalidates(before: Goal, after: Goal) -> bool:
    """Say whether an edit voids a training in flight: other weights, other data, or its instrument withdrawn."""
    return (
        before.model != after.model
        or before.data != after.data
        or before.track.system != after.track.system
        or not set(before.instruments) <= set(after.instruments)
    )


def _copy(session: Session, key: str, status: JobStatus) -> None:
    """Copy what the job's files say into its row."""
    ended = status.state in JOB_ENDED
    session.store.doing.update_job(
        key,
        state=status.state,
        supervisor=status.supervisor,
        heartbeat_at=status.heartbeat_at,
        step=status.step,
        restarts=status.restarts,
        exit=status.exit.model_dump(mode="json") if status.exit else {},
        finished_at=session.clock.now() if ended else None,
    )


_PERFORM: dict[ActionKind, Callable[[Session, Decision, Action], Action]] = {
    "promote": effects.promote,
    "notify": _notify,
    "fuse": _run_side_job,
    "pace": _run_side_job,
    "delete": effects.delete_saves,
    "export": effects.export,
    "conclude": effects.end,
    "halt": effects.end,
}
