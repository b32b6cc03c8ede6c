"""Run the three campaigns on SmolLM2, one after another, and print what each step took.

    make real                                                                  # the small form, two CPU cores
    .venv/bin/python runbooks/smollm2/run.py --form gpu --model FOLDER --out FOLDER [--limit-s 520] [sorting ...]

The GPU form takes more cases, larger batches and bfloat16. After `--limit-s` seconds a campaign is asked to stop, saves
and ends; the same command goes on, as after a crash, and a campaign that has its verdict is not run again. However a
campaign's agent ends, killed too, no job of it is left at work when this program goes on or ends. Below
`--home` stand the campaigns; `--out` gets, for each, campaign.yaml, log.txt, report.txt, why.txt and steps.txt.

Exit codes: 0 each campaign has a verdict; 1 the time was over first: call it again; 2 a file is missing; 4 one failed.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from ruamel.yaml import YAML

from state.errors import VigilError
from state.files import write_atomic
from state.paths import CampaignPaths, JobPaths
from tools.jobs.backend import LocalBackend

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TASKS = ("sorting", "legs", "matrix")
STOPPED, FAILED = 1, 4
PROMOTED_OR_NOT = frozenset({0, 1, 3})
"""Exit codes of `vigil run` at a verdict."""
_GRACE_S = 45.0
"""How long a stopped campaign may take to save and end before it is killed; the same command goes on then too."""
_LOOK_S = 0.1
_GPU: dict[str, Any] = {
    "model.dtype": "bfloat16",
    "evaluation.batch_size": 128,
    "evaluation.splits.task.selection": "gpu_selection.jsonl",
    "evaluation.splits.task.confirmation": "gpu_confirmation.jsonl",
    "recipe.batch_size": 32,
    "recipe.iters": 180,
    "recipe.learning_rate": 0.001,
    "recipe.lr_schedule.arguments": [0.001, 180, 0.0001],
    "recipe.lr_schedule.warmup": 10,
    "recipe.steps_per_eval": 60,
    "recipe.save_every": 30,
}
"""Path in the campaign file -> what stands there in the GPU form."""


class Clock:
    """How much of the call's time is left.

    Args:
        limit_s: None: no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self._ends = None if limit_s is None else time.monotonic() + limit_s

    def left_s(self) -> float | None:
        """Seconds until the limit; None where there is none."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())


def written(task: str, form: str, model: Path, out: Path) -> Path:
    """Write the campaign of a task in that form beside what it will leave, and return its file."""
    yaml = YAML()
    campaign = yaml.load(HERE / task / "campaign.yaml")
    campaign["campaign"] = f"{task}_{form}"
    changes: dict[str, Any] = {"model.path": str(model), "track.grader": str(HERE / task / "grade.py")}
    if form == "gpu":
        changes |= _GPU
    for split in ("task",):
        for part in ("selection", "confirmation"):
            name = f"evaluation.splits.{split}.{part}"
            changes[name] = str(HERE / task / "data" / Path(changes.get(name, f"{part}.jsonl")).name)
    for part in ("train", "valid"):
        changes[f"data.{part}"] = str(HERE / task / "data" / f"{part}.jsonl")
    for path, value in changes.items():
        *above, last = path.split(".")
        section = campaign
        for name in above:
            section = section[name]
        section[last] = value
    path = out / task / "campaign.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(campaign, stream)
    return path


class Campaign:
    """One campaign: its file, its home, and what it leaves for a reader.

    Args:
        task: Its folder here.
        form: small or gpu.
        file: Its campaign file.
        home: Of all campaigns.
    """

    def __init__(self, task: str, form: str, file: Path, home: Path) -> None:
        self.name = f"{task}_{form}"
        self._jobs = CampaignPaths(home, self.name).jobs
        self._file = file
        self._environment = {**os.environ, "VIGIL_HOME": str(home), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}

    def vigil(self, *words: str) -> str:
        """Return what a command prints, its complaint included."""
        return self._ended(*words).stdout

    def _ended(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agent.cli", *words],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def run(self, clock: Clock, log: TextIO) -> int | None:
        """Run it to its verdict or to the limit.

        Returns:
            Its exit code; None where the time was over first.
        """
        agent = subprocess.Popen(
            [sys.executable, "-m", "agent.cli", "run", "--no-wait", str(self._file)],
            cwd=ROOT,
            env=self._environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return agent.wait(clock.left_s())
        except subprocess.TimeoutExpired:
            log.write(f"{self.vigil('stop', self.name, '--reason', 'the time of this call is over')}\n")
            try:
                agent.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                log.write("It did not end in time and is killed; the same command goes on.\n")
            return None
        finally:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()
            self._stop_jobs(log)

    def _stop_jobs(self, log: TextIO) -> None:
        """Have what an agent left at work save and end: jobs outlive it, and the next campaign wants the machine."""
        backend, folders = LocalBackend(), [spec.parent for spec in self._jobs.glob("*/job.json")]
        left = [folder for folder in folders if not JobPaths(folder).exit.exists()]
        for folder in left:
            log.write(f"The job in {folder} outlived its agent and is stopped.\n")
            try:
                backend.stop(folder, by="person", reason="its agent is gone, and so is the time of this call")
            except VigilError as error:
                log.write(f"{error.sentence}\n")
        ends = time.monotonic() + _GRACE_S
        while time.monotonic() < ends and not all(JobPaths(folder).exit.exists() for folder in left):
            time.sleep(_LOOK_S)

    def steps(self) -> str:
        """Return what each job took, as a table."""
        try:
            jobs: list[dict[str, Any]] = json.loads(self.vigil("jobs", self.name, "--json"))
        except json.JSONDecodeError:
            return "No job is on record.\n"
        rows = [f"{'job':<5} {'kind':<12} {'run':<4} {'steps':>9} {'s':>7}  ended"]
        total = 0.0
        for job in jobs:
            ending = job.get("exit") or {}
            took = float(ending.get("wall_s") or 0)
            total += took
            steps = f"{job['step']}/{job['steps'] or '?'}"
            said = ending.get("verdict") or ending.get("reason") or job["state"]
            rows.append(f"{job['id']:<5} {job['kind']:<12} {job['run'] or '-':<4} {steps:>9} {took:7.0f}  {said}")
        return "\n".join([*rows, f"{'all':<33} {total:7.0f}"]) + "\n"

    def leave(self, folder: Path) -> None:
        """Write the report, every decision's reasons and the table of steps into a folder."""
        write_atomic(folder / "report.txt", self.vigil("report", self.name, "--text"))
        write_atomic(folder / "steps.txt", self.steps())
        write_atomic(folder / "why.txt", "\n".join(self._reasons()))

    def _reasons(self) -> list[str]:
        found = []
        for number in range(1, 100):
            told = self._ended("why", f"D{number}", self.name)
            if told.returncode:
                break
            found.append(told.stdout)
        return found


