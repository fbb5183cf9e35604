"""Policies that look at positions only: sinks and recent tokens, for all heads or for some.

StreamingLLM: Xiao et al. 2024, arXiv 2309.17453, section 3. LM-Infinite: Han et al. 2024, arXiv 2308.16137, section 4.
DuoAttention's deployment: Xiao et al. 2025, arXiv 2410.10819, section 2.3. Per-head spans: MoA, Fu et al. 2024,
arXiv 2406.14909, section 3.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.policies.head_split import HeadSplit, fitting_split
from circuits.policies.policy import RowPolicy
from circuits.policies.rows import Mixed, Rows
from circuits.policies.settings import DuoSettings, FullSettings, InfiniteSettings, SpanSettings, StreamingSettings
from headscope.kernels import expand_kv
from headscope.models.protocol import HookedModel
from headscope.models.rotary import Rotary, rotary_of


def sinks_and_recent(rows: Rows, sink: int, recent: int) -> Bool[Tensor, "row key"]:
    """The first ``sink`` positions, and the last ``recent`` up to and with the row itself."""
    keys = torch.arange(rows.key.shape[2], device=rows.key.device)[None]
    distance = rows.positions[:, None] - keys
    return ((keys < sink) | (distance < recent)) & (distance >= 0)


class Full(RowPolicy):
    """Keeps everything: the model itself, by the policy path."""

    name = "full"

    @classmethod
    def build(cls, model: HookedModel, settings: FullSettings, _: HeadSplit | None = None) -> Full:  # noqa: ARG003
        """There is nothing to set."""
        return cls()

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over all keys."""
        return Mixed.over(rows, rows.causal[None, None])


class Streaming(RowPolicy):
    """Every head keeps the first tokens and the most recent ones.

    With ``positions="cache"`` distances are those inside the cache (a sink is never farther away than the cache is
    long), as in the paper; with ``"text"`` they stay those of the text. Models without rotary positions keep those of
    the text.
    """

    name = "streaming"

    def __init__(self, sink: int, recent: int, rotary: Rotary | None = None) -> None:
        """Keep ``sink`` and ``recent`` tokens; with ``rotary``, at the positions of the cache."""
        self.sink, self.recent, self._rotary = sink, recent, rotary

    @classmethod
    def build(cls, model: HookedModel, settings: StreamingSettings, _: HeadSplit | None = None) -> Streaming:
        """From settings.

        Raises:
            UnsupportedError: for positions of the cache in a model whose rotation is not a fixed one.
        """
        return cls(settings.sink, settings.recent, rotary_of(model) if settings.positions == "cache" else None)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over sinks and recent tokens."""
        visible = sinks_and_recent(rows, self.sink, self.recent)[None, None]
        if self._rotary is None:
            return Mixed.over(rows, visible)
        dropped = (rows.positions + 1 - self.sink - self.recent).clamp_min(0)
        logits = nearer_sinks(rows, self.sink, dropped, self._rotary)
        return Mixed.over(rows, visible, logits=logits)


def nearer_sinks(
    rows: Rows, sink: int, nearer: Int[Tensor, " row"], rotary: Rotary
) -> Float[Tensor, "batch head row key"]:
    """The logits, with the first ``sink`` keys ``nearer`` positions closer to each row; where that is 0, the same."""
    moved = rotary.turn(rows.query.float(), -nearer)
    keys = expand_kv(rows.key[:, :, :sink], rows.query.shape[1]).float()
    close = rows.capped((moved @ keys.mT) * rows.scale)
    logits = rows.logits.clone()
    first = logits[..., : keys.shape[2]]
    moves = (nearer > 0)[:, None] & torch.isfinite(first)
    logits[..., : keys.shape[2]] = torch.where(moves, close, first)
    return logits


class Infinite(RowPolicy):
    """LM-Infinite: the first tokens and a local window; distances beyond a ceiling count as the ceiling."""

    name = "lm-infinite"

    def __init__(self, sink: int, recent: int, ceiling: int, rotary: Rotary | None) -> None:
        """Keep ``sink`` and ``recent`` tokens; with ``rotary``, no distance is above ``ceiling``."""
        self.sink, self.recent, self.ceiling, self._rotary = sink, recent, ceiling, rotary

    @classmethod
    def build(cls, model: HookedModel, settings: InfiniteSettings, _: HeadSplit | None = None) -> Infinite:
        """From settings; the ceiling is the window where it is not given."""
        return cls(settings.sink, settings.recent, settings.ceiling or settings.recent, rotary_of(model))

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over first and recent tokens, far ones brought to the ceiling."""
        visible = sinks_and_recent(rows, self.sink, self.recent)[None, None]
        if self._rotary is None:
            return Mixed.over(rows, visible)
        return Mixed.over(rows, visible, logits=self._ceiled(rows, self._rotary))

    def _ceiled(self, rows: Rows, rotary: Rotary) -> Float[Tensor, "batch head row key"]:
        """Logits in which a first token farther than the ceiling is at the ceiling."""
        first = rows.key[:, :, : self.sink].float()
        where = torch.arange(first.shape[2], device=first.device)
        query = rotary.turn(rows.query.float(), self.ceiling - rows.positions)
        keys = expand_kv(rotary.turn(first, -where), rows.query.shape[1])
        far = rows.capped((query @ keys.mT) * rows.scale)
        beyond = rows.positions[:, None] - where > self.ceiling
        logits = rows.logits.clone()
        logits[..., : len(where)] = torch.where(beyond, far, logits[..., : len(where)])
        return logits


