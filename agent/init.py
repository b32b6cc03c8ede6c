"""`vigil init`: from an mlx-lm configuration and a grader to a campaign file that passes `--check`.

Everything written is a proposal with its reason beside it. Nothing is left behind where the result would not pass.
"""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.files import read_json, write_atomic
from tools.data.cases import iter_data, iter_rows, read_split
from tools.data.rows import TRAINED, Features

_RUNBOOK = "runbooks/your_task/README.md"
_SPLIT = "task"
_RECIPE = (
    "fine_tune_type", "optimizer", "optimizer_config", "learning_rate", "lr_schedule", "iters", "batch_size",
    "num_layers", "max_seq_length", "mask_prompt", "lora_parameters", "grad_checkpoint", "grad_accumulation_steps",
    "steps_per_report", "steps_per_eval", "save_every", "val_batches", "clear_cache_threshold",
)  # fmt: skip
"""Keys of mlx-lm's file that are a recipe; the others say where things are, or what Vigil decides."""
_LEFT_OUT: dict[str, Any] = {
    "fine_tune_type": "lora",
    "optimizer": "adam",
    "learning_rate": 1e-5,
    "iters": 1000,
    "batch_size": 4,
    "num_layers": 16,
    "max_seq_length": 2048,
    "mask_prompt": False,
}
_LORA_LEFT_OUT = {"rank": 8, "dropout": 0.0, "scale": 20.0}
"""What mlx_lm.lora uses for a key that its file leaves out (`CONFIG_DEFAULTS` of the pinned mlx-lm; a test compares).

Vigil's own defaults differ, so a taken-over configuration is spelled out: it must train what it trained before."""
_KNOWN = frozenset({*_RECIPE, "model", "data", "seed", "train"})
_SMALL_VOCABULARY = 8_000
"""Below this a token may be a single character."""
_STEP_TOKENS = 64
_NO_REFERENCE_TOKENS = 512
_MOST_TOKENS = 4_096
_LEAST_GAIN = 0.05
_HALF = frozenset({"F16", "BF16"})
"""Types that MLX's CPU build multiplies without BLAS: a training step takes some ten times as long."""
_ENOUGH_CASES = 100
"""Half of them decide each question; below this the intervals are wider than most improvements."""


@dataclass(frozen=True)
class _Task:
    """What the two given files say, before it is written down."""

    config: dict[str, Any]
    config_path: Path
    grader: Path
    out: Path
    train: Path
    valid: Path | None
    source: Path
    """File that the evaluation cases come from."""
    cases: list[dict[str, Any]]
    is_converted: bool
    """The cases are in a training format and are written anew as cases."""
    features: Features
    """Keys of the columns; rows that are named otherwise than mlx-lm's own are written anew under its names."""

    @property
    def copies(self) -> dict[Path, Path]:
        """Files that are written anew -> what they hold under other names."""
        files = [path for path in (self.train, self.valid) if path is not None and self.features != TRAINED]
        return {self.out.with_name(f"{self.out.stem}_{path.name}"): path for path in files}

    def as_read(self, path: Path) -> Path:
        """Return where a campaign reads the rows of a file."""
        return next((copy for copy, source in self.copies.items() if source == path), path)

    @property
    def adapter(self) -> Path | None:
        """Folder of the adapter that the configuration goes on from, where it is one of mlx-lm's."""
        written = self.config.get("resume_adapter_file")
        found = _beside(self.config_path, written) if isinstance(written, str) else None
        is_ours = found is not None and found.name == "adapters.safetensors"
        return found.parent if found and is_ours and found.with_name("adapter_config.json").is_file() else None

    @property
    def cases_path(self) -> Path:
        """File of the evaluation cases that the campaign names."""
        return self.out.with_name(f"{self.out.stem}_cases.jsonl") if self.is_converted else self.source


