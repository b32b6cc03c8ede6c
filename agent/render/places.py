"""Where a campaign is: the home, the campaign meant by a name, a file or nothing at all.

Standard library only, unless a file has to be read as YAML to find its name.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from agent.render.words import listed
from state.errors import ConfigError, NotFoundError
from state.lease import holder
from state.log import passed_over
from state.paths import CampaignPaths
from state.text import one_line

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_NAME_LINE = re.compile(r"""^campaign\s*:\s*(?:"([^"#]*)"|'([^'#]*)'|([^\s#]+))\s*(?:\#.*)?$""")


def find_home(option: str | None) -> Path:
    """Return the folder of all campaigns: `--home`, else `VIGIL_HOME`, else `.vigil` in the current folder."""
    return Path(option or os.environ.get("VIGIL_HOME") or ".vigil").expanduser().absolute()


def campaigns_in(home: Path) -> list[str]:
    """Return the names of the campaigns in a home, newest activity first."""
    try:
        found = [(_active_at(folder), folder.name) for folder in home.iterdir() if _is_campaign(folder)]
    except OSError:
        return []
    return [name for _, name in sorted(found, key=lambda each: (-each[0], each[1]))]


def _is_campaign(folder: Path) -> bool:
    """Say whether a campaign was run in a folder, though its store may be lost."""
    paths = CampaignPaths(folder.parent, folder.name)
    return paths.db.is_file() or paths.head.is_file()


def _active_at(folder: Path) -> float:
    """Return when a campaign was last written to; what its store has not yet taken over is in the log beside it."""
    moments = []
    for name in ("state.db", "state.db-wal"):
        with passed_over("place.not_read", OSError):
            moments.append((folder / name).stat().st_mtime)
    return max(moments, default=0.0)


def _aloud(sentence: str) -> None:
    print(one_line(sentence), file=sys.stderr)  # noqa: T201 - beside the answer, which others may read by machine


def _silently(_sentence: str) -> None:
    """Say nothing: with `--json` only the answer is printed."""


def find_campaign(home: Path, given: str | None, *, is_quiet: bool = False) -> CampaignPaths:
    """Return the files of the campaign that a person means.

    Args:
        home: Folder of all campaigns.
        given: Name, path of its YAML or JSON file, or None for the one that runs, else the newest.
        is_quiet: Do not say which of several was taken.

    Raises:
        NotFoundError: There is no such campaign, or none.
        ConfigError: The file names no campaign, or an id of a row is given where a campaign is meant.
    """
    paths, row = find_row(home, given, is_quiet=is_quiet)
    if row:
        raise ConfigError(
            f"{given} names {_ROWS[row[0]]} of {paths.name}, and a campaign is meant here: leave it out, or give the"
            f" name alone.",
            what="campaign",
            value=given,
        )
    return paths


_ROWS = {
    "R": "a run", "Q": "a question", "D": "a decision", "J": "a job", "B": "a belief", "C": "a commitment",
}  # fmt: skip
_ROW = re.compile(rf"^[{''.join(_ROWS)}][0-9]+$", re.IGNORECASE)


def find_row(home: Path, given: str | None, *, is_quiet: bool = False) -> tuple[CampaignPaths, str]:
    """Return the campaign that a person means, and the id of one of its rows where that was given: `Q2`, `NAME:Q2`.

    Raises:
        NotFoundError: There is no such campaign, or none.
        ConfigError: The file names no campaign.
    """
    known, row = campaigns_in(home), ""
    if given is not None and given not in known:
        named, _, last = given.rpartition(":")
        if _ROW.match(last):
            given, row = named or None, last.upper()
    if given is None:
        return CampaignPaths(home, _chosen(home, known, _silently if is_quiet else _aloud)), row
    name = _name_in(Path(given)) if _is_file_name(given) else given
    if name not in known:
        here = f"; here are {', '.join(known)}" if known else ""
        raise NotFoundError(
            f"{home} holds no campaign {name!r}{here}; vigil run FILE starts one; --home names another place.",
            what="campaign",
            value=name,
            where=str(home),
        )
    return CampaignPaths(home, name), row


def _chosen(home: Path, known: list[str], say: Callable[[str], None]) -> str:
    """Return the campaign that runs, else the newest; of several, say which one that is."""
    if not known:
        raise NotFoundError(
            f"{home} holds no campaign; start one with vigil run FILE, or name another place with --home.",
            what="campaign",
            where=str(home),
        )
    if len(known) == 1:
        return known[0]
    at_work = [name for name in known if holder(CampaignPaths(home, name)) is not None]
    taken = (at_work or known)[0]
    why = "the one that runs" if len(at_work) == 1 else f"the newest of {len(at_work)} that run" if at_work else ""
    others = listed([name for name in known if name != taken])
    say(f"vigil: {taken}, {why or 'the newest'}; the others here: {others}.")
    return taken


def _is_file_name(given: str) -> bool:
    return given.endswith((".yaml", ".yml", ".json")) or os.sep in given


def _name_in(path: Path) -> str:
    """Return the campaign's name in a YAML or JSON file, without a YAML reader where its line can be read.

    Reading YAML would cost a tenth of a second.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read; check the path.", what="campaign file", where=str(path)) from error
    for line in text.splitlines():
        if match := _NAME_LINE.match(line):
            name = next(group for group in match.groups() if group is not None)
            if _NAME.match(name):
                return name
    from agent.campaign import read_yaml_with_lines

    name = read_yaml_with_lines(path)[0].get("campaign")
    if isinstance(name, str) and _NAME.match(name):
        return name
    raise ConfigError(f"{path} has no line `campaign: NAME`.", what="campaign", where=str(path))
