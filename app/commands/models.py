"""`headscope models`: what can be loaded, and what a model was seen to support."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    card: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Load this model and print its capability card.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
) -> None:
    """List the models that can be loaded by name."""
    from app.terminal import print_tables
    from app.views.tables import TextTable, card_table
    from headscope.models import catalog, load

    if card is not None:
        print_tables([card_table(load(card, device=device).card)])
        return
    rows = tuple((entry.name, entry.description) for entry in catalog())
    print_tables([TextTable("Models", ("name", "loads"), rows, frozenset())])
