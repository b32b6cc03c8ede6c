"""How much memory a job may hold here."""

from collections.abc import Mapping
from importlib.metadata import distributions

import psutil

from state.records import Json
from tools.machine import mac
from tools.machine.hardware import GB, ask_mlx
from tools.machine.system import System

_MB = 1.048576e6


def memory_limit(system: System, env: Mapping[str, str]) -> tuple[float, str]:
    """Return the most memory a job may hold, decimal gigabytes, and what bounds it.

    That is the machine's memory, a control group's bound, what a GPU of its own has, or on a Mac what the GPU may wire:
    beyond it training swaps or ends.

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
    told = (ask_cuda(env) or {}).get("info") or {}
    if own := next((told[name] for name in ("total_memory", "memory_size") if told.get(name)), None):
        bounds["the GPU has"] = float(own)
    words = min(bounds, key=lambda name: bounds[name])
    return bounds[words] / GB, words


def cuda_wheels() -> list[str]:
    """Return name and version of what makes MLX compute with CUDA, as installed; nothing elsewhere."""
    return sorted(f"{each.name} {each.version}" for each in distributions() if str(each.name).startswith("mlx-cuda"))


def ask_cuda(env: Mapping[str, str]) -> Json | None:
    """Return what MLX says of itself where it computes with CUDA, None elsewhere; asked only where that is installed.

    Args:
        env: Variables that workers get.
    """
    told = ask_mlx(env) if cuda_wheels() else None
    return told if isinstance(told, dict) and told.get("backend") == "cuda" else None


def _wired(system: System, env: Mapping[str, str]) -> float | None:
    """Return what a person set, or what Metal recommends, bytes."""
    set_mb = mac.wired_limit_mb(system)
    if set_mb:
        return set_mb * _MB
    told = ask_mlx(env)
    own = told["info"].get("max_recommended_working_set_size") if isinstance(told, dict) else None
    return float(own) if own else None
