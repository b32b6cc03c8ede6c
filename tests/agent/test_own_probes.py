"""A user's own probe in a whole campaign: it halts, is overridden, goes stale, and is told when it is not there."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.campaign import load_campaign
from agent.checks import check_campaign
from state.errors import ConfigError
from tests.agent.test_run_flow import edit, vigil
from tests.faults.campaign import warm, world

CHECK = """
refuted_by = "a row whose answer is too long"
stands_on = ["train.jsonl"]


def observe(context):
    import json
    from pathlib import Path

    (Path(context["folder"]) / "looks").open("a").write("x")
    rows = [json.loads(line) for line in Path(context["data"]["train"]).read_text().splitlines()]
    long = sum(len(row["messages"][-1]["content"]) > 1 for row in rows)
    return {"claim": "is_short", "statement": f"{long} of {len(rows)} answers are too long.", "holds": not long,
            "severity": "hard_stop", "fix": "Shorten them."}
"""


def write(folder: Path, answer: str = "aa", **changes: Any) -> Path:
    campaign = world.write_campaign(folder, **{"probes": ["short.py"], "budget": {"runs": 1}, **changes})
    (folder / "short.py").write_text(CHECK)
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": answer}]} for i in range(8)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return campaign


def looks(campaign: Path) -> int:
    return len((campaign.parent / "looks").read_text())


def about(home: Path, claim: str) -> list[dict[str, Any]]:
    return [b for b in world.rows(home)["beliefs"] if b["claim"] == claim and b["subject"] == "own:short"]


def test_it_halts_before_anything_is_spent_and_goes_on_once_its_ground_has_changed(tmp_path: Path) -> None:
    campaign, home = write(tmp_path / "files"), tmp_path / "home"
    assert warm.run(campaign, home) == 3
    found = world.rows(home)
    assert "8 of 8 answers are too long" in found["campaign"][0]["sentence"]
    assert found["jobs"] == []
    assert warm.run(campaign, home) == 3, "nothing changed, so it halts again"
    assert looks(campaign) == 1, "and nothing was looked at again"
    train = campaign.parent / "train.jsonl"
    train.write_text(train.read_text().replace('"aa"', '"a"'))
    assert warm.run(campaign, home) in {0, 1}
    assert looks(campaign) == 2
    assert [(b["status"], b["tag"]) for b in about(home, "is_short")][-1] == ("fresh", "confirmed")


def test_a_person_may_override_it_on_record(tmp_path: Path) -> None:
    campaign, home = write(tmp_path / "files"), tmp_path / "home"
    assert warm.run(campaign, home) == 3
    [belief] = about(home, "is_short")
    assert vigil(home, "approve", belief["id"], "--reason", "long answers are meant").returncode == 0
    assert warm.run(campaign, home) in {0, 1}
    assert any(row["kind"] == "override" and row["answer"] == "yes" for row in world.rows(home)["approvals"])


def test_what_it_found_falls_when_it_is_taken_out_of_the_campaign(tmp_path: Path) -> None:
    campaign, home = write(tmp_path / "files"), tmp_path / "home"
    assert warm.run(campaign, home) == 3
    edit(campaign, probes=[])
    assert warm.run(campaign, home) in {0, 1}
    assert [b["status"] for b in about(home, "is_short")] == ["stale"]


def test_a_claim_that_the_file_no_longer_makes_halts_nothing(tmp_path: Path) -> None:
    campaign, home = write(tmp_path / "files"), tmp_path / "home"
    assert warm.run(campaign, home) == 3
    (campaign.parent / "short.py").write_text(CHECK.replace("is_short", "is_brief").replace("not long", "True"))
    assert warm.run(campaign, home) in {0, 1}
    assert looks(campaign) == 2
    assert all(b["superseded_by"] for b in about(home, "is_short"))


def test_one_that_raises_is_a_warning_and_the_night_goes_on(tmp_path: Path) -> None:
    campaign, home = write(tmp_path / "files"), tmp_path / "home"
    (campaign.parent / "short.py").write_text("def observe(context):\n    return 1 / 0\n")
    assert warm.run(campaign, home) in {0, 1}
    [counts] = about(home, "counts_as_evidence")
    assert (counts["status"], counts["severity"], counts["tag"]) == ("refuted", "warning", "assumed")
    assert "ZeroDivisionError" in counts["statement"]


def test_a_path_that_is_not_there_is_refused_with_its_line(tmp_path: Path) -> None:
    campaign = write(tmp_path, probes=["short.py", "gone.py"])
    with pytest.raises(ConfigError, match=r"campaign\.yaml:\d+: `probes\[1\]` names .*gone\.py, which is not a file"):
        check_campaign(load_campaign(campaign))


def test_a_rehearsal_tells_what_would_refute_each_probe_and_which_proves_nothing(tmp_path: Path) -> None:
    campaign = write(tmp_path, probes=["short.py", "empty.py"])
    (tmp_path / "empty.py").write_text("def observe(context): return []\n")
    notes = check_campaign(load_campaign(campaign), is_rehearsal=True)
    assert "Probe short.py: refuted by a row whose answer is too long." in notes
    assert "Probe empty.py: names no `refuted_by`, so what it finds is not counted as evidence." in notes
    assert not (tmp_path / "looks").exists(), "none was run"


@pytest.mark.parametrize(
    ("probes", "fault"),
    [
        (["checks/a b.py"], "`probes\\[0\\]` is 'checks/a b.py'; write the path of a Python file"),
        (["check.sh"], "write the path of a Python file"),
        (["one/check.py", "two/check.py"], "Two probes are called check.py; rename one"),
        ("check.py", "`probes` is 'check.py'; write a list"),
    ],
)
def test_a_name_that_cannot_be_a_subject_is_refused(tmp_path: Path, probes: Any, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_campaign(world.write_campaign(tmp_path, probes=probes))
