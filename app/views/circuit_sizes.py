"""How large the circuits of a method are: the sizes that were measured, and the one where a page opens."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from app.views.circuit import CircuitRun
from circuits.evaluation import FRACTIONS
from circuits.evaluation.agreement import Ranking
from circuits.evaluation.truth import Unit

_ENOUGH, _SMALL, _FEW_EDGES = 0.8, 0.5, 500


def sizes_of(
    found: CircuitRun, method: str, unit: Unit, ranking: Ranking
) -> tuple[Float[np.ndarray, " point"], list[int]]:
    """Shares of the slider's points and parts kept at each: those that the run measured, else those it will."""
    shown = found.curve(method, unit, ranking)
    if shown is not None:
        return shown.curve.shares, [int(size) for size in shown.curve.kept]
    graph = found.scores(method).graph
    parts = graph.n_edges if unit == "edge" else graph.n_layers * graph.n_heads
    return np.array(FRACTIONS), [int(share * parts) for share in FRACTIONS]


def stops_of(found: CircuitRun, method: str, unit: Unit, ranking: Ranking) -> list[int]:
    """Points of the slider: those whose circuit, after pruning, is neither empty nor that of the point before."""
    left = _left(found, method, unit, ranking)
    stops = [place for place, size in enumerate(left) if size > max(left[:place], default=0)]
    return stops or [len(left) - 1]


def step_of(found: CircuitRun, method: str, unit: Unit, ranking: Ranking, wanted: int) -> int:
    """The point of the slider: the stop nearest to the one wanted (-1: none), else where the page opens.

    That is the smallest circuit that keeps `_ENOUGH` of the effect with at most half of the parts; where there is
    none, the largest such of at most `_FEW_EDGES` edges, or the one of a tenth of the heads.
    """
    shares, _ = sizes_of(found, method, unit, ranking)
    stops = stops_of(found, method, unit, ranking)
    if wanted >= 0:
        return min(stops, key=lambda stop: abs(stop - wanted))
    shown = found.curve(method, unit, ranking)
    values = np.full(len(shares), np.nan) if shown is None else shown.curve.faithfulness
    enough = [stop for stop in stops if values[stop] >= _ENOUGH and shares[stop] <= _SMALL]
    if enough:
        return enough[0]
    if unit == "edge":
        left = _left(found, method, unit, ranking)
        few = [stop for stop in stops if left[stop] <= _FEW_EDGES and shares[stop] <= _SMALL]
        return few[-1] if few else stops[0]
    return min(stops, key=lambda stop: abs(shares[stop] - 0.1))


def _left(found: CircuitRun, method: str, unit: Unit, ranking: Ranking) -> list[int]:
    """Parts of each measured circuit after pruning; before it, where no curve is in."""
    shown = found.curve(method, unit, ranking)
    if shown is None:
        return sizes_of(found, method, unit, ranking)[1]
    return [int(size) for size in shown.curve.connected]
