"""Selective copying: some tokens among blanks, to be written down in order at the end (Mamba)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator

from headscope.config import Config
from headscope.tasks.synthetic import NOTHING_ASKED, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import draw_integers, draw_subset


class SelectiveCopyingSettings(Config):
    """Of selective copying.

    Attributes:
        d_vocab: token ids: the last is the order to copy, the one before it the blank, the others are copied.
        length: tokens of an example.
        copied: tokens to copy.
    """

    d_vocab: int = Field(default=16, ge=4)
    length: int = Field(default=64, ge=4)
    copied: int = Field(default=8, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> SelectiveCopyingSettings:
        if self.length < 2 * self.copied + 1:
            raise ValueError(
                f"copying {self.copied} tokens needs a length of {2 * self.copied + 1}: given {self.length}"
            )
        return self


class SelectiveCopying(SyntheticTask[SelectiveCopyingSettings]):
    """Random tokens at random places among blanks; from the order to copy on, each blank asks for one, in order::

        tokens    _  c  _  _  a  d  _  >  _  _  _
        targets   .  .  .  .  .  .  .  .  c  a  d

    The task of Mamba (2312.00752, section 4.1.1: 16 tokens among 4096) with the ids of MAD (2403.17844: 16 of 256
    tokens, 16 ids). Places are any subset of those before the order, as in Mamba; MAD's generator puts no blank behind
    the last token. A token may come several times.

    Marks: ``source``, the position of the token that is asked.
    """

    settings_type: ClassVar[type[Config]] = SelectiveCopyingSettings

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
        blank, order = settings.d_vocab - 2, settings.length - settings.copied - 1
        content = draw_integers((n, settings.copied), 0, blank - 1, generator)
        source = draw_subset(order, n, settings.copied, generator).sort(1).values
        tokens = torch.full((n, settings.length), blank, device=content.device).scatter(1, source, content)
        tokens[:, order] = blank + 1
        targets = torch.full_like(tokens, NOTHING_ASKED)
        targets[:, order + 1 :] = content
        asked = torch.arange(order + 1, settings.length, device=content.device).expand(n, -1)
        return SyntheticBatch(tokens, targets, {"query": asked, "source": source}, asked=asked)
