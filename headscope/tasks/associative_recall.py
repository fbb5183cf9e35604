"""Multi-query associative recall: pairs of a key and a value, then keys alone whose value is asked (Zoology)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from headscope.config import Config
from headscope.tasks.synthetic import NOTHING_ASKED, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import draw_distinct, draw_integers, draw_subset


class AssociativeRecallSettings(Config):
    """Of associative recall.

    Attributes:
        d_vocab: token ids: 0 is the filler, keys are those up to ``d_vocab // 2 - 1``, values the rest.
        length: tokens of an example; even, and below ``d_vocab``.
        pairs: different keys, each with a value of its own.
        power: queries lie ``2 g`` behind the pairs, with probability as ``(g + 1) ** (power - 1)``; 1 is uniform.
        passes: how often the pairs are written down (twice: JRT, 2407.05483).
        updates: so many keys get a new value after the pairs, and the last one counts.
        filler: what stands between queries: token 0, or any token at random.
    """

    d_vocab: int = Field(default=256, ge=4)
    length: int = Field(default=64, ge=4)
    pairs: int = Field(default=8, ge=1)
    power: float = Field(default=0.01, gt=0)
    passes: int = Field(default=1, ge=1)
    updates: int = Field(default=0, ge=0)
    filler: Literal["zero", "random"] = "zero"

    @model_validator(mode="after")
    def _fits(self) -> AssociativeRecallSettings:
        if self.length % 2:
            raise ValueError(f"length {self.length} is odd: make it even")
        if self.d_vocab <= self.length:
            raise ValueError(f"d_vocab {self.d_vocab} is not above length {self.length}")
        if self.updates > self.pairs:
            raise ValueError(f"updates {self.updates} are more than pairs {self.pairs}")
        if self.updates and self.passes > 1:
            raise ValueError("updates go with one pass only: set passes to 1, or updates to 0")
        needed = self.context + 2 * self.pairs
        if needed > self.length:
            raise ValueError(f"pairs, updates and queries need a length of {needed}, given {self.length}")
        return self

    @property
    def context(self) -> int:
        """Tokens before the first place of a query."""
        return 2 * (self.pairs * self.passes + self.updates)


class AssociativeRecall(SyntheticTask[AssociativeRecallSettings]):
    """Pairs of a key and a value, then each key once more: which value did it have? (MQAR, 2312.04927, appendix E)::

                 key val key val         query                   query
        tokens    2   8   4   7   0   0    4   0   0   0   0   0   2   0
        targets   .   .   .   .   .   .    7   .   .   .   .   .   8   .

    The layout is that of the authors' generator (HazyResearch/zoology, ``multiquery_ar`` and ``forgetting_mqar``).
    Different from theirs: a new value always differs from the key's old one (theirs differs from that of another key),
    and fillers are token 0 by default, as in the configurations of the paper. With random fillers a filler may look
    like a query, but is not asked.

    Marks, for each query and pass: ``key`` and ``value``, the positions of its pair (of the last one where the key was
    given a new value), and ``old_key`` and ``old_value``, those of the pair that was replaced.
    """

    settings_type: ClassVar[type[Config]] = AssociativeRecallSettings

    @property
    def d_vocab(self) -> int:
        """Token ids."""
        return self.settings.d_vocab

    @property
    def length(self) -> int:
        """Positions."""
        return self.settings.length

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples."""
        settings, half = self.settings, self.settings.d_vocab // 2
        keys = 1 + draw_subset(half - 1, n, settings.pairs, generator)
        values = half + draw_subset(settings.d_vocab - half, n, settings.pairs, generator)
        pairs = torch.stack([keys, values], 2).flatten(1).repeat(1, settings.passes)
        updated = draw_subset(settings.pairs, n, settings.updates, generator)
        shift = draw_integers((n, settings.updates), 1, settings.d_vocab - half - 1, generator)
        new = half + (values.gather(1, updated) - half + shift) % (settings.d_vocab - half)
        pairs = torch.cat([pairs, torch.stack([keys.gather(1, updated), new], 2).flatten(1)], 1)
        query = self._places(n, generator)
        tokens = self._filler(n, generator).scatter(1, query, keys)
        tokens[:, : settings.context] = pairs
        targets = torch.full_like(tokens, NOTHING_ASKED)
        targets.scatter_(1, query, values.scatter(1, updated, new))
        return SyntheticBatch(tokens, targets, self._marks(query, updated), asked=query)

    def _places(self, n: int, generator: torch.Generator) -> Int[Tensor, "n pairs"]:
        """Where each key is asked for."""
        free = (self.settings.length - self.settings.context) // 2
        places = torch.arange(1, free + 1, dtype=torch.float32, device=generator.device)
        weights = places ** (self.settings.power - 1)
        return self.settings.context + 2 * draw_distinct(weights, n, self.settings.pairs, generator)

    def _filler(self, n: int, generator: torch.Generator) -> Int[Tensor, "n T"]:
        highest = 0 if self.settings.filler == "zero" else self.settings.d_vocab - 1
        return draw_integers((n, self.settings.length), 0, highest, generator)

    def _marks(self, query: Int[Tensor, "n pairs"], updated: Int[Tensor, "n updates"]) -> dict[str, Tensor]:
        """Positions of pairs, of every pass."""
        settings, device = self.settings, query.device
        first = 2 * torch.arange(settings.pairs * settings.passes, device=device).repeat(query.shape[0], 1)
        if not settings.updates:
            return {"query": query.repeat(1, settings.passes), "key": first, "value": first + 1}
        again = 2 * (settings.pairs + torch.arange(settings.updates, device=device)).repeat(query.shape[0], 1)
        old = torch.full_like(first, -1).scatter(1, updated, first.gather(1, updated))
        key = first.scatter(1, updated, again)
        return {
            "query": query,
            "key": key,
            "value": key + 1,
            "old_key": old,
            "old_value": torch.where(old < 0, old, old + 1),
        }
