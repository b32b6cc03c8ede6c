"""A recorded campaign for tests of what reads one: every kind of row, with real verdicts, and job folders beside it."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policies.comparison import CaseTable
from policies.gate import judge_gate
from state.clock import FakeClock
from state.files import write_json
from state.goal import Goal
from state.hashing import hash_file
from state.lease import Lease
from state.paths import CampaignPaths
from state.records import (
    Action,
    Alternative,
    Approval,
    Belief,
    CampaignState,
    Commitment,
    Decision,
    Evidence,
    GoalVersion,
    Job,
    Measurement,
    Premise,
    Run,
    Side,
    SplitUse,
)
from state.store import Store

N = 40
"""Cases of each part of each split."""

HOSTILE = '<script src="https://elsewhere.example/x.js">alert(1)</script>'
"""An answer that a report must show and never run."""

SPEC: dict[str, Any] = {
    "campaign": "quick",
    "model": {"path": "base"},
    "track": {"name": "spreadsheet_clean"},
    "data": {"train": "data/train.jsonl", "valid": "data/valid.jsonl"},
    "evaluation": {
        "max_tokens": 100,
        "splits": {
            "regular": {"selection": "r_s.jsonl", "confirmation": "r_c.jsonl"},
            "stress": {"selection": "s_s.jsonl", "confirmation": "s_c.jsonl"},
        },
    },
    "gate": {
        "conditions": [
            {"metric": "stress.rows_kept", "min": 0.8},
            {"metric": "stress.rows_kept", "against": "parent", "min": 0.05},
            {"metric": "regular.rows_kept", "against": "parent", "min": -0.02},
            {"metric": "stress.strict", "statistic": "count", "min": 20},
        ]
    },
    "recipe": {"learning_rate": 1e-4, "iters": 200},
    "budget": {"hours": 2, "runs": 4, "until": "07:00"},
}


def measurements(  # noqa: PLR0917 - what tells one evaluation from another
    evaluation: str, side: Side, run: str, use: SplitUse, level: float, seed: int
) -> list[Measurement]:
    """Return one side's cases, their dense score spread around `level`."""
    draw = random.Random(seed)
    rows = []
    for split in ("regular", "stress"):
        for index in range(N):
            score = min(1.0, max(0.0, draw.gauss(level if split == "stress" else 0.985, 0.05)))
            rows.append(
                Measurement(
                    evaluation=evaluation,
                    run=run,
                    side=side,
                    split=split,
                    use=use,
                    case=f"{split}-{index}",
                    metrics={"rows_kept": round(score, 3), "strict": float(score > level)},
                    finish_reason="stop",
                    prompt_tokens=60,
                    output_tokens=50,
                    harness="h1",
                    weights=run or "base",
                    output_ref=f"{evaluation[:16]}#{split}-{index}",
                )
            )
    return rows


@contextmanager
def opened(home: Path, clock: FakeClock, name: str = "quick") -> Iterator[Store]:
    """Hold a campaign's store open for writing."""
    paths = CampaignPaths(home, name)
    with Lease.acquire(paths, clock) as lease, Store.open(paths, clock, lease) as store:
        yield store


def begin(store: Store, name: str = "quick", **changes: Any) -> Goal:
    """Write the campaign row and its goal."""
    goal = Goal.model_validate({**SPEC, "campaign": name, **changes})
    version = GoalVersion(version=1, campaign=name, file_hash="f1", spec=goal.model_dump(mode="json"), recorded_at=1.0)
    store.agent.begin(version)
    return goal


def begin_training(store: Store) -> None:
    """Write a campaign whose R1 is at step 10 of 100, as the job's row has it."""
    begin(store)
    store.deciding.decide(Decision(rule="r", sentence="Train.", action="train", action_key="k", run="R1"))
    store.doing.intend(Action(key="k", kind="train", decision="D1"))
    store.doing.record_job(Job(key="k", kind="training", folder="jobs/k", run="R1", steps=100))
    store.doing.update_job("k", state="running", step=10)


