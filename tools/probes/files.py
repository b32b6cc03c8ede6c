"""Probes of what lies on disk: the model folder, training data, evaluation splits."""

from collections.abc import Mapping
from pathlib import Path

from state.errors import ConfigError
from state.hashing import hash_file
from state.records import Evidence, Fingerprint
from tools.data.cases import check_data, iter_split
from tools.models.identity import coherence_problems, describe_model, weights_hash
from tools.probes.catalogue import Observation, Probe, ProbeContext


def data_files(context: ProbeContext) -> dict[str, Path]:
    """Return the training files by name, `train` first."""
    files = {"train": context.path(context.goal.data.train)}
    if context.goal.data.valid:
        files["valid"] = context.path(context.goal.data.valid)
    return files


def split_paths(context: ProbeContext) -> dict[str, Path]:
    """Return the evaluation files by `split` or `split.use`."""
    files = {}
    for name, split in context.goal.evaluation.splits.items():
        if split.file is not None:
            files[name] = context.path(split.file)
        else:
            files[f"{name}.selection"] = context.path(str(split.selection))
            files[f"{name}.confirmation"] = context.path(str(split.confirmation))
    return files


def file_print(context: ProbeContext, name: str, path: Path) -> Fingerprint:
    """Return a file's fingerprint under the name of its part: a moved project keeps what it knows.

    A missing file has one too, so that its appearance is noticed.
    """
    value = hash_file(path, context.cache) if path.is_file() else "missing"
    return Fingerprint(kind="file", name=name, value=value)


def _model_prints(context: ProbeContext) -> tuple[Fingerprint, ...]:
    if context.model is None or not context.model.is_dir():
        return (Fingerprint(kind="model", name="base", value="missing"),)
    return (Fingerprint(kind="model", name="base", value=_hash_or_damage(context.model, context)),)


def _hash_or_damage(model: Path, context: ProbeContext) -> str:
    """Return the hash of the weights, or what keeps them from having one."""
    try:
        return weights_hash(model, None, context.cache)
    except ConfigError as error:
        return error.sentence


def _observe_model(context: ProbeContext) -> tuple[Observation, ...]:
    if context.model is None or not context.model.is_dir():
        return (
            Observation(
                subject="model:base",
                claim="is_coherent",
                statement=f"The model {context.goal.model.path} is not on this disk.",
                holds=False,
                severity="hard_stop",
                mode="8",
                fix="Fetch it first: vigil run --check --online FILE.",
            ),
        )
    problems = coherence_problems(context.model)
    evidence = tuple(
        Evidence(kind="file", ref=str(context.model), summary=problem.sentence, detail=problem.detail)
        for problem in problems
    )
    if problems:
        return (
            Observation(
                subject="model:base",
                claim="is_coherent",
                statement=f"The model folder is not one coherent set of files: {problems[0].sentence}",
                holds=False,
                severity="hard_stop",
                mode="3",
                evidence=evidence,
                fix="Restore the folder from its source, or save the model into an empty folder.",
            ),
        )
    facts = describe_model(context.model)
    return (
        Observation(
            subject="model:base",
            claim="is_coherent",
            statement=(
                f"The model folder is one coherent set: {facts.get('model_type')}, "
                f"{int(facts.get('n_parameters') or 0):,} parameters, tokenizer and weights present."
            ),
            value=facts,
            severity="hard_stop",
            mode="3",
            evidence=(
                Evidence(
                    kind="file", ref=str(context.model), summary="Headers of all weight files were read.", detail=facts
                ),
            ),
        ),
    )


def _data_prints(context: ProbeContext) -> tuple[Fingerprint, ...]:
    return tuple(file_print(context, f"data:{name}", path) for name, path in data_files(context).items())


def _observe_data(context: ProbeContext) -> tuple[Observation, ...]:
    found = []
    for name, path in data_files(context).items():
        try:
            data = check_data(path)
        except ConfigError as error:
            found.append(
                Observation(
                    subject=f"data:{name}",
                    claim="is_readable",
                    statement=error.sentence,
                    holds=False,
                    severity="hard_stop",
                    mode="8",
                    fix="Repair the file; vigil run --check FILE reads it again.",
                )
            )
            continue
        found.append(
            Observation(
                subject=f"data:{name}",
                claim="is_readable",
                statement=f"{path.name} holds {data.rows:,} rows in mlx-lm's {data.format} form.",
                value={"rows": data.rows, "format": data.format},
                severity="hard_stop",
                mode="8",
                evidence=(Evidence(kind="file", ref=str(path), summary=f"All {data.rows:,} rows were parsed."),),
            )
        )
    return tuple(found)


def _split_prints(context: ProbeContext) -> tuple[Fingerprint, ...]:
    return tuple(file_print(context, f"cases:{name}", path) for name, path in split_paths(context).items())


def shared_prompts(files: Mapping[str, Path]) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    """Return id, file and other file of each case whose prompt stands in two files, and how many cases each file has.

    Args:
        files: Name -> file of evaluation cases.
    """
    seen: dict[str, str] = {}
    shared: list[tuple[str, str, str]] = []
    counts = {}
    for name, path in files.items():
        cases = list(iter_split(path))
        counts[name] = len(cases)
        for case in cases:
            key = str(case.get("prompt") or case.get("messages"))
            if (first := seen.get(key, name)) != name:
                shared.append((case["id"], first, name))
            seen[key] = name
    return shared, counts


def _observe_splits(context: ProbeContext) -> tuple[Observation, ...]:
    """Look for one case in two splits: a promotion on cases that selection has seen confirms nothing."""
    found, counts = shared_prompts(split_paths(context))
    shared = [f"{case} ({one} and {other})" for case, one, other in found]
    total = sum(counts.values())
    if shared:
        return (
            Observation(
                subject="data:splits",
                claim="are_disjoint",
                statement=f"{len(shared)} of {total} evaluation prompts stand in two splits, first {shared[0]}.",
                holds=False,
                severity="hard_stop",
                mode="P11",
                value={"shared": len(shared), "cases": total},
                evidence=(Evidence(kind="file", ref="evaluation.splits", summary="; ".join(shared[:5])),),
                fix="Give selection and confirmation different cases.",
            ),
        )
    return (
        Observation(
            subject="data:splits",
            claim="are_disjoint",
            statement=f"No prompt stands in two of the {len(counts)} evaluation files ({total} cases).",
            value=counts,
            severity="hard_stop",
            mode="P11",
            evidence=(Evidence(kind="file", ref="evaluation.splits", summary=f"{total} prompts compared exactly."),),
        ),
    )


PROBES = (
    Probe("model.coherent", 0.1, "a missing tokenizer, a stale shard or a torn file", _model_prints, _observe_model),
    Probe("data.readable", 0.5, "a row that is not in mlx-lm's form", _data_prints, _observe_data),
    Probe("splits.disjoint", 0.5, "one prompt in two splits", _split_prints, _observe_splits),
)
