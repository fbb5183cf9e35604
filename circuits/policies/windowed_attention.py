"""Full and sink-and-recent attention of a whole text, differentiable and without the T x T matrix.

The policies themselves (`circuits.policies.masks`) build that matrix a chunk at a time; what is trained or
differentiated through runs here, on torch's fused operators.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headscope.attention import AttentionInput
from headscope.errors import UnsupportedError
from headscope.kernels import expand_kv

_ROW_CHUNK = 1024


def full_attention(call: AttentionInput) -> Float[Tensor, "batch head row d_value"]:
    """z of the model itself.

    Raises:
        UnsupportedError: while decoding with a cache, or in a model that caps its logits.
    """
    refuse_parts(call)
    if call.window is not None:
        return streaming_attention(call, 0, call.window)
    query, key, value = call.query, *(expand_kv(part, call.query.shape[1]) for part in (call.key, call.value))
    return scaled_dot_product_attention(query, key, value, is_causal=True, scale=call.scale)


def streaming_attention(call: AttentionInput, sink: int, recent: int) -> Float[Tensor, "batch head row d_value"]:
    """z of heads that see the first ``sink`` positions and the last ``recent``, the row itself included.

    A chunk of rows at a time, each with only the keys that it can see: O(T (sink + recent + chunk)) time.

    Raises:
        UnsupportedError: while decoding with a cache, or in a model that caps its logits.
    """
    refuse_parts(call)
    key, value = (expand_kv(part, call.query.shape[1]) for part in (call.key, call.value))
    length, outputs = key.shape[2], list[Tensor]()
    for first in range(0, length, _ROW_CHUNK):
        stop = min(first + _ROW_CHUNK, length)
        near = max(first - recent + 1, 0)
        keys = torch.cat([torch.arange(min(sink, near)), torch.arange(near, stop)]).to(key.device)
        rows = torch.arange(first, stop, device=key.device)
        outputs.append(
            scaled_dot_product_attention(
                call.query[:, :, first:stop],
                key[:, :, keys],
                value[:, :, keys],
                attn_mask=_visible(rows, keys, sink, recent, call.window),
                scale=call.scale,
            )
        )
    return torch.cat(outputs, 2)


def _visible(rows: Tensor, keys: Tensor, sink: int, recent: int, window: int | None) -> Bool[Tensor, "row key"]:
    """Sinks and recent tokens, inside the model's own window where it slides one."""
    distance = rows[:, None] - keys
    visible = ((keys < sink) | (distance < recent)) & (distance >= 0)
    return visible if window is None else visible & (distance < window)


def refuse_parts(call: AttentionInput) -> None:
    """Refuse what these functions do not compute.

    Raises:
        UnsupportedError: while decoding with a cache, or in a model that caps its logits.
    """
    if call.first_row > 0:
        raise UnsupportedError("a whole text is needed, from its first token on: run the model without a cache.")
    if call.softcap is not None:
        raise UnsupportedError("this model caps its attention logits, which no fused attention operator does.")
