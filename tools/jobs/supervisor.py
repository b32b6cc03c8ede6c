"""The process that stands over one job: `python -m tools.jobs.supervisor FOLDER [--detach]`.

It holds two locks. `supervisor.lock` is its own: there is never a second supervisor. `lock` is shared with its
worker, which inherits the descriptor: there is never a second worker, whoever dies first. Whatever a supervisor has
to know after a death of its own is in the folder, so any later one goes on from there. It runs in the foreground for
an engine (Slurm, Ray); `--detach` puts it into a session of its own for the local backend.

Exit status: 0 there is an exit record; 75 another supervisor has the job, or this one was told to leave.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from state.log import log_error, log_info, passed_over, start_log

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
    from tools.jobs.supervision import Supervision, open_job

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
