"""Why: decisions, rows by their id, premises down to the bytes they stand on, and what stands on a belief."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.render import record, typed
from agent.render.record import with_premises
from agent.render.words import block, clock, columns, count, duration, listed, number, shortened
from policies.validity import GROUND_OF_TRAINING, NOTED
from state.errors import NotFoundError
from state.hashing import short
from state.paths import CampaignPaths
from state.reading import open_reader

View = dict[str, Any]

_DEPTH = 4
"""Levels below a decision that the text tells; `--json` has them all."""
_PREMISES = 6
"""Premises of one belief that the text tells."""
_PRINTS = 16
"""Fingerprints of one belief that the text names."""
_LINES = 12
"""Of one sentence: sixteen fingerprints with their names take eight."""
_HASH_LENGTH = 64


def tree(view: View, decision: View, *, depth: int | None = None, most: int | None = None) -> list[View]:
    """Return a decision's premises as trees.

    Args:
        view: `beliefs`, `actions` and `jobs`.
        decision: Where to start.
        depth: Levels to follow; all when left out.
        most: Premises of one belief to follow; all when left out.

    Returns:
        Per premise `belief`, `subject`, `claim`, `tag`, `status`, `statement`, `evidence`, `fix` (what would
        settle an assumed one), `stands_on` (kind, name, value), `reasoned_from` (ids), `premises` (those followed,
        as trees) and `is_told`: an earlier place of the same answer has it. Beside them `tag_then` and
        `statement_then`: what the decision read.
    """
    rows = {row["id"]: row for row in view["beliefs"]}
    told: set[str] = set()
    return [
        {
            **_node(rows, premise["belief"], told, depth, most),
            "tag_then": premise["tag"],
            "statement_then": premise["statement"],
        }
        for premise in decision["premises"]
    ]


def _node(rows: dict[str, View], belief_id: str, told: set[str], depth: int | None, most: int | None) -> View:
    """Return one belief's tree; without recursion, since premises may go as deep as the record is long."""
    top: list[View] = []
    waiting = [(belief_id, top, 1)]
    while waiting:
        name, siblings, level = waiting.pop()
        row = rows.get(name)
        if row is None or name in told:
            siblings.append({"belief": name, "is_told": row is not None})
            continue
        told.add(name)
        below: list[View] = []
        siblings.append(
            {
                "belief": name,
                "is_told": False,
                **{key: row[key] for key in _TOLD},
                "reasoned_from": row["premises"],
                "premises": below,
            }
        )
        if depth is None or level < depth:
            waiting += [(premise, below, level + 1) for premise in reversed(row["premises"][:most])]
    return top[0]


_TOLD = ("subject", "claim", "tag", "status", "statement", "formed_at", "evidence", "stands_on", "fix")


def format_premises(view: View, decision: View) -> list[str]:
    """Return the walk as lines."""
    trees = tree(view, decision, depth=_DEPTH, most=_PREMISES)
    teller = _Teller(view)
    lines = ["Because"] if trees else []
    for node in trees:
        lines += teller.told(node, indent=2)
    assumed = [node for node in trees if node.get("tag") == "assumed"]
    if assumed:
        lines.append(f"Assumed, {len(assumed)} of {count(len(trees), 'premise')}")
    for node in assumed:
        lines += block("", f"{node['belief']} {node['subject']} {node['claim']}: {_settled(node)}", indent=2, lines=3)
    return lines


def _settled(node: View) -> str:
    """Say what would ground an assumed premise most cheaply."""
    return f"settled by: {node['fix']}" if node["fix"] else "nobody has named what would settle it."


