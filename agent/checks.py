"""What can be found wrong with a campaign before anything is created: files, data, model, grader, recipe.

Reads only. What would halt the campaign as a hard stop later (one case in two splits, a model folder of two saves, a
grader that fails) is refused here only in a rehearsal (`vigil run --check`): in a real run the probes meet it, with
evidence on record. No weights are run, and without `online` nothing is asked of the network.
"""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from agent.campaign import RUNBOOK, LoadedCampaign
from agent.mistakes import nearest
from agent.notices import addresses, send
from policies.checks import cases_told, least_cases, limit_fix
from policies.comparison import CaseTable, scales_of
from policies.target import aims
from state.errors import ConfigError
from state.goal import Goal, name_of, split_of
from state.paths import CampaignPaths

_CASES_PER_FILE = 2
"""Enough to learn the metrics' names; the census grades all cases."""
_UNUSABLE = frozenset({
    "no_config", "no_tokenizer", "no_weights", "unreadable", "truncated", "type", "code", "format", "vocabulary",
})  # fmt: skip
"""Kinds of problems of a model folder with which it cannot be opened at all."""


def check_campaign(
    loaded: LoadedCampaign, paths: CampaignPaths | None = None, *, online: bool = False, is_rehearsal: bool = False
) -> list[str]:
    """Validate a campaign against what is on this disk.

    Args:
        loaded: The campaign file.
        paths: Its folder, or where it will be: what the ledger says of its cases is asked too; left out: not asked.
        online: Download the model if it is a hub id.
        is_rehearsal: Only checking: refuse what would halt the campaign later, and let a model that is not here pass.

    Returns:
        Sentences worth telling: what was found, and what was not checked.

    Raises:
        ConfigError: Something the user can fix; nothing was created.
        CorruptError: The ledger of opened cases is damaged or lost, or, in a rehearsal, the campaign's record is.
        ToolUnavailableError: Online, and the hub did not answer.

    Side effects: starts the grader in a child process; online, writes the hub's cache.
    """
    _refuse_delta(loaded)
    has_begun = paths is not None and paths.db.exists() and not is_rehearsal
    return [
        *(f"`{old}` is called `{new}` now; it works as before." for old, new in _RENAMED.items() if loaded.has(old)),
        *_check_data(loaded, masks_prompt=_check_recipe(loaded)),
        *_check_splits(loaded, paths, has_begun=has_begun, is_rehearsal=is_rehearsal),
        *_check_model(loaded, online=online, is_rehearsal=is_rehearsal),
        *(_check_rendered(loaded) if is_rehearsal else ()),
        *_check_adapter(loaded),
        *_check_probes(loaded),
        *_check_notify(loaded, has_begun=has_begun),
        *_check_export(loaded),
        *_check_trackers(loaded),
        *_check_grader(loaded, is_rehearsal=is_rehearsal),
    ]


_RENAMED = {"search.carry": "search.start_from"}
"""Keys that have a better name; the old one works too."""


def _check_data(loaded: LoadedCampaign, *, masks_prompt: bool) -> Iterator[str]:
    from tools.data.cases import check_data, check_split, iter_pairs

    for path in _data_files(loaded, "train", "valid"):
        summary = check_data(path, mask_prompt=masks_prompt)
        yield f"{path.name} holds {summary.rows:,} rows in mlx-lm's {summary.format} form."
    for path in _data_files(loaded, "pairs", "valid_pairs", fix="correct the path, or build it with `vigil pairs`"):
        yield f"{path.name} holds {sum(1 for _ in iter_pairs(path)):,} preference pairs."
    for path in _data_files(loaded, "rollouts", "valid_rollouts"):
        yield f"{path.name} holds {check_split(path).cases:,} cases for rollouts."
    if loaded.goal.data.valid is None:
        yield "There is no validation data, so validation loss is not measured."


def _data_files(loaded: LoadedCampaign, *names: str, fix: str = "correct the path") -> Iterator[Path]:
    """Yield the files that are named as data.

    Raises:
        ConfigError: One is not there.
    """
    for name in names:
        written = getattr(loaded.goal.data, name)
        if written is None:
            continue
        path = loaded.resolve(written)
        if not path.is_file():
            raise loaded.refusal(f"`data.{name}` names {path}, which is not a file; {fix}.", "data", name)
        yield path


