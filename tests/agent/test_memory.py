"""A training that cannot fit into memory halts the campaign before anything is generated or trained."""

from pathlib import Path

from tests.faults.campaign import warm, world


def test_a_batch_that_cannot_fit_is_a_hard_stop_with_the_numbers(tmp_path: Path) -> None:
    recipe = {"batch_size": 65_000, "iters": 60, "max_seq_length": 128, "learning_rate": 0.001}
    campaign, home = world.write_campaign(tmp_path / "files", recipe=recipe), tmp_path / "home"
    assert warm.run(campaign, home) == 3
    found = world.rows(home)
    assert [action["kind"] for action in found["actions"]] == ["census", "halt"]
    [belief] = [row for row in found["beliefs"] if row["claim"] == "fits_in_memory"]
    assert (belief["status"], belief["severity"]) == ("refuted", "hard_stop")
    assert "65000 rows of at most 64 positions" in belief["statement"]
    # A smaller batch is another goal: the same command goes on.
    recipe["batch_size"] = 4
    world.write_campaign(tmp_path / "files", recipe=recipe)
    assert warm.run(campaign, home) == 0
    assert world.rows(home)["campaign"][0]["state"] == "promoted"
    taken = [row for row in world.rows(home)["beliefs"] if row["claim"] == "took_the_planned_memory"]
    assert taken == []