class _Teller:
    """Tells trees as sentences; fingerprints that several beliefs share are named once."""

    def __init__(self, view: View) -> None:
        self._jobs = {row["key"]: row for row in view["jobs"]}
        self._actions = {row["key"]: row for row in view["actions"]}
        self._named: dict[str, str] = {}

    def told(self, node: View, indent: int) -> list[str]:
        """Return one belief and what it stands on, as lines."""
        if node["is_told"]:
            return block("", f"{node['belief']}, told above.", indent)
        if "statement" not in node:
            return block("", f"{node['belief']} is not on record: {node.get('statement_then') or 'a premise'}", indent)
        mark = node["tag"] if node["status"] == "fresh" else f"{node['tag']}, {node['status']}"
        lines = block("", f"{node['belief']} [{mark}] {node['subject']} {node['claim']}: {node['statement']}", indent)
        then = (node.get("tag_then", node["tag"]), node.get("statement_then") or node["statement"])
        read = [f"The decision read [{then[0]}] {then[1]}"] if then != (node["tag"], node["statement"]) else []
        seen = [self._seen(each) for each in node["evidence"]]
        for sentence in (*read, *seen, *self._stands_on(node), *_reasoned(node)):
            lines += block("", sentence, indent + 2, lines=_LINES)
        for below in node["premises"]:
            lines += [] if below["is_told"] else self.told(below, indent + 2)
        return lines

    def _seen(self, piece: View) -> str:
        """Return one piece of evidence as a sentence."""
        kind, ref, summary = piece["kind"], piece["ref"], piece["summary"].rstrip(".")
        if kind == "probe" and (outcome := piece["detail"].get("refuted_by")):
            return f"The probe {ref} looked; it would have been refuted by {outcome}."
        if kind == "job" and ref in self._actions:
            return self._measured(self._actions[ref], summary)
        if kind == "file":
            digest = str(piece["detail"].get("sha256") or "")
            return f"Seen in the file {ref}{f' ({short(digest)})' if digest else ''}: {summary}."
        if kind == "person":
            return f"{ref} said: {summary}."
        return f"From the {kind} {ref}: {summary}."

    def _measured(self, action: View, summary: str) -> str:
        """Say which job measured it, on which weights, and where its files are."""
        given = action["inputs"]
        inputs = [
            f"{name} {short(str(given[name]))}"
            for name in ("weights", "harness", "tokens", "data", "adapter")
            if given.get(name)
        ]
        on = f", on {listed(inputs)}" if inputs else ""
        job = self._jobs.get(action["key"])
        where = f" by {job['id']} in {job['folder']}" if job else ""
        return f"Measured{where}{on}, chosen by {action['decision']}: {summary}."

    def _stands_on(self, node: View) -> list[str]:
        prints = node["stands_on"]
        if not prints:
            return []
        named = listed((f"{each['kind']} {each['name']} {_value(each['value'])}" for each in prints), _PRINTS)
        first = self._named.setdefault(named, node["belief"])
        many = count(len(prints), "fingerprint")
        if first != node["belief"]:
            return [f"Stands on the same {many} as {first}."]
        return [f"Stands on {many}: {named}."]


def _reasoned(node: View) -> list[str]:
    followed = {each["belief"]: each["is_told"] for each in node["premises"]}
    names = [f"{name} (above)" if followed.get(name) else name for name in node["reasoned_from"]]
    hidden = f"; --json follows {len(names) - len(followed):,} more" if len(names) > len(followed) else ""
    return [f"Reasoned from {listed(names, _PREMISES)}{hidden}."] if names else []


def _value(value: str) -> str:
    """Return a hash's first digits, or a version as it is."""
    return short(value) if len(value) == _HASH_LENGTH else shortened(value, 40)


_MEASURE = frozenset({"evaluate", "confirm"})
_BOOKS = "action:"
"""Subjects of beliefs on how an act ended, which stays true whatever it stood on."""
_MOST = 12
"""Rows of a kind that the text lists; `--json` has them all."""


def gather_standing(paths: CampaignPaths) -> View:
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
            if named and row["rule"] != NOTED:
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
                and (premise.get("subject") or self._subjects.get(premise["belief"], "")).startswith(GROUND_OF_TRAINING)
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
    """Say whether a verdict counts toward exhaustion; the rule is `policies.verdict`, held to it by a test."""
    detail = (decision["verdict"] or {}).get("bucket") or {}
    bucket = (detail.get("on_selection") or [detail.get("bucket")])[0]
    usable = bucket not in {None, "U"} and detail.get("had_power") and not detail.get("is_capped")
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


TABLES = {"R": "runs", "Q": "approvals", "D": "decisions", "J": "jobs", "B": "beliefs", "C": "commitments"}
"""First letter of an id -> where the view has its rows."""

_MOST_VALUES = 12


