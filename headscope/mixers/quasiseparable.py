"""Hydra: a state space that reads both ways, and a diagonal of its own."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from headscope.config import Config
from headscope.errors import ConfigError
from headscope.mixers.decay import decayed_products
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape
from headscope.mixers.kinds import MatrixKind, RowKind


class Quasiseparable(Mixer):
    """M is ``c_i . b_j exp(-A sum_{j < t <= i} dt_t) dt_j`` below the diagonal, its mirror above, and d_i on it.

    Hydra (Hwang et al. 2024, 2407.09941, section 3): a Mamba-2 state space in each direction, each with steps dt and a
    rate A of its own. Queries c and keys b of the first half of the key's channels read backward in time, those of the
    second half forward. ``d_i = D + w . x_i``.

    Attributes:
        log_rate: log A, (head, direction).
        skip: D, (head,).
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    decodes: ClassVar[bool] = False
    causal: bool = False
    gate_names: ClassVar[tuple[str, ...]] = ("step", "own")

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        if shape.d_key % 2:
            raise ConfigError(f"the mixer 'quasiseparable' halves its keys: d_key {shape.d_key} must be even.")
        self.time, self.diagonal = HeadLinear(shape, 2, bias=-2.0), HeadLinear(shape)
        self.log_rate = nn.Parameter(torch.linspace(0.0, 1.0, shape.n_heads)[:, None].repeat(1, 2))
        self.skip = nn.Parameter(torch.ones(shape.n_heads))

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Steps of both directions, (B, H, T, 2); the diagonal, (B, H, T)."""
        own = self.diagonal.scalar(stream) + self.skip[:, None]
        return {"step": softplus(self.time(stream)), "own": own}

    def mix(self, given: MixerInput) -> Mix:
        """Below the diagonal, above it, on it."""
        before, after = (part.chunk(2, -1) for part in (given.query * given.scale, given.key))
        step, rate = given.gates["step"], self.log_rate.exp()
        below = _products(before[0], after[0], step[..., 0], rate[:, 0])
        above = _products(before[1].flip(2), after[1].flip(2), step[..., 1].flip(2), rate[:, 1]).flip((-2, -1))
        return Mix(below.tril(-1) + above.triu(1) + torch.diag_embed(given.gates["own"]), given.value)

    def state_size(self, length: int) -> int:
        """The whole text: keys, queries, values and gates."""
        return length * self.shape.n_heads * (2 * self.shape.d_key + self.shape.d_head + 3)


def _products(query: Tensor, key: Tensor, step: Tensor, rate: Tensor) -> Float[Tensor, "B H T T"]:
    return decayed_products(query, key * step[..., None], -rate[:, None] * step)
