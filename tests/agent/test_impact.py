"""What stands on a belief: over every step, once each, and never less than what the planner discards."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import vigil
from agent.render.why import counts_toward_exhaustion, format_impact, impact
from policies.validity import contamination
from policies.verdict import Movement, _counts, run_fact
from state.errors import NotFoundError
from state.records import Action, Belief, Decision, Evidence
from tests.agent.ledger import Row, action, belief, cases, decision, flat, job_evidence, view
from tests.agent.recorded import record


def chain() -> Row:
    """Return a record in which everything stands on B1, and B9 with what stands on it on nothing."""
    return view(
        campaign={"name": "quick", "promoted": "R1"},
        beliefs=[
            belief("B1", "harness:s"),
            belief("B2", "gate:x", "B1"),
            belief("B3", "score:base.s", evidence=[job_evidence("k1")]),
            belief("B4", "action:k1", evidence=[job_evidence("k1")]),
            belief("B9", "data:train"),
        ],
        decisions=[
            decision("D1", "evaluate", "B1"),
            decision("D2", "train", "B3", "B9", run="R1"),
            decision("D3", "judge", "B2", run="R1", bucket="C", verdict=flat()),
            decision("D4", "train", "B9", run="R2"),
            decision("D5", "promote", "B3", run="R1", bucket="A"),
            decision("D6", "judge", "B1", rule="evidence.refuted"),
        ],
        actions=[action("k1", "evaluate", "D1"), action("k2", "train", "D2"), action("k4", "train", "D4")],
        runs=[{"id": "R1", "state": "judged", "bucket": "A"}, {"id": "R2", "state": "planned", "bucket": None}],
        measured=[cases("k1", 40), cases("k9", 7)],
    )


def ids(rows: list[Row], key: str = "id") -> list[str]:
    return [row[key] for row in rows]


def test_everything_that_stands_on_a_belief_is_found_with_what_it_was_reached_through() -> None:
    found = impact(chain(), "b1")
    assert [(row["id"], row["through"]) for row in found["beliefs"]] == [("B2", "B1"), ("B3", "D1")]
    assert [(row["id"], row["through"]) for row in found["decisions"]] == [
        ("D1", "B1"),
        ("D2", "B3"),
        ("D3", "B2"),
        ("D5", "B3"),
    ]
    assert ids(found["actions"], "key") == ["k1", "k2"]
    assert [(row["evaluation"], row["n"]) for row in found["measured"]] == [("k1", 40)]
    assert [(row["id"], row["is_worthless"]) for row in found["runs"]] == [("R1", False)]
    assert [(row["run"], row["bucket"], row["decision"]) for row in found["verdicts"]] == [("R1", "A", "D5")]
    assert found["promotion"] == {"run": "R1", "decision": "D5", "is_in_force": True}
    assert found["sentence"] == (
        "On B1 stand 2 beliefs, 4 decisions, 2 actions, 40 measured cases, 1 run started, 1 verdict, 0 counts toward"
        " exhaustion and the promotion of R1."
    )


def test_what_nothing_stands_on_takes_nothing_down() -> None:
    found = impact(chain(), "B2")
    assert [found[name] for name in ("beliefs", "actions", "measured", "runs")] == [[]] * 4
    assert ids(found["decisions"]) == ["D3"]
    assert found["verdicts"] == []
    assert found["promotion"] is None
    assert "no promotion" in found["sentence"]


def test_refuted_data_make_the_adapter_worthless_and_every_verdict_on_it() -> None:
    rows = chain()
    rows["decisions"] = [row for row in rows["decisions"] if row["id"] != "D5"]
    found = impact(rows, "B9")
    assert [(row["id"], row["is_worthless"], row["state"]) for row in found["runs"]] == [
        ("R1", True, "judged"),
        ("R2", True, "planned"),
    ]
    assert [(row["run"], row["through"]) for row in found["verdicts"]] == [("R1", "R1")]
    assert found["exhaustion"] == ["R1"]
    assert found["promotion"] is None


def test_a_denied_score_denies_its_measurement() -> None:
    found = impact(chain(), "B3")
    assert [(row["evaluation"], row["through"]) for row in found["measured"]] == [("k1", "B3")]


def test_a_promotion_that_was_only_proposed_is_said_to_be_so() -> None:
    rows = {**chain(), "campaign": {"name": "quick", "promoted": ""}}
    text = " ".join(format_impact(impact(rows, "B1")))
    assert "The promotion of R1 by D5 was proposed and is not in force." in text


def test_premises_that_go_in_circles_end() -> None:
    rows = view(beliefs=[belief("B1", "a:", "B3"), belief("B2", "a:", "B1"), belief("B3", "a:", "B2")])
    assert ids(impact(rows, "B1")["beliefs"]) == ["B2", "B3"]


def test_a_belief_that_is_not_there_is_refused() -> None:
    with pytest.raises(NotFoundError, match=r"quick has no belief B7\."):
        impact(chain(), "B7")


def test_the_text_says_each_kind_in_sentences_with_numbers() -> None:
    text = "\n".join(format_impact(impact(chain(), "B1")))
    for words in (
        "B2 [confirmed, fresh] gate:x claim-B2, through B1: B2 is so.",
        "D2 (train, r), through B3: D2 was decided.",
        "evaluate k1, done, by D1.",
        "40 cases of stress.selection, base (base), evaluation k1, through D1.",
        "R1, started by D2, bucket A.",
        "R1 is A by D5, through B3.",
        "The promotion of R1 by D5 is in force.",
    ):
        assert words in text, text
    assert "Toward exhaustion counted: R1." in "\n".join(
        format_impact(impact({**chain(), "decisions": chain()["decisions"][:3]}, "B1"))
    )


def test_a_long_list_is_cut_and_counted() -> None:
    rows = view(beliefs=[belief("B1"), *(belief(f"B{n}", "a:", "B1") for n in range(2, 40))])
    assert "  and 26 more" in format_impact(impact(rows, "B1"))


def verdicts() -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries(
        {
            "bucket": st.sampled_from("ABCDU"),
            "movement": st.sampled_from(get_args(Movement)),
            "had_power": st.booleans(),
            "is_capped": st.booleans(),
            "control_moved": st.sampled_from([True, False, None]),
            "on_selection": st.sampled_from([None, ("U", "U.power"), ("C", "C.flat")]),
        }
    )


@given(verdicts())
def test_a_count_toward_exhaustion_is_what_the_policy_counts(detail: Row) -> None:
    class Verdict:
        """A verdict's fields that exhaustion reads."""

        bucket = ""
        on_selection: tuple[str, str] | None = None

        @property
        def tuned_by(self) -> tuple[str, str]:
            return self.on_selection or (self.bucket, "")

    verdict: Any = Verdict()
    vars(verdict).update(detail)
    run: Any = Verdict()
    vars(run).update(id="R1", instrument="sft", axis="start", recipe_hash="h", parent="")
    counted = _counts(run_fact(run, verdict))
    assert counts_toward_exhaustion(decision("D1", "judge", verdict={"bucket": detail})) == counted