def find_row_in(view: View, row: str) -> View:
    """Return a row by its id.

    Raises:
        NotFoundError: There is none.
    """
    name = TABLES[row[0].upper()]
    rows = view[name]
    if name == "beliefs":
        # The view leaves out what was superseded.
        root = Path(view["root"])
        with open_reader(CampaignPaths(root.parent, root.name)) as reader:
            rows = reader.table("belief", id=row.upper()) or rows
    found = next((each for each in rows if each["id"] == row.upper()), None)
    if found is None:
        last = f"; the last is {rows[-1]['id']}" if rows else "; there are none yet"
        raise NotFoundError(f"{view['campaign']['name']} has no {row.upper()}{last}.", what=name, value=row)
    return dict(found)


def format_row(view: View, row: str) -> list[str]:
    """Return a row as lines."""
    return _FORMATTERS[row[0].upper()](view, find_row_in(view, row))


def _format_decision(view: View, row: View) -> list[str]:
    return format_decision(with_premises(view, row), row, is_walked=True)


def _format_run(view: View, row: View) -> list[str]:
    verdict = typed.bucket_name(row["bucket"]) or "no verdict yet"
    lines = block("", f"{row['id']}, {row['state']}, {verdict}: {row['hypothesis']}", indent=0)
    lines += training(row)
    if (found := typed.score(view, row["id"])) is not None:
        before = f", {number(found['reference'])} before" if found["reference"] is not None else ""
        level = "" if found["level"] is None else f"{100 * found['level']:.3g} % interval; "
        lines += block(
            "Score", f"{found['metric']} {typed.scored(found)}{before} ({level}{found['n']} {found['use']} cases)."
        )
    for job in [job for job in view["jobs"] if job["run"] == row["id"]]:
        lines += block(
            "Job", f"{job['id']}: {record.outcome(job) if job['exit'] else record.progress(job, view['now'])}"
        )
    for each in [each for each in view["decisions"] if each["run"] == row["id"] and (each["bucket"] or _trains(each))]:
        lines += block(each["id"], each["sentence"], lines=4)
    why = [each["id"] for each in view["decisions"] if each["run"] == row["id"] and each["bucket"]]
    return [*lines, *([f"Why: {typed.of_row(view, 'why', why[-1])}"] if why else [])]


def _trains(decision: View) -> bool:
    return bool(decision["action"] == "train")


def training(run: View) -> list[str]:
    """Return how a run was trained: from what, by which method, with which recipe, in what time."""
    took = f", {duration(run['cost_s_actual'])} of work" if run["cost_s_actual"] is not None else ""
    planned = f", {duration(run['cost_s_estimate'])} expected" if run["cost_s_estimate"] else ""
    start = "the base" if run["parent"] in {"", "base"} else run["parent"]
    lines = block("Trained", f"{run['instrument'].upper()} from {start}, seed {run['seed']}{took}{planned}.")
    recipe = ", ".join(f"{key} {_format_value(value)}" for key, value in run["recipe"].items())
    return lines + block("Recipe", f"{recipe}.", lines=8)


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_format_value(each)}" for key, each in value.items()) + "}"
    return listed(map(_format_value, value), _MOST_VALUES) if isinstance(value, list) else str(value)


def _job(view: View, row: View) -> list[str]:
    how = record.outcome(row) if row["exit"] else record.progress(row, view["now"])
    lines = block("", f"{row['id']}, {row['state']}: {how}", indent=0)
    lines += block("Folder", str(Path(view["root"]) / row["folder"]))
    if row["restarts"]:
        lines += block("Restarts", f"{count(row['restarts'], 'start')} after the first.")
    last = [line for line in (row["exit"].get("last_lines") or [])[-6:] if line.strip()]
    return lines + [line for text in last for line in block("Said", text)]


def belief(row: View) -> list[str]:
    """Return a belief as lines, with what it was seen by."""
    mark = row["tag"] if row["status"] == "fresh" else f"{row['tag']}, {row['status']}"
    lines = block(row["id"], f"[{mark}] {row['subject']} {row['claim']}: {row['statement']}", indent=6, lines=12)
    for seen in row["evidence"]:
        lines += block("", f"{seen['kind']} {seen['ref']}: {seen['summary']}", indent=6)
    if row["fix"] and row["status"] != "fresh":
        lines += block("", f"What to do: {row['fix']}", indent=6)
    return lines


