"""Stop conditions that a campaign file sets for the machine: battery, heat, a clock that is held down, swap."""

from state.goal import MachineLimits
from state.records import Guard

PATIENCE = 3
"""Looks in a row, one a minute or oftener: heat, clock and swap go up and down, a charge only falls."""


def machine_guards(limits: MachineLimits) -> tuple[Guard, ...]:
    """Return a guard for each limit that is set."""
    guards = []
    if limits.min_battery_percent is not None:
        low = limits.min_battery_percent
        guards.append(Guard(signal="battery_percent", op="<", threshold=low, verdict="battery_low"))
    if limits.min_heat_margin_c is not None:
        near = limits.min_heat_margin_c
        guards.append(Guard(signal="heat_margin_c", op="<", threshold=near, patience=PATIENCE, verdict="too_hot"))
    if limits.max_thermal_pressure is not None:
        high = float(limits.max_thermal_pressure)
        guards.append(Guard(signal="thermal_pressure", op=">", threshold=high, patience=PATIENCE, verdict="too_hot"))
    if limits.min_clock_share is not None:
        slow = limits.min_clock_share
        guards.append(Guard(signal="clock_share", op="<", threshold=slow, patience=PATIENCE, verdict="throttled"))
    if limits.max_swap_growth_gb is not None:
        most = limits.max_swap_growth_gb
        guards.append(Guard(signal="swap_growth_gb", op=">", threshold=most, patience=PATIENCE, verdict="swapping"))
    return tuple(guards)
