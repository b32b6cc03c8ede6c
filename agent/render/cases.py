"""The cases of a run: prompt, reference, the answers before and after with their differences, scores."""

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.render import typed
from agent.render.words import block, number
from state.errors import ConfigError, NotFoundError
from state.files import read_jsonl, read_object
from state.paths import CampaignPaths
from state.reading import open_reader
from tools.data.cases import read_split, user_prompt

View = dict[str, Any]

FILTERS = {"all": "all", "fixed": "fixed", "regressed": "regressed", "wrong": "still wrong", "cut": "cut off"}
"""A filter in the address -> how it is called."""
PAGE = 25
"""Cases of one page; the next ones are asked for where the reader comes to its end."""
_MOST_WORDS = 600
"""Of two answers that are compared word by word: the comparison takes the square of it."""
_MOST_TEXT = 6_000
_WORD = re.compile(r"\s+|\w+|[^\w\s]")


def page(view: View, run: str, metric: str, wanted: str, start: int) -> View:
    """Return some of a run's cases.

    Args:
        view: The campaign as gathered.
        run: Its id; the best one where it is empty.
        metric: `split.name`; the one that the run was judged by where it is empty.
        wanted: One of `FILTERS`.
        start: How many that fit are passed over.

    Returns:
        `runs`, `metrics` and `run`, `metric`, `wanted`: what can be chosen and what is; `counts` by filter; `rows`;
        `next`, None at the end; `is_redacted`; `use` and `n`: which cases, and how many.

    Raises:
        NotFoundError: There is no such run or metric.
    """
    judged = {row["run"]: row for row in typed.judged(view)}
    best = typed.best(view)
    chosen = run.upper() or (best["run"] if best else "")
    if run and chosen not in judged:
        there = f"{typed.of_campaign(view, 'runs')} shows those there are"
        raise NotFoundError(f"{view['campaign']['name']} has no judged run {run}; {there}.", what="run", value=run)
    empty: View = {"runs": list(judged), "metrics": [], "run": chosen, "metric": metric, "wanted": wanted}
    if not chosen:
        return {**empty, "counts": {}, "rows": [], "next": None, "is_redacted": False, "use": "", "n": 0}
    verdict = judged[chosen]
    target = typed.target_row(verdict)
    metrics = list(dict.fromkeys(row["metric"] for row in verdict["gate"]["conditions"] if row.get("metric")))
    asked = metric or (target["metric"] if target else metrics[0])
    if asked not in metrics:
        raise NotFoundError(f"{chosen} was not judged by {metric}.", what="metric", value=metric)
    found = _Cases(view, verdict, asked, target if target and target["metric"] == asked else None)
    kinds = {case: found.kinds(case) for case in found.ours}
    counts = {each: sum(each in of_case for of_case in kinds.values()) for each in FILTERS}
    fitting = [case for case, of_case in kinds.items() if wanted in of_case]
    hidden = ((view["goal"] or {}).get("spec") or {}).get("privacy") == "redact"
    rows = [found.row(case, kinds[case], is_redacted=hidden) for case in fitting[start : start + PAGE]]
    following = start + PAGE if start + PAGE < len(fitting) else None
    return {
        **empty,
        "metrics": metrics,
        "metric": asked,
        "counts": counts,
        "rows": rows,
        "next": following,
        "is_redacted": hidden,
        "use": verdict["gate"]["use"],
        "n": len(kinds),
    }


def pages(view: View, run: str, metric: str, wanted: str, most: int) -> View:
    """Return the first cases that fit, over several pages, with `filters`; `most` of 0 is all of them."""
    found = page(view, run, metric, wanted, 0)
    while found["next"] is not None and (not most or len(found["rows"]) < most):
        more = page(view, found["run"], found["metric"], wanted, found["next"])
        found |= {"rows": found["rows"] + more["rows"], "next": more["next"]}
    if most and len(found["rows"]) > most:
        found |= {"rows": found["rows"][:most], "next": most}
    return {**found, "filters": FILTERS}


_MOST_LINES = 8


def format_case(run: str, row: View) -> list[str]:
    """Return a case as lines; long texts are cut, `--json` has them."""
    kinds = f", {', '.join(row['kinds'])}" if row["kinds"] else ""
    scores = "; ".join(f"{name} {number(was)} -> {number(now)}" for name, (was, now) in row["scores"].items())
    lines = [f"{row['case']}: {number(row['before'])} -> {number(row['after'])}{kinds}"]
    ours = "".join(text for kind, text in row["words"] if kind != "removed")
    for label, text in (
        ("prompt", row["prompt"]),
        ("reference", row["reference"]),
        ("base", row["base"]),
        ("start", row["start"]),
        (run, ours),
        ("grader", row["error"]),
        ("scores", scores if len(row["scores"]) > 1 else ""),
    ):
        lines += block(f"  {label}", text, lines=_MOST_LINES) if text else []
    return lines


