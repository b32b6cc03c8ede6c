"""Training configurations: the files they name (8), what the tools take (6), and how much is trained (1).

What only a tokenizer can tell: do training rows fit (P8), do prompts agree (P7), do answers fit (P1).

The tokenizer runs in a child process (tools/evaluation/audit.py). Without one, P7 compares system texts alone, and what
it cannot settle is told as not checked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policies.recipes import MAX_EPOCHS
from state.records import Finding, Json
from tools.data.rows import BOUNDS, TRAINED, DataFile, foreign_fix, is_there, kind_of, read_mapping, shown
from tools.machine.sandbox import ask
from tools.probes.configs import TrainingConfig
from tools.probes.data import DataSet
from tools.probes.evaluations import Stated
from tools.probes.folder import Report, model_outside
from tools.probes.stock import stock_findings
from tools.probes.trainers import DEFAULT_BATCH_SIZE, DEFAULT_ITERS, TRAIN_MODES, Fault, faults_of, is_number
from tools.training.recipe import OPTIMIZERS

_ON_PAIRS = frozenset({"dpo", "cpo", "orpo", "dsla"})
_ON_PROMPTS = frozenset({"grpo", "klpo", "online_dpo", "xpo", "rlhf_reinforce", "ppo"})

_NEVER_ON_A_HUB = frozenset({"resume_adapter_file", "reward_functions_file"})
_MOST_CLASSES = 4
MAX_SEQ_LENGTH = 2048
"""mlx-lm's own, where a configuration says nothing."""


def check_configs(configs: Sequence[TrainingConfig], sets: Sequence[DataSet], report: Report) -> None:
    """Report what is wrong with training configurations, apart from what needs a tokenizer."""
    by_folder = {one.folder: one for one in sets}
    for config in configs:
        report.look("6", "8")
        _check_paths(config, report)
        data = by_folder.get(config.data) if config.data is not None else None
        is_run = _check_values(config, data, report)
        if data is not None:
            _check_data(config, data, report, is_run=is_run)


def _way(config: TrainingConfig, key: str) -> str:
    """Return what would have it looked at."""
    if key == "data":
        return "; audit a folder that holds both"
    if key != "model":
        return ""
    return "; no model with a config.json lies there" if config.project.may_leave else "; leave out --no-outside"


def _check_paths(config: TrainingConfig, report: Report) -> None:
    """Report inputs that are not there; what lies outside is not looked at, and a hub's id may be cached elsewhere."""
    wanted = {"model": "model", "data": "data", "resume_adapter_file": "adapter to go on from"}
    wanted |= {"reference_model_path": "reference model", "reward_functions_file": "file of reward functions"}
    for key, what in wanted.items():
        place = config.place(key)
        if place is None:
            continue
        if place.kind == "outside":
            if key != "model" or model_outside(config.project, config.path.parent, place.written) is None:
                way = _way(config, key)
                report.skip(("8",), f"{config.name}: `{key}` leads outside the project and is not opened{way}")
        elif place.kind == "missing" or (place.kind == "hub" and key in _NEVER_ON_A_HUB):
            report.add(
                "8",
                config.subject,
                f"{config.name} names {shown(place.written)[:200]} as its {what}, which is not there.",
                "hard_stop",
                f"Correct `{key}`, or make what it names before training starts.",
                check=f"missing_{key}",
                **config.where(key),
            )
    data = config.place("data")
    if data is not None and data.path is not None and not data.path.is_dir() and not config.values.get("hf_dataset"):
        parent = shown(str(Path(data.written).parent))
        report.add(
            "8",
            config.subject,
            f"{config.name} names the file {shown(data.written)[:200]} as its data; {config.tool} takes the folder and "
            "looks for train.jsonl in it, and finds no training set.",
            "hard_stop",
            f"Write `data: {parent}`"
            + ("." if data.path.name == "train.jsonl" else f", and call the rows {parent}/train.jsonl."),
            check="data_is_file",
            **config.where("data"),
        )
    folder = config.data
    if folder is not None and config.trains and is_there(folder / "train.jsonl") is False:
        report.add(
            "8",
            config.subject,
            f"{config.name} trains on {config.project.name(folder) or '.'}, which has no train.jsonl{_beside(config)}.",
            "hard_stop",
            f"{_written(config)}Write train.jsonl there, one JSON object a line (a file of another name or case is not "
            "read), or correct `data`; Parquet is read through `hf_dataset` alone.",
            check="missing_train",
            **config.where("data"),
        )


