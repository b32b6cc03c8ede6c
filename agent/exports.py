"""What `vigil export` writes beside the record: step metrics as a table, `.eval` logs for Inspect View, a GGUF file.

All of it is from the record and the files of its jobs. A GGUF file is made by a job of its own under `exports/` in the
campaign's folder, typed again it is taken up or found; who asked for it, and its hash, are put on record as a request.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.pairs import trained, wait_for
from agent.render.cases import Questions, answer
from agent.render.record import View
from agent.render.watch import Terminal
from agent.requests import me
from agent.trackers import Runs
from policies.guards import measuring_guards
from state.clock import SystemClock
from state.errors import ConfigError, CorruptError
from state.files import fsync_path, read_object, side_of, write_atomic
from state.hashing import hash_file, hash_json, short
from state.paths import CampaignPaths, JobPaths
from state.records import Request
from state.store import insert_request
from tools.data.cases import user_prompt
from tools.jobs.backend import LocalBackend
from tools.jobs.spec import JobSpec
from tools.machine.blas import worker_env
from tools.models.identity import weights_hash
from tools.training.fuse import GGUF_TYPES


def needs(package: str, extra: str) -> ConfigError:
    """Return what is said where a package of an extra is not installed."""
    return ConfigError(f"This needs {package}: pip install 'vigil[{extra}]'.", what=package)


def step_rows(paths: CampaignPaths) -> Iterator[View]:
    """Yield each report of each run, then what its verdicts measured: run, step, t, and a field per figure or word."""
    for run in Runs(paths).read():
        for row in run.rows:
            yield {"campaign": run.campaign, "run": run.run, "step": row.step, "t": row.t, **row.values, **row.texts}


def write_steps(paths: CampaignPaths, out: Path | None) -> tuple[int, str]:
    """Write step metrics: as Parquet where the file is named so, else as JSON lines, figures that are none as null.

    Returns:
        How many rows, and the text where no file was named.

    Raises:
        ConfigError: Parquet is asked for, and pyarrow is not installed.
    """
    rows = list(step_rows(paths))
    if out is not None and out.suffix == ".parquet":
        try:
            from pyarrow import Table, parquet
        except ImportError as error:
            raise needs("pyarrow", "parquet") from error
        names = list(dict.fromkeys(name for row in rows for name in row))
        whole = [{name: row.get(name) for name in names} for row in rows]
        side = side_of(out.absolute())
        parquet.write_table(Table.from_pylist(whole), side)
        side.replace(out.absolute())
        return len(rows), ""
    lines = (json.dumps({name: _plain(value) for name, value in row.items()}, ensure_ascii=False) for row in rows)
    text = "".join(f"{line}\n" for line in lines)
    if out is not None:
        write_atomic(out.absolute(), text)
    return len(rows), text if out is None else ""


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_eval_logs(view: View, folder: Path) -> list[Path]:
    """Write an `.eval` log of each side and use that was measured, for `inspect view`.

    Args:
        view: The campaign as gathered, with cases.
        folder: Where to; a log of the same name is replaced.

    Raises:
        ConfigError: inspect-ai is not installed.
    """
    try:
        from inspect_ai import log, model, scorer
    except ImportError as error:
        raise needs("inspect-ai", "inspect") from error
    root, name, spec = Path(view["root"]), view["campaign"]["name"], view["goal"]["spec"]
    questions, is_private = Questions(CampaignPaths(root.parent, root.name)), spec.get("privacy") == "redact"
    groups: dict[tuple[str, str], list[View]] = {}
    for row in view["measurements"]:
        groups.setdefault((row["run"] or row["side"], row["use"]), []).append(row)
    written = []
    for (who, use), rows in groups.items():
        # Of a case that was measured again, the newest counts.
        newest = {(row["split"], row["case"]): row for row in rows}
        samples, sums = [], dict[str, list[float]]()
        for (split, case), row in newest.items():
            question = {} if is_private else questions.of(row)
            text = "" if is_private else answer(view, row)
            scores = {metric: value for metric, value in row["metrics"].items() if value is not None}
            for metric, value in scores.items():
                sums.setdefault(f"{split}.{metric}", []).append(float(value))
            sample = log.EvalSample(
                # Inspect takes a slash for a folder.
                id=f"{split}-{case}".replace("/", "-"), epoch=1, input=user_prompt(question) if question else "",
                target=str(question.get("reference") or ""), metadata={"split": split, "case": case},
                output=model.ModelOutput.from_content(
                    who, text, stop_reason="max_tokens" if row["finish_reason"] == "length" else "stop"
                ),
                scores={metric: scorer.Score(value=value) for metric, value in scores.items()},
            )  # fmt: skip
            samples.append(sample)
        results = [
            log.EvalScore(
                name=metric, scorer="vigil", metrics={"mean": log.EvalMetric(name="mean", value=sum(all_) / len(all_))}
            )
            for metric, all_ in sums.items()
        ]
        head = log.EvalSpec(
            created=datetime.fromtimestamp(view["campaign"]["started_at"], UTC).isoformat(), task=f"{name}/{use}",
            dataset=log.EvalDataset(name=use, samples=len(samples)), model=f"{name}/{who}", config=log.EvalConfig(),
        )  # fmt: skip
        done = log.EvalResults(total_samples=len(samples), completed_samples=len(samples), scores=results)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}_{who}_{use}.eval"
        log.write_eval_log(log.EvalLog(eval=head, status="success", results=done, samples=samples), path)
        written.append(path)
    return written


def make_gguf(paths: CampaignPaths, run: str, out: Path, terminal: Terminal, *, is_forced: bool = False) -> View:
    """Fuse a run into its base and write it as GGUF, by a job of its own; return what came of it.

    Raises:
        NotFoundError: There is no such run, or it has no adapter.
        ConfigError: mlx-lm cannot write this architecture as GGUF, or another file is in the place.
        CorruptError: The adapter, or the file that was made, is not what was recorded.
        JobError: The job failed or was stopped.
    """
    given, adapter = trained(paths, run)
    model = Path(given["model"])
    kind = str(read_object(model / "config.json").get("model_type"))
    if kind not in GGUF_TYPES:
        raise ConfigError(
            f"mlx-lm writes GGUF for {', '.join(sorted(GGUF_TYPES))} only, and this model is {kind}: export it fused "
            "(export.fused in the campaign file) and convert that with llama.cpp's convert_hf_to_gguf.py.",
            what="model_type",
            value=kind,
        )
    body = {key: given.get(key) for key in ("model", "dtype", "data", "system", "privacy")}
    body |= {"adapter": str(adapter), "expect_weights": weights_hash(model, adapter), "gguf": True}
    folder = JobPaths(paths.exports / f"gguf-{short(hash_json(body))}")
    spec = JobSpec(
        key=folder.folder.name, kind="fuse", module="tools.training.fuse", input=body, env=worker_env(),
        guards=measuring_guards(), created_at=time.time(),
    )  # fmt: skip
    if folder.spec.exists():
        spec = JobSpec.model_validate_json(folder.spec.read_text(encoding="utf-8"))
    wait_for(folder, spec, SystemClock(), LocalBackend(), terminal, "The weights")
    made = read_object(folder.result)
    source = folder.folder / str(made["gguf"])
    if not source.is_file() or hash_file(source) != made["sha256"]:
        raise CorruptError(f"{source} is not what the job wrote; delete {folder.folder} and repeat.", where=str(source))
    told = {"run": run.upper(), "file": str(out.absolute())} | {k: made[k] for k in ("sha256", "bytes", "weights")}
    if _hand_out(source, out.absolute(), str(made["sha256"]), is_forced=is_forced):
        reason = f"{run.upper()} as GGUF: {out.name}, {made['bytes']:,} bytes, sha256 {made['sha256']}"
        asked = Request(kind="export", target=run.upper(), by=me(), reason=reason, made_at=time.time(), payload=told)
        insert_request(paths, asked)
    return {**told, "notes": _notes(model, made)}


def _hand_out(source: Path, out: Path, digest: str, *, is_forced: bool) -> bool:
    """Put a file in its place, whole or not at all, unless it is there; another one there is left alone."""
    if out.exists() and hash_file(out) == digest:
        return False
    if out.exists() and not is_forced:
        said = f"{out} is there already and is another file; name another one, or replace it with --force."
        raise ConfigError(said, what="out")
    out.parent.mkdir(parents=True, exist_ok=True)
    side = side_of(out)
    shutil.copyfile(source, side)
    with side.open("rb") as stream:
        os.fsync(stream.fileno())
    side.replace(out)
    fsync_path(out.parent)
    return True


def _notes(model: Path, made: View) -> list[str]:
    """Return what a person must know of the file before it is used elsewhere."""
    told = [
        "It was not evaluated: the campaign's figures are of the adapter beside its base."
        + (
            f" Fused, {made['same']} of {made['positions']} positions have the same likeliest token."
            if "same" in made
            else ""
        )
    ]
    tokenizer = read_object(model / "tokenizer.json").get("model") or {}
    if tokenizer.get("type") == "BPE" and not tokenizer.get("byte_fallback"):
        told.append(
            "mlx-lm labels every tokenizer as SentencePiece, and this model's is byte-level BPE: other programs will "
            "split texts otherwise than in training. Convert the fused folder with llama.cpp's own script instead."
        )
    return told
