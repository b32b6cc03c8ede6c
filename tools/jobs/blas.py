"""The BLAS behind MLX on Linux CPU: find OpenBLAS, hand it to workers, measure what it gains.

MLX's CPU wheel links the reference BLAS; a preloaded OpenBLAS answers the same calls several times faster
(facts/mlx_training.md). Elsewhere (Metal, CUDA) there is nothing to find.
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from state.errors import ToolUnavailableError

PROBE_MODULE = "tools.training.blas_probe"
PROBE_TIMEOUT_S = 120.0

_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")


def is_mlx_on_linux_cpu() -> bool:
    """Tell whether workers compute with MLX's CPU build on Linux."""
    if sys.platform != "linux":
        return False
    installed = {str(found.metadata["Name"]).lower() for found in importlib.metadata.distributions()}
    return not any(name.startswith("mlx-cuda") for name in installed)


def library_folders() -> list[Path]:
    """Return where shared libraries may lie, best first: threaded builds before others, the loader's paths last."""
    triplet = Path("/usr/lib") / f"{platform.machine()}-linux-gnu"
    folders = [triplet / "openblas-pthread", triplet / "openblas-openmp", triplet, Path("/usr/lib64"), Path("/usr/lib")]
    prefix = os.environ.get("CONDA_PREFIX")
    if prefix:
        folders.append(Path(prefix) / "lib")
    folders += [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(":") if entry]
    return [*folders, Path("/usr/local/lib"), triplet / "openblas-serial"]


def find_openblas(folders: Iterable[Path] | None = None) -> Path | None:
    """Return the OpenBLAS to preload, None where there is none.

    Args:
        folders: Where to look, best first; the machine's own library folders by default.
    """
    for folder in library_folders() if folders is None else folders:
        for name in _NAMES:
            if (folder / name).is_file():
                return folder / name
    return None


def worker_env(openblas: Path | None = None) -> dict[str, str]:
    """Return the environment every worker is started with, on top of the agent's.

    Args:
        openblas: The library to preload; looked for when not given. Used on Linux CPU only.
    """
    env = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    if not is_mlx_on_linux_cpu():
        return env
    # Compiled kernels cost a C++ compilation each on CPU (conventions, Tests).
    env["MLX_DISABLE_COMPILE"] = "1"
    library = openblas or find_openblas()
    if library is not None:
        before = os.environ.get("LD_PRELOAD", "")
        is_there = str(library) in before.split(":")
        env["LD_PRELOAD"] = before if is_there else f"{library}:{before}".rstrip(":")
    return env


def measure_gflops(env: Mapping[str, str]) -> float:
    """Return GFLOP/s of a float32 matrix product by MLX under an environment, measured in a child process.

    Args:
        env: Variables on top of ours; `{}` measures MLX as it comes, unless LD_PRELOAD is already set here.

    Raises:
        ToolUnavailableError: The probe failed or did not end in time.
    """
    # -P: the folder this runs in may be a user's, with a package called tools.
    command = [sys.executable, "-P", "-m", PROBE_MODULE]
    try:
        answer = subprocess.run(
            command,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        return float(json.loads(answer.stdout)["gflops"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
        raise ToolUnavailableError(
            f"The speed of MLX could not be measured: {' '.join(said)}", what=PROBE_MODULE
        ) from error