_OF_DATA = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".gz", ".zst", ".arrow")


def _beside(config: TrainingConfig) -> str:
    """Return what lies in the data folder in place of train.jsonl, in words."""
    names = [] if config.data is None else list(config.project.by_folder.get(config.data, {}))
    found = [shown(name) for name in names if name.lower().endswith(_OF_DATA)]
    found.sort(key=lambda name: "train" not in name.lower())
    return f"; what lies there is {', '.join(found[:3])}" if found else ""


def _written(config: TrainingConfig) -> str:
    """Say so where a file differs from train.jsonl by case alone, as disks of a Mac take for the same."""
    names = [] if config.data is None else config.project.by_folder.get(config.data, {})
    other = next((shown(name) for name in names if name.lower() == "train.jsonl"), "")
    return f"{other} differs from train.jsonl by case: rename it. " if other else ""


def _check_values(config: TrainingConfig, data: DataSet | None, report: Report) -> bool:
    """Report what the trainer makes of keys and values; return whether passes over the data can be told."""
    valid = data.files.get("valid") if data is not None else None
    has_valid = None if data is None else valid is not None and valid.scan.rows > 0
    is_run = True
    for fault in faults_of(config, has_valid=has_valid):
        _faulty(config, fault, report)
        is_run = (
            is_run and fault.effect != "trains nothing" and fault.claim not in {"choice_iters", "choice_batch_size"}
        )
    if config.is_lora_tools:
        for key, known in {"optimizer": OPTIMIZERS, "train_mode": TRAIN_MODES}.items():
            value = config.text(key)
            if value and value.lower() not in known:
                report.skip(("6",), f"{config.name}: `{key}: {shown(value)[:40]}` is not known here")
    return is_run


_EFFECTS = {"stops": " cannot be run:", "trains nothing": " would train nothing:", "misleads": ""}


def _faulty(config: TrainingConfig, fault: Fault, report: Report) -> None:
    more = {"key": shown(fault.key)[:60], "meant": fault.meant} if fault.claim == "key" else {}
    report.add(
        "6",
        config.subject,
        f"{config.name}{_EFFECTS[fault.effect]} {fault.said}.",
        fault.severity,
        fault.fix,
        check=fault.claim,
        **more,
        **config.where(*fault.key.split(".")),
    )


def _refused(config: TrainingConfig, key: str, said: str, report: Report, fix: str = "") -> None:
    _faulty(config, Fault(key, said, fix or f"Correct `{key}`.", claim=f"choice_{key}"), report)


def _check_data(config: TrainingConfig, data: DataSet, report: Report, *, is_run: bool) -> None:
    """Hold a configuration against the rows that it trains on and is tested on."""
    batch = config.number("batch_size", DEFAULT_BATCH_SIZE)
    is_tested = config.values.get("test") is True
    used = {"train": config.trains, "valid": config.trains, "test": is_tested}
    for name in (name for name, is_used in used.items() if is_used):
        file = data.files.get(name)
        if file is not None and 0 < file.scan.rows < batch and not file.scan.unread:
            after = ", and dies in the test, after training" if name == "test" and config.trains else ""
            _refused(
                config,
                "batch_size",
                f"`batch_size` is {batch} and {config.project.name(file.path)} has {file.scan.rows} rows; "
                f"the trainer needs a whole batch{after}",
                report,
                f"Write `batch_size: {file.scan.rows}` or less, or add rows.",
            )
    if is_tested and (data.files.get("test") is None or not data.files["test"].scan.rows):
        said = f"`test` is true, and {config.project.name(data.folder) or '.'} has no rows in test.jsonl"
        _refused(config, "test", said, report, "Write test.jsonl there, or remove `test`.")
    train = data.files.get("train")
    if train is None or not train.scan.rows or not config.trains:
        return
    _check_form(config, train, report)
    if is_run:
        report.look("1")
        _check_dose(config, train.scan.rows, batch, report)


_LABELLED = "Write pairs of rows with one prompt: as chosen what `label` calls true, as rejected what it calls false."
_AS_PAIRS = "Write rows with prompt, chosen and rejected, or `train_mode: sft`."
_MODE_OF = {"pairs": "dpo", "prompts": "grpo"}
_ANSWERS = ("reference", "solution", "gold", "target", "response", "output", "completion", "label", "expected")
"""Columns that may hold the answer that a reward is counted by."""


