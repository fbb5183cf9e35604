"""What is predicted next, clean and ablated, at any temperature: from all logits, not from the likeliest few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from app.live.results import LabResult
from app.views.lab import LabView
from app.views.table import Column, Table


@dataclass(frozen=True)
class NextToken:
    """One token of the vocabulary as a prediction; the fields of the ablated run are NaN or 0 where there is none.

    Attributes:
        id: token id.
        text: its text.
        rank: place in the untouched model's prediction, from 1.
        p: probability there, at the temperature.
        logit: logit there.
        rank_ablated: place in the ablated prediction, from 1; 0 without one.
        p_ablated: probability there.
        logit_ablated: logit there.
    """

    id: int
    text: str
    rank: int
    p: float
    logit: float
    rank_ablated: int
    p_ablated: float
    logit_ablated: float

    @property
    def change(self) -> float:
        """Ablated minus untouched probability."""
        return self.p_ablated - self.p


def probabilities(logits: Float[np.ndarray, " d_vocab"], temperature: float) -> Float[np.ndarray, " d_vocab"]:
    """``softmax(logits / temperature)`` in float64."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max())
    return powers / powers.sum()


def next_tokens(result: LabResult, temperature: float = 1.0) -> tuple[NextToken, ...]:
    """The union of both runs' 50 likeliest tokens, the untouched model's likeliest first.

    Args:
        result: the answer.
        temperature: what the logits are divided by; it changes no rank.
    """
    ids = [token.id for token in result.tokens]
    clean = _columns(result.clean.logits, ids, temperature)
    nothing = [(0, float("nan"), float("nan"))] * len(ids)
    ablated = nothing if result.ablated is None else _columns(result.ablated.logits, ids, temperature)
    made = [
        NextToken(token.id, token.text, *one, *other)
        for token, one, other in zip(result.tokens, clean, ablated, strict=True)
    ]
    return tuple(sorted(made, key=lambda token: token.rank))


def _columns(
    logits: Float[np.ndarray, " d_vocab"], ids: list[int], temperature: float
) -> list[tuple[int, float, float]]:
    """Rank, probability and logit of each token."""
    p = probabilities(logits, temperature)
    place = np.empty(len(logits), dtype=np.int64)
    place[np.argsort(-logits, kind="stable")] = np.arange(1, len(logits) + 1)
    return [(int(place[token]), float(p[token]), float(logits[token])) for token in ids]


def _table_columns(changed: str) -> tuple[Column, ...]:
    return (
        Column("id", "Id"),
        Column("token", "Token"),
        Column("rank_clean", "Rank"),
        Column("p_clean", "p", 4, "probability at the temperature, untouched model"),
        Column("logit_clean", "Logit", 3),
        Column("rank_ablated", f"Rank, {changed}"),
        Column("p_ablated", f"p, {changed}", 4, f"probability at the temperature, {changed}"),
        Column("logit_ablated", f"Logit, {changed}", 3),
        Column("change", "Change of p", 4, f"{changed} minus untouched"),
    )


def next_token_table(view: LabView, temperature: float) -> Table:
    """A row per token of `next_tokens`."""
    rows = tuple(
        (one.id, one.text, one.rank, one.p, one.logit, one.rank_ablated or None, one.p_ablated, one.logit_ablated,
         one.change)
        for one in next_tokens(view.result, temperature)
    )  # fmt: skip
    return Table("Next tokens", _table_columns(view.changed), rows, {**view.meta, "temperature": temperature})
