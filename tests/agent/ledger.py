"""Rows of a record as plain dictionaries, for tests of what only reads them."""

from typing import Any

Row = dict[str, Any]


def belief(name: str, subject: str = "harness:s", *premises: str, **fields: Any) -> Row:
    return {
        "id": name,
        "subject": subject,
        "claim": f"claim-{name}",
        "statement": f"{name} is so.",
        "value": {},
        "tag": "confirmed",
        "status": "fresh",
        "evidence": [],
        "stands_on": [],
        "premises": list(premises),
        "mode": "",
        "fix": "",
        "formed_at": 10.0,
        "superseded_by": "",
        **fields,
    }


def job_evidence(key: str) -> Row:
    return {"kind": "job", "ref": key, "summary": "evaluate done in 12 s.", "detail": {}}


def decision(name: str, action: str, *premises: str, **fields: Any) -> Row:
    return {
        "id": name,
        "rule": "r",
        "sentence": f"{name} was decided.",
        "action": action,
        "action_key": "",
        "action_inputs": {},
        "run": "",
        "bucket": None,
        "premises": [{"belief": each, "tag": "confirmed", "statement": f"{each} is so."} for each in premises],
        "verdict": {},
        "made_at": 20.0,
        **fields,
    }


def action(key: str, kind: str, by: str, **fields: Any) -> Row:
    return {"key": key, "kind": kind, "state": "done", "decision": by, "inputs": {}, **fields}


def cases(evaluation: str, n: int, run: str = "", side: str = "base") -> Row:
    return {"evaluation": evaluation, "run": run, "side": side, "split": "stress", "use": "selection", "n": n}


def job(key: str, name: str = "J1", **fields: Any) -> Row:
    return {
        "id": name,
        "key": key,
        "kind": "training",
        "run": "R1",
        "folder": f"jobs/{key}",
        "step": 100,
        "steps": 400,
        "exit": {},
        "finished_at": 50.0,
        **fields,
    }


def flat(bucket: str = "C", **fields: Any) -> Row:
    """Return a verdict that counts toward exhaustion."""
    detail = {"bucket": bucket, "movement": "flat", "had_power": True, "is_capped": False, "control_moved": True}
    return {"bucket": {**detail, **fields}}


def view(**rows: Any) -> Row:
    empty: Row = {name: [] for name in ("beliefs", "decisions", "actions", "runs", "jobs", "measured", "approvals")}
    return {"campaign": {"name": "quick", "promoted": ""}, "refuted": [], **empty, **rows}
