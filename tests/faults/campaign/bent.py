"""`python -m tests.faults.campaign.bent BEND CAMPAIGN HOME wait|no-wait`: an agent with one thing bent, in JSON.

kill_at, passage    die by KILL at a named point, at its nth passage in this process
acts                file that gets one line for each promotion that is carried out
shift_s             the wall clock is this much ahead
pinned              resume from this checkpoint of the graph, whatever came after it
is_deaf             take no notice that the campaign has ended
least_s             shortest time, seconds, that a job which trains nothing is given
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from agent import deciding, doing, effects, loop, openings, runner
from agent.render.watch import Terminal
from policies import guards
from state.clock import SystemClock
from state.errors import VigilError
from state.store import Doing
from tests.faults.campaign.drive import QUICK
from tools.jobs.backend import LocalBackend

Method = Callable[..., Any]

POINTS: dict[str, tuple[tuple[type, str], ...]] = {
    "intent": ((Doing, "intend"),),
    "act": ((LocalBackend, "launch"),),
    "done": ((Doing, "finish"), (Doing, "fail")),
    "checkpoint": ((SqliteSaver, "put"), (SqliteSaver, "put_writes")),
}
"""Name -> what is passed there; each is a point before and one after. An act without a job is passed at `act` too."""


class Countdown:
    """Dies at the nth passage."""

    def __init__(self, passage: int) -> None:
        self._left = passage

    def pass_by(self) -> None:
        """Count one passage."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _deadly(plain: Method, countdown: Countdown, *, is_before: bool) -> Method:
    @wraps(plain)
    def bent(*arguments: Any, **named: Any) -> Any:
        if is_before:
            countdown.pass_by()
        answer = plain(*arguments, **named)
        if not is_before:
            countdown.pass_by()
        return answer

    return bent


def _deadly_within(plain: Method, countdown: Countdown) -> Method:
    """Die when an act is about to remove a folder; whatever else removes one is left alone."""

    @wraps(plain)
    def bent(*arguments: Any) -> Any:
        shutil.rmtree = _deadly(shutil.rmtree, countdown, is_before=True)  # type: ignore[assignment]
        return plain(*arguments)

    return bent


def kill_at(point: str, passage: int) -> None:
    """Arm one point: `before_intent`, `after_act`, `amid_promotion` and so on."""
    countdown = Countdown(passage)
    when, _, name = point.partition("_")
    if name == "promotion":
        # The link points to the new adapter, and nothing says so yet.
        effects.write_json = _deadly(effects.write_json, countdown, is_before=True)  # type: ignore[attr-defined]
        return
    if name == "opening":
        # The ledger has it, and the act is not begun.
        openings.record_opening = _deadly(openings.record_opening, countdown, is_before=False)
        return
    if name == "export":
        # The folder is whole beside its place, and not there yet.
        effects.write_handout = _deadly(effects.write_handout, countdown, is_before=False)
        return
    if name == "deletion":
        # The saves are out of their place, and not gone yet.
        doing._PERFORM["delete"] = _deadly_within(doing._PERFORM["delete"], countdown)
        return
    if name == "conclusion":
        # It is on record, and the loop's position still says that it is to be made.
        record = deciding._record

        def recorded(session: Any, draft: Any) -> None:
            record(session, draft)
            if draft.decision.action == "conclude":
                countdown.pass_by()

        deciding._record = recorded
        return
    for owner, method in POINTS[name]:
        setattr(owner, method, _deadly(getattr(owner, method), countdown, is_before=when == "before"))
    if name == "act":
        for kind, plain in list(doing._PERFORM.items()):
            doing._PERFORM[kind] = _deadly(plain, countdown, is_before=when == "before")


def count_promotions(path: Path) -> None:
    """Leave a line for each."""
    plain = doing._PERFORM["promote"]

    def noted(*arguments: Any) -> Any:
        with path.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return plain(*arguments)

    doing._PERFORM["promote"] = noted


class BentClock(SystemClock):
    """The machine's clock with a wall time that is off."""

    def __init__(self, shift_s: float) -> None:
        self._shift_s = shift_s

    def now(self) -> float:
        """Return the wall clock as it is shown."""
        return super().now() + self._shift_s


def pin(checkpoint: str) -> None:
    """Resume from one checkpoint, as a page does that has kept its address; no checkpoint is pruned meanwhile."""
    plain = runner._steps
    places = [checkpoint]

    def pinned(session: Any, graph: Any, config: Any, given: Any) -> None:
        if not places:
            plain(session, graph, config, given)
            return
        address = {**config["configurable"], "checkpoint_id": places.pop()}
        plain(session, graph, {**config, "configurable": address}, Command(resume={"again": True}))

    runner._steps = pinned
    runner.prune = loop.prune = lambda saver: None  # type: ignore[attr-defined]


def main() -> int:
    """Bend, then run the campaign."""
    bend, (campaign, home, wait) = json.loads(sys.argv[1]), sys.argv[2:5]
    if "kill_at" in bend:
        kill_at(bend["kill_at"], int(bend["passage"]))
    if "acts" in bend:
        count_promotions(Path(bend["acts"]))
    if "pinned" in bend:
        pin(bend["pinned"])
    if "least_s" in bend:
        guards.LEAST_S = float(bend["least_s"])
    if bend.get("is_deaf"):
        runner._ended = lambda session: None
    clock = BentClock(bend.get("shift_s", 0.0))
    workers: Any = dict.fromkeys(("census", "evaluation", "training", "fuse"), QUICK)
    terminal = Terminal(partial(print, end=""))
    try:
        end = runner.run_campaign(
            Path(campaign), Path(home), wait=wait == "wait", clock=clock, workers=workers, terminal=terminal
        )
    except VigilError as error:
        print(error.sentence)
        return error.exit_code
    print(end.sentence)
    return end.exit_code


if __name__ == "__main__":
    sys.exit(main())
