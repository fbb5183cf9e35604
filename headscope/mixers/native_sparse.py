"""Three attentions under one gate: compressed blocks, chosen blocks, a window."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from headscope.config import Config
from headscope.mixers.block_choice import block_scores, by_token, in_blocks, open_blocks
from headscope.mixers.interface import Mix, MixerInput, MixerShape
from headscope.mixers.kinds import RowKind
from headscope.mixers.selection import RowGatedMixer, masked_softmax


class NativeSparseSettings(Config):
    """Of native sparse attention; sizes are small by default, for small models.

    Attributes:
        size: tokens of a block, of compression and of choice.
        blocks: blocks that a row chooses, its own, the one before it and the first included.
        window: most recent tokens that it sees besides, itself included.
    """

    size: int = Field(default=4, ge=1)
    blocks: int = Field(default=4, ge=3)
    window: int = Field(default=8, ge=1)


class NativeSparse(RowGatedMixer):
    """``M = sum_c g_c M_c``: compressed blocks, chosen ones and a window (NSA: Yuan et al. 2025, 2502.11089).

    A compressed block has the key ``sum_t a_t k_t`` and the value ``sum_t b_t v_t``, a and b being learned weights of
    the places in a block (softmax; the paper has an MLP, which is not linear in values). A row sees the compressed
    blocks that are complete. The blocks with the largest weight there are read token by token; its own, the one before
    it and the first always are. Each head has three sigmoid gates, read off the stream.

    Attributes:
        gate: (d_model, head, 3), and its bias.
        place_key: logits of a, (head, place).
        place_value: logits of b, (head, place).
    """

    row_kind: RowKind = "positive"
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("branch_gate",)
    row_gates: ClassVar[tuple[str, ...]] = ("branch_gate",)
    settings_type: ClassVar[type[Config]] = NativeSparseSettings

    def __init__(self, shape: MixerShape, settings: NativeSparseSettings) -> None:
        super().__init__(shape, settings)
        self.size, self.blocks, self.window = settings.size, settings.blocks, settings.window
        self.gate = nn.Parameter(torch.randn(shape.d_model, shape.n_heads, 3) * shape.d_model**-0.5)
        self.gate_bias = nn.Parameter(torch.zeros(shape.n_heads, 3))
        self.place_key = nn.Parameter(torch.zeros(shape.n_heads, settings.size))
        self.place_value = nn.Parameter(torch.zeros(shape.n_heads, settings.size))

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """How much of compressed blocks, chosen blocks and window: (B, H, T, 3)."""
        logits = torch.einsum("btm,mhc->bhtc", stream, self.gate) + self.gate_bias[:, None]
        return {"branch_gate": logits.sigmoid()}

    def mix(self, given: MixerInput) -> Mix:
        """The three matrices, weighted."""
        scores, gate = given.scores, self.row_gate(given, "branch_gate")
        weights = self._compressed(given)
        chosen = self._chosen(given, weights)
        near = (given.visible & (given.offsets < self.window)).expand_as(chosen)
        places = self.place_value.softmax(-1).tile(weights.shape[-1])[:, None]  # b of every token of the blocks
        values = by_token(weights, self.size, scores.shape[-1])
        values = values * pad(places, (0, scores.shape[-1] - places.shape[-1]))
        parts = torch.stack([values, masked_softmax(scores, chosen), masked_softmax(scores, near)], -1)
        return Mix((parts * gate[..., None, :]).sum(-1), given.value, choice=chosen)

    def _compressed(self, given: MixerInput) -> Float[Tensor, "B H Q R"]:
        """Weights of the compressed blocks."""
        places = self.place_key.softmax(-1)
        keys = torch.einsum("bhrse,hs->bhre", in_blocks(given.key, self.size), places)
        ends = torch.arange(1, keys.shape[2] + 1, device=keys.device) * self.size - 1
        scores = block_scores(given, keys, self.size)
        return masked_softmax(scores, (ends <= given.rows[:, None]).expand_as(scores))

    def _chosen(self, given: MixerInput, weights: Float[Tensor, "B H Q R"]) -> Bool[Tensor, "B H Q K"]:
        """Tokens of the chosen blocks."""
        number = torch.arange(weights.shape[-1], device=weights.device)
        always = (number == 0) | (number == (given.rows // self.size)[:, None] - 1)
        return open_blocks(given, self.size, weights.masked_fill(always, torch.inf), self.blocks - 1)
