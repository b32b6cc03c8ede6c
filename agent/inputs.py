"""What each job is given: specifications by kind of action, and which cases are selection, which confirmation."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from agent.campaign import LoadedCampaign
from agent.session import WORKERS, Session
from policies.guards import lasting
from policies.plan import CENSUS_PARTS
from policies.recipes import BALANCE
from policies.target import own_metric
from state.errors import ConfigError, NotFoundError
from state.goal import Goal, name_of, split_of
from state.hashing import hash_json
from state.recipe import setting
from state.records import CLASSES, ActionKind, Decision, Guard, Instrument, JobKind, Json, Run, SplitUse
from tools.data.balance import write_balanced
from tools.data.cases import iter_split
from tools.jobs.spec import JobSpec
from tools.models.identity import describe_model

_BUCKETS = 1 << 32


def is_confirmation(case_id: str, share: float) -> bool:
    """Say on which side a case of a shared file falls; it depends on the case alone, so adding cases moves none.

    Args:
        case_id: The case's id.
        share: Share of cases for confirmation, (0, 1).
    """
    hashed = hashlib.sha256(case_id.encode()).digest()
    return int.from_bytes(hashed[:4], "big") < share * _BUCKETS


def split_inputs(goal: Goal, folder: Path, use: SplitUse) -> list[Json]:
    """Return the worker's description of each split for one use; as `all_split_inputs`."""
    return [row for row in all_split_inputs(goal, folder) if row["use"] == use]


def all_split_inputs(goal: Goal, folder: Path) -> list[Json]:
    """Return the worker's description of both uses of each split, selection first; a file that they share is read once.

    Args:
        goal: The campaign.
        folder: Folder of the campaign file.

    Returns:
        Rows `{"name", "use", "file", "case_ids"}`; `case_ids` is None when the whole file counts.

    Raises:
        ConfigError: A file that is shared by both uses leaves one of them empty.
    """
    rows: list[Json] = []
    for name, split in goal.evaluation.splits.items():
        if split.file is None:
            files = {"selection": str(split.selection), "confirmation": str(split.confirmation)}
            rows += [
                {"name": name, "use": use, "file": str((folder / written).resolve()), "case_ids": None}
                for use, written in files.items()
            ]
            continue
        path = (folder / split.file).resolve()
        ids: dict[str, list[str]] = {"selection": [], "confirmation": []}
        for case in iter_split(path):
            is_kept = is_confirmation(str(case["id"]), split.confirmation_share)
            ids["confirmation" if is_kept else "selection"].append(str(case["id"]))
        for use, of_use in ids.items():
            if not of_use:
                raise ConfigError(
                    f"{path}: none of its cases falls into {use}; add cases, or name one file for each use.",
                    what=f"evaluation.splits.{name}",
                    where=str(path),
                )
            rows.append({"name": name, "use": use, "file": str(path), "case_ids": of_use})
    return sorted(rows, key=lambda row: row["use"] == "confirmation")


_KINDS: dict[ActionKind, JobKind] = {
    "census": "census",
    "evaluate": "evaluation",
    "confirm": "evaluation",
    "train": "training",
    "notify": "notice",
    "fuse": "fuse",
    "pace": "pace",
}


def job_kind(action: ActionKind) -> JobKind:
    """Return the kind of job that performs an action."""
    return _KINDS[action]


def grader_input(loaded: LoadedCampaign) -> Json:
    """Return the grader as the worker's `GraderSpec`, with absolute paths."""
    from agent.checks import grader_spec

    return dict(grader_spec(loaded.goal, loaded.folder).model_dump(mode="json"))


def data_input(goal: Goal, session: Session) -> Json:
    """Return absolute paths of the training data."""
    return {name: str(session.loaded.resolve(path)) if path else None for name, path in goal.data.files.items()}


