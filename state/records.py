"""The records a campaign is made of: what is believed, done, measured and decided.

Every record is a frozen pydantic model with `extra="forbid"`. Times are Unix seconds (wall clock, UTC). Ids are a
letter and a number that grows per campaign (`B12`, `D7`, `R2`, `Q1`, `C3`); an action's identity is its key.
Nothing here touches a file or a database.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Json = dict[str, Any]
"""A JSON object; its keys are documented where it is used."""

Bucket = Literal["A", "B", "C", "D", "U"]
"""A promoted, B progress, C concern, D refuted, U uninformative (design section 5)."""

BEST_FIRST = "ABCUD"
"""Buckets; an uninformative run has at least lost nothing that was seen."""

Tag = Literal["confirmed", "inferred", "assumed"]
"""confirmed: evidence at hand; inferred: reasoned from confirmed; assumed: no grounding yet."""

BeliefStatus = Literal["fresh", "stale", "superseded", "contradicted", "refuted"]
"""fresh: every fingerprint it stands on still matches; refuted: evidence says the claim is false."""

Staleness = Literal["world", "goal", "capability"]
"""What change makes it stale: files and scores, the campaign file, or what a tool version does."""

Severity = Literal["hard_stop", "warning", "note"]
"""What a refuted claim does: halt before spending, be reported, or be kept for the record."""

Side = Literal["base", "parent", "candidate"]
"""Which weights were measured: the untouched model, the run's parent, or the run's own adapter."""

SplitUse = Literal["selection", "confirmation"]
"""selection compares runs; confirmation is opened only to promote, never used for tuning."""

Instrument = Literal["sft", "dpo", "grpo"]
"""How weights are changed."""

InstrumentClass = Literal["demonstration", "preference", "rollout"]
"""Where supervision acts: on given answers, on pairs of answers, on the model's own generation."""

CLASSES: dict[Instrument, InstrumentClass] = {"sft": "demonstration", "dpo": "preference", "grpo": "rollout"}
"""What follows from the class, such as the file that is learned from, no module asks of the instrument."""

ActionKind = Literal[
    "census",
    "evaluate",
    "train",
    "judge",
    "confirm",
    "promote",
    "conclude",
    "halt",
    "delete",
    "notify",
    "export",
    "fuse",
    "pace",
]
"""census: ceiling, floor and token counts with the real tokenizer, no weights run.
evaluate: generate and grade one side on one use of the splits. train: one run. judge: a verdict on a run; the record is
its only effect. confirm: the candidate on the confirmation splits. promote: switch the campaign's promoted adapter.
conclude: end, goal reached or not. halt: end on a hard stop.
delete: saves that a retention rule of the campaign file gives up. notify: run the user's own command about an event.
export: a folder of the user's with what was promoted. fuse: adapter and base as one model, for an export.
pace: a few training steps that are timed and thrown away."""

ActionState = Literal["intent", "done", "failed"]
"""intent is committed before acting; an open intent is reconciled with the world before anything is tried again."""

JobKind = Literal["training", "evaluation", "census", "fuse", "notice", "pace"]
"""What a supervised child process does."""

JobState = Literal["queued", "starting", "running", "orphaned", "lost", "finished", "failed", "stopped"]
"""Told from evidence alone: locks, identities and the exit record (facts/durability.md section 2)."""

JOB_ENDED: frozenset[JobState] = frozenset({"finished", "failed", "stopped"})

CampaignState = Literal["running", "waiting", "promoted", "not_promoted", "halted", "stopped", "failed"]
"""running and waiting are alive; the others are ends."""

CAMPAIGN_ENDED: frozenset[CampaignState] = frozenset({"promoted", "not_promoted", "halted", "stopped", "failed"})

ApprovalKind = Literal["launch", "promotion", "override", "edit", "confirmation"]
"""What a person is asked: start a run, promote, go on against a hard stop, accept an edit of the goal; confirmation is
asked by a person, of a run."""

