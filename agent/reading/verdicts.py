"""Verdicts on runs, read from the decisions that made them. Standard library only."""

from typing import Any

from agent.reading.words import number, signed

View = dict[str, Any]

MARKS = {"holds": "holds", "fails": "fails", "undecided": "open"}
"""Word for each state of a condition; undecided: the cases cannot tell."""

BUCKETS = {"A": "passed", "B": "improved", "C": "no change", "D": "regressed", "U": "inconclusive"}
"""Word for each bucket."""
_RANK = "ABCUD"
"""Best first; an uninformative run has at least lost nothing that was seen."""


def judged(view: View) -> list[View]:
    """Return every verdict, oldest first: decision, run, rule, bucket, gate, and the detail behind the bucket."""
    rows = []
    for decision in view.get("decisions") or []:
        detail = decision.get("verdict") or {}
        if decision.get("bucket") and detail.get("gate"):
            rows.append(
                {
                    "decision": decision["id"],
                    "run": decision["run"],
                    "rule": decision["rule"],
                    "bucket": decision["bucket"],
                    "gate": detail["gate"],
                    "detail": detail.get("bucket") or {},
                }
            )
    return rows


def best(view: View) -> View | None:
    """Return the best run's verdict with its target row (None where the verdict compared nothing).

    It is the promoted one, where one is. Within a bucket it is the one that the planner would train on: with the most
    slack, the later of equals.
    """
    # Of each run the newest verdict: an edited gate judges again, and bucket A may be of the old one.
    rows = list({row["run"]: row for row in judged(view)}.values())
    promoted = [row for row in rows if row["run"] == (view.get("campaign") or {}).get("promoted")]
    rows = promoted or rows
    if not rows:
        return None
    # The first of equals is taken, so they are looked at from the newest on.
    chosen = min(reversed(rows), key=lambda row: (_RANK.index(row["bucket"]), -slack(row)))
    return {**chosen, "target": target_row(chosen)}


def slack(verdict: View) -> float:
    """Return by how much the selection cases clear the gate's worst condition, negative where they do not.

    The same figure as `policies.proposals.slack`, from the plain values of the record.
    """
    gate = verdict["detail"].get("gate") or verdict["gate"]
    return min((_slack(row) for row in gate["conditions"]), default=float("-inf"))


def _slack(row: View) -> float:
    sign, unit = row.get("sign", 1), 1 if row["statistic"] == "mean" else max(1, row["n"])
    near = row["low"] if sign > 0 else row["high"]
    if near is None or row.get("bound") is None:
        return float("-inf")
    return float(sign * (near - row["bound"]) / unit)


def target_row(verdict: View) -> View | None:
    """Return what happened to the target: metric, value, reference, cases rescued and broken, cases in all."""
    target = verdict["detail"].get("target") or {}
    conditions = verdict["gate"]["conditions"]
    row = next((row for row in conditions if row["id"] == target.get("condition")), None)
    row = row or next((row for row in conditions if row["reference"] is not None), None)
    if row is None:
        return None
    return {
        "metric": row["metric"],
        "value": row["value"],
        "reference": row["reference"],
        "rescued": len(row["rescued"]),
        "broken": len(row["broken"]),
        "rescued_cases": list(row["rescued"]),
        "broken_cases": list(row["broken"]),
        "n": row["n"],
        "use": verdict["gate"]["use"],
        "sign": row.get("sign", 1),
    }


def bucket_name(letter: str | None) -> str:
    """Return a bucket in a word, with its letter: `improved (B)`; empty where there is none."""
    return f"{BUCKETS[letter]} ({letter})" if letter else ""


