"""Findings by domain, with the hours each cost or saved."""

import json
import re
from pathlib import Path

from click.testing import CliRunner

from agent.cli import vigil
from agent.render.summary import DOMAINS, format_tally, sentence, tally
from tests.agent.ledger import Row, action, belief, decision, job, view
from tests.agent.recorded import record


def refuted(name: str, subject: str, mode: str, at: float = 30.0, **fields: object) -> Row:
    row = belief(name, subject, mode=mode, status="refuted", claim="below_ceiling", **fields)
    return {**row, "refuted_at": at}


def halted(belief_id: str, saved_s: float) -> Row:
    return decision("D9", "halt", belief_id, action_inputs={"belief": belief_id, "saved_s": saved_s})


def sums(found: Row) -> dict[str, tuple[int, float, float]]:
    return {row["domain"]: (row["findings"], row["saved_s"], row["cost_s"]) for row in found["domains"]}


def test_a_clean_campaign_has_an_empty_tally() -> None:
    found = tally(view(jobs=[job("k1", exit={"state": "finished", "wall_s": 60.0})]))
    assert found["findings"] == []
    assert sums(found) == {"knowing": (0, 0.0, 0.0), "doing": (0, 0.0, 0.0), "deciding": (0, 0.0, 0.0)}


def test_a_hard_stop_saves_what_was_not_trained_and_costs_what_stood_on_it() -> None:
    stop = refuted("B2", "gate:x", "P1")
    found = tally(
        view(
            beliefs=[stop],
            refuted=[stop],
            decisions=[decision("D1", "train", "B2", run="R1"), halted("B2", 3600.0)],
            actions=[action("k1", "train", "D1")],
            jobs=[job("k1", exit={"wall_s": 120.0})],
        )
    )
    [row] = found["findings"]
    assert (row["domain"], row["mode"], row["saved_s"], row["cost_s"]) == ("knowing", "P1", 3600.0, 120.0)
    assert sums(found)["knowing"] == (1, 3600.0, 120.0)


def test_a_claim_refuted_again_and_again_is_one_finding() -> None:
    first, second = refuted("B2", "gate:x", "P1"), refuted("B5", "gate:x", "P1", at=40.0)
    halts = [halted("B2", 1800.0), halted("B5", 1800.0)]
    found = tally(view(beliefs=[first, second], refuted=[first, second], decisions=halts))
    assert [(row["source"], row["saved_s"]) for row in found["findings"]] == [("B2", 1800.0)]


def test_a_claim_that_is_refuted_in_two_ways_is_two_findings() -> None:
    flat, exhausted = refuted("B2", "instrument:sft", "11"), refuted("B5", "instrument:sft", "13", at=40.0)
    found = tally(view(beliefs=[flat, exhausted], refuted=[flat, exhausted]))
    assert [row["mode"] for row in found["findings"]] == ["11", "13"]


def test_a_stop_that_a_person_went_against_saved_nothing() -> None:
    stop = refuted("B2", "gate:x", "4")
    asked = [{"kind": "override", "decision": "B2", "answer": "yes"}]
    found = tally(view(beliefs=[stop], refuted=[stop], decisions=[halted("B2", 3600.0)], approvals=asked))
    assert sums(found) == {"knowing": (0, 0.0, 0.0), "doing": (0, 0.0, 0.0), "deciding": (1, 0.0, 0.0)}


def test_a_guard_saves_what_its_job_did_not_spend() -> None:
    stops = {
        "collapsed": "knowing",
        "loss_collapsed": "deciding",
        "rewards_equal": "knowing",
        "diverged": "doing",
        "stalled": "doing",
    }
    found = tally(
        view(
            jobs=[
                job("k", f"J{n}", exit={"verdict": word, "wall_s": 120.0, "reason": "It rose." if n else ""})
                for n, word in enumerate(stops)
            ]
        )
    )
    assert [row["domain"] for row in found["findings"]] == list(stops.values())
    assert {row["saved_s"] for row in found["findings"]} == {360.0}
    assert {row["cost_s"] for row in found["findings"]} == {120.0}
    assert found["findings"][0]["sentence"] == "training R1 at step 100 of 400: collapsed"


def test_a_noted_failure_has_the_domain_it_was_noted_with_and_no_hours() -> None:
    rows = [
        belief("B1", "note:1", mode="9", value={}),
        belief("B2", "note:2", mode="N1", value={"domain": "deciding"}),
        belief("B3", "note:3", mode="N1", value={}, superseded_by="B4"),
    ]
    found = tally(view(beliefs=rows))
    assert [(row["mode"], row["domain"], row["saved_s"]) for row in found["findings"]] == [
        ("9", "doing", None),
        ("N1", "deciding", None),
    ]
    assert "B1    doing, mode 9" in "\n".join(format_tally(found))


def test_the_table_names_every_mode_with_its_count_and_the_sentence_sums_up() -> None:
    rows = [refuted(f"B{n}", f"gate:{n}", "P1", at=float(n)) for n in range(2)] + [refuted("B9", "x:", "")]
    found = tally(view(beliefs=rows, refuted=rows, decisions=[halted("B1", 7200.0)]))
    text = "\n".join(format_tally(found))
    assert re.search(r"knowing +3 +2 h +0 s +P1 \(2 times\), none", text), text
    assert "B1    knowing, mode P1" in text
    assert sentence(found) == (
        "3 findings: knowing 3 (2 h saved, 0 s cost), doing 0 (0 s saved, 0 s cost), deciding 0 (0 s saved, 0 s cost)."
    )


def test_each_of_the_27_modes_has_its_domain() -> None:
    assert set(DOMAINS) == {*map(str, range(1, 16)), *(f"P{n}" for n in range(1, 13))}


def test_the_command_and_the_report_tell_the_tally(tmp_path: Path) -> None:
    record(tmp_path, "promoted")
    home = ["--home", str(tmp_path)]
    found = json.loads(CliRunner().invoke(vigil, ["beliefs", "--tally", *home, "--json"]).stdout)
    assert [(row["source"], row["domain"]) for row in found["findings"]] == [("J2", "doing"), ("B5", "knowing")]
    assert found["domains"][1]["saved_s"] == 360.0
    assert "gate:stress.strict is_reachable" in CliRunner().invoke(vigil, ["beliefs", "--tally", *home]).stdout
    data = json.loads(CliRunner().invoke(vigil, ["report", *home, "--json"]).stdout)
    assert data["tally"] == found
    text = CliRunner().invoke(vigil, ["report", *home, "--text"]).stdout
    assert "2 findings: knowing 1 (0 s saved, 0 s cost), doing 1 (6 min saved, 2 min cost)" in text
    page = Path(CliRunner().invoke(vigil, ["report", *home]).stdout.strip()).read_text()
    assert "<summary>Findings (2)</summary>" in page
    assert "by guard" in page
