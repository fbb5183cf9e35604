"""Galerkin and Fourier-type attention: linear attention without softmax, held in scale by layer normalisation."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind


class GalerkinSettings(Config):
    """Of Galerkin-type attention.

    Attributes:
        normed: what is normalised: ``query_key``: the Fourier type; ``key_value``: the Galerkin type; ``key``: the
            latter without the norm of the values, so that it is linear in them.
    """

    normed: Literal["query_key", "key_value", "key"] = "query_key"


class Galerkin(Mixer):
    """``z_i = sum_j (q_i . k_j) v_j / n`` over n tokens, with layer normalisation of two of the three.

    Cao 2021 (2105.14995). Fourier type: ``M_ij = LN(q_i) . LN(k_j) / n``. Galerkin type: LN of keys and values,
    which is not linear in the values. Each head has its own gain and offset. Causal rows divide by the number
    of tokens they see.

    Attributes:
        gains: of the normalised ones in order, (head, 1, width) each.
        offsets: the same.
    """

    kind: MatrixKind = "linear"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = GalerkinSettings

    def __init__(self, shape: MixerShape, settings: GalerkinSettings) -> None:
        super().__init__(shape, settings)
        if settings.normed == "key_value":
            self.kind, self.row_kind = "jacobian", "positive"
        self.normed = tuple(settings.normed.split("_"))
        widths = {"query": shape.d_key, "key": shape.d_key, "value": shape.d_head}
        self.gains = nn.ParameterDict({name: torch.ones(shape.n_heads, 1, widths[name]) for name in self.normed})
        self.offsets = nn.ParameterDict({name: torch.zeros(shape.n_heads, 1, widths[name]) for name in self.normed})

    def mix(self, given: MixerInput) -> Mix:
        """Mean products. The values of the Galerkin type are normalised here."""
        products = self._norm("query", given.query) @ self._norm("key", given.key).mT * given.visible
        count = given.visible.sum(-1, keepdim=True).to(products.dtype)
        return Mix(products / count, self._norm("value", given.value))

    def start(self, token: MixerInput) -> State:
        """Empty sums."""
        batch, heads, _, width = token.key.shape
        memory = token.key.new_zeros(batch, heads, width, token.value.shape[-1])
        return {"memory": memory, "count": token.key.new_zeros(batch, 1)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """``S <- S + k v^T``; ``z = q S / n``."""
        memory = state["memory"] + self._norm("key", token.key).mT @ self._norm("value", token.value)
        count = state["count"] + 1
        z = self._norm("query", token.query) @ memory / count[..., None, None]
        return z, {"memory": memory, "count": count}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A matrix for each head, and the number of tokens."""
        return self.shape.n_heads * self.shape.d_key * self.shape.d_head + 1  # gains differ by head

    def _norm(self, name: str, x: Tensor) -> Tensor:
        if name not in self.normed:
            return x
        return layer_norm(x, x.shape[-1:]) * self.gains[name] + self.offsets[name]
