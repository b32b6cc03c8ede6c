"""Backends that the specification runs on: this machine, and an engine as bad as engines are allowed to be."""

import subprocess
import sys
from pathlib import Path

from state.errors import ToolUnavailableError
from state.paths import JobPaths
from tests.faults.jobs.harness import ROOT
from tools.jobs.backend import LocalBackend
from tools.jobs.folder import FolderBackend

SLOTS = 8
"""Supervisors that an engine runs at once."""


class Careless(FolderBackend):
    """An at-least-once engine: starts every job twice, answers every other request with an error, forgets what it ran.

    What it runs is the supervisor in the foreground, as Slurm or Ray would.
    """

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self._is_deaf = False

    def serve(self, paths: JobPaths) -> None:
        """Start two supervisors, whatever runs or has ended; then maybe lose the acknowledgement."""
        # A queue has so many slots. Without them a slow machine is asked again and again before the first is up.
        if sum(process.poll() is None for process in self.started) < SLOTS:
            for _ in range(2):
                self.requeue(paths.folder)
        self._is_deaf = not self._is_deaf
        if self._is_deaf:
            raise ToolUnavailableError("The engine did not answer in time.", what="engine")

    def requeue(self, folder: Path) -> None:
        """Run the job's command once more, as a restarted controller does with jobs that it believes pending."""
        command = [sys.executable, "-m", "tools.jobs.supervisor", str(folder)]
        self.started.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True))

    def settle(self) -> list[int]:
        """Wait for everything that was started and return the exit statuses."""
        return [process.wait(timeout=60) for process in self.started]


class Local(LocalBackend):
    """Jobs of this machine; run once more by a second launcher."""

    def requeue(self, folder: Path) -> None:
        """Start the supervisor once more."""
        self.serve(JobPaths(folder))

    def settle(self) -> list[int]:
        """Return nothing: detached supervisors are nobody's children."""
        return []


Engine = Careless | Local
ENGINES: tuple[type[Engine], ...] = (Local, Careless)