def init_campaign(config: Path, grader: Path, out: Path, *, force: bool = False) -> list[str]:
    """Write a campaign file, and the evaluation cases where they must be converted.

    Args:
        config: An mlx-lm LoRA configuration; a relative `data` is looked for beside it, then in the current folder.
        grader: A Python file with `grade(case, text)`.
        out: The campaign file.
        force: Replace a file that is there.

    Returns:
        Sentences: what was written, what was found, what to type next.

    Raises:
        ConfigError: A file is missing or does not hold what it must; nothing was written.
    """
    config, grader, out = (path.expanduser().absolute() for path in (config, grader, out))
    if out.exists() and not force:
        raise ConfigError(f"{out} is there already; name another file with --out, or add --force.", where=str(out))
    task = _read(config, grader, out)
    metrics = _metrics(task)
    text = _campaign_text(task, metrics)
    side = out.with_name(f".{out.stem}.checking.yaml")
    files = {copy: [row.plain[0] for row in iter_data(path, task.features)] for copy, path in task.copies.items()}
    files |= {task.cases_path: task.cases} if task.is_converted else {}
    fresh = [path for path in files if not path.exists()]
    try:
        for path, rows in files.items():
            write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_atomic(side, text)
        notes = _checked(side, out)
    except BaseException:
        side.unlink(missing_ok=True)
        for path in fresh:
            path.unlink(missing_ok=True)
        raise
    side.replace(out)
    converted = [f"{task.cases_path}: {len(task.cases):,} cases from {task.source.name}."] if task.is_converted else []
    converted += [f"{copy}: the rows of {path.name} under mlx-lm's own names." for copy, path in task.copies.items()]
    return [*_slips(task), *notes, *converted, *_advice(task), f"{out}: read it, then vigil run {os.path.relpath(out)}"]


def _slips(task: _Task) -> list[str]:
    """Say which keys mlx-lm passes over without a word, with what they mean there."""
    from tools.probes.configs import TrainingConfig
    from tools.probes.folder import Project
    from tools.probes.trainers import faults_of

    config = TrainingConfig(Project(task.config_path.parent), task.config_path, task.config)
    found = [fault for fault in faults_of(config, has_valid=task.valid is not None) if fault.effect == "misleads"]
    return [f"{task.config_path.name} {fault.said}. {fault.fix}" for fault in found]


def _checked(side: Path, out: Path) -> list[str]:
    """Return what `--check` says of the new file."""
    from agent.campaign import load_campaign
    from agent.checks import check_campaign

    try:
        # The file that is checked is gone once it has its name.
        return check_campaign(replace(load_campaign(side), path=out), is_rehearsal=True)
    except ConfigError as error:
        sentence = error.sentence.replace(side.name, out.name)
        raise ConfigError(
            f"The campaign would not pass --check: {sentence}", where=error.where, runbook=_RUNBOOK
        ) from error


def _read(config_path: Path, grader: Path, out: Path) -> _Task:
    config = _load_yaml(config_path)
    if not grader.is_file():
        raise ConfigError(
            f"There is no grader {grader}; check the path.", what="grader", where=str(grader), runbook=_RUNBOOK
        )
    folder = _data_folder(config, config_path)
    train = folder / "train.jsonl"
    if not train.is_file():
        raise ConfigError(f"{folder} has no train.jsonl; mlx-lm's data folder has one.", what="data", where=str(folder))
    valid = folder / "valid.jsonl"
    source = next((path for path in (folder / "test.jsonl", valid) if path.is_file()), None)
    if source is None:
        other = next((path.name for path in sorted(folder.glob("*.jsonl")) if path.name != "train.jsonl"), "")
        more = f" {other} is read by neither name: rename it to valid.jsonl." if other else ""
        raise ConfigError(
            f"{folder} has neither test.jsonl nor valid.jsonl; evaluation needs cases that are not trained on.{more}",
            what="data",
            where=str(folder),
            runbook=_RUNBOOK,
        )
    features = replace(Features.of(config), prefers_pairs=False)
    cases, is_converted = _cases(source, features)
    found = valid if valid.is_file() else None
    return _Task(config, config_path, grader, out, train, found, source, cases, is_converted, features)


