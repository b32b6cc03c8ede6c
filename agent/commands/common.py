"""What all commands share: options, output, and the one place where an error becomes a sentence and an exit code."""

import errno
import os
import sqlite3
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from state.errors import CorruptError, VigilError
from state.log import passed_over
from state.text import as_json, one_line, shown

_F = TypeVar("_F", bound=Callable[..., Any])

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
)


_WITH_JOBS = frozenset({"run", "pairs"})
"""Commands that wait for jobs."""

_GONE = frozenset({errno.EPIPE, errno.EIO, errno.EBADF})
"""What writing to a pipe that nobody reads, or to a terminal that was closed, fails with."""

_FAULT = 4


class SentenceGroup(click.Group):
    """A command group that ends every expected failure with one sentence on stderr and its exit code.

    A traceback is for faults of ours only; those end with code 4, since 1 is a verdict.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; see the class."""
        try:
            return super().invoke(ctx)
        except VigilError as error:
            _fail(ctx, error.sentence, error.exit_code, error.runbook)
        except KeyboardInterrupt:
            _fail(ctx, _interrupted(ctx.invoked_subcommand), INTERRUPTED)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            if error.errno not in _FULL | _REFUSED:
                _fault(ctx, error)
            place = error.filename or "the disk"
            _fail(ctx, _disk_sentence(str(place), full=error.errno in _FULL), 2)
        except sqlite3.OperationalError as error:
            text = str(error)
            if "full" in text or "readonly" in text or "unable to open" in text:
                _fail(ctx, _disk_sentence("the campaign's store", full="full" in text), 2)
            _fail(ctx, f"The campaign's store cannot be used ({text}); see the backups beside it.", 5)
        except sqlite3.DatabaseError as error:
            _fail(ctx, f"The campaign's store is damaged ({error}); vigil run --restore FILE takes the last backup.", 5)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no verdict
            _fault(ctx, error)


def _interrupted(command: str | None) -> str:
    if command not in _WITH_JOBS:
        return "Interrupted; a campaign that is running goes on."
    return f"Interrupted; a running job goes on under its supervisor, and the same vigil {command} takes it up again."


def _disk_sentence(place: str, *, full: bool) -> str:
    if full:
        return f"{place}: the disk is full; free some space and run the same command again, nothing committed is lost."
    advice = "correct its permissions, or choose another place with --home or VIGIL_HOME."
    return f"{place} cannot be read or written; {advice}"


def _fail(ctx: click.Context, sentence: str, code: int, runbook: str = "") -> None:
    from agent.render import typed
    from agent.render.words import columns, wrapped

    # Commands stand on lines of their own, and those are never wrapped; what is no terminal gets one line for all.
    said, *commands = f"vigil: {sentence}".split("\n") if sys.stderr.isatty() else [f"vigil: {sentence}"]
    for line in wrapped(said, columns()) if sys.stderr.isatty() else [" ".join(said.split())]:
        click.echo(one_line(line), err=True)
    for command in commands:
        click.echo(one_line(command), err=True)

    if there := typed.runbook(runbook):
        click.echo(f"Read {there}.", err=True)
    ctx.exit(code)


def _fault(ctx: click.Context, error: Exception) -> None:
    """Show a fault of ours, by the hook that keeps private words out where there is one."""
    sys.excepthook(type(error), error, error.__traceback__)
    said = "This is a fault of Vigil's own, shown above; what is recorded stays, and the same command may be repeated."
    _fail(ctx, said, _FAULT)


def tell(text: str, *, nl: bool = True) -> None:
    """Print what a campaign says on its way; a terminal or pipe that is gone ends no night.

    Args:
        text: What is printed.
        nl: End the line; without it the text is a terminal's, control sequences and all.

    Side effects: where it is gone, standard output leads nowhere from then on.
    """
    try:
        click.echo(one_line(text) if nl else text, nl=nl)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def home_option(command: _F) -> _F:
    """Add `--home`."""
    return click.option(
        "--home", metavar="FOLDER", help="Folder of all campaigns; VIGIL_HOME or .vigil when left out."
    )(command)


_TOLD = {"R": "hypothesis", "Q": "question", "D": "sentence", "J": "kind", "B": "statement", "C": "will"}
"""First letter of an id -> what a shell shows beside it."""
_MOST_OFFERED = 200


def ids(letters: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Return what offers a shell the campaigns of the home, and the rows of one of them, newest first.

    Args:
        letters: First letters of the ids that are meant.
    """

    def offered(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        from agent.render.places import campaigns_in, find_campaign
        from agent.render.why import TABLES
        from state.reading import open_reader

        home, (named, mark, start) = folder_of(ctx.params.get("home")), typed.rpartition(":")
        # `--run` and its like name a row of the campaign that an argument names.
        is_named = not mark and isinstance(parameter, click.Argument)
        found = [CompletionItem(name) for name in campaigns_in(home) if name.startswith(typed)] if is_named else []
        given = named or next((word for word in ctx.params.values() if word in campaigns_in(home)), None)
        # A shell that waits for its offer is told of no mistake.
        with (
            passed_over("completion.not_read", VigilError),
            open_reader(find_campaign(home, given, is_quiet=True)) as reader,
        ):
            for letter in letters:
                rows = reader.beliefs_about() if letter == "B" else getattr(reader, TABLES[letter])()
                fitting = [row for row in reversed(rows) if row["id"].startswith(start.upper())]
                found += [
                    CompletionItem(f"{named}{mark}{row['id']}", help=one_line(str(row[_TOLD[letter]]))[:60])
                    for row in fitting[:_MOST_OFFERED]
                ]
        return found

    return offered


def campaign_argument(letters: str = "", name: str = "campaign", *, required: bool = False) -> Callable[[_F], _F]:
    """Return what adds an argument for a campaign, or for one of its rows."""
    return click.argument(name, required=required, shell_complete=ids(letters))


def reads(command: _F) -> _F:
    """Add what reading commands take: CAMPAIGN, `--home`, `--json`."""
    with_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    return campaign_argument(_ROWS_OF.get(command.__name__, ""))(home_option(with_json))


_ROWS_OF = {"runs": "R", "cases": "R", "jobs": "JR", "beliefs": "B", "inbox": "Q", "status": "RQDJBC"}
"""Reading command -> which rows it also takes by their ids."""


def say(text: str, *, err: bool = False) -> None:
    """Print a sentence, or several lines."""
    click.echo(shown(text), err=err)


def show(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        click.echo(one_line(line))


def show_json(value: Any) -> None:
    """Print a value as JSON, readable."""
    click.echo(as_json(value, indent=1))


def gathered(paths: Any, **given: Any) -> dict[str, Any]:
    """Return the campaign as gathered; a file beside its record that is damaged is said once the command has shown it.

    What is on record is verified, and shown; the command ends with code 5 all the same.

    Args:
        paths: The campaign's files.
        given: More for `gather`.
    """
    from agent.render.record import gather

    view = gather(paths, **given)
    if view["damaged"]:

        def tell_damage() -> None:
            raise CorruptError(" ".join(view["damaged"]))

        click.get_current_context().call_on_close(tell_damage)
    return view


def folder_of(option: str | None) -> Path:
    """Return the home."""
    from agent.render.places import find_home

    return find_home(option)
