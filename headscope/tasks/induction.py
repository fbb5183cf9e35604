"""Random tokens that repeat after a random number of them: what follows a token the second time is known."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator

from headscope.config import Config
from headscope.tasks.synthetic import NOTHING_ASKED, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import draw_integers, draw_subset


class InductionSettings(Config):
    """Of induction.

    Attributes:
        d_vocab: token ids: 0 starts the text, the others are repeated.
        length: tokens of an example.
        shortest: tokens of the shortest period.
        longest: tokens of the longest period; every length between is equally likely.
    """

    d_vocab: int = Field(default=64, ge=3)
    length: int = Field(default=64, ge=4)
    shortest: int = Field(default=8, ge=2)
    longest: int = Field(default=24, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> InductionSettings:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is above longest {self.longest}")
        if self.longest > self.d_vocab - 1:
            raise ValueError(f"a period of {self.longest} different tokens needs a d_vocab of {self.longest + 1}")
        if self.longest + 2 > self.length:
            raise ValueError(f"a period of {self.longest} tokens comes again only from a length of {self.longest + 2}")
        return self


class Induction(SyntheticTask[InductionSettings]):
    """A start token, then different random tokens, again and again; asked from the second copy on::

        tokens    0  c  a  d  b  c  a  d  b  c  a
        targets   .  .  .  .  .  a  d  b  c  a  d

    The period differs from text to text, so that counting back a fixed distance does not help: the token itself has to
    be found again (induction heads, 2209.11895). No token comes twice in a period, so each has one answer.

    Marks, for every position, -1 where nothing is asked: ``induction``, the position after this token's last
    occurrence, which holds the answer; ``duplicate``, that occurrence itself; ``previous``, the position before.
    """

    settings_type: ClassVar[type[Config]] = InductionSettings

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
        settings = self.settings
        drawn = 1 + draw_subset(settings.d_vocab - 1, n, settings.longest, generator)
        period = draw_integers((n, 1), settings.shortest, settings.longest, generator)
        column = torch.arange(settings.length + 1, device=drawn.device).expand(n, -1)
        text = drawn.gather(1, (column - 1).clamp(min=0) % period)
        text[:, 0] = 0
        column = column[:, :-1]
        asked = column > period
        targets = torch.where(asked, text[:, 1:], NOTHING_ASKED)
        marks = {
            "query": column,
            "induction": torch.where(asked, column - period + 1, -1),
            "duplicate": torch.where(asked, column - period, -1),
            "previous": torch.where(asked, column - 1, -1),
        }
        return SyntheticBatch(text[:, :-1], targets, marks)
