"""`vigil audit`: any project folder, without a campaign."""

from pathlib import Path

import click

from agent.commands.common import show_json

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("path", type=_PATH)
@click.option("--model", type=_PATH, help="A model folder whose tokenizer and template count; fused models are loaded.")
@click.option("--whole", is_flag=True, help="Read data files of more than 1 GB, or 20,000 rows, to their ends.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--sarif", type=_PATH, help="Also write the findings to this file, for code hosts.")
@click.pass_context
def audit(  # noqa: PLR0917 - one parameter per option
    ctx: click.Context,
    path: Path,
    model: Path | None,
    whole: bool,  # noqa: FBT001 - click passes flags by name
    as_json: bool,  # noqa: FBT001
    sarif: Path | None,
) -> None:
    """Look for what would waste training, in any mlx-lm project.

    PATH is a folder with configurations, data, adapters or models of mlx-lm or mlx-lm-lora. A vigil-audit.yaml in it
    may say how evaluation decodes and gates. Nothing is trained, unpickled or imported. Exit code 0: no hard stop,
    3: hard stops, 2: nothing there that can be audited.
    """
    from agent import audit as auditing

    found = auditing.audit(path, model, is_whole=whole)
    show_json(auditing.as_json(found, str(path))) if as_json else auditing.print_table(found, str(path))
    if sarif is not None:
        from agent.sarif import write_sarif

        write_sarif(sarif, found)
    code = auditing.exit_code(found)
    if code == auditing.NOTHING_USABLE:
        click.echo(f"vigil: {path} holds no configuration, data, adapter or model that an audit knows.", err=True)
    ctx.exit(code)


audit_commands = (audit,)