def _format_belief(view: View, row: View) -> list[str]:
    return [*belief(row), f"Impact: {typed.command(view, 'beliefs', '--impact', typed.named(view, row['id']))}"]


def question(view: View, row: View) -> list[str]:
    """Return a question as lines: with what answers it where it waits, else with its answer."""
    if row["answer"] is None:
        return typed.question(view, row)
    said = f"{row['answer']} by {row['answered_by']}, {clock(row['answered_at'])}"
    why = f": {row['reason']}" if row["reason"] and row["answered_by"] != "policy" else ""
    return block("", f"{row['id']} {row['kind']}: {said}{why}", indent=2)


def _question(view: View, row: View) -> list[str]:
    return [*question(view, row), *block("", row["question"], indent=2)] if row["answer"] else question(view, row)


def _commitment(_view: View, row: View) -> list[str]:
    return block("", commitment(row), indent=0, lines=8)


_FORMATTERS = {
    "R": _format_run,
    "Q": _question,
    "D": _format_decision,
    "J": _job,
    "B": _format_belief,
    "C": _commitment,
}


def find_decision(view: View, given: str) -> View:
    """Return the decision meant by its id, or by that of the run it judged or planned, or of what it led to.

    Raises:
        NotFoundError: There is none.
    """
    rows = view["decisions"]
    wanted = given.upper()
    of_run = [row for row in rows if row["run"].upper() == wanted]
    led = {each["id"]: each["decision"] for name in ("approvals", "commitments") for each in view[name]}
    acted = {each["key"]: each["decision"] for each in view["actions"]}
    led |= {each["id"]: acted.get(each["key"]) for each in view["jobs"]}
    wanted = led.get(wanted) or wanted
    found = [row for row in rows if row["id"].upper() == wanted] or [row for row in of_run if row["bucket"]] or of_run
    if found:
        return dict(found[-1])
    last = f"; the last is {rows[-1]['id']}. All: {typed.of_campaign(view, 'why')}" if rows else "; none was made yet."
    raise NotFoundError(
        f"{view['campaign']['name']} has no decision {given!r}{last}",
        what="decision",
        value=given,
    )


_DEEPEST = 100
"""Levels of premises that `--json` nests."""


def public(row: View) -> View:
    """Return a decision as `--json` gives it."""
    first = ("id", "rule", "bucket", "action", "premises")
    return {**{key: row[key] for key in first}, **{key: value for key, value in row.items() if key not in first}}


def walked(view: View, row: View) -> View:
    """Return a decision as `--json` gives it, with `tree`: its premises down to the bytes (`premises_of`)."""
    return {**public(row), "tree": tree(view, row, depth=_DEEPEST)}


def format_decision(view: View, row: View, *, is_walked: bool = False, beside: Iterable[str] = ()) -> list[str]:
    """Return a decision in full, as lines.

    Args:
        view: As gathered.
        row: The decision.
        is_walked: Follow its premises down to the bytes they stand on.
        beside: Lines on what it is about, to stand before the premises, which are long.
    """
    lines = [
        f"{row['id']}, {clock(row['made_at'])}: {row['action']} by {row['rule']}, goal version {row['goal_version']}"
    ]
    lines += block("", row["sentence"], indent=2, lines=6)
    lines += [*beside, *_prediction(row), *_grounds(row), *_verdict_lines(row), *_alternatives(row)]
    for question in [q for q in view["approvals"] if q["decision"] == row["id"]]:
        lines += ["Question", *block("", _answered(question), indent=2, lines=4)]
    for plan in [c for c in view["commitments"] if c["decision"] == row["id"]]:
        lines += ["Commitment", *block("", commitment(plan), indent=2, lines=5)]
    return lines + (format_premises(view, row) if is_walked else _premises(row))


_BRIEF = 10
"""Lines of a decision where not all is asked for."""


