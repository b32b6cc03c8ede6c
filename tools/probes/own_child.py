"""The process a user's probe lives in: `python tools/probes/own_child.py PROBE.py`, JSON lines in and out.

It answers `{"op": "observe", "context": {...}}` with `{"findings": [...]}` or `{"error": sentence}`; the rest is as in
tools/graders/child.py, which does the same for graders. Run by path, so that a module beside the probe wins over ours.
"""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.graders.child import serve


def _observe(module: ModuleType, request: dict[str, Any]) -> dict[str, Any]:
    answer = module.observe(request["context"])
    findings = answer if isinstance(answer, list) else [answer]
    # Here, so that what is no JSON is this probe's own error: a set, a NaN, an object.
    return {"findings": json.loads(json.dumps(findings, default=_plain, allow_nan=False))}


def _plain(value: Any) -> Any:
    """Return a number or an array of numpy as JSON has it.

    Raises:
        TypeError: The value is something else.
    """
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON value")


if __name__ == "__main__":
    sys.exit(serve(Path(sys.argv[1]).resolve(), "observe(context)", {"observe": _observe}))