def _check_splits(
    loaded: LoadedCampaign, paths: CampaignPaths | None, *, has_begun: bool, is_rehearsal: bool
) -> Iterator[str]:
    """Read every split file, count both parts, and look for a case that stands there twice or was used before."""
    from agent.openings import case_parts, check_openings, refuse_copies
    from tools.probes.files import shared_prompts

    for path, *loc in case_files(loaded):
        if not path.is_file():
            raise loaded.refusal(f"`{'.'.join(loc)}` names {path}, which is not a file; correct the path.", *loc)
    parts = case_parts(loaded.goal, loaded.folder)
    counts: dict[str, dict[str, int]] = {}
    for part in parts:
        _require_enough(loaded, part.name, part.use, len(part.rows))
        counts.setdefault(part.name, {})[part.use] = len(part.rows)
    shared = loaded.goal.evaluation.splits
    files = {each.name if shared[each.name].file else f"{each.name}.{each.use}": each.file for each in parts}
    for case, first, name in shared_prompts(files)[0] if is_rehearsal else ():
        raise loaded.refusal(
            f"case {case!r} stands in {first} and in {name}; no case may be in two splits, or confirmation confirms"
            " nothing.",
            "evaluation",
            "splits",
            name.partition(".")[0],
        )
    # What began under an older Vigil goes on with its selection cases as they are; confirmation is never softened.
    refuse_copies(loaded, [part for part in parts if part.use == "confirmation" or not has_begun])
    alpha = loaded.goal.gate.confirmation_alpha
    if paths is not None:
        spending, told = check_openings(loaded, paths, parts, has_record=is_rehearsal)
        alpha = spending.next_alpha
        yield told
    confirmation = {name: of_use["confirmation"] for name, of_use in counts.items()}
    # Where none is left no number of cases shows anything, and it is said that they are not opened again.
    if alpha:
        if is_rehearsal:
            _require_decidable(loaded, confirmation, alpha)
        nothing = CaseTable(scales=scales_of(loaded.goal.track.ranges))
        for each in cases_told(loaded.goal.gate, confirmation, alpha=alpha, cases=nothing):
            yield f"Confirmation cases for {each.sentence}"
    for name, of_use in counts.items():
        yield f"Split {name}: {of_use['selection']} selection and {of_use['confirmation']} confirmation cases."


def case_files(loaded: LoadedCampaign) -> Iterator[tuple[Any, ...]]:
    """Yield each file of evaluation cases, those kept for repairs too, with the keys that name it."""
    for name, split in loaded.goal.evaluation.splits.items():
        for key in ("file", "selection", "confirmation"):
            if (written := getattr(split, key)) is not None:
                yield loaded.resolve(written), "evaluation", "splits", name, key
    for name, written in loaded.goal.evaluation.repairs.cases.items():
        yield loaded.resolve(written), "evaluation", "repairs", "cases", name


def _refuse_delta(loaded: LoadedCampaign) -> None:
    """Refuse a δ above a gap that the file itself names: an improvement asked over the parent."""
    gate, dense = loaded.goal.gate, loaded.goal.evaluation.dense
    aimed = next(iter(aims(gate)), None)
    if gate.meaningful_delta is None or aimed is None or aimed.against != "parent" or aimed.statistic != "mean":
        return
    asked = aimed.sign * aimed.threshold
    if 0 < asked < gate.meaningful_delta and dense.keys().isdisjoint(aimed.metrics):
        raise loaded.refusal(
            f"`gate.meaningful_delta` is {gate.meaningful_delta:g}, more than the {asked:g} that {aimed.id} asks for;"
            f" write at most {asked:g}, or leave it out.",
            "gate",
            "meaningful_delta",
        )


def _require_decidable(loaded: LoadedCampaign, confirmation: dict[str, int], alpha: float) -> None:
    """Refuse confirmation cases on which not even the best scores that there can be would meet a condition."""
    gate, scales = loaded.goal.gate, scales_of(loaded.goal.track.ranges)
    for place, condition in enumerate(gate.conditions):
        least = least_cases(condition, alpha, scales)
        splits = {split_of(metric) for metric in condition.metrics}
        found = max((confirmation.get(split, 0) for split in splits), default=0)
        if found and (fix := limit_fix(condition, found, alpha, scales)):
            raise loaded.refusal(
                f"{condition.id} allows at most {condition.threshold:g}, and {found} confirmation cases without any"
                f" failure do not show that at alpha {alpha:.3g}; {fix}.",
                "gate",
                "conditions",
                place,
            )
        if found < least and splits.isdisjoint(loaded.goal.evaluation.repairs.cases):
            raise loaded.refusal(
                f"{condition.id} cannot be shown on {found} confirmation cases at alpha {alpha:.3g} (what is left of"
                f" gate.alpha over the openings left), whatever a run scores: it needs at least {least}.",
                "gate",
                "conditions",
                place,
            )


