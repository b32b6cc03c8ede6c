"""The record as the planner looks at it."""

from collections.abc import Iterable
from dataclasses import replace

from agent.session import Session
from policies.history import View, gate_since, taught_since
from policies.next_run import at_best_saves
from policies.validity import contamination
from state.errors import VigilError
from state.goal import Goal
from state.paths import CampaignPaths
from state.reading import Views, open_reader
from state.records import Action
from tools import numbers
from tools.models.identity import weights_hash
from tools.training.progress import is_sound, newest_healthy_folder, sizes


def view_of(session: Session) -> View:
    """Return everything the planner may look at: rows, the goal and the time."""
    view = _of_rows(session.store.read, session.goal, session.goal_version, session.clock.now())
    return at_best_saves(
        replace(
            view,
            previous_session=session.previous_session,
            utc_offset_s=session.utc_offset_s,
            used_gb=_used_gb(session, view.actions),
            measurements=tuple(session.store.read.measurements()),
            missing_fused=_missing_fused(session, view.actions),
            saves=_saves(session, view.actions),
            resumable=_resumable(session, view.actions),
            suggest=numbers.suggest,
        )
    )


def _of_rows(read: Views, goal: Goal, version: int, now: float) -> View:
    """Return what the rows alone say, but for what was measured."""
    beliefs, decisions, actions, versions = read.beliefs(), read.decisions(), tuple(read.actions()), read.goals()
    view = View(
        goal=goal,
        goal_version=version,
        now=now,
        campaign=read.campaign(),
        previous_session=frozenset(),
        utc_offset_s=0.0,
        used_gb=0.0,
        beliefs=tuple(belief for belief in beliefs if not belief.superseded_by),
        runs=tuple(read.runs()),
        actions=actions,
        decisions=tuple(decisions),
        approvals=tuple(read.approvals()),
        commitments=tuple(read.commitments()),
        requests=tuple(row for row in read.requests() if row.kind in OF_RUNS),
        invalidated=contamination(beliefs, decisions, actions),
        gate_since=gate_since(versions),
        taught_since=taught_since(versions),
    )
    return view.on_present_weights()


def _used_gb(session: Session, actions: Iterable[Action]) -> float:
    """Return what the campaign's folder holds, where a limit asks; it is walked once for each state of the actions."""
    if session.goal.budget.disk_gb is None:
        return 0.0
    state = tuple((action.key, action.state) for action in actions)
    if session.measured_use is None or session.measured_use[0] != state:
        session.measured_use = (state, session.used_gb)
    return session.measured_use[1]


OF_RUNS = frozenset({"confirm", "promote"})
"""Kinds of requests that are about a run."""


def recorded_view(paths: CampaignPaths, now: float) -> View:
    """Return what the planner would look at by the record alone, for a command that holds no lease; no files are read.

    Raises:
        NotFoundError: There is no such campaign.
    """
    with open_reader(paths) as reader, reader.snapshot():
        newest = reader.records.goals()[-1]
        return _of_rows(reader.records, Goal.of_record(newest.spec), newest.version, now)


def _missing_fused(session: Session, actions: Iterable[Action]) -> frozenset[str]:
    """Return the adapters whose newest fused model that a class starts from is not in its folder as it was made."""
    made = {a.inputs["adapter"]: a for a in actions if a.kind == "fuse" and a.state == "done" and "weights" in a.inputs}
    return frozenset(adapter for adapter, action in made.items() if not _is_whole(session, action))


def _is_whole(session: Session, action: Action) -> bool:
    folder = session.paths.job(action.key).folder / str(action.result["fused"])
    try:
        return weights_hash(folder, None, session.cache) == action.made.weights
    except (OSError, VigilError):
        return False


def _resumable(session: Session, actions: Iterable[Action]) -> dict[str, str]:
    """Return the trainings that ended as planned and whose last step is saved as written: key -> name of the save."""
    ended = {a.key: f"{a.made.iters:07d}" for a in actions if a.kind == "train" and _ended_as_planned(a)}
    saves = {key: session.paths.job(key).out / "saves" / name for key, name in ended.items()}
    return {key: save.name for key, save in saves.items() if is_sound(save, session.cache)}


def _ended_as_planned(action: Action) -> bool:
    return action.state == "done" and action.made.iters is not None and not action.made.verdict


def _saves(session: Session, actions: Iterable[Action]) -> dict[str, dict[str, int]]:
    """Return the resumable saves of the trainings that have ended, where a rule may give them up.

    Of a training that was stopped the save that it is judged by is left out: it has no other adapter of its own.
    """
    if session.goal.retention.saves is None:
        return {}
    sizes_of = {}
    for action in actions:
        if action.kind == "train" and action.state != "intent":
            job = session.paths.job(action.key)
            judged_by = None if job.result.exists() else newest_healthy_folder(job.out / "saves", session.cache)
            sizes_of[action.key] = sizes(job.out / "saves")
            sizes_of[action.key].pop(judged_by.name if judged_by is not None else "", None)
    return sizes_of