def main() -> int:
    """Run the campaigns that were asked for, to their verdicts or to the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; left out, all")
    parser.add_argument("--form", choices=("small", "gpu"), default="small")
    parser.add_argument("--model", type=Path, default=HERE / "model", help="folder that fetch.py made")
    parser.add_argument("--home", type=Path, default=ROOT / ".vigil" / "real", help="where the campaigns live")
    parser.add_argument("--out", type=Path, help="where logs and reports go; left out, beside the campaigns")
    parser.add_argument("--limit-s", type=float, help="the campaigns stop after this long; call again to go on")
    told = parser.parse_args()
    if unknown := set(told.tasks) - set(TASKS):
        parser.error(f"there is no task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    # Ended from outside, it ends its campaign too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    model, home = told.model.resolve(), told.home.resolve()
    if not (model / "config.json").is_file():
        print(f"There is no model in {model}: make smollm2, or name its folder with --model.", file=sys.stderr)
        return 2
    out, clock = (told.out or home / "out").resolve(), Clock(told.limit_s)
    codes: list[int | None] = []
    for task in told.tasks or TASKS:
        # The file stays with the home: between two calls nothing of it changes.
        file = written(task, told.form, model, home / "campaigns" / told.form)
        campaign, folder = Campaign(task, told.form, file, home), out / f"{task}_{told.form}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder)
        print(f"== {campaign.name}: {file}", flush=True)
        began = time.monotonic()
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            code = campaign.run(clock, log)
        codes.append(code)
        campaign.leave(folder)
        ended = "time is over, call again" if code is None else f"exit code {code}"
        print((folder / "steps.txt").read_text(), end="")
        print(f"{campaign.name}: {ended}, {time.monotonic() - began:.0f} s in this call; see {folder}\n", flush=True)
        if code is None:
            return STOPPED
    return 0 if all(code in PROMOTED_OR_NOT for code in codes) else FAILED


if __name__ == "__main__":
    sys.exit(main())
