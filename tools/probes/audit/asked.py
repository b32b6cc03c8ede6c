"""Asking a worker process: a request as JSON on its standard input, one line of JSON back, or why there is none."""

import json
import os
import subprocess
import sys

from state.records import Json

_TIMEOUT_S = 300.0


def ask(module: str, request: Json, what: str) -> Json:
    """Return what a module answers; `why` where it does not.

    Args:
        module: What to run as a process of its own.
        request: What it is asked.
        what: What it does, for the sentence about a time-out.
    """
    # -P: the folder this runs in may be a user's, with a package called tools.
    command = [sys.executable, "-P", "-m", module]
    try:
        done = subprocess.run(
            command,
            env=dict(os.environ),
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        said = str(error.stderr or "").strip().splitlines()[-1:]
        return {"why": " ".join(said)[:200] or f"it ended with status {error.returncode}"}
    except subprocess.TimeoutExpired:
        return {"why": f"{what} took longer than {_TIMEOUT_S:g} s"}
    except (OSError, ValueError, IndexError) as error:
        return {"why": f"{type(error).__name__}: {error}"[:200]}
