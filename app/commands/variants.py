"""`headscope variants`: the attention variants that a small decoder can be built with."""

from __future__ import annotations

from typing import Annotated

import typer


def variants(
    name: Annotated[str | None, typer.Argument(help="Show this one in full.", show_default=False)] = None,
    family: Annotated[str | None, typer.Option(help="Only this family; part of its name is enough.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print plain data.")] = False,
) -> None:
    """List the attention variants, or show one of them."""
    import json

    from app.terminal import print_tables
    from app.views.variants import chosen_variants, variant_card, variant_list, variant_rows
    from headscope.mixers.registry import variant

    entries = chosen_variants(family) if name is None else [variant(name)]
    if as_json:
        typer.echo(json.dumps(variant_rows(entries), indent=2))
    else:
        print_tables([variant_list(entries) if name is None else variant_card(entries[0])])
