"""`vigil approve`, `reject` and `cancel`: what a person says. Each inserts a request, which the holder applies."""

import click

from agent.commands.common import folder_of, home_option

_CAMPAIGN = click.option("--campaign", "option", metavar="NAME", help="The campaign, where the home has several.")
_REASON = click.option("--reason", default="", help="Why, for the record.")


@click.command()
@click.argument("question")
@click.argument("campaign", required=False)
@_CAMPAIGN
@_REASON
@home_option
def approve(question: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Say yes to a question.

    QUESTION is its id, Q2 or quickstart:Q2; the id of a refuted belief (B7) goes on against a hard stop, with --reason.
    """
    from agent.asking import answer

    click.echo(answer(folder_of(home), campaign or option, question, is_yes=True, reason=reason))


@click.command()
@click.argument("question")
@click.argument("campaign", required=False)
@_CAMPAIGN
@click.option("--reason", required=True, help="Why, for the record.")
@home_option
def reject(question: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Say no to a question.

    QUESTION is its id, Q2 or quickstart:Q2.
    """
    from agent.asking import answer

    click.echo(answer(folder_of(home), campaign or option, question, is_yes=False, reason=reason))


@click.command()
@click.argument("commitment")
@click.argument("campaign", required=False)
@_CAMPAIGN
@_REASON
@home_option
def cancel(commitment: str, campaign: str | None, option: str | None, reason: str, home: str | None) -> None:
    """Cancel something the campaign means to do.

    COMMITMENT is its id, C3 or quickstart:C3.
    """
    from agent.asking import cancel_commitment

    click.echo(cancel_commitment(folder_of(home), campaign or option, commitment, reason))


answer_commands = (approve, reject, cancel)
