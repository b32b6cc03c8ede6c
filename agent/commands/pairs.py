"""`vigil pairs`: preference pairs from the campaign's own training prompts, model and grader."""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click

from agent.commands.common import folder_of, home_option, show, show_json, tell


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The pairs file to write.")
@click.option("--metric", help="What tells better from worse, more is better; the gate's where it asks more of one.")
@click.option("--samples", type=click.IntRange(1), default=4, show_default=True, help="Answers per prompt.")
@click.option("--temperature", type=click.FloatRange(0), default=1.0, show_default=True, help="Of the answers.")
@click.option("--cases", "most_cases", type=click.IntRange(1), help="At most so many prompts, drawn by the seed.")
@click.option(
    "--source",
    type=click.Choice(["best_worst", "reference"]),
    default="best_worst",
    show_default=True,
    help="Best answer against worst, or the reference against a wrong one.",
)
@click.option(
    "--least-margin", type=click.FloatRange(0), default=0.1, show_default=True, help="Scores this close give no pair."
)
@click.option("--run", metavar="R2", help="Answer with this run's adapter; left out, with what runs start from.")
@click.option("--force", "is_forced", is_flag=True, help="Replace a file that holds something else.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@home_option
def pairs(file: Path, home: str | None, as_json: bool, **asked: Any) -> None:  # noqa: FBT001 - click passes flags by name
    """Build preference pairs from a campaign's own answers.

    FILE is the campaign's YAML file. Its training prompts (data.rollouts, else data.train) are answered by its model
    and graded by its grader, in a job that the same command adopts or goes on with. Exit codes: 2 something to correct,
    3 the pairs would teach something beside the point, 4 the job failed.
    """
    from agent.pairs import Asked, make_pairs
    from agent.terminal import Terminal

    aside = Terminal(partial(click.echo, err=True, nl=False), is_live=False)
    with closing(aside if as_json else Terminal(partial(tell, nl=False))) as terminal:
        made = make_pairs(file, folder_of(home), Asked(**asked), terminal=terminal)
    if as_json:
        show_json(made)
        return
    left_out = "".join(f"; {count} {reason}" for reason, count in made["left_out"].items())
    show([f"{made['pairs']} pairs by {made['metric']} in {made['out']}{left_out}."])
    show(f"{found['severity']}: {found['sentence']}" for found in made["findings"])


pairs_commands = (pairs,)