def record(
    home: Path, state: CampaignState = "promoted", name: str = "quick", deadline_s: float = 1e9, **changes: Any
) -> CampaignPaths:
    """Write a whole campaign: a refuted run, a run that a guard stopped, and one that meets the gate.

    Args:
        home: Folder of all campaigns.
        state: How it stands; `waiting` leaves the promotion unanswered, `promoted` answers it by the policy.
        name: The campaign.
        deadline_s: Seconds that the question may wait, from the fake clock's time.
        changes: Keys of the campaign file to set otherwise.
    """
    clock = FakeClock()
    paths = CampaignPaths(home, name)
    with opened(home, clock, name) as store:
        goal = begin(store, name, **changes)
        _beliefs(store)
        _measured(store, paths)
        _runs(store, paths)
        _verdicts(store, goal, clock)
        question = store.agent.ask(
            Approval(
                kind="promotion",
                decision=store.read.decisions()[-1].id,
                question="Promote R3? It meets all 4 conditions on 80 confirmation cases.",
                asked_at=clock.now(),
                deadline_at=clock.now() + deadline_s,
            )
        )
        if state == "promoted":
            store.agent.answer(question.id, "yes", by="policy", reason="approvals.promotion: auto in the campaign file")
            store.agent.set_campaign(promoted="R3")
        clock.advance(5400)
        ended = None if state in {"running", "waiting"} else clock.now()
        store.agent.set_campaign(state=state, sentence=f"It is {state} after 3 runs.", ended_at=ended)
        store.backup()
    return paths


def _beliefs(store: Store) -> None:
    seen = Evidence(kind="probe", ref="model.coherent", summary="Headers of all weight files were read.")
    rows = [
        Belief(subject="model:base", claim="is_coherent", statement="The model folder is one set.", tag="confirmed"),
        Belief(
            subject="score:base.stress.selection",
            claim="means",
            statement="base on stress.selection, 40 cases: rows_kept 0.610.",
            value={"means": {"rows_kept": 0.61}, "n": 40},
            tag="confirmed",
        ),
        Belief(subject="data:train", claim="is_current", statement="The data are what you meant.", tag="assumed"),
        Belief(subject="harness:stress", claim="ceiling", statement="A <b>stale</b> ceiling.", tag="inferred"),
        Belief(subject="gate:stress.strict", claim="is_reachable", statement="It is out of reach.", tag="confirmed"),
    ]
    for row in rows:
        store.knowing.believe(row.model_copy(update={"evidence": (seen,)}))
    store.knowing.mark("B4", "stale")
    store.knowing.refute("B5", Evidence(kind="measurement", ref="m", summary="0 of 40 cases."))


def _measured(store: Store, paths: CampaignPaths) -> None:
    levels = {"base": 0.61, "R1": 0.58, "R3": 0.93}
    for index, (who, level) in enumerate(levels.items()):
        side: Side = "base" if who == "base" else "candidate"
        for use in ("selection", "confirmation"):
            key = f"{who}-{use}"
            rows = measurements(key, side, "" if who == "base" else who, use, level, index)
            store.knowing.measure(rows)
            _cases(paths, key, rows)


