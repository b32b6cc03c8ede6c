"""Child process: runs workers one after another, each told when to be interrupted; prints their exit statuses.

A worker starts in 2 s, nearly all of it imports; a dozen runs share them here. An interruption is a real signal sent
by the process to itself at an exact place, so that no test depends on timing.
"""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from tools.jobs.worker import WorkerContext

_begin = WorkerContext.__init__
_emit = WorkerContext.emit
_rename = Path.rename


def _interrupt_at(number: int, at_step: int | None, at_rename: str | None, *, at_start: bool) -> None:
    def request(self: WorkerContext, folder: Path, spec: dict[str, Any], lock: int) -> None:
        _begin(self, folder, spec, lock)
        self.request_stop()

    def emit(self: WorkerContext, row: dict[str, Any]) -> None:
        _emit(self, row)
        if row.get("step") == at_step and "learning_rate" in row:
            os.kill(os.getpid(), number)

    def rename(self: Path, target: Path) -> Path:
        if Path(target).name == at_rename:
            os.kill(os.getpid(), number)
        return _rename(self, target)

    WorkerContext.__init__ = request if at_start else _begin  # type: ignore[method-assign]
    WorkerContext.emit = emit  # type: ignore[method-assign]
    Path.rename = rename  # type: ignore[method-assign,assignment]


def _run(job: str, module: str) -> int:
    sys.argv = ["worker", job]
    try:
        return int(import_module(module).main())
    except SystemExit as ended:
        return int(ended.code or 0)


def main(steps: list[dict[str, Any]]) -> None:
    """Run each step: `job`, and optionally `module`, `signal`, `at_step`, `at_rename`, `at_start`."""
    codes = []
    for step in steps:
        number = getattr(signal, step.get("signal", "SIGTERM"))
        _interrupt_at(number, step.get("at_step"), step.get("at_rename"), at_start=step.get("at_start", False))
        codes.append(_run(step["job"], step.get("module", "tools.training.worker")))
    print(json.dumps(codes))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
