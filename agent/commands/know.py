"""`vigil refute`, `note` and `import`: what a person knows. Each inserts a request, which the holder applies."""

from pathlib import Path

import click

from agent.commands.common import folder_of, home_option, show

_CAMPAIGN = click.option("--campaign", "option", metavar="NAME", help="The campaign, where the home has several.")
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("belief")
@click.argument("campaign", required=False)
@_CAMPAIGN
@click.option("--reason", required=True, help="What shows that it is false, for the record.")
@home_option
def refute(belief: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Say that a belief is false.

    BELIEF is its id, B7 or quickstart:B7. What stood on it no longer counts; vigil beliefs --impact B7 says what.
    """
    from agent.asking import refute_belief

    click.echo(refute_belief(folder_of(home), campaign or option, belief, reason))


@click.command()
@click.argument("text")
@click.argument("campaign", required=False)
@_CAMPAIGN
@click.option("--mode", default="", help="Row of the failure catalogue, such as 11 or P3; a name makes a new one.")
@click.option(
    "--domain", type=click.Choice(["knowing", "doing", "deciding"]), default=None, help="Whose failure it was."
)
@click.option("--evidence", type=_PATH, help="A file that shows it; its hash is kept.")
@home_option
def note(  # noqa: PLR0917 - one parameter per option
    text: str,
    campaign: str | None,
    option: str | None,
    mode: str,
    domain: str | None,
    evidence: Path | None,
    home: str | None,
) -> None:
    """Add a failure to the campaign's catalogue.

    TEXT says in a sentence what was seen. The note is dated and counts in vigil beliefs --tally.
    """
    from agent.asking import note_failure

    click.echo(note_failure(folder_of(home), campaign or option, text, mode, domain or "", evidence))


@click.command("import")
@click.argument("campaign")
@click.argument("table", type=_PATH, required=False)
@click.option("--adapter", "adapters", type=_PATH, multiple=True, help="An adapter folder trained elsewhere.")
@click.option("--name", default="", help="What to call the one adapter; its folder's name when left out.")
@home_option
def import_(campaign: str, table: Path | None, adapters: tuple[Path, ...], name: str, home: str | None) -> None:
    """Record runs made elsewhere, as assumed.

    TABLE is CSV or JSON lines, one run per row: name, instrument, recipe keys of mlx-lm, scores as split.metric,
    adapter. None of it counts toward a verdict before this campaign has measured it.
    """
    from agent.asking import import_runs

    show(list(import_runs(folder_of(home), campaign, table, adapters, name)))


know_commands = (refute, note, import_)
