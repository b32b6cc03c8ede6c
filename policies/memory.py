"""What a training will take in memory, told before it starts; and whether that is what it took.

The peak of a step is weights, adapter and optimizer, and what the gradient needs of the forward pass. Its coefficients
were fitted on 41 single steps of random Llamas in MLX 0.32 on Linux CPU, which they meet within 9 %: hidden 128 to 512,
3 to 12 layers, vocabulary 512 to 32,000, 64 to 1,024 positions, 1 to 8 rows, both precisions, with and without gradient
checkpoints, adapters of rank 1 to 64 and full training. Attention is counted quadratic, since its gradient is not fused
there. Not measured: Metal and CUDA, whose compiled kernels keep less. What the first runs took corrects the estimate.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from state.goal import Goal
from state.recipe import PAD_TO, ROLLOUTS_TOGETHER
from state.records import Belief, Evidence, Instrument, Json, Record, runbook_of

_GB = 1e9
_VALUE_BYTES = 4

_PER_HIDDEN, _PER_ATTENTION, _PER_KEY, _PER_INTERMEDIATE = 3.2, 3.0, 2.3, 4.8
"""Values kept per position and trained layer, of each width."""
_PER_SCORE = 1.15
"""Values kept per head and pair of positions."""
_EDGE = 6.5
"""Values of hidden and intermediate width per position in flight, once; and one layer's scores."""
_PER_WORD = {4: 4.0, 2: 4.85}
"""Values per learned position and word of the vocabulary, once: logits, twice their softmax, their gradient.

Measured again with logits at the answers alone: 98 MB of logits less were 393 MB less at the peak.
"""
_HALF = 0.8
"""Share of a layer's values in half precision: adapters compute in float32."""
_CHECKPOINTED, _RECOMPUTED, _BESIDE_WORDS = 2.1, 2.55, 0.6
"""With gradient checkpoints: values of hidden width kept per position and layer; layers held whole while one is
computed again, and while the logits are there, which is before."""
_KINDS = {"lora": 1.0, "dora": 1.37, "full": 1.1}
"""What a layer keeps beside one with a plain adapter."""
_OPTIMIZER = {"adam": 2.0, "adamw": 2.0, "sgd": 1.0, "muon": 1.0, "adafactor": 0.1}
"""Values of optimizer state per trained value."""
OVERHEAD_GB = 0.3
"""Python and MLX's libraries."""
TOLERANCE = 1.25
"""Largest ratio of what was taken to what was estimated that is no finding."""

_CLAIM = "fits_in_memory"
_TAKEN = "took_the_planned_memory"


