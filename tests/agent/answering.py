"""A stand-in for the evaluation worker that answers at once, without MLX: `python -m tests.agent.answering JOB`.

Every other answer is right, by turns of prompt and answer, and nothing but one word tells right from wrong. What
ANSWERING says goes otherwise: `crlf` ends wrong answers another way, `fails` dies of every start, `dies` kills
supervisor and worker at the first.
"""

import json
import os
import signal
import sys
from pathlib import Path

from state.files import read_jsonl, write_atomic
from tests.faults.quick_worker import append_jsonl
from tools.data.cases import read_split
from tools.evaluation.harness import harness_parts
from tools.jobs.worker import begin

WORDS = (
    "amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty", "knoll", "larch", "maple",
    "north", "ocean", "petal",
)  # fmt: skip


def main() -> None:
    """Do the job."""
    context = begin(sys.argv[1])
    how, out = os.environ.get("ANSWERING", ""), context.folder.out
    out.mkdir(exist_ok=True)
    append_jsonl(out / "starts.jsonl", {"pid": os.getpid()})
    if how == "dies" and len(read_jsonl(out / "starts.jsonl")) == 1:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "fails":
        raise SystemExit(1)
    rows, parts = [], harness_parts(context.input)
    for place, split in enumerate(context.input["splits"]):
        for number, case in enumerate(read_split(Path(split["file"]))):
            is_right = (number + place) % 2 == 0
            word = WORDS[number % 16] if is_right else WORDS[(number * 5 + 3) % 16]
            end = "\r\n" if how == "crlf" and not is_right else ""
            told = {"text": f"{word}, as you say{end}", "finish_reason": "stop", "metrics": {"exact": float(is_right)}}
            rows.append({"split": split["name"], "use": split["use"], "case": case["id"], **told, "grader_error": ""})
            context.emit({"step": len(rows)})
    write_atomic(out / "cases.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    context.finish({"cases": len(rows), "harness_parts": parts})


if __name__ == "__main__":
    main()
