"""Attention-Gate: a gate per key/value head flags tokens, and flagged tokens are evicted.

Zeng et al. 2024, arXiv 2410.12876, section 3: a light module per layer reads the context and gives every token an
eviction flag per head. Theirs reads hidden states before attention and is trained with the model. Here a gate is
linear in features of the key itself and of the attention that it has received, so that it works untrained on any
model; `circuits.policies.gate_fitting` trains it. Every key is seen for ``grace`` rows; then its gate decides once:

    s_j = weight . f_j + bias,   kept if s_j >= 0
    f_j = (k_j / |k_j|, log |k_j|, log r_j)
    r_j = mean over rows i = j ... j + grace - 1 and the group's query heads of n_i A'[i, j]

with A' the softmax over the n_i keys within ``grace`` of row i (fewer at the start of a text), and k_j the key before
its rotation where the model has one. r_j is 1 for a key that gets an even share. Only keys that every cache still
holds enter r_j, so flags depend on no other flag, and on nothing after row j + grace - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.policies.eviction_settings import GateSettings
from circuits.policies.head_split import HeadSplit
from circuits.policies.kept_set import by_group
from circuits.policies.policy import Policy
from circuits.policies.rows import Mixed, Rows
from headscope.attention import AttentionInput
from headscope.errors import ConfigError
from headscope.models.protocol import HookedModel, ModelShape
from headscope.models.rotary import Rotary, rotary_of

N_STATISTICS = 2
"""Features besides the direction of the key: its log norm and its log share of attention."""
_LEAST = 1e-6
G = TypeVar("G", bound="EvictionGate")


@dataclass(frozen=True)
class Gates:
    """The gates of all key/value heads.

    Attributes:
        weight: of each feature: the d_head of the key's direction, its log norm, its log share of attention.
        bias: is added.
    """

    weight: Float[Tensor, "layer kv_head feature"]
    bias: Float[Tensor, "layer kv_head"]

    @classmethod
    def by_attention(cls, shape: ModelShape, threshold: float) -> Gates:
        """Without training: keep what has received at least ``threshold`` times an even share of attention.

        Raises:
            ConfigError: if the threshold is negative.
        """
        if threshold < 0:
            raise ConfigError(f"the threshold of a gate is a share of attention, at least 0, not {threshold:g}.")
        weight = torch.zeros(shape.n_layers, shape.n_kv_heads, shape.d_head + N_STATISTICS)
        weight[..., -1] = 1.0
        level = math.log(threshold) if threshold > 0 else -math.inf
        return cls(weight, torch.full((shape.n_layers, shape.n_kv_heads), -level))

    def score(
        self, layer: int, features: Float[Tensor, "batch kv_head key feature"]
    ) -> Float[Tensor, "batch kv_head key"]:
        """Scores of some keys of a layer: kept at 0 and above."""
        weight, bias = (part[layer].to(features.device) for part in (self.weight, self.bias))
        return torch.einsum("bgkf,gf->bgk", features, weight.to(features.dtype)) + bias[:, None]


class EvictionGate(Policy):
    """Each key/value head evicts the keys that its gate flags, ``grace`` rows after they came."""

    name = "attention-gate"

    def __init__(self, gates: Gates, grace: int, rotary: Rotary | None = None) -> None:
        """Gates for all layers.

        Args:
            gates: the gates.
            grace: rows, its own included, that see a key before it can go.
            rotary: the model's rotation, taken off the keys before the gates read them.

        Raises:
            ConfigError: if grace is below 1.
        """
        if grace < 1:
            raise ConfigError(f"grace is at least 1 row, not {grace}: a row sees its own key.")
        self.gates, self.grace, self.rotary = gates, grace, rotary

    @classmethod
    def build(cls, model: HookedModel, settings: GateSettings, _: HeadSplit | None = None) -> EvictionGate:
        """Untrained gates from settings; they look at attention alone, so that no rotation is taken off."""
        return cls(Gates.by_attention(model.shape, settings.threshold), settings.grace)

    @classmethod
    def trained(cls: type[G], model: HookedModel, gates: Gates, grace: int) -> G:
        """Gates that were fitted to a model.

        Raises:
            ConfigError: if they are those of another model.
            UnsupportedError: if the model's rotation is not a fixed one.
        """
        shape = model.shape
        wanted = (shape.n_layers, shape.n_kv_heads, shape.d_head + N_STATISTICS)
        if gates.weight.shape != wanted or gates.bias.shape != wanted[:2]:
            raise ConfigError(
                f"gates of {model.name!r} have weights of layer x key/value head x feature = {wanted}, "
                f"not {tuple(gates.weight.shape)}."
            )
        return cls(gates, grace, rotary_of(model))

    def layer(self, index: int) -> GatedLayer:
        """A layer without keys."""
        return GatedLayer(self, index)


class GatedLayer:
    """One layer: attention received by keys under grace, and the scores of those that were decided."""

    def __init__(self, policy: EvictionGate, index: int) -> None:
        """No keys yet."""
        self._policy, self._index = policy, index
        self._received: Float[Tensor, "batch kv_head key"] | None = None
        self._scores: Float[Tensor, "batch kv_head decided"] | None = None

    def prepare(self, call: AttentionInput) -> None:
        """Nothing: rows do not depend on what comes later."""

    def observe(self, rows: Rows) -> None:
        """Gates decide on these keys too."""
        self.decide(rows)

    def mix(self, rows: Rows) -> Mixed:
        """Rows see what is under grace and what the gates kept."""
        kept = torch.nn.functional.pad(self.decide(rows) >= 0, (0, self._undecided(rows)), value=True)
        group = rows.query.shape[1] // rows.key.shape[1]
        per_head = kept.repeat_interleave(group, dim=1)[:, :, None]
        return Mixed.over(rows, per_head | self.in_grace(rows), overhead=self._overhead(rows))

    def in_grace(self, rows: Rows) -> Bool[Tensor, "row key"]:
        """Keys that each row sees whatever the gates say."""
        distance = rows.positions[:, None] - torch.arange(rows.key.shape[2], device=rows.key.device)
        return (distance >= 0) & (distance < self._policy.grace)

    def decide(self, rows: Rows) -> Float[Tensor, "batch kv_head decided"]:
        """Scores of all keys whose grace is over once these rows are done."""
        received = self._note(rows)
        scores = received[..., :0] if self._scores is None else self._scores
        start, stop = scores.shape[-1], max(rows.key.shape[2] - self._policy.grace + 1, 0)
        if stop > start:
            features = self._features(rows, received, start, stop)
            scores = torch.cat([scores, self._policy.gates.score(self._index, features)], -1)
        self._scores = scores
        return scores

    def _undecided(self, rows: Rows) -> int:
        return rows.key.shape[2] - (0 if self._scores is None else self._scores.shape[-1])

    @torch.no_grad()
    def _note(self, rows: Rows) -> Float[Tensor, "batch kv_head key"]:
        """Add the attention of these rows among the keys within grace, in even shares."""
        seen = self.in_grace(rows) & torch.isfinite(rows.logits[0, 0])
        local = torch.softmax(rows.logits.masked_fill(~seen, -torch.inf), -1) * seen.sum(-1)[:, None]
        received = by_group(local, rows.key.shape[1]).mean(2).sum(2) / self._policy.grace
        if self._received is not None:
            received = received + torch.nn.functional.pad(
                self._received, (0, received.shape[-1] - self._received.shape[-1])
            )
        self._received = received
        return received

    @torch.no_grad()
    def _features(
        self, rows: Rows, received: Float[Tensor, "batch kv_head key"], start: int, stop: int
    ) -> Float[Tensor, "batch kv_head decided feature"]:
        """Features of the keys from ``start`` to before ``stop``."""
        key = rows.key[:, :, start:stop].to(received.dtype)
        if self._policy.rotary is not None:
            key = self._policy.rotary.turn(key, -torch.arange(start, stop, device=key.device))
        norm = key.norm(dim=-1, keepdim=True).clamp_min(_LEAST)
        share = received[..., start:stop, None].clamp_min(_LEAST)
        return torch.cat([key / norm, norm.log(), share.log()], -1)

    def _overhead(self, rows: Rows) -> float:
        """One dot product per key and key/value head."""
        return (rows.key.shape[-1] + N_STATISTICS) * rows.key.shape[1] / rows.query.shape[1]
