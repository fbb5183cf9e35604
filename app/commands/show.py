"""`headscope show`: a run in the terminal."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from app.commands.options import DEFAULT_ROOT, RootOption, RunArgument


def show(
    run: RunArgument,
    probe: Annotated[
        str | None,
        typer.Option("--probe", "-p", metavar="NAME", help="One score, or all scores of one probe."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Heads per table: 10 with --probe, else 5.", show_default=False)
    ] = None,
    by: Annotated[
        Literal["head", "kv"], typer.Option(help="Query heads, or key/value groups by their strongest head.")
    ] = "head",
    root: RootOption = DEFAULT_ROOT,
) -> None:
    """Show the strongest heads of a run, with intervals, and what ablating them did.

    Of circuit, policies, calibrate, train and compare runs the scoreboard, of lab runs what the change did.
    """
    from app.terminal import print_line, print_tables
    from app.views.boards import board_tables
    from app.views.tables import check_tables, class_tables, incomplete_banner, named_tables
    from headscope.runs.index import find_run
    from headscope.runs.reading import Run

    opened = Run.open(find_run(root, run))
    tables = (
        named_tables(opened, probe, top=top or 10, by=by)
        if probe
        else [*board_tables(opened), *class_tables(opened, top=top or 5, by=by), *check_tables(opened)]
    )
    model = opened.manifest.model
    print_line(f"{opened.manifest.id}: {model.name}, {model.n_layers} layers of {model.n_heads} heads", style="bold")
    banner = incomplete_banner(opened)
    print_line(banner, style="bold red")
    print_tables(tables)
    if banner:
        print_line(banner, style="bold red")  # again: the tables may have scrolled the first one away
