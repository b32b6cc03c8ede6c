"""Commands that hand a campaign on: its report and model card, and its record for other programs."""

from pathlib import Path
from typing import Any

import click

from agent.commands.common import campaign_argument, folder_of, gathered, home_option, reads, say, show, show_json

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--text", "as_text", is_flag=True, help="Print it instead of writing HTML.")
@click.option("--page", "as_page", is_flag=True, help="Print one page: each verdict with its evidence.")
@click.option("--card", "as_card", is_flag=True, help="Write the model card, a README for the hub, instead.")
@click.option("--run", default="", metavar="R2", help="The card's run; the promoted or best one when left out.")
@click.option("--out", type=_FILE, help="Where to write; beside the store when left out.")
@reads
def report(campaign: str | None, home: str | None, as_json: bool, **asked: Any) -> None:  # noqa: FBT001 - click passes flags by name
    """Write the whole campaign as one HTML file, for a colleague who has a minute."""
    from agent.render.places import find_campaign

    view = gathered(find_campaign(folder_of(home), campaign, is_quiet=as_json))
    if asked["as_card"] or asked["run"]:
        from agent.render.card import card_of, format_card
        from state.files import write_atomic
        from state.text import shown

        card = card_of(view, asked["run"])
        if as_json:
            show_json(card)
            return
        out = asked["out"] or Path(view["root"]) / "README.md"
        write_atomic(out.absolute(), shown(format_card(card, view)))
        say(str(out))
        return
    from agent.render.report import report_data, report_page, report_text, write_report

    if as_json:
        show_json(report_data(view))
    elif asked["as_page"]:
        show(report_page(view))
    elif asked["as_text"]:
        show(report_text(view))
    else:
        say(str(write_report(view, asked["out"])))


@click.command()
@campaign_argument()
@click.option("--out", type=_FILE, help="Where to write; standard output when left out.")
@home_option
def export(campaign: str | None, out: Path | None, home: str | None) -> None:
    """Print the whole record as JSON lines."""
    import io
    import sys

    from agent.render.places import find_campaign
    from state.files import write_atomic
    from state.reading import export as write_rows

    paths = find_campaign(folder_of(home), campaign)
    if out is None:
        write_rows(paths, sys.stdout)
        return
    text = io.StringIO()
    count = write_rows(paths, text)
    write_atomic(out.absolute(), text.getvalue())
    say(f"{out}: {count:,} rows.")


share_commands = (report, export)
