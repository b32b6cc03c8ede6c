from policies.guards import PATIENCE, machine_guards
from state.goal import MachineLimits
from state.records import Guard
from tests.policies.rehearsal import Rehearsal, goal


def test_a_campaign_that_sets_no_limit_is_guarded_against_swapping_alone() -> None:
    swapping = Guard(signal="swap_growth_gb", op=">", threshold=8, patience=PATIENCE, verdict="swapping")
    assert machine_guards(MachineLimits()) == (swapping,)
    assert machine_guards(MachineLimits(max_swap_growth_gb=None)) == ()


def test_each_limit_is_a_guard_on_its_own_signal() -> None:
    limits = MachineLimits(
        min_battery_percent=15,
        min_heat_margin_c=5,
        max_thermal_pressure=1,
        min_clock_share=0.5,
        max_swap_growth_gb=2,
    )
    assert machine_guards(limits) == (
        Guard(signal="battery_percent", op="<", threshold=15, verdict="battery_low"),
        Guard(signal="heat_margin_c", op="<", threshold=5, patience=PATIENCE, verdict="too_hot"),
        Guard(signal="thermal_pressure", op=">", threshold=1, patience=PATIENCE, verdict="too_hot"),
        Guard(signal="clock_share", op="<", threshold=0.5, patience=PATIENCE, verdict="throttled"),
        Guard(signal="swap_growth_gb", op=">", threshold=2, patience=PATIENCE, verdict="swapping"),
    )


def verdicts_guarded(**changes: object) -> set[str]:
    play = Rehearsal(goal=goal(**changes))
    play.run()
    train = next(decision for decision in play.decisions if decision.action == "train")
    return {guard["verdict"] for guard in train.action_inputs["guards"]}


def test_a_training_is_launched_with_the_limits_of_its_campaign_file() -> None:
    assert "battery_low" in verdicts_guarded(machine={"min_battery_percent": 15})
    assert "battery_low" not in verdicts_guarded()
