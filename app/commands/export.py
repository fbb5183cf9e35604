"""`headscope export`: the rows of a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from app.commands.options import DEFAULT_ROOT, RootOption, RunArgument


def export(
    run: RunArgument,
    format: Annotated[Literal["csv", "json", "parquet"], typer.Option("--format", "-f", help="Format.")] = "csv",
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="FILE", help="File to write; - is standard output (csv, json)."),
    ] = "-",
    root: RootOption = DEFAULT_ROOT,
) -> None:
    """Export every score of every head, with its interval.

    With a file, definitions and provenance go next to it as FILE.meta.json; JSON holds them itself.
    """
    from app.views.export import meta_json, to_csv, to_json, to_parquet
    from app.views.tables import incomplete_banner
    from headscope.errors import ConfigError
    from headscope.runs.files import write_file
    from headscope.runs.index import find_run
    from headscope.runs.reading import Run

    if format == "parquet" and out == "-":
        raise ConfigError("parquet is not text and cannot go to standard output: name a file with --out.")
    opened = Run.open(find_run(root, run))
    if banner := incomplete_banner(opened):
        typer.echo(banner, err=True)
    content = {"csv": to_csv, "json": to_json, "parquet": to_parquet}[format](opened)
    if out == "-":
        typer.echo(content, nl=False)
        return
    write_file(Path(out), content.encode() if isinstance(content, str) else content)
    if format != "json":
        write_file(Path(f"{out}.meta.json"), meta_json(opened).encode())
    typer.echo(out)
