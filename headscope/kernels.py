"""Causal attention without the T x T matrix: torch's fused operators, and their naive twin.

Shapes: B batch, H query heads, G key/value heads (H is a multiple of G), Q queries, T keys,
D head width, V width of the values (mostly D). Query i is the absolute position ``T - Q + i``, so Q < T is decoding
with a cache.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_ATEN = torch.ops.aten
_ROW_CHUNK = 256


def expand_kv(per_kv_head: Float[Tensor, "B G T D"], n_heads: int) -> Float[Tensor, "B H T D"]:
    """Repeat each key/value head for its query heads: query head h reads kv head h // (H // G)."""
    repeats = n_heads // per_kv_head.shape[1]
    return per_kv_head if repeats == 1 else per_kv_head.repeat_interleave(repeats, dim=1)


def causal_logits(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B G T D"],
    scale: float,
    *,
    first_row: int,
    window: int | None = None,
    softcap: float | None = None,
) -> Float[Tensor, "B H Q T"]:
    """Masked attention logits in float32 of rows ``first_row ... first_row + Q - 1``.

    ``logits = scale * q k^T``, then ``softcap * tanh(logits / softcap)`` where a cap is given, then
    minus infinity where the key lies after the query or ``window`` or more positions before it.
    """
    heads = expand_kv(key.float(), query.shape[1])
    logits = (query.float() @ heads.mT) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    rows = torch.arange(first_row, first_row + query.shape[2], device=query.device)[:, None]
    columns = torch.arange(key.shape[2], device=query.device)[None, :]
    hidden = columns > rows
    if window is not None:
        hidden |= columns <= rows - window
    return logits.masked_fill(hidden, -torch.inf)


def chunked_attention(
    query: Float[Tensor, "B H Q D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T V"],
    scale: float,
    *,
    window: int | None = None,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "B H Q V"], Float[Tensor, "B H Q"]]:
    """Naive twin of `flash_attention`, a chunk of rows at a time: O(chunk * T) memory.

    Also the path of everything the fused operators lack: decoding, sliding windows, soft caps,
    devices without a fused operator.
    """
    values, start = expand_kv(value, query.shape[1]).float(), key.shape[2] - query.shape[2]
    outputs, normalisers = [], []
    for first in range(0, query.shape[2], _ROW_CHUNK):
        logits = causal_logits(
            query[:, :, first : first + _ROW_CHUNK],
            key,
            scale,
            first_row=start + first,
            window=window,
            softcap=softcap,
        )
        normalisers.append(logits.logsumexp(-1))
        outputs.append((logits.softmax(-1) @ values).to(query.dtype))
    return torch.cat(outputs, 2), torch.cat(normalisers, 2)


def flash_attention(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    value: Float[Tensor, "B G T V"],
    scale: float,
) -> tuple[Float[Tensor, "B H T V"], Float[Tensor, "B H T"]]:
    """Full causal attention output and row log-sum-exp, by the device's fused operator.

    CPU: the flash operator. CUDA: flash for 16-bit inputs, memory-efficient for float32. Any other
    device, and value heads of another width than the keys': `chunked_attention`.
    """
    if value.shape[-1] != query.shape[-1] or query.device.type not in ("cpu", "cuda"):
        return chunked_attention(query, key, value, scale)
    key, value = (expand_kv(part, query.shape[1]).contiguous() for part in (key, value))
    query = query.contiguous()
    if query.device.type == "cpu":
        return _ATEN._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, True, scale=scale)
    if query.dtype == torch.float32:
        out = _ATEN._scaled_dot_product_efficient_attention(query, key, value, None, True, 0.0, True, scale=scale)
        return out[0], out[1][..., : query.shape[2]]
    out = _ATEN._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scale)
    return out[0], out[1][..., : query.shape[2]]


def flash_column_sums(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    scale: float,
    weights: Float[Tensor, "B H T D"],
) -> Float[Tensor, "B H T D"]:
    """``M^T weights``, the backward pass of flash attention: the gradient of the values is exactly that.

    Float32 only (upcast first): the sums are scores.
    """
    key = expand_kv(key, query.shape[1]).contiguous()
    query, weights = query.contiguous(), weights.contiguous()
    zeros = torch.zeros_like(key)
    if query.device.type == "cpu":
        op = _ATEN._scaled_dot_product_flash_attention_for_cpu
        out, normaliser = op(query, key, zeros, 0.0, True, scale=scale)
        back = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward
        return back(weights, query, key, zeros, out, normaliser, 0.0, True, scale=scale)[2]
    if query.device.type == "cuda":
        with torch.enable_grad():
            values = zeros.requires_grad_()
            out = _ATEN._scaled_dot_product_efficient_attention(query, key, values, None, True, 0.0, True, scale=scale)[
                0
            ]
            return torch.autograd.grad(out, values, weights)[0]
    return chunked_column_sums(query, key, scale, weights)


def chunked_column_sums(
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B G T D"],
    scale: float,
    weights: Float[Tensor, "B H T W"],
) -> Float[Tensor, "B H T W"]:
    """Naive twin of `flash_column_sums`: ``sum_i M[i, j] weights[i]``, a chunk of rows at a time."""
    total = torch.zeros_like(weights)
    for first in range(0, query.shape[2], _ROW_CHUNK):
        rows = slice(first, first + _ROW_CHUNK)
        pattern = causal_logits(query[:, :, rows], key, scale, first_row=first).softmax(-1)
        total += pattern.mT @ weights[:, :, rows]
    return total
