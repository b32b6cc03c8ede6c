"""What a grader is, as data: where it lives, how long it may take, and what it answered."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from pydantic import Field

from state.errors import ConfigError
from state.records import Record
from tools.graders.imports import imported_files
from tools.machine.sandbox import GRADER_GB, Limits, clean_env

_TRACKS = Path(__file__).resolve().parent

_RUNBOOK = "runbooks/your_task/README.md"


def shipped_tracks() -> list[str]:
    """Return the names of the tracks that come with Vigil."""
    return sorted(path.parent.name for path in _TRACKS.glob("*/grade.py"))


class GraderSpec(Record):
    """Where a grader lives. Exactly one of `file`, `command` and `shipped` is given."""

    file: str | None = None
    """Absolute path of a Python file with `grade(case, text)`."""
    command: tuple[str, ...] | None = None
    """Program and arguments; reads `{"case", "text", "finish_reason"}` lines, answers `{"case": id, "metrics"}`."""
    shipped: str | None = None
    """Name of a track that comes with Vigil; stands for its `grade.py`."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Longest time for one case; a command's own start counts toward its first case."""
    metrics: tuple[str, ...] | None = None
    """Names every grade must have; learned from the grades themselves when None."""
    is_private: bool = False
    """Tell of a failure without the grader's own words, which may quote a case."""
    network: bool = False
    """Whether it may open connections."""
    memory_gb: float = Field(default=GRADER_GB, gt=0)
    """Resident memory of it and all that it starts."""
    env: tuple[str, ...] = ()
    """Names of environment variables that it is given beside what any program needs."""
    cwd: str | None = None
    """Folder a command runs in; the current one by default. A Python grader runs in its own folder."""

    def check(self) -> None:
        """Refuse a specification that cannot be run, before any process is started.

        Raises:
            ConfigError: None or several of file, command and shipped; a missing file; an unknown shipped track.
        """
        given = [name for name in ("file", "command", "shipped") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigError(
                f"A grader is one of file, command and shipped; {' and '.join(given) or 'none of them'} was given.",
                what="grader",
                value=given,
                runbook=_RUNBOOK,
            )
        path = self.path
        if path is not None and not path.is_file():
            raise ConfigError(
                f"The grader file {path} does not exist; give the path of a Python file with `grade(case, text)`.",
                what="grader.file",
                value=str(path),
                where=str(path),
                runbook=_RUNBOOK,
            )

    @property
    def path(self) -> Path | None:
        """The Python file that holds `grade`, or None for a command.

        Raises:
            ConfigError: No shipped track has that name.
        """
        if self.shipped is None:
            return Path(self.file).resolve() if self.file else None
        known = shipped_tracks()
        if self.shipped not in known:
            near = get_close_matches(self.shipped, known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; there is {', '.join(known)}."
            raise ConfigError(
                f"No shipped track is named {self.shipped}{hint}", what="grader.shipped", value=self.shipped
            )
        return _TRACKS / self.shipped / "grade.py"

    @property
    def folder(self) -> Path:
        """The folder the grader runs in."""
        path = self.path
        if path is not None:
            return path.parent
        return Path(self.cwd or ".").resolve()

    @property
    def limits(self) -> Limits:
        """What it may take."""
        return Limits(memory_bytes=int(self.memory_gb * 1e9), network=self.network)

    def environment(self) -> dict[str, str]:
        """Return what it is given of this process's environment."""
        return clean_env(self.env, network=self.network)

    @property
    def label(self) -> str:
        """The grader's name in sentences."""
        if self.command:
            return f"The grader command `{' '.join(self.command)}`"
        return f"The shipped grader {self.shipped}" if self.shipped else f"The grader {self.file}"

    def fingerprint_files(self) -> list[Path]:
        """Return the files whose change makes old grades stale, sorted: the grader and the modules it imports.

        Modules count when they lie under the grader's folder or are Vigil's own. For a command, every argument that
        is a file counts, and the imports of those that are Python. Read without running anything; imports made by
        name at run time are not seen.

        Raises:
            ConfigError: As `check`.
        """
        self.check()
        path = self.path
        if path is not None:
            return imported_files([path])
        arguments = [(self.folder / argument).resolve() for argument in self.command or ()]
        return imported_files(argument for argument in arguments if argument.is_file())


@dataclass(frozen=True)
class Grade:
    """What a grader said about one case."""

    case_id: str
    metrics: dict[str, float | None] = field(default_factory=dict)
    """None: not measured, either said so by the grader or unusable; then `error` tells why. Never zero instead."""
    error: str = ""
    """One sentence; empty when every metric is usable."""
