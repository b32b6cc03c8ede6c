"""Questions that are answered twice: in sequence, pinned to a checkpoint, by two processes at once, hours later."""

import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from state.clock import SystemClock
from state.paths import CampaignPaths
from state.records import Request
from state.store import insert_request
from tests.faults.campaign import warm, world
from tests.faults.parts.contract import Batch, Part

Kind = Literal["approve", "reject"]

_PER_BATCH = 5
_HOUR_S = 3600.0
_RECIPE = {"batch_size": 4, "iters": 120, "max_seq_length": 128, "learning_rate": 0.001}


@dataclass(frozen=True)
class Asked:
    """A campaign that waits for an answer about its promotion.

    Args:
        campaign: Its file.
        home: Folder of all campaigns, a copy of its own.
        question: Id of the question.
    """

    campaign: Path
    home: Path
    question: str

    @property
    def acts(self) -> Path:
        """File with one line for each promotion that was carried out."""
        return self.home.with_suffix(".acts")

    def answer(self, kind: Kind, by: str, after_s: float = 0.0) -> None:
        """Leave an answer without the command line's look at what stands already.

        Args:
            kind: approve or reject.
            by: Who.
            after_s: Seconds from now at which it was made.
        """
        request = Request(kind=kind, target=self.question, by=by, made_at=SystemClock().now() + after_s)
        insert_request(CampaignPaths(self.home, "storm"), request)

    def start(self, **bend: Any) -> warm.Agent:
        """Start an agent that notes each promotion that it carries out."""
        return warm.start(self.campaign, self.home, wait=False, bend={"acts": str(self.acts), **bend})

    def run(self, **bend: Any) -> int:
        """Run such an agent to its end."""
        return self.start(**bend).wait(timeout=240)

    def wrong(self, first: str, by: str, code: int) -> list[str]:
        """Return what is wrong where the first answer was to win: `yes` or `no`, by whom, the last agent's code."""
        found = world.wrong(self.home, code)
        row = next(row for row in world.rows(self.home)["approvals"] if row["id"] == self.question)
        if (row["answer"], row["answered_by"]) != (first, by):
            found.append(f"{first} by {by} came first, and {row['answer']} by {row['answered_by']} stands")
        acts = len(self.acts.read_text().splitlines()) if self.acts.exists() else 0
        if acts != int(first == "yes"):
            found.append(f"the answer was {first}, and there were {acts} promotions")
        return found


def _ask(folder: Path, **approval: Any) -> tuple[Path, Path, str]:
    """Run a campaign up to its question; return its file, its home and the question.

    Raises:
        AssertionError: It asked nothing.
    """
    changes: dict[str, Any] = {
        "approvals": {"promotion": {"mode": "wait", **approval}},
        "budget": {"runs": 1},
        "recipe": _RECIPE,
    }
    campaign, home = world.write_campaign(folder / "files", **changes), folder / "asked"
    code = warm.run(campaign, home, wait=False)
    if code != 6:
        raise AssertionError(f"exit code {code} where a question was to come: {world.words(home)[-300:]}")
    return campaign, home, str(world.rows(home)["approvals"][-1]["id"])


def _batch(form: Callable[[Asked, random.Random], list[str]], **approval: Any) -> Callable[[int, Path, int], Batch]:
    """Return a part's batch: one campaign up to its question, then a copy of it for each pair of answers."""

    def batch(seed: int, folder: Path, most: int) -> Batch:
        dice, found, promoted = random.Random(seed), list[str](), 0
        campaign, home, question = _ask(folder, **approval)
        count = min(most, _PER_BATCH)
        for number in range(count):
            copy = folder / f"copy{number}"
            shutil.copytree(home, copy, symlinks=True)
            found += [f"pair {number}: {said}" for said in form(Asked(campaign, copy, question), dice)]
            promoted += (copy / "storm" / "promoted").exists()
        return Batch(count, tuple(found), {"promoted": promoted})

    return batch


def _draw(dice: random.Random) -> tuple[Kind, Kind]:
    """Return two answers; half of the pairs disagree."""
    kinds: tuple[Kind, Kind] = ("approve", "reject")
    return dice.choice(kinds), dice.choice(kinds)


def _word(kind: str) -> str:
    return "yes" if kind == "approve" else "no"


