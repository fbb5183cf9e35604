"""`headscope report`: a run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.commands.options import DEFAULT_ROOT, RootOption, RunArgument

REPORT = "report.html"


def report(
    run: RunArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="File to write; else report.html in the run folder."),
    ] = None,
    root: RootOption = DEFAULT_ROOT,
) -> None:
    """Write the report of a run: one HTML file that opens offline."""
    from app.report.build import write_report
    from app.views.tables import incomplete_banner
    from headscope.runs.index import find_run
    from headscope.runs.reading import Run

    opened = Run.open(find_run(root, run))
    if banner := incomplete_banner(opened):
        typer.echo(banner, err=True)
    typer.echo(write_report(opened, out or opened.path / REPORT))
