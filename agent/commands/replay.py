"""`vigil replay`: what Vigil would have said and done over a recorded trajectory."""

from pathlib import Path

import click

from agent.commands.common import show, show_json

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("trajectory", type=_FILE)
@click.option("--harness", type=_FILE, help="What is known of its evaluator: decode budget and gold sizes, as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def replay(trajectory: Path, harness: Path | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Judge a recorded trajectory again.

    TRAJECTORY is a JSON list of cycles with their figures and gates, or what vigil export wrote. Shown are, per cycle,
    the gate, the bucket, what the record shows and what Vigil would have done next; at the end, what it would have
    saved. Nothing is trained and no campaign is touched.
    """
    from agent.replay import replay_file, replay_json, replay_text

    found = replay_file(trajectory, harness)
    show_json(replay_json(found)) if as_json else show(replay_text(found))


replay_commands = (replay,)
