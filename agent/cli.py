"""`vigil`, the command line: click at the top, everything else imported by the command that needs it.

Exit codes: 0 done as asked, 1 done but not promoted, 2 the user can fix it, 3 hard stop, 4 a job or tool failed,
5 integrity, 6 waiting for a person (state/errors.py); 130 after Ctrl-C.
"""

import os

import click

from agent.commands.act import (
    answer_commands,
    audit_commands,
    doctor_commands,
    know_commands,
    make_commands,
    pairs_commands,
    replay_commands,
    service_commands,
)
from agent.commands.common import SentenceGroup
from agent.commands.log import log_commands
from agent.commands.look import look_commands
from agent.commands.run import run_commands
from agent.commands.share import share_commands

_ORDER = (
    *run_commands,
    *look_commands,
    *share_commands,
    *log_commands,
    *answer_commands,
    *know_commands,
    *make_commands,
    *pairs_commands,
    *replay_commands,
    *audit_commands,
    *doctor_commands,
    *service_commands,
)


class _InOrder(SentenceGroup):
    """Lists commands in the order a person meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [str(command.name) for command in (*_ORDER, completion)]


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    if value:
        from importlib.metadata import version

        click.echo(f"vigil {version('vigil')}")
        ctx.exit(0)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
def vigil() -> None:
    """Fine-tune a language model on MLX by itself, overnight.

    Vigil verifies before it spends, survives the night, judges by evidence and says what it did.
    """
    # Rows, answers and weights are their owner's: what this process and its jobs create is nobody else's to read.
    os.umask(os.umask(0o077) | 0o077)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes commands, campaigns and ids in a shell.

    In ~/.bashrc or ~/.zshrc: eval "$(vigil completion bash)"; in fish's config: vigil completion fish | source.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    click.echo(found(vigil, {}, "vigil", "_VIGIL_COMPLETE").source() if found else "")
    click.echo(_REJOINED if shell == "bash" else "", nl=False)


_REJOINED = r"""
_vigil_rejoined() {
    local word rest=$COMP_LINE cut i
    local -a words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if ((i)) && [[ $rest != [[:space:]]* ]]; then words[-1]+=$word; else words+=("$word"); fi
        rest=${rest#*"$word"}
    done
    local -a COMP_WORDS=("${words[@]}")
    local COMP_CWORD=$((${#words[@]} - 1))
    _vigil_completion "$@"
    cut=${words[-1]##*=}
    cut=${cut%"${cut##*:}"}
    if [[ $COMP_WORDBREAKS == *:* ]]; then COMPREPLY=("${COMPREPLY[@]#"$cut"}"); fi
}
complete -o nosort -F _vigil_rejoined vigil
"""
"""bash splits `NAME:ID` at its colon: asks for the whole word, and offers what comes after the colon."""


for _command in (*_ORDER, completion):
    vigil.add_command(_command)


def main() -> None:
    """Run the command line."""
    vigil(prog_name="vigil")


if __name__ == "__main__":
    main()
