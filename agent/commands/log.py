"""`vigil log`: what the processes of a campaign did, each from a file of its own, merged by time."""

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from agent.commands.common import folder_of, reads, show
from state.errors import ConfigError, VigilError
from state.files import json_row
from state.log import LEVELS, passed_over, sentence
from state.paths import CampaignPaths, JobPaths

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|m|h|d)")
_UNIT_S = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@click.command()
@click.option("--since", metavar="WHEN", help="Lines from then on: 30m, 2h, 1d ago, or a moment, 2026-11-29T22:30.")
@click.option("--level", type=click.Choice(LEVELS), default="info", help="The lowest level that is shown.")
@click.option("--job", metavar="JOB", help="Lines of one job: its id, J3, or the beginning of its key.")
@reads
def log(  # noqa: PLR0917 - one parameter per option
    campaign: str | None,
    since: str | None,
    level: str,
    job: str | None,
    home: str | None,
    as_json: bool,  # noqa: FBT001 - click passes flags by name
) -> None:
    """Show what agent, supervisors and workers did, oldest first.

    Each line has its time, level and event, and which campaign, start of the agent (epoch), decision and job it is of.
    Lines hold names, ids and numbers; what a model wrote, or a row says, is in no log. With --json a line of JSON each.
    """
    from agent.render.places import find_campaign

    paths = find_campaign(folder_of(home), campaign, is_quiet=as_json)
    names = _names(paths)
    least, from_s = LEVELS.index(level), _moment(since)
    key = _key(job, names) if job else ""
    found = [
        line
        for line in merged(paths)
        if LEVELS.index(line["level"]) >= least
        and _seconds(line["timestamp"]) >= from_s
        and (not key or str(line.get("job", "")).startswith(key))
    ]
    if as_json:
        show(json.dumps(line) for line in found)
        return
    if not found:
        click.echo(f"{paths.name} has no such line in its log.")
    show(_said(line, names) for line in found)


def merged(paths: CampaignPaths) -> list[dict[str, Any]]:
    """Return the whole lines of all processes' logs by time, each with `process`; torn or strange ones are left out."""
    jobs = [
        JobPaths(folder)
        for place in (paths.jobs, paths.pairs, paths.exports)
        for folder in place.glob("*")
        if folder.is_dir()
    ]
    files = [("agent", paths.log)] + [("tracker", file) for file in paths.trackers.glob("*.jsonl")]
    files += [("supervisor", job.supervisor_log) for job in jobs] + [("worker", job.worker_log) for job in jobs]
    lines = [
        {**line, "process": process}
        for process, file in files
        for path in (file.with_name(f"{file.name}.1"), file)
        for line in _lines(path)
    ]
    return sorted(lines, key=lambda line: _seconds(line["timestamp"]))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with passed_over("log.not_read", OSError):
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            line = json_row(text)
            if line is not None and _is_whole(line):
                yield line


def _is_whole(line: dict[str, Any]) -> bool:
    return line.get("level") in LEVELS and "event" in line and _seconds(line.get("timestamp")) > 0


def _seconds(stamp: Any) -> float:
    """Return a time stamp as Unix seconds, 0 where it is none, or local time has none for it."""
    try:
        return datetime.fromisoformat(str(stamp)).replace(tzinfo=UTC).astimezone().timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _moment(since: str | None) -> float:
    """Return what `--since` says as Unix seconds.

    Raises:
        ConfigError: It is neither so long ago nor a moment.
    """
    if since is None:
        return 0.0
    if match := _AGO.fullmatch(since.strip()):
        return time.time() - float(match[1]) * _UNIT_S[match[2]]
    try:
        # Without a zone it is the time of this machine.
        return datetime.fromisoformat(since.strip()).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--since {since} is no time; write how long ago (30m, 2h, 1d) or a moment (2026-11-29T22:30).",
            what="since",
            value=since,
        ) from None


def _names(paths: CampaignPaths) -> dict[str, str]:
    """Return key -> id of the jobs on record; none where the record cannot be read, which hides no log."""
    from state.reading import open_reader

    with passed_over("record.not_read", VigilError), open_reader(paths) as reader:
        return {str(row["key"]): str(row["id"]) for row in reader.jobs()}
    return {}


def _key(job: str, names: dict[str, str]) -> str:
    wanted = job.rpartition(":")[2]
    return next((key for key, name in names.items() if name == wanted.upper()), wanted)


def _said(line: dict[str, Any], names: dict[str, str]) -> str:
    """Return a line as a person reads it, in local time, without what all lines share."""
    at = datetime.fromtimestamp(_seconds(line["timestamp"]), tz=UTC).astimezone()
    key = str(line.get("job", ""))
    job = {"job": names.get(key, key[:8])} if key else {}
    kept = {name: value for name, value in line.items() if name not in {"campaign", "pid", "process", "job"}}
    said = f"{line['process']:<10} {line['event']}"
    return f"{at:%Y-%m-%d} {sentence({**kept, **job, 'timestamp': at.isoformat(), 'event': said})}"


log_commands = (log,)
