"""`vigil init`: a campaign file for a task of one's own."""

from pathlib import Path

import click

from agent.commands.common import show

_FILE = click.Path(path_type=Path)


@click.command()
@click.option("--from", "config", type=_FILE, required=True, help="An mlx-lm LoRA configuration (lora.yaml).")
@click.option("--grader", type=_FILE, required=True, help="A Python file with grade(case, text).")
@click.option("--out", type=_FILE, default=Path("campaign.yaml"), show_default=True, help="The campaign file to write.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(config: Path, grader: Path, out: Path, force: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Write a campaign file for a task of your own."""
    from agent.init import init_campaign

    show(init_campaign(config, grader, out, force=force))


make_commands = (init,)
