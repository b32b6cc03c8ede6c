"""The whole audit of a folder: what is looked at, in order, cheapest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from state.hashing import HashCache
from tools.data.rows import BOUNDS, Bounds
from tools.probes.configs import Loc, YamlReader, find_configs
from tools.probes.data import check_content, check_readable, check_sets, data_sets, other_rows
from tools.probes.evaluations import (
    Stated,
    check_ceilings,
    check_files,
    check_gates,
    check_outputs,
    harness_budgets,
    stated_budgets,
)
from tools.probes.folder import AuditFile, Project, Report
from tools.probes.fused import check_fusions, fusions_of
from tools.probes.model import (
    adapter_folders,
    check_adapters,
    check_bases,
    check_lineage,
    check_models,
    check_pickles,
    check_used,
    uses_of,
)
from tools.probes.recipes import (
    check_configs,
    check_lengths,
    check_prompts,
    check_taught,
    count,
    named_file,
    taught_by,
    trainings_of,
)

_NO_MODEL = "its answers are counted with --model, or with `tokens_field`"


@dataclass(frozen=True)
class Settings:
    """A `vigil-audit.yaml` as read.

    Args:
        path: The file.
        values: What it states.
        lines: Line of each key path.
    """

    path: Path
    values: AuditFile
    lines: Mapping[Loc, int]


@dataclass(frozen=True)
class Audited:
    """What came of an audit."""

    project: Project
    report: Report
    is_empty: bool
    """Whether nothing was there that an audit knows."""


def look(
    project: Project,
    settings: Sequence[Settings],
    read: YamlReader,
    model: Path | None = None,
    bounds: Bounds = BOUNDS,
) -> Audited:
    """Look at everything in a project that needs no training.

    Args:
        project: What lies there.
        settings: Its vigil-audit.yaml files.
        read: Reads YAML within bounds.
        model: Folder of the model that counts tokens; None leaves what needs one unchecked.
        bounds: How much of each data file.
    """
    report = Report()
    configs = find_configs(project, read, report)
    stated = [
        Stated(project, one.path, evaluation, ("evaluations", place), dict(one.lines))
        for one in settings
        for place, evaluation in enumerate(one.values.evaluations)
    ]
    check_files(stated, report)
    cache = HashCache()
    models = check_models(project, report)
    check_pickles(project, report)
    folders = adapter_folders(project, report)
    check_adapters(folders, report)
    said = [
        (one.path, adapter, ("adapters", place), one.lines)
        for one in settings
        for place, adapter in enumerate(one.values.adapters)
    ]
    uses = list(uses_of(project, folders, said, configs, report))
    check_lineage(uses, report, cache)
    told = {use.adapter.folder for use in uses}
    check_bases([one for one in folders if one.folder not in told], report, cache)
    bases = {use.adapter.folder: use.trained_on.path for use in uses if use.trained_on is not None}
    made = [
        (one.path, row, ("fused", place), one.lines) for one in settings for place, row in enumerate(one.values.fused)
    ]
    sets = data_sets(project, configs, bounds)
    others = other_rows(project, sets, stated, bounds)
    trainings = trainings_of(configs, sets)
    fusions = list(fusions_of(project, folders, models, made, bases=bases, report=report))
    taught = [named_file(file) for file in taught_by(trainings, sets)]
    check_fusions(project, fusions, taught if model is not None else None, report)
    check_configs(configs, sets, report)
    check_used(configs, report)
    check_readable(project, sets, others, report)
    check_content(project, sets, report)
    check_sets(project, sets, stated, report)
    counted = count(model, trainings, sets, stated)
    check_lengths(trainings, counted, report)
    check_prompts(trainings, sets, stated, counted, report)
    why_not = f"the tokenizer did not answer: {counted.why}" if counted.is_asked else _NO_MODEL
    budgets = [
        *stated_budgets(stated, counted.evaluations, why_not, report),
        *harness_budgets(project),
    ]
    check_ceilings(budgets, report)
    check_taught(trainings, stated, counted, report)
    check_gates(stated, report)
    check_outputs(stated, report)
    for name, why in project.passed_over:
        report.skip(("8",), f"{name}: {why}")
    return Audited(project, report, is_empty=not (report.looked or report.findings or report.skipped))
