"""The words for mixing matrices; no torch, so that pages can read them."""

from __future__ import annotations

from typing import Literal

MatrixKind = Literal["explicit", "linear", "recurrent", "per_channel", "static", "jacobian"]
"""How M comes about.

``explicit``: weights are written down, from scores. ``linear``: a dot product of features of query and key.
``recurrent``: the closed form of a linear recurrence. ``per_channel``: one such matrix for every channel of a head.
``static``: the same for every input. ``jacobian``: the head is not linear in its values; M is the norm of each block of
the Jacobian ``dz_i / dv_j``, which says how much j moves i and cannot be applied or edited.
"""

RowKind = Literal["stochastic", "substochastic", "positive", "signed"]
"""What a row of M is like: weights that sum to 1, to at most 1, to anything, or of either sign."""

ColumnKind = Literal["null", "memory", "landmark", "summary", "past"]
"""What a column that is no token is: a null sink, a learned memory, a landmark, a pooled block, an earlier segment."""

Training = Literal["trained", "training-free", "distilled"]
"""What a variant needs: weights trained with it, none, or weights fitted to a trained softmax model."""

Family = Literal[
    "softmax and its normalisers",
    "sparse by content",
    "local and windowed",
    "linear, low-rank and kernel",
    "recurrent and state-space",
    "memory and segments",
    "head mixing",
    "sharing of keys and values",
    "positions",
    "convolution, Fourier, pooling",
    "cache policies",
    "temperature and calibration",
]
"""The families of the registry."""
