"""The goal of a campaign: what counts as success, on what, with which means and limits.

A `Goal` is the campaign file after validation (`agent/campaign.py` reads the YAML and names lines). Each model refuses
unknown keys. `problems` holds the checks that need two places at once; every problem says where it is.
Nothing here opens a file: whether a path exists or a metric is produced by the track is for probes to find out.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AliasChoices,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_serializer,
    field_validator,
    model_validator,
)

from state.hashing import hash_json
from state.records import CLASSES, Answer, ApprovalKind, Instrument, InstrumentClass, Json, Record

MOST_SEED = 2**32 - 1
"""Numpy takes no larger one."""

Metric = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_.-]+$")]
"""`split.metric`, such as `stress.rows_kept`."""

ClockTime = Annotated[str, StringConstraints(pattern=r"^([01]?[0-9]|2[0-3]):[0-5][0-9]$")]
"""Local time of day, `HH:MM`."""

ProbeFile = Annotated[str, StringConstraints(pattern=r"^(.*/)?[A-Za-z0-9_-]+\.py$")]
"""Path of a Python file; its name without `.py` names the subject of its findings."""

_End = Annotated[float, Field(ge=-1e9, le=1e9)]

Against = Literal["value", "parent", "base"]
"""value: the metric itself; parent/base: its difference, candidate minus parent or base, on the same cases."""

Statistic = Literal["mean", "count", "new_failures"]
"""mean over cases; count: the sum over cases, for 0/1 flags; new_failures: how many cases score full marks (1) on the
side compared with and less on the candidate."""

TestKind = Literal["auto", "superiority", "non_inferiority", "plain"]
"""auto: superiority for a value or a demanded improvement, non_inferiority for a difference that may be zero or worse.
superiority: the confidence bound must pass the threshold. non_inferiority: the bound must stay within the margin.
plain: the bare number decides; needs a reason, and the verdict is labelled as not significant."""

NotifyEvent = Literal["question", "stopped", "ended", "failed", "crashed", "paused"]
"""question: a person is asked; stopped: a hard stop halts the campaign; ended: its verdict is in; failed: a tool failed
again and again."""

TrackerName = Literal["trackio", "tensorboard", "wandb", "mlflow"]
"""A program that plots runs; each is the name of its package."""

ApprovalMode = Literal["wait", "auto", "reject"]
"""wait: ask a person; auto: the campaign file has said yes; reject: the campaign file has said no."""


class _Part(Record):
    """Base of the goal's parts: a record that refuses NaN and infinities, which YAML can spell."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Condition(_Part):
    """One condition of the gate: a metric, what it is compared with, and the bound."""

    id: str = ""
    """Short stable name; derived from the other keys when left out."""
    metric: Metric | None = None
    """`split.metric`; exactly one of `metric` and `any_of`."""
    any_of: tuple[Metric, ...] = ()
    """Several metrics of which the best must meet the bound; alpha is divided by their number."""
    statistic: Statistic = "mean"
    against: Against = "value"
    min: float | None = None
    """Lower bound; exactly one of `min` and `max`."""
    max: float | None = None
    """Upper bound."""
    test: TestKind = "auto"
    margin: float | None = Field(default=None, ge=0, le=1e9)
    """Non-inferiority margin in the metric's unit; the size of the bound when left out."""
    reason: str = ""
    """Why a plain comparison is enough; required for `test: plain`."""

    @model_validator(mode="before")
    @classmethod
    def _name(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("any_of"), list):
            # After a `before` validator pydantic's strict mode no longer reads a JSON list as a tuple.
            data = {**data, "any_of": tuple(data["any_of"])}
        return data if data.get("id") else {**data, "id": _derived_id(data)}

    @model_validator(mode="after")
    def _is_one_question(self) -> Self:
        if (self.metric is None) == (not self.any_of):
            raise ValueError("a condition needs exactly one of `metric` and `any_of`")
        if (self.min is None) == (self.max is None):
            raise ValueError("a condition needs exactly one of `min` and `max`")
        if self.test == "plain" and not self.reason.strip():
            raise ValueError("`test: plain` needs a `reason`: say why a bare number is enough")
        if self.margin is not None and self.kind != "non_inferiority":
            raise ValueError("`margin` belongs to a non-inferiority condition; here the test is " + self.kind)
        if self.statistic == "new_failures" and (self.against == "value" or self.max is None):
            raise ValueError("`statistic: new_failures` needs `max` and `against: parent` or `against: base`")
        if self.kind == "non_inferiority" and self.against == "value":
            raise ValueError("`test: non_inferiority` compares with `against: parent` or `against: base`")
        if self.kind == "non_inferiority" and self.sign * self.threshold > 0:
            raise ValueError(
                f"`test: non_inferiority` is met by no change, and {self.threshold:g} asks for an improvement; leave"
                " `test` out, or write the loss that is granted as the bound"
            )
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics of the condition, `split.metric` each."""
        return (self.metric,) if self.metric is not None else self.any_of

    @property
    def threshold(self) -> float:
        """The bound as written."""
        return float(self.min if self.min is not None else self.max or 0.0)

    @property
    def sign(self) -> int:
        """+1 where more is better (`min`), -1 where less is (`max`)."""
        return 1 if self.min is not None else -1

    @property
    def direction(self) -> int:
        """Which way the metric itself should go; new failures are to stay few while their metric rises."""
        return 1 if self.statistic == "new_failures" else self.sign

    @property
    def kind(self) -> Literal["superiority", "non_inferiority", "plain"]:
        """The test after `auto` is resolved."""
        if self.test != "auto":
            return self.test
        return "non_inferiority" if self.allows_no_change else "superiority"

    @property
    def allows_no_change(self) -> bool:
        """Whether no change at all meets it: a no-worse condition, also where the bare number decides."""
        return self.against != "value" and self.sign * self.threshold <= 0

    @property
    def bound(self) -> float:
        """The number the confidence bound is held against: the threshold, or the margin on the worse side."""
        if self.kind != "non_inferiority":
            return self.threshold
        margin = abs(self.threshold) if self.margin is None else self.margin
        return -self.sign * margin + 0.0

    @property
    def sentence(self) -> str:
        """The condition as a person would say it, with the margin where it grants another bound than it names."""
        what = self.metrics[0] if self.metric is not None else "the best of " + ", ".join(self.metrics)
        how = f"{what} as a count" if self.statistic == "count" else what
        compared = "" if self.against == "value" else f" minus the {self.against}'s"
        if self.statistic == "new_failures":
            how, compared = f"new failures of {what}", f" against the {self.against}"
        word = "at least" if self.sign > 0 else "at most"
        granted = "" if self.bound == self.threshold else f" (with its margin: {word} {self.bound:g})"
        return f"{how}{compared} {word} {self.threshold:g}{granted}"


def _derived_id(data: dict[str, Any]) -> str:
    """Return a name from a condition's own keys, such as `regular.composite.parent>=-0.005`."""
    metrics = [data["metric"]] if data.get("metric") else list(data.get("any_of") or ())
    against = data.get("against", "value")
    parts = ["|".join(str(metric) for metric in metrics)]
    parts += [str(data["statistic"])] if data.get("statistic", "mean") != "mean" else []
    parts += [str(against)] if against != "value" else []
    operator, bound = (">=", data["min"]) if data.get("min") is not None else ("<=", data.get("max"))
    return ".".join(parts) + f"{operator}{bound}"