def _load_yaml(path: Path) -> dict[str, Any]:
    from agent.campaign import read_yaml

    config = read_yaml(path)
    if config.get("hf_dataset") and not config.get("data"):
        raise ConfigError(
            f"{path.name}: `hf_dataset` names a data set on the hub, which is not read here; save it as train.jsonl, "
            "valid.jsonl and test.jsonl (JSON lines) in a folder, and name that folder under `data`.",
            what="hf_dataset",
            where=str(path),
            runbook=_RUNBOOK,
        )
    if isinstance(config.get("optimizer"), str):
        config["optimizer"] = config["optimizer"].lower()  # as mlx-lm reads it
    for key in ("model", "data"):
        if not isinstance(config.get(key), str):
            raise ConfigError(
                f"{path.name}: `{key}` is missing; mlx-lm's configuration names it.", what=key, where=str(path)
            )
    for key, kind, words in (("seed", int, "a whole number"), ("lora_parameters", dict, "keys with values")):
        if config.get(key) is not None and not isinstance(config[key], kind):
            raise ConfigError(
                f"{path.name}: `{key}` is {config[key]!r}; it must be {words}.", what=key, where=str(path)
            )
    return config


def _data_folder(config: Mapping[str, Any], config_path: Path) -> Path:
    """Return the data folder: beside the configuration, or in the current folder as mlx-lm has it.

    Raises:
        ConfigError: It is in neither place; a data set on the hub has to be downloaded first.
    """
    written = Path(str(config["data"])).expanduser()
    for base in (config_path.parent, Path.cwd()):
        if (base / written).is_dir():
            return (base / written).resolve()
    if found := _beside(config_path, str(written)):
        raise ConfigError(
            f"{config_path.name}: `data` names the file {written}, and mlx-lm takes the folder with train.jsonl in it; "
            f"write `data: {written.parent}`" + ("." if found.name == "train.jsonl" else ", and rename the file."),
            what="data",
            value=str(written),
            where=str(config_path),
            runbook=_RUNBOOK,
        )
    raise ConfigError(
        f"{config_path.name}: `data` names {written}, which is not a folder here; a data set on the hub has to be saved"
        " as train.jsonl, valid.jsonl and test.jsonl first.",
        what="data",
        value=str(written),
        where=str(config_path),
        runbook=_RUNBOOK,
    )


def _beside(config_path: Path, written: str) -> Path | None:
    """Return the file that a configuration names: beside it, or in the current folder as mlx-lm has it."""
    found = (base / Path(written).expanduser() for base in (config_path.parent, Path.cwd()))
    return next((path.resolve() for path in found if path.is_file()), None)


def _cases(source: Path, features: Features) -> tuple[list[dict[str, Any]], bool]:
    """Return evaluation cases, and whether they had to be made from training rows.

    Raises:
        ConfigError: The rows hold no prompt.
    """
    _, first = next(iter_rows(source))
    if ("prompt" in first and "completion" not in first) or ("messages" in first and not _ends_with_answer(first)):
        return read_split(source), False
    cases: list[dict[str, Any]] = []
    names: set[str] = set()
    for item in iter_data(source, features):
        if item.form == "text":
            raise ConfigError(
                f"{source} is in the text format, which has no prompt; write cases with `prompt` and `reference`.",
                what="data",
                where=str(source),
                runbook=_RUNBOOK,
            )
        kept = {key: value for key, value in item.data.items() if key not in vars(features).values()}
        turns = item.messages
        prompt = {"prompt": item.prompt} if item.form == "completions" else {"messages": turns[:-1]}
        if turns[-1].get("tool_calls") and not turns[-1].get("content"):
            raise ConfigError(
                f"{source}:{item.line}: the answer is a tool call, which has no text to hold an output against; write "
                "the call as `reference` of cases of your own, in the form that the grader is to compare.",
                what="data",
                where=f"{source}:{item.line}",
                runbook=_RUNBOOK,
            )
        name = str(item.data.get("id", f"{source.stem}-{item.line}"))
        # An id that repeats names no case: those of the hub's files often name a source.
        name = f"{source.stem}-{item.line}" if name in names else name
        names.add(name)
        cases.append({**kept, "id": name, **prompt, "reference": str(turns[-1].get("content") or "")})
    return cases, True


