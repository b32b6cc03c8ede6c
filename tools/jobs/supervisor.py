"""The process that stands over one job: `python -m tools.jobs.supervisor FOLDER [--detach]`.

It holds two locks. `supervisor.lock` is its own: there is never a second supervisor. `lock` is shared with its
worker, which inherits the descriptor: there is never a second worker, whoever dies first. Whatever a supervisor has
to know after a death of its own is in the folder, so any later one goes on from there. It runs in the foreground for
an engine (Slurm, Ray); `--detach` puts it into a session of its own for the local backend.

Exit status: 0 there is an exit record; 75 another supervisor has the job, or this one was told to leave.
"""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import ValidationError

from state.clock import Clock, SystemClock
from state.files import read_json, read_object, write_json
from state.hashing import hash_file
from state.log import log_debug, log_error, log_info, log_warning, passed_over, start_log
from state.paths import JobPaths, MachinePaths
from state.records import BY_DISK, ExitRecord
from tools.jobs.folder import ask_for_stop, last_lines, stop_request
from tools.jobs.locks import Turn, machine_paths, try_lock
from tools.jobs.observe import Awake, Fired, Observer, cpu_s, suspended_s
from tools.jobs.processes import (
    AdoptedWorker,
    ChildWorker,
    Ended,
    ProcessIdentity,
    Worker,
    boot_id,
    clear_group,
    find_by_command,
    identify,
    is_alive,
)
from tools.jobs.spec import JobSpec, StopRequest, read_start_counters
from tools.jobs.worker import LOCK_VARIABLE, NETWORK_VARIABLE, NO_DISK, STOPPED, TURN_VARIABLE, USER_ERROR
from tools.machine.facts import System
from tools.machine.linux import memory_kills
from tools.machine.sandbox import HELD_ENDS, HELD_VARIABLE, held_process

FIRST_TICK_S = 0.05
LAST_TICK_S = 1.0
TICK_GROWTH = 1.15
"""The first seconds of a job are looked at often, so that short jobs end promptly; the night once a second."""

IDENTITY_WAIT_S = 2.0
"""How long an orphan without worker.json may take to write it before it is looked for by its command line."""

LOCK_WAIT_S = 30.0
"""How long a lock may outlive its worker before the job is given up: a process left by the worker keeps it."""

FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGXCPU})
"""Signals that no worker ends itself by. The last is of a limit on processor time, such as batch systems set; it is of
our own, on one text, where the worker was held."""

MAX_KILLS = 8
"""Starts in a row that are ended from outside without progress: more is no accident, but memory that never suffices."""

MAX_STARVED = 2
"""Starts in a row that the system killed for want of memory: the next one would need as much."""

MAX_REBOOTS = 2
"""Boots of the machine during one job: one may be a power cut, a second is taken for the job's load."""

DEATHS = (
    (r"Insufficient Memory|CallbackErrorOutOfMemory", "out_of_memory", "Metal had too little memory for it"),
    (r"Resource limit \(\d+\) exceeded", "out_of_memory", "Metal's number of buffers was used up"),
    (r"greater than the maximum allowed buffer size", "out_of_memory", "one array was larger than Metal allows"),
    (r"Impacting Interactivity|CallbackErrorImpactingInteractivity", "gpu_timeout", "it held up the screen"),
    (r"GPU Timeout|CallbackErrorTimeout|CallbackErrorHang", "gpu_timeout", "one step took the GPU for too long"),
    (r"CUDA.{0,40}out of memory|cudaMalloc.{0,40}out of memory", "out_of_memory", "CUDA had no memory left for it"),
    (r"std::bad_alloc|Unable to allocate \d+ bytes", "out_of_memory", "the system gave it no more memory"),
)
"""What a worker prints when the machine gives up on its load, the verdict, and the reason: texts of MLX and Metal, of
CUDA, of C++."""

MAX_FULL = 3
"""Starts in a row on a full disk before the job is left, to go on once a person has made room."""

_OF_SEVERAL = ("MLX_RANK", "MLX_WORLD_SIZE", "MLX_HOSTFILE", "OMPI_COMM_WORLD_SIZE", "NCCL_HOST_IP")
"""Variables of a process that computes together with others."""

