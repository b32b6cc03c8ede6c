"""The model card of a run: what it is, what was shown and how sure, what it was made of, and what was not measured.

As Markdown with the front matter that the hub reads, and as plain values for the report. All of it is from the record;
only the licence is read beside the base's weights.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.render import typed
from agent.render.words import clock, count, duration, number, signed
from state.errors import NotFoundError, VigilError
from state.log import passed_over

View = dict[str, Any]

METHODS = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}
USES = {"selection": "selection cases (seen by the choice of runs)", "confirmation": "held-out confirmation cases"}
"""Which cases a figure is of, for who does not know the words."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FRONT = re.compile(r"^---\n(.*?)\n---", re.DOTALL)
_MOST_NOTES = 8


def card_of(view: View, run: str = "") -> View:
    """Return what a card tells of a run, as plain values.

    Args:
        view: The campaign as gathered.
        run: Its id; the promoted or else the best one where it is empty.

    Returns:
        `run`, `verdict` (a word), `method`, `is_promoted`, `base`, `license`, `made` (rows of name and value),
        `recipe`, `gate` (rows as in the verdict) with its `use` and `sentence`, `decision`, `metrics` (split, name,
        base, value, n), `not_measured` (sentences).

    Raises:
        NotFoundError: There is no such run, or none was judged.
    """
    best = typed.best(view)
    wanted = run.upper() or (best["run"] if best else "")
    verdict = next((row for row in reversed(typed.judged(view)) if row["run"] == wanted), None)
    row = next((each for each in view["runs"] if each["id"] == wanted), None)
    if row is None or verdict is None:
        judged = ", ".join(dict.fromkeys(each["run"] for each in typed.judged(view))) or "none yet"
        name = view["campaign"]["name"]
        said = f"{name} has no judged run {run}; judged are: {judged}." if run else f"{name} has no judged run yet."
        raise NotFoundError(f"{said} A card is of a run that was measured.", what="run", value=run)
    use = verdict["gate"]["use"]
    base, licence = _base(view)
    return {
        "run": wanted,
        "verdict": typed.bucket_name(verdict["bucket"]),
        "method": row["instrument"],
        "is_promoted": view["campaign"].get("promoted") == wanted,
        "base": base,
        "license": licence,
        "made": _made(view, row, base),
        "recipe": row["recipe"],
        "gate": verdict["gate"]["conditions"],
        "use": use,
        "sentence": verdict["gate"]["sentence"],
        "decision": verdict["decision"],
        "metrics": _metrics(view, wanted, use),
        "not_measured": _not_measured(view, row, verdict, use),
    }


def _base(view: View) -> tuple[str, str]:
    """Return the base as the hub knows it, and its licence; each empty where it is not known."""
    spec = view["goal"]["spec"]["model"]
    folder = Path(spec["path"]).expanduser()
    if not folder.is_absolute() and view.get("file"):
        folder = Path(view.get("here") or ".") / Path(view["file"]).parent / folder
    front, is_local = "", folder.is_dir()
    if not is_local:
        with passed_over("card.no_model", VigilError, ImportError):
            from tools.models.hub import resolve

            folder = resolve(spec["path"], online=False, revision=spec["revision"]).folder
    with passed_over("card.no_readme", OSError, UnicodeDecodeError):
        matched = _FRONT.match((folder / "README.md").read_text(encoding="utf-8"))
        front = matched[1] if matched else ""
    told = dict(re.findall(r"^(license|base_model): *[\"']?([^\s\"'#]+)", front, re.MULTILINE))
    is_hub_id = bool(_HUB_ID.fullmatch(spec["path"])) and not is_local
    return (spec["path"] if is_hub_id else told.get("base_model", "")), told.get("license", "")


