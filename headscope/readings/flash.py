"""The flash reading: the same answers from q and k, without the T x T matrix.

Everything asked is linear in M, and flash attention computes linear functions of M exactly:
a cell is ``exp(scale q_i . k_j - lse_i)``; an attended mean is the forward pass with numbers as values; the
entropy is ``lse_i - scale q_i . (M K)_i``, a forward pass with the keys as values; a column sum is the gradient
of the values. Memory is O(T * d_head) per head, or O(chunk * T) where rows are asked for.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headscope import kernels
from headscope.attention import AttentionCall
from headscope.errors import UnsupportedError
from headscope.readings.interface import blank_pads, real_rows

_CELL_CHUNK = 4096
_ROW_CHUNK = 128


class FlashReading:
    """Answers from queries and keys; see `Reading` for the questions."""

    def __init__(self, call: AttentionCall, lengths: Int[Tensor, " B"]) -> None:
        """Read one call of the attention seam, in float32.

        Raises:
            UnsupportedError: for a sliding window shorter than the text, capped logits, or a policy that attends.
        """
        if call.window is not None or call.softcap is not None:
            what = f"a sliding window of {call.window}" if call.window else f"logits capped at {call.softcap}"
            raise UnsupportedError(
                f"layer {call.layer} attends with {what}, which the flash reading does not compute. "
                "Use the dense reading (--set method=dense), or shorter texts."
            )
        self.query, self.key, self.value = call.query.float(), call.key.float(), call.value.float()
        self.scale, self.lengths = call.scale, lengths
        given = call.row_lse
        self.lse = given if call.query.dtype == torch.float32 else self._forward(self.value)[1]

    def _forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        decoding = self.query.shape[2] < self.key.shape[2]
        attend = kernels.chunked_attention if decoding else kernels.flash_attention
        return attend(self.query, self.key, values, self.scale)

    def _mix(self, numbers: Float[Tensor, "T W"]) -> Float[Tensor, "B H T W"]:
        """``M @ numbers``, d_head columns at a time, since the operator wants that width."""
        batch, width = self.query.shape[0], self.query.shape[-1]
        parts: list[Tensor] = []
        for columns in numbers.float().split(width, dim=-1):
            padded = torch.nn.functional.pad(columns, (0, width - columns.shape[-1]))
            values = padded[None, None].expand(batch, self.key.shape[1], -1, -1)
            parts.append(self._forward(values)[0][..., : columns.shape[-1]])
        return torch.cat(parts, -1)

    def cell_mass(self, rows: Int[Tensor, " C"], keys: Int[Tensor, " C"]) -> Float[Tensor, "B H C"]:
        """Mass of given cells, O(cells * d_head)."""
        parts: list[Tensor] = []
        for i, j in zip(rows.split(_CELL_CHUNK), keys.split(_CELL_CHUNK), strict=True):
            key = kernels.expand_kv(self.key[:, :, j], self.query.shape[1])
            logits = (self.query[:, :, i] * key).sum(-1) * self.scale
            parts.append(torch.exp(logits - self.lse[:, :, i]).masked_fill(j > i, 0.0))
        real = real_rows(self.lengths, self.query.shape[2])[:, None, rows]
        return torch.where(real, torch.cat(parts, -1), torch.nan)

    def row_entropy(self) -> Float[Tensor, "B H T"]:
        """Entropy of each row, in nats: one forward pass with the keys as values."""
        mean_key = self._forward(self.key)[0]
        mean_logit = (self.query * mean_key).sum(-1) * self.scale
        return blank_pads((self.lse - mean_logit).clamp_min(0.0), self.lengths)

    def attended_mean(self, numbers: Float[Tensor, "T W"]) -> Float[Tensor, "B H T W"]:
        """Attended mean of per-key numbers: one forward pass per d_head of them."""
        return blank_pads(self._mix(numbers), self.lengths)

    def column_mass(self, weights: Float[Tensor, "T W"]) -> Float[Tensor, "B H T W"]:
        """Weighted column sums: one backward pass per d_head of them."""
        real = real_rows(self.lengths, self.query.shape[2])[:, None, :, None]
        width, parts = self.query.shape[-1], list[Tensor]()
        for columns in weights.float().split(width, dim=-1):
            padded = torch.nn.functional.pad(columns, (0, width - columns.shape[-1])) * real
            full = padded.expand_as(self.query)
            sums = kernels.flash_column_sums(self.query, self.key, self.scale, full)
            parts.append(sums[..., : columns.shape[-1]])
        return torch.cat(parts, -1)

    def offset_mass(self) -> Float[Tensor, "B H T"]:
        """Mean mass at each offset: dense rows, a chunk at a time."""
        size = self.query.shape[2]
        real = real_rows(self.lengths, size)[:, None, :, None]
        total = torch.zeros(*self.query.shape[:2], size, device=self.query.device)
        for first in range(0, size, _ROW_CHUNK):
            rows = slice(first, first + _ROW_CHUNK)
            logits = kernels.causal_logits(self.query[:, :, rows], self.key, self.scale, first_row=first)
            total += _by_offset(logits.softmax(-1) * real[:, :, rows], first).sum(2)
        return total / self.lengths[:, None, None]

    def top_key(self, rows: Int[Tensor, "B R"]) -> Int[Tensor, "B H R"]:
        """Top-1 key of given rows: dense rows, O(rows * T)."""
        first = self.key.shape[2] - self.query.shape[2]  # rows are positions; a cached call starts later
        index = (rows - first)[:, None, :, None].expand(-1, self.query.shape[1], -1, self.query.shape[-1])
        query = self.query.gather(2, index)
        logits = query @ kernels.expand_kv(self.key, self.query.shape[1]).mT
        keys = torch.arange(logits.shape[-1], device=rows.device)
        return (logits * self.scale).masked_fill(keys > rows[:, None, :, None], -torch.inf).argmax(-1)

    def value_norm(self) -> Float[Tensor, "B H T"]:
        """Norms of the values each query head reads."""
        return blank_pads(kernels.expand_kv(self.value, self.query.shape[1]).norm(dim=-1), self.lengths)


def _by_offset(rows: Float[Tensor, "B H R T"], first: int) -> Float[Tensor, "B H R T"]:
    """Skew rows so that column d holds ``M[i, i - d]``, i = ``first`` + row: a view, with zeros where d > i.

    Reversed and padded to width W, ``M[i, i - d]`` lies at ``i W + (T - 1 - i) + d``: rows of stride W - 1.
    """
    batch, heads, count, size = rows.shape
    width = 2 * size
    padded = torch.nn.functional.pad(rows.flip(-1), (0, size)).contiguous()
    strides = (heads * count * width, count * width, width - 1, 1)
    return padded.as_strided((batch, heads, count, size), strides, size - 1 - first)
