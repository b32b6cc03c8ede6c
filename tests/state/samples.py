"""Records for tests, each with one value per field that matters."""

from typing import Any

from state.records import (
    Action,
    Approval,
    Belief,
    Commitment,
    Decision,
    Evidence,
    Fingerprint,
    GoalVersion,
    Job,
    Measurement,
    Request,
    Run,
)


def goal(version: int = 1, file_hash: str = "f1", **fields: Any) -> GoalVersion:
    values: dict[str, Any] = {"campaign": "night", "spec": {"seed": 1}, "recorded_at": 1.0}
    return GoalVersion(version=version, file_hash=file_hash, **{**values, **fields})


def belief(subject: str = "model:parent", claim: str = "ceiling", value: Any = 0.75, **fields: Any) -> Belief:
    values: dict[str, Any] = {
        "statement": f"The ceiling is {value}.",
        "tag": "confirmed",
        "evidence": (Evidence(kind="file", ref="data/é.jsonl", summary="Read 40 rows.", detail={"n": 40}),),
        "stands_on": (Fingerprint(kind="file", name="data.jsonl", value="abc"),),
        "formed_at": 10.0,
    }
    return Belief(subject=subject, claim=claim, value=value, **{**values, **fields})


def action(key: str = "k1", **fields: Any) -> Action:
    return Action(key=key, kind="train", decision="D1", inputs={"iters": 10}, created_at=5.0, **fields)


def job(key: str = "k1", **fields: Any) -> Job:
    return Job(key=key, kind="training", folder=f"jobs/{key}", steps=10, **fields)


def run(**fields: Any) -> Run:
    values: dict[str, Any] = {
        "instrument": "sft",
        "parent": "base",
        "parent_hash": "w0",
        "recipe": {"learning_rate": 1e-4},
        "recipe_hash": "r1",
        "data_hash": "d1",
        "seed": 3,
        "hypothesis": "More rows are kept.",
    }
    return Run(**{**values, **fields})


def measurement(case: str = "c1", evaluation: str = "k2", **fields: Any) -> Measurement:
    values: dict[str, Any] = {
        "side": "base",
        "split": "stress",
        "use": "selection",
        "metrics": {"rows_kept": 0.5, "strict": 0.0},
        "finish_reason": "stop",
        "prompt_tokens": 100,
        "output_tokens": 50,
        "harness": "h1",
        "weights": "w0",
    }
    return Measurement(evaluation=evaluation, case=case, **{**values, **fields})


def decision(sentence: str = "Train on 400 rows.", **fields: Any) -> Decision:
    values: dict[str, Any] = {"rule": "bucket.B", "action": "train", "action_key": "k1", "made_at": 20.0}
    return Decision(sentence=sentence, **{**values, **fields})


def commitment(**fields: Any) -> Commitment:
    values: dict[str, Any] = {"will": "Judge R1.", "when": "R1 is evaluated.", "cancelled_by": "an edit of the gate"}
    return Commitment(**{**values, **fields})


def approval(**fields: Any) -> Approval:
    values: dict[str, Any] = {"kind": "promotion", "decision": "D1", "question": "Promote R1?", "asked_at": 30.0}
    return Approval(**{**values, **fields})


def request(**fields: Any) -> Request:
    values: dict[str, Any] = {"kind": "approve", "target": "Q1", "by": "ada", "made_at": 40.0}
    return Request(**{**values, **fields})
