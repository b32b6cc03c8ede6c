"""Where facts about a machine come from: programs found on a path, files below a root.

A program that is absent, hangs or cannot be started is an answer of its own (None), never an error.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

_USUAL = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
"""Searched after PATH: services are started with a shorter one."""


@dataclass(frozen=True)
class Answer:
    """What a program said."""

    status: int
    out: str
    error: str

    @property
    def last_words(self) -> str:
        """The last line it wrote to standard error, or else to standard output; empty where it said nothing."""
        lines = [line.strip() for line in (self.error or self.out).splitlines() if line.strip()]
        return lines[-1] if lines else ""


@dataclass(frozen=True)
class System:
    """One machine.

    Args:
        platform: `sys.platform`: darwin or linux; of others nothing is known.
        root: Folder that /proc, /sys, /etc and /run are looked for in.
        path: Folders of programs, separated by colons; PATH and the usual ones by default.
        timeout_s: Longest wait for the answer of one program, seconds.
    """

    platform: str = sys.platform
    root: Path = Path("/")
    path: str = field(default_factory=lambda: f"{os.environ.get('PATH', '')}:{_USUAL}")
    timeout_s: float = 10.0

    def which(self, program: str) -> str | None:
        """Return where a program is, None where there is none."""
        return shutil.which(program, path=self.path)

    def ask(self, program: str, *arguments: str) -> Answer | None:
        """Run a program that reports something; None where it is absent, does not start or does not end."""
        found = self.which(program)
        if found is None:
            return None
        try:
            done = subprocess.run(
                [found, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
                check=False,
                # What it says is read by us, so it must not be translated.
                env={**os.environ, "LC_ALL": "C"},
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return Answer(done.returncode, done.stdout, done.stderr)

    def read(self, name: str) -> str | None:
        """Return a file's text without white space around it, None where it cannot be read.

        Args:
            name: Path below the root, without a leading slash.
        """
        try:
            return (self.root / name).read_text(errors="replace").strip()
        except OSError:
            return None

    def number(self, name: str) -> float | None:
        """Return the number in a file, None where there is none."""
        try:
            return float(self.read(name) or "")
        except ValueError:
            return None

    def glob(self, pattern: str) -> list[str]:
        """Return the names below the root that match, sorted."""
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.glob(pattern))