def _check_form(config: TrainingConfig, train: DataFile, report: Report) -> None:
    form, name, mode = train.scan.form, config.project.name(train.path), config.mode
    first = next((data for _, data in train.objects(1)), {})
    is_labelled = form in {"chat", "completions"} and isinstance(first.get("label"), bool)
    if config.masks_prompt and form == "text" and mode == "sft":
        said = f"`mask_prompt` is true, and {name} is text without a prompt"
        _refused(config, "mask_prompt", said, report, "Write `mask_prompt: false`, or rows with prompt and completion.")
    if mode in _ON_PAIRS and form not in {"pairs", "other"}:
        said = f"`train_mode: {mode}` takes chosen and rejected; {name} is {form}"
        _refused(config, "train_mode", said, report, _LABELLED if is_labelled else _AS_PAIRS)
    elif mode in _ON_PAIRS and form == "pairs":
        _check_sides(config, first, name, report)
    elif mode == "sft" and is_labelled:
        _check_labels(config, train, name, report)
    answer = config.text("answer_feature") or "answer"
    if mode == "grpo" and form in {"prompts", "completions"} and answer not in first:
        said = f"`train_mode: grpo` reads `{answer}`, and the rows of {name} have none"
        other = next((key for key in _ANSWERS if key in first), None)
        fix = f"Write `answer_feature: {other}`, if that is the answer." if other else f"Add a column `{answer}`."
        _refused(config, "answer_feature", said, report, fix)
    if mode in _ON_PROMPTS and form == "text":
        said = f"`train_mode: {mode}` takes prompts; {name} is text"
        _refused(config, "train_mode", said, report, "Write rows with prompt and answer, or `train_mode: sft`.")
    if config.values.get("train_mode") == "sft" and form in _MODE_OF:
        said = f"`train_mode: sft` takes answers to learn; {name} holds {form}"
        fix = f"Write `train_mode: {_MODE_OF[form]}`, or rows with prompt and completion."
        _refused(config, "train_mode", said, report, fix)
    elif "train_mode" not in config.values and form in _MODE_OF:
        _unstated(config, name, form, report)


def _check_sides(config: TrainingConfig, first: Json, name: str, report: Report) -> None:
    """Report pairs in a form that mlx-lm-lora does not read: it takes three strings."""
    features = config.features
    keys = (features.prompt, features.chosen, features.rejected)
    lacking = [key for key in keys if key not in first]
    lists = [key for key in keys if not isinstance(first.get(key, ""), str)]
    if lacking:
        said = f"mlx-lm-lora reads `{lacking[0]}`, and the rows of {name} have none"
        fix = "Write what is asked as `prompt`, and the text of both last messages as `chosen` and `rejected`."
        _refused(config, "data", said, report, foreign_fix(first) or fix)
    elif lists:
        what = "messages" if isinstance(first[lists[0]], list) else kind_of(first[lists[0]])
        said = f"mlx-lm-lora takes `{lists[0]}` as a string, and the rows of {name} have {what}, printed as Python"
        fix = "Write strings: as `prompt` what is asked, as `chosen` and `rejected` the text of the last message."
        _refused(config, "data", said, report, fix)


def _check_labels(config: TrainingConfig, train: DataFile, name: str, report: Report) -> None:
    """Report rows of KTO: a label that is no part of the answer, which other trainings do not read."""
    answers: dict[bool, set[str | None]] = {True: set(), False: set()}
    for row in train.rows():
        if isinstance(label := row.data.get("label"), bool):
            answers[label].add(row.answer)
    # Few answers of which each has one label are classes: there the label says the answer once more.
    if not all(answers.values()) or len(answers[False]) <= _MOST_CLASSES:
        return
    said = f"trains on all rows of {name} alike: `label`, which calls some answers bad as in KTO, is not read"
    fault = Fault("data", said, f"Leave out the rows whose `label` is false. {_LABELLED}", "misleads", "labels")
    _faulty(config, fault, report)


def _unstated(config: TrainingConfig, name: str, form: str, report: Report) -> None:
    report.add(
        "6",
        config.subject,
        f"{name} holds {form} and {config.name} names no `train_mode`: mlx-lm has no training on {form}, and "
        "mlx-lm-lora takes sft for granted.",
        "warning",
        "Write `train_mode`, and run it with mlx-lm-lora.",
        check="train_mode",
        **config.where("data"),
    )


