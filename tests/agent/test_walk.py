"""From a decision to the bytes it stands on."""

import json
from pathlib import Path

from click.testing import CliRunner

from agent.cli import vigil
from agent.render.why import format_premises, tree
from tests.agent.ledger import Row, action, belief, decision, job, job_evidence, view
from tests.agent.recorded import record

PRINTS = [
    {"kind": "tree", "name": "grader", "value": "ab" * 32},
    {"kind": "package", "name": "mlx", "value": "0.32.4"},
]


def text(rows: Row, chosen: Row) -> str:
    return "\n".join(format_premises(rows, chosen))


def test_a_premise_is_told_with_its_evidence_fingerprints_and_own_premises() -> None:
    seen = [
        {"kind": "file", "ref": "data/a.jsonl", "summary": "Read 40 rows.", "detail": {"sha256": "cd" * 32}},
        {"kind": "file", "ref": "base", "summary": "Headers were read.", "detail": {}},
        {
            "kind": "probe",
            "ref": "model.coherent",
            "summary": "Refuted by a stale shard.",
            "detail": {"refuted_by": "a stale shard"},
        },
        {"kind": "probe", "ref": "model.other", "summary": "It looked.", "detail": {}},
        {"kind": "person", "ref": "ada", "summary": "I counted them.", "detail": {}},
        {"kind": "job", "ref": "gone", "summary": "census done.", "detail": {}},
    ]
    rows = view(
        beliefs=[
            belief("B1", stands_on=PRINTS, evidence=seen),
            belief("B2", "gate:x", "B1", tag="inferred", stands_on=PRINTS),
        ]
    )
    said = text(rows, decision("D1", "train", "B2"))
    for words in (
        "  B2 [inferred] gate:x claim-B2: B2 is so.\n    The decision read [confirmed] B2 is so.",
        "    Stands on 2 fingerprints: tree grader abababababab, package mlx 0.32.4.\n    Reasoned from B1.",
        "    B1 [confirmed] harness:s claim-B1: B1 is so.",
        "      Seen in the file data/a.jsonl (cdcdcdcdcdcd): Read 40 rows.",
        "      Seen in the file base: Headers were read.",
        "      The probe model.coherent looked; it would have been refuted by a stale shard.",
        "      From the probe model.other: It looked.",
        "      ada said: I counted them.",
        "      From the job gone: census done.",
        "      Stands on the same 2 fingerprints as B2.",
    ):
        assert words in said, said


def test_a_measurement_is_told_with_its_job_its_weights_and_the_decision_behind_it() -> None:
    rows = view(
        beliefs=[belief("B1", evidence=[job_evidence("k1")]), belief("B2", evidence=[job_evidence("k2")])],
        actions=[
            action("k1", "evaluate", "D2", inputs={"weights": "12" * 32, "harness": "34" * 32, "adapter": ""}),
            action("k2", "census", "D1"),
        ],
        jobs=[job("k1", "J4")],
    )
    said = text(rows, decision("D1", "judge", "B1", "B2"))
    assert "Measured by J4 in jobs/k1, on weights 121212121212, harness 343434343434, chosen by D2: evaluate" in said
    assert "Measured, chosen by D1: evaluate done in 12 s." in said


def test_a_belief_is_told_once_and_circles_end() -> None:
    rows = view(beliefs=[belief("B1", "a:", "B2"), belief("B2", "a:", "B1"), belief("B3", "a:", "B2")])
    chosen = decision("D1", "train", "B1", "B3", "B1")
    said = text(rows, chosen)
    assert said.count("B2 is so.") == 1
    assert "Reasoned from B1 (above)." in said
    assert "Reasoned from B2 (above)." in said
    assert said.endswith("  B1, told above.")
    first, third, again = tree(rows, chosen)
    assert first["premises"][0]["premises"] == [{"belief": "B1", "is_told": True}]
    assert third["premises"] == [{"belief": "B2", "is_told": True}]
    assert again["is_told"]


def test_a_stale_belief_is_marked_and_a_missing_one_named() -> None:
    rows = view(beliefs=[belief("B1", status="stale")])
    said = text(rows, decision("D1", "train", "B1", "B7"))
    assert "B1 [confirmed, stale]" in said
    assert "B7 is not on record: B7 is so." in said


def test_the_text_goes_four_levels_deep_and_says_what_it_leaves_out() -> None:
    deep = [belief(f"B{n}", "a:", f"B{n + 1}") for n in range(1, 9)]
    wide = belief("B20", "a:", *(f"B{n}" for n in range(30, 40)))
    rows = view(beliefs=[*deep, belief("B9"), wide, *(belief(f"B{n}") for n in range(30, 40))])
    chosen = decision("D1", "train", "B1", "B20")
    said = text(rows, chosen)
    assert "B4 is so." in said
    assert "B5 is so." not in said
    assert "Reasoned from B5; --json follows 1 more." in said
    assert "Reasoned from B30, B31, B32, B33, B34, B35 and 4 more; --json follows 4 more." in said
    whole = tree(rows, chosen)
    assert len(whole[1]["premises"]) == 10
    depth, node = 1, whole[0]
    while node["premises"]:
        depth, node = depth + 1, node["premises"][0]
    assert depth == 9


def test_what_is_only_assumed_is_listed_with_what_would_settle_it() -> None:
    rows = view(beliefs=[belief("B1"), belief("B2", tag="assumed", fix="Grade ten rows."), belief("B3", tag="assumed")])
    said = text(rows, decision("D1", "train", "B1", "B2", "B3"))
    assert "Assumed, 2 of 3 premises\n  B2 harness:s claim-B2: settled by: Grade ten rows." in said
    assert "B3 harness:s claim-B3: nobody has named what would settle it." in said
    assert "Assumed" not in text(rows, decision("D2", "train", "B1"))
    assert tree(rows, decision("D1", "train", "B2"))[0]["fix"] == "Grade ten rows."


def test_a_tree_deeper_than_the_stack_is_built() -> None:
    rows = view(beliefs=[belief(f"B{n}", "a:", f"B{n + 1}") for n in range(3000)])
    assert tree(rows, decision("D1", "train", "B0"))[0]["premises"][0]["belief"] == "B1"


def test_a_decision_on_nothing_says_nothing() -> None:
    assert format_premises(view(), decision("D1", "census")) == []


def test_the_command_walks_and_json_gives_the_tree(tmp_path: Path) -> None:
    record(tmp_path, "promoted")
    asked = ["why", "D5", "--all", "--home", str(tmp_path)]
    said = CliRunner().invoke(vigil, asked).stdout
    assert "B2 [confirmed] score:base.stress.selection means: base on stress.selection, 40 cases" in said
    assert "The decision read [confirmed] base has 0.610." in said
    from agent.render.record import gather, with_premises
    from state.paths import CampaignPaths

    found = gather(CampaignPaths(tmp_path, "quick"))
    read = with_premises(found, next(row for row in found["decisions"] if row["id"] == "D5"))["beliefs"]
    assert "B2" in {row["id"] for row in read}
    assert len(read) < len(found["beliefs"]), "of a million beliefs, those that it stands on are read"
    [node] = json.loads(CliRunner().invoke(vigil, [*asked, "--json"]).stdout)["tree"]
    assert (node["belief"], node["tag_then"], node["evidence"][0]["ref"]) == ("B2", "confirmed", "model.coherent")
