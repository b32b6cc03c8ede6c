"""From a decision to the bytes it stands on: premises, their evidence, their fingerprints, and theirs in turn.

Standard library only. Each belief is told once, so premises that go in circles end, and a tree of any depth is as long
as the beliefs in it.
"""

from typing import Any

from agent.reading.words import block, count, listed, shortened
from state.hashing import short

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
