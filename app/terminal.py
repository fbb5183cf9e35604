"""Printing: tables and lines, with nothing in them that a terminal would obey."""

from __future__ import annotations

import io
import os
import sys

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.plain_text import clean
from app.views.tables import TextTable

_WIDTH_OF_A_PIPE = 160


def print_line(text: str, *, style: str = "") -> None:
    """Print one line to standard output; ``text`` is taken literally."""
    _console().print(Text(clean(text), style=style), soft_wrap=True)


def print_tables(tables: list[TextTable]) -> None:
    """Print tables below each other; all text is taken literally."""
    for table in tables:
        print_line(table.title, style="bold")
        _console().print(_drawn(table))
        if table.note:
            print_line(table.note, style="italic")
        print_line("")


def _console() -> Console:
    """A console on standard output as it is now; wide where nobody's window limits it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    free = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(highlight=False, width=_WIDTH_OF_A_PIPE if free else None)


def _drawn(table: TextTable) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in table.columns:
        drawn.add_column(Text(name), justify="right" if name in table.numbers else "left", overflow="fold")
    for row in table.rows:
        drawn.add_row(*(Text(clean(cell)) for cell in row))
    return drawn
