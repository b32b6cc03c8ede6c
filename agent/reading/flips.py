"""Cases that a run answers better or worse than its parent, with both answers beside each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.reading import verdicts
from agent.reading.words import shortened
from state.files import read_jsonl

View = dict[str, Any]

WORDS = {"rescued": "improved", "broken": "worse"}
"""How a changed case is called."""
_MOST = 40
"""Flips shown per run; the counts are always told whole."""
_TEXT = 900
"""Characters of an answer that are shown."""


def flips(view: View) -> list[View]:
    """Return one table per judged run: run, metric, counts, rows (case, both scores, both answers).

    Answers are left out where the campaign keeps its texts private (`privacy: redact`).

    Args:
        view: As gathered with cases.
    """
    return [table for verdict in verdicts.judged(view) if (table := _table(view, verdict)) is not None]


def _table(view: View, verdict: View) -> View | None:
    target = verdicts.target_row(verdict)
    if target is None:
        return None
    changed = [("rescued", case) for case in target["rescued_cases"]] + [
        ("broken", case) for case in target["broken_cases"]
    ]
    split, _, metric = target["metric"].partition(".")
    ours = _cases(view, verdict["run"], "candidate", split, target["use"])
    theirs = _cases(view, "", "base", split, target["use"])
    hidden = ((view["goal"] or {}).get("spec") or {}).get("privacy") == "redact"
    rows = []
    for change, case in changed[:_MOST]:
        one, other = theirs.get(case, {}), ours.get(case, {})
        rows.append(
            {
                "change": change,
                "case": case,
                "before": (one.get("metrics") or {}).get(metric),
                "after": (other.get("metrics") or {}).get(metric),
                "text_before": "" if hidden else _text(view, one),
                "text_after": "" if hidden else _text(view, other),
            }
        )
    return {
        "run": verdict["run"],
        "bucket": verdict["bucket"],
        "metric": target["metric"],
        "use": target["use"],
        "rescued": target["rescued"],
        "broken": target["broken"],
        "n": target["n"],
        "is_redacted": hidden,
        "rows": rows,
    }


def _cases(view: View, run: str, side: str, split: str, use: str) -> dict[str, View]:
    """Return the newest measurement of each case of one side."""
    return {
        row["case"]: row
        for row in view["measurements"]
        if row["run"] == run and row["side"] == side and row["split"] == split and row["use"] == use
    }


def _text(view: View, measured: View) -> str:
    """Return an answer from the artifact that its measurement names, empty where it is gone."""
    folder, _, case = str(measured.get("output_ref") or "").partition("#")
    if not folder:
        return ""
    known = view.setdefault("_texts", {})
    if folder not in known:
        known[folder] = dict(_texts(Path(view["root"]) / "artifacts" / folder / "cases.jsonl"))
    text = str(known[folder].get((measured["split"], measured["use"], case), ""))
    return text if len(text) <= _TEXT else shortened(text, _TEXT)


def _texts(path: Path) -> Iterator[tuple[tuple[str, str, str], str]]:
    for row in read_jsonl(path):
        yield (str(row.get("split")), str(row.get("use")), str(row.get("case"))), str(row.get("text") or "")