Answer = Literal["yes", "no"]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields; in JSON a number that is none is a word, never null."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Evidence(Record):
    """What a belief rests on."""

    kind: Literal["file", "measurement", "job", "probe", "record", "person"]
    """Where it comes from."""
    ref: str
    """Path, job id, probe id or row id."""
    summary: str
    """One English sentence with numbers."""
    detail: Json = Field(default_factory=dict)
    """Machine-readable figures; `refuted_by` on the evidence that names the probe which formed a belief."""

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, data: Any) -> Any:
        """Give evidence that an earlier version recorded the field that its sentence stood for."""
        if not isinstance(data, dict) or data.get("kind") != "probe" or data.get("detail"):
            return data
        head, word, outcome = str(data.get("summary", "")).partition(_REFUTED_BY)
        return {**data, "detail": {"refuted_by": outcome.rstrip(".")}} if word and not head else data


_REFUTED_BY = "Refuted by "
"""How versions before `detail.refuted_by` began the evidence that names a probe."""


class Fingerprint(Record):
    """One thing a belief stands on, and its identity when the belief was formed."""

    kind: Literal["file", "tree", "package", "settings", "goal", "model", "machine"]
    """file/tree: content hash; package: version; settings: hash of decode or recipe settings; goal: version number;
    model: hash of a model folder; machine: boot id or device name."""
    name: str
    """Path, package name or settings name."""
    value: str
    """Hash or version."""


class Belief(Record):
    """A claim about one subject, with its evidence and what it stands on."""

    id: str = ""
    subject: str
    """`family:name`, such as `model:parent`, `data:train`, `harness:stress`, `gate:stress.rows_kept`."""
    claim: str
    """Short stable name, such as `ceiling`, `baseline`. At most one fresh value per (subject, claim)."""
    statement: str
    """The claim as an English sentence with its numbers."""
    value: Any = None
    """JSON value of the claim."""
    tag: Tag
    status: BeliefStatus = "fresh"
    staleness: Staleness = "world"
    severity: Severity = "note"
    """What it does when refuted."""
    evidence: tuple[Evidence, ...] = ()
    stands_on: tuple[Fingerprint, ...] = ()
    premises: tuple[str, ...] = ()
    """Ids of beliefs this one was reasoned from; refuting one contaminates this one."""
    mode: str = ""
    """Failure mode id of facts/failure_modes.md this belief guards against (`4`, `P1`), if any."""
    fix: str = ""
    """What a person should do when it is refuted."""
    runbook: str = ""
    formed_at: float = 0.0
    superseded_by: str = ""


def runbook_of(mode: str) -> str:
    """Return the place of the runbook that says what to do about a row of the failure catalogue."""
    return f"runbooks/hard_stops.md#mode-{mode.lower()}" if mode else "runbooks/hard_stops.md"


ExitState = Literal["finished", "failed", "stopped"]
"""finished: result.json is there. failed: given up. stopped: ended on request; the saved steps are there."""

BY_DISK = "disk"
"""Who stopped a job that had no room to go on: it saved, and is opened again by the same command."""

NO_ROOM = "out_of_disk"
"""Word of the guard that stops a job before the disk is full."""

NO_REASON = "no reason was left"
"""What is said of a job that failed without a word."""


