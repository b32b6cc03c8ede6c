"""Model folders of a project: whether they may be opened, whether each is one coherent set (3), and who is who."""

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from state.hashing import HashCache, hash_file
from tools.models.headers import NOT_FETCHED
from tools.models.identity import INDEX, WEIGHTS, coherence_problems
from tools.probes.audit.discovery import Project
from tools.probes.audit.reading import is_not_fetched, read_mapping, shown
from tools.probes.audit.report import Report

SMALL_FILE_BYTES = 64 << 20
"""A larger JSON file in a model or adapter folder is none that a tool wrote."""
_MOST_MODELS = 100

_OF_LANGUAGE = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_MODE_OF = {"no_tokenizer": "8", "no_weights": "8", "no_config": "8"}


def can_be_read(project: Project, folder: Path) -> str | None:
    """Return why a model folder is not opened; None where all that loaders read may be read.

    Its files must be regular ones inside the project, and its JSON no larger than a tool writes it.
    """
    files = project.by_folder.get(folder, {})
    if not any(fnmatch(name, WEIGHTS) for name in files):
        return "no weight file of it may be read"
    for name, path in files.items():
        if fnmatch(name, WEIGHTS) and is_not_fetched(path):
            return f"{shown(name)}: {NOT_FETCHED}"
    try:
        for path in folder.iterdir():
            name = path.name
            is_read = fnmatch(name, WEIGHTS) or name.endswith((".json", ".jinja", ".model", ".tiktoken", ".txt"))
            if is_read and name not in files and not path.is_dir():
                return f"{shown(name)} is no regular file of the project"
            if name.endswith((".json", ".jinja")) and name in files and path.stat().st_size > SMALL_FILE_BYTES:
                return f"{shown(name)} has more than {SMALL_FILE_BYTES >> 20} MB"
    except OSError as error:
        return f"the folder cannot be read ({error.strerror})"
    return None


def are_small(project: Project, folder: Path, names: Sequence[str]) -> bool:
    """Say whether files that are read whole are regular ones of the project and small, where they are there at all."""
    files = project.by_folder.get(folder, {})
    try:
        for name in names:
            if name in files:
                if files[name].stat().st_size > SMALL_FILE_BYTES:
                    return False
            elif os.path.lexists(folder / name):
                return False
    except OSError:
        return False
    return True


def check_pickles(project: Project, report: Report) -> None:
    """Note files that run code when they are opened."""
    found = project.pickles
    if not found:
        return
    named = ", ".join(project.name(path) for path in found[:3])
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""  # noqa: PLR2004 - as many as were named
    report.add(
        "3",
        "files:pickled",
        f"{named}{more} may hold pickled objects, which run code when they are opened: not opened, not checked.",
        "note",
        "Keep weights as safetensors.",
        check="pickles",
        files=len(found),
        file=project.name(found[0]),
        line=1,
    )


def check_models(project: Project, report: Report) -> list[Path]:
    """Report model folders that are not one coherent set; return those that may be read."""
    readable = []
    for folder in project.model_folders[:_MOST_MODELS]:
        name = project.name(folder) or "."
        why = can_be_read(project, folder)
        if why is not None:
            report.skip(("2", "3"), f"{name}: {why}")
            continue
        readable.append(folder)
        report.look("3")
        for problem in coherence_problems(folder):
            kind = str(problem.detail["kind"])
            if kind == "no_tokenizer" and not _is_of_language(project, folder):
                continue
            mode = _MODE_OF.get(kind, "3")
            said = problem.sentence.replace(f"{project.root}/", "").replace(str(project.root), ".")
            report.look(mode)
            report.add(
                mode,
                f"model:{name}",
                f"{shown(said)[:600]}",
                "warning" if kind == "no_tokenizer" else "hard_stop",
                "Restore the folder from its source, or save the model into an empty folder.",
                check=f"model_{kind}",
                file=f"{name}/{INDEX if kind == 'index' else 'config.json'}".removeprefix("./"),
                line=1,
                detail=problem.detail,
            )
    return readable


def _is_of_language(project: Project, folder: Path) -> bool:
    """Say whether a model writes text; one that names no architecture is taken for one that does."""
    named = read_mapping(project.by_folder[folder]["config.json"], SMALL_FILE_BYTES).get("architectures")
    return not isinstance(named, list) or any(str(name).endswith(_OF_LANGUAGE) for name in named)


def weight_hashes(folder: Path, cache: HashCache) -> tuple[str, ...]:
    """Return the hashes of a folder's weight files, in order: who has equal ones has equal weights.

    Raises:
        OSError: A file cannot be read.
    """
    return tuple(sorted(hash_file(path, cache) for path in folder.glob(WEIGHTS)))


def weight_sizes(folder: Path) -> tuple[int, ...]:
    """Return the bytes of a folder's weight files, in order.

    Raises:
        OSError: A file cannot be read.
    """
    return tuple(sorted(path.stat().st_size for path in folder.glob(WEIGHTS)))
