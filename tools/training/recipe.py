"""A recipe: mlx-lm's YAML keys with their meaning, and a few of ours, validated before anything is loaded.

No MLX here: the command line and the agent read recipes too. Where the stock trainer has a known defect
(facts/mlx_training.md, section 2), the mended behaviour is the default. Each mend with the key that switches it back,
and those that have none with the reason: runbooks/campaign_file.md, "What is mended in mlx-lm's trainer".
"""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from state.errors import ConfigError
from state.goal import MOST_SEED
from state.records import Json

_ALPHA = "mlx-lm multiplies the adapter by `scale` and knows no `alpha`; scale is alpha divided by rank"


_ADAM = frozenset({"betas", "eps", "bias_correction"})
OPTIMIZERS = {
    "adam": _ADAM,
    "adamw": _ADAM | {"weight_decay"},
    "muon": frozenset({"momentum", "weight_decay", "nesterov", "ns_steps"}),
    "sgd": frozenset({"momentum", "weight_decay", "dampening", "nesterov"}),
    "adafactor": frozenset({
        "eps", "clip_threshold", "decay_rate", "beta_1", "weight_decay", "scale_parameter", "relative_step",
        "warmup_init",
    }),
}  # fmt: skip
"""What each optimizer of the pinned mlx takes beside its learning rate."""

SCHEDULES = {
    "cosine_decay": ("init", "decay_steps", "end"),
    "exponential_decay": ("init", "decay_rate"),
    "linear_schedule": ("init", "end", "steps"),
    "step_decay": ("init", "decay_rate", "step_size"),
}
OPTIONAL_ARGUMENTS = {"cosine_decay": 1}
"""Trailing arguments that may be left out."""

_MOST_STEPS = 10**9
"""A step a millisecond for eleven days."""


