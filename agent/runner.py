"""`vigil run`: take the campaign, drive the graph to its end or to a question, let go.

The same call starts a campaign, resumes it after any crash, and reports one that has ended.
"""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from agent import inbox, notices, trackers
from agent.campaign import LoadedCampaign, load_campaign
from agent.checks import check_campaign
from agent.deciding import deciding
from agent.doing import StopAskedError, doing
from agent.knowing import knowing
from agent.loop import Graph, build, open_saver, prune
from agent.render import typed
from agent.render.record import gather
from agent.render.watch import Terminal
from agent.render.words import count, duration
from agent.session import WORKERS, Session
from agent.view import view_of
from policies import plan
from state.clock import Clock, SystemClock
from state.errors import ConfigError, LimitExceededError
from state.files import ensure_local_disk, tighten, write_json
from state.goal import Goal
from state.lease import Lease
from state.log import bind_log, hand_on, log_error, log_info, log_privately, start_log, stop_log
from state.paths import CampaignPaths
from state.records import CampaignState, GoalVersion, JobKind
from state.store import Store, last_request
from tools.jobs.backend import Backend, LocalBackend
from tools.machine.blas import worker_env
from tools.models.hub import resolve

_EXIT: dict[CampaignState, int] = {
    "running": 4,
    "waiting": 6,
    "promoted": 0,
    "not_promoted": 1,
    "halted": 3,
    "stopped": 1,
    "failed": 4,
}
_PRUNE_EVERY = 50
_POLL_S = 0.5


@dataclass(frozen=True)
class RunEnd:
    """How a sitting ended."""

    state: CampaignState
    sentence: str
    exit_code: int


def run_campaign(
    path: Path,
    home: Path,
    *,
    wait: bool = True,
    clock: Clock | None = None,
    backend: Backend | None = None,
    workers: Mapping[JobKind, str] = WORKERS,
    terminal: Terminal | None = None,
    is_verbose: bool = False,
) -> RunEnd:
    """Run a campaign until it ends, or until only a person can go on.

    Args:
        path: The campaign file.
        home: Folder of all campaigns.
        wait: Stay for answers; otherwise end with code 6.
        clock: Time.
        backend: What runs jobs; local processes by default.
        workers: Module per kind of job.
        terminal: Where it says what goes on; nowhere when left out.
        is_verbose: Show the lines of the agent's log there too.

    Raises:
        ConfigError: The file, the data or the home cannot be used; nothing was created.
        LeaseLostError: Another process holds the campaign.
    """
    clock, terminal = clock or SystemClock(), terminal or Terminal(lambda _: None)
    loaded = load_campaign(path)
    terminal.show("Reading model, data and cases …")
    paths = CampaignPaths(home.resolve(), loaded.goal.campaign)
    for note in check_campaign(loaded, paths):
        terminal.say(note)
    _make_home(paths)
    # Before the lease: whoever sees us hold it may ask us to stop.
    before = last_request(paths)
    with contextlib.ExitStack() as stack:
        lease = stack.enter_context(Lease.acquire(paths, clock))
        stack.callback(stop_log)
        start_log(
            paths.log,
            # Until the version that stands is known; an edit does not say it until it is followed.
            is_private=True,
            echo=terminal.say if is_verbose else None,
            campaign=paths.name,
            # What an agent before it in this process was at.
            epoch=None,
            decision=None,
            job=None,
        )
        stack.push(_log_failure)
        store = stack.enter_context(Store.open(paths, clock, lease))
        bind_log(epoch=lease.epoch)
        hand_on(campaign=paths.name, epoch=lease.epoch, decision=None)
        log_info("agent.start", state=store.read.campaign().state if store.read.goals() else "new")
        if loose := tighten(paths.root):
            terminal.say(f"{count(loose, 'file')} of this campaign could be read by others; now only you can.")
        session = _sit_down(loaded, paths, store, clock, backend or LocalBackend(), workers)
        log_privately(is_private=session.goal.privacy == "redact")
        session.requests_before, session.say, session.show = before, terminal.say, terminal.show
        session.ask = partial(terminal.print, is_loud=True)
        # Whatever was edited since the last sitting is surfaced like an edit during one.
        was = store.read.campaign().state
        version = session.goal_version
        inbox.take_up(session, loaded)
        inbox.apply_requests(session)
        inbox.apply_deadlines(session)
        # Now that it may have been answered.
        inbox.absorb_edit(session)
        inbox.find_model(session, session.loaded)
        changed = session.goal_version > version
        if changed:
            store.agent.set_campaign(state="running", sentence="", ended_at=None)
        stack.enter_context(notices.courier(session, lease.epoch))
        # Also of a campaign that has ended: what a tracker that died still lacks goes out now.
        trackers.keep_going(session)
        if (ended := _ended(session)) is not None:
            return ended
        with _disk_errors(paths):
            write_json(paths.source, {"file": str(path.absolute())})
            trained = len(store.read.runs())
            _drive(session, wait=wait)
        if changed and was == store.read.campaign().state == "promoted" and len(store.read.runs()) == trained:
            session.say(
                "It was promoted before this edit and stays so; nothing was trained. Another seed or recipe is another"
                " campaign: give the file another `campaign` name."
            )
        return _end(session)