def brief(view: View, row: View, asked: str) -> list[str]:
    """Return a decision in at most ten lines: what, the verdict or the figures, why; the last says where the rest is.

    Args:
        view: As gathered.
        row: The decision.
        asked: The id that was asked for; what has it is told in any case.
    """
    lines = [f"{row['id']}, {clock(row['made_at'])}: {row['action']} by {row['rule']}"]
    lines += block("", row["sentence"], indent=2, lines=2)
    run = next((each for each in view["runs"] if each["id"] == row["run"]), None)
    told = [_answered(each) for each in view["approvals"] if each["decision"] == row["id"]]
    told += [commitment(each) for each in view["commitments"] if each["decision"] == row["id"]]
    told.sort(key=lambda text: not text.startswith(f"{asked} "))
    gate = (row["verdict"] or {}).get("gate") or {"conditions": []}
    # What nobody verified is what an answer may hang on.
    premises = sorted(row["premises"], key=lambda each: each["tag"] != "assumed")
    rest = told[:1]
    rest += [" ".join(line.split()) for line in (training(run)[:2] if run is not None and row["bucket"] else ())]
    rest += [
        *_prediction(row),
        *(f"{typed.MARKS[each['decided']]}: {typed.said(each)}" for each in gate["conditions"]),
    ][:3]
    rest += [f"because {each['belief']} ({each['tag']}): {each['statement']}" for each in premises[:2]]
    rest += [f"not {each['action']}: {each['reason']}" for each in row["alternatives"][:1]]
    lines += [f"  {shortened(text, columns() - 2)}" for text in rest]
    return [*lines[: _BRIEF - 1], f"All of it: {typed.of_row(view, 'why', row['id'], '--all')}"]


def commitment(row: View) -> str:
    """Return a commitment as a sentence."""
    implied = "; ".join(f"{outcome}: {then}" for outcome, then in row["implies"].items())
    closed = f" by {row['closed_by']}" if row["closed_by"] else ""
    return (
        f"{row['id']} ({row['status']}{closed}): {row['will'].rstrip('.')}, when {row['when'].rstrip('.')}. "
        f"{implied + '. ' if implied else ''}Cancelled by {row['cancelled_by'].rstrip('.')}."
    )


def _premises(row: View) -> list[str]:
    if not row["premises"]:
        return []
    lines = ["Because"]
    for premise in row["premises"]:
        lines += block("", f"{premise['belief']} [{premise['tag']}] {premise['statement']}", indent=2, lines=3)
    return lines


def _alternatives(row: View) -> list[str]:
    if not row["alternatives"]:
        return []
    lines = ["Not chosen"]
    for other in row["alternatives"]:
        lines += block("", f"{other['action']}: {other['reason']}", indent=2, lines=3)
    return lines


def _prediction(row: View) -> list[str]:
    foreseen = row["prediction"]
    if not {"metric", "low", "high"} <= foreseen.keys():
        return []
    return [f"Predicted  {foreseen['metric']} from {number(foreseen['low'])} to {number(foreseen['high'])}"]


def _grounds(row: View) -> list[str]:
    """Return the figures that a planned run rests on."""
    found = (row["verdict"] or {}).get("grounds") or {}
    known = {name: value for name, value in found.items() if value not in (None, "", [], {})}
    shown = ", ".join(f"{name.replace('_', ' ')} {_figures(value)}" for name, value in known.items())
    return block("Figures", f"{shown}.", lines=6) if shown else []


def _figures(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_figures(each)}" for name, each in value.items() if each is not None) + ")"
    if isinstance(value, list):
        return ", ".join(_figures(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _verdict_lines(row: View) -> list[str]:
    gate = (row["verdict"] or {}).get("gate")
    if not gate:
        return []
    bucket = f"{typed.bucket_name(row['bucket'])}; " if row["bucket"] else ""
    lines = block("Verdict", f"{bucket}{gate['sentence']}", lines=3)
    for condition in gate["conditions"]:
        text = f"{typed.MARKS[condition['decided']]:<9} {typed.said(condition)}"
        if condition["rescued"] or condition["broken"]:
            text += f" {count(len(condition['rescued']), 'case')} improved, {len(condition['broken'])} worse."
        lines += block("", text, indent=2, lines=3)
    return lines


def _answered(question: View) -> str:
    if question["answer"] is None:
        deadline = (
            f"; unanswered at {clock(question['deadline_at'])} it means {question['unanswered']}"
            if question["deadline_at"]
            else ""
        )
        return f"{question['id']} ({question['kind']}) waits for an answer{deadline}."
    why = f": {question['reason']}" if question["reason"] else ""
    said = f"was answered {question['answer']} by {question['answered_by']}, {clock(question['answered_at'])}"
    return f"{question['id']} ({question['kind']}) {said}{why}."
