"""`python3 -m tools.install VENV`: the environment of a clone, made with the time it takes said and its progress shown.

Runs on the Python that the environment is made of, before anything is installed: the standard library only. What it
installs stands in `requirements.lock`, pinned and hashed. Interrupted, it is repeated by the same command.
"""

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

EXPECTED = """\
Installing Vigil into {venv}: {count} packages, about 200 MB, each pinned and hashed in requirements.lock.
Usually 1 to 2 minutes on two cores; a slow network or a busy machine takes longer. Ctrl-C is safe: repeat the command.
"""

PLAIN_S = 10.0
"""Seconds between lines where no terminal rewrites the last one."""

REWRITTEN_S = 1.0
"""Seconds between looks at what pip does where one does."""

_FETCHED = re.compile(r"^Collecting ([\w.-]+)==")
_DOWNLOAD = re.compile(r"^\s+Downloading ([^\s-]+)-\S+ \((\d+(?:\.\d+)? [MG]B)\)")
_SITE = "lib/python{}.{}/site-packages"


class Progress:
    """What an installation by pip has come to, from what pip says and the packages that are there.

    Args:
        count: Packages that the lock file names, those for other systems too.
        site: Where packages are unpacked; pip says nothing while it does.
    """

    def __init__(self, count: int, site: Path) -> None:
        self._count = count
        self._site = site
        self._fetched = 0
        self._now = "starting"
        self._is_unpacking = False

    def take(self, line: str) -> None:
        """Take in a line of pip's."""
        if match := _FETCHED.match(line):
            self._fetched += 1
            self._now = match[1]
        elif match := _DOWNLOAD.match(line):
            self._now = f"{match[1]} ({match[2]})"
        elif line.startswith("Installing collected packages"):
            self._is_unpacking = True

    @property
    def words(self) -> str:
        """What to tell a person now."""
        if not self._is_unpacking:
            return f"downloading: {self._fetched} of at most {self._count} packages, {self._now}"
        there = sum(1 for each in self._site.glob("*.dist-info") if not each.name.startswith("pip-"))
        return f"unpacking: {there} of {self._fetched} packages"


class Teller:
    """Says what is done: one line that is rewritten in a terminal, else a line now and then."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._started = clock()
        self._told_at = self._started
        self.every_s = REWRITTEN_S if stream.isatty() else PLAIN_S

    def tell(self, words: str, *, stays: bool = False) -> None:
        """Say something; what does not stay is left out while the last line is young, and rewritten in a terminal."""
        now = self._clock()
        if not stays and now - self._told_at < self.every_s:
            return
        line = f"  {now - self._started:3.0f} s  {words}"
        if self._stream.isatty():
            self._stream.write(f"\r\x1b[K{line}\n" if stays else f"\r\x1b[K{line[:79]}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
        self._told_at = now


def run(command: list[str], env: dict[str, str], each: Callable[[str], None], every_s: float) -> int:
    """Run a command and return its code; what it said last is printed when it failed.

    Args:
        command: What to run.
        env: Its environment.
        each: Called with each line, and with an empty one when none came for a while.
        every_s: That while, seconds.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    kept: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env
    ) as child:

        def read() -> None:
            try:
                for line in child.stdout or ():
                    lines.put(line)
            finally:
                lines.put(None)

        threading.Thread(target=read, daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=every_s)
            except queue.Empty:
                line = ""
            if line is None:
                break
            kept.append(line)
            each(line)
    if child.returncode:
        sys.stderr.write("\n" + "".join(kept[-20:]))
    return child.returncode


def main(venv: str) -> int:
    """Make the environment; return the code of the first command that failed."""
    lock = Path("requirements.lock")
    count = sum(line[:1].isalnum() for line in lock.read_text(encoding="utf-8").splitlines())
    sys.stdout.write(EXPECTED.format(venv=venv, count=count))
    teller = Teller(sys.stdout)
    scripts = Path(venv).resolve() / "bin"
    python = str(scripts / "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", "--no-deps"]
    env = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"}
    progress = Progress(count, Path(venv) / _SITE.format(*sys.version_info[:2]))

    def follow(line: str) -> None:
        progress.take(line)
        teller.tell(progress.words)

    # The lock names every package, so there is nothing to resolve (--no-deps).
    steps: tuple[tuple[str, list[str], Callable[[str], None]], ...] = (
        ("making the environment", [sys.executable, "-m", "venv", venv], lambda _: None),
        ("installing packages", [*pip, "--require-hashes", "--requirement", str(lock)], follow),
        ("installing Vigil", [*pip, "--no-build-isolation", "--editable", "."], lambda _: None),
    )
    for words, command, each in steps:
        teller.tell(words, stays=True)
        if code := run(command, env, each, teller.every_s):
            sys.stderr.write(f"Failed while {words}; its last lines stand above. Mend that, then: make setup\n")
            return code
    # On Linux CPUs alone it has something to say; where it gains nothing all works as well, and takes longer.
    lines: list[str] = []
    run([python, "-m", "tools.machine.blas"], env, lines.append, teller.every_s)
    for line in filter(None, map(str.strip, lines)):
        teller.tell(line, stays=True)
    teller.tell("installed", stays=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except KeyboardInterrupt:
        sys.stderr.write("\nStopped; to go on: make setup\n")
        sys.exit(130)
