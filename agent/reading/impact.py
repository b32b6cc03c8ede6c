"""What stands on a belief, transitively: the other direction of `vigil why`. Standard library only.

Whether the belief is refuted does not matter here: before a person refutes one, this says what would fall. What the
planner makes of a refuted one is `policies/contamination.py`; nothing it discards is missing here.
"""

from typing import Any

from agent.reading.words import block, count, listed, shortened
from state.errors import NotFoundError
from state.paths import CampaignPaths
from state.reading import open_reader

View = dict[str, Any]

_MEASURE = frozenset({"evaluate", "confirm"})
_GROUND_OF_TRAINING = ("data:", "model:")
"""Refuted, these make an adapter worthless, and with it every verdict on it."""
_NOTED = "evidence.refuted"
"""Rule of the decision that records a contamination; it does not stand on what it names."""
_BOOKS = "action:"
"""Subjects of beliefs on how an act ended, which stays true whatever it stood on."""
_MOST = 12
"""Rows of a kind that the text lists; `--json` has them all."""


def gathered(paths: CampaignPaths) -> View:
    """Return what `impact` walks over: the rows of the record, with cases counted instead of listed.

    Raises:
        NotFoundError: There is no such campaign.
    """
    with open_reader(paths) as reader, reader.snapshot():
        return {
            "campaign": reader.campaign(),
            "beliefs": reader.beliefs(),
            "decisions": reader.decisions(),
            "actions": reader.actions(),
            "runs": reader.runs(),
            "jobs": reader.jobs(),
            "measured": reader.measurement_counts(),
        }


def impact(view: View, given: str) -> View:
    """Return everything that stands on a belief.

    Args:
        view: `beliefs`, `decisions`, `actions`, `runs` as rows, `measured` as counts of cases, and `campaign`.
        given: The belief's id.

    Returns:
        `belief` (the row), `beliefs`, `decisions`, `actions`, `measured`, `runs` (with `is_worthless`: trained on
        data or weights that fall), `verdicts`, `exhaustion` (runs that counted toward it), `promotion` (None or run,
        decision, `is_in_force`) and `sentence`. Each row has `through`: the id that it stands on most directly.

    Raises:
        NotFoundError: There is no such belief.
    """
    root = next((row for row in view["beliefs"] if row["id"].upper() == given.upper()), None)
    if root is None:
        raise NotFoundError(f"{view['campaign']['name']} has no belief {given}.", what="belief", value=given)
    walk = _Walk(view, root)
    walk.follow()
    return walk.result()


class _Walk:
    """The closure over what stands on what, each thing with the one it was reached through."""

    def __init__(self, view: View, root: View) -> None:
        self._view = view
        self._root = root
        self._subjects = {row["id"]: row["subject"] for row in view["beliefs"]}
        self._fallen: dict[str, str] = {root["id"]: ""}
        self._decided: dict[str, str] = {}
        self._acted: dict[str, str] = {}
        # Denying a score denies the measurement that gave it.
        kinds = {row["key"]: row["kind"] for row in view["actions"]}
        self._void = {
            each["ref"]: root["id"]
            for each in root["evidence"]
            if each["kind"] == "job" and kinds.get(each["ref"]) in _MEASURE
        }

    def follow(self) -> None:
        """Go round until nothing more is reached; what was reached once is not reached again, so circles end."""
        seen = -1
        while seen != (seen := len(self._fallen) + len(self._decided) + len(self._acted) + len(self._void)):
            self._beliefs()
            self._decisions()

    def _beliefs(self) -> None:
        for row in self._view["beliefs"]:
            if row["id"] in self._fallen or row["subject"].startswith(_BOOKS):
                continue
            jobs = [each["ref"] for each in row["evidence"] if each["kind"] == "job"]
            through = next((name for name in row["premises"] if name in self._fallen), "")
            through = through or next((self._void[key] for key in jobs if key in self._void), "")
            if through:
                self._fallen[row["id"]] = through

    def _decisions(self) -> None:
        for row in self._view["decisions"]:
            named = [premise["belief"] for premise in row["premises"] if premise["belief"] in self._fallen]
            if named and row["rule"] != _NOTED:
                self._decided.setdefault(row["id"], named[0])
        for row in self._view["actions"]:
            if row["decision"] in self._decided:
                self._acted.setdefault(row["key"], row["decision"])
                if row["kind"] in _MEASURE:
                    self._void.setdefault(row["key"], row["decision"])

    def result(self) -> View:
        """Return what was reached, in the order of the record."""
        view, root = self._view, self._root
        decisions = [
            {**_short(row, "id", "action", "rule", "run", "bucket", "sentence", "made_at"), "through": through}
            for row in view["decisions"]
            if (through := self._decided.get(row["id"]))
        ]
        runs = self._runs()
        worthless = {row["id"] for row in runs if row["is_worthless"]}
        verdicts = self._verdicts(worthless)
        found: View = {
            "belief": root,
            "beliefs": [
                {**_short(row, "id", "subject", "claim", "statement", "tag", "status"), "through": through}
                for row in view["beliefs"]
                if (through := self._fallen.get(row["id"]))
            ],
            "decisions": decisions,
            "actions": [
                {**_short(row, "key", "kind", "state", "decision"), "through": through}
                for row in view["actions"]
                if (through := self._acted.get(row["key"]))
            ],
            "measured": [
                {**row, "through": through}
                for row in view["measured"]
                if (through := self._void.get(row["evaluation"]))
            ],
            "runs": runs,
            "verdicts": verdicts,
            "exhaustion": [row["run"] for row in verdicts if row["counted"]],
            "promotion": self._promotion(verdicts),
        }
        return {**found, "sentence": _sentence(found)}

    def _runs(self) -> list[View]:
        """Return the runs that decisions reached started."""
        started: dict[str, View] = {}
        for row in self._view["decisions"]:
            if row["id"] not in self._decided or row["action"] != "train" or not row["run"]:
                continue
            ground = any(
                premise["belief"] in self._fallen
                and (premise.get("subject") or self._subjects.get(premise["belief"], "")).startswith(
                    _GROUND_OF_TRAINING
                )
                for premise in row["premises"]
            )
            known = started.setdefault(row["run"], {"id": row["run"], "is_worthless": False, "through": row["id"]})
            known["is_worthless"] |= ground
        states = {row["id"]: row for row in self._view["runs"]}
        return [
            {
                **row,
                "state": states.get(row["id"], {}).get("state", ""),
                "bucket": states.get(row["id"], {}).get("bucket"),
            }
            for row in started.values()
        ]

    def _verdicts(self, worthless: set[str]) -> list[View]:
        """Return the verdicts in force that stand on the belief: a run's newest one."""
        newest = {row["run"]: row for row in self._view["decisions"] if row["bucket"]}
        return [
            {
                "run": run,
                "bucket": row["bucket"],
                "decision": row["id"],
                "counted": counts_toward_exhaustion(row),
                "through": self._decided.get(row["id"]) or run,
            }
            for run, row in newest.items()
            if row["id"] in self._decided or run in worthless
        ]

    def _promotion(self, verdicts: list[View]) -> View | None:
        promoted = self._view["campaign"].get("promoted") or ""
        judged = {row["run"]: row for row in verdicts}
        for row in reversed(self._view["decisions"]):
            if row["action"] == "promote" and (row["id"] in self._decided or row["run"] in judged):
                return {"run": row["run"], "decision": row["id"], "is_in_force": row["run"] == promoted}
        return None


