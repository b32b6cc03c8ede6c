"""One child process spoken to line by line, with a deadline on every answer.

Both pipes are non-blocking: a child that never reads, never answers, or answers without end cannot hold us up.
"""

import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tools.machine.sandbox import Ended, Limits, end, ending_of, start

_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 22
"""Bytes; an answer beyond it is a child gone wild, not a grade."""
_GOODBYE_S = 5.0
"""How long a child that closed its pipes may take to end, with all that it started."""


class ChildDiedError(Exception):
    """The child ended, or closed its pipes, before it answered."""


class ChildHungError(Exception):
    """The child gave no whole line within the limit."""


class LineChild:
    """A child process under limits; ended with everything it started.

    Args:
        argv: Command; the program is looked up on PATH.
        cwd: Working folder of the child.
        env: Whole environment of the child.
        limits: What it may take.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], limits: Limits | None = None) -> None:
        self._told: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        try:
            self._process = start(argv, limits or Limits(), self._told, env=env, cwd=cwd, **pipes)
        except BaseException:
            self._told.close()
            raise
        assert self._process.stdin is not None  # noqa: S101 - asked for above
        assert self._process.stdout is not None  # noqa: S101 - asked for above
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)
        self._received = bytearray()

    @property
    def has_unread_output(self) -> bool:
        """Tell whether the child has said more than it was asked."""
        self._read_available()
        return bool(self._received)

    def ask(self, line: str, timeout_s: float) -> str:
        """Send one line (nothing, when empty) and return the next line of the child.

        Raises:
            ChildDiedError: It ended first.
            ChildHungError: It did not answer within `timeout_s` seconds.
        """
        pending = memoryview(f"{line}\n".encode() if line else b"")
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if pending:
                selector.register(self._stdin, selectors.EVENT_WRITE)
            while b"\n" not in self._received:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready or time.monotonic() > deadline or len(self._received) > _LONGEST_LINE:
                    raise ChildHungError
                if any(key.fileobj is self._stdin for key, _ in ready):
                    pending = self._write(pending)
                    if not pending:
                        selector.unregister(self._stdin)
                if any(key.fileobj is self._stdout for key, _ in ready) and not self._read_available():
                    raise ChildDiedError
        answer, _, rest = bytes(self._received).partition(b"\n")
        self._received = bytearray(rest)
        return answer.decode("utf-8", "replace")

    def _write(self, pending: memoryview) -> memoryview:
        try:
            return pending[os.write(self._stdin.fileno(), pending[:_CHUNK]) :]
        except BlockingIOError:
            return pending
        except BrokenPipeError as error:
            raise ChildDiedError from error

    def _read_available(self) -> bool:
        """Take what is there; return False when the child has closed its output."""
        try:
            data = os.read(self._stdout.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        self._received += data
        return bool(data)

    def _ended(self) -> Ended | None:
        try:
            self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            return None
        return ending_of(self._process, self._told)

    def ending(self) -> str:
        """Return how the child ended."""
        ended = self._ended()
        return ended.words if ended else "closed its pipes"

    def last_words(self) -> str:
        """Return how the child ended and the last line it wrote to stderr."""
        ended = self._ended()
        spoken = [line.strip() for line in (ended.said if ended else "").split("\n") if line.strip()]
        return f"{self.ending()}, last saying: {spoken[-1]}" if spoken else self.ending()

    def close(self, grace_s: float = 0.0) -> None:
        """End the child and free the pipes.

        Args:
            grace_s: Time to end by itself now that its input ends; then it is killed with everything it started.
        """
        self._stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        end(self._process)
        self._stdout.close()
        self._told.close()
