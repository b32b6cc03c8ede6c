"""The user's own command is told of one event: `python -m tools.jobs.notice JOB`; with `--send` one address is.

At most once: a mark is on disk before the command starts, and who finds the mark does not start it again. So a kill of
this very process may lose a notice, and never doubles one.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from typing import Any

from state.files import fsync_path
from state.log import passed_over
from state.text import as_json
from tools.jobs.worker import WorkerContext, begin
from tools.machine.sandbox import clean_env

KEY_VARIABLE = "VIGIL_KEY"
"""Environment variable with the action's key, for receivers that know the same message by its key."""


NOT_TAKEN, NO_ADDRESS, NO_APPRISE = 1, 3, 4
"""Exit codes of `--send`."""

SENT = {
    0: "",
    NO_ADDRESS: "it is no address that apprise knows",
    NO_APPRISE: "apprise is not installed; pip install 'vigil[notify]' does it",
}
"""Exit code of `--send` -> what went wrong."""


def send() -> int:
    """Send one message, or only look whether its address is one: JSON on standard input, an exit code out."""
    given = json.load(sys.stdin)
    # Its own words name the address.
    logging.disable(logging.CRITICAL)
    try:
        import apprise
    except ImportError:
        return NO_APPRISE
    box = apprise.Apprise()
    if not box.add(given["address"]):
        return NO_ADDRESS
    if "title" not in given:
        return 0
    return 0 if box.notify(title=given["title"], body=given["body"], notify_type=given["kind"]) else NOT_TAKEN


def main() -> int:
    """Tell the command, once."""
    if sys.argv[1] == "--send":
        return send()
    context = begin(sys.argv[1])
    if not _mark(context):
        context.finish({"sent": "unknown"})
        return 0
    _tell(context)
    context.finish({"sent": "yes"})
    return 0


def _mark(context: WorkerContext) -> bool:
    """Leave the mark; false where it is there already, of a process that was killed."""
    out = context.folder.out
    out.mkdir(exist_ok=True)
    try:
        os.close(os.open(out / "sending", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    fsync_path(out)
    return True


def _tell(context: WorkerContext) -> None:
    """Run the command with its line; end as failed where it does not start, says no, or takes too long."""
    given: dict[str, Any] = context.input
    command, limit_s = given["command"], given["timeout_s"]
    try:
        process = subprocess.Popen(
            command,
            cwd=given["cwd"],
            env={**clean_env(given.get("env", ()), network=True), KEY_VARIABLE: context.key},
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
    except OSError as error:
        context.fail(f"The command of `notify` does not start ({error.strerror}): {command[0]}.")
    try:
        process.communicate(as_json(given["line"]) + "\n", timeout=limit_s)
    except subprocess.TimeoutExpired:
        with passed_over("command.gone", ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        context.fail(f"The command of `notify` did not end within {limit_s:g} s; whether it told anyone is not known.")
    if process.returncode:
        context.fail(f"The command of `notify` ended with code {process.returncode}.")


if __name__ == "__main__":
    sys.exit(main())
