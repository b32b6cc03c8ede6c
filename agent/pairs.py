"""`vigil pairs`: preference pairs from a campaign's own training prompts, model and grader.

The answers are a job of the evaluation worker, each answer to a prompt in a split of its own, so that the sampler gives
it a stream of its own. Its key follows from everything the answers depend on: typed again, the command adopts the job,
goes on with it, or takes what it left. It takes no lease and writes nothing of the campaign's record, so a campaign
that runs goes on; the job waits for its turn at the accelerator like any other. How pairs are built from the answers
(metric, source, margin) is no part of the key, and costs no new answers.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from agent.campaign import LoadedCampaign, load_campaign
from agent.checks import case_files, check_campaign, grader_spec
from agent.inputs import answering_input
from agent.mistakes import nearest
from agent.render import record
from agent.render.record import with_folder
from agent.render.watch import Terminal
from agent.session import WORKERS
from policies.cost import MemoryLimits
from policies.guards import measuring_guards
from state.clock import Clock, SystemClock
from state.errors import ConfigError, CorruptError, JobFailedError, JobInterruptedError, NotFoundError
from state.files import ensure_local_disk, read_json, read_jsonl, write_atomic
from state.goal import Goal, name_of
from state.hashing import hash_bytes, hash_json, hash_tree, short
from state.paths import CampaignPaths, JobPaths
from state.reading import open_reader
from state.records import JobKind, Json
from tools.data.cases import iter_split, user_prompt
from tools.data.pairs import Built, Source, build_pairs, pairs_text, training_cases
from tools.evaluation.harness import differences, harness_parts
from tools.graders.host import Grader
from tools.jobs.backend import Backend, LocalBackend
from tools.jobs.locks import try_lock
from tools.jobs.spec import JobSpec
from tools.machine.blas import worker_env
from tools.machine.facts import System
from tools.machine.hardware import host_limit, memory_limit
from tools.models.hub import resolve
from tools.models.identity import weights_hash
from tools.probes.leakage import check_leakage

_PROMPTS = "training prompts"
"""The set of prompts in the search for leakage, which reads from its first word what a set is for."""
_GRADED_FIRST = 2
"""Prompts whose references the grader is asked about before anything is generated."""


@dataclass(frozen=True)
class Asked:
    """What a person asks for.

    Args:
        out: The pairs file.
        metric: What tells better from worse, more is better; None for the one that the gate asks more of.
        samples: Answers per prompt.
        temperature: Of the answers.
        most_cases: At most so many prompts, drawn by the campaign's seed; None for all.
        source: Where the chosen side comes from.
        least_margin: Scores this close or closer give no pair.
        run: Id of the run that answers; None for what runs start from.
        is_forced: Replace a file that holds something else.
    """

    out: Path
    metric: str | None = None
    samples: int = 4
    temperature: float = 1.0
    most_cases: int | None = None
    source: Source = "best_worst"
    least_margin: float = 0.1
    run: str | None = None
    is_forced: bool = False


def make_pairs(
    file: Path,
    home: Path,
    asked: Asked,
    *,
    clock: Clock | None = None,
    backend: Backend | None = None,
    workers: Mapping[JobKind, str] = WORKERS,
    terminal: Terminal | None = None,
) -> Json:
    """Answer, grade, build and write pairs; return what came of it.

    Args:
        file: The campaign file; `data.pairs` need not be there yet.
        home: Folder of all campaigns.
        asked: What for.
        clock: Time.
        backend: What runs the job; local processes by default.
        workers: Module per kind of job.
        terminal: Where it says what goes on; nowhere when left out.

    Raises:
        ConfigError: Something the user can fix; nothing is generated, or no pair could be built.
        HardStop: Something beside the point tells the sides apart; no file is written.
        JobError: The job failed or was stopped; what it has done is kept.
        CorruptError: A run's adapter, or the answers, are not what was recorded.

    Side effects: a job under `pairs/` in the campaign's folder; the pairs file, whole or not at all.
    """
    clock, terminal = clock or SystemClock(), terminal or Terminal(lambda _: None)
    _refuse_arguments(asked)
    loaded = _loaded(file)
    paths = CampaignPaths(home.resolve(), loaded.goal.campaign)
    name, cases = _prompts(loaded, asked.most_cases)
    _refuse_leakage(loaded, name, cases)
    metric, reference_score = _metric_and_reference(loaded, cases, asked)
    spec, parts = _spec(loaded, paths, cases, asked, workers["evaluation"], clock.now())
    folder = JobPaths(paths.pairs / spec.key)
    # Before the hours, not after: only what finished answers gave can be the file that is there.
    if not folder.result.exists():
        _refuse_other_file(asked)
    terminal.say(f"{asked.samples} answers to each of {len(cases)} prompts of data.{name}, in {folder.folder}.")
    wait_for(folder, spec, clock, backend or LocalBackend(), terminal)
    built = build_pairs(
        cases,
        _answers(folder, spec, parts),
        metric=metric,
        source=asked.source,
        least_margin=asked.least_margin,
        reference_score=reference_score,
    )
    text = pairs_text(built)
    _refuse_other_file(asked, text)
    write_atomic(asked.out.absolute(), text)
    return _summary(asked, built, metric, folder)


def _summary(asked: Asked, built: Built, metric: str, folder: JobPaths) -> Json:
    told = [{"severity": f.severity, "claim": f.claim, "sentence": f.sentence, "fix": f.fix} for f in built.findings]
    return {
        "out": str(asked.out),
        "pairs": len(built.pairs),
        "metric": metric,
        "source": asked.source,
        "left_out": built.left_out,
        "findings": told,
        "answers": str(folder.out / "cases.jsonl"),
    }


def _refuse_arguments(asked: Asked) -> None:
    """Refuse what could never give a pair, or could not be written, before anything is read."""
    if not (math.isfinite(asked.temperature) and math.isfinite(asked.least_margin)):
        raise ConfigError("--temperature and --least-margin are finite numbers.", what="temperature")
    if asked.source == "best_worst" and asked.samples < 2:  # noqa: PLR2004 - a pair has two
        raise ConfigError(
            "The best answer against the worst needs --samples 2 or more; --source reference needs one.", what="samples"
        )
    if asked.temperature == 0 and asked.samples > 1:
        raise ConfigError(
            "At --temperature 0 all answers to a prompt are the same; leave it out, or ask for --samples 1 with "
            "--source reference.",
            what="temperature",
        )
    place = asked.out.absolute().parent
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{asked.out} cannot be written: {there} is not a folder that can be.", where=str(asked.out))


def _refuse_other_file(asked: Asked, text: str | None = None) -> None:
    """Refuse to replace a file, unless it holds the very pairs that are to be written."""
    if asked.is_forced or not asked.out.exists() or (text and asked.out.read_bytes() == text.encode()):
        return
    raise ConfigError(
        f"{asked.out} is there already and is not what this command wrote; name another file, or replace it with "
        "--force.",
        what="out",
        where=str(asked.out),
    )


def _loaded(file: Path) -> LoadedCampaign:
    """Return the campaign, checked as for a run, but for the pairs: they are what is to be built."""
    loaded = load_campaign(file, needs_pairs=False)
    goal = loaded.goal
    if goal.privacy == "redact":
        raise ConfigError(
            f"{loaded.where('privacy')}: `privacy: redact` lets no generated text be written, and pairs are text; "
            "build them under a campaign that keeps it.",
            what="privacy",
            where=loaded.where("privacy"),
        )
    data = goal.data.model_copy(update={"pairs": None, "valid_pairs": None})
    loaded = replace(loaded, goal=goal.model_copy(update={"data": data}))
    check_campaign(loaded)
    return loaded


def _prompts(loaded: LoadedCampaign, most: int | None) -> tuple[str, list[Json]]:
    """Return the key of the data that prompts come from, and the prompts as cases, in file order."""
    data = loaded.goal.data
    name = "train" if data.rollouts is None else "rollouts"
    path = loaded.resolve(str(getattr(data, name)))
    cases = list(training_cases(path) if name == "train" else iter_split(path))
    # By each case's own hash, so that a larger number keeps those of a smaller one.
    drawn = sorted(cases, key=lambda case: hash_json([loaded.goal.seed, case["id"]]))[:most]
    kept = {case["id"] for case in drawn}
    return name, [case for case in cases if case["id"] in kept]


def _refuse_leakage(loaded: LoadedCampaign, name: str, cases: Sequence[Json]) -> None:
    """Refuse prompts that stand in an evaluation split too: pairs would teach what is to be judged."""
    sets = {_PROMPTS: [(f"{name}:{case['id']}", user_prompt(case)) for case in cases]}
    for path, *loc in case_files(loaded):
        place = ".".join(map(str, loc[1:]))
        sets[place] = [(f"{place}:{case['id']}", user_prompt(case)) for case in iter_split(path)]
    for found in check_leakage(sets):
        if found.severity == "hard_stop" and _PROMPTS in found.value["sets"]:
            raise ConfigError(
                f"{found.sentence.removesuffix('.')}; pairs are built from training prompts alone, so remove these "
                f"rows from data.{name}.",
                what=f"data.{name}",
                value=found.value["pairs"],
                where=str(loaded.path),
                runbook="runbooks/hard_stops.md",
            )


def _metric_and_reference(loaded: LoadedCampaign, cases: Sequence[Json], asked: Asked) -> tuple[str, float]:
    """Return the metric that tells answers apart, and what a reference scores by it on average, 1 where none is asked.

    Raises:
        ConfigError: The grader fails on the prompts, or the metric is unknown, unnamed or one to have less of.
    """
    wanted = cases if asked.source == "reference" else cases[:_GRADED_FIRST]
    with Grader(grader_spec(loaded.goal, loaded.folder)) as grader:
        grades = grader.grade((case, str(case.get("reference") or ""), "stop") for case in wanted)
        known = grader.metrics
    failed = next((grade for grade in grades[:_GRADED_FIRST] if grade.error), None)
    if failed is not None:
        raise ConfigError(
            f"The grader failed on the training prompt {failed.case_id!r}, so its answers would have no score: "
            f"{failed.error}",
            what="track",
            where=str(loaded.path),
        )
    metric = _metric(loaded.goal, known, asked.metric)
    if asked.source != "reference":
        return metric, 1.0
    given = [grade.metrics.get(metric) for case, grade in zip(cases, grades, strict=True) if case.get("reference")]
    scores = [score for score in given if score is not None]
    if not scores:
        raise ConfigError(
            f"No prompt has a reference answer with a score of {metric}; take --source best_worst.", what="source"
        )
    return metric, sum(scores) / len(scores)


def _metric(goal: Goal, known: Sequence[str], wanted: str | None) -> str:
    asked = [(name_of(metric), c.direction) for c, metric in goal.gate.demands]
    more = list(dict.fromkeys(name for name, direction in asked if direction > 0))
    less = {name for name, direction in asked if direction < 0} - {*more}
    choices = ", ".join(name for name in known if name not in less)
    if wanted is None and len(more) == 1:
        return more[0]
    if wanted is None:
        said = f"The gate asks for more of {', '.join(more) or 'no metric'}; say with --metric which one tells answers "
        raise ConfigError(f"{said}apart: {', '.join(more) or choices}.", what="metric", value=more)
    if wanted not in known:
        guess = nearest(wanted, list(known))
        advice = f"did you mean {guess}?" if guess else f"it answers with {', '.join(known)}."
        raise ConfigError(f"The track has no metric {wanted!r}; {advice}", what="metric", value=wanted)
    if wanted in less:
        raise ConfigError(
            f"The gate asks for less of {wanted}, and pairs prefer more; choose one of {choices}.", what="metric"
        )
    return wanted


def _spec(  # noqa: PLR0917 - what a job is made of
    loaded: LoadedCampaign, paths: CampaignPaths, cases: Sequence[Json], asked: Asked, module: str, now: float
) -> tuple[JobSpec, dict[str, str]]:
    """Return the job that answers with the harness of its key, and leave its prompts where the worker reads them."""
    ensure_local_disk(paths.home)
    model, adapter = _answering(loaded, paths, asked.run)
    text = "".join(json.dumps(case) + "\n" for case in cases)
    prompts = paths.pairs / f"{short(hash_bytes(text.encode()))}.jsonl"
    if not prompts.is_file() or prompts.read_bytes() != text.encode():
        write_atomic(prompts, text)
    names = [f"answer-{number}" for number in range(1, asked.samples + 1)]
    splits: list[Json] = [{"name": name, "use": "train", "file": str(prompts), "case_ids": None} for name in names]
    body = answering_input(loaded, model, splits) | {
        "adapter": str(adapter) if adapter else None,
        "temperature": asked.temperature,
        "expect_weights": weights_hash(model, adapter),
    }
    # The input says which files are read and how, the parts what these hold.
    parts = harness_parts(body)
    key, steps = f"answers-{short(hash_json([body, parts]))}", len(cases) * asked.samples
    written = JobPaths(paths.pairs / key).spec
    if written.exists():
        return JobSpec.model_validate_json(written.read_text(encoding="utf-8")), parts
    given: Json = {"key": key, "kind": "evaluation", "module": module, "input": body, "env": worker_env()}
    guards = measuring_guards(memory=_memory_limits())
    return JobSpec(**given, guards=guards, steps=steps, created_at=now), parts


def _memory_limits() -> MemoryLimits:
    """Return what a job may hold here."""
    return MemoryLimits(memory_limit(System(), worker_env())[0], host_limit(System())[0])


def _answering(loaded: LoadedCampaign, paths: CampaignPaths, run: str | None) -> tuple[Path, Path | None]:
    """Return the model and the adapter that answer: what runs start from, or what a run made of what it was given.

    Raises:
        NotFoundError: There is no such campaign or run, or it has no adapter.
        CorruptError: The adapter is not the one that was recorded.
    """
    spec = loaded.goal.model
    if run is None:
        model = resolve(spec.path, online=False, revision=spec.revision, base=loaded.folder)
        return model.folder, loaded.resolve(spec.adapter) if spec.adapter else None
    given, adapter = trained(paths, run)
    # In a campaign that carries fused models, a run stands on the one that it was trained on.
    return Path(given["model"]), adapter


def trained(paths: CampaignPaths, run: str) -> tuple[Json, Path]:
    """Return what a run's training was given, and the adapter that it made.

    Raises:
        NotFoundError: There is no such campaign or run, or it has no adapter.
        CorruptError: The adapter is not the one that was recorded.
    """
    with open_reader(paths) as reader:
        rows = {row["id"]: row for row in reader.runs()}
        jobs = [job for job in reader.jobs() if job["kind"] == "training" and job["run"] == run.upper()]
    digest = rows.get(run.upper(), {}).get("adapter")
    given = [read_json(paths.job(job["key"]).spec) for job in jobs]
    if not digest or not given or given[-1] is None:
        made = ", ".join(name for name, row in rows.items() if row["adapter"]) or "none yet"
        raise NotFoundError(f"{paths.name} has no run {run} with an adapter; there are: {made}.", what="run", value=run)
    adapter = paths.artifact(digest)
    if not adapter.is_dir() or hash_tree(adapter) != digest:
        raise CorruptError(f"{adapter} is not the adapter of {run} as it was recorded.", where=str(adapter))
    return dict(given[-1]["input"]), adapter


def wait_for(  # noqa: PLR0917 - what a job needs
    paths: JobPaths, spec: JobSpec, clock: Clock, backend: Backend, terminal: Terminal, what: str = "The answers"
) -> None:
    """Launch, adopt or go on with a job of a command's own, and wait for its end.

    Args:
        paths: Its folder.
        spec: What it is.
        clock: Time.
        backend: What runs it.
        terminal: Where it is shown.
        what: What it makes, in the plural.

    Raises:
        JobFailedError: It failed.
        JobInterruptedError: Somebody stopped it.
    """
    _reopen(paths)
    backend.launch(paths.folder, spec)
    pause_s, is_queued = 0.1, False
    shown = {"key": spec.key, "kind": spec.kind, "run": "", "steps": spec.steps, "folder": str(paths.folder)}
    while not (status := backend.status(paths.folder)).is_ended:
        seen = {**shown, "state": status.state, "started_at": status.started_at, "exit": {}}
        terminal.show(with_folder(CampaignPaths(paths.folder, ""), seen))
        if bool(status.waits_for) != is_queued:
            is_queued = not is_queued
            terminal.say(f"{what} wait: {record.waits(status.waits_for)}." if is_queued else "They go on.")
        if status.needs_launch:
            backend.launch(paths.folder, spec)
        clock.sleep(pause_s)
        pause_s = min(1.0, pause_s * 1.3)
    ended = status.exit
    if ended is None or ended.state != "finished":
        is_stopped = ended is not None and ended.state == "stopped"
        why = (ended.reason if ended else "").rstrip(".") or "see log.txt there"
        raise (JobInterruptedError if is_stopped else JobFailedError)(
            f"{what} {'were stopped' if is_stopped else 'failed'} in {paths.folder}: {why}; the same command goes "
            "on from those that are there.",
            where=str(paths.folder),
            runbook="runbooks/stuck_job.md",
        )


def _answers(paths: JobPaths, spec: JobSpec, parts: dict[str, str]) -> list[Json]:
    """Return the graded answers of a job that finished.

    Raises:
        CorruptError: Some are missing, or they were made under another harness than the one in the key.
    """
    rows, result = read_jsonl(paths.out / "cases.jsonl"), read_json(paths.result) or {}
    # It may have waited for hours before it looked at the files that the key was made from.
    changed = differences(parts, result.get("harness_parts", {}))
    if changed or len(rows) != spec.steps:
        why = f"under another {', '.join(changed)}, changed meanwhile" if changed else f"and {len(rows)} are there"
        raise CorruptError(
            f"{paths.folder} finished with {spec.steps} answers, {why}; delete the folder and repeat.",
            where=str(paths.folder),
        )
    return rows


def _reopen(paths: JobPaths) -> None:
    """Let a job that failed or was stopped go on: what ended it may be mended, and what it answered is kept.

    Its ending stays on file. Under the supervisor's lock, so that of two commands one opens it and none opens it twice.
    """
    if not paths.exit.exists() or (lock := try_lock(paths.supervisor_lock)) is None:
        return
    try:
        record = read_json(paths.exit)
        if record is not None and record["state"] != "finished":
            # With start.json go the deaths that were counted; the exit record last, until then it has ended.
            for path in (paths.stop, paths.error, paths.start):
                path.unlink(missing_ok=True)
            paths.exit.rename(paths.folder / f"exit.{len(list(paths.folder.glob('exit.*.json'))) + 1}.json")
    finally:
        os.close(lock)