def _check_dose(config: TrainingConfig, rows: int, batch: int, report: Report) -> None:
    """Report more passes over the data than adapters survived: outputs collapse while the loss stays good."""
    iters, epochs = config.values.get("iters"), config.values.get("epochs")
    if config.is_lora_tools and iters is None:
        # mlx-lm-lora makes its steps of the passes, unless `iters` says how many.
        if not is_number(epochs):
            return
        passes = float(epochs)
    else:
        passes = config.number("iters", DEFAULT_ITERS) * batch / rows
    lora = config.values.get("lora_parameters")
    dropout = lora.get("dropout", 0) if isinstance(lora, dict) else 0
    if passes <= MAX_EPOCHS or config.mode in _ON_PROMPTS:
        return
    has_dropout = isinstance(dropout, int | float) and dropout > 0
    report.add(
        "1",
        config.subject,
        f"{config.name} trains {passes:.3g} passes over {rows:,} rows{_strength(lora)}, "
        f"{'with some' if has_dropout else 'without'} dropout: beyond {MAX_EPOCHS:g} passes generations may collapse "
        "into repetition while the loss stays good.",
        "note" if has_dropout else "warning",
        "Train fewer passes, with a lower rank or scale and some dropout, and look at generations at every save.",
        check="dose",
        passes=round(passes, 2),
        rows=rows,
        **config.where("iters"),
    )


def _strength(lora: Any) -> str:
    if not isinstance(lora, dict):
        return ""
    said = [f"{key} {lora[key]:g}" for key in ("rank", "scale") if isinstance(lora.get(key), int | float)]
    return f" at {', '.join(said)}" if said else ""


def sequence_length(config: TrainingConfig) -> int:
    """Return the tokens at which a configuration cuts its rows."""
    return config.number("max_seq_length", MAX_SEQ_LENGTH)


MODULE = "tools.evaluation.audit"
CENSUS_ROWS = 500
"""Training rows of a campaign that are held against what the template makes of them; it treats all alike."""
_MOST_SHARE_CUT = 0.01
"""More rows than this share cut at max_seq_length stop; fewer are a warning."""
_SHOWN = 160
_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class Training:
    """A configuration and the rows it trains on."""

    config: TrainingConfig
    file: DataFile

    @property
    def name(self) -> str:
        """Its file in the project."""
        return self.config.project.name(self.file.path)


@dataclass(frozen=True)
class Counted:
    """What a tokenizer said; empty where none was asked."""

    trainings: list[Json] = field(default_factory=list)
    evaluations: list[Json] = field(default_factory=list)
    why: str = ""
    """Why it said nothing; empty where nobody asked or all was answered."""
    positions: int | None = None
    """That the model was made for."""
    is_asked: bool = False


def trainings_of(configs: Sequence[TrainingConfig], sets: Sequence[DataSet]) -> list[Training]:
    """Return the configurations that train on rows of the project."""
    by_folder = {one.folder: one for one in sets}
    found = []
    for config in configs:
        data = by_folder.get(config.data) if config.data is not None else None
        train = data.files.get("train") if data is not None else None
        if train is not None and train.scan.rows and config.trains:
            found.append(Training(config, train))
    return found


def count(
    model: Path | None, trainings: Sequence[Training], sets: Sequence[DataSet], stated: Sequence[Stated]
) -> Counted:
    """Ask the model's tokenizer.

    Args:
        model: Its folder; None asks nothing.
        trainings: Whose rows are counted.
        sets: Whose prompts evaluations are compared with, where no configuration trains.
        stated: Whose answers are counted and prompts compared.
    """
    asked = [one for one in stated if one.golds]
    if model is None or not (trainings or asked):
        return Counted()
    request = {
        "model": str(model),
        "trainings": [
            {
                **named_file(one.file),
                "max_seq_length": sequence_length(one.config),
                "masks_prompt": one.config.masks_prompt,
            }
            for one in trainings
        ],
        "taught": [named_file(file) for file in taught_by(trainings, sets)],
        "evaluations": [
            {
                "file": str(one.path),
                "gold_field": one.evaluation.gold_field,
                "system": one.evaluation.system,
                "max_tokens": one.evaluation.max_tokens,
            }
            for one in asked
        ],
    }
    answer = ask(MODULE, request, "counting")
    if "why" in answer:
        return Counted(why=str(answer["why"]), is_asked=True)
    positions = read_mapping(model / "config.json", _CONFIG_BYTES).get("max_position_embeddings")
    known = positions if isinstance(positions, int) else None
    return Counted(list(answer["trainings"]), list(answer["evaluations"]), is_asked=True, positions=known)


