"""Where a campaign is: the home, the campaign meant by a name, a file or nothing at all.

Standard library only, unless a file has to be read as YAML to find its name.
"""

import os
import re
from pathlib import Path

from state.errors import ConfigError, NotFoundError
from state.paths import CampaignPaths

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
_NAME_LINE = re.compile(r"""^campaign\s*:\s*(?:"([^"#]*)"|'([^'#]*)'|([^\s#]+))\s*(?:\#.*)?$""")


def find_home(option: str | None) -> Path:
    """Return the folder of all campaigns: `--home`, else `VIGIL_HOME`, else `.vigil` in the current folder."""
    return Path(option or os.environ.get("VIGIL_HOME") or ".vigil").expanduser().absolute()


def campaigns_in(home: Path) -> list[str]:
    """Return the names of the campaigns in a home, newest activity first."""
    try:
        found = [folder for folder in home.iterdir() if (folder / "state.db").is_file()]
    except OSError:
        return []
    return [folder.name for folder in sorted(found, key=lambda folder: -(folder / "state.db").stat().st_mtime)]


def find_campaign(home: Path, given: str | None) -> CampaignPaths:
    """Return the files of the campaign that a person means.

    Args:
        home: Folder of all campaigns.
        given: Name, path of its YAML or JSON file, or None when the home has one campaign only.

    Raises:
        NotFoundError: There is no such campaign, or none, or several and none was named.
        ConfigError: The file names no campaign.
    """
    known = campaigns_in(home)
    if given is None:
        return CampaignPaths(home, _only(home, known))
    name = _name_in(Path(given)) if _is_file_name(given) else given
    if name not in known:
        here = f"; here are {', '.join(known)}" if known else ""
        raise NotFoundError(
            f"{home} holds no campaign {name!r}{here}; vigil run FILE starts one; --home names another place.",
            what="campaign",
            value=name,
            where=str(home),
        )
    return CampaignPaths(home, name)


def _only(home: Path, known: list[str]) -> str:
    if not known:
        raise NotFoundError(
            f"{home} holds no campaign; start one with vigil run FILE, or name another place with --home.",
            what="campaign",
            where=str(home),
        )
    if len(known) > 1:
        raise NotFoundError(
            f"{home} holds {len(known)} campaigns ({', '.join(known)}); say which one.",
            what="campaign",
            value=known,
            where=str(home),
        )
    return known[0]


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


def split_id(given: str) -> tuple[str | None, str]:
    """Split `quickstart:Q2` into campaign and id; a bare `Q2` names no campaign."""
    campaign, _, row = given.rpartition(":")
    return campaign or None, row