def in_sequence(asked: Asked, dice: random.Random) -> list[str]:
    """Answer twice before any agent looks, or the second time after the first was carried out; then run twice more."""
    first, second = _draw(dice)
    asked.answer(first, "anna")
    if dice.random() < 0.5:
        asked.run()
    asked.answer(second, "ben")
    asked.run()
    return asked.wrong(_word(first), "anna", asked.run())


def pinned(asked: Asked, dice: random.Random) -> list[str]:
    """Answer, then resume the checkpoint of the question again and again, as if nothing had come after it."""
    with closing(sqlite3.connect(asked.home / "storm" / "graph.db")) as connection:
        checkpoint = connection.execute("SELECT max(checkpoint_id) FROM checkpoints").fetchone()[0]
    first, second = _draw(dice)
    asked.answer(first, "anna")
    codes = [asked.run(pinned=checkpoint)]
    asked.answer(second, "ben")
    codes += [asked.run(pinned=checkpoint, is_deaf=True) for _ in range(2)]
    broken = [code for code in codes if code not in {0, 1}]
    words = [f"resumed from its checkpoint it ended with {broken}: {world.words(asked.home)[-300:]}"] if broken else []
    return words + asked.wrong(_word(first), "anna", asked.run())


_ANSWERER = (
    "import sys; from pathlib import Path; from tests.faults.parts.questions import Asked;"
    "asked = Asked(Path(), Path(sys.argv[1]), sys.argv[2]); print('ready', flush=True); sys.stdin.readline();"
    "asked.answer(sys.argv[3], sys.argv[4])"
)


def at_once(asked: Asked, dice: random.Random) -> list[str]:
    """Let two processes answer at one moment and two agents look at it at one moment; whichever came first wins."""
    people = []
    for kind, by in zip(_draw(dice), ("anna", "ben"), strict=True):
        command = [sys.executable, "-c", _ANSWERER, str(asked.home), asked.question, kind, by]
        people.append(subprocess.Popen(command, cwd=world.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    for person in people:
        assert person.stdout is not None
        person.stdout.readline()
    for person in people:
        person.communicate(b"\n")
    agents = [asked.start(), asked.start()]
    codes = sorted(agent.wait(timeout=240) for agent in agents)
    found = [] if codes[0] in {0, 1} and codes[1] in {0, 1, 5} else [f"two agents ended with {codes}"]
    with closing(sqlite3.connect(asked.home / "storm" / "state.db")) as connection:
        kind, by = connection.execute('SELECT kind, "by" FROM request ORDER BY number LIMIT 1').fetchone()
    return found + asked.wrong(_word(kind), by, asked.run())


def hours_later(asked: Asked, dice: random.Random) -> list[str]:
    """Answer, and again five hours later; or only after a deadline of two hours, when it is too late."""
    first, second = _draw(dice)
    later_s = 5 * _HOUR_S
    if dice.random() < 0.5:
        asked.answer(first, "anna")
        if dice.random() < 0.5:
            asked.run()
        stands = (_word(first), "anna")
    else:
        asked.answer(first, "anna", after_s=3 * _HOUR_S)
        stands = ("no", "deadline")
    asked.answer(second, "ben", after_s=later_s)
    asked.run(shift_s=later_s)
    return asked.wrong(*stands, asked.run(shift_s=later_s))


def misremembered(asked: Asked, dice: random.Random) -> list[str]:
    """Change one byte of the checkpoints, then answer: the position in the loop is lost at most, and no act with it."""
    path = asked.home / "storm" / "graph.db"
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= dice.randint(1, 255)
    path.write_bytes(data)
    for left in ("-wal", "-shm"):
        path.with_name(path.name + left).unlink(missing_ok=True)
    asked.answer("approve", "anna")
    asked.run()
    return asked.wrong("yes", "anna", asked.run())


PARTS = (
    Part("answers_in_sequence", "two answers, one after the other: the first wins, one act", 100, _batch(in_sequence)),
    Part("answers_pinned", "two answers, the question's checkpoint resumed thrice: one act", 100, _batch(pinned)),
    Part("answers_at_once", "two answers by two processes, two agents, at one moment: one act", 100, _batch(at_once)),
    Part(
        "answers_hours_later", "a second answer five hours later, or one after the deadline", 100,
        _batch(hours_later, deadline_h=2, unanswered="no"),
    ),
    Part("flips_graph", "a byte of the checkpoints changed while a question waits", 100, _batch(misremembered)),
)  # fmt: skip
