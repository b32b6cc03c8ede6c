"""The whole audit of a folder: what is looked at, in order, cheapest first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from state.hashing import HashCache
from tools.probes.audit import adapters, ceilings, data, evaluations, fused, recipes, tokens, weights
from tools.probes.audit.configs import Loc, YamlReader, find_configs
from tools.probes.audit.discovery import Project, discover
from tools.probes.audit.evaluations import Stated
from tools.probes.audit.report import Report
from tools.probes.audit.rows import BOUNDS, Bounds
from tools.probes.audit.settings import AuditFile

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
    evaluations.check_files(stated, report)
    cache = HashCache()
    models = weights.check_models(project, report)
    weights.check_pickles(project, report)
    folders = adapters.adapter_folders(project, report)
    adapters.check_adapters(folders, report)
    said = [
        (one.path, adapter, ("adapters", place), one.lines)
        for one in settings
        for place, adapter in enumerate(one.values.adapters)
    ]
    uses = list(adapters.uses_of(project, folders, said, configs, report))
    adapters.check_lineage(uses, report, cache)
    told = {use.adapter.folder for use in uses}
    adapters.check_bases([one for one in folders if one.folder not in told], report, cache)
    bases = {use.adapter.folder: use.trained_on.path for use in uses if use.trained_on is not None}
    made = [
        (one.path, row, ("fused", place), one.lines) for one in settings for place, row in enumerate(one.values.fused)
    ]
    sets = data.data_sets(project, configs, bounds)
    others = data.other_rows(project, sets, stated, bounds)
    trainings = tokens.trainings_of(configs, sets)
    fusions = list(fused.fusions_of(project, folders, models, made, bases=bases, report=report))
    taught = [tokens.named_file(file) for file in tokens.taught_by(trainings, sets)]
    fused.check_fusions(project, fusions, taught if model is not None else None, report)
    recipes.check_configs(configs, sets, report)
    data.check_readable(project, sets, others, report)
    data.check_content(project, sets, report)
    data.check_sets(project, sets, stated, report)
    counted = tokens.count(model, trainings, sets, stated)
    tokens.check_lengths(trainings, counted, report)
    tokens.check_prompts(trainings, sets, stated, counted, report)
    why_not = f"the tokenizer did not answer: {counted.why}" if counted.is_asked else _NO_MODEL
    budgets = [
        *ceilings.stated_budgets(stated, counted.evaluations, why_not, report),
        *ceilings.harness_budgets(project),
    ]
    ceilings.check_ceilings(budgets, report)
    evaluations.check_gates(stated, report)
    evaluations.check_outputs(stated, report)
    for name, why in project.passed_over:
        report.skip(("8",), f"{name}: {why}")
    return Audited(project, report, is_empty=not (report.looked or report.findings or report.skipped))


__all__ = ["Audited", "Settings", "discover", "look"]
