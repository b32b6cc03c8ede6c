"""What runs jobs: one small interface, whatever is behind it (this machine, later Slurm or Ray).

Nothing here assumes one machine or a shared clock, only a folder that both sides see. An engine may start a job
twice; the folder's lock and key make it happen once.
"""

from pathlib import Path
from typing import Protocol

from tools.jobs.spec import JobSpec, JobStatus


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
