"""The cases a worker is given: one split, for one use, in file order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state.errors import ConfigError
from tools.tracks import formats


@dataclass(frozen=True)
class Split:
    """The cases of one split for one use."""

    name: str
    use: str
    cases: tuple[dict[str, Any], ...]

    @property
    def key(self) -> str:
        """`split.use`, the name of its scores."""
        return f"{self.name}.{self.use}"


def read_split(spec: dict[str, Any]) -> Split:
    """Read the cases of one split row `{"name", "use", "file", "case_ids"}`.

    Raises:
        ConfigError: As `formats.iter_split`; or a wanted case is not in the file.
    """
    path = Path(spec["file"])
    by_id = {str(case["id"]): case for case in formats.iter_split(path)}
    wanted = by_id.keys() if spec.get("case_ids") is None else [str(name) for name in spec["case_ids"]]
    missing = [name for name in wanted if name not in by_id]
    if missing:
        raise ConfigError(
            f"{path} lacks {len(missing)} of the cases to evaluate, first {missing[0]}; the file changed since.",
            what="case_ids",
            value=missing[:5],
            where=str(path),
        )
    return Split(str(spec["name"]), str(spec["use"]), tuple(by_id[name] for name in wanted))
