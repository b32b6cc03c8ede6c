"""Probe of the tools: can they run the campaign's instruments, and what do they do where Vigil takes it for granted.

Measured by one real step on a random model in a short child process (tools/training/capability.py), and again when a
package or the training code changes. A campaign that trains with another worker than Vigil's own is not covered: that
worker answers for itself.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from state.hashing import hash_file, hash_json
from state.records import Evidence, Fingerprint, Json
from tools.probes.catalogue import Observation, Probe, ProbeContext
from tools.probes.machine import package_versions

MODULE = "tools.training.capability"
TRAINER = "tools.training.worker"
"""The worker whose capability this is."""

_TIMEOUT_S = 900.0
"""It takes seconds; a machine that is busy with other things may take a hundred times as long, and is no finding."""
_TOOLS = Path(__file__).resolve().parents[1]
_CODE = ("training/*.py", "evaluation/*.py", "models/*.py")
_TOLERANCE = 1e-3
"""Relative difference of two losses of the same weights; a save that does not load as itself differs by far more."""
_KEPT = 0.9
"""Cosine above which a delta counts as kept: 8 % of its gain was lost at 0.92 (facts/mlx_training.md 2a)."""


def _prints(context: ProbeContext) -> tuple[Fingerprint, ...]:
    files = sorted(path for pattern in _CODE for path in _TOOLS.glob(pattern))
    code = [[path.relative_to(_TOOLS).as_posix(), hash_file(path, context.cache)] for path in files]
    packages = (Fingerprint(kind="package", name=name, value=value) for name, value in package_versions().items())
    return (
        *packages,
        Fingerprint(kind="tree", name="training code", value=hash_json(code)),
        Fingerprint(kind="settings", name="instruments", value=",".join(context.goal.instruments)),
    )


def _observe(context: ProbeContext) -> tuple[Observation, ...]:
    if context.trainer != TRAINER:
        return ()
    answer = _measured(context)
    if "why" in answer:
        tried: Json = {name: {"step": "starting", "why": answer["why"]} for name in context.goal.instruments}
        return tuple(_can_be_run(name, row) for name, row in tried.items())
    found = [row for name, seen in answer["instruments"].items() for row in _instrument(name, seen)]
    return (*found, *_contracts(answer["contracts"]))


def _measured(context: ProbeContext) -> Json:
    """Return what the child process measured, or `why` it could not."""
    # -P: the folder this runs in may be a user's, with a package called tools.
    command = [sys.executable, "-P", "-m", MODULE, *context.goal.instruments]
    environment = {**os.environ, **context.environment}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.CalledProcessError as error:
        said = str(error.stderr or "").strip().splitlines()[-1:]
        return {"why": " ".join(said) or f"it ended with status {error.returncode}"}
    except subprocess.TimeoutExpired:
        return {"why": f"it took longer than {_TIMEOUT_S:g} s"}
    except (OSError, ValueError, IndexError) as error:
        return {"why": f"{type(error).__name__}: {error}"}


def _evidence(summary: str, detail: Json) -> tuple[Evidence, ...]:
    return (Evidence(kind="probe", ref=MODULE, summary=summary, detail=detail),)


def _instrument(name: str, seen: Json) -> Iterator[Observation]:
    """Yield whether an instrument can be run, and whether what it saves loads as itself."""
    yield _can_be_run(name, seen)
    if "loaded" not in seen:
        return
    fresh, trained, loaded = (float(seen[key]) for key in ("fresh", "trained", "loaded"))
    off = abs(loaded - trained)
    yield Observation(
        subject=f"instrument:{name}",
        claim="loads_what_it_saved",
        statement=f"Two steps of {name} took the loss of a random model from {fresh:.4f} to {trained:.4f}; "
        f"loaded back from its adapter folder it is {loaded:.4f}.",
        holds=off <= _TOLERANCE * max(1.0, abs(trained)),
        value={"fresh": round(fresh, 4), "trained": round(trained, 4), "loaded": round(loaded, 4)},
        evidence=_evidence(f"The losses differ by {off:.1e}.", seen),
        severity="hard_stop",
        mode="12",
        fix="What is saved is not what is loaded: install the versions of requirements.lock (make setup).",
    )


def _can_be_run(name: str, seen: Json) -> Observation:
    step, why = str(seen["step"]), str(seen["why"]).rstrip(".")
    return Observation(
        subject=f"instrument:{name}",
        claim="can_be_run",
        statement=f"{name} cannot be run by what is installed; {step}: {why}."
        if step
        else f"{name} ran: two steps on a random model, saved, loaded, {seen['tokens']} tokens generated.",
        holds=not step,
        value=not step,
        evidence=_evidence("Tried by the code that trains in earnest.", seen),
        severity="hard_stop",
        mode="6",
        fix=f"Take {name} out of `instruments`, or install what it needs (make setup).",
    )


def _contracts(seen: Json) -> Iterator[Observation]:
    """Yield what the tools do, as measured; one that could not be measured is only assumed."""
    for name, tell in _TOLD.items():
        row = seen[name]
        yield _unmeasured(name, row) if "why" in row else tell(row)


def _unmeasured(name: str, row: Json) -> Observation:
    subject, claim, mode = _ABOUT[name]
    return Observation(
        subject,
        claim,
        f"Not measured: {row['why']}.",
        tag="assumed",
        mode=mode,
        fix="make setup, then vigil run again: it is tried anew, in seconds.",
        evidence=_evidence("It could not be tried.", row),
    )


def _batch(row: Json) -> Observation:
    subject, claim, mode = _ABOUT["batch"]
    holds = row["same"] == row["of"]
    return Observation(
        subject,
        claim,
        f"{row['same']} of {row['of']} prompts gave the same tokens in a batch and alone.",
        holds=holds,
        value=row,
        evidence=_evidence("Greedy, prompts of different lengths, a random model.", row),
        severity="warning",
        mode=mode,
        fix="Set evaluation.batch_size to 1: scores would depend on what else is in a batch.",
    )


def _fuse(row: Json) -> Observation:
    subject, claim, mode = _ABOUT["fuse"]
    plain = min(row[size]["dequantized"] for size in row)
    small, large = row["small"]["quantized"], row["large"]["quantized"]
    lost = "loses" if small < _KEPT else "keeps"
    return Observation(
        subject,
        claim,
        f"Fusing into 4 bits {lost} a small delta (cosine {small:.2f}; {large:.2f} for a large one); dequantized it "
        f"arrives at {plain:.2f}.",
        holds=plain >= _KEPT,
        value={"small_in_4_bits": round(small, 3), "large_in_4_bits": round(large, 3), "dequantized": round(plain, 3)},
        evidence=_evidence("One layer, deltas of 0.03 and of 3 quantization steps.", row),
        severity="warning",
        mode=mode,
        fix="Do not fuse with this version of mlx-lm; keep the adapter beside its base.",
    )


def _stale(row: Json) -> Observation:
    subject, claim, mode = _ABOUT["stale"]
    does = "reads every weight file, those that the index does not name too" if row["reads"] else "reads the index"
    wins = "; here the stale one won" if row["wins"] else ""
    return Observation(
        subject,
        claim,
        f"mlx_lm.load {does}{wins}.",
        value=row,
        evidence=_evidence("A folder with an index, its shard and one older file.", row),
        mode=mode,
    )


_ABOUT = {
    "batch": ("tool:mlx_lm.BatchGenerator", "equals_single", "6"),
    "fuse": ("tool:mlx_lm.fuse", "keeps_deltas_dequantized", "2"),
    "stale": ("tool:mlx_lm.load", "which_files_it_reads", "3"),
}
"""Contract -> subject, claim, mode."""

_TOLD: dict[str, Any] = {"batch": _batch, "fuse": _fuse, "stale": _stale}

PROBES = (
    Probe(
        "tool.instruments",
        2.0,
        "an instrument whose one step fails, or a save that loads as something else",
        _prints,
        _observe,
        staleness="capability",
        before=frozenset({"train", "pace"}),
    ),
)
