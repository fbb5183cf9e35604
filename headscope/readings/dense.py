"""The dense reading: plain sums over a stored pattern. The oracle at small T, and the only path for M that
is not a softmax."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope.kernels import expand_kv
from headscope.readings.interface import blank_pads, real_rows


class DenseReading:
    """Answers from the pattern itself; see `Reading` for the questions."""

    def __init__(
        self,
        pattern: Float[Tensor, "B H T T"],
        value: Float[Tensor, "B G T D"],
        lengths: Int[Tensor, " B"],
    ) -> None:
        """Keep a layer's pattern and values.

        Args:
            pattern: M of every query head.
            value: values of every key/value head.
            lengths: real tokens of each example.
        """
        self.pattern, self.value, self.lengths = pattern.float(), value.float(), lengths

    def cell_mass(self, rows: Int[Tensor, " C"], keys: Int[Tensor, " C"]) -> Float[Tensor, "B H C"]:
        """Mass of given cells."""
        real = real_rows(self.lengths, self.pattern.shape[-1])[:, None, rows]
        return torch.where(real, self.pattern[:, :, rows, keys], torch.nan)

    def row_entropy(self) -> Float[Tensor, "B H T"]:
        """Entropy of each row, in nats."""
        return blank_pads(torch.special.entr(self.pattern).sum(-1), self.lengths)

    def attended_mean(self, numbers: Float[Tensor, "T W"]) -> Float[Tensor, "B H T W"]:
        """Attended mean of per-key numbers."""
        return blank_pads(self.pattern @ numbers.float(), self.lengths)

    def column_mass(self, weights: Float[Tensor, "T W"]) -> Float[Tensor, "B H T W"]:
        """Weighted column sums."""
        real = real_rows(self.lengths, self.pattern.shape[-1])
        return self.pattern.mT @ (weights.float() * real[:, None, :, None])

    def offset_mass(self) -> Float[Tensor, "B H T"]:
        """Mean mass at each offset."""
        size = self.pattern.shape[-1]
        real = real_rows(self.lengths, size)[:, None]
        sums = [(self.pattern.diagonal(-d, 2, 3) * real[..., d:]).sum(-1) for d in range(size)]
        return torch.stack(sums, -1) / self.lengths[:, None, None]

    def top_key(self, rows: Int[Tensor, "B R"]) -> Int[Tensor, "B H R"]:
        """Top-1 key of given rows."""
        index = rows[:, None, :, None].expand(-1, self.pattern.shape[1], -1, self.pattern.shape[-1])
        return self.pattern.gather(2, index).argmax(-1)

    def value_norm(self) -> Float[Tensor, "B H T"]:
        """Norms of the values each query head reads."""
        return blank_pads(expand_kv(self.value, self.pattern.shape[1]).norm(dim=-1), self.lengths)
