"""Run the ladder at a larger size, its agent and a worker killed on the way, and keep what a reader needs.

    python runbooks/ladder/larger.py --out FOLDER [--kills 3] [--every 30] [--set recipes.grpo.iters=20 ...]

Ten times the cases to judge by, and 128 rollouts an update instead of 32. Meant for a GPU. The agent is killed amid a
training, every other time together with the training's worker. `FOLDER/log.txt` holds what every start of the agent
printed and what was killed when, `FOLDER/report.txt` the report, `FOLDER/campaign.yaml` what was run. The same command
goes on after any interruption.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_data import pair, tables
from ruamel.yaml import YAML

from state.files import write_atomic
from tools.data.cases import user_prompt
from tools.graders.spreadsheet_clean.generate import Case, Kind, eval_row

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUICKSTART = HERE.parent / "quickstart"

CHANGES: dict[str, Any] = {
    "campaign": "larger",
    "model.path": str(QUICKSTART / "base"),
    "data.train": str(QUICKSTART / "data" / "train.jsonl"),
    "data.valid": str(QUICKSTART / "data" / "valid.jsonl"),
    "data.pairs": "data/pairs.jsonl",
    "data.rollouts": "data/rollouts.jsonl",
    "evaluation.batch_size": 256,
    "evaluation.splits.regular.selection": "data/regular_selection.jsonl",
    "evaluation.splits.regular.confirmation": "data/regular_confirmation.jsonl",
    "evaluation.splits.stress.selection": "data/stress_selection.jsonl",
    "evaluation.splits.stress.confirmation": "data/stress_confirmation.jsonl",
    "recipe.iters": 60,
    "recipe.steps_per_eval": 20,
    "recipe.save_every": 10,
    "recipes.dpo.iters": 60,
    "recipes.dpo.steps_per_eval": 20,
    "recipes.dpo.save_every": 10,
    "recipes.grpo.batch_size": 16,
    "recipes.grpo.iters": 60,
    "recipes.grpo.rollout_concurrency": 128,
    "recipes.grpo.update_microbatch": 64,
}
"""Path in the campaign file -> what stands there at the larger size."""


def write_campaign(out: Path, changes: dict[str, Any], share: float) -> Path:
    """Write the campaign and that share of its tables; return the campaign's file."""

    def some(seed: int, kind: Kind, n: int) -> list[Case]:
        return tables(seed, kind, max(8, round(share * n)), taken)

    (out / "data").mkdir(parents=True, exist_ok=True)
    judged = QUICKSTART / "data"
    taken = {user_prompt(json.loads(line)) for path in judged.glob("*.jsonl") for line in path.read_text().splitlines()}
    chance = random.Random(1600)
    files: dict[str, Sequence[Case]] = {
        "stress_confirmation": some(1701, "stress", 800),
        "stress_selection": some(1700, "stress", 600),
        "regular_confirmation": some(1801, "regular", 400),
        "regular_selection": some(1800, "regular", 400),
        "rollouts": [*some(1500, "stress", 480), *some(1500, "regular", 160)],
    }
    rows = {name: [eval_row(case) for case in cases] for name, cases in files.items()}
    preferred = [*some(1600, "stress", 400), *some(1600, "regular", 200)]
    rows["pairs"] = [pair(case, number, chance) for number, case in enumerate(preferred)]
    for name, lines in rows.items():
        write_atomic(out / "data" / f"{name}.jsonl", "".join(f"{json.dumps(row)}\n" for row in lines))
    yaml = YAML()
    campaign = yaml.load(HERE / "campaign.yaml")
    for path, value in changes.items():
        *above, last = path.split(".")
        section = campaign
        for name in above:
            section = section[name]
        section[last] = value
    with (out / "campaign.yaml").open("w") as file:
        yaml.dump(campaign, file)
    return out / "campaign.yaml"


class Night:
    """One campaign, from its first start to its end."""

    def __init__(self, out: Path) -> None:
        self._home = out / "home"
        self._environment = {**os.environ, "VIGIL_HOME": str(self._home), "PYTHONUNBUFFERED": "1"}
        self._log = (out / "log.txt").open("a")
        self._began = time.time()

    def say(self, words: str) -> None:
        """Write a line of our own between the agent's."""
        line = f"--- {time.time() - self._began:.0f} s: {words}"
        self._log.write(f"{line}\n")
        self._log.flush()
        print(line, flush=True)

    def vigil(self, *words: str) -> str:
        """Return what a reading command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "agent.cli", *words],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def sit(self, campaign: Path, kill_after_s: float | None) -> int | None:
        """Start the agent, and kill it amid the first training that runs when it has run so long itself.

        Args:
            campaign: Its file.
            kill_after_s: None: to its end.

        Returns:
            Its exit code, or None where it was killed.
        """
        self.say("vigil run")
        agent = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", "run", str(campaign)],
            cwd=ROOT,
            env=self._environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        began = time.monotonic()
        try:
            while agent.poll() is None:
                is_due = kill_after_s is not None and time.monotonic() - began >= kill_after_s
                if is_due and self._trainings():
                    return None
                time.sleep(0.5)
            return agent.returncode
        finally:
            # Also where this script is ended: an agent left behind would hold the campaign against the next start.
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()
                self.say(f"kill -9 of the agent, process {agent.pid}")

    def _trainings(self) -> list[Path]:
        """Return the folders of the trainings that have done a step and not ended."""
        found = [path.parent for path in self._home.glob("*/jobs/*/metrics.jsonl")]
        return [
            folder
            for folder in found
            if not (folder / "exit.json").exists()
            and json.loads((folder / "job.json").read_text())["kind"] == "training"
        ]

    def kill_worker(self) -> None:
        """Kill the worker of a training that runs now."""
        for folder in self._trainings():
            pid = int(json.loads((folder / "worker.json").read_text())["pid"])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.say(f"kill -9 of a worker, process {pid}, job {folder.name[:8]}")


def main() -> int:
    """Write the campaign, run it through its kills to its end, and write its report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the campaign, its home, log and report")
    parser.add_argument("--kills", type=int, default=3, help="how often the agent is killed (default 3)")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between kills (default 30)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the cases, to try it out (default 1)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="change the campaign file")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    out: Path = asked.out.resolve()
    given = dict(each.split("=", 1) for each in asked.set)
    campaign = out / "campaign.yaml"
    if not campaign.exists():
        write_campaign(
            out, CHANGES | {path: YAML(typ="safe").load(value) for path, value in given.items()}, asked.share
        )
    night = Night(out)
    code = None
    for number in range(asked.kills + 1):
        code = night.sit(campaign, asked.every if number < asked.kills else None)
        if code is not None:
            break
        if number % 2 == 0:
            night.kill_worker()
    night.say(f"exit code {code}")
    write_atomic(out / "report.txt", night.vigil("report", "larger", "--text"))
    write_atomic(out / "jobs.json", night.vigil("jobs", "larger", "--json"))
    print((out / "report.txt").read_text())
    return 0 if code in {0, 1} else 1


if __name__ == "__main__":
    sys.exit(main())
