"""Probes of the machine and its packages: versions, disk, memory, matrix speed."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

import psutil

from policies.validity import SPENDING
from state.errors import VigilError
from state.recipe import ROLLOUTS_TOGETHER
from state.records import Evidence, Fingerprint
from tools.machine import mac
from tools.machine.blas import is_mlx_on_linux_cpu, matrix_speed, threads, why_slow
from tools.machine.facts import System
from tools.machine.hardware import ask_cuda, cuda_wheels, host_limit, memory_limit
from tools.models.identity import describe_model, read_shape
from tools.probes.catalogue import RUNNING, Observation, Probe, ProbeContext

_PACKAGES = ("mlx", "mlx-lm", "transformers", "tokenizers")
_GB = 1e9
_MEMORY_FACTOR = 1.2
"""Weights, and a fifth more for caches and Python; what training takes beside them is estimated from the model's sizes
and the token census (policies/cost.py)."""
_DISK_NEED_GB = 0.5
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def package_versions() -> dict[str, str]:
    """Return the versions that what MLX does depends on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _version_prints(_: ProbeContext) -> tuple[Fingerprint, ...]:
    return tuple(Fingerprint(kind="package", name=name, value=value) for name, value in package_versions().items())


def _observe_versions(_: ProbeContext) -> tuple[Observation, ...]:
    found = package_versions()
    missing = [name for name, value in found.items() if value == "missing"]
    return (
        Observation(
            subject="tool:packages",
            claim="are_installed",
            statement=(
                f"{', '.join(missing)} not installed."
                if missing
                else "Trained and measured with " + ", ".join(f"{name} {value}" for name, value in found.items()) + "."
            ),
            holds=not missing,
            value=found,
            severity="hard_stop",
            mode="6",
            evidence=(
                Evidence(kind="probe", ref="importlib.metadata", summary="Read from the environment of the workers."),
            ),
            fix="Run make setup.",
        ),
    )


def _no_prints(_: ProbeContext) -> tuple[Fingerprint, ...]:
    return ()


def _observe_disk(context: ProbeContext) -> tuple[Observation, ...]:
    free_gb = shutil.disk_usage(context.home).free / _GB
    word = "At least" if free_gb >= _DISK_NEED_GB else "Less than"
    return (
        Observation(
            subject="machine:disk",
            claim="has_room",
            statement=f"{word} {_DISK_NEED_GB:g} GB are free where the campaign lives.",
            holds=free_gb >= _DISK_NEED_GB,
            value={"needed_gb": _DISK_NEED_GB},
            severity="hard_stop",
            mode="8",
            evidence=(Evidence(kind="probe", ref="statvfs", summary="Free space of the campaign's disk."),),
            fix="Free some space, or move the campaign with --home; nothing is lost meanwhile.",
        ),
    )


def _memory_prints(context: ProbeContext) -> tuple[Fingerprint, ...]:
    system = System()
    total = str(psutil.virtual_memory().total)
    wired = str(mac.wired_limit_mb(system) if system.platform == "darwin" else "")
    bound = system.read("sys/fs/cgroup/memory.max") or ""
    return (
        Fingerprint(kind="machine", name="memory", value=" ".join(filter(None, (total, bound, wired, *cuda_wheels())))),
        Fingerprint(kind="settings", name="model", value=f"{context.goal.model.path} {context.goal.model.dtype}"),
    )


def _observe_memory(context: ProbeContext) -> tuple[Observation, ...]:
    """Hold the weights against what jobs may take; what training takes beside them follows from the census."""
    if context.model is None:
        return ()
    facts = describe_model(context.model)
    on_disk = float(facts.get("n_bytes") or 0)
    per_parameter = _BYTES.get(context.goal.model.dtype or "", 0)
    weights_gb = (float(facts.get("n_parameters") or 0) * per_parameter if per_parameter else on_disk) / _GB
    needed_gb = weights_gb * _MEMORY_FACTOR
    limit_gb, words = memory_limit(System(), context.environment)
    return (
        Observation(
            subject="machine:memory",
            claim="fits_the_model",
            statement=f"The weights need {needed_gb:.2f} GB with a fifth to spare; {words} {limit_gb:.1f} GB.",
            holds=needed_gb < limit_gb,
            value={
                "needed_gb": needed_gb,
                "limit_gb": round(limit_gb, 3),
                "resident_gb": round(host_limit(System())[0], 3),
                "shape": read_shape(context.model, context.goal.model.dtype),
                **({"rollouts_together": ROLLOUTS_TOGETHER[True]} if ask_cuda(context.environment) else {}),
            },
            tag="inferred",
            severity="hard_stop",
            evidence=(
                Evidence(
                    kind="probe",
                    ref="safetensors headers",
                    summary=f"Weights {weights_gb:.2f} GB; what training takes beside them is another claim.",
                ),
            ),
            fix="Choose a smaller or a quantized model.",
        ),
    )


def _blas_prints(context: ProbeContext) -> tuple[Fingerprint, ...]:
    return (
        Fingerprint(kind="machine", name="cpu", value=f"{platform.machine()} {psutil.cpu_count()}"),
        Fingerprint(kind="package", name="mlx", value=package_versions()["mlx"]),
        Fingerprint(kind="settings", name="preload", value=context.environment.get("LD_PRELOAD", "")),
    )


def _observe_blas(context: ProbeContext) -> tuple[Observation, ...]:
    """Measure float32 matrix speed with and without the preloaded OpenBLAS, on Linux CPUs only."""
    if not is_mlx_on_linux_cpu():
        return ()
    preload = context.environment.get("LD_PRELOAD", "")
    plain = {name: value for name, value in context.environment.items() if name != "LD_PRELOAD"}
    try:
        before = matrix_speed(plain)
        after = matrix_speed(dict(context.environment)) if preload else before
    except (VigilError, OSError) as error:
        return (
            Observation(
                subject="machine:blas",
                claim="speed",
                statement=f"Matrix speed could not be measured: {error}.",
                holds=True,
                tag="assumed",
                fix="vigil doctor, which measures it anew in seconds.",
            ),
        )
    statement = (
        f"OpenBLAS is preloaded: {before.gflops:.0f} GFLOP/s without, {after.gflops:.0f} with it (float32, one core)."
        if preload
        else f"No OpenBLAS is preloaded: {before.gflops:.0f} GFLOP/s (float32). {why_slow()}".rstrip()
    )
    value = {
        "gflops_before": before.gflops,
        "gflops_after": after.gflops,
        "threads": threads(),
        "library": after.library,
        "build": after.build,
    }
    summary = (
        f"{before.gflops:.1f} and {after.gflops:.1f} GFLOP/s; {after.build or 'the BLAS in the wheel of MLX'} answers."
    )
    return (
        Observation(
            subject="machine:blas",
            claim="speed",
            statement=statement,
            value=value,
            evidence=(Evidence(kind="probe", ref="matrix product", summary=summary),),
        ),
    )


PROBES = (
    Probe(
        "tool.packages", 0.01, "a package that is missing", _version_prints, _observe_versions, staleness="capability"
    ),
    Probe("machine.disk", 0.01, "too little free space", _no_prints, _observe_disk, is_volatile=True),
    Probe("machine.memory", 0.05, "weights larger than memory", _memory_prints, _observe_memory, before=SPENDING),
    Probe(
        "machine.blas",
        5.0,
        "no gain from the preloaded library",
        _blas_prints,
        _observe_blas,
        staleness="capability",
        before=RUNNING,
    ),
)