class ExitRecord(Record):
    """exit.json: how a job ended; written last, and nothing is finished without it."""

    state: ExitState
    code: int | None = None
    """Exit status of the last worker; None when it died of a signal, never ran, or was adopted (not our child)."""
    signal: int | None = None
    """Signal that killed the last worker."""
    verdict: str = ""
    """Word of the guard that fired, or the `verdict` of the result."""
    guard: Json | None = None
    """The guard that fired: its fields, `value` and `step`."""
    by: str = "worker"
    """worker, guard, supervisor, or whoever asked for the stop."""
    reason: str = ""
    """One English sentence."""
    restarts: int = 0
    """Starts of the worker after the first."""
    started_at: float | None = None
    """First start of the worker, Unix seconds; None if it never started."""
    finished_at: float = 0.0
    wall_s: float = 0.0
    """Seconds under supervision, the machine's sleep and the wait for the accelerator left out."""
    queued_s: float = 0.0
    """Seconds it waited for other jobs on this machine; they count toward no limit."""
    slept_s: float = 0.0
    """Seconds the machine slept meanwhile."""
    frozen_s: float = 0.0
    """Seconds the supervisor did not run although the machine did (SIGSTOP, a paused virtual machine)."""
    peak_rss_gb: float = 0.0
    """Largest resident memory of the worker, 1e9 bytes."""
    peak_swap_gb: float = 0.0
    """Largest swap use of the whole machine, 1e9 bytes."""
    on_battery_s: float = 0.0
    """Seconds of work on battery."""
    lid_closed_s: float = 0.0
    """Seconds of work with the lid closed."""
    held_back_s: float = 0.0
    """Seconds of work with a bounded clock or under thermal pressure."""
    hottest_c: float = 0.0
    """Highest temperature seen of the sensor nearest to its limit, degrees Celsius; 0 where none is told."""
    power: Json = Field(default_factory=dict)
    """source, battery_percent and lid at the end; empty or None where it is not told."""
    kept_awake_by: str = ""
    """Program that held sleep off at the end; empty where none did."""
    awake_lapses: int = 0
    """Times that program ended before the job."""
    cpu_s: float = 0.0
    """Processor seconds of the supervisor itself (the last one)."""
    is_adopted: bool = False
    """The last worker outlived the supervisor that started it; its exit status could not be seen."""
    notes: tuple[Json, ...] = ()
    """Guards with action `note` that fired."""
    last_lines: tuple[str, ...] = ()
    """End of the worker's output."""
    result_hash: str = ""
    """SHA-256 of result.json, empty where there is none."""

    @property
    def why(self) -> str:
        """Why it ended so: the reason, else the last line of the worker's output."""
        return self.reason or (self.last_lines or ("",))[-1] or NO_REASON

    @property
    def waits_for_room(self) -> bool:
        """Whether it was stopped for want of disk space, and goes on once there is some."""
        return self.state == "stopped" and (self.by == BY_DISK or (self.by == "guard" and self.verdict == NO_ROOM))


class _Left(Record):
    """Base of what actions left: records of any version, in which fields may be unknown, missing or null."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


class Save(_Left):
    """An adapter that a training saved on its way, or delivered."""

    step: int
    weights: str = ""
    """Hash of base and adapter."""
    adapter: str = ""
    """Content hash of its artifact."""
    val_loss: float | None = None


class TrainResult(_Left):
    """What a training left (tools/training/worker.py), at the save that its run is judged at; empty before its end."""

    adapter: str = ""
    """Content hash of the adapter's artifact."""
    weights: str = ""
    """Hash of base and adapter."""
    iters: int | None = None
    """Steps trained; None: nothing healthy was saved."""
    trained_tokens: int = 0
    padded_tokens: int = 0
    """Padding included."""
    steps_s: float = 0.0
    startup_s: float = 0.0
    wall_s: float | None = None
    tokens_per_s: float = 0.0
    peak_memory_gb: float = 0.0
    train_loss: float | None = None
    val_loss: float | None = None
    val_losses: tuple[float, ...] = ()
    """In the order of measuring."""
    verdict: str = ""
    """Word of the guard that ended it."""
    collapse: Json = Field(default_factory=dict)
    """What the guard against collapse saw."""
    begun_anew: str = ""
    """Why it did not go on from another run as it was to; empty where it did."""
    damaged_saves: tuple[int, ...] = ()
    """Steps of saves that were not what was written."""
    changed_inputs: tuple[str, ...] = ()
    """What changed on the disk meanwhile."""
    saves: tuple[Save, ...] = ()
    """Healthy saves that may be better than the end, then the end."""
    looks: int = 0
    """Saves that were compared before one was judged; 0: the end is all there is."""
    judged_step: int | None = None
    """Step of the save that is judged, None for the end."""


