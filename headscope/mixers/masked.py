"""Softmax under fixed masks: windows, sinks, strides, dilations, blocks, random blocks, different in every head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headscope.config import Config
from headscope.errors import ConfigError
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.mask_patterns import Part, Place, Window


class MaskedSettings(Config):
    """Of softmax under fixed masks; windows and blocks are small by default, for small models.

    Attributes:
        patterns: masks, each a union of parts; heads are split evenly among them, in order.
        overlap: a token that several parts of a mask show counts ``once``, or for ``each``: the softmaxes under the
            parts, averaged with their denominators as weights.
        slopes: what the scores of a mask's heads fall by for every token of distance; nothing by default.
        slope_by_layer: slopes are multiplied by these, from the first layer to the last.
        slope_cap: distances beyond it count as it.
    """

    patterns: tuple[tuple[Part, ...], ...] = Field(default=((Window(),),), min_length=1)
    overlap: Literal["once", "each"] = "once"
    slopes: tuple[float, ...] = ()
    slope_by_layer: tuple[float, float] = (1.0, 1.0)
    slope_cap: int | None = Field(default=None, ge=1)


class Masked(Mixer):
    """``M_ij = n_ij exp(s_ij) / sum_l n_il exp(s_il)``, where n counts the parts of the mask through which i sees j.

    ``s_ij`` is less by ``slope * min(|i - j|, cap)`` where there are slopes. A row always sees itself. Sources are
    those of the masks: Sparse Transformer (1904.10509), Longformer (2004.05150), BigBird (2007.14062), LongNet
    (2307.02486), StreamingLLM (2309.17453), ... Decoding keeps, in each head, the keys and values that some later row
    will see, and the position.

    Attributes:
        causal: False where some heads look to the right only.
        slopes: of every head, or None.
    """

    settings_type: ClassVar[type[Config]] = MaskedSettings

    def __init__(self, shape: MixerShape, settings: MaskedSettings) -> None:
        """Share the heads out.

        Raises:
            ConfigError: if there are more masks than heads, or slopes for another number of masks.
        """
        super().__init__(shape, settings)
        count = len(settings.patterns)
        if count > shape.n_heads:
            raise ConfigError(f"{count} mask patterns need as many heads: there are {shape.n_heads}.")
        if settings.slopes and len(settings.slopes) != count:
            raise ConfigError(f"{len(settings.slopes)} slopes are given for {count} mask patterns: give one for each.")
        groups = [head * count // shape.n_heads for head in range(shape.n_heads)]
        self.parts: list[Sequence[Any]] = [settings.patterns[group] for group in groups]
        self.causal = all(getattr(part, "side", "left") == "left" for parts in self.parts for part in parts)
        self.each, self.cap = settings.overlap == "each", settings.slope_cap
        first, last = settings.slope_by_layer
        factor = first + (last - first) * shape.layer / max(shape.n_layers - 1, 1)
        slopes = torch.tensor([settings.slopes[group] * factor for group in groups]) if settings.slopes else None
        self.slopes: Tensor | None
        self.register_buffer("slopes", slopes, persistent=False)

    def mix(self, given: MixerInput) -> Mix:
        """Masked softmax of the scores."""
        given, counts = self._prepared(given)
        return Mix(counted_softmax(given.scores, counts), given.value)

    def operation(self, given: MixerInput) -> Tensor:
        """Torch's fused operator, where it computes the same."""
        if given.edit_scores is not None:
            return self.mix(given).z
        given, counts = self._prepared(given)
        mask = counts.to(given.query.dtype).log()
        mask = mask if given.bias is None else mask + given.bias
        return scaled_dot_product_attention(given.query, given.key, given.value, attn_mask=mask, scale=given.scale)

    def extra_scores(
        self,
        given: MixerInput,
        heads: range,
        rows: Int[Tensor, " Q"],
        columns: Int[Tensor, " K"],
        length: int,  # noqa: ARG002
    ) -> Float[Tensor, "#B H Q K"] | None:
        """What is added to the scores of some heads, whose part of a call ``given`` is."""
        if self.slopes is None:
            return None
        slopes = self.slopes[heads.start : heads.stop].to(given.query.dtype)
        distance = (rows[:, None] - columns).abs()
        distance = distance if self.cap is None else distance.clamp(max=self.cap)
        return -(slopes[:, None, None] * distance)[None]

    def start(self, token: MixerInput) -> State:
        """No tokens, in no head."""
        state = {"position": torch.zeros(token.key.shape[0], dtype=torch.long, device=token.key.device)}
        for head in range(self.shape.n_heads):
            state |= {f"key_{head}": token.key[:, head, :0], f"value_{head}": token.value[:, head, :0]}
        return state

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Mix the row in every head over what is kept there; then drop what no later row sees."""
        now = int(state["position"][0])
        after, found = {"position": state["position"] + 1}, list[Tensor]()
        for head in range(self.shape.n_heads):
            key = torch.cat([state[f"key_{head}"], token.key[:, head]], 1)
            value = torch.cat([state[f"value_{head}"], token.value[:, head]], 1)
            columns = torch.arange(now + 1, device=key.device)
            columns = columns[self._last_row(head, columns) >= now]
            found.append(self._row(head, columns, key[:, None], value[:, None], token))
            kept = self._last_row(head, columns) > now
            after |= {f"key_{head}": key[:, kept], f"value_{head}": value[:, kept]}
        return torch.cat(found, 1), after

    def state_size(self, length: int) -> int:
        """The position, and keys and values that a later row sees, in any of the heads that share them."""
        tokens = self.kept_tokens(length)
        return 1 + tokens.keys + tokens.values

    def kept_tokens(self, length: int) -> KeptTokens:
        """All but the position."""
        columns, heads = torch.arange(length), self.shape.n_heads
        kept = torch.stack([self._last_row(head, columns) >= length for head in range(heads)])
        keys, values = self.shape.key_heads or heads, self.shape.value_heads or heads
        of_keys, of_values = (int(kept.reshape(groups, -1, length).any(1).sum()) for groups in (keys, values))
        return KeptTokens(int(kept.any(0).sum()), of_keys * self.shape.d_key, of_values * self.shape.d_head)

    def _prepared(self, given: MixerInput) -> tuple[MixerInput, Int[Tensor, "H Q K"]]:
        heads, length = range(self.shape.n_heads), given.key.shape[2]
        counts = torch.stack([self._counts(head, given.rows, given.columns, length, given.causal) for head in heads])
        return with_bias(given, self.extra_scores(given, heads, given.rows, given.columns, length)), counts

    def _row(
        self, head: int, columns: Int[Tensor, " K"], key: Tensor, value: Tensor, token: MixerInput
    ) -> Float[Tensor, "B 1 1 D"]:
        """z of the newest token in one head, from its keys and values at ``columns``."""
        rows, length = columns[-1:], int(columns[-1]) + 1
        bias = None if token.bias is None else token.bias.expand(-1, self.shape.n_heads, -1, -1)[:, head, None]
        bias = None if bias is None else bias[..., columns]
        given = replace(token, query=token.query[:, head, None], key=key, value=value, bias=bias)
        given = with_bias(given, self.extra_scores(given, range(head, head + 1), rows, columns, length))
        counts = self._counts(head, rows, columns, length, causal=True)
        return counted_softmax(given.scores, counts) @ given.value

    def _counts(
        self, head: int, rows: Int[Tensor, " Q"], columns: Int[Tensor, " K"], length: int, causal: bool
    ) -> Int[Tensor, "Q K"]:
        """Through how many parts of a head's mask each row sees each column."""
        place = Place(head, self.shape.layer, length, causal)
        row, column = rows[:, None], columns[None]
        counts = torch.zeros(len(rows), len(columns), dtype=torch.long, device=rows.device)
        for part in self.parts[head]:
            counts = counts + part.sees(row, column, place)
        if causal:
            counts = counts * (row >= column)
        counts = torch.maximum(counts, (row == column).long())
        return counts if self.each else counts.clamp(max=1)

    def _last_row(self, head: int, columns: Int[Tensor, " K"]) -> Int[Tensor, " K"]:
        """The last row that sees each column in a head."""
        place, last = Place(head, self.shape.layer, 0, causal=True), columns
        for part in self.parts[head]:
            last = torch.maximum(last, part.last_row(columns, place))
        return last


def with_bias(given: MixerInput, extra: Tensor | None) -> MixerInput:
    """A call whose scores have something added."""
    if extra is None:
        return given
    return replace(given, bias=extra if given.bias is None else given.bias + extra)


def counted_softmax(scores: Float[Tensor, "B H Q K"], counts: Int[Tensor, "*H Q K"]) -> Float[Tensor, "B H Q K"]:
    """``n exp(s) / sum n exp(s)``; n may be 0, but not in a whole row."""
    return (scores + counts.to(scores.dtype).log()).softmax(-1)