def rendered_findings(model: Path, train: Path, system: str | None) -> list[Finding] | str:
    """Return what becomes of a campaign's training rows under the model's template, or why nobody can say.

    Args:
        model: Its folder.
        train: The rows; the first of them are looked at.
        system: What is put before rows that bring no system text.
    """
    file = DataFile(train, TRAINED, BOUNDS._replace(content_rows=CENSUS_ROWS))
    row = {**named_file(file), "max_seq_length": MAX_SEQ_LENGTH, "masks_prompt": False, "system": system}
    answer = ask(MODULE, {"model": str(model), "trainings": [row], "taught": [], "evaluations": []}, "rendering")
    told = answer if "why" in answer else answer["trainings"][0]
    if "stock" not in told:
        return str(told["why"])
    return stock_findings(train.name, told["stock"], is_ours=True)


def named_file(file: DataFile) -> Json:
    """Return a data file as workers are told of it."""
    return {"file": str(file.path), "features": vars(file.features), "bounds": list(file.bounds)}


def taught_by(trainings: Sequence[Training], sets: Sequence[DataSet]) -> list[DataFile]:
    """Return the files whose rows evaluations are compared with."""
    configured = {training.file.path: training.file for training in trainings}
    return list(configured.values()) or [one.files["train"] for one in sets if "train" in one.files]


def check_lengths(trainings: Sequence[Training], counted: Counted, report: Report) -> None:
    """Report rows that training cuts (P8)."""
    if not trainings:
        return
    if not counted.trainings:
        why = (
            f"the tokenizer did not answer: {counted.why}" if counted.is_asked else "rows are counted with --model only"
        )
        report.skip(("P8",), why)
        return
    for training, census in zip(trainings, counted.trainings, strict=True):
        if "stock" in census:
            found = stock_findings(training.name, census["stock"], subject=training.config.subject)
            report.look(*(one.mode for one in found))
            report.findings += found
        if "why" in census:
            report.skip(("P8",), f"{training.name}: {shown(str(census['why']))[:200]}")
            continue
        report.look("P8")
        if not training.file.is_judged_whole():
            report.skip(("P8",), f"{training.name}: only {training.file.bounds.content} were counted")
        if census["truncated"]:
            _cut_rows(training, census, counted.positions, report)
        is_said = "no_end_token" in census.get("stock", {}).get("kinds", {})
        if census["without_end"] > census["rows"] / 2 and not is_said:
            _unended(training, census, report)


def _cut_rows(training: Training, census: Json, positions: int | None, report: Report) -> None:
    config, limit = training.config, sequence_length(training.config)
    cut, rows, lost = census["truncated"], census["rows"], census["prompt_longer_than_max"]
    batch = config.number("batch_size", DEFAULT_BATCH_SIZE)
    # Batches are of rows of like length: where so many are lost, one batch may be all of them.
    is_nothing_left = config.masks_prompt and lost >= batch
    prompts = f", {lost:,} of them already in the prompt" if lost else ""
    masked = ""
    if is_nothing_left:
        masked = f" With mask_prompt a batch of {batch} such rows has the loss NaN, and so has the adapter after it."
    elif config.masks_prompt and lost:
        masked = " With mask_prompt nothing of their answers is learned."
    longest = census["max_tokens"]
    fix = f"Set max_seq_length to {longest}, or remove these lines."
    if positions is not None and longest > positions:
        fix = f"Remove or split these lines: the longest is beyond the {positions:,} positions of the model."
    report.add(
        "P8",
        config.subject,
        f"{cut:,} of {rows:,} rows of {training.name} are longer than max_seq_length {limit} (longest "
        f"{census['max_tokens']:,} tokens; lines {', '.join(map(str, census['lines'][:3]))}){prompts}: their ends are "
        f"cut, the end token with them.{masked}",
        "hard_stop" if is_nothing_left or cut > max(1, _MOST_SHARE_CUT * rows) else "warning",
        fix,
        check="truncated",
        rows=rows,
        truncated=cut,
        longest=longest,
        p95=census["p95"],
        max_seq_length=limit,
        prompt_longer_than_max=lost,
        lines=census["lines"],
        **config.where("max_seq_length"),
    )


