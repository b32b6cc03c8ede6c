"""How much memory a job may hold here."""

from collections.abc import Mapping

import psutil

from tools.machine import mac
from tools.machine.hardware import GB, ask_mlx
from tools.machine.system import System

_MB = 1.048576e6


def memory_limit(system: System, env: Mapping[str, str]) -> tuple[float, str]:
    """Return the most memory a job may hold, decimal gigabytes, and what bounds it.

    That is the machine's memory, a control group's bound, or on a Mac what the GPU may wire: beyond it training swaps
    or ends.

    Args:
        system: The machine.
        env: Variables that workers get.
    """
    bounds = {"the machine has": float(psutil.virtual_memory().total)}
    group = system.number("sys/fs/cgroup/memory.max")
    if group:
        bounds["a control group bounds it to"] = group
    if system.platform == "darwin" and (wired := _wired(system, env)):
        bounds["the GPU may wire"] = wired
    words = min(bounds, key=lambda name: bounds[name])
    return bounds[words] / GB, words


def _wired(system: System, env: Mapping[str, str]) -> float | None:
    """Return what a person set, or what Metal recommends, bytes."""
    set_mb = mac.wired_limit_mb(system)
    if set_mb:
        return set_mb * _MB
    told = ask_mlx(env)
    own = told["info"].get("max_recommended_working_set_size") if isinstance(told, dict) else None
    return float(own) if own else None