class Gate(_Part):
    """When a candidate is promoted: every condition holds on the confirmation split."""

    conditions: tuple[Condition, ...] = Field(min_length=1)
    primary: str | None = Field(default=None, min_length=1)
    """The condition that runs are for, by its id or by its `split.metric`; the first that asks for more than no loss
    when left out."""
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    """Probability of a wrong promotion accepted for the whole campaign, one-sided."""
    max_confirmations: int = Field(default=3, ge=1, le=1_000)
    """How often the confirmation cases may be opened, by whomever: each opening is judged at what is left of alpha
    divided by the openings left."""
    ledger: Literal["machine", "example"] = "machine"
    """Which openings count: machine, of all campaigns of this user on this machine; example, of this campaign alone."""
    meaningful_delta: float | None = Field(default=None, gt=0, le=1e9)
    """What counts as meaningful progress of the target (δ), in its unit, no more than its gap; half of that when left
    out."""

    @property
    def demands(self) -> list[tuple[Condition, str]]:
        """Each condition with each metric that may meet it."""
        return [(condition, metric) for condition in self.conditions for metric in condition.metrics]

    @property
    def metrics(self) -> set[str]:
        """All metrics that it asks for."""
        return {metric for _, metric in self.demands}

    @property
    def confirmation_alpha(self) -> float:
        """The one-sided level of the first opening of cases that nobody opened before."""
        return self.alpha / self.max_confirmations


