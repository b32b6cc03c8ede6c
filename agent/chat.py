"""`vigil chat`: base and candidate answer prompts of a person's own, side by side; nothing of it is an evaluation.

The answers come from a process of its own, which ends with the command. It takes no place in the queue for the
accelerator, so it does not begin while a job has that, unless it is told to.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Any

from agent.pairs import trained
from agent.render.record import waits
from agent.render.words import columns, wrapped
from state.errors import ConfigError, JobFailedError
from state.files import read_object
from state.paths import CampaignPaths
from state.reading import open_reader
from state.text import one_line
from tools.jobs.locks import machine_paths, queue
from tools.machine.blas import worker_env

Json = dict[str, Any]
_SIDE_BY_SIDE = 80
"""Columns from which two answers stand beside each other."""


def spec_of(paths: CampaignPaths, run: str) -> Json:
    """Return what the answering process is given: the models, and how the campaign's evaluation asks.

    Raises:
        NotFoundError: There is no such run, or it has no adapter.
        CorruptError: The adapter is not the one that was recorded.
    """
    given, adapter = trained(paths, run)
    with open_reader(paths) as reader:
        goal = reader.goal()["spec"]
        asked = [job["key"] for job in reader.jobs() if job["kind"] == "evaluation" and not job["run"]]
    bases = [read_object(paths.job(key).spec).get("input") or {} for key in asked]
    base = next((each["model"] for each in bases if each.get("side") == "base"), given["model"])
    return {
        "base": base,
        "model": given["model"],
        "adapter": str(adapter),
        "dtype": given["dtype"],
        "system": goal["track"]["system"],
        "max_tokens": goal["evaluation"]["max_tokens"],
    }


def refuse_busy() -> None:
    """Refuse while a job has the accelerator.

    Raises:
        ConfigError: One has it.
    """
    for job in queue(machine_paths())[:1]:
        raise ConfigError(
            f"{waits({'ahead': [job], 'since': job.get('since')})}: a chat beside it would slow it down. Wait for its"
            " end, or go on with --anyway.",
            what="accelerator",
        )


def chat(spec: Json, prompts: Iterable[str], say: Callable[[str], None]) -> Iterator[Json]:
    """Yield the answers to each prompt: `prompt`, and `base` and `candidate` with text and finish reason.

    Args:
        spec: As `spec_of` returns it.
        prompts: Read one by one, each after the answers to the one before.
        say: Where it says what goes on.

    Raises:
        ConfigError: A model or its template refuses.
        JobFailedError: The answering process died.

    Side effects: a process that ends with this generator.
    """
    command = [sys.executable, "-P", "-m", "tools.evaluation.chat", json.dumps(spec)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env={**os.environ, **worker_env()}) as process:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        try:
            say("Loading base and candidate …")
            _told(process.stdout.readline())
            for prompt in prompts:
                process.stdin.write(json.dumps({"prompt": prompt}) + "\n")
                process.stdin.flush()
                yield {"prompt": prompt, **_told(process.stdout.readline())}
        except BrokenPipeError:
            _told("")
        finally:
            process.kill()


def _told(line: str) -> Json:
    if not line:
        raise JobFailedError("The process that answers died; what it said last stands above.", what="chat")
    told: Json = json.loads(line)
    if "error" in told:
        raise ConfigError(told["error"], what="chat")
    return told


def format_answers(told: Json, run: str) -> list[str]:
    """Return both answers, beside each other where there is room."""
    sides = []
    is_wide = columns() >= _SIDE_BY_SIDE
    width = (columns() - 3) // 2 if is_wide else columns()
    for name, answer in (("base", told["base"]), (run, told["candidate"])):
        head = f"{name} (cut off)" if answer["finish_reason"] == "length" else name
        lines = [piece for line in _lines(answer["text"]) for piece in _fitting(line, width)]
        sides.append([head, "-" * len(head), *lines])
    if not is_wide:
        return [*sides[0], "", *sides[1]]
    return [f"{left:<{width}} | {right}".rstrip() for left, right in zip_longest(*sides, fillvalue="")]


def _lines(text: str) -> list[str]:
    return [one_line(line) for line in text.splitlines()] or ["(nothing)"]


def _fitting(line: str, width: int) -> list[str]:
    pieces = [line] if len(line) <= width else wrapped(line, width)
    return [piece[start : start + width] for piece in pieces for start in range(0, len(piece) or 1, width)]
