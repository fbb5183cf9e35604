"""RazorAttention: chosen heads keep everything, the others a window and one token for all that they drop.

Tang et al. 2025, arXiv 2407.15891, section 3.3 and algorithm 1. A head outside the split keeps the first ``sink``
tokens, the last ``L = max(recent, recent_share * N)`` and a compensation token, the mean of the dropped keys (after
rotation) and of their values; its term in the softmax counts once per dropped token:

    z = (sum_kept exp(s q k_j) v_j + N_d exp(s q k_mean) v_mean) / (sum_kept exp(s q k_j) + N_d exp(s q k_mean))

N is the length of the text so far, the row itself included. It is that of the prompt in the paper, which compresses
once the prompt has been read; here the window goes on growing while an answer is decoded, by ``recent_share`` of its
tokens. A token that was dropped never comes back, and a row depends on nothing but the keys before it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.head_split import HeadSplit
from circuits.policies.masks import split_for
from circuits.policies.policy import RowPolicy
from circuits.policies.rows import Extra, Mixed, Rows, held_by_group
from circuits.policies.search_settings import RazorSettings
from headscope.kernels import expand_kv
from headscope.models.protocol import HookedModel


class Razor(RowPolicy):
    """Heads of the split keep everything; the others sinks, recent tokens and a compensation token.

    Where the model slides a window of its own, only dropped tokens inside it are compensated for. A cap on the logits
    acts on that of the compensation token before its tokens are counted.
    """

    name = "razor"
    eager = False

    def __init__(self, split: HeadSplit, settings: RazorSettings) -> None:
        """Keep everything where ``split`` says so."""
        self.split, self.settings = split, settings
        self._full = torch.from_numpy(split.full)

    @classmethod
    def build(cls, model: HookedModel, settings: RazorSettings, split: HeadSplit | None = None) -> Razor:
        """From settings and an assignment of heads.

        Raises:
            ConfigError: without an assignment, or with that of another model.
        """
        return cls(split_for(model, cls.name, split), settings)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over all keys, or over kept keys and the compensation token."""
        start, stop = self._dropped(rows)
        full = self._full[rows.layer].to(rows.key.device)
        per_head = full.repeat_interleave(rows.query.shape[1] // len(full))[None, :, None, None]
        keys = torch.arange(rows.key.shape[2], device=rows.key.device)
        kept = (keys < start[:, None]) | (keys >= stop[:, None])
        if not self.settings.compensate:
            return Mixed.over(rows, per_head | kept[None, None])
        return _compensated(rows, per_head | kept[None, None], per_head, start, stop)

    def _dropped(self, rows: Rows) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
        """First dropped position of each row, and the one behind the last; equal where nothing is dropped."""
        length = rows.positions + 1
        grown = (length.double() * self.settings.recent_share).floor().long()
        window = grown.clamp_min(self.settings.recent)
        seen = torch.isfinite(rows.logits[0, 0]).int().argmax(-1)  # a sliding window of the model's own
        start = torch.minimum(seen.clamp_min(self.settings.sink), length)
        return start, torch.maximum(length - window, start)


def _compensated(
    rows: Rows,
    visible: Bool[Tensor, "1 head row key"],
    full: Bool[Tensor, "1 head 1 1"],
    start: Int[Tensor, " row"],
    stop: Int[Tensor, " row"],
) -> Mixed:
    """Softmax over the visible keys and, in heads that are not full, the mean of positions ``start ... stop - 1``."""
    n_heads, n_kv_heads = rows.query.shape[1], rows.key.shape[1]
    count = stop - start
    key, value = (mean_between(part, start, stop) for part in (rows.key, rows.value))
    logit = (rows.query.float() * expand_kv(key, n_heads)).sum(-1, keepdim=True) * rows.scale
    logit = rows.capped(logit) + count.clamp_min(1).log()[:, None]
    has = (count > 0)[None, None, :, None] & ~full
    seen = (visible & rows.causal) & torch.isfinite(rows.logits)
    logits = torch.cat([rows.logits.masked_fill(~seen, -torch.inf), logit.masked_fill(~has, -torch.inf)], -1)
    weights = logits.softmax(-1)
    more = has.squeeze(-1).expand(len(seen), -1, -1).long()
    held = held_by_group(seen, n_kv_heads) + more.view(len(seen), n_kv_heads, -1, more.shape[-1])[:, :, 0]
    extra = Extra(weights[..., -1:], value[:, :, :, None])
    return Mixed(weights[..., :-1], seen.sum(-1) + more, held, extra)


def mean_between(
    entries: Float[Tensor, "batch kv_head key width"], start: Int[Tensor, " row"], stop: Int[Tensor, " row"]
) -> Float[Tensor, "batch kv_head row width"]:
    """Mean of entries ``start ... stop - 1`` of each row, zero where there are none.

    By prefix sums, in float64: the difference of two long sums would lose digits in float32.
    """
    sums = torch.nn.functional.pad(entries.double().cumsum(2), (0, 0, 1, 0))
    count = (stop - start).clamp_min(1)[:, None]
    return ((sums[:, :, stop] - sums[:, :, start]) / count).float()
