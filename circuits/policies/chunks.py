"""Chunks of the text, chosen by each head for each row, standing next to each other as if nothing lay between.

LongHeads: Lu et al. 2024, arXiv 2402.10685, section 2; LuLuLuyi/LongHeads, modeling_longheads/modeling_llama.py.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.head_split import HeadSplit
from circuits.policies.policy import Policy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.sparse_settings import ChunksSettings
from circuits.policies.top_keys import top_mask, whole_cache
from headscope.attention import AttentionInput
from headscope.errors import UnsupportedError
from headscope.kernels import expand_kv
from headscope.models.protocol import HookedModel
from headscope.models.rotary import Rotary, rotary_of


class Chunks(Policy):
    """Each query head's rows attend to the first chunk, the two newest, and the chunks whose keys match best.

    The key c of a chunk: its queries attend to its keys both ways, the mean of what they read is a query, and c is the
    mean of the keys under that query's attention; a row's query without rotation is compared with it (``q c``). With a
    rotation, chosen chunks stand next to each other: every key is nearer by the chunks left out between it and the
    row. Models without rotary positions keep those of the text.

    The cache holds c of each complete chunk and query head, half an entry, besides all keys; the queries of the
    unfinished chunk, which have to wait for it, are not counted.
    """

    name = "longheads"

    def __init__(self, size: int, chunks: int, rotary: Rotary | None = None, *, moved: bool = False) -> None:
        """Attend to ``chunks`` chunks of ``size`` tokens; ``moved``: at the positions of the cache."""
        self.size, self.chunks, self.rotary, self.moved = size, chunks, rotary, moved

    @classmethod
    def build(cls, model: HookedModel, settings: ChunksSettings, _: HeadSplit | None = None) -> Chunks:
        """From settings.

        Raises:
            UnsupportedError: for a model whose rotation is not a fixed one.
        """
        return cls(settings.size, settings.chunks, rotary_of(model), moved=settings.positions == "cache")

    def layer(self, index: int) -> ChunkMemory:  # noqa: ARG002
        """A memory without chunks."""
        return ChunkMemory(self)


class ChunkMemory:
    """The chunk keys of one layer, and the queries that wait for their chunk to be complete."""

    def __init__(self, policy: Chunks) -> None:
        """Of a sequence that begins."""
        self._policy = policy
        self._waiting: Tensor | None = None
        self._keys = list[Tensor]()

    def prepare(self, call: AttentionInput) -> None:
        """Nothing: rows do not depend on what comes later."""

    def observe(self, rows: Rows) -> None:
        """Complete the chunks that these rows complete."""
        if rows.value.shape[-1] != rows.key.shape[-1]:
            raise UnsupportedError("LongHeads makes a query of values, which are not as wide as the keys here.")
        query = rows.query.detach().float()
        waiting = query if self._waiting is None else torch.cat([self._waiting, query], 2)
        size = self._policy.size
        while waiting.shape[2] >= size:
            self._keys.append(self._chunk_key(waiting[:, :, :size], rows))
            waiting = waiting[:, :, size:]
        self._waiting = waiting

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over the keys of the chosen chunks."""
        self.observe(rows)
        size, group = self._policy.size, rows.query.shape[1] // rows.key.shape[1]
        own = rows.positions // size
        chosen = self._chosen(rows, own)
        visible = chosen.repeat_interleave(size, -1)[..., : rows.key.shape[2]]
        logits = rows.logits
        if self._policy.moved and self._policy.rotary is not None:
            logits = self._moved(rows, chosen, own, self._policy.rotary)
        kept = whole_cache(rows, (((rows.positions + 1) // size - rows.first_shown // size) * group + 1) // 2)
        cost = rows.key.shape[-1] * float((own - 2).clamp_min(0).float().mean())
        return Mixed.over(rows, visible, logits=logits, kept=kept, overhead=cost)

    def _chunk_key(
        self, query: Float[Tensor, "batch head pos d_head"], rows: Rows
    ) -> Float[Tensor, "batch head 1 d_head"]:
        """c of the next chunk, rotated as if the chunk were the first of the text."""
        size, start = self._policy.size, len(self._keys) * self._policy.size
        n_heads = query.shape[1]
        key, value = (
            expand_kv(part[:, :, start : start + size].detach().float(), n_heads) for part in (rows.key, rows.value)
        )
        read = torch.softmax(query @ key.mT * rows.scale, -1) @ value
        if self._policy.rotary is not None:
            key = self._policy.rotary.turn(key, torch.full((size,), -start, device=key.device))
        return torch.softmax(read.mean(2, keepdim=True) @ key.mT * rows.scale, -1) @ key

    def _chosen(self, rows: Rows, own: Int[Tensor, " row"]) -> Bool[Tensor, "batch head row chunk"]:
        """The chunks that each row attends to; only those before its newest two are compared."""
        policy, count = self._policy, -(-rows.key.shape[2] // self._policy.size)
        query = rows.query.detach().float()
        if policy.rotary is not None:
            query = policy.rotary.turn(query, -rows.positions)
        scores = torch.full((*query.shape[:3], count), -torch.inf, device=query.device)
        if self._keys:
            scores[..., : len(self._keys)] = query @ torch.cat(self._keys, 2).mT
        chunk, newest = torch.arange(count, device=query.device), own[:, None]
        compared = (chunk >= 1) & (chunk < newest - 1)
        always = (chunk <= newest) & ~compared
        best = top_mask(scores.masked_fill(~compared, -torch.inf), policy.chunks - 3)
        return best | always

    def _moved(
        self, rows: Rows, chosen: Bool[Tensor, "batch head row chunk"], own: Int[Tensor, " row"], rotary: Rotary
    ) -> Float[Tensor, "batch head row key"]:
        """Logits in which every key is nearer by the chunks left out between it and the row."""
        size, (batch, heads, count, width) = self._policy.size, rows.query.shape
        chunk = torch.arange(chosen.shape[-1], device=chosen.device)
        left_out = ~chosen & (chunk <= own[:, None])
        nearer = size * left_out.flip(-1).cumsum(-1).flip(-1)
        query, parts = rows.query.float().reshape(1, 1, -1, width), list[Tensor]()
        for one, logits in enumerate(rows.logits.split(size, -1)):
            keys = expand_kv(rows.key[:, :, one * size : (one + 1) * size], heads).float()
            by = nearer[..., one].reshape(-1)
            if not bool(by.any()):
                parts.append(logits)
                continue
            turned = rotary.turn(query, -by).view(batch, heads, count, width)
            close = rows.capped(turned @ keys.mT * rows.scale).masked_fill(torch.isinf(logits), -torch.inf)
            parts.append(torch.where((nearer[..., one] > 0)[..., None], close, logits))
        return torch.cat(parts, -1)