class Budget(_Part):
    """What may be spent; a campaign ends at the first limit it meets. Left out means not limited."""

    until: ClockTime | None = None
    """Local time of day by which everything is finished."""
    hours: float | None = Field(default=None, gt=0, le=100_000)
    """Wall time since the campaign started, hours."""
    class_hours: dict[Instrument, Annotated[float, Field(gt=0, le=100_000)]] = Field(default_factory=dict)
    """Instrument -> wall time of its runs, trained and measured, hours; then the next one takes over."""
    runs: int | None = Field(default=None, gt=0, le=100_000)
    """Training runs."""
    disk_gb: float | None = Field(default=None, gt=0, le=1e6)
    """What the campaign's folder may hold, decimal gigabytes; at most one of rows kept as tokens comes beside."""
    reserve_min: float = Field(default=0.0, ge=0, le=1e6)
    """Minutes before the deadline kept free for confirmation and the report."""


class ApprovalRule(_Part):
    """How one kind of question is answered."""

    mode: ApprovalMode = "wait"
    deadline_h: float | None = Field(default=None, gt=0, le=100_000)
    """Hours a question may wait; without it the question waits for as long as it takes."""
    unanswered: Answer = "no"
    """What happens at the deadline."""


class Approvals(_Part):
    """How each kind of question is answered."""

    launch: ApprovalRule = ApprovalRule(mode="auto")
    """Before each training run."""
    promotion: ApprovalRule = ApprovalRule(mode="wait")
    """Before the promoted adapter is switched; never `unanswered: yes`."""
    override: ApprovalRule | None = None
    """Going on against a hard stop; never `unanswered: yes`. Left out: it halts at once, and a person may override."""
    edit: ApprovalRule | None = None
    """Accepting an edit of the campaign file. Left out: one that makes the gate easier waits, any other is accepted."""

    @model_validator(mode="after")
    def _silence_is_no_consent(self) -> Self:
        for kind in ("promotion", "override"):
            if self.rule(kind).unanswered == "yes":
                raise ValueError(
                    f"`{kind}` cannot be `unanswered: yes`; write `mode: auto` if no person is to be asked"
                )
        return self

    def rule(self, kind: ApprovalKind | Literal["promotion", "override"]) -> ApprovalRule:
        """Return the rule of one kind of question."""
        edit = self.edit or ApprovalRule(mode="auto")
        override = self.override or ApprovalRule()
        return {"launch": self.launch, "promotion": self.promotion, "override": override, "edit": edit}[kind]


class Baseline(_Part):
    """What the untouched base is expected to score; a base that scores otherwise stops the campaign."""

    expected: dict[Metric, float] = Field(default_factory=dict)
    """`split.metric` -> mean."""
    tolerance: float = Field(default=0.05, ge=0, le=1e9)
    """Largest accepted distance, as a share of the metric's range."""
    tolerances: dict[Metric, float] = Field(default_factory=dict)
    """Tolerance of single metrics, in their own unit."""


