"""The command line: each command is thin, and imports what it needs when it runs.

Whatever a user can get wrong ends in one line on stderr and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from ngram_copy.cli import compare, construct, explore, probe, rank, run, stats
from ngram_copy.cli.console import UserError, complain, version

app = typer.Typer(
    name="ngram-copy",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="How many bits can a sequence model carry from its context to its answer? Measures copying and recall "
    "beside the algorithm that copies exactly and the bound that no fixed state can pass.",
    epilog="[bold]Begin with[/bold]  ngram-copy list   ·   ngram-copy show-example copy   ·   "
    "ngram-copy run smoke --out results/smoke",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ngram-copy {version()}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command, name in (
    (run.run, "run"),
    (run.report, "report"),
    (compare.compare, "compare"),
    (rank.rank, "rank"),
    (probe.probe, "probe"),
    (explore.list_all, "list"),
    (explore.show_example, "show-example"),
    (explore.theory, "theory"),
    (stats.stats, "stats"),
):
    app.command(name)(command)
app.add_typer(construct.app, name="construct")


def invoke(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1, 2, 130, or 141 where the reader of a pipe went away.

    Parameters
    ----------
    arguments : sequence of str, optional
        In place of ``sys.argv[1:]``.
    """
    # typer brings its own copy of click or uses the package, by version: its errors are found through its own.
    usage_error: type[Exception] = typer.BadParameter.__mro__[2]
    try:
        code = app(args=arguments, prog_name="ngram-copy", standalone_mode=False)
        sys.stdout.flush()
    except usage_error as error:
        complain(_usage_message(error))
    except UserError as error:
        complain(str(error))
    except (BrokenPipeError, SystemExit):  # typer exits where a pipe is closed
        # What is still buffered goes nowhere, so that Python does not complain of it at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        complain(f"{error.filename or 'the output'}: {error.strerror or error}")
    except (KeyboardInterrupt, typer.Abort):
        return 130
    else:
        return code if isinstance(code, int) else 0
    return 2


def _usage_message(error: Any) -> str:
    """What typer says of an argument, with the value that pydantic leaves out."""
    message: str = error.format_message()
    if isinstance(error.__cause__, ValidationError):
        value = error.__cause__.errors()[0]["input"]
        message = message.replace("Input should", f"{value} must")
    return message
