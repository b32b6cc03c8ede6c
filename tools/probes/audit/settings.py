"""`vigil-audit.yaml`: how a project's evaluations decode and gate, and what its adapters and fused models came from."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Named = Annotated[str, Field(min_length=1, max_length=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Gate(_Part):
    """What an evaluation's score must reach, as shares in [0, 1]."""

    min: float | None = Field(default=None, ge=0, le=1)
    """Least score."""
    gain: float | None = Field(default=None, gt=0, le=1)
    """Least difference from `base`."""
    base: float | None = Field(default=None, ge=0, le=1)
    """What the untrained model scores, as measured by the project."""


class Evaluation(_Part):
    """One evaluation."""

    name: Named
    data: Named
    """A file of JSON lines, one case each: `prompt` or `messages`, and the reference answer."""
    gold_field: Named | None = None
    """Key of the reference answer; `reference`, `completion`, `answer` or the last assistant's message if left out."""
    tokens_field: Named | None = None
    """Key under which each row says how many tokens its answer has: final newline included, end token not."""
    score: Literal["whole", "share"] = "whole"
    """whole: a case is right or wrong; share: a part of an answer scores a part."""
    max_tokens: int = Field(gt=0, le=10_000_000)
    """Decode budget."""
    system: str | None = None
    """System text that evaluation puts before each case; empty: none; left out: nobody says."""
    gate: Gate | None = None
    outputs: Named | None = None
    """A file of JSON lines: what the trained model said to these cases."""
    output_field: Named | None = None
    """Key of what it said; `output`, `response`, `text`, `completion` or the last message if left out."""


class Adapter(_Part):
    """What is known of an adapter; models are folders of the project or hub ids."""

    path: Named
    trained_on: Named | None = None
    """The adapter's own adapter_config.json if left out."""
    evaluated_on: Named | None = None


class Fused(_Part):
    """A model that was made by fusing an adapter into a base."""

    path: Named
    base: Named
    adapter: Named


class AuditFile(_Part):
    """The whole file."""

    evaluations: Annotated[tuple[Evaluation, ...], Field(strict=False, max_length=1000)] = ()
    adapters: Annotated[tuple[Adapter, ...], Field(strict=False, max_length=1000)] = ()
    fused: Annotated[tuple[Fused, ...], Field(strict=False, max_length=1000)] = ()