def evaluation_input(session: Session, use: SplitUse | None) -> Json:
    """Return how cases are generated and graded; everything but the weights.

    Args:
        session: This sitting.
        use: Which splits; None for both.
    """
    goal, folder = session.goal, session.loaded.folder
    splits = all_split_inputs(goal, folder) if use is None else split_inputs(goal, folder, use)
    return answering_input(session.loaded, session.model, splits)


def answering_input(loaded: LoadedCampaign, model: Path, splits: list[Json]) -> Json:
    """Return how any cases of a campaign are generated and graded; no sitting is needed for it."""
    goal = loaded.goal
    return {
        "model": str(model),
        "dtype": goal.model.dtype,
        "splits": splits,
        "max_tokens": goal.evaluation.max_tokens,
        "temperature": goal.evaluation.temperature,
        "seed": goal.seed,
        "batch_size": goal.evaluation.batch_size,
        "system": goal.track.system,
        "grader": grader_input(loaded),
        "privacy": goal.privacy,
    }


def census_input(session: Session, parts: Sequence[str] = ("tokens", "grades")) -> Json:
    """Return what the census reads: evaluation splits, training data and the tokenizer.

    Args:
        session: This sitting.
        parts: `tokens`, `grades`, or both.
    """
    recipe, of_pairs = session.goal.first_recipe, session.goal.recipe_of_class("preference")
    return {
        "parts": list(parts),
        **evaluation_input(session, None),
        "data": data_input(session.goal, session),
        "row_cache": str(session.paths.rows),
        "max_seq_length": int(setting(recipe, "max_seq_length")),
        "mask_prompt": bool(setting(recipe, "mask_prompt")),
        "group_by": session.goal.data.group_by,
        "pair_seq_length": None if of_pairs.get("truncate") else of_pairs.get("max_seq_length"),
    }


def job_spec(session: Session, decision: Decision) -> JobSpec:
    """Build the specification of the job that performs a decision.

    Raises:
        NotFoundError: The decision names a run that the store does not have.
    """
    inputs = decision.action_inputs
    kind = job_kind(decision.action)
    guards = tuple(Guard.model_validate(guard) for guard in inputs.get("guards", ()))
    steps = 0
    if kind == "census":
        body = census_input(session, [part for part, name in CENSUS_PARTS.items() if name in inputs])
    elif kind == "training":
        body, steps = _training_input(session, decision)
    elif kind == "pace":
        body = _pace_input(session, inputs)
    elif kind == "notice":
        body = _notice_input(session, inputs)
    elif kind == "fuse":
        body = {
            "model": str(model_of(session, run=decision.run)),
            "adapter": str(session.paths.artifact(str(inputs["adapter"]))),
            "expect_weights": inputs.get("weights"),
            "dtype": session.goal.model.dtype,
            "data": data_input(session.goal, session),
            "system": session.goal.track.system,
        }
    else:
        part = inputs.get("look")
        body = evaluation_input(session, "selection" if part else inputs["use"])
        body |= {"splits": [_part(session, part)]} if part else {}
        body |= {
            "model": str(model_of(session, inputs["weights"], inputs.get("adapter", ""), decision.run)),
            "adapter": _adapter_of(session, inputs),
            "expect_weights": inputs["weights"],
            "side": inputs["side"],
            "run": decision.run,
        }
        body |= _forms(session, decision, body)
        counts = _counts(body["splits"])
        again = sum(min(count, int(body.get("repeated", 0))) for count in counts) * int(body.get("orders", 0))
        steps = sum(counts) * (2 if body.get("other_form") else 1) + again
        # Confirmation may have many times the cases that were answered so far, each in both forms.
        guards = lasting(guards, steps * _answer_s(session))
    return JobSpec(
        key=decision.action_key,
        kind=kind,
        module=session.workers.get(kind) or WORKERS[kind],
        input=body,
        env=dict(session.environment),
        guards=guards,
        steps=steps,
        created_at=decision.made_at,
    )


