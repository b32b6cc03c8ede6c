"""Reading commands: what is on record, as text and as `--json`. They never write to a campaign."""

from pathlib import Path
from typing import Any

import click

from agent.commands.common import campaign_argument, folder_of, gathered, home_option, ids, reads, say, show, show_json


def _found(home: str | None, given: str | None, *, as_json: bool) -> tuple[dict[str, Any], str]:
    """Return the campaign as gathered, and the id of one of its rows where that was given."""
    from agent.render.places import find_row

    paths, row = find_row(folder_of(home), given, is_quiet=as_json)
    return gathered(paths), row


def _listed(view: dict[str, Any], name: str, row: str, *, as_json: bool) -> bool:
    """Print the rows of a list as JSON, or one row of the record in full; say whether that was all that was asked."""
    from agent.render.why import TABLES, find_row_in, format_row

    if row and not (as_json and TABLES[row[0]] == name):
        show_json(find_row_in(view, row)) if as_json else show(format_row(view, row))
    elif as_json:
        show_json([each for each in view[name] if row in {"", each["id"]}])
    return bool(row) or as_json


@click.command()
@reads
def status(campaign: str | None, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Show the campaign on one screen."""
    from agent.render.record import figures
    from agent.render.summary import summarize
    from agent.render.typed import best

    view, row = _found(home, campaign, as_json=as_json)
    if row:
        _listed(view, "", row, as_json=as_json)
        return
    if not as_json:
        show(summarize(view))
        _require_ledger(view)
        return
    shown = ("campaign", "goal", "holder", "decisions", "runs", "jobs", "approvals", "commitments")
    show_json(
        {
            **{key: view[key] for key in shown},
            "best": best(view),
            "night": figures(view),
            "assumed": [row for row in view["beliefs"] if row["tag"] == "assumed" and row["status"] == "fresh"],
            "openings": [row for row in view["beliefs"] if row["subject"] == "ledger:confirmation"],
            "summary": summarize(view),
        }
    )
    _require_ledger(view)


def _require_ledger(view: dict[str, Any]) -> None:
    """Say it where the ledger that the campaign's alpha is in is damaged or lost, after all that can be told."""
    from agent.openings import opened
    from state.paths import CampaignPaths

    root = Path(view["root"])
    if view["goal"] is not None:
        with opened(view["goal"]["spec"]["gate"].get("ledger") == "example", CampaignPaths(root.parent, root.name)):
            pass


@click.command()
@reads
@click.option("--reset", "is_reset", is_flag=True, help="Let what stands in it no longer count, with --reason.")
@click.option("--reason", default="", help="Why, for the record.")
def ledger(
    campaign: str | None,
    home: str | None,
    as_json: bool,  # noqa: FBT001 - click passes flags by name
    is_reset: bool,  # noqa: FBT001
    reason: str,
) -> None:
    """Show which confirmation cases were opened at which alpha, and which cases were trained on.

    It is one for all campaigns on this machine; CAMPAIGN is named where that is an example, which has its own.
    """
    from agent.openings import entries_of, format_ledger, ledger_of, opened, reset_ledger
    from agent.render.places import find_campaign
    from state.paths import CampaignPaths
    from state.reading import open_reader

    folder, is_example = folder_of(home).resolve(), False
    paths = CampaignPaths(folder, "")
    if campaign is not None:
        paths = find_campaign(folder, campaign, is_quiet=as_json)
        with open_reader(paths) as reader:
            is_example = reader.goal()["spec"]["gate"].get("ledger") == "example"
    if is_reset:
        say(reset_ledger(paths, reason, is_example=is_example))
        return
    with opened(is_example, paths) as found:
        entries = entries_of(found)
    path = ledger_of(paths, is_example=is_example)
    show_json({"ledger": str(path), **entries}) if as_json else show(format_ledger(path, entries))


@click.command()
@campaign_argument("DRQJBC", "decision")
@click.option("--all", "is_all", is_flag=True, help="All of it, down to the bytes it stands on.")
@reads
def why(
    decision: str | None,
    campaign: str | None,
    home: str | None,
    is_all: bool,  # noqa: FBT001 - click passes flags by name
    as_json: bool,  # noqa: FBT001
) -> None:
    """Explain a decision in ten lines; --all has the rest.

    DECISION is an id such as D7, or the id of a run, a job, a question or a commitment that one led to; B7 is a belief.
    Without it, all decisions are listed. With --all: premises with their evidence, fingerprints and own premises,
    alternatives, prediction, recipe, verdict, questions and commitments.
    """
    from agent.render.record import with_premises
    from agent.render.why import (
        brief,
        find_decision,
        find_row_in,
        format_decision,
        format_row,
        public,
        training,
        walked,
    )
    from agent.render.words import table

    named = f"{campaign}:{decision}" if campaign and decision and ":" not in decision else decision or campaign
    view, wanted = _found(home, named, as_json=as_json)
    if wanted.startswith("B"):
        show_json(find_row_in(view, wanted)) if as_json else show(format_row(view, wanted))
    elif wanted:
        row = find_decision(view, wanted)
        if not is_all and not as_json:
            show(brief(view, row, wanted))
            return
        run = next((each for each in view["runs"] if each["id"] == row["run"]), None)
        view = with_premises(view, row)
        if as_json:
            show_json(walked(view, row))
            return
        trained = training(run) if run is not None and row["bucket"] else ()
        show(format_decision(view, row, is_walked=True, beside=trained))
    elif as_json:
        show_json([public(row) for row in view["decisions"]])
    else:
        keys = ("id", "action", "run", "bucket", "rule", "sentence")
        told = [[each[key] or "" for key in keys] for each in view["decisions"]]
        show(table(keys, told))


@click.command()
@click.option("--subject", default="", help="Only subjects that start with this, such as harness:")
@click.option("--stale", is_flag=True, help="Only what no longer holds: stale, contradicted, refuted.")
@click.option("--assumed", is_flag=True, help="Only what has no grounding yet.")
@click.option("--all", "with_history", is_flag=True, help="Also what was superseded.")
@click.option("--impact", "root", metavar="ID", shell_complete=ids("B"), help="Everything that stands on one belief.")
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
    from agent.render.places import find_row
    from agent.render.words import block

    named = f"{campaign}:{root}" if campaign and root and ":" not in root else root or campaign
    paths, wanted = find_row(folder_of(home), named, is_quiet=as_json)
    if root:
        from agent.render.why import format_impact, gather_standing, impact

        found = impact(gather_standing(paths), wanted or root)
        show_json(found) if as_json else show(format_impact(found))
        return
    if wanted:
        from agent.render.why import find_row_in, format_row

        view = gathered(paths)
        show_json([find_row_in(view, wanted)]) if as_json else show(format_row(view, wanted))
        return
    if is_tally:
        from agent.render.summary import format_tally, of_campaign

        found = of_campaign(paths)
        show_json(found) if as_json else show(format_tally(found))
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
    from agent.render.record import waits
    from agent.render.words import duration, table

    view, row = _found(home, campaign, as_json=as_json)
    if _listed(view, "jobs", row, as_json=as_json):
        return
    rows = []
    for job in view["jobs"]:
        ending = job["exit"]
        said = ending.get("reason") or ending.get("verdict") or ""
        said = waits(job["waits_for"]) if job.get("waits_for") else said
        wall = duration(ending["wall_s"]) if ending.get("wall_s") is not None else ""
        rows.append(
            (
                job["id"],
                job["kind"],
                job["run"],
                job["state"],
                f"{job['step']}/{job['steps'] or '?'}",
                wall,
                duration(job["startup_s"]) if job.get("startup_s") else "",
                job["restarts"],
                said,
            )
        )
    show(table(("id", "kind", "run", "state", "step", "time", "start", "restarts", "ending"), rows, last_width=50))


@click.command()
@reads
def runs(campaign: str | None, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """List the training runs: score with its interval, verdict, recipe."""
    from agent.render.typed import bucket_name, score, scored
    from agent.render.words import columns, duration, table

    view, row = _found(home, campaign, as_json=as_json)
    view["runs"] = [{**run, "score": score(view, run["id"])} for run in view["runs"]]
    if _listed(view, "runs", row, as_json=as_json):
        return
    scores = [run["score"] for run in view["runs"] if run["score"]]
    metrics = sorted({found["metric"] for found in scores})
    if metrics:
        levels = sorted({f"{100 * found['level']:.3g} %" for found in scores if found["level"] is not None})
        say(f"Scores: {', '.join(metrics)}" + (f", with the {' or '.join(levels)} interval." if levels else "."))
    rows = []
    for run in view["runs"]:
        found = run["score"]
        name = f"{found['metric']} " if found and len(metrics) > 1 else ""
        rows.append(
            (
                run["id"],
                bucket_name(run["bucket"]) or run["state"],
                name + scored(found),
                f"{found['n']} {found['use']}" if found else "",
                *(run["recipe"].get(key, "") for key in ("iters", "learning_rate")),
                duration(run["cost_s_actual"]) if run["cost_s_actual"] is not None else "",
                run["hypothesis"],
            )
        )
    headers = ("id", "verdict", "score", "cases", "iters", "lr", "time", "hypothesis")
    show(table(headers, rows, columns()))


@click.command()
@click.option("--fixed", "wanted", flag_value="fixed", help="Only those that are right now, and were not before.")
@click.option("--regressed", "wanted", flag_value="regressed", help="Only those that got worse.")
@click.option("--wrong", "wanted", flag_value="wrong", help="Only those that are still wrong.")
@click.option("--cut", "wanted", flag_value="cut", help="Only answers that reached max_tokens.")
@click.option("--metric", default="", help="split.name; what the run was judged by when left out.")
@click.option("--limit", type=click.IntRange(0), default=10, show_default=True, help="At most so many; 0 for all.")
@reads
def cases(  # noqa: PLR0917 - one parameter per option
    campaign: str | None,
    home: str | None,
    wanted: str | None,
    metric: str,
    limit: int,
    as_json: bool,  # noqa: FBT001 - click passes flags by name
) -> None:
    """Show the cases of a run: prompt, reference, the base's answer and its own, scores.

    CAMPAIGN is a campaign, a run such as R2, or both, quickstart:R2; the best run when no run is named.
    """
    from agent.render.cases import format_case, pages

    view, row = _found(home, campaign, as_json=as_json)
    found = pages(view, row, metric, wanted or "all", limit)
    if as_json:
        show_json(found)
        return
    if not found["run"]:
        click.echo("No run is judged yet.")
        return
    counts = ", ".join(f"{found['counts'][key]} {words}" for key, words in found["filters"].items() if key != "all")
    show([f"{found['run']}, {found['metric']}: {found['n']} {found['use']} cases; {counts}."])
    for each in found["rows"]:
        show(["", *format_case(found["run"], each)])
    if found["next"] is not None:
        show(["", f"And {found['counts'][wanted or 'all'] - len(found['rows'])} more: --limit 0 shows all."])


@click.command("list")
@home_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """List the campaigns, the newest first: how each stands, its best run, what waits for you."""
    from agent.render.places import campaigns_in
    from agent.render.summary import brief
    from agent.render.words import columns, table
    from state.paths import CampaignPaths

    folder = folder_of(home)
    found = [brief(CampaignPaths(folder, name)) for name in campaigns_in(folder)]
    if as_json:
        show_json(found)
        return
    if not found:
        show([f"{folder} holds no campaign; vigil run FILE starts one."])
        return
    rows = [
        [each[key] for key in ("name", "state", "best", "score", "waiting", "started", "sentence")] for each in found
    ]
    show(table(("campaign", "state", "best run", "score", "for you", "started", "last word"), rows, columns()))


@click.command()
@reads
def inbox(campaign: str | None, home: str | None, as_json: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """List the questions to a person."""
    from agent.render.typed import leave
    from agent.render.why import question

    view, row = _found(home, campaign, as_json=as_json)
    if _listed(view, "approvals", row, as_json=as_json):
        return
    waiting = [row for row in view["approvals"] if row["answer"] is None]
    for each in waiting:
        show(question(view, each))
    if not waiting:
        click.echo("No question waits.")
    show(leave(each) for each in view["leaves"])
    for each in [each for each in view["approvals"] if each["answer"] is not None]:
        show(question(view, each))


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; a network's one lets it in."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8345, show_default=True, help="0 takes a free one.")
@click.option(
    "--home",
    "homes",
    multiple=True,
    metavar="FOLDER",
    help="A folder of campaigns; more by --home again. VIGIL_HOME or .vigil when left out.",
)
def web(host: str, port: int, homes: tuple[str, ...]) -> None:
    """Show all campaigns as pages in a browser, and take answers there.

    Prints a link that opens once; --host 0.0.0.0 lets a phone on the same network in by it, and by a code to scan. The
    pages read the record, and write nothing but an answer. Ctrl-C ends it; a campaign that is running goes on.
    """
    from agent.web.server import serve

    serve([folder_of(home) for home in homes or (None,)], host, port, click.echo)


look_commands = (list_, status, ledger, inbox, why, beliefs, jobs, runs, cases, web)
