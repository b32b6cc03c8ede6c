"""Commands that hand a campaign on: report and model card, the record in other programs' forms, a chat with a run."""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click

from agent.commands.common import (
    campaign_argument,
    folder_of,
    gathered,
    home_option,
    ids,
    reads,
    say,
    show,
    show_json,
    tell,
)
from state.paths import CampaignPaths

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--text", "as_text", is_flag=True, help="Print it instead of writing HTML.")
@click.option("--page", "as_page", is_flag=True, help="Print one page: each verdict with its evidence.")
@click.option("--card", "as_card", is_flag=True, help="Write the model card, a README for the hub, instead.")
@click.option(
    "--run",
    default="",
    metavar="R2",
    shell_complete=ids("R"),
    help="The card's run; the promoted or best one when left out.",
)
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
@click.option("--steps", "is_steps", is_flag=True, help="Step metrics and verdicts; Parquet where --out ends so.")
@click.option(
    "--inspect",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write .eval logs for Inspect View there.",
)
@click.option(
    "--gguf", "run", metavar="R2", shell_complete=ids("R"), help="Write a run, fused into its base, to --out as GGUF."
)
@click.option("--force", "is_forced", is_flag=True, help="Replace another GGUF file in the place.")
@home_option
def export(  # noqa: PLR0917 - one argument per option
    campaign: str | None,
    out: Path | None,
    is_steps: bool,  # noqa: FBT001 - click passes flags by name
    folder: Path | None,
    run: str | None,
    is_forced: bool,  # noqa: FBT001 - the same
    home: str | None,
) -> None:
    """Print the whole record as JSON lines, or write it in a form that other programs read.

    A GGUF file is made by a job that waits for its turn at the accelerator; its hash is put on record.
    """
    from agent.render.places import find_campaign
    from state.errors import ConfigError

    paths = find_campaign(folder_of(home), campaign, is_quiet=out is None)
    if sum((is_steps, folder is not None, run is not None)) > 1:
        raise ConfigError("--steps, --inspect and --gguf are one at a time.", what="export")
    if run is not None:
        if out is None:
            raise ConfigError("--gguf writes one file: name it with --out FILE.gguf.", what="out")
        _export_gguf(paths, run, out, is_forced=is_forced)
    elif folder is not None:
        from agent.exports import write_eval_logs
        from agent.render.record import with_measurements

        show(str(path) for path in write_eval_logs(with_measurements(gathered(paths)), folder))
    elif is_steps:
        from agent.exports import write_steps

        count, text = write_steps(paths, out)
        click.echo(text, nl=False) if out is None else say(f"{out}: {count:,} rows.")
    else:
        _export_record(paths, out)


def _export_gguf(paths: CampaignPaths, run: str, out: Path, *, is_forced: bool) -> None:
    from agent.exports import make_gguf
    from agent.render.watch import Terminal

    with closing(Terminal(partial(tell, nl=False))) as terminal:
        made = make_gguf(paths, run, out, terminal, is_forced=is_forced)
    show([f"{out}: {made['bytes']:,} bytes, sha256 {made['sha256']}, on record.", *made["notes"]])


def _export_record(paths: CampaignPaths, out: Path | None) -> None:
    import io
    import sys

    from state.files import write_atomic
    from state.reading import export as write_rows

    if out is None:
        write_rows(paths, sys.stdout)
        return
    text = io.StringIO()
    count = write_rows(paths, text)
    write_atomic(out.absolute(), text.getvalue())
    say(f"{out}: {count:,} rows.")


@click.command()
@click.option(
    "--run", required=True, metavar="R2", shell_complete=ids("R"), help="The run that answers beside the base."
)
@click.option("--prompt", "prompts", multiple=True, help="A prompt; without one, a line from the terminal each.")
@click.option("--anyway", is_flag=True, help="Also while a job has the accelerator, which it slows down.")
@reads
def chat(  # noqa: PLR0917 - one argument per option
    campaign: str | None,
    run: str,
    prompts: tuple[str, ...],
    anyway: bool,  # noqa: FBT001 - click passes flags by name
    home: str | None,
    as_json: bool,  # noqa: FBT001 - the same
) -> None:
    """Ask base and candidate what you like, side by side.

    Greedy, with the template, system text and answer length of the campaign's evaluation. Nothing of it is recorded or
    counts for a verdict.
    """
    from agent.chat import chat as answering
    from agent.chat import format_answers, refuse_busy, spec_of
    from agent.render.places import find_campaign
    from state.text import as_json as one_json
    from state.text import one_line

    paths = find_campaign(folder_of(home), campaign, is_quiet=as_json)
    spec = spec_of(paths, run)
    if not anyway:
        refuse_busy()
    name = run.upper()
    aside = partial(say, err=True)
    system = f"the system text {spec['system']!r}" if spec["system"] else "no system text"
    aside(
        f"Not an evaluation: nothing of this is recorded or counts for a verdict. Greedy, at most {spec['max_tokens']}"
        f" tokens, {system}."
    )
    for told in answering(spec, prompts or _lines(), aside):
        if as_json:
            click.echo(one_json({**told, "run": name}))
        else:
            show([*([] if not prompts else [f"> {one_line(told['prompt'])}"]), *format_answers(told, name), ""])


def _lines() -> Iterator[str]:
    """Yield the lines that a person types, until an empty input ends it."""
    import sys

    stream = sys.stdin
    is_typed = stream.isatty()
    while True:
        if is_typed:
            click.echo("> ", nl=False, err=True)
        line = stream.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")


share_commands = (report, export, chat)
