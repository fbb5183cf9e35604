"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_ROOT = Path("runs")

RootOption = Annotated[Path, typer.Option("--root", help="Folder that holds the runs.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run: its id, the start of it, its folder, or 'latest'.")
]