class EvalResult(_Left):
    """What an evaluation left (tools/evaluation/worker.py)."""

    cases: str = ""
    """Content hash of the artifact with a row for each case."""
    harness: str = ""
    weights: str = ""
    harness_parts: dict[str, str] = Field(default_factory=dict)
    """Name of the world -> hash, as the job found it."""
    means: dict[str, Json] = Field(default_factory=dict)
    """`split.use` -> metric -> mean."""
    noise: Json = Field(default_factory=dict)
    """What half precision makes of other orders of the cases; empty where it was not measured."""
    other_form: Json = Field(default_factory=dict)
    """How an adapter answers in the form that is not judged; empty where none was to be measured."""


class CensusResult(_Left):
    """What a census left (tools/evaluation/census.py): `split.use` -> figures, and one row for each kind of data."""

    ceiling: dict[str, Json] = Field(default_factory=dict)
    floor: dict[str, Json] = Field(default_factory=dict)
    echo: dict[str, Json] = Field(default_factory=dict)
    budget: dict[str, Json] = Field(default_factory=dict)
    budget_for: dict[str, Json] = Field(default_factory=dict)
    no_reference: tuple[str, ...] = ()
    bad_outputs: dict[str, Json] = Field(default_factory=dict)
    train: Json = Field(default_factory=dict)
    rendered: Json | None = None
    """What the template makes of the rows; None where that was not looked at."""
    pairs: Json = Field(default_factory=dict)
    rollouts: Json = Field(default_factory=dict)
    grader: Json | None = None
    """None: grades were not taken."""
    prompt_parity: Json = Field(default_factory=dict)


class Action(Record):
    """One effect on the world. Its key is fixed before acting, so it is never done twice."""

    key: str
    """hash(campaign, kind, inputs, attempt); also the name of the job folder."""
    kind: ActionKind
    decision: str
    """Id of the decision that chose it."""
    inputs: Json = Field(default_factory=dict)
    """Everything the effect needs; for a job, the job specification's `input`."""
    state: ActionState = "intent"
    is_safe_to_retry: bool = True
    """Doing it again under the same key changes nothing."""
    side_effects: tuple[str, ...] = ()
    """What was committed to the world, in words (folder created, link switched)."""
    result: Json = Field(default_factory=dict)
    """As it was left; `made`, `measured`, `counted` and `exit` read it."""
    created_at: float = 0.0
    finished_at: float | None = None

    @property
    def made(self) -> TrainResult:
        """What it left as a training; of a fusion, its weights."""
        return TrainResult.model_validate(self.result)

    @property
    def measured(self) -> EvalResult:
        """What it left as an evaluation."""
        return EvalResult.model_validate(self.result)

    @property
    def counted(self) -> CensusResult:
        """What it left as a census."""
        return CensusResult.model_validate(self.result)

    @property
    def exit(self) -> ExitRecord:
        """How its job ended; an act that had none, or whose job never began, tells a reason at most."""
        record: Json = self.result.get("exit") or {}
        known = {name: record[name] for name in ExitRecord.model_fields if record.get(name) is not None}
        return ExitRecord.model_validate({"state": "failed" if self.state == "failed" else "finished", **known})

    @property
    def guard_word(self) -> str:
        """Word of the guard that ended its job, or an empty text."""
        return str(self.result.get("verdict") or self.exit.verdict)