def _answer_s(session: Session) -> float:
    """Return what an answer took at most, seconds, over the evaluations so far; zero before there was one."""
    read, took = session.store.read, {}
    for action in read.actions():
        if _KINDS.get(action.kind) == "evaluation" and action.state == "done":
            # The job's own time counts what was answered before a restart.
            took[action.key] = max(action.made.wall_s or 0.0, action.exit.wall_s)
    return max((took[job.key] / job.steps for job in read.jobs() if job.steps and job.key in took), default=0.0)


_ORDERS = 3
"""Other orders in which the base answers, to see what half precision makes of the same weights."""

_REPEATED = 200
"""Cases of a split that are answered in other orders: enough to see one case in a hundred change."""


def _forms(session: Session, decision: Decision, body: Json) -> Json:
    """Return in which form an adapter is judged, and how often more the base is asked.

    What is confirmed is what is handed out: the adapter beside its base, or fused where the export says so; what the
    other form answers is measured beside it. Selection takes the quicker form.
    """
    goal = session.goal
    if decision.action == "confirm" and body["adapter"]:
        is_fused = goal.export is not None and goal.export.fused
        return {"form": "fused", "other_form": "apart"} if is_fused else {"form": "apart", "other_form": "fused"}
    is_baseline = decision.action_inputs["side"] == "base" and decision.action_inputs["use"] == "selection"
    dtype = goal.model.dtype or describe_model(Path(body["model"]))["dtype"]
    return {"orders": _ORDERS, "repeated": _REPEATED} if is_baseline and dtype in _HALF else {}


_HALF = ("bfloat16", "float16", "BF16", "F16")
"""As the campaign file has it and as weight files do."""


def _pace_input(session: Session, inputs: Json) -> Json:
    """Return what the timing worker trains on for a few steps: what the run would be given, but nothing to look at."""
    instrument: Instrument = inputs["instrument"]
    adapter = str(inputs.get("adapter") or "")
    start = str(session.adapter) if inputs["parent"] == "start" else None
    return {
        "model": str(model_of(session, inputs["weights"], adapter)),
        "dtype": session.goal.model.dtype,
        "parent_adapter": str(session.paths.artifact(adapter)) if adapter else start,
        "expect_weights": inputs["weights"],
        "instrument": instrument,
        "recipe": {key: value for key, value in inputs["recipe"].items() if key != BALANCE},
        "data": data_input(session.goal, session),
        "row_cache": str(session.paths.rows),
        "system": session.goal.track.system,
        "privacy": session.goal.privacy,
        **(rollout_input(session, inputs["recipe"]) if CLASSES[instrument] == "rollout" else {}),
        "held_out": None,
    }


def _notice_input(session: Session, inputs: Json) -> Json:
    """Return what the user's command is told, and how it is run.

    Raises:
        NotFoundError: The campaign file names no command any more.
    """
    notify = session.goal.notify
    if notify is None or not notify.can_run:
        raise NotFoundError("The campaign file no longer has `notify`, so there is no command to run.")
    notice = {
        "campaign": session.goal.campaign,
        **{name: inputs.get(name, "") for name in ("event", "title", "sentence", "figures", "type")},
    }
    return {
        "command": list(notify.command),
        "env": list(notify.env),
        "cwd": str(session.loaded.folder),
        "timeout_s": notify.timeout_s,
        "line": notice,
    }


def _adapter_of(session: Session, inputs: Json) -> str | None:
    """Return the adapter folder that an evaluation puts on the base: the campaign's own, a run's, or none."""
    if inputs.get("adapter"):
        return str(session.paths.artifact(str(inputs["adapter"])))
    return str(session.adapter) if inputs["side"] == "parent" and inputs["weights"] not in _fused(session) else None


def _fused(session: Session) -> dict[str, Path]:
    """Return the fused models that were made: hash of the weights -> folder."""
    made = (a for a in session.store.read.actions() if a.kind == "fuse" and a.state == "done")
    return {a.made.weights: session.paths.job(a.key).folder / str(a.result["fused"]) for a in made}