def score(view: View, run: str) -> View | None:
    """Return what a run scored by its newest verdict, None where it has none or was not measured.

    Returns:
        `metric`, `value`, `reference` (the side compared with), `low` and `high`: the interval of the value, or of the
        difference to the reference where `is_difference`, `level` [0, 1], `n` and `use`: on how many of which cases.
    """
    verdict = next((row for row in reversed(judged(view)) if row["run"] == run), None)
    target = target_row(verdict) if verdict else None
    if verdict is None or target is None or target["value"] is None:
        return None
    of_metric = (row for row in verdict["gate"]["conditions"] if row["metric"] == target["metric"])
    rows = [row for row in of_metric if row["low"] is not None]
    row = next((row for row in rows if row["against"] == "value"), rows[0] if rows else {})
    return {
        **{key: target[key] for key in ("metric", "value", "reference", "n", "use")},
        "low": row.get("low"),
        "high": row.get("high"),
        "level": 1 - 2 * row["alpha"] if row else None,
        "is_difference": bool(row) and row["against"] != "value",
    }


def scored(found: View | None) -> str:
    """Return a score with its interval: `0.853 (0.826 to 0.880)`."""
    if found is None:
        return ""
    text = number(found["value"])
    if found["low"] is None:
        return text
    if found["is_difference"] and found["reference"] is not None:
        span = f"{signed(found['low'])} to {signed(found['high'])}"
        return f"{text}, {signed(found['value'] - found['reference'])} ({span})"
    return f"{text} ({number(found['low'])} to {number(found['high'])})"


def asked(condition: View) -> str:
    """Return a condition of the campaign file as a person would say it."""
    metrics = [condition["metric"]] if condition.get("metric") else list(condition.get("any_of") or ())
    what = metrics[0] if len(metrics) == 1 else "the best of " + ", ".join(metrics)
    what += " as a count" if condition.get("statistic") == "count" else ""
    against = condition.get("against", "value")
    if condition.get("statistic") == "new_failures":
        what = f"new failures of {what} against the {against}"
    elif against != "value":
        what += f" minus the {against}'s"
    word, sign, threshold = ("at least", 1, condition.get("min"))
    if threshold is None:
        word, sign, threshold = "at most", -1, condition["max"]
    # A margin stands only where no change is asked for, and then it is what the verdict uses.
    margin = condition.get("margin")
    bound = threshold if margin is None else -sign * margin + 0.0
    granted = "" if bound == threshold else f" (with its margin: {word} {bound:g})"
    return f"{what} {word} {threshold:g}{granted}"


def said(row: View) -> str:
    """Return a judged condition: what was asked, what was measured, how sure."""
    question = row.get("question") or _asked_then(row)
    if row["estimate"] is None:
        return f"{question}: not measured."
    digits = 3 if row["statistic"] == "mean" else 1
    is_level = row["against"] == "value" or row["statistic"] == "new_failures"
    shown = number(row["estimate"], digits) if is_level else signed(row["estimate"], digits)
    interval = ""
    if row["low"] is not None:
        level = f"{100 * (1 - 2 * row['alpha']):.3g} %"
        interval = (
            f" ({level} interval {number(row['low'], digits)} to {number(row['high'], digits)}, {row['n']} cases)"
        )
    label = f"; {row['label']}" if row["label"] else ""
    more, needed = "", row["cases_needed"]
    if row["decided"] == "undecided" and needed is not None and needed > row["n"]:
        more = f"; about {needed} cases would tell"
    elif row["decided"] == "undecided" and needed is None and row.get("assumed_truth") is not None:
        more = "; no number of cases can tell"
    return f"{question}: {shown}{interval}{label}{more}."


def _asked_then(row: View) -> str:
    """Return what a condition of an earlier version's record asked, from its fields; its id where it has too few."""
    if row.get("threshold") is None or "sign" not in row:
        return str(row["id"])
    bounds = {"min" if row["sign"] > 0 else "max": row["threshold"]}
    margin = None if row.get("bound") in {None, row["threshold"]} else -row["sign"] * row["bound"]
    return asked({**{name: row.get(name) for name in ("metric", "statistic", "against")}, **bounds, "margin": margin})


def base_mean(view: View, metric: str) -> float | None:
    """Return the base's mean on the selection cases, as believed."""
    split, _, name = metric.partition(".")
    for belief in view.get("beliefs") or []:
        if belief["subject"] == f"score:base.{split}.selection" and belief["status"] == "fresh":
            value = ((belief.get("value") or {}).get("means") or {}).get(name)
            return None if value is None else float(value)
    return None
