"""What the trainers of mlx-lm and mlx-lm-lora make of a configuration's keys and values (6), without running them.

What stops them, what makes them train nothing, and what they pass over without a word. Read from mlx-lm 0.32
(`lora.py`, `tuner/utils.py`, `tuner/trainer.py`), the optimizers and schedules of mlx 0.32, and mlx-lm-lora's
`train.py`; neither is imported. Rows and models are no part of it.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypeGuard

from state.records import Severity
from tools.data.rows import shown
from tools.probes.configs import LORA_TYPES, MLX_LM, MLX_LM_LORA, STRONG, TrainingConfig
from tools.training.recipe import OPTIMIZERS, OPTIONAL_ARGUMENTS, SCHEDULES

Effect = Literal["stops", "trains nothing", "misleads"]


@dataclass(frozen=True)
class Fault:
    """What is wrong with one key.

    Args:
        key: The key, dotted where it is nested.
        said: What is wrong, without the name of the file and the full stop.
        fix: What to write.
        effect: What the trainer does with it.
        claim: Short stable name.
        meant: Key of mlx-lm that was meant, where the key is not mlx-lm's.
    """

    key: str
    said: str
    fix: str
    effect: Effect = "stops"
    claim: str = ""
    meant: str = ""

    @property
    def severity(self) -> Severity:
        """What it forbids."""
        return "warning" if self.effect == "misleads" else "hard_stop"


TRAIN_MODES = (
    "sft", "dpo", "dsla", "ftpo", "cpo", "orpo", "grpo", "klpo", "online_dpo", "xpo", "rlhf_reinforce", "ppo",
)  # fmt: skip
DEFAULT_BATCH_SIZE = 4
DEFAULT_ITERS = 1000
"""mlx-lm's own, where a configuration says nothing."""

_WHOLE = ("iters", "batch_size", "max_seq_length", "num_layers", "val_batches", "test_batches", "seed")
_STEPS = ("steps_per_report", "steps_per_eval", "save_every", "grad_accumulation_steps", "gradient_accumulation_steps")
_ABOVE_ZERO = frozenset({"iters", "batch_size", "max_seq_length", *_STEPS})
_SWITCHES = ("train", "test", "mask_prompt", "grad_checkpoint", "trust_remote_code")
_REPORTS = ("wandb", "swanlab")
_MOST_RATE = {"sgd": 1.0, "muon": 0.1}
"""Learning rates above which training diverges whatever the data: steps of Adam are as large as the rate itself."""
_MOST_RATE_ELSE = 0.01
_LEAST_ALPHA = 32
_MOST_SCALE = 40
"""Twice mlx-lm's default scale of 20; `alpha` is of this size in other tools."""
_NO_RATE = 0.01
"""Of the highest rate; steps below this share of it are counted as steps that train nothing."""
_MOST_UPDATES = 20_000