class Finding(Record):
    """Something that is wrong, as a check of rows, a gate, a folder or a recorded run says it."""

    mode: str
    """Row of the failure catalogue; empty: a remark outside it."""
    severity: Severity
    """What it does to whoever wants to spend on this."""
    subject: str = ""
    """`family:name`, such as `config:lora.yaml`; empty where only the caller knows what the rows are."""
    claim: str
    """Short stable name of what was refuted."""
    sentence: str
    """What was seen, in English with numbers; no text of a single row."""
    value: Json = Field(default_factory=dict)
    """Machine-readable figures; text of rows only under `EXAMPLES`; `file` and `line` where known."""
    fix: str = ""
    """What to do."""

    @property
    def runbook(self) -> str:
        """Where to read on."""
        return runbook_of(self.mode)


EXAMPLES = "examples"
"""Key of a finding's `value` under which pieces of the rows' own text stand; whoever must not show case text leaves it
out."""


class Guard(Record):
    """A stop condition as data: chosen by a policy, evaluated mechanically by the supervisor."""

    signal: str
    """Name of a field in `metrics.jsonl` rows (`train_loss`, `val_loss`, `peak_memory_gb`), or a supervisor signal:
    `seconds_since_progress`, `wall_s`, `rss_gb`, `disk_free_gb`, and where the machine tells them `battery_percent`,
    `heat_margin_c`, `thermal_pressure`, `clock_share`."""
    op: Literal[">", "<", "non_finite"]
    threshold: float = 0.0
    patience: int = 1
    """Consecutive observations that must meet the condition."""
    action: Literal["stop", "note"] = "stop"
    verdict: str = ""
    """Word written into the exit record when it fires (`diverged`, `stalled`, `out_of_disk`)."""


class Job(Record):
    """What Doing has running, copied from the job's files."""

    id: str = ""
    key: str
    """The action's key; one job per key, ever."""
    kind: JobKind
    state: JobState = "queued"
    folder: str
    """Relative to the campaign's home."""
    run: str = ""
    """Run id, if it serves one."""
    supervisor: Json = Field(default_factory=dict)
    """pid, create_time, boot_id."""
    heartbeat_at: float | None = None
    step: int = 0
    steps: int = 0
    """iters for training, cases for evaluation."""
    restarts: int = 0
    exit: Json = Field(default_factory=dict)
    """The `ExitRecord`, empty while it has none."""
    started_at: float | None = None
    finished_at: float | None = None


class Run(Record):
    """One experiment: parent + instrument + recipe + data + seed, with the prediction made before it."""

    id: str = ""
    decision: str = ""
    instrument: Instrument
    parent: str
    """`base`, or the id of the run whose adapter is the starting point."""
    parent_hash: str
    """Hash of the exact weights trained on (model folder, plus adapter when there is one)."""
    recipe: Json
    """mlx-lm YAML keys (learning_rate, iters, batch_size, lora_parameters, …)."""
    recipe_hash: str
    """Hash of instrument, parent, recipe, data and seed; never run twice."""
    data_hash: str
    seed: int
    axis: Literal["start", "recipe", "quantity", "composition", "order"] = "start"
    """What differs from the run before it."""
    hypothesis: str
    predicted: Json = Field(default_factory=dict)
    """{metric, low, high}: where the target is expected on the selection split."""
    cost_s_estimate: float = 0.0
    cost_s_actual: float | None = None
    adapter: str = ""
    """Content hash of the produced adapter folder under artifacts/, empty until trained."""
    state: Literal["planned", "trained", "evaluated", "judged", "lost"] = "planned"
    """lost: infrastructure failed; it gets no bucket."""
    bucket: Bucket | None = None
    created_at: float = 0.0


class Measurement(Record):
    """One case of one split, as generated and graded for one side."""

    id: str = ""
    evaluation: str
    """Key of the action that measured it."""
    run: str = ""
    """Run id for candidates; empty for base."""
    side: Side
    split: str
    use: SplitUse
    case: str
    metrics: dict[str, float | None]
    """dimension scores and flags (0/1); None: the grader could not say."""
    finish_reason: Literal["stop", "length", "error"]
    prompt_tokens: int
    output_tokens: int
    grader_error: str = ""
    harness: str
    """Fingerprint of code, data, decode settings, template and tool versions."""
    weights: str
    """Hash of the weights that generated it."""
    output_ref: str = ""
    """artifact hash + `#case`, where the text is."""


