"""Lines about what computes: Python, MLX, matrix speed, memory and what a job may hold of it, disks, open files."""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import psutil

from state.errors import ConfigError, VigilError
from state.files import ensure_local_disk
from state.records import Json
from tools.machine import mac
from tools.machine.blas import matrix_speed, why_slow
from tools.machine.facts import System
from tools.machine.readiness import Line, not_told

_MB = 1.048576e6


def memory_limit(system: System, env: Mapping[str, str]) -> tuple[float, str]:
    """Return the most that a job's arrays may take, decimal gigabytes, and what bounds it.

    That is what a GPU of its own has, else what the host gives (`host_limit`), on a Mac no more than the GPU may wire:
    beyond it training swaps or ends.
    """
    cuda = (ask_cuda(env) or {}).get("info") or {}
    if own := next((cuda[name] for name in ("total_memory", "memory_size") if cuda.get(name)), None):
        return float(own) / GB, "the GPU has"
    host = host_limit(system)
    wired = _wired(system, env) if system.platform == "darwin" else None
    return min(host, (wired / GB, "the GPU may wire")) if wired else host


def host_limit(system: System) -> tuple[float, str]:
    """Return the most memory of the host that a job may hold, decimal gigabytes, and what bounds it."""
    group = system.number("sys/fs/cgroup/memory.max")
    total = float(psutil.virtual_memory().total) / GB, "the machine has"
    return min(total, (group / GB, "a control group bounds it to")) if group else total


def cuda_wheels() -> list[str]:
    """Return name and version of what makes MLX compute with CUDA, as installed; nothing elsewhere."""
    return sorted(f"{each.name} {each.version}" for each in distributions() if str(each.name).startswith("mlx-cuda"))


def ask_cuda(env: Mapping[str, str]) -> Json | None:
    """Return what MLX says of itself where it computes with CUDA, None elsewhere; asked only where it is installed."""
    mlx_facts = ask_mlx(env) if cuda_wheels() else None
    return mlx_facts if isinstance(mlx_facts, dict) and mlx_facts.get("backend") == "cuda" else None


def _wired(system: System, env: Mapping[str, str]) -> float | None:
    """Return what a person set, or what Metal recommends, bytes."""
    set_mb = mac.wired_limit_mb(system)
    if set_mb:
        return set_mb * _MB
    mlx_facts = ask_mlx(env)
    own = mlx_facts["info"].get("max_recommended_working_set_size") if isinstance(mlx_facts, dict) else None
    return float(own) if own else None


GB = 1e9
MLX_MODULE = "tools.machine.mlx_child"
MLX_TIMEOUT_S = 120.0

LEAST_DISK_GB = 0.5
"""Below it no campaign starts (probe machine.disk)."""

AMPLE_DISK_GB = 5.0
"""Saved steps, evaluations and the store of one night on a small model; an assumption."""

LEAST_FILES, AMPLE_FILES = 64, 256
"""Open files: a sitting of the agent holds about thirty; macOS gives 256 unless told otherwise."""


def python(system: System) -> Line:
    """Return the interpreter and what it was built for; under Rosetta or on an Intel Mac MLX finds no Metal."""
    now = ".".join(map(str, sys.version_info[:3]))
    machine = platform.machine()
    value = {"version": now, "architecture": machine, "system": system.platform}
    sentence = f"Python {now} for {machine}."
    source = "platform.machine()"
    if system.platform == "darwin":
        source = "platform.machine(), sysctl.proc_translated"
        if mac.is_translated(system) or machine == "x86_64":
            return Line(
                "machine:python",
                "is_native",
                f"Python {now} runs as {machine}, translated by Rosetta or on an Intel Mac, where MLX finds no Metal.",
                "bad",
                value,
                source,
                fix="Install an arm64 Python and make the environment anew.",
            )
    return Line("machine:python", "is_native", sentence, "good", value, source)


