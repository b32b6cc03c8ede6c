"""What keeps case text out of a log where the campaign asks for it (`privacy: redact`).

An exception's own words may quote a case; its type and where it came from may not. Not covered: what a library prints
by itself.
"""

import sys
import threading
import traceback
from types import TracebackType


def bare_lines(error: BaseException) -> list[str]:
    """Return a traceback without the words of the exceptions in it, oldest cause first."""
    lines: list[str] = []
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        lines += [*bare_lines(before), "", "Then:"]
    lines.append("Traceback (most recent call last; the exceptions' own words are left out):")
    lines += [
        f"  {frame.filename}:{frame.lineno}, in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    return [*lines, type(error).__name__]


def keep_words_out() -> None:
    """Have exceptions that nobody catches told without their own words.

    Side effects: replaces the hooks of the main thread, of other threads and of finalizers.
    """

    def tell(error: BaseException | None) -> None:
        if error is not None:
            print("\n".join(bare_lines(error)), file=sys.stderr)  # noqa: T201 - stderr is the worker's log

    def from_main(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        tell(error)

    def from_thread(given: threading.ExceptHookArgs) -> None:
        tell(given.exc_value)

    def from_finalizer(given: "sys.UnraisableHookArgs") -> None:
        tell(given.exc_value)

    sys.excepthook = from_main
    threading.excepthook = from_thread
    sys.unraisablehook = from_finalizer
