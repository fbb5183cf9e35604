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
    what: Annotated[
        Literal["heads", "arms", "cells", "rates", "curves", "profiles", "claims", "models", "lengths"] | None,
        typer.Option(
            help="heads: every score of every head; arms: a row per arm and task or data set of a policies or "
            "calibrate run (default: arms where a run has them); of a train run cells (a row per training; default), "
            "rates, curves, profiles; of a compare run claims (default), profiles, models, lengths.",
            metavar="ROWS",
            show_default=False,
        ),
    ] = None,
    root: RootOption = DEFAULT_ROOT,
) -> None:
    """Export every score of every head with its interval, or the rows of another kind of run.

    With a file, definitions and provenance go next to it as FILE.meta.json; JSON holds them itself.
    """
    from app.views import arm_export, table_export, variant_export
    from app.views import export as head_export
    from app.views.table import table_csv
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
    wanted = what or variant_export.first_rows(opened) or ("arms" if arm_export.has_arms(opened) else "heads")
    if wanted == "heads":
        writers = {"csv": head_export.to_csv, "json": head_export.to_json, "parquet": head_export.to_parquet}
        content = writers[format](opened)
        meaning = head_export.meta_json
    else:
        table = arm_export.arms_of(opened) if wanted == "arms" else variant_export.rows_of(opened, wanted)
        if format == "json":
            content = table_export.rows_json(opened, table, wanted)
        else:
            content = table_csv(table) if format == "csv" else table_export.rows_parquet(table)

        def meaning(run: Run) -> str:
            return table_export.rows_meta_json(run, table, wanted)

    if out == "-":
        typer.echo(content, nl=False)
        return
    write_file(Path(out), content.encode() if isinstance(content, str) else content)
    if format != "json":
        write_file(Path(f"{out}.meta.json"), meaning(opened).encode())
    typer.echo(out)
