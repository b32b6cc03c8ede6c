"""A small campaign on disk, the command that drives it with quick workers, and what must hold after any storm."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from state.files import read_json, read_jsonl
from state.hashing import hash_tree
from state.ledger import open_ledger
from state.paths import CampaignPaths
from state.reading import open_reader

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "runbooks" / "quickstart" / "base"
N_CASES = 40

ONE_RUN: dict[str, Any] = {"batch_size": 4, "iters": 120, "max_seq_length": 128, "learning_rate": 0.001}
"""A recipe whose first run meets the gate; by default several are needed, which takes twice as long."""

EFFECTS: dict[str, Any] = {
    "retention": {"saves": 1},
    "notify": {"command": ["sh", "-c", 'echo "$VIGIL_KEY $(cat)" >> told']},
    "export": {"to": "exports", "fused": True},
}
"""Keys that switch on every kind of effect; `assert_effects` looks at what came of them."""

GRADER = '''"""Grades nothing for real: the quick worker brings its own scores."""


def grade(case, text):
    return {"score": 1.0 if text == case.get("reference") else 0.0}
'''


def write_campaign(folder: Path, name: str = "storm", **changes: Any) -> Path:
    """Write a campaign file and its data; return the file.

    Args:
        folder: Where.
        name: The campaign's name.
        changes: Top-level keys that replace the defaults.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "base").exists():
        shutil.copytree(BASE, folder / "base")
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]} for i in range(8)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for use in ("selection", "confirmation"):
        cases = [{"id": f"{use}-{i}", "prompt": f"{use} {i}", "reference": "a"} for i in range(N_CASES)]
        (folder / f"{use}.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    (folder / "grade.py").write_text(GRADER)
    spec: dict[str, Any] = {
        "campaign": name,
        "model": {"path": "base", "dtype": "float32"},
        "track": {"grader": "grade.py", "metrics": ["score"]},
        "data": {"train": "train.jsonl"},
        "evaluation": {
            "max_tokens": 64,
            "splits": {"main": {"selection": "selection.jsonl", "confirmation": "confirmation.jsonl"}},
        },
        "gate": {"max_confirmations": 2, "conditions": [{"id": "score", "metric": "main.score", "min": 0.69}]},
        "recipe": {**ONE_RUN, "iters": 20},
        "approvals": {"promotion": {"mode": "auto"}},
        **changes,
    }
    spec["gate"] = {"ledger": "example", **spec["gate"]}
    path = folder / "campaign.yaml"
    path.write_text(json.dumps(spec, indent=1))
    return path


def command(
    campaign: Path,
    home: Path,
    *,
    wait: bool = True,
    bend: dict[str, Any] | None = None,
    workers: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the command line that runs a campaign with quick workers, in a process of its own.

    Args:
        campaign: The campaign file.
        home: Folder of all campaigns.
        wait: Stay for answers.
        bend: What is bent in the agent (`bent.py`); None for nothing.
        workers: Kind of job -> module that runs in place of the quick one.
    """
    program = ["tests.faults.campaign.drive"] if bend is None else ["tests.faults.campaign.bent", json.dumps(bend)]
    return [sys.executable, "-m", *program, str(campaign), str(home), "wait" if wait else "no-wait"] + [
        f"{kind}={module}" for kind, module in (workers or {}).items()
    ]


def start(
    campaign: Path,
    home: Path,
    *,
    wait: bool = True,
    log: Path | None = None,
    first_on_path: Path | None = None,
    bend: dict[str, Any] | None = None,
    workers: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the agent; `first_on_path` is a folder whose `sitecustomize.py` every process of it runs."""
    folders = [str(folder) for folder in (first_on_path, ROOT) if folder is not None]
    path = {"PYTHONPATH": os.pathsep.join(folders)}
    with (log or home.with_suffix(".log")).open("ab") as stream:
        return subprocess.Popen(
            command(campaign, home, wait=wait, bend=bend, workers=workers),
            cwd=ROOT,
            env={**os.environ, **path, **(environment or {})},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def run(
    campaign: Path, home: Path, *, wait: bool = True, timeout_s: float = 240, bend: dict[str, Any] | None = None
) -> int:
    """Run the agent to its end and return its exit code."""
    return start(campaign, home, wait=wait, bend=bend).wait(timeout=timeout_s)


def words(home: Path) -> str:
    """Return the last of what agents said."""
    return home.with_suffix(".log").read_text()[-2000:]


def wrong(home: Path, code: int, name: str = "storm", *, jobs_died: bool = False) -> list[str]:
    """Return what is wrong with a campaign that ought to have reached its verdict, each action done once.

    Args:
        home: Folder of all campaigns.
        code: Exit code of its last agent: 0 promoted, 1 not promoted.
        name: The campaign.
        jobs_died: More than the agent was killed, so that a notice may be lost.
    """
    found = [] if code in {0, 1} else [f"exit code {code}: {words(home)[-300:]}"]
    try:
        assert_exactly_once(home, name)
        assert_effects(home, name, jobs_died=jobs_died)
    except AssertionError as error:
        found.append(" ".join(str(error).split())[:300])
    state = rows(home, name)["campaign"][0]["state"]
    if code in {0, 1} and state != ("promoted", "not_promoted")[code]:
        found.append(f"exit code {code}, and the campaign is {state}")
    if CampaignPaths(home, name).promoted.exists() != (state == "promoted"):
        found.append(f"the campaign is {state}, and the link says otherwise")
    return [f"{home}: {sentence}" for sentence in found]


def rows(home: Path, name: str = "storm") -> dict[str, list[dict[str, Any]]]:
    """Return a campaign's rows by table."""
    reader = open_reader(CampaignPaths(home, name))
    return {
        "actions": reader.actions(),
        "jobs": reader.jobs(),
        "runs": reader.runs(),
        "decisions": reader.decisions(),
        "approvals": reader.approvals(),
        "beliefs": reader.beliefs(),
        "campaign": [reader.campaign()],
        "goals": reader.goals(),
    }


def assert_exactly_once(home: Path, name: str = "storm") -> None:
    """Assert that no action was lost or repeated and no job was started twice, whatever was killed."""
    found = rows(home, name)
    keys = [action["key"] for action in found["actions"]]
    assert len(keys) == len(set(keys))
    assert {action["state"] for action in found["actions"]} == {"done"}, found["actions"]
    # One decision per act: a crash between deciding and doing must not decide again.
    refused = {approval["decision"] for approval in found["approvals"] if approval["answer"] == "no"}
    decided = [row["action_key"] for row in found["decisions"] if row["action_key"] and row["id"] not in refused]
    assert len(decided) == len(set(decided)), decided
    assert set(decided) == set(keys), set(decided) ^ set(keys)
    folders = sorted(folder.name for folder in CampaignPaths(home, name).jobs.iterdir())
    jobs = [
        action["key"]
        for action in found["actions"]
        if action["kind"] in {"census", "evaluate", "train", "confirm", "notify", "fuse"}
    ]
    assert folders == sorted(jobs)
    for key in jobs:
        folder = CampaignPaths(home, name).job(key).folder
        assert (read_json(folder / "exit.json") or {})["state"] == "finished"
        assert read_jsonl(folder / "out" / "violations.jsonl") == []
    if (ledger := CampaignPaths(home, name).ledger).exists():
        with open_ledger(ledger) as opened:
            paid = [(row.body["candidate"], row.body["goal"]) for row in opened.entries() if row.kind == "opening"]
        confirms = [action["inputs"] for action in found["actions"] if action["kind"] == "confirm"]
        assert len(paid) == len(set(paid)), "opened once, paid once"
        assert {(each["candidate"], each["goal"]) for each in confirms} <= set(paid), "nothing is opened unpaid"
    # The same effects, stated by what they are: no evaluation of one side, use and run twice under one harness.
    seen = [(a["kind"], json.dumps(a["inputs"], sort_keys=True)) for a in found["actions"]]
    assert len(seen) == len(set(seen))


def assert_effects(home: Path, name: str = "storm", *, jobs_died: bool = False) -> None:
    """Assert that each notice, export and deletion of a campaign that has its verdict came once, and took nothing else.

    Args:
        home: Folder of all campaigns.
        name: The campaign.
        jobs_died: More than the agent was killed, so that a notice may be lost; never doubled.
    """
    found, paths = rows(home, name), CampaignPaths(home, name)
    if not found["goals"][-1]["spec"]["notify"]:
        return
    of_kind: dict[str, list[dict[str, Any]]] = {}
    for action in found["actions"]:
        of_kind.setdefault(action["kind"], []).append(action)
    notices = {action["key"]: action for action in of_kind["notify"]}
    spec = read_json(paths.job(next(iter(notices))).spec) or {}
    folder = Path(spec["input"]["cwd"])
    told = [line.split()[0] for line in _lines(folder / "told")]
    assert len(told) == len(set(told)), f"told twice: {told}"
    assert set(told) <= set(notices)
    if not jobs_died:
        assert set(told) == set(notices), f"lost: {set(notices) - set(told)}"
        assert {action["result"]["sent"] for action in notices.values()} == {"yes"}
    assert [action["inputs"]["event"] for action in notices.values()].count("ended") == 1

    is_promoted = found["campaign"][0]["state"] == "promoted"
    exported = sorted(path.name for path in (folder / "exports").glob("*")) + sorted((folder / "exports").glob(".*"))
    digests = [action["inputs"]["adapter"] for action in of_kind.get("export", [])]
    assert exported == [f"{name}-{digest[:12]}-with-fused" for digest in digests], exported
    assert len(exported) == len(of_kind.get("fuse", [])) == is_promoted
    for entry, digest in zip(exported, digests, strict=True):
        assert hash_tree(folder / "exports" / entry / "adapter") == digest
        assert sorted(path.name for path in (folder / "exports" / entry).iterdir()) == [
            "CARD.txt", "adapter", "export.jsonl", "fused", "report.html",
        ]  # fmt: skip

    deleted = {action["inputs"]["job"]: action["inputs"]["names"] for action in of_kind.get("delete", [])}
    assert len(deleted) == len(of_kind.get("delete", [])), "saves of one training were deleted twice"
    runs = {run["id"]: run for run in found["runs"]}
    for action in of_kind["train"]:
        job, run = paths.job(action["key"]), runs[action["inputs"]["run"]]
        iters = run["recipe"]["iters"]
        made = {f"{iters // 2:07d}", f"{iters:07d}"}
        left = {save.name for save in (job.out / "saves").iterdir()}
        assert left == made - set(deleted.get(action["key"], [])), f"{run['id']}: {left}"
        assert not (job.folder / ".trash").exists()
        assert (action["key"] in deleted) == (is_promoted and run["bucket"] != "A"), f"{run['id']}: {deleted}"
        assert job.metrics.exists()
        assert job.result.exists()
    for action in found["actions"]:
        for kept in ("adapter", "cases"):
            digest = action["result"].get(kept)
            assert not isinstance(digest, str) or hash_tree(paths.artifact(digest)) == digest


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
