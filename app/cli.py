"""The command line: its commands, and the one place where errors become lines and exit codes.

Only what ``--help`` needs is imported here; each command imports the rest when it runs.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from app.commands.calibrate import calibrate
from app.commands.circuit import circuit
from app.commands.circuit_bench import circuit_bench
from app.commands.compare import compare
from app.commands.export import export
from app.commands.inspect import inspect
from app.commands.lab import lab
from app.commands.models import models
from app.commands.policies import policies
from app.commands.report import report
from app.commands.runs import runs
from app.commands.score import score
from app.commands.serve import serve
from app.commands.show import show
from app.commands.train import train
from app.commands.variants import variants
from app.plain_text import clean
from headscope import __version__
from headscope.errors import HeadscopeError

BAD_INPUT = 2
INTERRUPTED = 130


class Commands(TyperGroup):
    """All commands, and what becomes of their errors.

    What a user can cause ends in one line on standard error and exit code 2, Ctrl-C in a line and 130.
    Anything else is a bug and keeps its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; our errors and Ctrl-C become a line."""
        try:
            return super().invoke(ctx)
        except HeadscopeError as error:
            _say("error", str(error), *_notes(error))
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt as error:
            _say("stopped", "interrupted.", *_notes(error))
            raise typer.Exit(INTERRUPTED) from None

    def main(self, *args: Any, **extra: Any) -> Any:
        """Parse and run; commands, options and values that do not exist become a line."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False})
        except Exception as error:
            explain = getattr(error, "format_message", None)  # typer's usage errors have no public class
            if explain is None:
                raise
            _say("error", _sentence(explain()), _where_help_is(error))
            sys.exit(BAD_INPUT)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="headscope",
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    help="Score every attention head of a language model, and test the scores by ablation.",
)
_MAKE_RUNS = (score, inspect, circuit, circuit_bench, calibrate, policies, train, compare, lab)
for command in (*_MAKE_RUNS, show, report, export, runs, models, variants, serve):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headscope {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has printed it
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options of the program itself; without a command it prints its help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Entry point of the console script ``headscope``.

    Threads of torch that wait for each other sleep instead of spinning: on two cores of which one is busy elsewhere, a
    forward pass was seen to take ten times as long with spinning. It must be set before torch is loaded.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(prog_name="headscope")
    finally:  # all is written: a second Ctrl-C may cut the second that torch takes to go away, without a traceback
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _say(kind: str, *parts: str) -> None:
    """One line on standard error, without characters that a terminal would obey."""
    typer.echo(f"{kind}: {clean(' '.join(parts))}", err=True)


def _notes(error: BaseException) -> list[str]:
    """What a run that was open when the error passed has to say: how to resume it."""
    return list(getattr(error, "__notes__", []))


def _sentence(text: str) -> str:
    """Typer ends some of its messages with a full stop, and some not."""
    return text if text.endswith((".", "?")) else f"{text}."


def _where_help_is(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"See: {context.command_path} --help" if context is not None else ""
