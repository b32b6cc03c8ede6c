"""The stop conditions a job starts with, as data that its supervisor evaluates: of training, of the machine."""

import math
from collections.abc import Iterable

from policies.cost import MemoryLimits, minutes
from state.goal import MachineLimits
from state.recipe import setting
from state.records import Guard, Json

RUNAWAY_LOSS = 20.0
"""Nats per token; guessing among 150,000 tokens costs 11.9. Losses over pairs and rollouts begin below it, but for IPO.
"""

EARLY_MOVED = 0.5
"""Share of the sampled prompts that a preference run must answer anew once its pairs are separated.

Measured on the tiny base: pairs told apart by a line end had changed one answer in six, pairs that show longer
answers all of them.
"""

EQUAL_ROLLOUTS = (256, 1024)
"""Least and most rollouts in a row, equal in every group, that stop a run; between them, half of what it samples.

Where an answer earns something else with chance p, n rollouts are equal by luck with a chance of exp(-n p (1 - p)) at
most, whatever the groups' size: at one answer in twenty, 256 of them once in 190,000 times; at one in a hundred, 1024
once in 25,000.
"""

EQUAL_SHARE = 0.999
"""Share of a report's groups above which they count as all; no report holds a thousand groups but a very long one."""

STALL_FLOOR_S = 300.0
"""No job counts as stalled sooner: loading and compiling take minutes on a slow disk."""

WALL_FACTOR = 10
"""A job that gets on may take so many times the upper end of what was expected: other work on the machine may slow it
several times over, and what hangs is told by its progress, what is too late by the budget."""

LEAST_S = 60.0
"""No job that measures is ended sooner by the budget: what it measures decides what was paid for."""

MOST_S = 3 * 86_400.0
"""No job that measures takes longer, where neither its length nor a budget is known: three nights and their days."""

DISK_FLOOR_GB = 1.0
"""Room that saves, logs and the store need."""


def training_guards(
    recipe: Json,
    *,
    step_s: float,
    wall_s: float,
    first_val_loss: float | None = None,
    memory: MemoryLimits | None = None,
    left_s: float | None = None,
) -> tuple[Guard, ...]:
    """Return the guards of one training run.

    Args:
        recipe: mlx-lm keys; `steps_per_report` sets how often progress is seen.
        step_s: Expected seconds of one iteration.
        wall_s: Upper end of the expected wall time, seconds.
        first_val_loss: Validation loss of the parent, if known: half as much again, twice, is overfitting.
        memory: What the job may hold.
        left_s: Seconds left in the budget.
    """
    report_s = step_s * float(setting(recipe, "steps_per_report"))
    runaway = _runaway_loss(recipe)
    guards = [
        Guard(signal="train_loss", op="non_finite", verdict="diverged"),
        Guard(signal="val_loss", op="non_finite", verdict="diverged"),
        # 1 when generations at a save loop or drift where neither the parent's nor the references do, unless the run is
        # early and its loss still falls. The trainer holds the same against its saves, so that a run is judged at its
        # last healthy one (failure mode 1).
        Guard(signal="sample_collapsed", op=">", threshold=0.5, verdict="collapsed"),
        # Reported once, when a loss that leaves nothing to learn comes within a fifth of the steps (failure mode 14).
        Guard(signal="early_moved", op="<", threshold=EARLY_MOVED, verdict="loss_collapsed"),
    ]
    if math.isfinite(runaway):
        guards.append(Guard(signal="train_loss", op=">", threshold=runaway, patience=2, verdict="diverged"))
    if first_val_loss is not None:
        guards.append(Guard(signal="val_loss", op=">", threshold=1.5 * first_val_loss, patience=2, verdict="overfit"))
    # The end of the budget comes before any other limit on time.
    limit_s = max(WALL_FACTOR * wall_s, 2 * STALL_FLOOR_S)
    limit_s = limit_s if left_s is None else max(1.0, min(limit_s, left_s))
    return (*guards, *_rollout_guards(recipe), *_common(10 * report_s, limit_s, memory))


def _runaway_loss(recipe: Json) -> float:
    """Return the loss above which a run has diverged.

    IPO's begins at (1 / (2 beta))^2, 25 by default: it ran away where the margin is as far the wrong way as it was to
    go the right way.
    """
    if recipe.get("scale_rewards") is False:
        # As large as the rewards are, whatever the policy does; its divergence from the parent is bounded instead.
        return math.inf
    if "ipo" not in {recipe.get("loss_type"), recipe.get("dpo_cpo_loss_type")}:
        return RUNAWAY_LOSS
    return max(RUNAWAY_LOSS, float(recipe.get("beta", 0.1)) ** -2)


