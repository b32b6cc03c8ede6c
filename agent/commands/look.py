"""Reading commands: what is on record, as text and as `--json`. They never write to a campaign."""

from pathlib import Path
from typing import Any

import click

from agent.commands.common import folder_of, home_option, reads, show, show_json


def _view(home: str | None, campaign: str | None) -> dict[str, Any]:
    from agent.reading.places import find_campaign
    from agent.reading.view import gather

    return gather(find_campaign(folder_of(home), campaign))


@click.command()
@reads
def status(campaign: str | None, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Show the campaign on one screen."""
    from agent.reading import night, verdicts
    from agent.summary import summarize

    view = _view(home, campaign)
    if not as_json:
        show(summarize(view))
        return
    shown = ("campaign", "goal", "holder", "decisions", "runs", "jobs", "approvals", "commitments")
    show_json(
        {
            **{key: view[key] for key in shown},
            "best": verdicts.best(view),
            "night": night.figures(view),
            "assumed": [row for row in view["beliefs"] if row["tag"] == "assumed" and row["status"] == "fresh"],
            "summary": summarize(view),
        }
    )


@click.command()
@click.argument("decision", required=False)
@reads
def why(decision: str | None, campaign: str | None, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Explain a decision, down to the bytes it stands on.

    DECISION is an id such as D7, or a run's id; without it, all decisions are listed. Shown are premises with their
    evidence, fingerprints and own premises, alternatives, prediction, verdict, questions and commitments.
    """
    from agent.reading import decisions
    from agent.reading.places import split_id
    from agent.reading.view import with_premises
    from agent.reading.words import table

    named, wanted = split_id(decision) if decision else (None, "")
    view = _view(home, named or campaign)
    if wanted:
        row = decisions.find(view, wanted)
        view = with_premises(view, row)
        show_json(decisions.walked(view, row)) if as_json else show(decisions.told(view, row, is_walked=True))
    elif as_json:
        show_json([decisions.public(row) for row in view["decisions"]])
    else:
        rows = [
            (d["id"], d["action"], d["run"], d["bucket"] or "", d["rule"], d["sentence"]) for d in view["decisions"]
        ]
        show(table(("id", "action", "run", "bucket", "rule", "sentence"), rows))


@click.command()
@click.option("--subject", default="", help="Only subjects that start with this, such as harness:")
@click.option("--stale", is_flag=True, help="Only what no longer holds: stale, contradicted, refuted.")
@click.option("--assumed", is_flag=True, help="Only what has no grounding yet.")
@click.option("--all", "with_history", is_flag=True, help="Also what was superseded.")
@click.option("--impact", "root", metavar="ID", help="Everything that stands on one belief.")
@click.option("--tally", "is_tally", is_flag=True, help="What was found, by domain, with the hours saved and spent.")
@reads
def beliefs(  # noqa: PLR0917 - one parameter per option
    campaign: str | None,
    home: str | None,
    subject: str,
    stale: bool,  # noqa: FBT001 - click passes flags by name
    assumed: bool,  # noqa: FBT001
    with_history: bool,  # noqa: FBT001
    is_tally: bool,  # noqa: FBT001
    as_json: bool,  # noqa: FBT001 - click passes flags by name
    root: str | None,
) -> None:
    """List what the campaign believes, with tags and evidence."""
    from agent.reading.places import find_campaign, split_id
    from agent.reading.words import block

    named, wanted = split_id(root) if root else (None, "")
    paths = find_campaign(folder_of(home), named or campaign)
    if wanted:
        from agent.reading import impact

        found = impact.impact(impact.gathered(paths), wanted)
        show_json(found) if as_json else show(impact.told(found))
        return
    if is_tally:
        from agent.reading import tally

        found = tally.of_campaign(paths)
        show_json(found) if as_json else show(tally.told(found))
        return
    from state.reading import open_reader

    with open_reader(paths) as reader:
        rows = reader.beliefs_about(
            subject,
            statuses=("stale", "contradicted", "refuted") if stale else (),
            is_assumed=assumed,
            with_history=with_history,
        )
    if as_json:
        show_json(rows)
        return
    for row in rows:
        mark = row["tag"] if row["status"] == "fresh" else f"{row['tag']}, {row['status']}"
        show(block(row["id"], f"[{mark}] {row['subject']} {row['claim']}: {row['statement']}", indent=6, lines=4))
    if not rows:
        click.echo("No such belief.")


@click.command()
@reads
def jobs(campaign: str | None, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """List the jobs: what ran, how it ended."""
    from agent.reading import night
    from agent.reading.words import duration, table

    view = _view(home, campaign)
    if as_json:
        show_json(view["jobs"])
        return
    rows = []
    for job in view["jobs"]:
        ending = job["exit"]
        said = ending.get("reason") or ending.get("verdict") or ""
        said = night.waits(job["waits_for"]) if job.get("waits_for") else said
        wall = duration(ending["wall_s"]) if ending.get("wall_s") is not None else ""
        rows.append(
            (
                job["id"],
                job["kind"],
                job["run"],
                job["state"],
                f"{job['step']}/{job['steps'] or '?'}",
                wall,
                job["restarts"],
                said,
            )
        )
    show(table(("id", "kind", "run", "state", "step", "time", "restarts", "ending"), rows, last_width=50))


@click.command()
@reads
def runs(campaign: str | None, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """List the training runs: recipe, prediction, verdict."""
    from agent.reading.words import duration, number, table

    view = _view(home, campaign)
    if as_json:
        show_json(view["runs"])
        return
    rows = []
    for run in view["runs"]:
        foreseen = run["predicted"]
        expected = f"{number(foreseen.get('low'))}-{number(foreseen.get('high'))}" if foreseen else ""
        cost = duration(run["cost_s_actual"]) if run["cost_s_actual"] is not None else ""
        numbers = (run["recipe"].get(key, "") for key in ("iters", "learning_rate"))
        rows.append(
            (run["id"], run["state"], run["bucket"] or "", run["axis"], *numbers, expected, cost, run["hypothesis"])
        )
    show(
        table(("id", "state", "bucket", "axis", "iters", "learning_rate", "predicted", "time", "hypothesis"), rows, 40)
    )


@click.command()
@reads
def inbox(campaign: str | None, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """List the questions to a person."""
    from agent.reading import typed
    from agent.reading.words import clock

    view = _view(home, campaign)
    if as_json:
        show_json(view["approvals"])
        return
    waiting = [row for row in view["approvals"] if row["answer"] is None]
    for row in waiting:
        show(typed.question(view, row))
    if not waiting:
        click.echo("No question waits.")
    for row in [row for row in view["approvals"] if row["answer"] is not None]:
        click.echo(f"  {row['id']} {row['kind']}: {row['answer']} by {row['answered_by']}, {clock(row['answered_at'])}")


@click.command()
@click.option("--text", "as_text", is_flag=True, help="Print it instead of writing HTML.")
@click.option("--page", "as_page", is_flag=True, help="Print one page: each verdict with its evidence.")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write; beside the store when left out."
)
@reads
def report(  # noqa: PLR0917 - one argument per option
    campaign: str | None,
    home: str | None,
    as_text: bool,  # noqa: FBT001 - click passes flags by name
    as_page: bool,  # noqa: FBT001 - click passes flags by name
    out: Path | None,
    as_json: bool,  # noqa: FBT001 - click passes flags by name
) -> None:
    """Write the whole campaign as one HTML file."""
    from agent.reading.places import find_campaign
    from agent.reading.view import gather
    from agent.report import report_data, report_page, report_text, write_report

    view = gather(find_campaign(folder_of(home), campaign))
    if as_json:
        show_json(report_data(view))
    elif as_page:
        show(report_page(view))
    elif as_text:
        show(report_text(view))
    else:
        click.echo(str(write_report(view, out)))


@click.command()
@click.argument("campaign", required=False)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write; standard output when left out."
)
@home_option
def export(campaign: str | None, out: Path | None, home: str | None) -> None:
    """Print the whole record as JSON lines."""
    import io
    import sys

    from agent.reading.places import find_campaign
    from state.export import export as write_rows
    from state.files import write_atomic

    paths = find_campaign(folder_of(home), campaign)
    if out is None:
        write_rows(paths, sys.stdout)
        return
    text = io.StringIO()
    count = write_rows(paths, text)
    write_atomic(out.absolute(), text.getvalue())
    click.echo(f"{out}: {count:,} rows.")


look_commands = (status, inbox, why, beliefs, jobs, runs, report, export)