class _Part(BaseModel):
    # Strict: `iters: true` is a mistake, not one iteration.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class LoraParameters(_Part):
    """How adapters are built."""

    rank: int = Field(default=8, ge=1, le=65_536)
    scale: float = Field(default=10.0, gt=0)
    """Multiplier of the adapter's output as applied; never alpha."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    keys: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    """Layers to adapt, such as `self_attn.q_proj`; all linear ones when left out."""


class Schedule(_Part):
    """mlx-lm's learning-rate schedule."""

    name: Literal["cosine_decay", "exponential_decay", "linear_schedule", "step_decay"]
    arguments: tuple[float, ...] = Field(min_length=1, strict=False)
    """As the function of `mlx.optimizers.schedulers` takes them; the first is the initial rate."""
    warmup: int = Field(default=0, ge=0, le=_MOST_STEPS)
    """Steps from `warmup_init` to the initial rate."""
    warmup_init: float = Field(default=0.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _has_its_arguments(self) -> Self:
        names = SCHEDULES[self.name]
        if not len(names) - OPTIONAL_ARGUMENTS.get(self.name, 0) <= len(self.arguments) <= len(names):
            raise ValueError(
                f"`arguments` of {self.name} are [{', '.join(names)}], but {len(self.arguments)} are given"
            )
        return self


class Recipe(_Part):
    """One training recipe."""

    fine_tune_type: Literal["lora", "dora", "full"] = "lora"
    optimizer: Literal["adam", "adamw", "muon", "sgd", "adafactor"] = "adamw"
    optimizer_config: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Optimizer name -> its arguments. Adam and AdamW correct their bias here unless `bias_correction: false`."""
    learning_rate: float = Field(default=1e-4, gt=0)
    lr_schedule: Schedule | None = None
    """Replaces `learning_rate`; counted in optimizer updates."""
    batch_size: int = Field(default=4, ge=1, le=65_536)
    iters: int = Field(default=100, ge=1, le=_MOST_STEPS)
    """Micro-steps, as in mlx-lm; one update every `grad_accumulation_steps`."""
    grad_accumulation_steps: int = Field(default=1, ge=1, le=65_536)
    grad_checkpoint: bool = False
    num_layers: int = Field(default=-1, ge=-1, le=100_000)
    """Layers from the top that are adapted; -1 is all."""
    lora_parameters: LoraParameters = LoraParameters()
    max_seq_length: int = Field(default=2048, ge=8, le=4_194_304)
    mask_prompt: bool = True
    """Learn the answer alone."""
    steps_per_report: int = Field(default=10, ge=1, le=_MOST_STEPS)
    steps_per_eval: int = Field(default=200, ge=1, le=_MOST_STEPS)
    save_every: int = Field(default=100, ge=1, le=_MOST_STEPS)
    val_batches: int = Field(default=-1, ge=-1, le=_MOST_STEPS)
    """Validation batches; -1 is the whole set, every row once."""
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    clear_cache_threshold: int = Field(default=0, ge=0, le=10**15)
    """Bytes of MLX's cache above which it is cleared between steps; 0 leaves it alone."""
    max_grad_norm: float | None = Field(default=1.0, gt=0, le=1e9)
    """Ours: largest norm of one update's gradient; null clips nothing, as in the stock trainer."""
    truncate: bool = False
    """Ours: cut rows longer than max_seq_length instead of refusing them."""
    length_bucketing: bool = True
    """Ours: rows of like length share a batch; false draws batches from all rows."""
    exact_mask: bool = True
    """Ours: nothing is learned after a row's last token; false learns the padding token (id 0) that follows it too, as
    the stock trainer does."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.num_layers == 0:
            raise ValueError("`num_layers: 0` would train nothing; use -1 for all layers")
        if unknown := set(self.optimizer_config) - set(OPTIMIZERS):
            raise ValueError(
                f"`optimizer_config` names {', '.join(sorted(unknown))}; it takes {', '.join(sorted(OPTIMIZERS))}"
            )
        for name, options in self.optimizer_config.items():
            if strange := set(options) - OPTIMIZERS[name]:
                raise ValueError(
                    f"`optimizer_config.{name}` has {', '.join(sorted(strange))}; "
                    f"it takes {', '.join(sorted(OPTIMIZERS[name]))}"
                )
        return self

    @property
    def updates(self) -> int:
        """Optimizer updates of the whole run; a last incomplete accumulation is applied too."""
        return -(-self.iters // self.grad_accumulation_steps)

    def adapter_config(self) -> Json:
        """Return what mlx-lm reads beside an adapter, with the rest of the recipe for people."""
        config = self.model_dump(mode="json")
        return {**config, "lora_parameters": {k: v for k, v in config["lora_parameters"].items() if v is not None}}


class PreferenceRecipe(Recipe):
    """A recipe for pairs; its own keys are mlx-lm-lora's."""

    beta: float = Field(default=0.1, gt=0, le=1e6)
    """Strength of the tie to the reference; the smaller, the further the policy may go."""
    loss_type: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """mlx-lm-lora spells it `dpo_cpo_loss_type`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of pairs taken to be labelled the wrong way round."""

    @model_validator(mode="after")
    def _is_a_preference(self) -> Self:
        if self.label_smoothing and self.loss_type != "sigmoid":
            raise ValueError(f"`label_smoothing` belongs to the sigmoid loss; {self.loss_type} has none")
        if not self.mask_prompt:
            raise ValueError("`mask_prompt: false` has no meaning for pairs: their prompt is the same on both sides")
        if not self.exact_mask:
            raise ValueError(
                "`exact_mask: false` has no meaning for pairs: it is how mlx_lm.lora learns demonstrations"
            )
        return self


Weight = Annotated[float, Field(ge=0)]


class RolloutRecipe(Recipe):
    """A recipe for rollouts graded while training (GRPO); keys that mlx-lm-lora has too are spelled as there.

    `iters` counts updates. An update learns from `batch_size` prompts times `group_size` rollouts.
    """

    batch_size: int = Field(default=4, ge=1, le=65_536)
    """Prompts of an update."""
    group_size: int = Field(default=8, ge=2, le=65_536)
    """Rollouts of each prompt; their rewards are compared with each other alone."""
    max_completion_length: int = Field(default=512, ge=1, le=1_000_000)
    """Decode budget of a rollout, tokens; the evaluation's own, or short answers are what is paid for."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Of sampling, and of the log-probabilities that are learned: the policy is the one that was sampled."""
    rollout_concurrency: int = Field(default=64, ge=1, le=65_536)
    """Rollouts decoded together; more is faster and takes more memory."""
    update_microbatch: int | None = Field(default=None, ge=1, le=65_536)
    """Rollouts computed together in an update; fewer takes less memory and gives the same update. Up to `group_size`
    each prompt is computed once for its answers. Left out: 8, and 64 with CUDA, where few shapes count for more than
    tokens."""
    updates_per_batch: int = Field(default=1, ge=1, le=65_536)
    """Updates that learn from the same rollouts; clipping matters from the second on."""
    beta: float = Field(default=0.04, ge=0, le=1e6)
    """Weight of the divergence from the parent."""
    epsilon: float = Field(default=0.2, gt=0, lt=1)
    """How far below 1 a token's probability ratio still earns."""
    epsilon_high: float | None = Field(default=None, gt=0, le=1_000)
    """How far above; `epsilon` when left out."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo"] = "dr_grpo"
    """What a token weighs: grpo, its share of its rollout, so that long answers are paid less per token; bnpo, its
    share of all tokens; dr_grpo, its share of the decode budget, the same in every rollout (no bias by length). Only
    rollouts that are learned from count: of a group whose rewards are all the same, none. mlx-lm-lora spells it
    `grpo_loss_type`."""
    scale_rewards: bool = True
    """Divide a group's advantages by their standard deviation."""
    reward_weights: dict[str, Weight] | None = Field(default=None, min_length=1)
    """Metric of the track -> what full marks are worth; those of the gate, one each, when left out."""
    reward_penalties: dict[str, Weight] = Field(default_factory=dict)
    """Metric of the track -> what it costs at 1: duplicated and fabricated rows."""
    truncated: Literal["mask", "penalize"] = "mask"
    """Rollouts that the decode budget cut: left out of the groups and the loss, or graded and charged
    `truncation_penalty`; a recipe that names the second alone asks for it."""
    truncation_penalty: float = Field(default=0.5, ge=0, le=1e9)
    kl_ceiling: float | None = Field(default=0.5, gt=0, le=1e9)
    """Divergence from the parent, nats per token, from which a run is stopped; null never."""
    entropy_floor: float | None = Field(default=0.1, gt=0, lt=1)
    """Share of the first updates' entropy below which a run is stopped; null never."""
    length_jump: float | None = Field(default=2.0, gt=1, le=1e9)
    """Factor by which rollouts may become longer or shorter than in the first updates; null any."""

    @model_validator(mode="before")
    @classmethod
    def _penalty_is_set(cls, data: Any) -> Any:
        is_set = isinstance(data, dict) and "truncation_penalty" in data
        return {"truncated": "penalize", **data} if is_set else data

    @model_validator(mode="after")
    def _is_about_rollouts(self) -> Self:
        if self.grad_accumulation_steps != 1:
            raise ValueError(
                "`grad_accumulation_steps` has no meaning for rollouts: an update's size is batch_size x group_size, "
                "and `update_microbatch` bounds its memory"
            )
        if not self.mask_prompt:
            raise ValueError("`mask_prompt: false` has no meaning for rollouts: only what was sampled is learned")
        if not self.exact_mask:
            raise ValueError("`exact_mask: false` has no meaning for rollouts: only what was sampled is learned")
        if both := sorted(set(self.reward_weights or ()) & set(self.reward_penalties)):
            raise ValueError(f"`reward_weights` and `reward_penalties` both name {', '.join(both)}")
        if self.reward_weights is not None and not any(self.reward_weights.values()):
            raise ValueError("`reward_weights` are all zero, so nothing would be learned")
        return self

    @property
    def clip(self) -> tuple[float, float]:
        """The bounds of a probability ratio."""
        return 1 - self.epsilon, 1 + (self.epsilon if self.epsilon_high is None else self.epsilon_high)


RECIPES: Mapping[str, type[Recipe]] = {"sft": Recipe, "dpo": PreferenceRecipe, "grpo": RolloutRecipe}
"""Instrument -> what its recipe may say."""

_SPELLINGS = {"dpo": {"dpo_cpo_loss_type": "loss_type"}, "grpo": {"grpo_loss_type": "loss_type"}}
"""Instrument -> another tool's key -> ours."""


def validate_recipe(recipe: Mapping[str, Any], instrument: str = "sft") -> Recipe:
    """Return an instrument's recipe with its defaults filled in.

    Raises:
        ConfigError: An unknown key (the nearest known one is named), a wrong type or a value out of range; or an
            instrument that has no recipe.
    """
    if instrument not in RECIPES:
        raise ConfigError(
            f"`{instrument}` cannot be trained; known instruments are {', '.join(RECIPES)}.",
            what="instrument",
            value=instrument,
        )
    kind = RECIPES[instrument]
    try:
        return kind.model_validate(_in_our_spelling(recipe, instrument))
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False)[0], kind) from None


