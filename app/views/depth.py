"""In which layers the heads of a class stand, by relative depth, so that models of different depth can be compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.views.comparison import members
from app.views.table import Column, Table
from headscope.heads import HeadScores


@dataclass(frozen=True)
class DepthShare:
    """One layer of one run.

    Attributes:
        layer: layer.
        depth: ``layer / n_layers``, 0 to below 1.
        count: heads of the class in it.
        n: heads of the layer that have a value.
    """

    layer: int
    depth: float
    count: int
    n: int

    @property
    def share(self) -> float:
        """``count / n``; NaN where no head has a value."""
        return self.count / self.n if self.n else float("nan")


def depth_shares(scores: HeadScores) -> list[DepthShare]:
    """How many heads of each layer are in the class, by relative depth."""
    inside = members(scores)
    valued = np.isfinite(scores.values).sum(1)
    return [
        DepthShare(layer, layer / scores.n_layers, sum(head.layer == layer for head in inside), int(valued[layer]))
        for layer in range(scores.n_layers)
    ]


def depth_table(runs: dict[str, HeadScores]) -> Table:
    """A row per run and layer."""
    columns = (
        Column("run", "run"),
        Column("layer", "layer"),
        Column("depth", "relative depth", 3, "layer / number of layers"),
        Column("count", "heads of the class"),
        Column("n", "heads with a value"),
        Column("share", "share", 3),
    )
    rows = tuple(
        (name, row.layer, row.depth, row.count, row.n, row.share)
        for name, scores in runs.items()
        for row in depth_shares(scores)
    )
    return Table("Heads of the class by relative depth", columns, rows)