_LONGEST_PAUSE = 16
"""Pauses after kills grow up to this many times the first."""

SHOWN_LINES = 20
_SAID_BYTES = 16_384
RESERVE_BYTES = 65_536
"""Kept on disk while the job runs and given back for the exit record, so that a full disk does not hide the end."""


@dataclass(frozen=True)
class OpenJob:
    """A job whose supervisor we are."""

    paths: JobPaths
    spec: JobSpec
    lock: int
    """Descriptor of supervisor.lock, held until the process ends."""


def is_from_outside(ended: Ended | None) -> bool:
    """Say whether something outside ended a worker: a kill, a reboot that nobody saw, TERM, or a full disk."""
    if ended is None or (ended.code is None and ended.signal is None):
        return True
    return ended.signal in FROM_OUTSIDE or ended.code in {STOPPED, NO_DISK}


def sign_of_death(lines: Sequence[str]) -> tuple[str, str] | None:
    """Return verdict and reason of a death by what was printed last, None where nothing tells of the machine."""
    for pattern, verdict, why in DEATHS:
        if any(re.search(pattern, line) for line in lines):
            return verdict, why
    return None


def open_job(folder: Path) -> OpenJob | int:
    """Become the supervisor of a job, or return the exit status to leave with."""
    paths = JobPaths(folder)
    if paths.exit.exists():
        return 0
    lock = try_lock(paths.supervisor_lock)
    if lock is None:
        return STOPPED
    # The one before us may have finished between the look and the lock.
    if paths.exit.exists():
        return 0
    try:
        spec = JobSpec.model_validate(read_json(paths.spec))
    except (ValidationError, ValueError) as error:
        reason = f"{paths.spec} cannot be read: {str(error).splitlines()[0]}."
        record = ExitRecord(state="failed", by="supervisor", reason=reason, finished_at=time.time())
        write_json(paths.exit, record.model_dump())
        return 0
    return OpenJob(paths, spec, lock)