def _require_enough(loaded: LoadedCampaign, name: str, use: str, found: int) -> None:
    least = loaded.goal.evaluation.splits[name].min_cases
    if found < least:
        raise loaded.refusal(
            f"split {name} has {found} {use} cases, and `min_cases` asks for {least}; add cases or lower it.",
            "evaluation",
            "splits",
            name,
            "min_cases",
        )


def _check_model(loaded: LoadedCampaign, *, online: bool, is_rehearsal: bool) -> Iterator[str]:
    from tools.models.adapters import layers_of, recipe_problems
    from tools.models.hub import resolve
    from tools.models.identity import code_in, coherence_problems, describe_model

    spec = loaded.goal.model
    try:
        model = resolve(spec.path, online=online, revision=spec.revision, base=loaded.folder, campaign=str(loaded.path))
    except ConfigError as error:
        if online or not is_rehearsal or not _is_hub_id(loaded):
            raise loaded.refusal(error.sentence, "model", "path") from error
        yield f"Not checked offline: model {spec.path}; vigil run --check --online {loaded.path.name} downloads it."
        return
    problems = coherence_problems(model.folder)
    for problem in problems:
        if is_rehearsal or problem.detail.get("kind") in _UNUSABLE:
            raise loaded.refusal(problem.sentence, "model", "path")
    layers = layers_of(model.folder)
    for problem in recipe_problems(loaded.goal.first_recipe, layers, default_layers=-1):
        if problem.detail["kind"] == "num_layers":
            continue  # where mlx-lm stops, our trainer takes all layers
        if problem.detail.get("is_warning"):
            yield problem.sentence
            continue
        raise loaded.refusal(problem.sentence, "recipe", *str(problem.detail["key"]).split("."))
    facts = describe_model(model.folder)
    at = f" at {model.revision[:12]}" if model.revision else ""
    if code := code_in(model.folder):
        yield f"Model {spec.path}: {code}"
    yield f"Model {spec.path}{at}: {facts.get('model_type')}, {int(facts.get('n_parameters') or 0):,} parameters."


def _check_rendered(loaded: LoadedCampaign) -> Iterator[str]:
    """Refuse training rows that the model's template refuses; say what it drops or changes of the others."""
    from tools.models.hub import resolve
    from tools.probes.recipes import rendered_findings

    spec = loaded.goal.model
    try:
        model = resolve(spec.path, online=False, revision=spec.revision, base=loaded.folder).folder
    except ConfigError:
        return
    train = loaded.resolve(loaded.goal.data.train)
    found = rendered_findings(model, train, loaded.goal.track.system)
    if isinstance(found, str):
        yield f"Not checked: what the template makes of {train.name} ({found})."
        return
    for one in found:
        if one.severity == "hard_stop":
            raise loaded.refusal(f"{one.sentence} {one.fix}", "data", "train")
        yield f"{one.sentence} {one.fix}"


def _check_adapter(loaded: LoadedCampaign) -> Iterator[str]:
    """Refuse an adapter of another model, and a recipe that would build another adapter than the one to go on from."""
    from tools.models.adapters import adapter_problems, adapter_recipe
    from tools.models.hub import resolve
    from tools.probes.model import is_untrained, not_finite, open_tensors

    spec = loaded.goal.model
    if spec.adapter is None:
        return
    adapter = loaded.resolve(spec.adapter)
    if not adapter.is_dir():
        raise loaded.refusal(f"`model.adapter` names {adapter}, which is not a folder.", "model", "adapter")
    try:
        model = resolve(spec.path, online=False, revision=spec.revision, base=loaded.folder).folder
    except ConfigError:
        yield "Not checked offline: whether model.adapter belongs to the model."
        return
    for problem in adapter_problems(adapter, model):
        raise loaded.refusal(problem.sentence, "model", "adapter")
    tensors = open_tensors(adapter / "adapters.safetensors")
    if bad := not_finite(tensors):
        said = f"{len(bad)} of {len(tensors.names)} tensors of {adapter} hold NaN or infinity; train it again."
        raise loaded.refusal(said, "model", "adapter")
    if is_untrained(tensors):
        yield f"The adapter {spec.adapter} changes nothing: all its lora_b are 0, as before the first update."
    theirs, ours = _flat(adapter_recipe(adapter)), _flat(loaded.goal.first_recipe)
    for key in theirs.keys() & ours.keys():
        if ours[key] != theirs[key]:
            raise loaded.refusal(
                f"`{key}` is {ours[key]}, but the adapter to go on from has {theirs[key]}; leave the key out, or keep "
                "the adapter's value.",
                "recipe",
                *(["lora_parameters"] if key in {"rank", "scale", "dropout", "keys"} else []),
                key,
            )
    yield f"Runs go on from the adapter {spec.adapter}."


