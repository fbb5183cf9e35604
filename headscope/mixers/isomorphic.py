"""Graph-aware attention: attention weights are the edges of a graph, over which a graph isomorphism network runs."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer, State
from headscope.mixers.jacobian import jacobian_matrix
from headscope.mixers.kinds import MatrixKind, RowKind


class IsomorphicSettings(Config):
    """Of graph-aware isomorphic attention.

    Attributes:
        sparse: keep attention as it is and add the network, on edges above ``threshold`` only (Sparse-GIN).
        threshold: what a weight must exceed to be an edge of the sparse graph.
        widening: hidden width of the network over a head's.
    """

    sparse: bool = False
    threshold: float = Field(default=0.2, ge=0, le=1)
    widening: int = Field(default=2, ge=1)


class Isomorphic(RowMixer):
    """``z_i = f((1 + e) v_i + sum_j A_ij v_j)``, ``A = softmax(alpha s)``, f a small network of each head.

    GIN attention (Buehler 2025, arXiv 2501.02393). ``sparse``: ``z = A v + c f((1 + e) v + A' v)`` with
    ``A = softmax(s)`` and ``A' = max(A - threshold, 0)``. f is ``W_out silu(rms(W_in x + b_in)) + b_out``. z is not
    linear in v: M is a Jacobian.

    Attributes:
        self_loop: e of each head.
        sharpening: alpha of each head, or None where sparse.
        share: c of each head where sparse, or None.
    """

    kind: MatrixKind = "jacobian"
    row_kind: RowKind = "positive"
    settings_type: ClassVar[type[Config]] = IsomorphicSettings

    def __init__(self, shape: MixerShape, settings: IsomorphicSettings) -> None:
        super().__init__(shape, settings)
        self.threshold = settings.threshold
        heads, width, hidden = shape.n_heads, shape.d_head, shape.d_head * settings.widening
        self.self_loop = nn.Parameter(torch.zeros(heads))
        self.sharpening = None if settings.sparse else nn.Parameter(torch.ones(heads))
        self.share = nn.Parameter(torch.full((heads,), 0.1)) if settings.sparse else None
        self.W_in = nn.Parameter(torch.randn(heads, width, hidden) * width**-0.5)
        self.b_in = nn.Parameter(torch.zeros(heads, 1, hidden))
        self.gain = nn.Parameter(torch.ones(heads, 1, hidden))
        self.W_out = nn.Parameter(torch.randn(heads, hidden, width) * hidden**-0.5)
        self.b_out = nn.Parameter(torch.zeros(heads, 1, width))

    def mix(self, given: MixerInput) -> Mix:
        """The Jacobian's norms: not to be applied."""
        return Mix(jacobian_matrix(self, given), given.value)

    def operation(self, given: MixerInput) -> Float[Tensor, "B H Q D"]:
        """Attention's weights as edges, then the network."""
        scores = given.scores if self.sharpening is None else given.scores * self.sharpening[:, None, None]
        weights = scores.masked_fill(~given.visible, -torch.inf).softmax(-1)
        own = (1 + self.self_loop[:, None, None]) * given.value[:, :, given.first_row :]
        if self.share is None:
            return self._network(own + weights @ given.value)
        edges = (weights - self.threshold).relu()
        return weights @ given.value + self.share[:, None, None] * self._network(own + edges @ given.value)

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Append the token and compute its row."""
        state = {name: torch.cat([state[name], part], 2) for name, part in (("key", token.key), ("value", token.value))}
        return self.operation(replace(token, key=state["key"], value=state["value"])), state

    def _network(self, x: Float[Tensor, "B H Q D"]) -> Float[Tensor, "B H Q D"]:
        hidden = x @ self.W_in + self.b_in
        hidden = rms_norm(hidden, hidden.shape[-1:], eps=1e-6) * self.gain
        return silu(hidden) @ self.W_out + self.b_out