def _ends_with_answer(row: Mapping[str, Any]) -> bool:
    """Say whether a chat row is one to train on; what is no conversation at all is for the reader to refuse."""
    turns = row["messages"]
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _metrics(task: _Task) -> tuple[str, ...]:
    """Learn the metrics' names from the grader's own answer about one case.

    Raises:
        ConfigError: The grader cannot be used, or fails on the case.
    """
    from tools.graders.contract import GraderSpec
    from tools.graders.host import Grader

    case = task.cases[0]
    with Grader(GraderSpec(file=str(task.grader))) as grader:
        [grade] = grader.grade([(case, str(case.get("reference") or ""), "stop")])
        names = grader.metrics
    if grade.error or not names:
        raise ConfigError(
            f"The grader {task.grader.name} failed on case {case['id']!r}: {grade.error or 'it gave no metric'}.",
            what="grader",
            where=str(task.grader),
            runbook=_RUNBOOK,
        )
    return names


def _max_tokens(task: _Task, model: Path | None) -> int:
    """Propose a decode budget that the longest reference fits into, without a tokenizer at hand."""
    longest = max((len(str(case.get("reference") or "")) for case in task.cases), default=0)
    if not longest:
        return _NO_REFERENCE_TOKENS
    config = (read_json(model / "config.json") if model else None) or {}
    size = config.get("vocab_size")
    per_token = 1 if isinstance(size, int) and size < _SMALL_VOCABULARY else 2
    tokens = longest // per_token + 1
    return min(_MOST_TOKENS, -(-tokens // _STEP_TOKENS) * _STEP_TOKENS)


def _needs_float32(model: Path | None) -> bool:
    """Say whether the model would crawl as stored: half precision, not quantized, and no Apple GPU to run it."""
    from tools.models.identity import describe_model

    if model is None or sys.platform == "darwin":
        return False
    facts = describe_model(model)
    return facts["dtype"] in _HALF and not facts["quantization"]


def _bound(task: _Task) -> float:
    """Propose an improvement that the cases can show: half of it must be at least one case of one half of them."""
    return max(_LEAST_GAIN, math.ceil(400 / len(task.cases)) / 100)


def _advice(task: _Task) -> list[str]:
    """Say so where the cases are too few to show a small improvement."""
    if len(task.cases) >= _ENOUGH_CASES:
        return []
    few = f"Only {len(task.cases)} evaluation cases: large changes alone can be told from luck"
    return [f"{few}; {_ENOUGH_CASES} or more make a better judge."]


def _model_folder(task: _Task) -> Path | None:
    written = Path(str(task.config["model"])).expanduser()
    found = (base / written for base in (task.config_path.parent, Path.cwd()))
    return next((path.resolve() for path in found if path.is_dir()), None)


def _named(task: _Task, path: Path) -> str:
    """Return a path as the campaign file names it, quoted: relative to the file's folder where it lies below it."""
    folder = task.out.parent.resolve()
    resolved = path.resolve()
    return json.dumps(str(resolved.relative_to(folder) if resolved.is_relative_to(folder) else resolved))


def _name(task: _Task) -> str:
    """Return a campaign name made of the file's own name."""
    stem = task.out.stem if task.out.stem != "campaign" else task.out.parent.name
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "-" for letter in stem)
    return kept.strip("._-")[:64] or "campaign"


def _recipe_text(task: _Task) -> str:
    """Return the recipe as YAML, mlx-lm's keys in mlx-lm's order, none left unsaid that decides what is learned."""
    given = {key: task.config[key] for key in _RECIPE if key in task.config}
    lora = given.get("lora_parameters") or {}
    text = _yaml_text({"recipe": {**given, "lora_parameters": {**_LORA_LEFT_OUT, **lora}}})
    added = {key: value for key, value in _LEFT_OUT.items() if key not in given}
    if not added:
        return text
    lines = "".join(f"  {line}\n" for line in _yaml_text(added).splitlines())
    return f"{text}  # Left out of {task.config_path.name}; these are mlx-lm's own defaults.\n{lines}"


def _yaml_text(rows: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML(typ="rt", pure=True)
    yaml.indent(mapping=2, sequence=4, offset=2)
    stream = StringIO()
    yaml.dump(dict(rows), stream)
    return stream.getvalue()


def _campaign_text(task: _Task, metrics: tuple[str, ...]) -> str:
    return "\n".join(_lines(task, metrics)) + "\n"


def _lines(task: _Task, metrics: tuple[str, ...]) -> Iterator[str]:
    model = _model_folder(task)
    taken = {f"{name}_feature" for name in vars(task.features)} | ({"resume_adapter_file"} if task.adapter else set())
    left_out = sorted(set(task.config) - _KNOWN - taken)
    is_shared = task.source.name == "valid.jsonl"
    yield f"# Written by vigil init from {task.config_path.name} and {task.grader.name}; change whatever you like."
    yield f"campaign: {json.dumps(_name(task))}"
    yield ""
    yield "model:"
    yield f"  path: {_named(task, model) if model else json.dumps(str(task.config['model']))}"
    if _needs_float32(model):
        yield "  dtype: float32  # stored in half precision, which MLX computes slowly on a CPU; leave out on a Mac"
    if task.adapter is not None:
        yield f"  adapter: {_named(task, task.adapter)}  # runs go on from it"
    yield ""
    yield "track:"
    yield f"  grader: {_named(task, task.grader)}"
    yield f"  metrics: {json.dumps(list(metrics))}  # what the grader answered with on the first case"
    yield ""
    yield "data:"
    yield f"  train: {_named(task, task.as_read(task.train))}"
    if task.valid is not None:
        yield f"  valid: {_named(task, task.as_read(task.valid))}"
    yield ""
    yield "evaluation:"
    yield "  # The longest reference must fit, end token included; the census measures it and names a budget that does."
    yield f"  max_tokens: {_max_tokens(task, model)}"
    yield "  splits:"
    yield f"    {_SPLIT}:"
    yield f"      file: {_named(task, task.cases_path)}"
    yield "      # Half compares runs, half only confirms a promotion; the draw depends on each case's id alone."
    yield "      confirmation_share: 0.5"
    if is_shared:
        yield "      # Taken from valid.jsonl for want of a test.jsonl; its loss is watched, it is never trained on."
    yield ""
    yield "gate:"
    yield f"  primary: {_SPLIT}.{metrics[0]}  # what runs are for; other conditions have to hold"
    yield "  conditions:"
    yield "    # Better than the base by at least this much, beyond chance. More is taken to be better; where less is,"
    yield "    # write max instead of min and a negative number."
    yield f"    - metric: {_SPLIT}.{metrics[0]}"
    yield "      against: base"
    yield f"      min: {_bound(task):g}"
    if metrics[1:]:
        yield "    # Perhaps also, no worse than the base by more than a margin:"
    for name in metrics[1:]:
        yield f"    # - {{metric: {_SPLIT}.{name}, against: base, min: -0.02}}"
    yield ""
    yield "# mlx-lm's keys, for the first run; later runs change them by rule."
    yield from _recipe_text(task).rstrip().splitlines()
    if left_out:
        yield f"# Not taken over from {task.config_path.name}: {', '.join(left_out)}."
    yield f"seed: {int(task.config.get('seed') or 0)}"
    yield ""
    yield "budget:"
    yield "  hours: 8"
    yield "  runs: 6"
    yield ""
    yield "approvals:"
    yield "  promotion: {mode: wait}  # auto: promote without asking; reject: never"