class Split(_Part):
    """Evaluation cases: one file that is divided, or two files that are disjoint already."""

    file: str | None = None
    """JSON lines; divided into selection and confirmation by a seeded draw."""
    selection: str | None = None
    """JSON lines that compare runs."""
    confirmation: str | None = None
    """JSON lines that only promotion may look at."""
    confirmation_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of `file` that is kept for confirmation."""
    min_cases: int = Field(default=1, ge=1, le=1_000_000)
    """Fewest cases each part must have."""

    @model_validator(mode="after")
    def _has_both_parts(self) -> Self:
        if self.file is not None and (self.selection or self.confirmation):
            raise ValueError("a split is either `file` or `selection` and `confirmation`, not both")
        if self.file is None and not (self.selection and self.confirmation):
            raise ValueError("a split needs `file`, or both `selection` and `confirmation`")
        return self


class Repairs(_Part):
    """How far Vigil may mend the measurement by itself when it cannot tell; left out, a person does."""

    max_tokens: int | None = Field(default=None, gt=0, le=1_000_000)
    """Largest decode budget of one answer, tokens; taken where the gold is cut off below what the gate asks."""
    cases: dict[str, str] = Field(default_factory=dict)
    """Split -> a file of more cases that takes the place of its `file` or `selection`."""
    dense: dict[Metric, Metric] = Field(default_factory=dict)
    """`split.metric` -> a denser metric of the same outputs, on which progress is read; the gate keeps the first."""


class Evaluation(_Part):
    """How every side is measured."""

    splits: dict[str, Split] = Field(min_length=1)
    """Name -> cases."""
    max_tokens: int = Field(gt=0, le=1_000_000)
    """Decode budget of one answer, tokens; the gold ceiling is measured under it."""
    temperature: float = Field(default=0.0, ge=0, le=100)
    """0 is greedy."""
    batch_size: int = Field(default=64, gt=0, le=65_536)
    """Cases decoded together, at most: fewer where their keys and values would not fit into memory."""
    control: Metric | None = None
    """A metric of the same outputs that must move, or training did nothing; declared beforehand."""
    noise_floor: float = Field(default=0.0, ge=0, le=1e9)
    """A change of the target at or below this is noise whatever its interval says."""
    dense: dict[Metric, Metric] = Field(default_factory=dict)
    """`split.metric` -> a denser metric of the same outputs, on which progress is read; the gate keeps the first."""
    look_cases: int = Field(default=32, ge=0, le=1_000_000)
    """Selection cases on which the saves of a run are compared, so that the best is judged; 0: its end is judged."""
    repairs: Repairs = Repairs()


class ModelSpec(_Part):
    """The base model."""

    path: str = Field(min_length=1)
    """Local folder or hub id."""
    revision: str | None = None
    """Commit of a hub id; resolved and recorded when left out."""
    adapter: str | None = Field(default=None, min_length=1)
    """Adapter folder that runs go on from (the parent of the first); the base itself when left out."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Computation type; the folder's own when left out."""