def check_taught(trainings: Sequence[Training], stated: Sequence[Stated], counted: Counted, report: Report) -> None:
    """Report evaluations whose budget fits their references and cuts what training teaches to answer (P1)."""
    taught = [(one, census["least_answer"]) for one, census in zip(trainings, counted.trainings, strict=False)
              if census.get("least_answer")]  # fmt: skip
    asked = [one for one in stated if one.golds]
    for one, row in zip(asked, counted.evaluations, strict=False):
        most, needs = one.evaluation.max_tokens, row.get("needs") or []
        for training, least in taught if needs and max(needs) <= most else []:
            if least <= most:
                continue
            report.add(
                "P1",
                one.subject,
                f"{one.evaluation.name} decodes {most} tokens, which its reference answers fit into; the answers that "
                f"{training.name} teaches need {least} and more: they would be cut.",
                "warning",
                "Raise max_tokens to what is taught, its reasoning too, or teach answers like the references.",
                check="taught_answers",
                max_tokens=most,
                least_taught=least,
                **one.where("max_tokens"),
            )


def _unended(training: Training, census: Json, report: Report) -> None:
    report.add(
        "P8",
        f"data:{training.name}",
        f"{census['without_end']:,} of {census['rows']:,} rows of {training.name} end without the model's end token "
        "under its template: the model is not taught to stop.",
        "warning",
        "Use a template that closes the assistant's turn with the end token, or add that token to the model's own.",
        check="without_end",
        rows=census["rows"],
        without_end=census["without_end"],
        file=training.name,
        line=1,
    )


def check_prompts(
    trainings: Sequence[Training], sets: Sequence[DataSet], stated: Sequence[Stated], counted: Counted, report: Report
) -> None:
    """Report evaluations that ask otherwise than training taught (P7)."""
    asked = [one for one in stated if one.golds]
    if counted.evaluations:
        for one, row in zip(asked, counted.evaluations, strict=True):
            parity = row.get("parity")
            if parity:
                report.look("P7")
                if not parity["ok"]:
                    _differ(one, parity["train_prefix"], parity["eval_prefix"], report)
            elif trainings or sets:
                why = shown(str(row.get("why", "no prompts to compare")))[:200]
                report.skip(("P7",), f"{one.subject}: {why}")
        return
    taught = _systems(taught_by(trainings, sets))
    if not asked or taught is None:
        return
    for one in asked:
        _check_system(one, taught, report)
    why = (
        f"the tokenizer did not answer: {counted.why}"
        if counted.is_asked
        else "templates are rendered with --model only"
    )
    report.skip(("P7",), why)


def _systems(files: Sequence[DataFile]) -> dict[str | None, None] | None:
    """Return the system texts of training rows, None among them; None where rows bring their own template."""
    found: dict[str | None, None] = {}
    for file in files:
        if file.scan.form == "text":
            return None
        found |= dict.fromkeys(row.system or None for row in file.rows())
    return found or None


def _check_system(one: Stated, taught: dict[str | None, None], report: Report) -> None:
    """Hold the system texts of an evaluation against those of training; the first that was never taught is told."""
    for gold in one.golds:
        messages = gold.data.get("messages")
        first = messages[0] if isinstance(messages, list) and messages and isinstance(messages[0], dict) else {}
        own = first.get("content") if first.get("role") == "system" else gold.data.get("system")
        system = (own if isinstance(own, str) else None) or one.evaluation.system or None
        if system not in taught:
            known = next(iter(taught))
            _differ(one, _named(known), _named(system), report)
            return


def _named(system: str | None) -> str:
    return f"the system text {shown(system)!r}" if system else "no system text"


def _differ(one: Stated, taught: str, asked: str, report: Report) -> None:
    """Report two ways to ask; where the file does not say whether evaluation puts a system text, it is a warning."""
    is_stated = one.evaluation.system is not None
    report.look("P7")
    report.add(
        "P7",
        one.subject,
        f"{one.evaluation.name} asks in another way than training taught: training has {shown(taught)[:_SHOWN]}, "
        f"evaluation {shown(asked)[:_SHOWN]}.",
        "hard_stop" if is_stated else "warning",
        "Use one system text and one form of message for both."
        if is_stated
        else "State the evaluation's `system` in vigil-audit.yaml (an empty text for none), and use one for both.",
        check="prompts",
        train_prefix=shown(taught)[:_SHOWN],
        eval_prefix=shown(asked)[:_SHOWN],
        **one.where("system"),
    )
