"""One child process spoken to line by line, with a deadline on every answer.

Both pipes are non-blocking: a child that never reads, never answers, or answers without end cannot hold us up.
"""

import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from state.log import passed_over

_CHUNK = 1 << 16
_LONGEST_LINE = 1 << 26
"""Bytes; an answer beyond it is a child gone wild, not a grade."""
_GOODBYE_S = 1.0


class ChildDiedError(Exception):
    """The child ended, or closed its pipes, before it answered."""


class ChildHungError(Exception):
    """The child gave no whole line within the limit."""


class LineChild:
    """A child process in a session of its own; killed with everything it started.

    Args:
        argv: Command; the program is looked up on PATH.
        cwd: Working folder of the child.
        env: Whole environment of the child.

    Raises:
        OSError: The program cannot be started.
    """

    def __init__(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
        # A file, not a pipe: a grader may print more than a pipe holds and nobody reads it meanwhile.
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        try:
            self._process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                start_new_session=True,
            )
        except BaseException:
            self._stderr.close()
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

    def ending(self) -> str:
        """Return how the child ended."""
        try:
            code = self._process.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            return "closed its pipes"
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def last_words(self) -> str:
        """Return how the child ended and the last line it wrote to stderr."""
        ending = self.ending()
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 4096))
        lines = self._stderr.read().decode("utf-8", "replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return f"{ending}, last saying: {said[-1]}" if said else ending

    def close(self, grace_s: float = 0.0) -> None:
        """End the child and free the pipes.

        Args:
            grace_s: Time to end by itself now that its input ends; then it is killed with everything it started.
        """
        self._stdin.close()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            # Only a child not yet waited for still owns its group's number.
            with passed_over("child.gone", ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stdout.close()
        self._stderr.close()
