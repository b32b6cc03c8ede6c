"""`vigil approve`, `reject`, `cancel`, `confirm`, `promote`: what a person says, a request that the holder applies."""

from collections.abc import Callable
from typing import Any

import click

from agent.commands.common import folder_of, home_option


def _answers(argument: str, *, needs_reason: bool = False) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function: what is answered, the campaign, `--campaign`, `--reason`, `--home`."""

    def command(function: Callable[..., None]) -> click.Command:
        option = click.option("--campaign", "option", metavar="NAME", help="The campaign, where the home has several.")
        # Given as a default, None would count as a reason.
        needed: dict[str, Any] = {"required": True} if needs_reason else {"default": ""}
        reason = click.option("--reason", help="Why, for the record.", **needed)
        taken = click.argument("campaign", required=False)(option(reason(home_option(function))))
        return click.command()(click.argument(argument)(taken))

    return command


@_answers("question")
def approve(question: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Say yes to a question.

    QUESTION is its id, Q2 or quickstart:Q2; the id of a refuted belief (B7) goes on against a hard stop, with --reason.
    """
    from agent.asking import answer

    click.echo(answer(folder_of(home), campaign or option, question, is_yes=True, reason=reason))


@_answers("question", needs_reason=True)
def reject(question: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Say no to a question.

    QUESTION is its id, Q2 or quickstart:Q2.
    """
    from agent.asking import answer

    click.echo(answer(folder_of(home), campaign or option, question, is_yes=False, reason=reason))


@_answers("commitment")
def cancel(commitment: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Cancel something the campaign means to do.

    COMMITMENT is its id, C3 or quickstart:C3.
    """
    from agent.asking import cancel_commitment

    click.echo(cancel_commitment(folder_of(home), campaign or option, commitment, reason))


@_answers("run")
def confirm(run: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Open the confirmation cases for a run that meets the gate on selection.

    RUN is its id, R2 or quickstart:R2. It counts as one of gate.max_confirmations; where the gate holds, the promotion
    is asked.
    """
    from agent.asking import ask_of_run

    click.echo(ask_of_run(folder_of(home), campaign or option, run, "confirm", reason))


@_answers("run")
def promote(run: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Promote a run that holds on the confirmation cases, without being asked.

    RUN is its id, R2 or quickstart:R2.
    """
    from agent.asking import ask_of_run

    click.echo(ask_of_run(folder_of(home), campaign or option, run, "promote", reason))


answer_commands = (approve, reject, cancel, confirm, promote)