def counts_toward_exhaustion(decision: View) -> bool:
    """Say whether a verdict counts toward exhaustion; the rule is `policies.exhaustion`, held to it by a test."""
    detail = (decision["verdict"] or {}).get("bucket") or {}
    usable = detail.get("bucket") not in {None, "U"} and detail.get("had_power") and not detail.get("is_capped")
    return bool(usable and detail.get("movement") == "flat" and detail.get("control_moved") is True)


def _short(row: View, *names: str) -> View:
    return {name: row[name] for name in names}


def _sentence(found: View) -> str:
    cases = sum(row["n"] for row in found["measured"])
    parts = [
        count(len(found["beliefs"]), "belief"),
        count(len(found["decisions"]), "decision"),
        count(len(found["actions"]), "action"),
        count(cases, "measured case"),
        f"{count(len(found['runs']), 'run')} started",
        count(len(found["verdicts"]), "verdict"),
        f"{count(len(found['exhaustion']), 'count')} toward exhaustion",
    ]
    promotion = found["promotion"]
    last = "no promotion" if promotion is None else f"the promotion of {promotion['run']}"
    return f"On {found['belief']['id']} stand {', '.join(parts)} and {last}."


def format_impact(found: View) -> list[str]:
    """Return the impact as lines."""
    root = found["belief"]
    lines = block(
        "", f"{root['id']} [{root['tag']}, {root['status']}] {root['subject']} {root['claim']}: {root['statement']}", 0
    )
    lines += block("", found["sentence"], indent=0)
    for title, rows in (
        ("Beliefs", [_belief(row) for row in found["beliefs"]]),
        ("Decisions", [_decision(row) for row in found["decisions"]]),
        (
            "Actions",
            [f"{row['kind']} {row['key'][:12]}, {row['state']}, by {row['through']}." for row in found["actions"]],
        ),
        ("Measured cases", [_measured(row) for row in found["measured"]]),
        ("Runs", [_run(row) for row in found["runs"]]),
        ("Verdicts", [_verdict(row) for row in found["verdicts"]]),
    ):
        if rows:
            lines.append(title)
            lines += [line for row in rows[:_MOST] for line in block("", row, indent=2, lines=2)]
            lines += [f"  and {len(rows) - _MOST:,} more"] if len(rows) > _MOST else []
    if found["exhaustion"]:
        lines += block("", f"Toward exhaustion counted: {listed(found['exhaustion'], _MOST)}.", indent=0)
    if promotion := found["promotion"]:
        state = "is in force" if promotion["is_in_force"] else "was proposed and is not in force"
        lines += block("", f"The promotion of {promotion['run']} by {promotion['decision']} {state}.", indent=0)
    return lines


def _belief(row: View) -> str:
    where = f"{row['id']} [{row['tag']}, {row['status']}] {row['subject']} {row['claim']}"
    return f"{where}, through {row['through']}: {row['statement']}"


def _decision(row: View) -> str:
    return f"{row['id']} ({row['action']}, {row['rule']}), through {row['through']}: {shortened(row['sentence'], 160)}"


def _measured(row: View) -> str:
    who = row["run"] or row["side"]
    cases = f"{count(row['n'], 'case')} of {row['split']}.{row['use']}"
    return f"{cases}, {who} ({row['side']}), evaluation {row['evaluation'][:12]}, through {row['through']}."


def _run(row: View) -> str:
    state = f"bucket {row['bucket']}" if row["bucket"] else row["state"] or "not recorded"
    worth = "; trained on what falls, so its adapter is worthless" if row["is_worthless"] else ""
    return f"{row['id']}, started by {row['through']}, {state}{worth}."


def _verdict(row: View) -> str:
    counted = ", which counted toward exhaustion" if row["counted"] else ""
    return f"{row['run']} is {row['bucket']} by {row['decision']}{counted}, through {row['through']}."