def _log_failure(_kind: Any, failure: BaseException | None, _trace: Any) -> None:
    """Log what ends the agent before its time; `ExitStack` calls it, and the failure goes on."""
    if failure is not None:
        log_error("agent.failed", failure)


def _make_home(paths: CampaignPaths) -> None:
    """Create the campaign's folder, or say in one sentence why not."""
    ensure_local_disk(paths.home)
    try:
        paths.jobs.mkdir(parents=True, exist_ok=True)
        paths.artifacts.mkdir(exist_ok=True)
        writable = os.access(paths.root, os.W_OK)
    except OSError as error:
        raise ConfigError(
            f"{paths.home}: cannot be written ({error.strerror}); choose another place with --home or VIGIL_HOME.",
            where=str(paths.home),
        ) from error
    if not writable:
        raise ConfigError(f"{paths.root}: cannot be written; choose another place with --home.", where=str(paths.root))


@contextlib.contextmanager
def _disk_errors(paths: CampaignPaths) -> Iterator[None]:
    """Turn a full disk into one sentence; what was committed stays."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        # The second is of the checkpoints: the store speaks for itself.
        is_full = (
            error.errno in {errno.ENOSPC, errno.EDQUOT}
            if isinstance(error, OSError)
            else error.sqlite_errorcode == sqlite3.SQLITE_FULL
        )
        if not is_full:
            raise
        raise LimitExceededError(
            f"{paths.root}: the disk is full; free some space and run the same command again, nothing is lost.",
            what="disk",
            where=str(paths.root),
            runbook="runbooks/disk_full.md",
        ) from error


def _sit_down(  # noqa: PLR0917 - the parts of a session
    loaded: LoadedCampaign,
    paths: CampaignPaths,
    store: Store,
    clock: Clock,
    backend: Backend,
    workers: Mapping[JobKind, str],
) -> Session:
    """Open this sitting: note the start, take up or record the goal."""
    goal = loaded.goal
    model = resolve(goal.model.path, online=False, revision=goal.model.revision, base=loaded.folder)
    session = Session(
        loaded=loaded,
        paths=paths,
        store=store,
        backend=backend,
        clock=clock,
        model=model.folder,
        revision=model.revision,
        environment=worker_env(),
        workers=workers,
        previous_session=frozenset(d.id for d in store.read.decisions()) | {a.key for a in store.read.actions()},
        last_file_hash=loaded.file_hash,
    )
    session.load_cache()
    known = store.read.goals()
    if not known:
        store.agent.begin(
            GoalVersion(
                version=1,
                campaign=goal.campaign,
                file_hash=loaded.file_hash,
                spec=goal.model_dump(mode="json"),
                recorded_at=clock.now(),
            )
        )
    else:
        newest = max(known, key=lambda version: version.version)
        session.goal_version = newest.version
        recorded = Goal.of_record(newest.spec)
        # The record holds no command's arguments: the file's are taken where they are the same.
        old, new = recorded.notify, goal.notify
        if old is not None and new is not None and old.model_dump()["command"] == new.model_dump()["command"]:
            recorded = recorded.model_copy(update={"notify": old.model_copy(update={"command": new.command})})
        session.loaded = replace(loaded, goal=recorded, file_hash=newest.file_hash)
    return session


def _ended(session: Session) -> RunEnd | None:
    """Return the end of a campaign that has reached its verdict; take up one that halted, failed or was stopped.

    A verdict whose ground was refuted since is no end.
    """
    campaign = session.store.read.campaign()
    view = view_of(session)
    is_open = session.proposed is not None or plan.has_fallen(view) or plan.is_requested(view)
    if campaign.state in {"promoted", "not_promoted"} and not is_open:
        return RunEnd(campaign.state, campaign.sentence, _EXIT[campaign.state])
    session.store.agent.set_campaign(state="running", sentence="", ended_at=None)
    return None


def _drive(session: Session, *, wait: bool) -> None:
    """Loop the graph until the campaign's row says it has ended, or only an answer can go on."""
    with contextlib.closing(open_saver(session.paths.graph).conn) as connection:
        from langgraph.checkpoint.sqlite import SqliteSaver

        saver = SqliteSaver(connection)
        graph = build(partial(knowing, session), partial(deciding, session), partial(doing, session), saver)
        config: Any = {"configurable": {"thread_id": session.goal.campaign}, "recursion_limit": 100_000}
        try:
            while True:
                _steps(session, graph, config, _input(session, graph, config))
                if session.store.read.campaign().state != "waiting":
                    return
                _put_questions(session, again=True)
                if not wait:
                    return
                _await_answer(session)
                session.store.agent.set_campaign(state="running", sentence="")
        except StopAskedError:
            session.store.agent.set_campaign(
                state="stopped", sentence="Stopped by a person; the same command goes on.", ended_at=session.clock.now()
            )


