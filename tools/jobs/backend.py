"""What runs jobs: one small interface, and this machine behind it, a detached supervisor per job.

Nothing here assumes one machine or a shared clock, only a folder that both sides see. An engine may start a job
twice; the folder's lock and key make it happen once.
"""

import subprocess
import sys
from pathlib import Path
from typing import Protocol

from state.errors import JobNotStartedError
from state.paths import JobPaths
from tools.jobs.folder import RUNBOOK, FolderBackend, last_lines, supervisor_log
from tools.jobs.locks import is_held
from tools.jobs.spec import JobSpec, JobStatus
from tools.jobs.supervisor import READY


class Backend(Protocol):
    """Launches, watches and stops jobs by their folder."""

    def launch(self, folder: Path, spec: JobSpec) -> None:
        """See to it that the job of this folder runs, is adopted, or has ended; safe to repeat.

        Raises:
            JobNotStartedError: The folder holds another job, or no supervisor came up.
        """

    def status(self, folder: Path) -> JobStatus:
        """Return how the job stands, from evidence alone.

        Raises:
            NotFoundError: There is no job in the folder.
        """

    def stop(self, folder: Path, by: str, reason: str) -> None:
        """Ask for the job's end; its supervisor acts, the first request stays, an ended job is left.

        Raises:
            NotFoundError: There is no job in the folder.
            JobNotStartedError: It had no supervisor and none came up to act.
        """


START_TIMEOUT_S = 60.0
"""How long a supervisor may take to come up; it takes 0.4 s on an idle machine."""


class LocalBackend(FolderBackend):
    """Launches detached supervisors."""

    def serve(self, paths: JobPaths) -> None:
        """Return once a supervisor holds the job or the job has ended.

        Two may be started at once, by two callers: the second leaves when it does not get the lock.

        Raises:
            JobNotStartedError: None came up.
        """
        for _attempt in range(3):
            if paths.exit.exists() or is_held(paths.supervisor_lock):
                return
            if _start_supervisor(paths):
                return
        if not paths.exit.exists() and not is_held(paths.supervisor_lock):
            raise JobNotStartedError(
                f"No supervisor came up for {paths.folder}: {_last_words(paths)}",
                what="supervisor",
                where=str(supervisor_log(paths)),
                runbook=RUNBOOK,
            )


def _start_supervisor(paths: JobPaths) -> bool:
    """Start one and wait until it says that it holds the job; False where it left without saying so."""
    command = [sys.executable, "-m", "tools.jobs.supervisor", str(paths.folder), "--detach"]
    with supervisor_log(paths).open("ab") as log:
        try:
            answer = subprocess.run(
                command,
                cwd=paths.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=START_TIMEOUT_S,
                check=False,
                # Ctrl-C in the launcher's terminal must not reach it before it is in a session of its own.
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return answer.stdout == READY


def _last_words(paths: JobPaths) -> str:
    lines = last_lines(supervisor_log(paths), 1)
    return lines[0] if lines else "it said nothing."