class Duo(RowPolicy):
    """Some key/value heads keep everything, the others sinks and recent tokens; positions are those of the text."""

    name = "duo"

    def __init__(self, split: HeadSplit, sink: int, recent: int) -> None:
        """Keep everything where ``split`` says so."""
        self.split, self.sink, self.recent = split, sink, recent
        self._full = torch.from_numpy(split.full)

    @classmethod
    def build(cls, model: HookedModel, settings: DuoSettings, split: HeadSplit | None = None) -> Duo:
        """From settings and an assignment of heads.

        Raises:
            ConfigError: without an assignment, or with that of another model.
        """
        return cls(split_for(model, cls.name, split), settings.sink, settings.recent)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over all keys, or over sinks and recent tokens."""
        full = self._full[rows.layer].to(rows.key.device)
        full = full.repeat_interleave(rows.query.shape[1] // len(full))[None, :, None, None]
        return Mixed.over(rows, full | sinks_and_recent(rows, self.sink, self.recent)[None, None])


def split_for(model: HookedModel, name: str, split: HeadSplit | None) -> HeadSplit:
    """The assignment of a policy that needs one.

    Raises:
        ConfigError: if there is none, or it is that of another model.
    """
    return fitting_split(name, split, (model.shape.n_layers, model.shape.n_kv_heads))


class Spans(RowPolicy):
    """MoA: every head has a window of its own, ``span = base + slope * tokens so far``, and the first tokens."""

    name = "moa"

    def __init__(self, base: Float[Tensor, "layer head"], slope: Float[Tensor, "layer head"], sink: int) -> None:
        """Windows of every query head."""
        self.base, self.slope, self.sink = base, slope, sink

    @classmethod
    def build(cls, model: HookedModel, settings: SpanSettings, _: HeadSplit | None = None) -> Spans:
        """The same window for every head, the uniform baseline; `circuits.policies.span_search` searches others."""
        blank = torch.ones(model.shape.n_layers, model.shape.n_heads)
        return cls(settings.base * blank, settings.slope * blank, settings.sink)

    def mix(self, rows: Rows) -> Mixed:
        """Softmax over each head's window."""
        base, slope = (part[rows.layer].to(rows.key.device)[:, None, None] for part in (self.base, self.slope))
        length = (rows.positions + 1)[None, :, None]
        keys = torch.arange(rows.key.shape[2], device=rows.key.device)
        distance = rows.positions[:, None] - keys
        visible = (distance < base + slope * length) | (keys < self.sink)
        return Mixed.over(rows, visible[None])
