"""The ledger of cases in whole campaigns with quick workers: other campaigns, edits, renamed runs, damage, resets."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from agent.campaign import load_campaign
from agent.checks import check_campaign
from agent.inputs import is_confirmation
from agent.openings import case_parts, check_openings, refuse_copies
from state.errors import ConfigError
from state.ledger import CaseSet, Entry, case_hash, open_ledger
from state.paths import CampaignPaths, MachinePaths
from tests.agent import folders
from tests.faults.campaign import warm, world


def refuse(file: Path, paths: CampaignPaths) -> str:
    """Refuse cases that were used before or stand there twice; return what is told of those that may be opened."""
    loaded = load_campaign(file)
    parts = case_parts(loaded.goal, loaded.folder)
    refuse_copies(loaded, parts)
    return check_openings(loaded, paths, parts, has_record=False)[1]


SCORE = [{"id": "score", "metric": "main.score", "min": 0.69}]


@pytest.fixture(name="machine")
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MachinePaths:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "machine"))
    return MachinePaths(tmp_path / "machine" / "vigil")


def shared(most: int = 1, conditions: list[dict[str, Any]] = SCORE) -> dict[str, Any]:
    """Return a gate that is counted with all campaigns of the machine."""
    return {"ledger": "machine", "max_confirmations": most, "conditions": conditions}


def openings(machine: MachinePaths) -> list[Entry]:
    """Return what was opened."""
    with open_ledger(machine.ledger) as ledger:
        return [entry for entry in ledger.entries() if entry.kind == "opening"]


def test_campaigns_share_what_they_spend_and_a_ledger_that_is_gone_ends_them(
    tmp_path: Path, machine: MachinePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    first = world.write_campaign(tmp_path / "files", gate=shared(2), recipe=world.ONE_RUN)
    bend = {"kill_at": "amid_opening", "passage": 1}
    assert warm.run(first, home, wait=False, bend=bend) == -signal.SIGKILL, "between its row and the act"
    assert len(openings(machine)) == 1
    assert warm.run(first, home, wait=False) == 0
    [opened] = openings(machine)
    [confirm] = [row for row in world.rows(home)["actions"] if row["kind"] == "confirm"]
    assert (opened.key, opened.body["alpha"]) == (confirm["key"], confirm["inputs"]["alpha"])
    told = warm.vigil("status", home=home)
    assert "opened once (by storm) of at most 2; alpha 0.025 of 0.05 is spent" in " ".join(told.stdout.split())
    assert json.loads(warm.vigil("ledger", "--json", home=home).stdout)["openings"][0]["campaign"] == "storm"

    # Its own record tells of the opening where another ledger is named, and on another machine.
    once = "The confirmation cases were opened once (by storm) of at most 2; alpha 0.025 of 0.05 is spent"
    named = world.write_campaign(tmp_path / "named", gate=shared(5) | {"ledger": "example"}, recipe=world.ONE_RUN)
    told = warm.vigil("run", str(named), "--check", home=home)
    assert once.replace("2;", "5;") in told.stdout
    assert "Confirmation cases for score: there are 40; " in told.stdout
    assert "at alpha 0.00625" in told.stdout, "the level that the ledger leaves"
    shutil.copytree(home / "storm", tmp_path / "moved" / "storm", symlinks=True)
    with monkeypatch.context() as other:
        other.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
        assert once in warm.vigil("run", str(first), "--check", home=tmp_path / "moved").stdout
        assert warm.run(first, tmp_path / "moved", wait=False) == 0
        assert once in " ".join(warm.vigil("status", "storm", home=tmp_path / "moved").stdout.split())

    # Under another name the same weights come out: their opening is read again, and costs nothing.
    again = world.write_campaign(tmp_path / "again", "again", gate=shared(2), recipe=world.ONE_RUN)
    assert warm.run(again, home, wait=False) == 0
    assert len(openings(machine)) == 1
    [confirm] = [row for row in world.rows(home, "again")["decisions"] if row["action"] == "confirm"]
    assert "these cases before by storm, so that opening is read again, judged at alpha 0.0250" in confirm["sentence"]

    # Where nothing is left, that is said before anything is trained.
    last = world.write_campaign(tmp_path / "last", "last", gate=shared(), recipe=world.ONE_RUN)
    assert warm.run(last, home, wait=False) == 1
    ended = world.rows(home, "last")
    assert "opened once (by storm), as often as gate.max_confirmations allows" in ended["campaign"][0]["sentence"]
    assert not ended["runs"]

    machine.ledger.unlink()
    for command in (["status", "storm"], ["ledger"]):
        lost = warm.vigil(*command, home=home)
        assert (lost.returncode, "vigil ledger --reset --reason WHY" in lost.stderr) == (5, True), lost.stderr
    assert "ended: promoted" in warm.vigil("status", "storm", home=home).stdout, "what is on record is still told"
    third = world.write_campaign(tmp_path / "third", "third", gate=shared(), recipe=world.ONE_RUN)
    with pytest.raises(Exception, match="damaged or lost"):
        refuse(third, CampaignPaths(home, "third"))
    assert warm.vigil("ledger", "--reset", home=home).returncode == 2, "a reset needs a reason"
    reset = warm.vigil("ledger", "--reset", "--reason", "a new disk", home=home)
    assert (reset.returncode, "On record" in reset.stdout) == (0, True), reset.stderr
    assert "a new disk" in warm.vigil("ledger", home=home).stdout
    refuse(third, CampaignPaths(home, "third"))


def test_an_example_counts_for_itself_alone_and_says_so(tmp_path: Path, machine: MachinePaths) -> None:
    home = tmp_path / "home"
    campaign = world.write_campaign(
        tmp_path / "one", "one", gate={"max_confirmations": 1, "conditions": SCORE}, recipe=world.ONE_RUN
    )
    assert warm.run(campaign, home, wait=False) == 0
    assert "this example's own" in " ".join(warm.vigil("status", "one", home=home).stdout.split())
    assert not machine.ledger.exists()
    assert "1 opening" in warm.vigil("ledger", "one", home=home).stdout
    CampaignPaths(home, "one").ledger.unlink()
    assert warm.vigil("status", "one", home=home).returncode == 5
    reset = warm.vigil("ledger", "one", "--reset", "--reason", "shown again", home=home)
    assert (reset.returncode, "shown again" in warm.vigil("ledger", "one", home=home).stdout) == (0, True)


def _uses(folder: Path, machine: MachinePaths, hashes: list[bytes], what: str = "compared runs on") -> None:
    body = {"what": what, "file": "cases.jsonl", "campaign": "sums", "home": str(folder)}
    with open_ledger(machine.ledger, is_writing=True) as ledger, ledger.writing():
        ledger.add(Entry(1.0, "used", f"key-{what}", body), {"words": CaseSet.of(hashes)}, "home")


def test_a_case_that_was_compared_or_trained_on_is_refused_as_confirmation(
    tmp_path: Path, machine: MachinePaths
) -> None:
    file = folders.make(tmp_path)
    paths = CampaignPaths(tmp_path / "home", "small")
    cases = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    known = {case["id"]: case_hash([case["prompt"]], case["reference"]) for case in cases}
    selection = [known[name] for name in known if not is_confirmation(name, 0.5)]
    _uses(tmp_path, machine, selection)
    refuse(file, paths)
    told = warm.vigil("run", str(file), "--check", home=tmp_path / "home")
    assert "not opened yet of at most 3; alpha 0 of 0.05 is spent" in told.stdout, told.stderr
    folders.edit(file, "{file: cases.jsonl}", "{file: cases.jsonl, confirmation_share: 0.9}")
    with pytest.raises(ConfigError) as said:
        refuse(file, paths)
    later = [place for place, name in enumerate(known, 1) if known[name] in selection and is_confirmation(name, 0.9)]
    assert said.value.sentence.startswith("campaign.yaml:12:")
    assert f"{len(later)} confirmation cases of words are no longer unseen: the campaign sums" in said.value.sentence
    assert f"(lines {', '.join(map(str, later[:5]))}" in said.value.sentence
    assert "put `confirmation_share` back" in said.value.sentence
    # What stands in a training file of this campaign as it is now is for the probe of leakage.
    rows = [{"prompt": case["prompt"], "completion": case["reference"]} for case in cases]
    folders.write_rows(tmp_path / "train.jsonl", rows)
    refuse(file, paths)


def _said(*turns: tuple[str, str | None], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


_CALL = {"role": "assistant", "content": None}


def _opened(machine: MachinePaths, alpha: float, cases: list[bytes]) -> None:
    body = {"alpha": alpha, "candidate": "w", "goal": "g", "run": "R1", "campaign": "sums", "home": "home"}
    with open_ledger(machine.ledger, is_writing=True) as ledger, ledger.writing():
        ledger.add(Entry(1.0, "opening", f"key-{alpha}", body), {"words": CaseSet.of(cases)}, "home")


def test_what_the_cases_can_show_is_told_at_the_level_that_is_left(tmp_path: Path, machine: MachinePaths) -> None:
    file = folders.make(tmp_path)
    loaded, paths = load_campaign(file), CampaignPaths(tmp_path / "home", "small")
    [_, kept] = case_parts(loaded.goal, loaded.folder)
    said = "\n".join(check_campaign(loaded, paths, is_rehearsal=True))
    assert f"there are {len(kept.rows)}; " in said
    assert "at alpha 0.0167" in said
    _opened(machine, 0.0499, [case for _, case in kept.rows])
    with pytest.raises(ConfigError, match=r"at alpha 5e-05 \(what is left of gate.alpha .* it needs at least 15"):
        check_campaign(loaded, paths, is_rehearsal=True)
    _opened(machine, 0.0001, [case for _, case in kept.rows])
    said = "\n".join(check_campaign(loaded, paths, is_rehearsal=True))
    assert "alpha 0.05 of 0.05 is spent, and none is left" in said
    assert "at alpha" not in said


@pytest.mark.parametrize(
    ("row", "is_copy"),
    [
        (lambda n: {"prompt": "Clean it.", "reference": "ok", "table": n}, True),
        (lambda _: _said(("system", "Be brief."), ("user", "Clean it."), reference="ok"), True),
        (lambda n: _said(("system", f"Document {n}"), ("user", "Sum it up."), reference="ok"), False),
        (lambda n: {"messages": [{**_CALL, "tool_calls": [{"id": n}]}, {"role": "user", "content": "?"}]}, False),
        (lambda n: {"prompt": "Clean it.", "table": [n]}, False),
        (lambda _: {"prompt": "Clean it."}, True),
    ],
    ids=["reference", "system alike", "own system", "tool call", "other column", "prompt"],
)
def test_a_case_that_stands_in_a_file_twice_is_refused_with_its_lines(
    row: Any,
    is_copy: bool,  # noqa: FBT001 - a table
    tmp_path: Path,
    machine: MachinePaths,
) -> None:
    file = folders.make(tmp_path)
    folders.write_rows(tmp_path / "cases.jsonl", [{"id": f"c{n}", **row(n)} for n in range(20)])
    paths = CampaignPaths(tmp_path / "home", "small")
    assert not machine.ledger.exists()
    if not is_copy:
        refuse(file, paths)
        return
    confirmation = [n for n in range(1, 21) if is_confirmation(f"c{n - 1}", 0.5)]
    selection = [n for n in range(1, 21) if n not in confirmation]
    # One row of each part, both parts, then the confirmation part alone.
    for lines, first, use, why in (
        (selection, selection[0], "selection", "no evidence of its own"),
        (
            [selection[0], *confirmation],
            selection[0],
            "confirmation",
            "what runs are compared on confirms",
        ),
        (
            confirmation,
            confirmation[0],
            "confirmation",
            "no evidence of its own",
        ),
    ):
        rows = [row(n) if n in lines else {"prompt": f"{n}", "reference": "ok"} for n in range(1, 21)]
        folders.write_rows(tmp_path / "cases.jsonl", [{"id": f"c{n}", **each} for n, each in enumerate(rows)])
        with pytest.raises(ConfigError) as said:
            refuse(file, paths)
        of = len(selection if use == "selection" else confirmation)
        assert f"{len(lines) - 1} of {of} {use} cases of words are copies" in said.value.sentence
        assert f"(in cases.jsonl line {lines[1]} of {first}, {lines[2]} of {first}" in said.value.sentence
        assert why in said.value.sentence