class _Cases:
    """Both sides of one verdict, case by case, in one metric."""

    def __init__(self, view: View, verdict: View, metric: str, target: View | None) -> None:
        self._view, self._verdict = view, verdict
        self._split, _, self._metric = metric.partition(".")
        use, run = verdict["gate"]["use"], verdict["run"]
        parent = next((each["parent"] for each in view["runs"] if each["id"] == run), "")
        root = Path(view["root"])
        self._paths = CampaignPaths(root.parent, root.name)
        with open_reader(self._paths) as reader:
            given = {"split": self._split, "use": use}
            self.ours = {row["case"]: row for row in reader.measurements(run=run, side="candidate", **given)}
            self._base = {row["case"]: row for row in reader.measurements(side="base", **given)}
            started = [] if parent in {"", "base"} else reader.measurements(run=parent, side="candidate", **given)
            self._start = {row["case"]: row for row in started}
        conditions = [row for row in verdict["gate"]["conditions"] if row.get("metric") == metric]
        self._sign = conditions[0].get("sign", 1)
        self._fixed = None if target is None else frozenset(target["rescued_cases"])
        self._regressed = None if target is None else frozenset(target["broken_cases"])
        values = [value for row in self.ours.values() if (value := self._score(row)) is not None]
        # A metric that never goes beyond 1 is taken for a share: all of it is right.
        self._right = 0.0 if self._sign < 0 else max(1.0, *values, 1.0)
        self._questions = Questions(self._paths)

    def _score(self, row: Mapping[str, Any] | None) -> float | None:
        value = ((row or {}).get("metrics") or {}).get(self._metric)
        return None if value is None else float(value)

    def kinds(self, case: str) -> frozenset[str]:
        """Return the filters that a case passes."""
        after, before = self._score(self.ours[case]), self._score(self._base.get(case))
        moved = 0.0 if after is None or before is None else self._sign * (after - before)
        kinds = {"all"}
        # As the verdict counted them, where it did: a change within the noise is none.
        kinds |= {"fixed"} if (moved > 0 if self._fixed is None else case in self._fixed) else set()
        kinds |= {"regressed"} if (moved < 0 if self._regressed is None else case in self._regressed) else set()
        is_wrong = after is None or self._sign * (self._right - after) > 0
        kinds |= {"wrong"} if is_wrong and not kinds & {"fixed", "regressed"} else set()
        kinds |= {"cut"} if self.ours[case]["finish_reason"] == "length" else set()
        return frozenset(kinds)

    def row(self, case: str, kinds: frozenset[str], *, is_redacted: bool) -> View:
        """Return a case as the page shows it."""
        ours, base, start = self.ours[case], self._base.get(case), self._start.get(case)
        told: View = {
            "case": case,
            "kinds": [FILTERS[each] for each in FILTERS if each in kinds and each != "all"],
            "before": self._score(base),
            "after": self._score(ours),
            "scores": {
                name: ((base or {}).get("metrics", {}).get(name), value) for name, value in ours["metrics"].items()
            },
            "error": ours["grader_error"],
        }
        if is_redacted:
            return {**told, "prompt": "", "reference": "", "base": "", "start": "", "words": []}
        question = self._questions.of(ours)
        texts = [self._text(each) for each in (base, start, ours)]
        return {
            **told,
            "prompt": user_prompt(question)[:_MOST_TEXT],
            "reference": str(question.get("reference") or "")[:_MOST_TEXT],
            "base": texts[0],
            "start": texts[1],
            "words": differences(texts[0], texts[2]),
        }

    def _text(self, row: View | None) -> str:
        text = answer(self._view, row) if row else ""
        return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}…"


class Questions:
    """Cases as the evaluations' jobs were given them.

    Args:
        paths: The campaign's files.
    """

    def __init__(self, paths: CampaignPaths) -> None:
        self._paths = paths
        self._known: dict[tuple[str, str, str], dict[str, View]] = {}

    def of(self, measured: View) -> View:
        """Return the case of a measurement, empty where its file is gone or another one now."""
        place = (measured["evaluation"], measured["split"], measured["use"])
        if place not in self._known:
            self._known[place] = self._read(*place)
        return self._known[place].get(measured["case"], {})

    def _read(self, key: str, split: str, use: str) -> dict[str, View]:
        try:
            given = read_object(self._paths.job(key).spec).get("input") or {}
            files = [row["file"] for row in given.get("splits") or () if (row["name"], row["use"]) == (split, use)]
            return {case["id"]: case for file in files for case in read_split(Path(file))}
        except (ConfigError, OSError, KeyError, TypeError, ValueError):
            return {}


def answer(view: View, measured: View) -> str:
    """Return an answer from the artifact that its measurement names, empty where it is gone.

    Side effects: keeps what it read in the view.
    """
    folder, _, case = str(measured.get("output_ref") or "").partition("#")
    if not folder:
        return ""
    known = view.setdefault("_texts", {})
    if folder not in known:
        known[folder] = dict(_texts(Path(view["root"]) / "artifacts" / folder / "cases.jsonl"))
    return str(known[folder].get((measured["split"], measured["use"], case), ""))


def _texts(path: Path) -> Iterator[tuple[tuple[str, str, str], str]]:
    for row in read_jsonl(path):
        yield (str(row.get("split")), str(row.get("use")), str(row.get("case"))), str(row.get("text") or "")


def differences(before: str, after: str) -> list[tuple[str, str]]:
    """Return an answer as pieces, each `same`, `added` or `removed` against another one, word by word.

    Answers that are too long to be compared are one piece, `same`.
    """
    one, other = _WORD.findall(before), _WORD.findall(after)
    if not before or len(one) + len(other) > 2 * _MOST_WORDS:
        return [("same", after)] if after else []
    pieces: list[tuple[str, str]] = []
    for kind, first, last, start, end in difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(other[start:end])))
            continue
        pieces += [("removed", "".join(one[first:last]))] if last > first else []
        pieces += [("added", "".join(other[start:end]))] if end > start else []
    return pieces