_NEAR = 0.84
_KEYS = tuple(sorted(MLX_LM | MLX_LM_LORA | STRONG))
_MEANT: dict[str, str] = {
    theirs: ours
    for ours, others in {
        "iters": "num_train_epochs num_epochs n_epochs max_epochs epochs max_steps max_iters num_steps total_steps "
        "train_steps n_iters iterations num_iters num_iterations",
        "batch_size": "per_device_train_batch_size train_batch_size micro_batch_size per_device_batch_size",
        "val_batches": "per_device_eval_batch_size eval_iters eval_batches",
        "grad_accumulation_steps": "gradient_accumulation_steps grad_accum_steps accumulate_grad_batches "
        "gradient_accumulation accumulation_steps",
        "lr_schedule": "lr_scheduler_type lr_scheduler scheduler warmup_ratio warmup_steps warmup num_warmup_steps "
        "lr_scheduler_kwargs min_lr",
        "learning_rate": "lr base_lr max_lr peak_lr",
        "lora_parameters.rank": "lora_r lora_rank r rank",
        "lora_parameters.scale": "lora_alpha lora_scale alpha scale",
        "lora_parameters.dropout": "lora_dropout dropout",
        "lora_parameters.keys": "target_modules lora_target_modules lora_target lora_modules lora_keys keys",
        "fine_tune_type": "use_dora use_lora peft_type finetuning_type training_type full_finetuning train_type",
        "optimizer": "optim",
        "optimizer_config": "weight_decay adam_beta1 adam_beta2 adam_epsilon betas momentum optim_args",
        "max_seq_length": "max_length cutoff_len sequence_len model_max_length block_size context_length seq_length",
        "save_every": "save_steps save_freq save_interval save_strategy",
        "steps_per_eval": "eval_steps eval_every evaluation_steps eval_interval evaluation_strategy eval_strategy",
        "steps_per_report": "logging_steps log_every log_interval",
        "adapter_path": "adapter_file output_dir save_path output_path adapter_dir save_dir",
        "resume_adapter_file": "resume_from_checkpoint adapter_name_or_path",
        "grad_checkpoint": "gradient_checkpointing use_gradient_checkpointing activation_checkpointing",
        "num_layers": "lora_layers lora_num_layers layers_to_transform num_lora_layers n_lora_layers",
        "mask_prompt": "train_on_inputs train_on_responses_only completion_only_loss assistant_only_loss "
        "train_on_prompt",
        "data": "dataset datasets train_file dataset_path data_path train_data dataset_name training_data",
        "model": "model_name_or_path base_model model_name model_id model_path",
        "seed": "random_seed random_state",
        "text_feature": "dataset_text_field text_column",
        "report_to": "use_wandb wandb wandb_project",
    }.items()
    for theirs in others.split()
}
"""Key of other trainers (Transformers, TRL, PEFT, Axolotl, LLaMA-Factory, older mlx-lm) -> mlx-lm's for the same."""
_NOTHING_LIKE = frozenset({
    "bf16", "clip_grad", "deepspeed", "early_stopping_patience", "flash_attention", "fp16", "fsdp",
    "gradient_clipping", "group_by_length", "init_lora_weights", "load_best_model_at_end", "load_in_4bit",
    "load_in_8bit", "lora_bias", "max_grad_norm", "modules_to_save", "neftune_noise_alpha", "packing",
    "sample_packing", "use_rslora",
})  # fmt: skip
"""Keys of other trainers for what mlx-lm has not."""
_IN_LORA = {
    "alpha": "scale", "lora_alpha": "scale", "r": "rank", "lora_r": "rank", "lora_rank": "rank",
    "lora_dropout": "dropout", "p": "dropout", "target_modules": "keys", "modules": "keys", "lora_layers": "keys",
    "num_layers": "num_layers",
}  # fmt: skip
_HOW = {
    "iters": "`iters` counts batches: rows / batch_size for one pass",
    "lora_parameters.scale": "`lora_parameters: {scale: …}` is the multiplier itself: alpha / rank",
    "lora_parameters.rank": "`lora_parameters: {rank: …, scale: …, dropout: …}`",
    "lora_parameters.dropout": "`lora_parameters: {rank: …, scale: …, dropout: …}`",
    "lora_parameters.keys": "`lora_parameters: {keys: [self_attn.q_proj, …], rank: …, scale: …, dropout: …}`",
    "lr_schedule": "`lr_schedule: {name: cosine_decay, arguments: [RATE, UPDATES], warmup: UPDATES}`",
    "optimizer_config": "`optimizer_config: {adamw: {weight_decay: 0.01}}`",
    "fine_tune_type": "`fine_tune_type: lora`, dora or full",
    "mask_prompt": "`mask_prompt: true` to learn answers only",
    "adapter_path": "`adapter_path` is the folder that adapters.safetensors is written to",
    "data": "`data` is the folder with train.jsonl and valid.jsonl",
}


def faults_of(config: TrainingConfig, *, has_valid: bool | None) -> Iterator[Fault]:
    """Yield what is wrong with a configuration by itself.

    Args:
        config: The configuration.
        has_valid: Whether its data has validation rows; None where nobody knows.
    """
    yield from _keys(config)
    yield from _choices(config)
    yield from _numbers(config, has_valid=has_valid is not False)
    if config.trains:
        yield from _low_rank(config)
        yield from _optimizer(config)
        yield from _rates(config)