def model_of(session: Session, weights: str = "", adapter: str = "", run: str = "") -> Path:
    """Return the model folder under some weights: the base, or a fused model that they are or go back to.

    Args:
        session: This sitting.
        weights: Hash of what is loaded.
        adapter: Artifact hash of the adapter on it, where it has one.
        run: Id of the run that it belongs to; the one that made the adapter where left out.
    """
    fused, runs = _fused(session), {run.id: run for run in session.store.read.runs()}
    if weights in fused:
        return fused[weights]
    name = run or next((each.id for each in runs.values() if adapter and each.adapter == adapter), "")
    while name in runs:
        if runs[name].parent in runs and runs[name].parent_hash in fused:
            return fused[runs[name].parent_hash]
        name = runs[name].parent
    return session.model


def _part(session: Session, part: Json) -> Json:
    """Return the part of a split's selection cases on which saves are compared: the same ones in all of a campaign."""
    split, ids = _selection_of(session.goal, session.loaded.path.parent, str(part["split"]))
    drawn = sorted(ids, key=lambda case: hash_json([session.goal.seed, case]))
    return {**split, "case_ids": drawn[: int(part["cases"])]}


def _counts(splits: list[Json]) -> list[int]:
    """Return how many cases each split of an evaluation has, for its progress bar."""
    return [len(row["case_ids"] or [case["id"] for case in iter_split(Path(row["file"]))]) for row in splits]


def _training_input(session: Session, decision: Decision) -> tuple[Json, int]:
    """Return a training worker's input and its number of iterations."""
    run = next((run for run in session.store.read.runs() if run.id == decision.run), None)
    if run is None:
        raise NotFoundError(f"Decision {decision.id} trains run {decision.run}, which the store does not have.")
    body = {
        "model": str(model_of(session, run=run.id)),
        "dtype": session.goal.model.dtype,
        "parent_adapter": _parent_adapter(session, run),
        "expect_weights": run.parent_hash,
        "instrument": run.instrument,
        "recipe": {key: value for key, value in run.recipe.items() if key != BALANCE},
        "data": _balanced(session, run),
        "row_cache": str(session.paths.rows),
        "system": session.goal.track.system,
        "privacy": session.goal.privacy,
        "samples": _samples(session.goal, session.loaded.path.parent),
        "interim": _interim(session, decision.action_inputs.get("interim")),
        "continue_from": _continued(session, decision.action_inputs.get("continues") or {}),
        **(rollout_input(session, run.recipe) if CLASSES[run.instrument] == "rollout" else {}),
    }
    return body, int(run.recipe["iters"])


def _interim(session: Session, asked_part: Json | None) -> Json | None:
    """Return what a training is looked at by while it runs, where the decision asks for it."""
    if asked_part is None:
        return None
    return {
        "cases": _part(session, asked_part),
        "metrics": {asked_part["metric"]: asked_part["sign"]},
        "max_tokens": session.goal.evaluation.max_tokens,
        "first": asked_part["first"],
        "grader": grader_input(session.loaded),
    }


def _continued(session: Session, source: Json) -> str | None:
    """Return the save that a training goes on from, where it does."""
    return str(session.paths.job(str(source["job"])).out / "saves" / str(source["save"])) if source else None


def _balanced(session: Session, run: Run) -> Json:
    """Return the data of a run; where its recipe repeats groups of rows, a file of its own that does.

    Side effects: writes that file once, into the campaign's folder.
    """
    files, key = data_input(session.goal, session), session.goal.data.group_by
    times = run.recipe.get(BALANCE)
    if not times or key is None:
        return files
    target = session.paths.data / f"{run.recipe_hash[:16]}.jsonl"
    write_balanced(Path(files["train"]), target, key, times)
    return {**files, "train": str(target)}