def _ascends(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError("a range is the least and the largest score, `[0, 100]`: the first number is the smaller one")
    return ends


Range = Annotated[tuple[_End, _End], AfterValidator(_ascends)]
"""The least and the largest score of one case."""


class TrackSpec(_Part):
    """The task: who grades an answer, and how."""

    name: str | None = None
    """A shipped track, such as `spreadsheet_clean`."""
    grader: str | None = None
    """A Python file with `grade(case, text)`."""
    command: tuple[str, ...] | None = Field(default=None, min_length=1)
    """A program that speaks JSON lines."""
    timeout_s: float = Field(default=10.0, gt=0, le=86_400)
    """Longest grading of one case, seconds."""
    metrics: tuple[str, ...] | None = None
    """Names the grader answers with; learned from its first good answer when left out."""
    network: bool = False
    """Whether the grader, and the probes under `probes`, may open connections."""
    memory_gb: float = Field(default=4.0, gt=0, le=100_000)
    """Memory that the grader, or a probe, may take with all that it starts."""
    env: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()
    """Names of environment variables that they are given; without it none that may hold a secret."""
    system: str | None = None
    """System prompt, the same in training and in evaluation."""
    ranges: dict[str, Range] = Field(default_factory=dict)
    """Metric -> the least and the largest score that one case can have (percent: 0 and 100); a share, 0 to 1, where it
    is left out. Thresholds, margins and δ are in the metric's own unit."""

    @model_validator(mode="after")
    def _has_one_grader(self) -> Self:
        given = [key for key in ("name", "grader", "command") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError("a track needs exactly one of `name`, `grader` and `command`")
        return self


class DataSpec(_Part):
    """What is trained on."""

    train: str = Field(min_length=1)
    """JSON lines in a chat, completion or text form that mlx-lm reads."""
    valid: str | None = None
    """The same form, never trained on."""
    pairs: str | None = None
    """Preference pairs for `dpo`: JSON lines of prompt, chosen and rejected."""
    valid_pairs: str | None = None
    """The same form, never trained on."""
    rollouts: str | None = None
    """Cases that are answered and graded while `grpo` trains: JSON lines in the form of evaluation cases, none of which
    may be among them."""
    valid_rollouts: str | None = None
    """The same form, graded on a schedule and never trained on; selection cases serve when left out."""
    group_by: str | None = Field(default=None, min_length=1)
    """Key of the training rows that names a row's group; a run may then see rare groups several times."""

    @property
    def files(self) -> dict[str, str | None]:
        """The files by their keys."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "group_by"}


class Search(_Part):
    """How long to go on looking."""

    goal: Literal["gate", "best"] = "gate"
    """gate: a run that meets the gate on selection is confirmed at once, and a promotion ends the campaign. best: go on
    while the budget and the battery allow, then confirm the best run, once, and ask once."""
    max_runs_without_progress: int = Field(default=3, ge=1, le=100_000)
    """Judged runs in a row without bucket A or B before the campaign concludes; with `goal: best`, only of runs that
    could not tell."""
    start_from: Literal["adapter", "fused"] = Field(
        default="adapter", validation_alias=AliasChoices("start_from", "carry")
    )
    """How a class goes on from the best run before it: adapter, that run's own is trained on beside its base; fused,
    the two are made one model, verified and measured, and a new adapter of the class's own shape is trained on it."""
    max_runs: int | None = Field(default=None, ge=1, le=100_000)
    """Training runs over the whole campaign."""
    max_assumed: int | None = Field(default=None, ge=0, le=1_000_000)
    """Most assumed beliefs that a training may stand on; more halt the campaign."""


class MachineLimits(_Part):
    """When a training is stopped, after it has saved, because of the machine it runs on; none is never.

    A machine that does not tell a figure never meets its limit.
    """

    min_battery_percent: float | None = Field(default=None, gt=0, lt=100)
    """Least charge while the current comes from the battery."""
    min_heat_margin_c: float | None = Field(default=None, gt=0, le=1_000)
    """Least distance of the sensor nearest to its limit, degrees Celsius."""
    max_thermal_pressure: int | None = Field(default=None, ge=0, lt=4)
    """Highest level of macOS's measures against heat: 0 none, 1 moderate, 2 heavy, 3 about to sleep."""
    min_clock_share: float | None = Field(default=None, gt=0, lt=1)
    """Least share of the full clock that the machine may allow, [0, 1]."""
    max_swap_growth_gb: float | None = Field(default=8.0, gt=0, le=1e6)
    """Most that the machine may have put into swap since the training began, 1e9 bytes: beyond it hours become days."""


class Retention(_Part):
    """What of the campaign's own files may be deleted; left out, nothing is."""

    saves: int | None = Field(default=None, ge=0, le=1_000_000)
    """How many of the newest resumable saves a training keeps once its run is judged and is neither the best, promoted,
    nor what a run in the making starts from. Its adapter, figures and answers stay in any case."""


_HASHED = "sha256:"
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]{1,20}$")
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"


class Address(_Part):
    """Where a notice goes, as apprise writes it. What is made of it names the scheme alone: the rest is a secret."""

    address: SecretStr = Field(min_length=1)
    """Such as `ntfys://ntfy.sh/topic`; `$NAME` takes it from the environment, `@FILE` from a file beside this one."""
    after_min: float = Field(default=0.0, ge=0, le=10_080)
    """Minutes after the event; a question that was answered by then is not sent any more."""

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, given: Any) -> Any:
        return {"address": given} if isinstance(given, str) else given

    @property
    def label(self) -> str:
        """What may be shown and recorded of it."""
        given = self.address.get_secret_value()
        scheme, mark, _ = given.partition("://")
        return given if given[0] in "$@" else f"{scheme}://" if mark and _SCHEME.match(scheme) else "address"

    @field_serializer("address")
    def _shown(self, _given: SecretStr) -> str:
        return self.label


