"""What lies in a project folder: its files by kind, links not followed, and what was passed over with the reason.

Hidden folders, virtual environments and package caches are no part of a project. A link to a file inside the project
counts as a file; one that leads outside is named and never opened.
"""

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tools.probes.audit.reading import is_inside, is_there, shown

MOST_FILES = 100_000
"""Files beyond this number are not looked at."""
_MOST_FOLDERS = 20_000
_MOST_DEPTH = 32
_NOT_OURS = frozenset({"node_modules", "__pycache__", "site-packages"})
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill"})
_AUDIT_FILES = ("vigil-audit.yaml", "vigil-audit.yml")
_SAVE = re.compile(r"(\d{1,9})_adapters\.safetensors")
_OF_A_MAC = "._"
"""How files begin that macOS lays beside each file on foreign disks."""
_MOST_NAMED = 3
_LINKS = {
    "dangling": "a link that leads to nothing or to itself",
    "loop": "a link to a folder that it lies in, not followed",
}


@dataclass
class Project:
    """A folder as found.

    Args:
        root: The folder, links resolved.
        files: Name relative to the root -> path, in order.
        passed_over: (name, reason) of what is not looked at though it lies there.
    """

    root: Path
    files: dict[str, Path] = field(default_factory=dict)
    passed_over: list[tuple[str, str]] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """Return a path as people read it: relative to the root, printable."""
        try:
            relative = path.relative_to(self.root)
        except ValueError:
            return shown(str(path))
        return shown(relative.as_posix())

    def holds(self, path: Path) -> bool:
        """Say whether a path lies in the project, links followed."""
        return is_inside(self.root, path)

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files with an ending, in order."""
        return [path for path in self.files.values() if path.suffix.lower() in suffixes]

    @cached_property
    def by_folder(self) -> dict[Path, dict[str, Path]]:
        """Folder -> file name -> path."""
        folders: dict[Path, dict[str, Path]] = {}
        for path in self.files.values():
            folders.setdefault(path.parent, {})[path.name] = path
        return folders

    @cached_property
    def model_folders(self) -> list[Path]:
        """Folders that hold a model: config.json and weights of any make."""
        return [
            folder
            for folder, files in self.by_folder.items()
            if "config.json" in files and any(_is_weights(name) for name in files)
        ]

    @cached_property
    def adapter_folders(self) -> list[Path]:
        """Folders that hold an adapter, whole or not."""
        return [
            folder
            for folder, files in self.by_folder.items()
            if any(name in files for name in ("adapter_config.json", "adapters.safetensors"))
            or any(_SAVE.fullmatch(name) for name in files)
        ]

    @cached_property
    def data_folders(self) -> list[Path]:
        """Folders with mlx-lm's data files."""
        names = ("train.jsonl", "valid.jsonl", "test.jsonl")
        return [folder for folder, files in self.by_folder.items() if any(name in files for name in names)]

    @property
    def audit_files(self) -> list[Path]:
        """The files that say how evaluation decodes and gates."""
        return [path for path in self.files.values() if path.name in _AUDIT_FILES]

    @property
    def pickles(self) -> list[Path]:
        """Files that may hold objects of Python: never opened."""
        return self.with_suffix(*_PICKLES)

    def saves(self, folder: Path) -> dict[int, Path]:
        """Return an adapter folder's numbered saves by iteration, oldest first."""
        files = self.by_folder.get(folder, {})
        found = {int(match[1]): path for name, path in files.items() if (match := _SAVE.fullmatch(name))}
        return dict(sorted(found.items()))


def _is_weights(name: str) -> bool:
    if name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json")):
        return True
    return name.startswith(("pytorch_model", "weights", "consolidated")) and Path(name).suffix in _PICKLES | {
        ".gguf",
        ".npz",
    }


def discover(root: Path) -> Project:
    """Return what lies in a folder.

    Args:
        root: The folder, links resolved.
    """
    project = Project(root)
    outside: list[str] = []
    found: dict[str, Path] = {}
    left = [(root, 0)]
    folders = 0
    while left:
        folder, depth = left.pop()
        folders += 1
        if len(found) >= MOST_FILES or folders > _MOST_FOLDERS:
            project.passed_over.append(
                (project.name(folder), f"the project has more than {MOST_FILES:,} files or {_MOST_FOLDERS:,} folders")
            )
            break
        for entry in _entries(project, folder):
            if entry.name.startswith(_OF_A_MAC):
                continue
            path = folder / entry.name
            kind = _kind(root, entry)
            if kind == "outside":
                outside.append(project.name(path))
            elif kind == "folder" and _is_project_folder(path) and depth < _MOST_DEPTH:
                left.append((path, depth + 1))
            elif kind == "folder" and depth >= _MOST_DEPTH:
                project.passed_over.append((project.name(path), f"it lies more than {_MOST_DEPTH} folders deep"))
            elif kind == "file":
                found[path.relative_to(root).as_posix()] = path
            elif kind in _LINKS:
                project.passed_over.append((project.name(path), _LINKS[kind]))
            elif kind == "special" and path.suffix in {".jsonl", ".json", ".yaml", ".yml", ".safetensors"}:
                project.passed_over.append((project.name(path), "it is no regular file (a pipe, a socket or a device)"))
    project.files = dict(sorted(found.items()))
    if outside:
        named = ", ".join(sorted(outside)[:_MOST_NAMED]) + (" and more" if len(outside) > _MOST_NAMED else "")
        project.passed_over.append((named, "a link that leads outside the project, not read"))
    return project


def _entries(project: Project, folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            yield from sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        project.passed_over.append((project.name(folder), f"the folder cannot be read ({error.strerror})"))


def _kind(root: Path, entry: os.DirEntry[str]) -> str:
    """Return folder, file, special, outside, dangling, loop, or nothing for what is passed over in silence."""
    try:
        if entry.is_symlink():
            return _kind_of_link(root, Path(entry.path))
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        return "file" if entry.is_file(follow_symlinks=False) else "special"
    except OSError:
        return "special"


def _kind_of_link(root: Path, link: Path) -> str:
    try:
        target = link.resolve(strict=True)
        mode = target.stat().st_mode
    except (OSError, RuntimeError):
        return "dangling"
    if not target.is_relative_to(root):
        return "outside"
    if link.is_relative_to(target):
        return "loop"
    # A linked folder of the project is looked at where it lies.
    return "file" if stat.S_ISREG(mode) else ""


def _is_project_folder(path: Path) -> bool:
    return not path.name.startswith(".") and path.name not in _NOT_OURS and not is_there(path / "pyvenv.cfg")