def _made(view: View, run: View, base: str) -> list[tuple[str, str]]:
    """Return what a run was made of, name and value each."""
    spec, beliefs = view["goal"]["spec"], view["beliefs"]

    def believed(subject: str, claim: str = "") -> str:
        found = [b for b in beliefs if b["subject"] == subject and (not claim or b["claim"] == claim)]
        return str(found[-1]["statement"]) if found else ""

    weights = next((b["value"] for b in reversed(beliefs) if b["subject"] == "identity:weights"), "unknown")
    revision = f", revision {spec['model']['revision']}" if spec["model"]["revision"] else ""
    named = spec["model"]["path"] + (f" ({base})" if base not in {"", spec["model"]["path"]} else "")
    start = "" if run["parent"] == "base" else f"; trained on from {run['parent']}"
    job = next((j for j in view["jobs"] if j["run"] == run["id"] and j["kind"] == "training"), None)
    rows = [
        ("Base model", f"{named}{revision}; weights {_short(weights)}{start}"),
        ("", believed("model:base", "is_coherent")),
        (
            "Method",
            f"{METHODS.get(run['instrument'], run['instrument'])}, {run['recipe'].get('fine_tune_type', 'lora')}",
        ),
        ("Data", f"{spec['data']['train']}; hash {_short(run['data_hash'])}"),
        ("", believed("data:train", "is_readable")),
        ("", believed("data:train", "fits_sequence")),
        ("Seed", str(run["seed"])),
        ("Training", believed(f"run:{run['id']}", "trained")),
        ("Time", duration(run["cost_s_actual"]) if run["cost_s_actual"] is not None else ""),
        (
            "Memory",
            f"{job['exit']['peak_rss_gb']:.2f} GB at its peak" if job and job["exit"].get("peak_rss_gb") else "",
        ),
        ("Software", believed("tool:packages")),
        ("Adapter", f"hash {_short(run['adapter'])}" if run["adapter"] else ""),
    ]
    return [(name, value) for name, value in rows if value]


def _short(digest: object) -> str:
    return str(digest)[:16]


def _metrics(view: View, run: str, use: str) -> list[View]:
    """Return every metric that was measured of a run on the cases of its verdict, beside the base's."""
    means = {b["subject"]: b["value"] for b in view["beliefs"] if b["subject"].startswith("score:") and b["value"]}
    rows = []
    for split in view["goal"]["spec"]["evaluation"]["splits"]:
        ours, base = (means.get(f"score:{who}.{split}.{use}") or {} for who in (run, "base"))
        for name, value in (ours.get("means") or {}).items():
            before = (base.get("means") or {}).get(name)
            rows.append({"split": split, "name": name, "base": before, "value": value, "n": ours.get("n")})
    return rows


def _not_measured(view: View, run: View, verdict: View, use: str) -> list[str]:
    """Return what nobody may conclude from the figures, in sentences."""
    spec = view["goal"]["spec"]
    splits = ", ".join(spec["evaluation"]["splits"])
    told = [f"Anything beyond the splits of this campaign ({splits}): no safety, bias or general ability."]
    if use != "confirmation":
        told.append("Held-out cases: the figures are of selection cases, by which this run was chosen, and flatter it.")
    plain = [row["id"] for row in verdict["gate"]["conditions"] if row["label"]]
    told += [f"{name}: met or missed by its number only, without a statistical test." for name in plain]
    told += [
        f"{row['id']}: {row['n']} cases could not tell."
        for row in verdict["gate"]["conditions"]
        if row["decided"] == "undecided"
    ]
    if not (spec.get("export") or {}).get("fused"):
        told.append("A fused, quantized or GGUF form: the figures are of the adapter beside its base.")
    told.append(f"Another seed: this is one training, with seed {run['seed']}.")
    for belief in view["beliefs"]:
        if belief["status"] == "fresh" and belief["tag"] == "assumed" and not belief["subject"].startswith("action:"):
            told.append(f"Assumed, not verified: {belief['statement']}")
        elif belief["status"] == "refuted" and belief["severity"] == "warning" and not belief["superseded_by"]:
            told.append(f"Warning: {belief['statement']}")
    kept = list(dict.fromkeys(told))
    more = len(kept) - _MOST_NOTES
    return kept[:_MOST_NOTES] + (
        [f"And {more} more: vigil beliefs --assumed, vigil beliefs --stale."] if more > 0 else []
    )


