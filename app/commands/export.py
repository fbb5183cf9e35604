"""`headscope export`: the rows of a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.commands.options import DEFAULT_ROOT, RootOption, RunArgument

if TYPE_CHECKING:
    from app.views.table import Table
    from headscope.runs.reading import Run


def export(
    run: RunArgument,
    format: Annotated[Literal["csv", "json", "parquet"], typer.Option("--format", "-f", help="Format.")] = "csv",
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="FILE", help="File to write; - is standard output (csv, json)."),
    ] = "-",
    what: Annotated[
        Literal[
            "heads", "arms", "cells", "rates", "curves", "measures", "profiles", "claims", "census", "models", "lengths"
        ]
        | None,
        typer.Option(
            help="heads: every score of every head; arms: a row per arm and task or data set of a policies or "
            "calibrate run (default: arms where a run has them); of a train run cells (a row per training; default), "
            "rates, curves, measures (of the task), profiles; of a compare run claims (default), census, profiles, "
            "models, lengths.",
            metavar="ROWS",
            show_default=False,
        ),
    ] = None,
    root: RootOption = DEFAULT_ROOT,
) -> None:
    """Export every score of every head with its interval, or the rows of another kind of run.

    With a file, definitions and provenance go next to it as FILE.meta.json; JSON holds them itself.
    """
    from app.views import arm_export, variant_export
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
    table = None if wanted == "heads" else _table(opened, wanted)
    content = _heads(opened, format) if table is None else _rows(opened, table, wanted, format)
    if out == "-":
        typer.echo(content, nl=False)
        return
    write_file(Path(out), content.encode() if isinstance(content, str) else content)
    if format != "json":
        write_file(Path(f"{out}.meta.json"), _meaning(opened, table, wanted).encode())
    typer.echo(out)


def _table(run: Run, wanted: str) -> Table:
    from app.views import arm_export, variant_export

    return arm_export.arms_of(run) if wanted == "arms" else variant_export.rows_of(run, wanted)


def _heads(run: Run, format: str) -> str | bytes:
    """Every score of every head as a file's content."""
    from app.views import export

    writers = {"csv": export.to_csv, "json": export.to_json, "parquet": export.to_parquet}
    return writers[format](run)


def _rows(run: Run, table: Table, wanted: str, format: str) -> str | bytes:
    """The rows of another kind as a file's content."""
    from app.views import table_export
    from app.views.table import table_csv

    if format == "json":
        return table_export.rows_json(run, table, wanted)
    return table_csv(table) if format == "csv" else table_export.rows_parquet(table)


def _meaning(run: Run, table: Table | None, wanted: str) -> str:
    """What the rows mean, as JSON; without a table those of heads."""
    from app.views import export, table_export

    return export.meta_json(run) if table is None else table_export.rows_meta_json(run, table, wanted)
