"""What bit-for-bit equality of two trainings depends on, recorded with each save."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from state.records import Json

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _library(preloaded: str) -> str:
    """Return the name of the file itself, in which a version stands; the link to it is called alike everywhere."""
    return Path(preloaded).resolve().name if preloaded else ""


def environment() -> Json:
    """Return wheel versions, BLAS library, thread counts and core type."""
    return {
        "mlx": _version("mlx"),
        "mlx-lm": _version("mlx-lm"),
        "blas": _library(os.environ.get("LD_PRELOAD", "").split(":")[0]),
        "threads": {name: os.environ.get(name, "") for name in _THREADS},
        "cores": os.cpu_count(),
        "cpu": _cpu_model(),
        "is_compile_off": os.environ.get("MLX_DISABLE_COMPILE", "") == "1",
    }
