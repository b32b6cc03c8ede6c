from policies.validity import contaminated, stale_beliefs
from state.records import Belief, Fingerprint

FILE = Fingerprint(kind="file", name="grade.py", value="a" * 64)
GOAL = Fingerprint(kind="goal", name="goal", value="1")


def belief(name: str, *stands_on: Fingerprint, premises: tuple[str, ...] = (), status: str = "fresh") -> Belief:
    return Belief.model_validate(
        {
            "id": name,
            "subject": "harness:s",
            "claim": name,
            "statement": f"{name} is so.",
            "tag": "confirmed",
            "status": status,
            "stands_on": stands_on,
            "premises": premises,
        }
    )


def test_a_belief_stands_while_every_fingerprint_matches() -> None:
    assert stale_beliefs([belief("B1", FILE)], {("file", "grade.py"): "a" * 64}) == []


def test_an_edited_file_makes_exactly_its_beliefs_stale() -> None:
    found = stale_beliefs([belief("B1", FILE), belief("B2")], {("file", "grade.py"): "b" * 64})
    assert [row.belief for row in found] == ["B1"]
    assert found[0].because == FILE
    assert "was aaaaaaaaaaaa and is bbbbbbbbbbbb" in found[0].sentence


def test_what_cannot_be_read_no_longer_stands() -> None:
    found = stale_beliefs([belief("B1", FILE)], {})
    assert found[0].now is None
    assert "could not be read" in found[0].sentence


def test_an_edit_of_the_goal_is_named_as_such() -> None:
    assert stale_beliefs([belief("B1", GOAL)], {("goal", "goal"): "2"})[0].kind == "goal"


def test_what_was_reasoned_from_a_fallen_belief_falls_with_it() -> None:
    rows = [belief("B3", premises=("B2",)), belief("B1", FILE), belief("B2", premises=("B1",)), belief("B4")]
    found = stale_beliefs(rows, {})
    assert [row.belief for row in found] == ["B3", "B1", "B2"]
    assert found[0].premise == "B2"
    assert "fell with B2" in found[0].sentence


def test_a_refuted_premise_outside_the_fresh_ones_counts() -> None:
    rows = [belief("B1", status="refuted"), belief("B2", premises=("B1",))]
    assert [row.belief for row in stale_beliefs(rows, {})] == ["B2"]


def test_contamination_crosses_any_number_of_steps() -> None:
    rows = [belief("B2", premises=("B1",)), belief("B3", premises=("B2",)), belief("B4", premises=("B9",))]
    assert contaminated(rows, ["B1"]) == ["B2", "B3"]


def test_what_was_false_of_another_world_is_not_known_of_this_one() -> None:
    rows = [belief("B1", FILE, status="refuted"), belief("B2", status="refuted")]
    assert [row.belief for row in stale_beliefs(rows, {("file", "grade.py"): "b" * 64})] == ["B1"]
    assert stale_beliefs(rows, {("file", "grade.py"): "a" * 64}) == []
