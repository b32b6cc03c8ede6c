"""Trackers are filled by a process of their own: `python -m agent.trackers CAMPAIGN_FOLDER NAME`.

It reads the record and the jobs' files and writes to its tracker alone; no job and no agent ever waits for it. One that
dies is started again by the agent, which leaves a note on record, at most a few, and goes on from what its tracker
holds. It ends once the agent has, with all that there was to send.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from agent.render import typed
from agent.render.words import shortened
from agent.session import Session
from state.errors import VigilError
from state.files import read_jsonl
from state.hashing import hash_file
from state.lease import holder
from state.log import log_error, log_info, passed_over, start_log
from state.paths import CampaignPaths
from state.reading import open_reader
from state.records import Request
from state.store import insert_request
from tools.jobs.locks import is_held, try_lock
from tools.trackers.rows import Steps, Tracked, mark_of, verdict_row
from tools.trackers.writers import WRITERS, fill

EVERY_S = 5.0
"""Between two looks for something new."""
_AGAIN_S = 60.0
"""Between two starts of one that dies."""
_MOST_NOTES, _MOST_WORDS = 3, 200
_NICE = 15


def keep_going(session: Session) -> None:
    """See to it that each tracker of the campaign file is being filled; a look every few seconds costs next to nothing.

    Side effects: starts processes that outlive this one.
    """
    now = session.clock.monotonic()
    if now < session.trackers_at:
        return
    session.trackers_at = now + EVERY_S
    for name in session.goal.trackers:
        begun_at, process = session.trackers.get(name, (-_AGAIN_S, None))
        code = None if process is None else process.poll()
        if process is not None and code is None:
            continue
        if code:
            session.trackers[name] = (begun_at, None)
            _note(session.paths, name, code)
        if now - begun_at >= _AGAIN_S and not is_held(session.paths.tracker_lock(name)):
            with passed_over("tracker.not_started", OSError):
                session.trackers[name] = (now, start(session.paths, name))


def start(paths: CampaignPaths, name: str) -> "subprocess.Popen[bytes]":
    """Start the process that fills a tracker."""
    paths.trackers.mkdir(exist_ok=True)
    with (paths.trackers / f"{name}.txt").open("ab") as output:
        log_info("tracker.start", tracker=name)
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "agent.trackers", str(paths.root), name],
            cwd=paths.trackers,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


class Runs:
    """The runs of a campaign with their rows, each file read on from where it was read before."""

    def __init__(self, paths: CampaignPaths) -> None:
        self._paths = paths
        self._steps: dict[str, Steps] = {}

    def read(self) -> list[Tracked]:
        """Return the runs that were begun, each with what it has reported so far and what its verdicts measured.

        Raises:
            VigilError: The record cannot be read.
        """
        with open_reader(self._paths) as reader, reader.snapshot():
            campaign, goal = reader.campaign(), reader.goal()
            runs, jobs, decisions = reader.runs(), reader.jobs(), reader.decisions()
        made_at = {row["id"]: row["made_at"] for row in decisions}
        judged = typed.judged({"decisions": decisions})
        tracked = []
        for run in runs:
            keys = [job["key"] for job in jobs if job["kind"] == "training" and job["run"] == run["id"]]
            rows = list(self._steps.setdefault(run["id"], Steps()).read(self._paths.job(key) for key in keys))
            last = max((row.step for row in rows), default=0)
            for verdict in (row for row in judged if row["run"] == run["id"]):
                words = {"verdict": typed.bucket_name(verdict["bucket"]), "cases": verdict["gate"]["use"]}
                rows.append(verdict_row(last, made_at[verdict["decision"]], verdict["gate"], words))
            if keys:
                mark = mark_of(campaign["started_at"], keys[0])
                tracked.append(Tracked(self._paths.name, run["id"], mark, _config(run, goal), rows))
        return tracked


def _config(run: dict[str, Any], goal: dict[str, Any]) -> dict[str, Any]:
    return {
        **run["recipe"],
        "model": goal["spec"]["model"]["path"],
        "instrument": run["instrument"],
        "parent": run["parent"],
        "data_hash": run["data_hash"],
        "seed": run["seed"],
    }


def main(arguments: list[str]) -> int:
    """Fill one tracker until the agent has ended and all is sent."""
    paths = CampaignPaths(Path(arguments[0]).parent, Path(arguments[0]).name)
    name = arguments[1]
    os.nice(_NICE)
    lock = try_lock(paths.tracker_lock(name))
    if lock is None:
        return 0
    with open_reader(paths) as reader:
        is_private = reader.goal()["spec"].get("privacy") == "redact"
    start_log(paths.tracker_log(name), is_private=is_private, campaign=paths.name, tracker=name)
    runs, known = Runs(paths), dict[str, int]()
    try:
        writer = WRITERS[name](paths.trackers / name)
        while True:
            # Before the look: what the agent wrote last is there for the look after its end.
            is_last = holder(paths) is None
            if sent := fill(writer, runs.read(), known):
                log_info("tracker.sent", rows=sent)
            if is_last:
                writer.close()
                return 0
            time.sleep(EVERY_S)
    except Exception as error:  # noqa: BLE001 - whatever a tracker raises, it is said and nothing else comes of it
        log_error("tracker.failed", error)
        return 1


def _note(paths: CampaignPaths, name: str, code: int) -> None:
    """Leave on record that a tracker's process died, unless that was said often enough; the log says more."""
    by, log = f"tracker {name}", paths.tracker_log(name)
    with passed_over("tracker.not_noted", VigilError, OSError):
        with open_reader(paths) as reader:
            if sum(row["by"] == by for row in reader.requests()) >= _MOST_NOTES:
                return
        last = read_jsonl(log)[-1:] if code > 0 and log.exists() else []
        told = ": ".join(str(row[key]) for row in last for key in ("error", "words") if row.get(key))
        why = shortened(told, _MOST_WORDS) or (f"signal {-code}" if code < 0 else f"code {code}")
        reason = f"The process that fills {name} died ({why.rstrip('.')}); it goes on from what {name} holds."
        payload: dict[str, Any] = {"mode": "tracker", "domain": "doing"}
        if log.exists():
            payload["file"] = {"path": str(log), "sha256": hash_file(log), "size": log.stat().st_size}
        insert_request(paths, Request(kind="note", by=by, reason=reason, made_at=time.time(), payload=payload))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
