"""The process a user's grader lives in: `python -m tools.graders.child GRADER.py`, JSON lines in and out.

It answers `{"op": "grade", "case", "text"}` with `{"metrics": {...}}` or `{"error": sentence}`. Its first line says
`{"ready": true}` or `{"fatal": sentence}`. The protocol uses private copies of stdin and stdout, so the grader may
print and read as it likes. Standard library only, and run by path: nothing of ours may shadow a module that lies beside
the grader. `serve` does the same for a user's other files (tools/probes/own_child.py).
"""

import importlib.util
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

_PRODUCT_ROOT = str(Path(__file__).resolve().parents[2])
_PARENT_CHECK_S = 1.0


def _private_pipes() -> tuple[TextIO, TextIO]:
    """Keep stdin and stdout for the protocol and give the grader an empty stdin and stderr for its prints.

    Side effects: replaces file descriptors 0 and 1; children of the grader inherit the replacements only.
    """
    requests = os.fdopen(os.dup(0), "r", encoding="utf-8", newline="\n")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def _end_with_parent(parent: int) -> None:
    """End this process when its parent is gone: a grader that hangs would otherwise outlive a killed worker."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def _last_frame(error: BaseException, file: Path) -> str:
    """Return where in the grader's file an exception came from, as `grade.py:12`, or nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    return f" at {file.name}:{frames[-1].lineno}" if frames else ""


def _failure(key: str, what: str, error: BaseException, file: Path) -> dict[str, str]:
    """Return an exception as an answer; `bare` leaves its own words out, which may quote a case."""
    kind, place = type(error).__name__, _last_frame(error, file)
    return {key: f"{what}{kind}: {error}{place}", "bare": f"{what}{kind}{place}"}


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("vigil_user_file", file)
    if spec is None or spec.loader is None:
        raise ImportError("the file name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up here while the file still runs.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _number(value: Any) -> Any:
    """Return a number as float (numpy scalars, bools, fractions too); leave anything else for the host to refuse."""
    if value is None or isinstance(value, str) or not hasattr(type(value), "__float__"):
        return value
    return float(value)


def _grade(module: ModuleType, request: dict[str, Any]) -> dict[str, Any]:
    metrics = module.grade(request["case"], request["text"])
    if not isinstance(metrics, dict):
        return {"error": f"grade returned {type(metrics).__name__}, not a dict of metrics"}
    return {"metrics": {str(name): _number(value) for name, value in metrics.items()}}


Operations = Mapping[str, Callable[[ModuleType, dict[str, Any]], dict[str, Any]]]
"""What may be asked, by the request's `op`: module and request in, answer out."""

_OPERATIONS: Operations = {"grade": _grade}


def _answer(module: ModuleType, file: Path, line: str, operations: Operations) -> str:
    request = json.loads(line)
    try:
        return json.dumps(operations[request["op"]](module, request), default=repr)
    except BaseException as error:  # noqa: BLE001 - sys.exit() in a user's file is that request's error, not our end
        return json.dumps(_failure("error", f"{request['op']} raised ", error, file))


def _open(file: Path, function: str) -> tuple[ModuleType | None, dict[str, Any]]:
    """Return the file's module and the greeting; no module when it lacks what every request needs."""
    try:
        module = _load(file)
    except BaseException as error:  # noqa: BLE001 - whatever the file does on import is told to the user
        return None, _failure("fatal", "it cannot be imported: ", error, file)
    required = function.partition("(")[0]
    if not callable(getattr(module, required, None)):
        return None, {"fatal": f"it has no function `{function}`"}
    return module, {"ready": True}


def _forget_our_packages() -> None:
    """Let a package named `tools` beside the file win over ours, however this program was started."""
    for name in [name for name in sys.modules if name == "tools" or name.startswith("tools.")]:
        sys.modules.pop(name)
    importlib.invalidate_caches()


def serve(file: Path, function: str, operations: Operations) -> int:
    """Serve requests about one user's file until stdin ends; return the exit code.

    Args:
        file: Absolute path.
        function: What the file must have, as it is called: `grade(case, text)`.
        operations: What may be asked.
    """
    requests, answers = _private_pipes()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    # The user's folder stays as it was: no __pycache__ beside the grader.
    sys.dont_write_bytecode = True
    _forget_our_packages()
    sys.path[:] = [str(file.parent), *(entry for entry in sys.path if entry != _PRODUCT_ROOT), _PRODUCT_ROOT]
    module, greeting = _open(file, function)
    answers.write(json.dumps(greeting) + "\n")
    answers.flush()
    if module is None:
        return 2
    for line in requests:
        answers.write(_answer(module, file, line, operations) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]).resolve(), "grade(case, text)", _OPERATIONS))