class Alternative(Record):
    """An action that was considered and not taken."""

    action: str
    reason: str


class Premise(Record):
    """A belief a decision stands on, with its tag at that time."""

    belief: str
    tag: Tag
    statement: str = ""
    subject: str = ""


class Decision(Record):
    """One choice, with what it stands on and what was rejected."""

    id: str = ""
    rule: str
    """Id of the policy rule that chose, such as `ceiling.first` or `bucket.B`."""
    sentence: str
    """The decision as an English sentence with numbers."""
    action: ActionKind
    action_key: str = ""
    action_inputs: Json = Field(default_factory=dict)
    run: str = ""
    bucket: Bucket | None = None
    """Verdict on `run`, when this decision judges one."""
    premises: tuple[Premise, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    prediction: Json = Field(default_factory=dict)
    verdict: Json = Field(default_factory=dict)
    """Gate table and paired comparisons behind a bucket (policies/gate.py)."""
    goal_version: int = 1
    needs: ApprovalKind | None = None
    """The kind of approval it waits for, if any."""
    made_at: float = 0.0


class Commitment(Record):
    """Prospective memory: what will be done under which condition, and what would cancel it."""

    id: str = ""
    decision: str = ""
    will: str
    """What will be done, as a sentence."""
    when: str
    """The condition."""
    implies: dict[str, str] = Field(default_factory=dict)
    """Outcome -> what follows."""
    cancelled_by: str
    """What would cancel it."""
    status: Literal["open", "kept", "cancelled", "lapsed"] = "open"
    closed_by: str = ""
    made_at: float = 0.0


class GoalVersion(Record):
    """The campaign file as it was understood, versioned; an edit is a new version and is surfaced."""

    version: int
    campaign: str
    file_hash: str
    spec: Json
    """The validated campaign file (agent/campaign.py), defaults filled in."""
    difference: tuple[str, ...] = ()
    """Sentences that say what changed from the version before."""
    recorded_at: float = 0.0


class Approval(Record):
    """One question to a person; the first answer wins."""

    id: str = ""
    kind: ApprovalKind
    decision: str
    question: str
    """As asked, with numbers and cost."""
    asked_at: float = 0.0
    deadline_at: float | None = None
    unanswered: Answer = "no"
    """What happens at the deadline; promotion is never `yes`."""
    answer: Answer | None = None
    answered_by: str = ""
    """Person, `policy` (auto/reject in the campaign file), `deadline`, or the request of a leave, X3."""
    reason: str = ""
    answered_at: float | None = None


class Request(Record):
    """What another process wants of the campaign's holder; inserted by commands, applied by the holder."""

    id: str = ""
    kind: Literal[
        "approve", "reject", "stop", "cancel_commitment", "override", "refute", "note", "import", "confirm", "promote",
        "allow", "export",
    ]  # fmt: skip
    target: str = ""
    """Approval, commitment, belief or run id; of `allow` a kind of question; of `export` the run."""
    by: str
    reason: str = ""
    """Why; of a note, what was seen."""
    made_at: float = 0.0
    applied_at: float | None = None
    outcome: str = ""
    """What the holder did with it, in words."""
    payload: Json = Field(default_factory=dict)
    """note: mode and evidence file; import: the table's rows or the adapter (agent/imports.py); allow: `until`, Unix
    seconds, and `runs`, how many questions it answers (policies/drafts.py); export: run, file, sha256, bytes and
    weights."""


class Campaign(Record):
    """The campaign row: the only place that says whether it has ended."""

    name: str
    state: CampaignState = "running"
    sentence: str = ""
    """Why it is in that state."""
    goal_version: int = 1
    promoted: str = ""
    """Run id of the promoted adapter."""
    started_at: float = 0.0
    ended_at: float | None = None
    agent_starts: int = 0
    epoch: int = 0