class Supervision:
    """One supervisor at work.

    Args:
        job: The job, its supervisor's lock held.
        clock: Time.
        suspended: Seconds the machine slept since boot.
        system: The machine that is kept awake, and whose power and heat are looked at.
        machine: Where the campaigns of this machine meet.
    """

    def __init__(
        self,
        job: OpenJob,
        clock: Clock | None = None,
        suspended: Callable[[], float] = suspended_s,
        system: System | None = None,
        machine: MachinePaths | None = None,
    ) -> None:
        self.is_leaving = False
        self._paths = job.paths
        self._spec = job.spec
        self._clock = clock or SystemClock()
        self._starts = read_start_counters(job.paths)
        self._system = system = system or System()
        self._memory_kills: int | None = None
        self._log_begun = 0
        self._sign: tuple[str, str] | None = None
        """Verdict and reason of the last worker's death, where its last lines tell."""
        self._observer = Observer(job.paths, job.spec.guards, self._clock, suspended, system)
        self._awake = Awake(os.getpid(), system)
        self._machine = machine
        self._turn: Turn | None = None
        self._lock: int | None = None
        self._own_lock = job.lock
        self._is_adopted = False
        self._asked: StopRequest | None = None

    def sign_on(self) -> None:
        """Write start.json and the first heartbeat; a full disk only delays them."""
        with passed_over("tally.not_written", OSError):
            self._save_counters()
        self._observer.beat()

    def run(self) -> int:
        """Bring the job to its exit record; return the supervisor's exit status."""
        self._keep_reserve()
        try:
            self._note_conditions()
            record = self._live()
            self._end_turn()
            is_concluded = record is not None and self._conclude(record)
        finally:
            self._awake.end()
        return 0 if is_concluded else STOPPED

    def _note_conditions(self) -> None:
        """Note in start.json what the night begins with; an adopted worker is not started, so nothing else would."""
        self._observer.read_conditions()
        with passed_over("tally.not_written", OSError):
            self._save_counters()

    def _live(self) -> ExitRecord | None:
        """Return how the job ended, None if this supervisor was told to leave before."""
        try:
            ended = self._take_lock_or_adopt()
        except TimeoutError as error:
            return self._record("failed", None, by="supervisor", reason=str(error))
        if self._lock is None:
            return None
        self._act_on(self._observer.catch_up())
        while True:
            if self._is_displaced():
                return None
            # No worker lives here: an error of the disk may end the job.
            try:
                self._count_end(ended)
                record = self._outcome(ended)
                if record is not None or self.is_leaving:
                    return record
                if not self._has_turn():
                    continue
                worker = self._start()
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    return self._full(ended)
                return self._record("failed", ended, by="supervisor", reason=f"The job cannot go on: {error}.")
            ended = self._watch(worker)

    # -- taking over ------------------------------------------------------------------------------------------

    def _take_lock_or_adopt(self) -> Ended | None:
        """Hold the job's lock; before that, watch a worker that outlived its supervisor until it ends."""
        ended: Ended | None = None
        waiting_since = self._clock.monotonic()
        while (lock := try_lock(self._paths.lock)) is None:
            waited_s = self._clock.monotonic() - waiting_since
            orphan = self._find_orphan(waited_s)
            if orphan is not None:
                self._is_adopted = True
                log_warning("worker.adopted", worker=orphan.pid)
                self._awake.begin()
                self._note_conditions()
                self._observer.add_unwatched_time()
                self._act_on(self._observer.catch_up())
                ended = self._watch(AdoptedWorker(orphan))
                waiting_since = self._clock.monotonic()
            elif self.is_leaving:
                return None
            elif waited_s > LOCK_WAIT_S:
                raise TimeoutError("A process left behind by the worker still holds the job's lock.")
            self._clock.sleep(FIRST_TICK_S)
        self._lock = lock
        self._clear_leftovers()
        return ended

    def _clear_leftovers(self) -> None:
        """Kill what a dead worker left in its group; its own supervisor would have."""
        written = ProcessIdentity.from_json(read_json(self._paths.worker))
        if written is not None:
            clear_group(written)

    def _find_orphan(self, waited_s: float) -> ProcessIdentity | None:
        """Return the live worker, if it can be told which process it is."""
        written = ProcessIdentity.from_json(read_json(self._paths.worker))
        if is_alive(written):
            return written
        # A process that the worker left may be what holds the lock.
        self._clear_leftovers()
        if waited_s > IDENTITY_WAIT_S:
            return find_by_command(self._spec.module, self._paths.folder)
        return None

    # -- waiting for the accelerator --------------------------------------------------------------------------

    def _has_turn(self) -> bool:
        """Wait until the accelerator is this job's; return False where it is to end or to be left before.

        A turn is kept over restarts of the worker, and one that an adopted worker holds ends with it.
        """
        if self._turn is not None or not self._spec.uses_accelerator:
            return True
        machine, tick_s = self._machine or machine_paths(), FIRST_TICK_S
        since, written = self._clock.now(), None
        try:
            while not (self.is_leaving or self._asked or self._paths.stop.exists() or self._is_displaced()):
                if self._turn is None or not self._turn.is_standing:
                    self._turn = Turn.take(machine, self._who(since))
                ahead = self._turn.ahead() if self._turn else None
                if ahead == []:
                    return True
                if ahead is not None and ahead != written:
                    write_json(self._paths.waiting, {"since": since, "ahead": ahead})
                    log_info("accelerator.waits", ahead=len(ahead))
                    written = ahead
                self._observer.wait()
                self._clock.sleep(tick_s)
                tick_s = min(LAST_TICK_S, tick_s * TICK_GROWTH)
            self._end_turn()
            return False
        finally:
            self._observer.wait()
            if not self._is_displaced():
                self._paths.waiting.unlink(missing_ok=True)

    def _who(self, since: float) -> dict[str, Any]:
        """Return what other jobs are told about this one."""
        spec = self._spec
        named = {"campaign": self._paths.campaign, "kind": spec.kind, "key": spec.key}
        return {**named, "pid": os.getpid(), "since": since}

    def _end_turn(self) -> None:
        """Let the next job have the accelerator."""
        if self._turn is not None:
            self._turn.release()
            self._turn = None

    # -- starting ---------------------------------------------------------------------------------------------

    def _start(self) -> Worker | Ended:
        """Start the worker; an end where the system refuses to."""
        if self._starts.fruitless:
            self._clock.sleep(self._spec.restart_pause_s * 2 ** (self._starts.fruitless - 1))
        elif self._starts.killed:
            self._clock.sleep(self._spec.restart_pause_s * min(_LONGEST_PAUSE, 2 ** (self._starts.killed - 1)))
        self._is_adopted = False
        self._awake.begin()
        self._starts.starts += 1
        self._starts.is_open = True
        self._starts.best_step = self._observer.best_step
        self._starts.boot = boot_id()
        self._starts.started_at = self._starts.started_at or self._clock.now()
        self._save_counters()
        self._paths.worker.unlink(missing_ok=True)
        self._paths.held.unlink(missing_ok=True)
        self._paths.out.mkdir(exist_ok=True)
        self._log_begun = self._paths.log.stat().st_size if self._paths.log.exists() else 0
        self._memory_kills = memory_kills(self._system)
        try:
            worker = ChildWorker(self._popen())
        except OSError as error:
            log_error("worker.not_started", error)
            with passed_over("output.not_written", OSError), self._paths.log.open("a") as log:
                log.write(f"The worker could not be started: {error}\n")
            return Ended(code=error.errno)
        else:
            log_info("worker.started", worker=worker.pid, starts=self._starts.starts, step=self._observer.best_step)
            return worker
        finally:
            self._observer.worker_started()

    def _popen(self) -> "subprocess.Popen[bytes]":
        if self._lock is None:
            raise AssertionError("a worker is started under the job's lock")
        inherited = {LOCK_VARIABLE: self._lock} | ({TURN_VARIABLE: self._turn.descriptor} if self._turn else {})
        with self._paths.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", self._spec.module, str(self._paths.folder)],
                # A folder of ours: `-m` looks there first, and a user's folder may have a package called tools.
                cwd=self._paths.folder,
                env={
                    **os.environ,
                    **self._spec.env,
                    **{name: str(number) for name, number in inherited.items()},
                    HELD_VARIABLE: str(self._paths.held),
                    NETWORK_VARIABLE: "open" if self._needs_network() else "closed",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(inherited.values()),
                # A session, not only a group: a suspended group whose supervisor dies would get HUP from the kernel.
                start_new_session=True,
            )

    def _needs_network(self) -> bool:
        """Say whether a worker, or what it starts, may have to reach somebody; CUDA was not tried without."""
        graders = (self._spec.input.get("grader"), (self._spec.input.get("interim") or {}).get("grader"))
        asked = any((grader or {}).get("network") for grader in graders)
        is_one_of_several = any(name in os.environ for name in _OF_SEVERAL)
        return bool(self._spec.kind == "notice" or asked or is_one_of_several or Path("/dev/nvidiactl").exists())

    # -- watching ---------------------------------------------------------------------------------------------

    def _watch(self, worker: Worker | Ended) -> Ended:
        """Look at the worker until it ends, of itself or on request."""
        if isinstance(worker, Ended):
            return worker
        tick_s = FIRST_TICK_S
        while True:
            if self._is_displaced():
                return self._kill(worker)
            ended = worker.poll()
            self._act_on(self._observer.observe(worker))
            self._awake.check()
            if ended is not None:
                return ended
            if self.is_leaving or self._asked or self._paths.stop.exists():
                return self._stop(worker)
            self._clock.sleep(tick_s)
            tick_s = min(LAST_TICK_S, tick_s * TICK_GROWTH)

    def _stop(self, worker: Worker) -> Ended:
        """TERM, wait, KILL on the group."""
        deadline = self._clock.monotonic() + self._spec.stop_grace_s
        request = stop_request(self._paths) or self._asked
        log_info("worker.asked_to_stop", worker=worker.pid, by=request.by if request else "leaving")
        worker.ask_to_stop()
        while (ended := worker.poll()) is None:
            if self._clock.monotonic() >= deadline:
                log_warning("worker.killed", worker=worker.pid)
                worker.kill()
            self._observer.observe(worker)
            self._clock.sleep(FIRST_TICK_S)
        self._observer.observe(worker)
        return ended

    def _kill(self, worker: Worker) -> Ended:
        """KILL at once: asked to stop, it would save into a folder that is another job's by now."""
        while (ended := worker.poll()) is None:
            worker.kill()
            self._clock.sleep(FIRST_TICK_S)
        return ended

    def _is_displaced(self) -> bool:
        """Say whether the folder was deleted, moved, or made anew under us; nothing may be written there then."""
        try:
            there = self._paths.supervisor_lock.stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self._own_lock)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _act_on(self, fired: list[Fired]) -> None:
        """Leave a request to stop for a guard that fired; keep those that only note."""
        for item in fired:
            fired_guard = {"verdict": item.guard.verdict, "action": item.guard.action, "signal": item.guard.signal}
            log_warning("guard", **fired_guard, value=item.to_json()["value"], step=item.step)
            if item.guard.action == "stop":
                # Written before acting, so that a supervisor after us knows why the worker ended.
                request = StopRequest(
                    by="guard",
                    reason=item.sentence(),
                    verdict=item.guard.verdict,
                    guard=item.to_json(),
                    asked_at=self._clock.now(),
                )
                self._asked = self._asked or request
                with passed_over("stop.not_written", OSError):
                    ask_for_stop(self._paths, request)
            elif all(note["position"] != item.position for note in self._starts.notes):
                self._starts.notes.append({"position": item.position, **item.to_json()})
                with passed_over("tally.not_written", OSError):
                    self._save_counters()

    # -- concluding -------------------------------------------------------------------------------------------

    def _count_end(self, ended: Ended | None) -> None:
        """Count a worker's end, seen or not: one that is open although the lock was free ended unseen.

        An end that was asked for is no death; such a job may be opened again and has its restarts left. One from
        outside (a kill, a reboot, a full disk) is no failure of the job, which goes on from its newest save.
        """
        if not self._starts.is_open:
            return
        is_death = not (self.is_leaving or self._asked or self._paths.stop.exists())
        is_outside = is_from_outside(ended)
        self._sign = sign_of_death(self._last_words()) if is_death and not is_outside else None
        if self._observer.best_step > self._starts.best_step:
            self._starts.fruitless = self._starts.killed = self._starts.starved = 0
        elif is_death:
            self._starts.fruitless += not is_outside
            self._starts.killed += is_outside
            self._starts.starved = self._starts.starved + 1 if self._is_starved(ended) or self._sign else 0
        self._starts.deaths += is_death and not is_outside
        self._starts.reboots += bool(self._starts.boot) and self._starts.boot != boot_id()
        self._starts.is_open = False
        how = {} if ended is None else {"code": ended.code, "signal": ended.signal}
        (log_warning if is_death and how.get("code") else log_info)(
            "worker.ended", **how, step=self._observer.best_step
        )
        # On a full disk the end must still be told; a start, which needs the tally, fails by itself.
        with passed_over("tally.not_written", OSError):
            self._save_counters()

    def _last_words(self) -> list[str]:
        """Return the last lines of this start of the worker; earlier ones wrote into the same file."""
        with passed_over("output.not_read", OSError), self._paths.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            begun = self._log_begun if self._log_begun <= size else 0
            log.seek(max(begun, size - _SAID_BYTES))
            return log.read().decode(errors="replace").splitlines()
        return []

    def _is_starved(self, ended: Ended | None) -> bool:
        """Say whether the system killed a worker for want of memory; false where it does not tell."""
        if ended is None or ended.signal != signal.SIGKILL or self._memory_kills is None:
            return False
        return (memory_kills(self._system) or 0) > self._memory_kills

    def _was_held(self) -> bool:
        """Say whether the worker ended within a text that `held` bounds."""
        written = ProcessIdentity.from_json(read_json(self._paths.worker))
        return written is not None and held_process(self._paths.held) == written.pid

    def _outcome(self, ended: Ended | None) -> ExitRecord | None:
        """Return how the job ended, None if the worker is to be started (again)."""
        request = stop_request(self._paths) or self._asked
        if self._paths.result.exists():
            return self._finished(ended, request)
        if request is not None:
            return self._record(
                "stopped",
                ended,
                by=request.by,
                reason=request.reason,
                verdict=request.verdict,
                guard=request.guard,
            )
        if error := read_object(self._paths.error):
            return self._record("failed", ended or Ended(code=USER_ERROR), reason=str(error.get("sentence", "")))
        if ended is not None and (said := HELD_ENDS.get(ended.signal or 0)) and self._was_held():
            return self._record("failed", ended, reason=said)
        return self._given_up(ended)

    def _finished(self, ended: Ended | None, request: StopRequest | None) -> ExitRecord:
        try:
            result = read_json(self._paths.result)
        except ValueError as error:
            return self._record("failed", ended, reason=f"result.json is not JSON: {error}.")
        verdict = str(result.get("verdict") or "") if isinstance(result, dict) else ""
        if request is None or request.by != "guard":
            reason = "" if request is None else f"It had finished when {request.by} asked it to stop."
            return self._record("finished", ended, reason=reason, verdict=verdict)
        # The guard and the worker saw the same trouble; the worker was quicker to write its result.
        verdict = request.verdict or verdict
        return self._record("finished", ended, reason=request.reason, verdict=verdict, guard=request.guard)

    def _given_up(self, ended: Ended | None) -> ExitRecord | None:
        counters, spec = self._starts, self._spec
        how = (ended or Ended()).words()
        if ended is not None and ended.code == NO_DISK and counters.killed >= MAX_FULL:
            return self._full(ended)
        if counters.reboots >= MAX_REBOOTS:
            reason = (
                f"The machine was booted anew {counters.reboots} times while this job ran: its load may be what the "
                "system gives up on."
            )
            return self._record("stopped", ended, by="guard", verdict="rebooted", reason=reason)
        is_over = counters.fruitless > spec.max_restarts_without_progress or counters.deaths > spec.max_restarts
        if counters.starved >= MAX_STARVED or (self._sign and is_over):
            verdict, why = self._sign or ("out_of_memory", "the system killed it for want of memory")
            reason = (
                f"The worker {how}: {why}, {max(counters.starved, 1)} starts in a row before any progress: it has to "
                "hold less at once (a smaller batch_size, grad_checkpoint: true), or to have more memory."
            )
            return self._record("stopped", ended, by="guard", verdict=verdict, reason=reason)
        if counters.killed >= MAX_KILLS:
            reason = f"The worker {how}; {counters.killed} starts in a row were ended from outside before any progress."
        elif counters.fruitless > spec.max_restarts_without_progress:
            reason = f"The worker {how}; {counters.fruitless} starts in a row made no progress."
        elif counters.deaths > spec.max_restarts:
            reason = f"The worker {how} after {counters.starts - 1} restarts; {spec.max_restarts} are allowed."
        else:
            return None
        return self._record("failed", ended, reason=reason)

    def _full(self, ended: Ended | None) -> ExitRecord:
        """Return the end of a job that waits for room on the disk; what it saved is there."""
        reason = f"The disk of {self._paths.folder} is full; it goes on from its newest save once there is room."
        return self._record("stopped", ended, by=BY_DISK, reason=reason)

    def _record(self, state: str, ended: Ended | None, *, by: str = "worker", **fields: Any) -> ExitRecord:
        totals = self._observer.totals()
        return ExitRecord.model_validate(
            {
                "state": state,
                "by": by,
                "code": ended.code if ended else None,
                "signal": ended.signal if ended else None,
                "restarts": max(0, self._starts.starts - 1),
                "started_at": self._starts.started_at,
                "wall_s": round(totals.worked_s + totals.frozen_s, 3),
                "slept_s": round(totals.slept_s, 1),
                "frozen_s": round(totals.frozen_s, 1),
                "queued_s": round(totals.queued_s, 1),
                "peak_rss_gb": round(totals.peak_rss_gb, 4),
                "peak_swap_gb": round(totals.peak_swap_gb, 4),
                "on_battery_s": round(totals.on_battery_s, 1),
                "lid_closed_s": round(totals.lid_closed_s, 1),
                "held_back_s": round(totals.held_back_s, 1),
                "hottest_c": round(totals.hottest_c, 1),
                "power": self._observer.power,
                "kept_awake_by": self._awake.by,
                "awake_lapses": self._awake.lapses,
                "is_adopted": self._is_adopted,
                "notes": tuple(self._starts.notes),
                **fields,
            }
        )

    def _conclude(self, record: ExitRecord) -> bool:
        """Write the exit record; on a full disk, keep trying: a job is never believed finished without it.

        Returns:
            Whether it is there; it is not when this supervisor was told to leave meanwhile.
        """
        self._observer.beat()
        pause_s = FIRST_TICK_S
        while True:
            try:
                self._write_exit(record)
            except OSError as failure:
                log_debug("exit.not_written", errno=failure.errno)
                self._reserve().unlink(missing_ok=True)
                if self.is_leaving:
                    return False
            else:
                self._reserve().unlink(missing_ok=True)
                (log_error if record.state == "failed" else log_info)(
                    "job.ended",
                    state=record.state,
                    by=record.by,
                    verdict=record.verdict,
                    wall_s=record.wall_s,
                    restarts=record.restarts,
                )
                return True
            self._clock.sleep(pause_s)
            pause_s = min(30.0, pause_s * 2)

    def _write_exit(self, record: ExitRecord) -> None:
        last = {
            # What a command of the person's says may hold its token (`curl -v`): it stays in log.txt.
            "last_lines": [] if self._spec.kind == "notice" else last_lines(self._paths.log, SHOWN_LINES),
            "result_hash": hash_file(self._paths.result) if self._paths.result.exists() else "",
            "finished_at": self._clock.now(),
            "cpu_s": round(cpu_s(), 3),
        }
        write_json(self._paths.exit, {**record.model_dump(), **last})

    # -- files ------------------------------------------------------------------------------------------------

    def _save_counters(self) -> None:
        me = identify(os.getpid())
        conditions = {"power": self._observer.power, "kept_awake_by": self._awake.by}
        write_json(self._paths.start, {**(me.to_json() if me else {}), "tally": asdict(self._starts), **conditions})

    def _reserve(self) -> Path:
        return self._paths.folder / ".reserve"

    def _keep_reserve(self) -> None:
        with passed_over("reserve.not_written", OSError):
            self._reserve().write_bytes(os.urandom(RESERVE_BYTES))