def paid_signs(goal: Goal) -> dict[str, dict[str, int]]:
    """Return which metrics are paid (1) and charged (-1) for answers to the cases of each split.

    Where rollouts train, what they earn is what is paid, on any case; elsewhere what the gate asks of the split.
    """
    if goal.instrument_of("rollout") is not None:
        return dict.fromkeys(goal.evaluation.splits, _reward_signs(goal))
    signs: dict[str, dict[str, int]] = {name: {} for name in goal.evaluation.splits}
    for condition, metric in goal.gate.demands:
        signs[split_of(metric)][name_of(metric)] = condition.sign
    return signs


def _reward_signs(goal: Goal) -> dict[str, int]:
    recipe = goal.recipe_of_class("rollout")
    weights = recipe.get("reward_weights") or _default_reward(goal)
    earned = {str(name): 1 for name, weight in weights.items() if weight}
    return earned | {str(name): -1 for name, cost in (recipe.get("reward_penalties") or {}).items() if cost}


def _default_reward(goal: Goal) -> Json:
    """Return what rollouts earn where the recipe says nothing: one for each metric that the gate wants more of."""
    return {name_of(metric): 1.0 for condition, metric in goal.gate.demands if condition.direction > 0}


def rollout_input(session: Session, recipe: Json) -> Json:
    """Return what rollouts are graded with: the grader, what they earn by default, and the held-out cases.

    Held-out cases are graded by the gate's metrics on the split of its primary condition, without the recipe's weights
    and penalties.
    """
    goal, folder = session.goal, session.loaded.path.parent
    wanted = split_of(own_metric(goal.gate))
    signs = {name_of(metric): c.direction for c, metric in goal.gate.demands if split_of(metric) == wanted}
    if goal.data.valid_rollouts is not None:
        path = str(session.loaded.resolve(goal.data.valid_rollouts))
        cases: Json = {"name": "valid", "use": "valid", "file": path, "case_ids": None}
    else:
        split, ids = _selection_of(goal, folder, wanted)
        cases = {**split, "case_ids": ids[:_HELD_OUT_CASES]}
    return {
        "grader": grader_input(session.loaded),
        "reward": _default_reward(goal),
        **({"ranges": {name: list(ends) for name, ends in goal.track.ranges.items()}} if goal.track.ranges else {}),
        "held_out": {
            "cases": cases,
            "metrics": signs,
            "max_tokens": int(recipe.get("max_completion_length") or goal.evaluation.max_tokens),
        },
    }


def _parent_adapter(session: Session, run: Run) -> str | None:
    """Return the adapter that a run goes on from: the campaign's own, another run's, or none."""
    if run.parent == "start":
        return str(session.adapter)
    if run.parent_hash in _fused(session):
        return None
    adapter = next((row.adapter for row in session.store.read.runs() if row.id == run.parent), "")
    return str(session.paths.artifact(adapter)) if adapter else None


_HELD_OUT_CASES = 24
"""Selection cases that rollouts are held against; enough to see a score that stands still, few enough to ask often."""

_SAMPLED_CASES = 6
_SAMPLED_TOKENS = 256
"""Enough to see a loop or a drifting number; a collapse shows in its first lines."""


def _samples(goal: Goal, folder: Path) -> Json:
    """Return which cases the trainer generates for at its saves, to see a collapse while there is time to stop it.

    Selection cases only, of the first split that the gate asks about; confirmation cases are looked at by promotion.
    """
    split, ids = _selection_of(goal, folder, split_of(goal.gate.conditions[0].metrics[0]))
    return {
        "cases": {**split, "case_ids": ids[:_SAMPLED_CASES]},
        "max_tokens": min(goal.evaluation.max_tokens, _SAMPLED_TOKENS),
    }


def _selection_of(goal: Goal, folder: Path, name: str) -> tuple[Json, list[str]]:
    """Return a split's selection part and the ids of its cases."""
    split = next(row for row in split_inputs(goal, folder, "selection") if row["name"] == name)
    ids = split["case_ids"] or [str(case["id"]) for case in iter_split(Path(split["file"]))]
    return split, list(ids)
