"""Training configurations of mlx-lm and mlx-lm-lora: which files are some, and what is known of their keys.

The keys and choices are those of mlx-lm 0.32 and mlx-lm-lora 5.10; neither is imported. A file is taken for a
configuration by its keys, whatever its name.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from state.files import UnreadableError, read_bounded
from state.records import Json
from tools.data.rows import Features, parse_json, read_head, shown
from tools.probes.folder import Place, Project, Report, place_of

Loc = tuple[str | int, ...]
YamlReader = Callable[[Path], tuple[Json, Mapping[Loc, int]]]
"""Reads a bounded YAML mapping with the line of each key path; raises ConfigError."""

_MOST_BYTES = 64 << 10
"""No configuration of a training is longer."""
_MOST_CONFIGS = 200
_MOST_LOOKED_INTO = 5_000

STRONG = frozenset({
    "adapter_path", "fine_tune_type", "iters", "lora_layers", "lora_parameters", "mask_prompt", "num_layers",
    "resume_adapter_file", "save_every", "steps_per_eval", "steps_per_report", "train_mode", "train_type",
    "val_batches",
})  # fmt: skip
"""Keys that hardly any other tool's configuration has together."""

MLX_LM = STRONG - {"train_mode", "train_type", "lora_layers"} | {
    "batch_size", "chat_feature", "clear_cache_threshold", "completion_feature", "config", "data",
    "grad_accumulation_steps", "grad_checkpoint", "hf_dataset", "learning_rate", "lr_schedule", "max_seq_length",
    "model", "optimizer", "optimizer_config", "project_name", "prompt_feature", "report_to", "seed", "test",
    "test_batches", "text_feature", "train", "trust_remote_code",
}  # fmt: skip
MLX_LM_LORA = frozenset({
    "alpha", "answer_feature", "beta", "chosen_feature", "clip_epsilon_logits", "delta", "dpo_cpo_loss_type",
    "dsla_loss", "efficient_long_context", "epochs", "epsilon", "epsilon_high", "fuse", "gradient_accumulation_steps",
    "group_size", "grpo_loss_type", "importance_sampling_level", "judge", "judge_config", "klpo_kl_estimator",
    "klpo_mc_samples", "klpo_route", "klpo_tail_floor", "klpo_top_k", "lambda_mse", "lambda_mse_target",
    "latent_gamma", "latent_layer", "latent_margin", "latent_pooling", "latent_variant", "latent_weight",
    "lm_studio_name", "load_in_4bits", "load_in_6bits", "load_in_8bits", "load_in_mxfp4", "max_completion_length",
    "micro_batch_size", "preference_score_feature", "qat_bits", "qat_enable", "qat_group_size", "qat_interval",
    "qat_mode", "qat_start_step", "recurrence_chunk_size", "reference_model_path", "rejected_feature",
    "reward_functions", "reward_functions_file", "reward_scaling", "reward_weights", "sft_loss_type",
    "system_feature", "tau_mse_target", "temperature", "train_mode", "train_type", "type_feature", "wandb",
})  # fmt: skip
"""Keys that mlx-lm-lora has beside mlx-lm's."""
_OF_BOTH = frozenset({"alpha", "epochs", "gradient_accumulation_steps", "micro_batch_size", "temperature", "wandb"})
"""Keys of it that other trainers have too: alone beside `fine_tune_type` they make no configuration of it."""
_OF_MLX_LM = frozenset({"fine_tune_type", "grad_accumulation_steps", "report_to"})
LORA_TYPES = ("lora", "dora", "full")

_NOT_CONFIGS = frozenset({
    "adapter_config.json", "config.json", "generation_config.json", "package.json", "package-lock.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "run.json", "job.json",
})  # fmt: skip
_LEAST_KEYS = 2
_TOP_KEY = re.compile(rb"""(?m)^["']?([A-Za-z_][\w-]{1,40})["']?\s*:""")
_JSON_KEY = re.compile(rb'"([A-Za-z_][\w-]{1,40})"\s*:')


