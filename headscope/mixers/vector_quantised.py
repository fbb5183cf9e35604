"""Softmax attention to keys out of a codebook, whose state is a sum for each codeword."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind


class QuantisedSettings(Config):
    """Of attention to quantised keys.

    Attributes:
        codewords: in each head's codebook, made small for small models.
    """

    codewords: int = Field(default=16, ge=1)


class VectorQuantised(Mixer):
    """``M_ij = softmax_j(q_i . C_{z_j})``, ``z_j = argmin_s |k_j - C_s|``: every key is its nearest codeword.

    The attention of LongVQ (Liu et al. 2024, 2404.11163) and of Transformer-VQ (Lingle 2023, 2309.16354). All that a
    row needs of its past is how many keys each codeword stands for and the sum of their values. In training, gradients
    pass to the key as if it were the codeword (straight through) and to the codeword; in evaluation they are the true
    ones, which are 0 for keys.

    Attributes:
        codebook: (head, codeword, d_key).
    """

    kind: MatrixKind = "explicit"
    takes_scores: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = QuantisedSettings

    def __init__(self, shape: MixerShape, settings: QuantisedSettings) -> None:
        super().__init__(shape, settings)
        self.codebook = nn.Parameter(torch.randn(shape.n_heads, settings.codewords, shape.d_key))

    def mix(self, given: MixerInput) -> Mix:
        """Softmax of the scores of quantised keys."""
        nearest = self._nearest(given.key)
        heads = torch.arange(self.shape.n_heads, device=nearest.device)[:, None]
        key = self.codebook[heads, nearest]
        if self.training:
            key = key + given.key - given.key.detach()
        scores = given.query @ key.mT * given.scale
        return Mix(scores.masked_fill(~given.visible, -torch.inf).softmax(-1), given.value)

    def start(self, token: MixerInput) -> State:
        """No keys."""
        batch, heads, words = *token.key.shape[:2], self.codebook.shape[1]
        memory = token.key.new_zeros(batch, heads, words, token.value.shape[-1])
        return {"memory": memory, "count": token.key.new_zeros(batch, heads, words)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Add the value to its codeword's sum; weigh codewords by the exponential of their score."""
        chosen = self._nearest(token.key)[..., None] == torch.arange(self.codebook.shape[1], device=token.key.device)
        write = chosen.squeeze(2).to(token.value.dtype)
        memory, count = state["memory"] + write[..., None] * token.value, state["count"] + write
        scores = (token.query @ self.codebook.mT * token.scale).masked_fill(count[:, :, None] == 0, -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        z = weights @ memory / (weights @ count[..., None])
        return z, {"memory": memory, "count": count}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A sum of values and a count for each codeword of each head."""
        return self.shape.n_heads * self.codebook.shape[1] * (self.shape.d_head + 1)

    def _nearest(self, key: Float[Tensor, "B H T E"]) -> Int[Tensor, "B H T"]:
        """Index of each key's nearest codeword; ``|k|^2`` is the same for all."""
        return (self.codebook.square().sum(-1)[:, None] - 2 * key @ self.codebook.mT).argmin(-1)