class Notify(_Part):
    """Who is told of events: the user's own command, by one line of JSON on its standard input, and addresses."""

    command: tuple[str, ...] = ()
    """Program and arguments, run in the folder of the campaign file; no shell. On record their hash stands for the
    arguments: one may be a token, and the record is handed out."""
    env: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...] = ()
    """Names of environment variables that the command is given, such as that of a token."""
    to: tuple[Address, ...] = ()
    """Addresses, each at its stage."""
    on: tuple[NotifyEvent, ...] = ("question", "stopped", "ended", "failed", "crashed", "paused")
    """Of what; of the last two only the addresses are told."""
    quiet: str | None = Field(default=None, pattern=f"^{_CLOCK}-{_CLOCK}$")
    """Hours of the day, local, in which nothing is sent to an address; what still stands is sent when they end."""
    link: str | None = Field(default=None, pattern=r"^https?://[^\s?#@]+$")
    """Where `vigil web` is reached, for the notices."""
    timeout_s: float = Field(default=20.0, gt=0, le=120)
    """Longest run of the command, and of one sending, seconds; the campaign waits no longer."""

    @field_validator("to", mode="before")
    @classmethod
    def _one(cls, given: Any) -> Any:
        # Of the file's own types: after this, a list is none.
        return (given,) if isinstance(given, str | dict) else tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _tells_somebody(self) -> Self:
        if not self.command and not self.to:
            raise ValueError("it names neither `command` nor `to`; write the one or the other")
        return self

    @field_serializer("command")
    def _recorded(self, command: tuple[str, ...]) -> list[str]:
        arguments = list(command[1:])
        return [command[0], _HASHED + hash_json(arguments)[:16]] if arguments and self.can_run else list(command)

    @property
    def can_run(self) -> bool:
        """Whether the command itself is here, and not what stands for it on record."""
        return bool(self.command) and not self.command[-1].startswith(_HASHED)


class Export(_Part):
    """A folder that receives what is promoted."""

    to: str = Field(min_length=1)
    """Each promotion adds one folder of its own; none is ever overwritten."""
    fused: bool = False
    """Also hand out base and adapter as one model, dequantized, once it was seen to answer as the two do."""


class Goal(_Part):
    """A campaign file, validated."""

    campaign: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Name; also a folder name, so letters, digits, dot, dash and underscore."""
    model: ModelSpec
    track: TrackSpec
    data: DataSpec
    evaluation: Evaluation
    gate: Gate
    instruments: tuple[Instrument, ...] = Field(default=("sft",), min_length=1)
    """In the order in which they may be tried."""
    recipe: Json = Field(default_factory=dict)
    """mlx-lm YAML keys of the first run; the rest is chosen by rule."""
    recipes: dict[Instrument, Json] = Field(default_factory=dict)
    """The same for the first run of an instrument; left out, the first instrument's is `recipe`."""
    seed: int = Field(default=0, ge=0, le=MOST_SEED)
    budget: Budget = Budget()
    approvals: Approvals = Approvals()
    baseline: Baseline = Baseline()
    search: Search = Search()
    machine: MachineLimits = MachineLimits()
    retention: Retention = Retention()
    notify: Notify | None = None
    export: Export | None = None
    trackers: tuple[TrackerName, ...] = ()
    """Filled from the record while the campaign runs; none of them can stop it."""
    probes: tuple[ProbeFile, ...] = ()
    """Files of the user's own, each with `observe(context)`, that are asked like Vigil's probes."""
    privacy: Literal["keep", "redact"] = "keep"
    """redact: scores, lengths and case ids are written, and no text of a case; the adapters still learned from it."""

    @classmethod
    def of_record(cls, spec: Json) -> Self:
        """Return the goal that a version on record holds.

        A version from before `gate.ledger` has the defaults of then written out, and nobody chose them: an edit that
        is accepted unasked, and an override that waits. They count as left out.
        """
        goal = cls.model_validate(spec)
        if "ledger" in spec["gate"]:
            return goal
        then = {"edit": ApprovalRule(mode="auto"), "override": ApprovalRule()}
        left_out = {kind: None for kind, rule in then.items() if getattr(goal.approvals, kind) == rule}
        return goal.model_copy(update={"approvals": goal.approvals.model_copy(update=left_out)})

    def tolerance_for(self, metric: str) -> float:
        """Return how far from what is expected a metric may be, in its unit."""
        low, high = self.track.ranges.get(name_of(metric), (0.0, 1.0))
        return self.baseline.tolerances.get(metric, self.baseline.tolerance * (high - low))

    @property
    def first_recipe(self) -> Json:
        """What the file gives the first run of the first instrument."""
        return self.recipe_of(self.instruments[0])

    def recipe_of(self, instrument: Instrument) -> Json:
        """Return the keys that the file gives an instrument's first run: its own, else `recipe` for the first."""
        is_first = instrument == self.instruments[0]
        return self.recipes.get(instrument, self.recipe if is_first else {})

    def instrument_of(self, supervision: InstrumentClass) -> Instrument | None:
        """Return the first instrument of a class that the campaign may use, None where it has none."""
        return next((each for each in self.instruments if CLASSES[each] == supervision), None)

    def recipe_of_class(self, supervision: InstrumentClass) -> Json:
        """Return the keys that the file gives the first instrument of a class, none where it names none."""
        named = (*self.instruments, *self.recipes)
        return next((self.recipe_of(each) for each in named if CLASSES[each] == supervision), {})