def _in_our_spelling(recipe: Mapping[str, Any], instrument: str) -> Json:
    ours = dict(recipe)
    for theirs, name in _SPELLINGS.get(instrument, {}).items():
        if theirs in ours and name in ours:
            raise ConfigError(f"`recipe.{theirs}` and `recipe.{name}` are one key; keep one.", what=f"recipe.{theirs}")
        if theirs in ours:
            ours[name] = ours.pop(theirs)
    return ours


def _refusal(fault: Any, kind: type[Recipe]) -> ConfigError:
    """Return one sentence about the first fault."""
    keys = [str(part) for part in fault["loc"]]
    name = ".".join(["recipe", *keys])
    if fault["type"] == "extra_forbidden":
        parts: dict[str, type[_Part]] = {"lora_parameters": LoraParameters, "lr_schedule": Schedule}
        known = list((parts.get(keys[0], kind) if len(keys) > 1 else kind).model_fields)
        near = get_close_matches(keys[-1], known, 1)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys are {', '.join(known)}."
        others = [name for name, other in RECIPES.items() if len(keys) == 1 and keys[0] in other.model_fields]
        hint = f"it is one of {others[0]}." if others else hint
        hint = f"{_ALPHA}." if keys[-1] == "alpha" else hint
        return ConfigError(f"`{name}` is no key of a recipe; {hint}", what=name, value=fault["input"])
    reason = str(fault["msg"]).removeprefix("Value error, ")
    return ConfigError(f"`{name}`: {reason[0].lower()}{reason[1:]}.", what=name, value=fault["input"])
