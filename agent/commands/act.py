"""Commands that ask for something: answers and requests of a person, files made, folders audited, logs replayed."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click

from agent.commands.common import campaign_argument, folder_of, home_option, say, show, show_json, tell


def _answers(argument: str, *, needs_reason: bool = False) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function: what is answered, the campaign, `--campaign`, `--reason`, `--home`."""

    def command(function: Callable[..., None]) -> click.Command:
        option = click.option("--campaign", "option", metavar="NAME", help="The campaign, where the home has several.")
        # Given as a default, None would count as a reason.
        needed: dict[str, Any] = {"required": True} if needs_reason else {"default": ""}
        reason = click.option("--reason", help="Why, for the record.", **needed)
        taken = campaign_argument()(option(reason(home_option(function))))
        rows = {"question": "Q", "commitment": "C", "run": "R"}[argument]
        return click.command()(campaign_argument(rows, argument, required=True)(taken))

    return command


@_answers("question")
def approve(question: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Say yes to a question.

    QUESTION is its id, Q2 or quickstart:Q2; the id of a refuted belief (B7) goes on against a hard stop, with --reason.
    """
    from agent.requests import answer

    say(answer(folder_of(home), campaign or option, question, is_yes=True, reason=reason))


@_answers("question", needs_reason=True)
def reject(question: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Say no to a question.

    QUESTION is its id, Q2 or quickstart:Q2.
    """
    from agent.requests import answer

    say(answer(folder_of(home), campaign or option, question, is_yes=False, reason=reason))


@_answers("commitment")
def cancel(commitment: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Cancel something the campaign means to do.

    COMMITMENT is its id, C3 or quickstart:C3.
    """
    from agent.requests import cancel_commitment

    say(cancel_commitment(folder_of(home), campaign or option, commitment, reason))


@_answers("run")
def confirm(run: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Open the confirmation cases for a run that meets the gate on selection.

    RUN is its id, R2 or quickstart:R2. It counts as one of gate.max_confirmations; where the gate holds, the promotion
    is asked.
    """
    from agent.requests import ask_of_run

    say(ask_of_run(folder_of(home), campaign or option, run, "confirm", reason))


@_answers("run")
def promote(run: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Promote a run that holds on the confirmation cases, without being asked.

    RUN is its id, R2 or quickstart:R2.
    """
    from agent.requests import ask_of_run

    say(ask_of_run(folder_of(home), campaign or option, run, "promote", reason))


@click.command()
@click.argument("kind")
@campaign_argument()
@click.option("--until", required=True, metavar="HH:MM", help="The next time that clocks here show it.")
@click.option("--runs", type=click.IntRange(0), default=1, show_default=True, help="So many; 0 ends what was allowed.")
@click.option("--reason", default="", help="Why, for the record.")
@home_option
def allow(kind: str, campaign: str | None, until: str, runs: int, reason: str, home: str | None) -> None:  # noqa: PLR0917 - one parameter per option
    """Say yes beforehand to the next questions of a kind.

    KIND is launch. Promotions, edits of the campaign file, hard stops and confirmations are asked each time.
    """
    from agent import requests

    say(requests.allow(folder_of(home), campaign, kind, until, runs=runs, reason=reason))


answer_commands = (approve, reject, allow, cancel, confirm, promote)


_CAMPAIGN = click.option("--campaign", "option", metavar="NAME", help="The campaign, where the home has several.")
_PATH = click.Path(path_type=Path)


@click.command()
@campaign_argument("B", "belief", required=True)
@campaign_argument()
@_CAMPAIGN
@click.option("--reason", required=True, help="What shows that it is false, for the record.")
@home_option
def refute(belief: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Say that a belief is false.

    BELIEF is its id, B7 or quickstart:B7. What stood on it no longer counts; vigil beliefs --impact B7 says what.
    """
    from agent.requests import refute_belief

    say(refute_belief(folder_of(home), campaign or option, belief, reason))


@click.command()
@click.argument("text")
@campaign_argument()
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
    from agent.requests import note_failure

    say(note_failure(folder_of(home), campaign or option, text, mode, domain or "", evidence))


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
    from agent.requests import import_runs

    show(list(import_runs(folder_of(home), campaign, table, adapters, name)))


know_commands = (refute, note, import_)


@click.command()
@click.option("--from", "config", type=_PATH, required=True, help="An mlx-lm LoRA configuration (lora.yaml).")
@click.option("--grader", type=_PATH, required=True, help="A Python file with grade(case, text).")
@click.option("--out", type=_PATH, default=Path("campaign.yaml"), show_default=True, help="The campaign file to write.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
def init(config: Path, grader: Path, out: Path, force: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Write a campaign file for a task of your own."""
    from agent.init import init_campaign

    show(init_campaign(config, grader, out, force=force))


@click.command()
@click.argument("file", type=_PATH, metavar="CAMPAIGN.yaml")
def notify(file: Path) -> None:
    """Send a test notice to every address of `notify.to`, now."""
    from agent.notices import try_out

    show(try_out(file))


make_commands = (init, notify)


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
    from agent.render.watch import Terminal

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


@click.command()
@click.argument("trajectory", type=_PATH)
@click.option("--harness", type=_PATH, help="What is known of its evaluator: decode budget and gold sizes, as JSON.")
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


@click.command("install-service")
@click.argument("file", type=click.Path(path_type=Path), metavar="CAMPAIGN.yaml")
@click.option("--remove", "is_removal", is_flag=True, help="Take away exactly what was written.")
@home_option
def install_service(file: Path, is_removal: bool, home: str | None) -> None:  # noqa: FBT001 - click passes flags by name
    """Let the campaign go on by itself after a reboot.

    Writes a LaunchAgent on macOS, a unit of systemd's user manager on Linux, and says what to type. A campaign that has
    ended, or that a person has stopped, is not taken up again.
    """
    from agent import service

    if is_removal:
        show(service.remove(file, folder_of(home) if home else None, service.here()))
        return
    from agent.campaign import load_campaign

    show(service.install(load_campaign(file), folder_of(home), service.here()))


service_commands = (install_service,)


@click.command()
@click.argument("path", type=_PATH)
@click.option("--model", type=_PATH, help="A model folder whose tokenizer and template count; fused models are loaded.")
@click.option("--no-outside", is_flag=True, help="Open nothing outside the folder, for projects of strangers.")
@click.option("--whole", is_flag=True, help="Read data files of more than 1 GB, or 20,000 rows, to their ends.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--sarif", type=_PATH, help="Also write the findings to this file, for code hosts.")
@click.pass_context
def audit(  # noqa: PLR0917 - one parameter per option
    ctx: click.Context,
    path: Path,
    model: Path | None,
    no_outside: bool,  # noqa: FBT001 - click passes flags by name
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

    found = auditing.audit(path, model, is_whole=whole, may_leave=not no_outside)
    show_json(auditing.as_json(found, str(path))) if as_json else auditing.print_table(found, str(path))
    if sarif is not None:
        from agent.audit import write_sarif

        write_sarif(sarif, found)
    code = auditing.exit_code(found)
    if code == auditing.NOTHING_USABLE:
        say(f"vigil: {path} holds no configuration, data, adapter or model that an audit knows.", err=True)
    ctx.exit(code)


audit_commands = (audit,)


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