def split_of(metric: str) -> str:
    """Return the split of a `split.metric`."""
    return metric.partition(".")[0]


def name_of(metric: str) -> str:
    """Return a `split.metric` without its split."""
    return metric.partition(".")[2]


class Problem(_Part):
    """A contradiction between two places of a goal."""

    where: tuple[str | int, ...]
    """Path of keys to the place to change, as pydantic's `loc`."""
    sentence: str


def problems(goal: Goal, *, needs_pairs: bool = True) -> list[Problem]:
    """Return what no single model can see: unknown splits, repeated conditions, metrics the track does not promise.

    Args:
        goal: The campaign.
        needs_pairs: Whether dpo asks for pairs that are there; not while they are being built.
    """
    faults = []
    ids: set[str] = set()
    for index, condition in enumerate(goal.gate.conditions):
        where = ("gate", "conditions", index)
        faults += [_metric_problem(goal, metric, where) for metric in condition.metrics]
        if condition.id in ids:
            faults.append(Problem(where=where, sentence=f"Two conditions of the gate are called {condition.id!r}."))
        ids.add(condition.id)
    faults += [*_primary_problems(goal.gate), *_range_problems(goal)]
    if goal.evaluation.control is not None:
        faults.append(_metric_problem(goal, goal.evaluation.control, ("evaluation", "control")))
    for metric in (*goal.baseline.expected, *goal.baseline.tolerances):
        faults.append(_metric_problem(goal, metric, ("baseline",)))
    faults += _repair_problems(goal)
    limits = (goal.budget.until, goal.budget.hours, goal.budget.runs, goal.search.max_runs)
    if goal.search.goal == "best" and all(limit is None for limit in limits):
        why = "`search.goal: best` goes on while the budget allows, and nothing limits it; set `budget.hours`, "
        faults.append(Problem(where=("search", "goal"), sentence=f"{why}`budget.until`, `budget.runs` or `max_runs`."))
    if needs_pairs and (name := goal.instrument_of("preference")) is not None and goal.data.pairs is None:
        why = f"`instruments` names {name}, and `data.pairs` names no file of pairs"
        faults.append(Problem(where=("data",), sentence=f"{why}; `vigil pairs FILE --out PAIRS` builds one."))
    if (name := goal.instrument_of("rollout")) is not None and goal.data.rollouts is None:
        faults.append(
            Problem(
                where=("data",), sentence=f"`instruments` names {name}, and `data.rollouts` names no file of cases."
            )
        )
    names = [written.rpartition("/")[2] for written in goal.probes]
    faults += [
        Problem(where=("probes", index), sentence=f"Two probes are called {name}; rename one, findings go by the name.")
        for index, name in enumerate(names)
        if name in names[:index]
    ]
    return [problem for problem in faults if problem is not None]