def _input(session: Session, graph: Graph, config: Any) -> Any:
    """Return what continues the thread: nothing where it was cut, an answer where it asked, a new pass otherwise.

    `next == ()` alone does not mean finished (facts/durability.md 1.4, trap 1), so open tasks count as cut. A place
    that is ahead of the record, which went back to a copy, is given up: the loop begins anew.
    """
    from langgraph.types import Command

    snapshot = graph.get_state(config)
    chosen = snapshot.values.get("deciding", {}).get("decision", "")
    if chosen and chosen not in {decision.id for decision in session.store.read.decisions()}:
        return {"knowing": {}, "deciding": {}}
    if any(task.interrupts for task in snapshot.tasks):
        return Command(resume={"again": True})
    return None if snapshot.next or snapshot.tasks else {"knowing": {}}


def _steps(session: Session, graph: Graph, config: Any, given: Any) -> None:
    """Run supersteps, each checkpoint synced before the next begins; prune now and then."""
    printed = len(session.store.read.decisions())
    for superstep, update in enumerate(graph.stream(given, config, stream_mode="updates", durability="sync"), start=1):
        if "deciding" in update:
            decisions = session.store.read.decisions()
            for decision in decisions[printed:]:
                session.say(f"{decision.id} {decision.sentence}")
                log_info(
                    "decision",
                    decision=decision.id,
                    rule=decision.rule,
                    action=decision.action,
                    run=decision.run,
                    bucket=decision.bucket,
                    goal_version=decision.goal_version,
                )
            printed = len(decisions)
            # Where all waits for the answer it is put once more, and last.
            if session.store.read.campaign().state != "waiting":
                _put_questions(session)
            session.show("Checking what the next step stands on …")
        if superstep % _PRUNE_EVERY == 0 and graph.checkpointer:
            prune(graph.checkpointer)  # type: ignore[arg-type]  # it is the SqliteSaver that we built it with
        inbox.apply_requests(session)
        trackers.keep_going(session)
        if session.is_stopping:
            raise StopAskedError


def _put_questions(session: Session, *, again: bool = False) -> None:
    """Say which questions wait for a person, with figures and what to type; each once in a sitting, or all again."""
    waiting = {row.id for row in session.store.read.approvals() if row.answer is None}
    put = waiting if again else waiting - session.shown_questions
    if not put:
        return
    session.shown_questions |= put
    view = gather(session.paths, file=str(session.loaded.path))
    for row in view["approvals"]:
        if row["id"] in put:
            session.ask(typed.question(view, row))


def _await_answer(session: Session) -> None:
    """Wait until a person answers or asks something, the campaign file changes, or a stop is asked for."""
    before = {(row.id, row.answer) for row in session.store.read.approvals()}
    since = session.clock.now()
    while True:
        inbox.apply_requests(session)
        inbox.apply_deadlines(session)
        if session.is_stopping:
            raise StopAskedError
        now = {(row.id, row.answer) for row in session.store.read.approvals()}
        if now != before or inbox.absorb_edit(session):
            return
        waited = duration(session.clock.now() - since)
        session.show(f"Waiting for you, {waited} so far; nothing else is left to do meanwhile.")
        session.clock.sleep(_POLL_S)


def _end(session: Session) -> RunEnd:
    campaign = session.store.read.campaign()
    code = _EXIT[campaign.state]
    if campaign.state == "failed":
        concluded = [decision.rule for decision in session.store.read.decisions() if decision.action == "conclude"]
        code = ConfigError.exit_code if concluded[-1:] == ["input.refused"] else code
    log_info("agent.end", state=campaign.state, code=code)
    return RunEnd(campaign.state, campaign.sentence, code)
