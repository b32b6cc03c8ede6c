"""What keeps words in the house: no library asks the network, and no log quotes a case (`privacy: redact`).

An exception's own words may quote a case; its type and where it came from may not. Not covered: what a library prints
by itself, and what a grader or a command of the user's does on purpose.
"""

import os
import sys
import threading
import traceback
from types import TracebackType

_SENDING = ("LANGSMITH_", "LANGCHAIN_", "OTEL_")
"""How the variables begin that have the graph library and its telemetry send what a campaign does to an address."""

OFFLINE = {
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "OTEL_SDK_DISABLED": "true",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "MLXLM_USE_MODELSCOPE": "false",
}
"""What the locked packages read before they ask the network, each with the value that says no."""


def stay_offline() -> None:
    """Let no library of this process or its children ask the network, whatever the environment says.

    Called before such a library is imported: most read their variables once.

    Side effects: changes this process's environment for good.
    """
    for name in [name for name in os.environ if name.startswith(_SENDING)]:
        del os.environ[name]
    os.environ.update(OFFLINE)


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