def _keys(config: TrainingConfig) -> Iterator[Fault]:
    """Yield keys that the tool passes over without a word, with what they mean there."""
    values = config.values
    for key in map(str, values):
        written = key.replace("-", "_")
        if written in _KEYS:
            if written != key:
                yield _slip(config, key, written)
            elif not config.is_lora_tools and written not in MLX_LM and written in _MEANT:
                yield _slip(config, key, _MEANT[written])
            continue
        if written in _MEANT:
            yield _slip(config, key, _MEANT[written])
        elif written in _NOTHING_LIKE:
            said = (
                f"has the key `{shown(key)[:60]}`, which {config.tool} passes over without a word; it has no such thing"
            )
            yield Fault(key, said, f"Remove `{shown(key)[:60]}`.", "misleads", "key")
        elif isinstance(values[key], dict) and (inner := sorted(STRONG & {str(name) for name in values[key]})):
            named = ", ".join(f"`{name}`" for name in inner)
            said = f"has {named} under `{shown(key)[:60]}`; {config.tool} reads keys at the top only"
            yield Fault(key, said, f"Move what stands under `{shown(key)[:60]}` to the top.", "misleads", "key")
        else:
            near = difflib.get_close_matches(written, _KEYS, n=1, cutoff=_NEAR)
            if near and near[0] not in values:
                yield _slip(config, key, near[0])
    kind = config.values.get("fine_tune_type")
    if config.is_lora_tools and "train_type" not in values and kind not in (None, "lora"):
        yield _slip(config, "fine_tune_type", "train_type")


def _slip(config: TrainingConfig, key: str, meant: str) -> Fault:
    is_set = meant.split(".", maxsplit=1)[0] in config.values
    rest = "" if is_set else f"; `{meant}` keeps its default"
    ours = meant
    if config.is_lora_tools and meant == "grad_accumulation_steps":
        ours = "gradient_accumulation_steps"
    said = f"has the key `{shown(key)[:60]}`, which {config.tool} passes over without a word{rest}"
    how = f" ({_HOW[meant]})" if meant in _HOW else ""
    fix = f"Remove it; `{ours}` says it here{how}." if is_set else f"Write `{ours}`{how}."
    return Fault(key, said, fix, "misleads", "key", ours)


def _choices(config: TrainingConfig) -> Iterator[Fault]:
    kind_key = "train_type" if config.is_lora_tools else "fine_tune_type"
    choices: dict[str, tuple[str, ...]] = {
        kind_key: LORA_TYPES,
        "optimizer": tuple(OPTIMIZERS),
        "train_mode": TRAIN_MODES,
    }
    for key, known in choices.items():
        value = config.text(key)
        if not value or (value.lower() if key == "optimizer" else value) in known:
            continue
        if config.is_lora_tools and key != kind_key:
            # Its list of algorithms grows from version to version; what is unknown here may be known there.
            continue
        yield _refused(key, f"`{key}: {shown(value)[:40]}` is not known to {config.tool}: {', '.join(known)}")
    reports = config.text("report_to").split(",") if not config.is_lora_tools else []
    if odd := [one.strip() for one in reports if one.strip() and one.strip().lower() not in _REPORTS]:
        yield _refused("report_to", f"`report_to: {shown(odd[0])[:40]}` is not known to mlx-lm: {', '.join(_REPORTS)}")
    for key in _SWITCHES:
        switch = config.values.get(key)
        if isinstance(switch, str) and switch.strip().lower() in {"false", "no", "off", "0", "none"}:
            said = f'has `{key}: "{shown(switch)[:20]}"`, a text, which counts as true'
            yield Fault(key, said, f"Write `{key}: false`, without quotes.", "misleads", "switch")


def _refused(key: str, said: str, fix: str = "") -> Fault:
    return Fault(key, said, fix or f"Correct `{key}`.", claim=f"choice_{key}")