def _check_probes(loaded: LoadedCampaign) -> Iterator[str]:
    """Refuse a probe of the user's that is not there; none is run before the campaign is."""
    from tools.probes.own import declared

    for index, written in enumerate(loaded.goal.probes):
        path = loaded.resolve(written)
        if not path.is_file():
            raise loaded.refusal(
                f"`probes[{index}]` names {path}, which is not a file; correct the path.", "probes", index
            )
        said = declared(path).refuted_by
        yield f"Probe {written}: " + (
            f"refuted by {said}." if said else "names no `refuted_by`, so what it finds is not counted as evidence."
        )


def _check_notify(loaded: LoadedCampaign, *, has_begun: bool) -> Iterator[str]:
    """Refuse a command or an address that cannot be used; a campaign that has begun goes on without, and says so."""
    try:
        if told := _told_to(loaded):
            yield told
    except ConfigError as error:
        if not has_begun:
            raise
        yield f"Nobody is told of anything: {error.sentence}"


def _told_to(loaded: LoadedCampaign) -> str:
    notify = loaded.goal.notify
    if notify is None:
        return ""
    program = notify.command[0] if notify.command else ""
    found = shutil.which(str(loaded.folder / program) if "/" in program else program)
    if program and found is None:
        said = f"`notify.command` names {program}, which is no program that can be run here; install it or correct it."
        raise loaded.refusal(said, "notify", "command")
    for each, address in zip(notify.to, addresses(loaded.path) if notify.to else (), strict=True):
        if wrong := send({"address": address}, notify.timeout_s):
            raise loaded.refusal(f"`notify.to`, {each.label}: {wrong}.", "notify", "to")
    whom = [program, *(each.label for each in notify.to)]
    return f"Notifications ({', '.join(notify.on)}): {', '.join(filter(None, whom))}"


def _check_export(loaded: LoadedCampaign) -> Iterator[str]:
    """Refuse a folder that cannot be written; it is not made before something is promoted."""
    export = loaded.goal.export
    if export is None:
        return
    folder = loaded.resolve(export.to)
    nearest_there = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest_there.is_dir() or not os.access(nearest_there, os.W_OK | os.X_OK):
        said = f"`export.to` names {folder}, and {nearest_there} is not a folder that can be written; choose another."
        raise loaded.refusal(said, "export", "to")
    yield f"What is promoted is also written to {folder}."


def _check_trackers(loaded: LoadedCampaign) -> Iterator[str]:
    """Refuse a tracker whose package is not installed: at night nobody would see that it stays empty."""
    for index, name in enumerate(loaded.goal.trackers):
        if find_spec(name) is None:
            said = (
                f"`trackers` names {name}, which is not installed here: pip install 'vigil[{name}]', or leave it out."
            )
            raise loaded.refusal(said, "trackers", index)
        yield f"Step metrics and verdicts also go to {name}, by a process of its own."


def _flat(recipe: Any) -> dict[str, Any]:
    """Return a recipe's keys with those of `lora_parameters` beside them."""
    rest = {key: value for key, value in recipe.items() if key != "lora_parameters"}
    return {**rest, **(recipe.get("lora_parameters") or {})}


def _is_hub_id(loaded: LoadedCampaign) -> bool:
    """Say whether `owner/name` was meant: a path that starts with a dot or a slash, or exists, was not."""
    written = loaded.goal.model.path
    parts = written.split("/")
    return len(parts) == 2 and not written.startswith((".", "~", "/")) and not loaded.resolve(parts[0]).exists()  # noqa: PLR2004 - owner and name