def format_card(card: View, view: View, use: Sequence[str] = ()) -> str:
    """Return a card as a README that the hub and mlx-lm read.

    Args:
        card: As `card_of` returns it.
        view: The campaign as gathered.
        use: Lines on how to use what lies beside the card; a command with placeholders when left out.
    """
    name, run = view["campaign"]["name"], card["run"]
    model = card["base"] or view["goal"]["spec"]["model"]["path"]
    standing = "" if card["is_promoted"] else "**It is not promoted.** "
    usual = ["```", f"mlx_lm.generate --model {model} --adapter-path ADAPTER --prompt ...", "```"]
    lines = [
        *_front(card, name),
        "",
        f"# {name}: {run}",
        "",
        f"{card['sentence'].rstrip('.')}. {standing}Verdict: {card['verdict']}, decision {card['decision']}.",
        "",
        *(use or usual),
        "",
        f"## What was shown, on {USES[card['use']]}",
        "",
        *(f"- {typed.MARKS[row['decided']]}: {typed.said(row)}" for row in card["gate"]),
        "",
        *_table(("metric", "base", run, "change", "cases"), _changes(card)),
        "",
        "The conditions above have intervals and were asked beforehand; the table shows all that was measured.",
        "",
        "## What was not measured",
        "",
        *(f"- {each}" for each in card["not_measured"]),
        "",
        "## How it was made",
        "",
        *(f"- {name}: {value}" if name else f"  {value}" for name, value in card["made"]),
        "",
        "```yaml",
        *(f"{key}: {json.dumps(value)}" for key, value in sorted(card["recipe"].items())),
        "```",
        "",
        f"Chosen among {count(len(view['runs']), 'run')} of the campaign {name} by Vigil, {clock(view['now'])}.",
    ]
    return "\n".join(lines) + "\n"


def _front(card: View, name: str) -> list[str]:
    """Return the front matter; every text in it is quoted as JSON, which YAML reads."""
    lines = ["---"]
    lines += [f"base_model: {json.dumps(card['base'])}"] if card["base"] else []
    lines += [f"license: {json.dumps(card['license'])}"] if card["license"] else []
    lines += ["library_name: mlx", "pipeline_tag: text-generation", "tags:", "- mlx", "- vigil", f"- {card['method']}"]
    metrics = list(dict.fromkeys(row["metric"] for row in card["gate"] if row["value"] is not None))
    if metrics:
        lines += ["metrics:", *(f"- {json.dumps(metric)}" for metric in metrics)]
        lines += ["model-index:", "- name: " + json.dumps(f"{name}-{card['run']}"), "  results:"]
    for metric in metrics:
        row = next(each for each in card["gate"] if each["metric"] == metric)
        split = metric.partition(".")[0]
        cases = json.dumps(f"{name}: {split}, {row['n']} {card['use']} cases")
        lines += ["  - task: {type: text-generation}", f"    dataset: {{name: {cases}, type: {json.dumps(name)}}}"]
        said = json.dumps(typed.said(row).rstrip("."))
        lines += ["    metrics:", f"    - {{type: {json.dumps(metric)}, value: {row['value']!r}, name: {said}}}"]
    return [*lines, "---"]


def _changes(card: View) -> list[tuple[str, ...]]:
    return [
        (
            f"{row['split']}.{row['name']}",
            number(row["base"]),
            number(row["value"]),
            signed(row["value"] - row["base"]) if row["base"] is not None and row["value"] is not None else "",
            str(row["n"]),
        )
        for row in card["metrics"]
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return (
        [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines] if rows else []
    )
