"""Files of which the first stays: job.json and stop.json."""

import os
from pathlib import Path
from typing import Any

from state.files import fsync_folder, read_json, side_of
from state.paths import JobPaths
from tools.jobs.spec import StopRequest


def write_once(path: Path, text: str) -> bool:
    """Write a whole, synced file unless there is one already; return whether it is ours that stands.

    Raises:
        OSError: It cannot be written (full disk, no permission).
    """
    side = side_of(path)
    # Not mkstemp: the file is readable to whom the person's umask says.
    descriptor = os.open(side, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        # Unlike a rename, a link never replaces: of two writers at once one wins and the other learns of it.
        os.link(side, path)
    except FileExistsError:
        return False
    finally:
        side.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def ask_for_stop(paths: JobPaths, request: StopRequest) -> bool:
    """Leave a request to stop; return False where an earlier one stands."""
    return write_once(paths.stop, request.model_dump_json(indent=1))


def stop_request(paths: JobPaths) -> StopRequest | None:
    """Return the request to stop that stands, if any."""
    try:
        value: Any = read_json(paths.stop)
        return None if value is None else StopRequest.model_validate(value)
    except ValueError:
        # Somebody made it by hand: whoever touches a file of this name wants the job to stop.
        return StopRequest(by="person", reason="stop.json is there, but cannot be read.")