class Shape(Record):
    """Sizes of a model (`tools/models/shape.py`)."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    attention: int
    kv: int
    vocab: int
    value_bytes: int
    weights_gb: float


class MemoryEstimate(Record):
    """What a step takes at its peak, 1e9 bytes."""

    rows: int
    """Computed together."""
    length: int
    """Positions of the longest row, padded."""
    weights_gb: float
    adapter_gb: float
    """Trained values on top of the weights, and their gradient."""
    optimizer_gb: float
    activations_gb: float

    @property
    def total_gb(self) -> float:
        """The sum, without the interpreter."""
        return self.weights_gb + self.adapter_gb + self.optimizer_gb + self.activations_gb


def estimate(
    shape: Shape,
    recipe: Json,
    instrument: Instrument,
    longest: int,
    answer: int | None = None,
    *,
    together: int = ROLLOUTS_TOGETHER[False],
) -> MemoryEstimate:
    """Return what training by a recipe takes.

    Args:
        shape: The model.
        recipe: mlx-lm keys; what is left out has mlx-lm's value.
        instrument: What is learned from decides the rows of a step.
        longest: Tokens of the longest row, before max_seq_length cuts it.
        answer: Tokens of the longest answer, where logits are asked for nowhere else; None: at every position.
        together: Rollouts computed together in an update where the recipe does not say.
    """
    most = int(recipe.get("max_seq_length", 2048))
    length = -(-min(longest, most) // PAD_TO) * PAD_TO
    rows = _rows(recipe, instrument, together)
    trained = int(recipe.get("num_layers", -1))
    layers = shape.layers if trained < 0 else min(trained, shape.layers)
    n_trained = _trained_values(shape, recipe, layers)
    is_full = recipe.get("fine_tune_type") == "full"
    trained_gb = n_trained * (shape.value_bytes if is_full else _VALUE_BYTES) / _GB
    learned = length
    if answer is not None and recipe.get("mask_prompt", True):
        learned = min(length, -(-answer // PAD_TO) * PAD_TO)
    values = _activations(shape, recipe, rows, length, layers, learned)
    activations_gb = values * _VALUE_BYTES / _GB
    if instrument == "grpo":
        activations_gb = max(activations_gb, _decoding_gb(shape, recipe, length))
    return MemoryEstimate(
        rows=rows,
        length=length,
        weights_gb=shape.weights_gb,
        adapter_gb=trained_gb * (1 if is_full else 2),
        optimizer_gb=trained_gb * _OPTIMIZER[str(recipe.get("optimizer", "adamw"))],
        activations_gb=activations_gb,
    )


def _rows(recipe: Json, instrument: Instrument, together: int) -> int:
    """Return the rows of one forward pass with a gradient: a pair has two, an update of rollouts is cut in parts."""
    size = int(recipe.get("batch_size", 4))
    if instrument == "grpo":
        return min(int(recipe.get("update_microbatch") or together), size * int(recipe.get("group_size", 8)))
    return 2 * size if instrument == "dpo" else size


def _trained_values(shape: Shape, recipe: Json, layers: int) -> float:
    h, f, a, kv = shape.hidden, shape.intermediate, shape.attention, shape.kv
    sides = {
        "q_proj": (h, a), "k_proj": (h, kv), "v_proj": (h, kv), "o_proj": (a, h),
        "gate_proj": (h, f), "up_proj": (h, f), "down_proj": (f, h),
    }  # fmt: skip
    parameters = recipe.get("lora_parameters") or {}
    named = {str(key).rpartition(".")[2] for key in parameters.get("keys") or sides}
    chosen = [sides[name] for name in named if name in sides] or list(sides.values())
    if recipe.get("fine_tune_type") == "full":
        return layers * float(sum(one * other for one, other in sides.values()))
    return layers * float(sum(one + other for one, other in chosen)) * int(parameters.get("rank", 8))


def _activations(  # noqa: PLR0917 - sizes
    shape: Shape, recipe: Json, rows: int, length: int, layers: int, learned: int
) -> float:
    """Return the values that a step holds beside weights and optimizer."""
    positions = rows * length
    share = 1.0 if shape.value_bytes == _VALUE_BYTES else _HALF
    words = _PER_WORD[_VALUE_BYTES if shape.value_bytes == _VALUE_BYTES else 2] * shape.vocab * rows * learned
    widths = _PER_HIDDEN * shape.hidden + _PER_ATTENTION * shape.attention + _PER_KEY * shape.kv
    layer = positions * (widths + _PER_INTERMEDIATE * shape.intermediate + _PER_SCORE * shape.heads * length)
    layer *= _KINDS[str(recipe.get("fine_tune_type", "lora"))]
    if recipe.get("grad_checkpoint"):
        kept = share * layers * _CHECKPOINTED * shape.hidden * positions
        return kept + max(words + share * _BESIDE_WORDS * layer, share * _RECOMPUTED * layer)
    edge = positions * (_EDGE * (shape.hidden + shape.intermediate) + shape.heads * length)
    return words + share * (layers * layer + edge)


def _decoding_gb(shape: Shape, recipe: Json, length: int) -> float:
    """Return what the keys and values of rollouts decoded together take."""
    rollouts = int(recipe.get("batch_size", 4)) * int(recipe.get("group_size", 8))
    together = min(int(recipe.get("rollout_concurrency", 64)), rollouts)
    return together * length * shape.layers * 2 * shape.kv * shape.value_bytes / _GB


def memory_beliefs(goal: Goal, beliefs: Iterable[Belief]) -> list[Belief]:
    """Return whether each instrument of a campaign fits into memory, as far as model and rows are known.

    What stood and cannot be said any more comes back stale.

    Args:
        goal: The campaign.
        beliefs: What stands: the model's sizes and the machine's limit by probe, the longest row by census.
    """
    known = list(beliefs)
    made = _made(goal, known)
    said = {belief.subject for belief in made}
    gone = [b for b in known if b.claim == _CLAIM and b.subject not in said and b.status in {"fresh", "refuted"}]
    return [*made, *(_outdated(belief) for belief in gone)]


def _outdated(belief: Belief) -> Belief:
    why = f"Not known now, since what it stood on has changed: {belief.statement}"
    evidence = Evidence(kind="record", ref=belief.id, summary=f"{belief.id} stood on what is gone.")
    changed = {"id": "", "status": "stale", "statement": why, "evidence": (evidence,), "premises": ()}
    return belief.model_copy(update=changed)


def _standing(beliefs: Iterable[Belief], subject: str, claim: str) -> Belief | None:
    return next((b for b in beliefs if (b.subject, b.claim) == (subject, claim) and b.status != "stale"), None)


def _made(goal: Goal, beliefs: list[Belief]) -> list[Belief]:
    # What an instrument's own recipe leaves open is as in the first one's: the same rows under the same adapter.
    recipes = ((name, {**goal.first_recipe, **goal.recipe_of(name)}) for name in goal.instruments)
    needs = ((instrument, recipe, _need(beliefs, instrument, recipe)) for instrument, recipe in recipes)
    return [_belief(instrument, recipe, need) for instrument, recipe, need in needs if need is not None]


def _correction(beliefs: Iterable[Belief], instrument: Instrument) -> float:
    """Return what runs of an instrument took beside their estimate, at most; 1 before there was one."""
    taken = [b.value for b in beliefs if b.claim == _TAKEN and isinstance(b.value, dict)]
    return max([1.0, *(float(row["ratio"]) for row in taken if row["instrument"] == instrument)])


@dataclass(frozen=True)
class _Need:
    """What a recipe needs beside what a job may hold."""

    shape: Shape
    parts: MemoryEstimate
    correction: float
    limit_gb: float
    stands_on: tuple[Belief, Belief]
    answer: int | None
    """Tokens of the longest answer, where that is known and matters."""
    together: int
    """Rollouts computed together on this machine where the recipe does not say."""

    @property
    def gb(self) -> float:
        """All of it, as far as it is known."""
        return self.parts.total_gb * self.correction + OVERHEAD_GB

    @property
    def fits(self) -> bool:
        return self.gb <= self.limit_gb

    def sentence(self, what: str) -> str:
        """Say it with its parts."""
        found = self.parts
        corrected = f", times {self.correction:.2f} as earlier runs took" if self.correction > 1 else ""
        return (
            f"{what} needs about {self.gb:.2f} GB: weights {found.weights_gb:.2f}, adapter and optimizer "
            f"{found.adapter_gb + found.optimizer_gb:.2f}, activations {found.activations_gb:.2f} "
            f"({found.rows} rows of at most {found.length:,} positions), interpreter {OVERHEAD_GB:g}{corrected}; "
            f"jobs may hold {self.limit_gb:.2f} GB."
        )


def _need(beliefs: list[Belief], instrument: Instrument, recipe: Json) -> _Need | None:
    """Return what a recipe needs, None before model, machine and rows are known."""
    model = _standing(beliefs, "machine:memory", "fits_the_model")
    rows = _standing(beliefs, "data:train", "fits_sequence")
    if model is None or rows is None or not (model.value or {}).get("shape"):
        return None
    shape = Shape.model_validate(model.value["shape"])
    most = int(recipe.get("max_seq_length", 2048))
    # Training rows are counted; pairs and rollouts may be as long as they are allowed to be.
    counted: Json = (rows.value or {}) if instrument == "sft" else {}
    # What was sampled is at most the decode budget.
    answer = recipe.get("max_completion_length", 512) if instrument == "grpo" else counted.get("max_answer")
    together = int(model.value.get("rollouts_together") or ROLLOUTS_TOGETHER[False])
    parts = estimate(shape, recipe, instrument, int(counted.get("max_tokens") or most), answer, together=together)
    limit, grown = float(model.value["limit_gb"]), _correction(beliefs, instrument)
    return _Need(shape, parts, grown, limit, (model, rows), answer, together)


def refusal(beliefs: Iterable[Belief], instrument: Instrument, recipe: Json) -> str:
    """Return why a recipe is not to be run here, empty where it fits or nothing is known."""
    need = _need(list(beliefs), instrument, recipe)
    return "" if need is None or need.fits else need.sentence("It")


def _belief(instrument: Instrument, recipe: Json, need: _Need) -> Belief:
    model, rows = need.stands_on
    return Belief(
        subject=f"instrument:{instrument}",
        claim=_CLAIM,
        statement=need.sentence(instrument),
        value={**need.parts.model_dump(), "needed_gb": round(need.gb, 3), "limit_gb": need.limit_gb},
        tag="inferred",
        status="fresh" if need.fits else "refuted",
        severity="hard_stop",
        evidence=(Evidence(kind="record", ref=f"{model.id}, {rows.id}", summary="Model, machine and longest row."),),
        premises=tuple(b.id for b in (model, rows) if b.id),
        fix="" if need.fits else _fix(need, recipe, instrument),
        runbook=f"{runbook_of('')}#claim-memory",
    )


def _fix(need: _Need, recipe: Json, instrument: Instrument) -> str:
    """Return what to change, with what each change would take."""
    key = "update_microbatch" if instrument == "grpo" else "batch_size"
    changes: list[Json] = [] if recipe.get("grad_checkpoint") else [{"grad_checkpoint": True}]
    if need.parts.rows > 1:
        changes.append({key: 1})
    smaller = dict(recipe)
    said: list[str] = []
    for change in changes:
        smaller |= change
        parts = estimate(need.shape, smaller, instrument, need.parts.length, need.answer, together=need.together)
        gb = replace(need, parts=parts).gb
        [(name, value)] = change.items()
        said.append(f"with {'also ' if said else ''}recipe.{name}: {str(value).lower()} it would need {gb:.2f} GB")
    start = f"Change the recipe ({'; '.join(said)}); or" if said else "Change the recipe:"
    return f"{start} lower recipe.max_seq_length or num_layers, or choose a smaller or a quantized model."


def limit_gb(beliefs: Iterable[Belief]) -> float | None:
    """Return what a job may hold on this machine, None before it was looked at."""
    model = _standing(beliefs, "machine:memory", "fits_the_model")
    value = (model.value or {}).get("limit_gb") if model else None
    return None if value is None else float(value)


def taken(beliefs: Iterable[Belief], run: str, instrument: Instrument, recipe: Json, result: Json) -> Belief | None:
    """Hold what a run took against the estimate; None where one of both is not known.

    Args:
        beliefs: What stands.
        run: Its id.
        instrument: What it learned from.
        recipe: Its recipe.
        result: Of its action: `peak_memory_gb`, MLX's own count, and the exit record's `peak_rss_gb`.
    """
    need = _need(list(beliefs), instrument, recipe)
    peak = result.get("peak_memory_gb")
    if need is None or not peak:
        return None
    found = need.parts
    ratio = float(peak) / found.total_gb
    whole_gb = (result.get("exit") or {}).get("peak_rss_gb")
    process = f", the whole process {float(whole_gb):.2f} GB" if whole_gb else ""
    said = f"{run} took {float(peak):.2f} GB at its peak{process}; {found.total_gb:.2f} GB were estimated"
    is_fine = ratio <= TOLERANCE
    return Belief(
        subject=f"run:{run}",
        claim=_TAKEN,
        statement=f"{said}." if is_fine else f"{said}: it took {ratio:.2f} times the estimate.",
        value={
            "instrument": instrument,
            "estimate_gb": round(found.total_gb, 3),
            "peak_gb": round(float(peak), 3),
            "ratio": round(ratio, 3),
        },
        tag="inferred",
        status="fresh" if is_fine else "refuted",
        severity="note" if is_fine else "warning",
        evidence=(
            Evidence(kind="record", ref=run, summary=f"Estimated for {found.rows} x {found.length:,} positions."),
        ),
        fix="" if is_fine else "Nothing to do: later estimates are corrected by what was measured here.",
        runbook="" if is_fine else runbook_of(""),
    )