def _primary_problems(gate: Gate) -> list[Problem]:
    """Return why what the gate names as primary can be no target of a run."""
    named = [c for c in gate.conditions if gate.primary in {c.id, *c.metrics}]
    if gate.primary is None or any(c.statistic != "new_failures" for c in named):
        return []
    known = ", ".join(dict.fromkeys(name for c in gate.conditions for name in (c.id, *c.metrics)))
    why = f"`primary: {gate.primary}` names no condition of the gate and no metric of one; there are {known}."
    if named:
        why = f"`primary: {gate.primary}` counts new failures, which limit a run; name a condition that a run is for."
    return [Problem(where=("gate", "primary"), sentence=why)]


def _range_problems(goal: Goal) -> list[Problem]:
    """Return why a declared range is of no metric, and a δ that no scale of the gate reaches."""
    known, ranges = goal.track.metrics, goal.track.ranges
    faults = [
        Problem(
            where=("track", "ranges", name),
            sentence=f"`ranges` names the metric {name!r}; the track answers with {', '.join(known)}.",
        )
        for name in ranges
        if known is not None and name not in known
    ]
    faults += [
        Problem(where=("gate", "conditions", place, "min" if each.sign > 0 else "max"), sentence=sentence)
        for place, each in enumerate(goal.gate.conditions)
        if (sentence := _beyond_range(each, ranges))
    ]
    delta = goal.gate.meaningful_delta
    names = {name_of(metric) for metric in goal.gate.metrics}
    names |= {name_of(metric) for metric in goal.evaluation.dense.values()}
    widest = max((high - low for name in names for low, high in [ranges.get(name, (0.0, 1.0))]), default=1.0)
    if delta is not None and delta > widest:
        sentence = (
            f"`gate.meaningful_delta` is {delta:g}; write at most {widest:g}, since no metric of the gate changes more."
        )
        faults.append(Problem(where=("gate", "meaningful_delta"), sentence=sentence))
    return faults


def _beyond_range(condition: Condition, ranges: Mapping[str, tuple[float, float]]) -> str:
    """Return why no score of a metric can be what a condition asks of it, or an empty string."""
    if condition.against != "value" or condition.statistic != "mean":
        return ""
    for metric in condition.metrics:
        name = name_of(metric)
        low, high = ranges.get(metric, ranges.get(name, (0.0, 1.0)))
        if not low <= condition.threshold <= high:
            return (
                f"{condition.id} asks {condition.threshold:g} of {metric}, whose scores lie between {low:g} and"
                f" {high:g}; declare the least and the largest score in `track.ranges` (percent: `{name}: [0, 100]`),"
                " or write the bound on that scale."
            )
    return ""


def _repair_problems(goal: Goal) -> list[Problem | None]:
    repairs, place = goal.evaluation.repairs, ("evaluation", "repairs")
    known = ", ".join(sorted(goal.evaluation.splits))
    faults: list[Problem | None] = [
        Problem(where=(*place, "cases", name), sentence=f"There is no split {name!r}; the splits are {known}.")
        for name in repairs.cases
        if name not in goal.evaluation.splits
    ]
    for where, pairs in ((("evaluation", "dense"), goal.evaluation.dense), ((*place, "dense"), repairs.dense)):
        for metric, companion in pairs.items():
            faults += [_metric_problem(goal, name, where) for name in (metric, companion)]
            if split_of(metric) != split_of(companion):
                sentence = f"{companion!r} is of another split than {metric!r}; a denser metric reads the same outputs."
                faults.append(Problem(where=where, sentence=sentence))
    if repairs.max_tokens is not None and repairs.max_tokens <= goal.evaluation.max_tokens:
        sentence = f"The decode budget is {goal.evaluation.max_tokens} already; `repairs.max_tokens` must be larger."
        faults.append(Problem(where=(*place, "max_tokens"), sentence=sentence))
    return faults


def _metric_problem(goal: Goal, metric: str, where: tuple[str | int, ...]) -> Problem | None:
    split, name = split_of(metric), name_of(metric)
    if split not in goal.evaluation.splits:
        known = ", ".join(sorted(goal.evaluation.splits))
        return Problem(where=where, sentence=f"{metric!r} names the split {split!r}; the splits are {known}.")
    if goal.track.metrics is not None and name not in goal.track.metrics:
        known = ", ".join(goal.track.metrics)
        return Problem(where=where, sentence=f"{metric!r} names the metric {name!r}; the track answers with {known}.")
    return None