def _check_recipe(loaded: LoadedCampaign) -> bool:
    """Have the training side read the recipe: unknown keys, wrong types, values that cannot be.

    Returns:
        Whether prompts are masked, so that the data must have prompts.
    """
    from tools.training.recipe import RECIPES, validate_recipe

    goal = loaded.goal
    first: list[tuple[Any, ...]] = [(goal.instruments[0], goal.recipe, "recipe")]
    others = [(instrument, recipe, "recipes", instrument) for instrument, recipe in goal.recipes.items()]
    masks_prompt = True
    for instrument, recipe, *loc in [*(first if goal.instruments[0] not in goal.recipes else ()), *others]:
        # What an instrument that is not there would read is for the capability probe to refuse, with its reason.
        if instrument not in RECIPES:
            continue
        try:
            read = validate_recipe(recipe, instrument)
        except ConfigError as error:
            key = str(error.what).removeprefix("recipe.").split(".")
            where = loaded.where(*loc, *key)
            raise ConfigError(
                f"{where}: {error.sentence}", what=error.what, value=error.value, where=where, runbook=RUNBOOK
            ) from error
        masks_prompt = read.mask_prompt if instrument == "sft" else masks_prompt
    return masks_prompt


def grader_spec(goal: Goal, folder: Path) -> Any:
    """Return the track's grader as `GraderSpec`, with absolute paths."""
    from tools.graders.contract import GraderSpec

    track = goal.track
    return GraderSpec(
        file=str((folder / track.grader).resolve()) if track.grader else None,
        command=track.command,
        shipped=track.name,
        timeout_s=track.timeout_s,
        metrics=track.metrics,
        network=track.network,
        memory_gb=track.memory_gb,
        env=track.env,
        cwd=str(folder) if track.command else None,
        is_private=goal.privacy == "redact",
    )


def _check_grader(loaded: LoadedCampaign, *, is_rehearsal: bool) -> Iterator[str]:
    """Ask the grader about a few cases, and hold the gate's metrics against what it answers with."""
    from tools.data.cases import iter_split
    from tools.graders.host import Grader
    from tools.machine.sandbox import limits_said

    key = next(key for key in ("name", "grader", "command") if getattr(loaded.goal.track, key) is not None)
    files = dict.fromkeys(path for path, *_ in case_files(loaded))
    cases = [case for path in files for case in islice(iter_split(path), _CASES_PER_FILE)]
    spec = grader_spec(loaded.goal, loaded.folder)
    try:
        with Grader(spec) as grader:
            grades = grader.grade((case, str(case.get("reference") or ""), "stop") for case in cases)
            known = grader.metrics
    except ConfigError as error:
        where = loaded.where("track", key)
        raise ConfigError(
            f"{where}: {error.sentence}", what=f"track.{key}", where=where, runbook=error.runbook
        ) from error
    failed = next((grade for grade in grades if grade.error), None)
    if failed is not None:
        sentence = f"the grader failed on case {failed.case_id!r}: {failed.error}"
        if is_rehearsal:
            raise loaded.refusal(f"{sentence}; repair it, a case it cannot grade has no score.", "track", key)
        yield f"{sentence[0].upper()}{sentence[1:]}."
    if failed is None:
        _require_metrics(loaded, known)
        yield f"The grader answers with {', '.join(known)}."
    yield f"The grader runs {limits_said(spec.limits)}."


def _require_metrics(loaded: LoadedCampaign, known: tuple[str, ...]) -> None:
    """Refuse a gate, control or baseline on a metric that the grader does not give."""
    goal = loaded.goal
    wanted: list[tuple[str, tuple[str | int, ...]]] = [
        (metric, ("gate", "conditions", index, "metric" if condition.metric else "any_of"))
        for index, condition in enumerate(goal.gate.conditions)
        for metric in condition.metrics
    ]
    if goal.evaluation.control:
        wanted.append((goal.evaluation.control, ("evaluation", "control")))
    wanted += [(metric, ("baseline", "expected", metric)) for metric in goal.baseline.expected]
    for metric, loc in wanted:
        name = name_of(metric)
        if name not in known:
            guess = nearest(name, list(known))
            advice = f"did you mean {guess}?" if guess else f"it answers with {', '.join(known)}."
            raise loaded.refusal(f"{metric!r} names a metric that the track does not have; {advice}", *loc)