def ask_mlx(env: Mapping[str, str]) -> dict[str, Any] | str:
    """Return what MLX says of itself in a child process, or why it says nothing.

    Args:
        env: Variables that workers get, on top of ours.
    """
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-m", MLX_MODULE],
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MLX_TIMEOUT_S,
            check=False,
        )
        facts = json.loads(answer.stdout) if answer.returncode == 0 else None
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return str(error).splitlines()[0]
    if isinstance(facts, dict):
        return facts
    lines = answer.stderr.strip().splitlines() or [f"it ended with status {answer.returncode}"]
    return lines[-1]


def mlx(mlx_facts: dict[str, Any] | str, system: System) -> Line:
    """Return the line about MLX."""
    source = f"python -m {MLX_MODULE}"
    if isinstance(mlx_facts, str) or not mlx_facts.get("computes"):
        why = mlx_facts if isinstance(mlx_facts, str) else "its matrix product is wrong"
        return Line(
            "tool:mlx", "computes", f"MLX does not work in a worker: {why}.", "bad", None, source, fix="Run make setup."
        )
    try:
        lm = version("mlx-lm")
    except PackageNotFoundError:
        return Line("tool:mlx", "computes", "mlx-lm is not installed.", "bad", mlx_facts, source, fix="Run make setup.")
    sentence = (
        f"mlx {mlx_facts['version']} and mlx-lm {lm} compute on {mlx_facts['device']} (backend {mlx_facts['backend']})."
    )
    value = {**mlx_facts, "mlx_lm": lm}
    if system.platform == "darwin" and mlx_facts["backend"] != "metal":
        return Line(
            "tool:mlx",
            "computes",
            f"{sentence} Metal is not available here.",
            "warn",
            value,
            source,
            fix="Use a Mac with Apple silicon, not a virtual machine; on the CPU training is many times slower.",
        )
    return Line("tool:mlx", "computes", sentence, "good", value, source)


def speed(env: Mapping[str, str], backend: str) -> Line:
    """Return the measured speed of a float32 matrix product, before and after the preloaded OpenBLAS.

    Args:
        env: Variables that workers get.
        backend: MLX's, as it says; a library of the CPU changes nothing on another.
    """
    preload = env.get("LD_PRELOAD", "")
    source = "python -m tools.training.blas_probe"
    try:
        before = matrix_speed({**env, "LD_PRELOAD": ""} if preload else env)
        after = matrix_speed(env) if preload else before
    except VigilError as error:
        return not_told("machine:blas", "speed", error.sentence, asked=source)
    value = {"gflops_before": before.gflops, "gflops_after": after.gflops, "library": after.library or preload}
    if preload:
        with_it, without = f"{after.gflops:.0f} GFLOP/s with OpenBLAS preloaded", f"{before.gflops:.0f} without"
        gain = f"{with_it}, {without} (float32 matrix product on one core)."
        if after.gflops > before.gflops:
            return Line("machine:blas", "speed", gain, "good", value, source)
        return Line(
            "machine:blas", "speed", gain, "warn", value, source, fix=f"{preload} gains nothing; try another OpenBLAS."
        )
    sentence = f"{after.gflops:.0f} GFLOP/s (float32 matrix product)."
    if backend != "cpu" or sys.platform != "linux":
        return Line("machine:blas", "speed", sentence, "good", value, source)
    return Line(
        "machine:blas",
        "speed",
        f"{sentence} No OpenBLAS is preloaded.",
        "warn",
        value,
        source,
        fix=why_slow() or "Start again: an OpenBLAS is there now.",
    )