def _rollout_guards(recipe: Json) -> list[Guard]:
    """Return what rollouts are stopped by: the recipe's bounds, which the trainer holds against its saves too."""
    if "group_size" not in recipe:
        return []
    # 1 when the reward rose for certain and the held-out score shows less than a quarter of it, at two looks.
    guards = [
        Guard(signal="reward_gap", op=">", threshold=0.5, patience=2, verdict="reward_hacking"),
        Guard(
            signal="zero_variance_share",
            op=">",
            threshold=EQUAL_SHARE,
            patience=_equal_reports(recipe),
            verdict="rewards_equal",
        ),
    ]
    ceiling, floor, jump = (recipe.get(key) for key in ("kl_ceiling", "entropy_floor", "length_jump"))
    if ceiling is not None:
        guards.append(Guard(signal="kl", op=">", threshold=ceiling, patience=2, verdict="kl_runaway"))
    if floor is not None:
        guards.append(Guard(signal="entropy_share", op="<", threshold=floor, patience=3, verdict="entropy_collapsed"))
    if jump is not None:
        guards += [
            Guard(signal="length_ratio", op=">", threshold=jump, patience=3, verdict="length_drift"),
            Guard(signal="length_ratio", op="<", threshold=1 / jump, patience=3, verdict="length_drift"),
        ]
    return guards


def _equal_reports(recipe: Json) -> int:
    """Return the reports in a row that hold enough rollouts to say that rewards do not differ.

    Updates on the same rollouts sample none, and a report of such updates alone tells no share: it is not counted.
    """
    stride = int(setting(recipe, "updates_per_batch"))
    sampled = int(setting(recipe, "batch_size")) * int(recipe["group_size"])
    whole_run = sampled * math.ceil(int(setting(recipe, "iters")) / stride)
    least, most = EQUAL_ROLLOUTS
    of_report = sampled * max(1, int(setting(recipe, "steps_per_report")) // stride)
    return math.ceil(max(least, min(most, whole_run / 2)) / of_report)


def measuring_guards(
    *, wall_s: float = 0.0, memory: MemoryLimits | None = None, left_s: float | None = None
) -> tuple[Guard, ...]:
    """Return the guards of a job that trains nothing: a census, an evaluation, a timing, a fusion, pairs, a notice.

    Args:
        wall_s: Upper end of the expected wall time, seconds; 0 where nobody knows it.
        memory: What the job may hold.
        left_s: Seconds left in the budget. They end what hangs; a job of known length may outlast them, since what it
            measures was paid for.
    """
    if left_s is not None:
        limit_s = max(WALL_FACTOR * wall_s, LEAST_S, left_s)
    else:
        limit_s = max(WALL_FACTOR * wall_s, 2 * STALL_FLOOR_S) if wall_s else MOST_S
    return _common(wall_s / 2, limit_s, memory)


def lasting(guards: Iterable[Guard], expected_s: float) -> tuple[Guard, ...]:
    """Return guards whose limit on time leaves room for a job's own length, once that is known.

    Args:
        guards: As decided, by what evaluations took so far.
        expected_s: For as many answers as the job will give, at the slowest speed that was measured.
    """
    return tuple(
        guard.model_copy(update={"threshold": max(guard.threshold, WALL_FACTOR * expected_s)})
        if guard.signal == "wall_s"
        else guard
        for guard in guards
    )


def _common(stall_s: float, limit_s: float, memory: MemoryLimits | None) -> tuple[Guard, ...]:
    """Return the guards every job has."""
    guards = [
        Guard(signal="seconds_since_progress", op=">", threshold=max(STALL_FLOOR_S, stall_s), verdict="stalled"),
        Guard(signal="wall_s", op=">", threshold=limit_s, verdict="out_of_time"),
        Guard(signal="disk_free_gb", op="<", threshold=DISK_FLOOR_GB, patience=2, verdict="out_of_disk"),
    ]
    if memory is not None:
        # Both are needed: what the system counts of a process leaves out what a GPU holds.
        guards += [
            Guard(signal=signal, op=">", threshold=limit_gb, patience=2, verdict="out_of_memory")
            for signal, limit_gb in (("rss_gb", memory.resident_gb), ("peak_memory_gb", memory.arrays_gb))
        ]
    return tuple(guards)


def sentence_of(guard: Guard) -> str:
    """Return a guard as a sentence for people."""
    times = f" {guard.patience} times in a row" if guard.patience > 1 else ""
    if guard.op == "non_finite":
        condition = f"{guard.signal} is not a finite number"
    elif guard.signal in {"wall_s", "seconds_since_progress"}:
        name = "wall time" if guard.signal == "wall_s" else "time without progress"
        condition = f"{name} exceeds {minutes(guard.threshold)}"
    else:
        condition = f"{guard.signal} {guard.op} {guard.threshold:g}"
    act = "Stop" if guard.action == "stop" else "Note"
    return f"{act} when {condition}{times}: {guard.verdict or guard.signal}."


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