def test_a_decision_without_a_verdict_counts_toward_nothing() -> None:
    assert not counts_toward_exhaustion(decision("D1", "train"))


@st.composite
def records(draw: st.DrawFn) -> Row:
    """Draw a record: beliefs with premises before them, decisions, their acts, and scores that these measured."""
    n = draw(st.integers(2, 7))
    subjects = st.sampled_from(["harness:s", "data:train", "score:base.s", "gate:x"])
    beliefs: list[Row] = []
    decisions: list[Row] = []
    actions: list[Row] = []
    for number in range(n):
        names = [row["id"] for row in beliefs]
        premises: list[str] = draw(st.lists(st.sampled_from(names), max_size=2, unique=True)) if names else []
        keys = [row["key"] for row in actions if row["kind"] != "train"]
        seen = draw(st.lists(st.sampled_from(keys), max_size=1)) if keys else []
        beliefs.append(belief(f"B{number}", draw(subjects), *premises, evidence=[job_evidence(key) for key in seen]))
        kind = draw(st.sampled_from(["evaluate", "train", "judge", "confirm"]))
        on = draw(st.lists(st.sampled_from([row["id"] for row in beliefs]), max_size=2, unique=True))
        run = f"R{draw(st.integers(1, 2))}"
        decisions.append(
            decision(f"D{number}", kind, *on, run=run, bucket="C" if kind == "judge" else None, verdict=flat())
        )
        if kind != "judge":
            actions.append(action(f"k{number}", kind, f"D{number}"))
    return view(beliefs=beliefs, decisions=decisions, actions=actions, measured=[cases(a["key"], 1) for a in actions])


@given(records(), st.data())
def test_nothing_that_the_planner_discards_is_missing(rows: Row, data: st.DataObject) -> None:
    root = data.draw(st.sampled_from([row["id"] for row in rows["beliefs"]]))
    found = impact(rows, root)
    no = Evidence(kind="person", ref="ada", summary="No.")
    subjects = {row["id"]: row["subject"] for row in rows["beliefs"]}
    beliefs = []
    for row in rows["beliefs"]:
        kept = Belief.model_validate(row)
        beliefs.append(
            kept.model_copy(update={"status": "refuted", "evidence": (*kept.evidence, no)}) if kept.id == root else kept
        )
    decisions = []
    for row in rows["decisions"]:
        premises = [{**each, "subject": subjects[each["belief"]]} for each in row["premises"]]
        decisions.append(Decision.model_validate({**row, "premises": premises}))
    actions = [Action.model_validate(row) for row in rows["actions"]]
    invalidated = contamination(beliefs, decisions, actions)
    assert invalidated.beliefs <= {root, *ids(found["beliefs"])}
    assert invalidated.decisions <= set(ids(found["decisions"]))
    assert invalidated.evaluations <= set(ids(found["measured"], "evaluation"))
    assert invalidated.trainings <= {row["id"] for row in found["runs"] if row["is_worthless"]}
    assert invalidated.verdicts <= set(ids(found["verdicts"], "run"))


def test_the_command_tells_it_as_text_and_as_json(tmp_path: Path) -> None:
    record(tmp_path, "promoted")
    asked = ["beliefs", "--impact", "quick:b2", "--home", str(tmp_path)]
    text = CliRunner().invoke(vigil, asked).stdout
    assert "On B2 stand 0 beliefs, 5 decisions, 3 actions" in text
    found = json.loads(CliRunner().invoke(vigil, [*asked, "--json"]).stdout)
    assert found["promotion"] == {"run": "R3", "decision": "D5", "is_in_force": True}
    assert ids(found["runs"]) == ["R1", "R2", "R3"]
    missing = CliRunner().invoke(vigil, ["beliefs", "--impact", "B99", "--home", str(tmp_path)])
    assert missing.exit_code == 2
    assert "no belief B99" in missing.stderr
