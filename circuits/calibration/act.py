"""Attention calibration (ACT): weights on sinks are multiplied by beta, the other tokens share what that frees.

In each row i of a chosen head, with S its sinks and R the tokens that receive (all others, the first token only if
`ActSettings.receive_first`)::

    m_i = (1 - beta) sum_{t in S} A[i, t]
    A'[i, t] = beta A[i, t]                                  t in S
    A'[i, t] = A[i, t] + m_i A[i, t] / sum_{u in R} A[i, u]  t in R

Rows still sum to 1. Two cases the formula leaves open: a row in which nothing receives (R has no weight; row 0 always)
stays as it is, and under beta > 1 the sinks take at most what R has, so that no weight falls below 0.

Source: Yu et al. 2024, arXiv 2406.15765; GATECH-EIC/ACT. Unlike the released code, every text of a batch has sinks of
its own, and every row is calibrated, those of decoding with the sinks of the prompt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.calibration.sinks import Lengths, find_sinks, only_heads, sinks_among
from circuits.policies.head_split import HeadSplit
from circuits.policies.masks import Full
from circuits.policies.policy import LayerMemory, Policy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.settings import ActSettings
from headscope.attention import AttentionInput
from headscope.errors import ConfigError, HeadIndexError
from headscope.heads import Head
from headscope.models.protocol import HookedModel, ModelShape


def calibrate_rows(
    pattern: Float[Tensor, "*rest row key"],
    sinks: Bool[Tensor, "*#rest #row key"],
    *,
    beta: float,
    receive_first: bool = True,
) -> Float[Tensor, "*rest row key"]:
    """The calibrated pattern; see the module. Rows sum to what they did, no weight is negative.

    Args:
        pattern: rows that sum to 1.
        sinks: S.
        beta: what the weights on sinks are multiplied by, at least 0; 1 gives the pattern itself.
        receive_first: whether position 0 is in R.
    """
    receives = ~sinks
    if not receive_first:
        receives = receives.clone()
        receives[..., 0] = False
    on_sinks = (pattern * sinks).sum(-1, keepdim=True)
    on_others = (pattern * receives).sum(-1, keepdim=True)
    able = (on_others > 0) & (on_sinks > 0)
    moved = torch.maximum((1 - beta) * on_sinks, -on_others)
    moved = torch.where(able, moved, torch.zeros_like(moved))
    sink_factor = 1 - moved / torch.where(able, on_sinks, torch.ones_like(on_sinks))
    other_factor = 1 + moved / torch.where(able, on_others, torch.ones_like(on_others))
    return pattern * torch.where(sinks, sink_factor, torch.where(receives, other_factor, torch.ones_like(moved)))


def layer_range(shape: ModelShape, settings: ActSettings) -> range:
    """Layers whose heads may be calibrated.

    Raises:
        ConfigError: if no layer is left.
    """
    layers = range(settings.skip_first, shape.n_layers - settings.skip_last)
    if not layers:
        raise ConfigError(
            f"no layer is left to calibrate: the model has {shape.n_layers}, of which the first {settings.skip_first} "
            f"and the last {settings.skip_last} are skipped. Lower skip_first or skip_last."
        )
    return layers


def heads_in_range(model: HookedModel, settings: ActSettings) -> tuple[Head, ...]:
    """The heads that the settings name, or all heads of the layer range, in order.

    Raises:
        HeadIndexError: for a label that is none, or a head that the model does not have.
        ConfigError: if no layer is left.
    """
    if settings.heads is None:
        return tuple(Head(layer, h) for layer in layer_range(model.shape, settings) for h in range(model.shape.n_heads))
    return tuple(sorted({Head.parse(label) for label in settings.heads}))


def heads_by_layer(model: HookedModel, heads: Iterable[Head]) -> dict[int, list[int]]:
    """Heads of each layer, in order.

    Raises:
        HeadIndexError: for a head that the model does not have.
    """
    shape, table = model.shape, defaultdict[int, list[int]](list)
    for layer, head in sorted(set(heads)):
        if not (0 <= layer < shape.n_layers and 0 <= head < shape.n_heads):
            raise HeadIndexError(
                f"head L{layer}H{head} does not exist in {model.name!r}: it has layers 0 to {shape.n_layers - 1} with "
                f"heads 0 to {shape.n_heads - 1}."
            )
        table[layer].append(head)
    return dict(table)


class Act(Policy):
    """Calibrates the chosen heads in every row; all other heads attend in full."""

    name: ClassVar[str] = "act"

    def __init__(self, settings: ActSettings, heads: Mapping[int, list[int]], *, lengths: Lengths = None) -> None:
        """For the chosen heads of each layer.

        Args:
            settings: the rule; its ``heads`` and layer range are not looked at here.
            heads: query heads by layer, as `heads_by_layer` gives them.
            lengths: tokens of each text's prompt, from which ``sinks="prompt"`` finds sinks; None: all tokens of the
                first call (right for one text, or texts of one length).
        """
        self.settings, self.heads, self.lengths = settings, dict(heads), lengths

    @classmethod
    def build(cls, model: HookedModel, settings: ActSettings, _: HeadSplit | None = None) -> Act:
        """The heads that the settings name, or all heads of the layer range.

        Raises:
            HeadIndexError: for a head that the model does not have.
            ConfigError: if the layer range is empty.
        """
        return cls(settings, heads_by_layer(model, heads_in_range(model, settings)))

    def layer(self, index: int) -> LayerMemory:
        """A memory that knows the layer's sinks, where heads of it are chosen."""
        if index not in self.heads:
            return Full().layer(index)
        return calibrated_layer(self.settings, self.heads[index], self.lengths)


