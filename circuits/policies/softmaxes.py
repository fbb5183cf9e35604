"""Other ways to make weights of logits: temperatures, a scale that grows with the text, sigmoid, off-by-one.

All keep every key. Length: Su 2021 (kexue.fm/archives/8823), Chiang and Cholak 2022 (arXiv 2202.12172); sigmoid:
Ramapuram et al. 2024 (arXiv 2409.04431); off-by-one: Miller 2023 (evanmiller.org/attention-is-off-by-one.html), Kaul
et al. 2024 (arXiv 2410.17174). These papers train with theirs; here a softmax model is run with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.policies.head_split import HeadSplit
from circuits.policies.policy import RowPolicy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.softmax_settings import (
    LengthScaleSettings,
    OffByOneSettings,
    SigmoidSettings,
    TemperatureSettings,
)
from circuits.policies.top_keys import whole_cache
from headscope.errors import HeadIndexError
from headscope.heads import Head
from headscope.models.protocol import HookedModel


def chosen_heads(model: HookedModel, labels: Iterable[str] | None) -> Bool[Tensor, "layer head"]:
    """Which query heads these labels name; all of them for None.

    Raises:
        HeadIndexError: for a label that cannot be read, or a head that the model does not have.
    """
    n_layers, n_heads = model.shape.n_layers, model.shape.n_heads
    if labels is None:
        return torch.ones(n_layers, n_heads, dtype=torch.bool)
    chosen = torch.zeros(n_layers, n_heads, dtype=torch.bool)
    for layer, head in map(Head.parse, labels):
        if layer >= n_layers or head >= n_heads:
            raise HeadIndexError(
                f"head {head} of layer {layer} does not exist in {model.name!r}, "
                f"which has {n_layers} layers of {n_heads} heads."
            )
        chosen[layer, head] = True
    return chosen


class Temperature(RowPolicy):
    """``M = softmax(logits / t)``, with a t of its own for every query head."""

    name = "temperature"

    def __init__(self, temperature: Float[Tensor, "layer head"]) -> None:
        """What the logits of each head are divided by, above 0."""
        self.temperature = temperature

    @classmethod
    def build(cls, model: HookedModel, settings: TemperatureSettings, _: HeadSplit | None = None) -> Temperature:
        """One temperature for the chosen heads, 1 for the others.

        Raises:
            HeadIndexError: for a head that the model does not have.
        """
        chosen = chosen_heads(model, settings.heads)
        return cls(torch.where(chosen, settings.temperature, 1.0))

    def mix(self, rows: Rows) -> Mixed:
        """Softmax of the divided logits."""
        by = self.temperature[rows.layer].to(rows.key.device)[None, :, None, None]
        return Mixed.over(rows, rows.causal[None, None], logits=rows.logits / by, kept=whole_cache(rows))


class LengthScale(RowPolicy):
    """``M_i = softmax(s_i logits_i)``, ``s_i = max(1, log(i + 1) / log(trained))``: entropy kept as the text grows."""

    name = "length-scale"

    def __init__(self, trained: int) -> None:
        """Scale rows from position ``trained`` on."""
        self.trained = trained

    @classmethod
    def build(cls, model: HookedModel, settings: LengthScaleSettings, _: HeadSplit | None = None) -> LengthScale:
        """From settings."""
        return cls(settings.trained or model.shape.n_ctx)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax of the scaled logits."""
        scale = ((rows.positions + 1).float().log() / math.log(self.trained)).clamp_min(1)
        return Mixed.over(rows, rows.causal[None, None], logits=rows.logits * scale[:, None], kept=whole_cache(rows))


class Sigmoid(RowPolicy):
    """``M_ij = sigmoid(logits_ij + b_i)``: keys do not compete and rows sum to anything.

    ``b_i = -log(keys that the row sees)``, so that logits of 0 give a row that sums to nearly 1; or a fixed number.
    """

    name = "sigmoid"

    def __init__(self, bias: float | None = None) -> None:
        """Add ``bias``; None is that of the row's length."""
        self.bias = bias

    @classmethod
    def build(cls, model: HookedModel, settings: SigmoidSettings, _: HeadSplit | None = None) -> Sigmoid:  # noqa: ARG003
        """From settings."""
        return cls(None if settings.bias == "length" else settings.bias)

    def mix(self, rows: Rows) -> Mixed:
        """A sigmoid of every visible logit."""
        seen = torch.isfinite(rows.logits).sum(-1)
        bias = -seen.float().log()[..., None] if self.bias is None else self.bias
        return Mixed(torch.sigmoid(rows.logits + bias), seen, whole_cache(rows))


class OffByOne(RowPolicy):
    """``M_ij = exp(l_ij) / (exp(b) + sum_k exp(l_ik))``: a column whose value is zero, with logit b.

    The same as ``softmax(l)_ij sigmoid(lse_i - b)``. b = 0 is the off-by-one softmax. The null column holds nothing, so
    it is neither stored nor counted.
    """

    name = "off-by-one"

    def __init__(self, null_logit: float | None = 0.0) -> None:
        """Put the null column at ``null_logit``; None leaves it out."""
        self.null_logit = null_logit

    @classmethod
    def build(cls, model: HookedModel, settings: OffByOneSettings, _: HeadSplit | None = None) -> OffByOne:  # noqa: ARG003
        """From settings."""
        return cls(settings.null_logit)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax with one more column."""
        null = -torch.inf if self.null_logit is None else self.null_logit
        column = torch.full_like(rows.logits[..., :1], null)
        weights = torch.softmax(torch.cat([rows.logits, column], -1), -1)[..., :-1]
        return Mixed(weights, torch.isfinite(rows.logits).sum(-1), whole_cache(rows))
