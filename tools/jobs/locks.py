"""The two locks of a job folder: kernel locks that die with their holders.

They hold on one machine with a local disk; on a shared file system another claim is needed (issue of the engines).
"""

import fcntl
import os
import time
from pathlib import Path

_PROBE_RETRIES = 10
_PROBE_PAUSE_S = 0.02


def try_lock(path: Path) -> int | None:
    """Take an exclusive lock and return its descriptor, or None where another process holds it.

    The lock lives as long as any process has the descriptor. `is_held` takes the lock for an instant, so one refusal
    proves nothing: the call asks several times within a quarter of a second.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for attempt in range(_PROBE_RETRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if attempt + 1 < _PROBE_RETRIES:
                time.sleep(_PROBE_PAUSE_S)
        else:
            return descriptor
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool:
    """Tell whether some process holds the lock; a missing file is held by none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
