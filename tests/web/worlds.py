"""Campaigns as large as a page may meet: many runs with long curves, and live beliefs by the hundred thousand."""

import json
import math
from pathlib import Path

from policies.comparison import CaseTable
from policies.gate import judge_gate
from state.clock import FakeClock
from state.files import write_json
from state.paths import CampaignPaths
from state.records import Action, Decision, Job, Run
from tests.agent.recorded import begin, measurements, opened


def many_runs(home: Path, n: int, points: int, name: str = "many") -> CampaignPaths:
    """Write a campaign of `n` judged runs whose trainings reported `points` steps each."""
    clock, paths = FakeClock(), CampaignPaths(home, name)
    with opened(home, clock, name) as store, store.transaction():
        goal = begin(store, name)
        rows = [
            *measurements("base", "base", "", "selection", 0.61, 0),
            *measurements("R1", "candidate", "R1", "selection", 0.7, 1),
        ]
        store.knowing.measure(rows)
        table = CaseTable.from_measurements(rows, {"base": "base", "parent": "base", "candidate": "R1"})
        verdict = {"gate": judge_gate(goal.gate, table, use="selection").model_dump(mode="json")}
        for number in range(1, n + 1):
            run, key = f"R{number}", f"train{number}"
            recipe = {"iters": points, "learning_rate": 1e-5 * (1 + number % 9)}
            store.deciding.decide(
                Decision(rule="recipe.next", sentence=f"Train {run}.", action="train", action_key=key, run=run),
                [],
                Run(
                    instrument="sft", parent="base" if number == 1 else f"R{number - 1}", parent_hash="w0",
                    recipe=recipe, recipe_hash=f"h{number}", data_hash="d", seed=0, hypothesis="Longer is better.",
                    predicted={}, cost_s_estimate=60,
                ),
            )  # fmt: skip
            store.doing.intend(Action(key=key, kind="train", decision=f"D{2 * number - 1}", inputs={"run": run}))
            ending = {"state": "finished", "code": 0, "by": "worker", "restarts": 0, "wall_s": 60.0}
            store.doing.record_job(Job(key=key, kind="training", folder=f"jobs/{key}", run=run, steps=points))
            store.doing.update_job(key, state="finished", step=points, exit=ending)
            store.deciding.update_run(run, cost_s_actual=60.0, state="evaluated")
            store.deciding.decide(
                Decision(
                    rule="bucket.B", sentence=f"{run} improved.", action="judge", run=run, bucket="B", verdict=verdict
                )
            )
            store.deciding.judge(run, "B")
            write_json(paths.job(key).spec, {"key": key, "kind": "training", "module": "none", "steps": points})
            write_curve(paths.job(key).metrics, points, number)
        store.agent.set_campaign(state="not_promoted", sentence=f"Ended after {n} runs.", ended_at=clock.now())
    return paths


def write_curve(path: Path, points: int, number: int) -> None:
    """Write a training's reports: a falling loss with some noise, validated fifty times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    every = max(1, points // 50)
    rows = []
    for step in range(1, points + 1):
        loss = 3 / math.log(step + 2) + 0.1 * math.sin(step * number) + number / 500
        told = {"step": step, "t": 1e9 + step, "train_loss": round(loss, 4), "trained_tokens": 512 * step}
        rows.append(json.dumps(told | {"learning_rate": 1e-4, "iterations_per_second": 2.5, "tokens_per_s": 1400.0}))
        if step % every == 0:
            rows.append(json.dumps({"step": step, "t": 1e9 + step, "val_loss": round(loss + 0.2, 4)}))
    path.write_text("\n".join(rows) + "\n")