def memory(system: System, mlx_facts: dict[str, Any] | str) -> Line:
    """Return memory, what of it is free now, the bound of a container, and what the GPU may wire."""
    now = psutil.virtual_memory()
    bound = system.number("sys/fs/cgroup/memory.max")
    total = min(float(now.total), bound) if bound else float(now.total)
    free_gb = min(now.available, total) / GB
    swap_gb = psutil.swap_memory().used / GB
    value: dict[str, Any] = {
        "total_gb": round(total / GB, 2),
        "free_gb": round(free_gb, 2),
        "swap_gb": round(swap_gb, 2),
    }
    sentence = f"{total / GB:.1f} GB of memory, {free_gb:.1f} GB of it free now, {swap_gb:.1f} GB of swap in use."
    if bound and bound < now.total:
        sentence += " A control group bounds it."
    source = "psutil.virtual_memory()"
    if system.platform == "darwin":
        source += ", sysctl iogpu.wired_limit_mb"
        set_mb = mac.wired_limit_mb(system)
        own = mlx_facts["info"].get("max_recommended_working_set_size") if isinstance(mlx_facts, dict) else None
        wired_gb = set_mb * 1.048576e-3 if set_mb else own / GB if own else None
        value["wired_limit_gb"] = None if wired_gb is None else round(wired_gb, 2)
        sentence += (
            f" The GPU may wire {wired_gb:.1f} GB ({'as set' if set_mb else 'the default'})."
            if wired_gb
            else " What the GPU may wire is not told."
        )
    if free_gb < 0.1 * total / GB:
        return Line(
            "machine:memory",
            "has_room",
            sentence,
            "warn",
            value,
            source,
            fix="End what is not needed overnight: other models served, browsers; a machine that swaps trains slowly.",
        )
    return Line("machine:memory", "has_room", sentence, "good", value, source)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above that exists."""
    folder = folder.expanduser().absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def home_disk(home: Path) -> Line:
    """Return the free space where campaigns live; a network disk or one that cannot be written fails."""
    place = _existing(home)
    free_gb = shutil.disk_usage(place).free / GB
    value = {"free_gb": round(free_gb, 2), "folder": str(home)}
    sentence = f"{free_gb:.1f} GB are free where campaigns live ({home})."
    source = "statvfs"
    try:
        ensure_local_disk(place)
    except ConfigError as error:
        return Line("machine:disk", "has_room", error.sentence, "bad", value, source, fix="Choose a local disk.")
    if not os.access(place, os.W_OK):
        return Line(
            "machine:disk",
            "has_room",
            f"{place} cannot be written.",
            "bad",
            value,
            source,
            fix="Correct its permissions, or choose another place with --home or VIGIL_HOME.",
        )
    fix = "Free some space, or choose another disk with --home or VIGIL_HOME."
    if free_gb < LEAST_DISK_GB:
        return Line(
            "machine:disk", "has_room", f"{sentence} {LEAST_DISK_GB:g} GB are needed.", "bad", value, source, fix=fix
        )
    if free_gb < AMPLE_DISK_GB:
        return Line("machine:disk", "has_room", f"{sentence} A night may need more.", "warn", value, source, fix=fix)
    return Line("machine:disk", "has_room", sentence, "good", value, source)


def cache_disk(cache: Path) -> Line:
    """Return the free space where models are downloaded to; a night downloads nothing, so little is no failure."""
    free_gb = shutil.disk_usage(_existing(cache)).free / GB
    value = {"free_gb": round(free_gb, 2), "folder": str(cache)}
    sentence = f"{free_gb:.1f} GB are free where models are downloaded to ({cache})."
    if free_gb < AMPLE_DISK_GB:
        return Line(
            "machine:cache_disk",
            "has_room",
            sentence,
            "warn",
            value,
            "statvfs",
            fix="Free some space before a download, or set HF_HOME to another disk.",
        )
    return Line("machine:cache_disk", "has_room", sentence, "good", value, "statvfs")


def open_files() -> Line:
    """Return how many files a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_unbounded = soft == resource.RLIM_INFINITY
    sentence = f"A process may hold {'any number of' if is_unbounded else soft} open files."
    value = {"soft": None if is_unbounded else soft, "hard": None if hard == resource.RLIM_INFINITY else hard}
    if is_unbounded or soft >= AMPLE_FILES:
        return Line("machine:open_files", "limit", sentence, "good", value, "getrlimit")
    outcome: Any = "bad" if soft < LEAST_FILES else "warn"
    return Line(
        "machine:open_files",
        "limit",
        sentence,
        outcome,
        value,
        "getrlimit",
        fix="Raise it in this shell: ulimit -n 1024",
    )
