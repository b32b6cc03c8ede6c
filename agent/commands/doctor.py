"""`vigil doctor`: whether this machine would get through a night."""

from pathlib import Path

import click

from agent.commands.common import folder_of, home_option, show_json


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False, metavar="[CAMPAIGN.yaml]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
@click.pass_context
def doctor(ctx: click.Context, file: Path | None, as_json: bool, home: str | None) -> None:  # noqa: FBT001 - click passes flags by name
    """Say whether this machine would get through a night.

    With a campaign file its model, data and grader are looked at too. Each line is a belief with its evidence; what the
    system does not say is "not told", never good. Exit code 3: a night would fail; 0: it can begin.
    """
    from agent import doctor as examining
    from agent.campaign import load_campaign

    loaded = load_campaign(file) if file is not None else None
    found = examining.examine(loaded, folder_of(home))
    if as_json:
        show_json([row.to_json() for row in found])
    else:
        examining.print_table(found)
    ctx.exit(examining.exit_code(found))


doctor_commands = (doctor,)