def _cases(paths: CampaignPaths, key: str, rows: list[Measurement]) -> None:
    folder = paths.artifacts / key[:16]
    folder.mkdir(parents=True)
    lines = [{"split": r.split, "use": r.use, "case": r.case, "text": f"{HOSTILE} {r.case} by {key}"} for r in rows]
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _runs(store: Store, paths: CampaignPaths) -> None:
    for number, (iters, restarts) in enumerate([(200, 0), (400, 1), (300, 0)], start=1):
        key = f"train{number}"
        store.deciding.decide(
            Decision(
                rule="recipe.next",
                sentence=f"Train run {number} with {iters} iterations: rows are lost in long tables.",
                action="train",
                action_key=key,
                action_inputs={"run": f"R{number}"},
                premises=(Premise(belief="B2", tag="confirmed", statement="base has 0.610."),),
                alternatives=(Alternative(action="conclude", reason="three runs are left"),),
                prediction={"metric": "stress.rows_kept", "low": 0.7, "high": 0.9},
                made_at=1000.0 + number,
            ),
            [
                Commitment(
                    will=f"Judge R{number} on the selection cases",
                    when="its training ends",
                    implies={"A": "ask for promotion", "D": "go back to the base"},
                    cancelled_by="an edit of the gate",
                )
            ],
            Run(
                instrument="sft",
                parent="base",
                parent_hash="w0",
                recipe={"iters": iters, "learning_rate": 1e-4},
                recipe_hash=f"h{number}",
                data_hash="d",
                seed=0,
                hypothesis="More iterations keep more rows.",
                predicted={"metric": "stress.rows_kept", "low": 0.7, "high": 0.9},
                cost_s_estimate=100,
            ),
        )
        _job(store, paths, key, number, iters, restarts)


def _job(  # noqa: PLR0917 - one row of a table
    store: Store, paths: CampaignPaths, key: str, number: int, iters: int, restarts: int
) -> None:
    diverged = number == 2
    step = 100 if diverged else iters
    ending = {
        "state": "stopped" if diverged else "finished",
        "code": 0,
        "verdict": "diverged" if diverged else "",
        "by": "guard" if diverged else "worker",
        "reason": "train_loss rose above 3.0 for 3 reports." if diverged else "",
        "restarts": restarts,
        "wall_s": 120.0,
        "slept_s": 61.0 if diverged else 0.0,
        "peak_rss_gb": 1.25,
        "peak_swap_gb": 0.0,
    }
    folder = paths.job(key)
    write_json(folder.spec, {"key": key, "kind": "training", "module": "none", "steps": iters})
    write_json(folder.start, {"pid": 1, "create_time": 1000.0, "tally": {"starts": 1 + restarts, "started_at": 1000.0}})
    write_json(folder.result, {"wall_s": 120.0, "startup_s": 3.0})
    ending["result_hash"] = hash_file(folder.result)
    store.doing.intend(Action(key=key, kind="train", decision=f"D{number}", inputs={"run": f"R{number}"}))
    store.doing.record_job(
        Job(key=key, kind="training", folder=f"jobs/{key}", run=f"R{number}", steps=iters, started_at=1000.0)
    )
    store.doing.update_job(key, state=ending["state"], step=step, restarts=restarts, exit=ending, finished_at=1120.0)
    store.doing.finish(key, {"wall_s": 120.0, **({"startup_s": 41.2} if number == 1 else {})})
    store.deciding.update_run(f"R{number}", cost_s_actual=120.0, state="evaluated")
    rows = [{"step": i, "train_loss": 2.0 / i, "tokens_per_s": 1400} for i in range(10, step + 1, 10)]
    rows += [{"step": i, "val_loss": 2.2 / i} for i in range(50, step + 1, 50)]
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder.exit, ending)


def _verdicts(store: Store, goal: Goal, clock: FakeClock) -> None:
    for run, use, bucket in (("R1", "selection", "D"), ("R3", "confirmation", "A")):
        table = CaseTable.from_measurements(
            store.read.measurements(), {"base": "base", "parent": "base", "candidate": run}
        )
        gate = judge_gate(goal.gate, table, use=use)  # type: ignore[arg-type]
        store.deciding.decide(
            Decision(
                rule=f"bucket.{bucket}",
                sentence=f"{run} is {bucket}: {gate.sentence}",
                action="promote" if bucket == "A" else "judge",
                run=run,
                bucket=bucket,
                verdict={"gate": gate.model_dump(mode="json")},
                premises=(Premise(belief="B2", tag="confirmed", statement="base has 0.610."),),
                needs="promotion" if bucket == "A" else None,
                made_at=clock.now(),
            )
        )
        store.deciding.judge(run, bucket)  # type: ignore[arg-type]
