"""Attention over caches that hold a group of key/value heads each, without copies of them and without T x T.

The query heads of a group are *folded* into more rows of one head, so that no key or value is ever repeated:
``[B, H, Q, D] -> [B, G, (H / G) Q, D]``. In 16 bits on CUDA the flash operator runs, which aligns its causal mask at
the lower right; elsewhere torch's own choice, with masks of a block of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headscope.models.rotary import Rotary

_ROWS = 256


def fold(query: Float[Tensor, "B H Q D"], n_kv_heads: int) -> Float[Tensor, "B G R D"]:
    """The query heads of each key/value head as rows: head ``r`` of a group gives rows ``r Q ... (r + 1) Q - 1``."""
    batch, n_heads, rows, width = query.shape
    return query.reshape(batch, n_kv_heads, (n_heads // n_kv_heads) * rows, width)


def unfold(rows: Float[Tensor, "B G R V"], n_heads: int) -> Float[Tensor, "B H Q V"]:
    """Undo `fold`."""
    batch, groups, folded, width = rows.shape
    return rows.reshape(batch, n_heads, groups * folded // n_heads, width)


def attend_all(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T V"],
    scale: float,
    *,
    mask: Bool[Tensor, "Q T"] | None = None,
) -> Float[Tensor, "B H Q V"]:
    """Softmax over all keys, or over those of a mask that all heads share."""
    rows, n_heads = fold(query, key.shape[1]), query.shape[1]
    if mask is None and _flash(query, key, value):
        out = torch.ops.aten._scaled_dot_product_flash_attention(rows, key, value, 0.0, False, False, scale=scale)[0]
        return unfold(out, n_heads)
    folded = None if mask is None else mask.repeat(n_heads // key.shape[1], 1)
    return unfold(scaled_dot_product_attention(rows, key, value, folded, scale=scale), n_heads)


def attend_causally(
    query: Float[Tensor, "B H Q D"], key: Float[Tensor, "B G T D"], value: Float[Tensor, "B G T V"], scale: float
) -> Float[Tensor, "B H Q V"]:
    """Softmax over the keys up to each row, which is at position ``T - Q + i``: O(T) memory."""
    size, rows = key.shape[2], query.shape[2]
    if rows == 1:
        return attend_all(query, key, value, scale)
    if _flash(query, key, value):
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, 0.0, True, False, scale=scale)[0]
    parts, columns = list[Tensor](), torch.arange(size, device=key.device)
    for start in range(0, rows, _ROWS):
        block = query[:, :, start : start + _ROWS]
        first = size - rows + start
        last = first + block.shape[2]
        mask = columns[None, :last] <= columns[first:last, None]
        parts.append(attend_all(block, key[:, :, :last], value[:, :, :last], scale, mask=mask))
    return torch.cat(parts, 2)


def _flash(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether CUDA's flash operator takes these as they are."""
    width = query.shape[-1]
    fits = width == value.shape[-1] and width % 8 == 0 and width <= 256
    return key.is_cuda and key.dtype in (torch.float16, torch.bfloat16) and fits


@dataclass(frozen=True)
class Dropped:
    """The tokens that are gone, per row.

    Attributes:
        key: sum of their keys.
        value: sum of their values.
        count: how many they are.
    """

    key: Float[Tensor, "B G #Q D"]
    value: Float[Tensor, "B G #Q V"]
    count: Float[Tensor, " #Q"]


@dataclass(frozen=True)
class Nearer:
    """First keys that count as nearer than they are in the text.

    Attributes:
        sink: how many first keys there are at most; they are the first columns.
        by: positions that they are nearer to each row.
        rotary: the model's rotation.
    """

    sink: int
    by: Int[Tensor, " Q"]
    rotary: Rotary


def attend_densely(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T V"],
    scale: float,
    *,
    mask: Bool[Tensor, "Q T"] | None = None,
    dropped: Dropped | None = None,
    nearer: Nearer | None = None,
) -> Float[Tensor, "B H Q V"]:
    """Softmax over the kept keys, in float32: with a column for those dropped, or first keys brought nearer.

    The column of the dropped ones has the logit ``scale q mean(k) + log count`` and the value ``mean(v)``.
    """
    groups, n_heads, n_rows = key.shape[1], query.shape[1], query.shape[2]
    logits = fold(query.float(), groups) @ key.float().mT * scale
    if nearer is not None:
        first = key[:, :, : nearer.sink].float()
        turned = nearer.rotary.turn(query.float(), -nearer.by)
        logits[..., : first.shape[2]] = fold(turned, groups) @ first.mT * scale
    logits = logits.view(*logits.shape[:2], -1, n_rows, key.shape[2])  # B G heads-of-group Q T
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf)
    if dropped is None:
        return unfold(logits.softmax(-1).flatten(2, 3) @ value.float(), n_heads).to(query.dtype)
    count = dropped.count.clamp_min(1)[:, None]
    mean_key, mean_value = dropped.key / count, dropped.value / count
    asked = fold(query.float(), groups).view(*logits.shape[:-1], -1)
    extra = (asked * mean_key[:, :, None]).sum(-1, keepdim=True) * scale + dropped.count.log()[:, None]
    weights = torch.cat([logits, extra], -1).softmax(-1)
    z = weights[..., :-1].flatten(2, 3) @ value.float() + (weights[..., -1:] * mean_value[:, :, None]).flatten(2, 3)
    return unfold(z, n_heads).to(query.dtype)