READY = b"ready\n"
"""What a detached supervisor says once it holds the job."""


def detach() -> bool:
    """Fork off into a session of its own; return whether this is the process that goes on.

    Called before anything heavy is imported. The child is not the launcher's, so it never becomes its zombie.
    """
    if os.fork() > 0:
        return False
    os.setsid()
    return True


def main(arguments: list[str]) -> int:
    """Supervise the job of one folder until its exit record is there."""
    if "--detach" in arguments and not detach():
        # Not sys.exit: the launcher waits for this process, and it has nothing to clean up.
        os._exit(0)
    folder = Path(next(argument for argument in arguments if not argument.startswith("-"))).resolve()
    job = open_job(folder)
    if isinstance(job, int):
        return job
    start_log(
        job.paths.supervisor_log,
        is_private=job.spec.input.get("privacy") == "redact",
        campaign=job.paths.campaign,
        job=job.spec.key,
    )
    supervision = Supervision(job)

    def leave(_signal: int, _frame: FrameType | None) -> None:
        supervision.is_leaving = True

    # Machines that shut down send TERM: the worker gets time to save, and the next launch resumes it.
    signal.signal(signal.SIGTERM, leave)
    # Handlers, not SIG_IGN: that would be inherited by the worker and by whatever it starts.
    signal.signal(signal.SIGINT, _go_on)
    signal.signal(signal.SIGHUP, _go_on)
    supervision.sign_on()
    if "--detach" in arguments:
        _tell_launcher()
    log_info("supervisor.start", kind=job.spec.kind, module=job.spec.module, steps=job.spec.steps)
    try:
        code = supervision.run()
    except Exception as failure:
        log_error("supervisor.failed", failure)
        raise
    log_info("supervisor.end", code=code)
    return code


def _go_on(_signal: int, _frame: FrameType | None) -> None:
    """Take no notice."""


def _tell_launcher() -> None:
    """Say on standard output that the job is ours, then let go of it; the launcher may be dead by now."""
    with passed_over("launcher.gone", OSError):
        os.write(1, READY)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