def calibrated_layer(settings: ActSettings, heads: list[int], lengths: Lengths) -> CalibratedLayer:
    """A fresh memory of one layer, for a sequence that begins."""
    return (
        SinksOfPrompt(settings, heads, lengths) if settings.sinks == "prompt" else SinksSoFar(settings, heads, lengths)
    )


class CalibratedLayer(ABC):
    """One layer of one sequence with some heads calibrated."""

    def __init__(self, settings: ActSettings, heads: list[int], lengths: Lengths) -> None:
        self._settings, self._heads, self._lengths = settings, heads, lengths

    def prepare(self, call: AttentionInput) -> None:
        """Look at a whole call before its rows are mixed."""
        self.look(only_heads(call, self._heads))

    @abstractmethod
    def look(self, chosen: AttentionInput) -> None:
        """`prepare`, of a call that has the chosen heads only."""

    def observe(self, rows: Rows) -> None:
        """Rows that are not calibrated may still say where sinks are."""
        self.sinks(rows.logits[:, self._heads].softmax(-1), rows.first)

    def mix(self, rows: Rows) -> Mixed:
        """All heads attend in full, the chosen ones as calibrated; nothing leaves the cache."""
        overhead = rows.key.shape[2] * len(self._heads) / rows.query.shape[1]  # the column sums
        mixed = Mixed.over(rows, rows.causal[None, None], overhead=overhead)
        weights = mixed.weights.clone()
        weights[:, self._heads] = self.calibrated(mixed.weights[:, self._heads], rows.first)
        return replace(mixed, weights=weights)

    def calibrated(
        self, pattern: Float[Tensor, "batch head row key"], first: int
    ) -> Float[Tensor, "batch head row key"]:
        """The chosen heads' pattern of rows ``first ...``, calibrated; rows come in order, each once."""
        settings = self._settings
        sinks = self.sinks(pattern.detach(), first)
        return calibrate_rows(pattern, sinks, beta=settings.beta, receive_first=settings.receive_first)

    @abstractmethod
    def sinks(self, pattern: Float[Tensor, "batch head row key"], first: int) -> Bool[Tensor, "batch head #row key"]:
        """Sinks of rows ``first ...``."""


class SinksOfPrompt(CalibratedLayer):
    """Sinks found once, from all rows of the prompt: a row's sinks depend on later rows of the prompt."""

    _found: Bool[Tensor, "batch head key"] | None = None

    def look(self, chosen: AttentionInput) -> None:
        """Find the sinks, in the first call of a sequence."""
        if chosen.first_row == 0:
            self._found = find_sinks(chosen, self._settings, self._lengths)

    def sinks(self, pattern: Float[Tensor, "batch head row key"], first: int) -> Bool[Tensor, "batch head #row key"]:
        """The same for all rows; tokens after the first call are none."""
        assert self._found is not None, first
        size = pattern.shape[-1]
        known = self._found[..., :size]
        return torch.nn.functional.pad(known, (0, size - known.shape[-1]))[:, :, None]


class SinksSoFar(CalibratedLayer):
    """Each row judges the columns by the rows up to itself, with T the number of those."""

    _mass: Float[Tensor, "batch head key"] | None = None

    def look(self, chosen: AttentionInput) -> None:
        """Nothing: rows do not depend on what comes later."""

    def sinks(self, pattern: Float[Tensor, "batch head row key"], first: int) -> Bool[Tensor, "batch head #row key"]:
        """Running column sums, carried from call to call."""
        batch, n_heads, n_rows, size = pattern.shape
        before = pattern.new_zeros(batch, n_heads, 0) if self._mass is None else self._mass
        before = torch.nn.functional.pad(before, (0, size - before.shape[-1]))
        mass = before[:, :, None] + pattern.detach().cumsum(2)
        self._mass = mass[:, :, -1]
        rows = torch.arange(first, first + n_rows, device=pattern.device)
        seen_by = rows[:, None] + 1 - torch.arange(size, device=pattern.device)
        sizes = (rows + 1).expand(batch, n_heads, n_rows)
        return sinks_among(mass / seen_by.clamp_min(1), sizes, self._settings)