@dataclass(frozen=True)
class TrainingConfig:
    """A configuration as read."""

    project: Project
    path: Path
    values: Json
    lines: Mapping[Loc, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its path in the project."""
        return self.project.name(self.path)

    @property
    def subject(self) -> str:
        """What findings about it are about."""
        return f"config:{self.name}"

    def where(self, *loc: str | int) -> Json:
        """Return `file` and `line` of a key, or of the nearest one above it, as evidence."""
        for length in range(len(loc), 0, -1):
            if (line := self.lines.get(loc[:length])) is not None:
                return {"file": self.name, "line": line}
        return {"file": self.name, "line": 1}

    def text(self, key: str) -> str:
        """Return a value that is text; empty where it is not."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str, default: int) -> int:
        """Return a whole number above zero."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default

    @property
    def mode(self) -> str:
        """What mlx-lm-lora is to train by; `sft` where nothing is said."""
        return self.text("train_mode") or "sft"

    @property
    def is_lora_tools(self) -> bool:
        """Whether the file is for mlx-lm-lora: it has keys that mlx-lm has not."""
        own = MLX_LM_LORA & self.values.keys()
        return bool(own - _OF_BOTH) or bool(own and not _OF_MLX_LM & self.values.keys())

    @property
    def tool(self) -> str:
        """The trainer that the file is for."""
        return "mlx-lm-lora" if self.is_lora_tools else "mlx-lm"

    @property
    def kind(self) -> str:
        """What it trains: lora, dora or full."""
        return self.text("train_type" if self.is_lora_tools else "fine_tune_type") or "lora"

    @property
    def trains(self) -> bool:
        """Whether it trains: `train` may also be given on the command line."""
        return bool(self.values.get("train", not self.values.get("test")))

    @property
    def masks_prompt(self) -> bool:
        """Whether only answers are learned."""
        return self.values.get("mask_prompt") is True

    @cached_property
    def features(self) -> Features:
        """Keys of its data's columns."""
        return Features.of(self.values)

    def place(self, key: str) -> Place | None:
        """Return where a path of it leads; None where the key has no text."""
        written = self.text(key)
        return place_of(self.project, self.path.parent, written) if written else None

    @cached_property
    def data(self) -> Path | None:
        """Folder of its data inside the project."""
        place = self.place("data")
        return place.path if place is not None and place.path is not None and place.path.is_dir() else None


def is_config(values: Mapping[str, Any]) -> bool:
    """Say whether an object is the configuration of a training."""
    if not isinstance(values.get("model", ""), str) or not isinstance(values.get("data", ""), str):
        return False
    keys = {str(key).replace("-", "_") for key in values}
    known = keys & (MLX_LM | MLX_LM_LORA | STRONG)
    return (
        bool(keys & STRONG) and len(known - {"model"}) >= _LEAST_KEYS and ("model" in keys or len(known) > _LEAST_KEYS)
    )


def find_configs(project: Project, read: YamlReader, report: Report) -> list[TrainingConfig]:
    """Return the configurations of a project; one that looks like one and cannot be read is a finding."""
    found: list[TrainingConfig] = []
    for path in _candidates(project):
        if len(found) >= _MOST_CONFIGS:
            report.skip(("1", "6", "8", "P8"), f"more than {_MOST_CONFIGS} configurations; the rest was not read")
            break
        try:
            values, lines = _read(path, read)
        except ConfigError as error:
            said = error.sentence.removeprefix(f"{error.where}:").removeprefix(f"{path.name}:")
            _refuse(project, report, path, said.strip(), _line_of(error))
            continue
        except UnreadableError as error:
            _refuse(project, report, path, f"{error}.", 1)
            continue
        if is_config(values):
            found.append(TrainingConfig(project, path, values, lines))
    return found


def _candidates(project: Project) -> Iterator[Path]:
    """Yield the files whose keys, found by their looks alone, are those of a configuration."""
    paths = project.with_suffix(".yaml", ".yml", ".json")
    for path in [path for path in paths if path.name not in _NOT_CONFIGS][:_MOST_LOOKED_INTO]:
        head = read_head(path, _MOST_BYTES)
        keys = (_JSON_KEY if path.suffix == ".json" else _TOP_KEY).findall(head)
        names = {key.decode().replace("-", "_") for key in keys}
        if path.suffix != ".json" and head.lstrip()[:1] == b"{":
            names |= {key.decode().replace("-", "_") for key in _JSON_KEY.findall(head)}
        if is_config(dict.fromkeys(names, "")):
            yield path


def _read(path: Path, read: YamlReader) -> tuple[Json, Mapping[Loc, int]]:
    """Return the values of a file.

    Raises:
        ConfigError: It is no YAML mapping.
        UnreadableError: It is too large, or no JSON object.
    """
    raw = read_bounded(path, _MOST_BYTES)
    if path.suffix != ".json":
        values, lines = read(path)
        return _bounded(values), lines
    value = parse_json(raw)
    if not isinstance(value, dict):
        return {}, {}
    text = raw.decode()
    return value, {(key,): text[: text.find(f'"{key}"')].count("\n") + 1 for key in value if f'"{key}"' in text}


def _bounded(value: Any) -> Any:
    """Return a value of YAML with the integers that no tool's field holds as texts, as `whole_number` has them."""
    if isinstance(value, dict):
        return {key: _bounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_bounded(part) for part in value]
    return hex(value) if isinstance(value, int) and abs(value) >= 10**18 else value


def _line_of(error: ConfigError) -> int:
    line = error.where.rpartition(":")[2]
    return int(line) if line.isdecimal() else 1


def _refuse(project: Project, report: Report, path: Path, said: str, line: int) -> None:
    name = project.name(path)
    report.look("8")
    report.add(
        "8",
        f"config:{name}",
        f"{name} looks like the configuration of a training and cannot be read: {shown(said)[:300]}",
        "hard_stop",
        "Repair the file: plain YAML, a mapping of keys to values.",
        check="config_readable",
        file=name,
        line=line,
    )
