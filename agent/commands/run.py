"""`vigil run`, `stop` and `watch`: what starts, ends and shows a campaign at work."""

from contextlib import closing
from functools import partial
from pathlib import Path

import click

from agent.commands.common import campaign_argument, folder_of, home_option, say, show, tell
from state.errors import NotFoundError


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--check", "is_check", is_flag=True, help="Validate only; start and create nothing.")
@click.option("--online", is_flag=True, help="Download and verify the model first; the night needs no network then.")
@click.option("--no-wait", is_flag=True, help="End with code 6 instead of waiting for an answer.")
@click.option("--restore", is_flag=True, help="Put the last verified backup in place of a damaged store first.")
@click.option("--verbose", is_flag=True, help="Show the agent's log too; vigil log shows it later, with the jobs'.")
@home_option
@click.pass_context
def run(  # noqa: PLR0917 - one parameter per option
    ctx: click.Context,
    file: Path,
    is_check: bool,  # noqa: FBT001 - click passes flags by name
    online: bool,  # noqa: FBT001
    no_wait: bool,  # noqa: FBT001
    restore: bool,  # noqa: FBT001
    verbose: bool,  # noqa: FBT001
    home: str | None,
) -> None:
    """Start a campaign, or go on after any crash.

    FILE is the campaign's YAML file. Exit codes: 0 promoted, 1 not promoted, 2 something to correct, 3 hard stop,
    4 a job failed, 5 integrity, 6 waiting for a person.
    """
    from agent.campaign import load_campaign

    loaded = load_campaign(file)
    if loaded.goal.privacy == "redact":
        from tools.jobs.privacy import keep_words_out

        keep_words_out()
    where = folder_of(home)
    if is_check or online:
        from agent.checks import check_campaign
        from state.paths import CampaignPaths

        paths = CampaignPaths(where.resolve(), loaded.goal.campaign)
        show(check_campaign(loaded, paths if is_check else None, online=online, is_rehearsal=is_check))
    if is_check:
        say(f"{file} is a valid campaign.")
        return
    if restore:
        _restore(where, loaded.goal.campaign)
    from agent.render.watch import Terminal

    with closing(Terminal(partial(tell, nl=False))) as terminal:
        terminal.show("Starting …")
        from agent.runner import run_campaign

        end = run_campaign(file, where, wait=not no_wait, terminal=terminal, is_verbose=verbose)
    _summary(where, loaded.goal.campaign, file)
    ctx.exit(end.exit_code)


def _restore(home: Path, campaign: str) -> None:
    """Put the newest verified backup in place of the store.

    Raises:
        LeaseLostError: An agent is running on the campaign.
        NotFoundError: There is no campaign, or no backup of it.
    """
    from state.backup import restore_latest
    from state.clock import SystemClock
    from state.lease import Lease
    from state.paths import CampaignPaths

    paths = CampaignPaths(home.resolve(), campaign)
    if not paths.backups.is_dir():
        raise NotFoundError(f"{paths.root} has no backup to restore.", what="backup", where=str(paths.backups))
    with Lease.acquire(paths, SystemClock()) as lease:
        say(restore_latest(paths, SystemClock(), lease).sentence)


def _summary(home: Path, campaign: str, file: Path) -> None:
    """Print the screen that `vigil status` prints, and leave the report beside the store."""
    from agent.render.places import find_campaign
    from agent.render.record import gather
    from agent.render.report import write_report
    from agent.render.summary import summarize

    view = gather(find_campaign(home, campaign), file=str(file))
    for line in ("", *summarize(view), *view["damaged"]):
        tell(line)
    write_report(view)


@click.command()
@campaign_argument()
@click.option("--reason", default="", help="Why, for the record.")
@home_option
def stop(campaign: str | None, reason: str, home: str | None) -> None:
    """Save and end; the same run goes on later."""
    from agent.render.places import find_campaign
    from agent.requests import ask_to_stop

    say(ask_to_stop(find_campaign(folder_of(home), campaign), reason))


@click.command()
@campaign_argument()
@click.option("--every", "every_s", type=click.FloatRange(0.2), default=1.0, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Print one line and end.")
@home_option
def watch(campaign: str | None, every_s: float, once: bool, home: str | None) -> None:  # noqa: FBT001 - click passes flags by name
    """Look on while it works: progress, loss, memory."""
    from agent.render.places import find_campaign
    from agent.render.watch import Terminal, watch_campaign

    paths = find_campaign(folder_of(home), campaign)
    with closing(Terminal(partial(click.echo, nl=False))) as terminal:
        watch_campaign(paths, terminal, every_s=every_s, once=once)


run_commands = (run, watch, stop)