def is_number(value: Any) -> TypeGuard[int | float]:
    """Say whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(config: TrainingConfig, *, has_valid: bool) -> Iterator[Fault]:
    """Yield numbers that the loop stops at, divides by, or never comes to."""
    values = config.values
    for key in (*_WHOLE, *_STEPS):
        size = values.get(key)
        if size is None or (key in MLX_LM_LORA and not config.is_lora_tools):
            continue
        if not _is_whole(size):
            kind = "the text " if isinstance(size, str) else ""
            yield _refused(key, f"`{key}` is {kind}{shown(str(size))[:40]}, not a whole number")
        elif key == "iters" and size < 0:
            said = f"`iters` is {size}; the loop ends before its first step"
            yield Fault(key, said, "Write how many batches to train on.", "trains nothing", "choice_iters")
        elif key in _ABOVE_ZERO and size < 1:
            if key == "steps_per_eval" and not has_valid:
                continue
            fix = (
                f"Write a number above `iters` to switch it off, or leave `{key}` out."
                if size == 0 and key in _STEPS
                else ""
            )
            yield _refused(key, f"`{key}` is {size}", fix)
        elif (key == "val_batches" and has_valid and config.trains) or (key == "test_batches" and values.get("test")):
            what = "validation" if key == "val_batches" else "test"
            if size == 0 or size < -1:
                said = f"has `{key}: {size}`: no batch is evaluated, and the {what} loss is NaN (0 / 0)"
                yield Fault(key, said, f"Write at least 1, or -1 for all rows in `{key}`.", "misleads", f"no_{key}")
        elif key == "num_layers" and size == 0:
            said = "has `num_layers: 0`, by which mlx-lm trains all layers, not none"
            yield Fault(key, said, "Write -1 for all layers, or how many of the last ones.", "misleads", "num_layers")
    if config.mode == "grpo" and _is_whole(size := values.get("group_size")) and size < 2:  # noqa: PLR2004 - a group
        said = f"`group_size` is {size}: an advantage is the difference from the group's mean, zero in a group of one"
        yield Fault("group_size", said, "Write at least 4.", "trains nothing", "group_size")


def _low_rank(config: TrainingConfig) -> Iterator[Fault]:
    """Yield what is wrong with the block of the adapter: one that is given replaces the whole default."""
    lora = config.values.get("lora_parameters")
    if lora is None or config.kind == "full":
        return
    if not isinstance(lora, dict):
        yield _refused("lora_parameters", "`lora_parameters` is no mapping", "Write rank, scale and dropout under it.")
        return
    yield from low_rank_faults(lora, "lora_parameters", config.tool)


def low_rank_faults(lora: Mapping[str, Any], block: str, tool: str) -> Iterator[Fault]:
    """Yield what is wrong with a block of `lora_parameters`, of a configuration or of an adapter."""
    rank, alpha, scale = lora.get("rank", lora.get("r")), lora.get("alpha", lora.get("lora_alpha")), lora.get("scale")
    missing = [key for key in ("rank", "scale", "dropout") if lora.get(key) is None]
    own = f"scale = alpha / rank = {alpha / rank:g}" if is_number(alpha) and is_number(rank) and rank else ""
    if missing:
        named = ", ".join(f"`{key}`" for key in missing)
        beside = ""
        if "scale" in missing and alpha is not None:
            beside = f"; `alpha` is not {tool}'s"
        said = f"`{block}` has no {named}, and a block that is given replaces the whole default{beside}"
        wanted = {
            "rank": "`rank: 8`",
            "scale": own and f"`scale: {alpha / rank:g}` ({own})",
            "dropout": "`dropout: 0.0`",
        }
        fix = " and ".join(wanted[key] or f"`{key}: 20.0` (mlx-lm's default)" for key in missing)
        yield Fault(
            f"{block}.{'alpha' if beside else missing[0]}", said, f"Write {fix} into `{block}`.", claim="lora_block"
        )
    yield from _low_rank_values(lora, block)
    for key in map(str, lora):
        if key in {"rank", "scale", "dropout", "keys"} or (key in {"alpha", "lora_alpha"} and "scale" in missing):
            continue
        meant = _IN_LORA.get(key, "")
        if meant in missing:
            continue
        if meant:
            said = f"has `{block}.{shown(key)[:40]}`, which {tool} passes over without a word"
            more = f" ({own})" if meant == "scale" and own else ""
            name = meant if meant == "num_layers" else f"{block}.{meant}"
            yield Fault(f"{block}.{key}", said, f"Remove it; `{name}` is what counts{more}.", "misleads", "key", name)
    if (
        is_number(scale)
        and scale >= _LEAST_ALPHA
        and (scale > _MOST_SCALE or (is_number(rank) and scale in {rank, 2 * rank}))
    ):
        meant = (
            f" If {scale:g} is alpha, alpha / rank = {scale / rank:g} was meant." if is_number(rank) and rank else ""
        )
        said = f"has `{block}.scale: {scale:g}`, and scale is the multiplier itself, not alpha (mlx-lm's default is 20)"
        yield Fault(f"{block}.scale", said, f"Write the multiplier.{meant}", "misleads", "scale_is_alpha")


def _low_rank_values(lora: Mapping[str, Any], block: str) -> Iterator[Fault]:
    rank, scale, dropout, keys = (lora.get(key) for key in ("rank", "scale", "dropout", "keys"))
    if rank is not None and (not _is_whole(rank) or rank < 1):
        yield _refused(f"{block}.rank", f"`{block}.rank` is {shown(str(rank))[:40]}, not a whole number above 0")
    if scale is not None and not is_number(scale):
        yield _refused(f"{block}.scale", f"`{block}.scale` is {shown(str(scale))[:40]}, not a number")
    elif scale == 0:
        said = f"`{block}.scale` is 0, so that the adapter adds nothing"
        yield Fault(
            f"{block}.scale", said, "Write alpha / rank, such as 2, or mlx-lm's 20.", "trains nothing", "no_scale"
        )
    if dropout is not None and (not is_number(dropout) or not 0 <= dropout < 1):
        yield _refused(
            f"{block}.dropout", f"`{block}.dropout` is {shown(str(dropout))[:40]}, not a share from 0 to below 1"
        )
    if isinstance(keys, str):
        said = f"`{block}.keys` is the text {shown(keys)[:60]}, which is searched for letters, not a list"
        yield _refused(f"{block}.keys", said, f"Write a list: `keys: [{shown(keys)[:60]}]`.")
    elif keys is not None and (not isinstance(keys, list) or not all(isinstance(key, str) for key in keys)):
        yield _refused(f"{block}.keys", f"`{block}.keys` is no list of names")
    elif keys == []:
        said = f"`{block}.keys` is empty, so that no layer gets an adapter"
        yield Fault(f"{block}.keys", said, "Name layers, or leave `keys` out for all.", "trains nothing", "no_keys")


def _optimizer(config: TrainingConfig) -> Iterator[Fault]:
    """Yield options that the optimizer does not take."""
    given = config.values.get("optimizer")
    name = given.lower() if isinstance(given, str) and given else "adam"
    options = config.values.get("optimizer_config")
    if given is not None and not isinstance(given, str):
        yield _refused("optimizer", f"`optimizer` is {shown(str(given))[:40]}, not a name")
        return
    if options is None or name not in OPTIMIZERS:
        return
    if not isinstance(options, dict):
        yield _refused("optimizer_config", "`optimizer_config` is no mapping")
        return
    flat = sorted(str(key) for key in options if key not in OPTIMIZERS)
    if flat:
        named = ", ".join(f"`{key}`" for key in flat)
        said = f"has {named} in `optimizer_config`, which holds options by optimizer; nothing is taken from it"
        yield Fault(
            "optimizer_config",
            shown(said),
            f"Write `optimizer_config: {{{name}: {{…}}}}`.",
            "misleads",
            "optimizer_config",
        )
    own = options.get(name, {})
    if not isinstance(own, dict):
        yield _refused(f"optimizer_config.{name}", f"`optimizer_config.{name}` is no mapping")
        return
    if strange := sorted(str(key) for key in own if key not in OPTIMIZERS[name]):
        takes = ", ".join(sorted(OPTIMIZERS[name]))
        said = f"`optimizer_config.{name}` has {', '.join(strange)}, which {name} does not take; it takes {takes}"
        where = [other for other in OPTIMIZERS if set(strange) <= OPTIMIZERS[other]]
        fix = (
            f"Remove it, or write `optimizer: {where[0]}` and put it under `optimizer_config.{where[0]}`."
            if where
            else ""
        )
        if strange == ["learning_rate"]:
            fix = "Write `learning_rate` at the top."
        yield _refused(f"optimizer_config.{name}", shown(said), fix)
    betas = own.get("betas", [0.9, 0.999])
    is_pair = isinstance(betas, list) and len(betas) == 2  # noqa: PLR2004 - of the mean and of the square
    if not is_pair or not all(is_number(beta) and 0 <= beta < 1 for beta in betas):
        yield _refused(
            f"optimizer_config.{name}.betas",
            f"`betas` of {name} is {shown(str(betas))[:40]}, not two numbers from 0 to below 1",
        )
    for key in ("eps", "weight_decay", "momentum"):
        if isinstance(own.get(key), str):
            yield _refused(
                f"optimizer_config.{name}.{key}", f"`{key}` of {name} is the text {shown(own[key])[:40]}, not a number"
            )


def _rates(config: TrainingConfig) -> Iterator[Fault]:
    """Yield learning rates and schedules that stop the trainer or train nothing over the run that is planned."""
    yield from _rate_alone(config)
    values = config.values
    iters, every = updates_of(config)
    if iters is not None and every > iters > 0:
        key = "gradient_accumulation_steps" if config.is_lora_tools else "grad_accumulation_steps"
        said = f"`{key}` is {every} and the run has {iters} steps, so that the weights are never updated"
        yield Fault(key, said, f"Lower `{key}`, or train at least {every} steps.", "trains nothing", "no_update")
        return
    schedule = values.get("lr_schedule")
    if not schedule:
        return
    faults = list(_schedule(schedule))
    yield from faults
    if faults and any(one.effect == "stops" for one in faults):
        return
    if iters is not None and iters >= every:
        yield from _curve(schedule, iters // every, config.text("optimizer").lower() or "adam")


def updates_of(config: TrainingConfig) -> tuple[int | None, int]:
    """Return the steps of a run, None where rows decide, and after how many of them the weights are updated."""
    key = "gradient_accumulation_steps" if config.is_lora_tools else "grad_accumulation_steps"
    every = config.number(key, 1)
    iters = config.values.get("iters")
    if config.is_lora_tools and iters is None:
        return None, every
    return (iters if _is_whole(iters) else DEFAULT_ITERS if iters is None else None), every


def _rate_alone(config: TrainingConfig) -> Iterator[Fault]:
    rate = config.values.get("learning_rate")
    if rate is None:
        return
    if config.values.get("lr_schedule"):
        return
    if not is_number(rate):
        yield _refused("learning_rate", f"`learning_rate` is {shown(str(rate))[:40]}, not a number")
    elif rate <= 0:
        what = "no step changes anything" if rate == 0 else "each step raises the loss"
        yield Fault(
            "learning_rate",
            f"`learning_rate` is {rate:g}, so that {what}",
            "Write such as 1e-5 to 1e-4.",
            "trains nothing",
            "rate",
        )
    else:
        yield from _too_high(rate, "learning_rate", config.text("optimizer").lower() or "adam")


def _too_high(rate: float, key: str, optimizer: str) -> Iterator[Fault]:
    most = _MOST_RATE.get(optimizer, _MOST_RATE_ELSE)
    if rate > most:
        said = (
            f"has a learning rate of {rate:g}; above {most:g} with {optimizer} the loss diverges or becomes NaN, and "
            "mlx-lm ends with code 0 all the same"
        )
        yield Fault(
            key, said, "Write such as 1e-5 to 1e-4 for adapters, 1e-6 to 1e-5 for full training.", "misleads", "rate"
        )


def _schedule(schedule: Any) -> Iterator[Fault]:
    """Yield what `build_schedule` stops at."""
    if not isinstance(schedule, dict):
        yield _refused("lr_schedule", "`lr_schedule` is no mapping", f"Write {_HOW['lr_schedule']}.")
        return
    name, arguments = schedule.get("name"), schedule.get("arguments")
    if not isinstance(name, str) or name not in SCHEDULES:
        near = difflib.get_close_matches(str(name), SCHEDULES, n=1, cutoff=0.4)
        said = f"`lr_schedule.name` is {shown(str(name))[:40]}; mlx has {', '.join(SCHEDULES)}"
        said = said if name is not None else f"`lr_schedule` has no `name`; mlx has {', '.join(SCHEDULES)}"
        yield _refused("lr_schedule.name", said, f"Write `name: {near[0]}`." if near else "")
        return
    takes = SCHEDULES[name]
    written = f"`arguments: [{', '.join(takes)}]`"
    if not isinstance(arguments, list) or not arguments:
        yield _refused(
            "lr_schedule.arguments",
            f"`lr_schedule` has no list `arguments` for {name}",
            f"Write {written}, with your numbers.",
        )
        return
    least = len(takes) - OPTIONAL_ARGUMENTS.get(name, 0)
    if not least <= len(arguments) <= len(takes) or not all(map(is_number, arguments)):
        said = f"`lr_schedule.arguments` has {len(arguments)} entries; {name} takes numbers for {', '.join(takes)}"
        yield _refused("lr_schedule.arguments", said, f"Write {written}, with your numbers.")
        return
    named = dict(zip(takes, arguments, strict=False))
    for key in ("decay_steps", "step_size", "steps"):
        if key in named and named[key] < 1:
            yield _refused("lr_schedule.arguments", f"`{key}` of {name} is {named[key]:g}, below 1")
    warmup = schedule.get("warmup")
    if warmup and (not is_number(warmup) or warmup < 1):
        yield _refused(
            "lr_schedule.warmup",
            f"`lr_schedule.warmup` is {shown(str(warmup))[:40]}; it counts updates",
            "Write a whole number of updates.",
        )
    strange = sorted(str(key) for key in schedule if key not in {"name", "arguments", "warmup", "warmup_init"})
    if strange:
        said = (
            f"has {', '.join(f'`{key}`' for key in strange)} in `lr_schedule`, which mlx-lm passes over without a word"
        )
        yield Fault(
            f"lr_schedule.{strange[0]}",
            shown(said),
            "Write `name`, `arguments`, `warmup` and `warmup_init` only.",
            "misleads",
            "key",
        )


def rate_at(schedule: Mapping[str, Any], update: int) -> float:
    """Return a schedule's learning rate at an update counted from 0, as mlx's functions compute it."""
    named = dict(zip(SCHEDULES[schedule["name"]], schedule["arguments"], strict=False))
    start = float(named["init"])
    warmup = int(schedule.get("warmup") or 0)
    if warmup and update < warmup + 1:
        begin = float(schedule.get("warmup_init") or 0.0)
        return begin + (start - begin) * min(update, warmup) / warmup
    step = update - (warmup + 1 if warmup else 0)
    match schedule["name"]:
        case "cosine_decay":
            end = float(named.get("end", 0.0))
            return end + (start - end) * 0.5 * (
                1 + math.cos(math.pi * min(step, named["decay_steps"]) / named["decay_steps"])
            )
        case "linear_schedule":
            return float(start + (named["end"] - start) * min(step, named["steps"]) / named["steps"])
        case "step_decay":
            step = int(step // named["step_size"])
    try:
        return float(start * float(named["decay_rate"]) ** step)
    except OverflowError:
        return math.inf


def _curve(schedule: Mapping[str, Any], updates: int, optimizer: str) -> Iterator[Fault]:
    """Yield what the curve over the run shows: no rate at all, none for most of it, a warm-up that never ends."""
    stride = max(1, updates // _MOST_UPDATES)
    rates = [rate_at(schedule, update) for update in islice(range(updates), 0, None, stride)]
    asked, top = max(float(schedule["arguments"][0]), 0.0), max(rates)
    if top <= 0:
        said = f"the learning rate of `lr_schedule` is {top:g} in all {updates} updates of the run"
        yield Fault(
            "lr_schedule",
            said,
            "Write the initial rate first in `arguments`, and a warm-up shorter than the run.",
            "trains nothing",
            "rate",
        )
        return
    warmup = schedule.get("warmup") or 0
    if warmup >= updates:
        said = f"warms up over {warmup:g} updates and has {updates}: the learning rate reaches {top:.2g} of {asked:g}"
        yield Fault(
            "lr_schedule.warmup",
            said,
            "Write a warm-up well below `iters` / `grad_accumulation_steps`.",
            "misleads",
            "warmup",
        )
    if high := list(_too_high(top, "lr_schedule.arguments", optimizer)):
        yield from high
        return
    idle = sum(rate < _NO_RATE * top for rate in rates[int(warmup // stride) :]) / len(rates)
    if idle > 0.5:  # noqa: PLR2004 - most of the run
        said = (
            f"has a learning rate below {_NO_RATE:.0%} of its highest ({top:.2g}) in {idle:.0%} of its {updates} "
            "updates, which train nothing"
        )
        yield Fault(
            "lr_schedule.arguments",
            said,
            f"Let {schedule['name']} end with the run: about {updates - int(warmup)} updates.",
            "misleads",
            "rate",
        )
