"""In-context recall of keys that come again and again, between noise (MAD)."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from pydantic import Field, model_validator
from torch import Tensor

from headscope.config import Config
from headscope.tasks.synthetic import NOTHING_ASKED, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import draw_integers, draw_uniform


class NoisyRecallSettings(Config):
    """Of noisy recall.

    Attributes:
        keys: different keys; ids 0 to ``keys - 1``.
        values: different values; the ids behind the keys.
        noise_tokens: different noise tokens; the last ids.
        length: tokens of an example, even.
        noise: share of pairs that are noise; 0 is MAD's plain in-context recall.
    """

    keys: int = Field(default=8, ge=1)
    values: int = Field(default=8, ge=2)
    noise_tokens: int = Field(default=16, ge=1)
    length: int = Field(default=64, ge=4)
    noise: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _fits(self) -> NoisyRecallSettings:
        if self.length % 2:
            raise ValueError(f"length {self.length} is odd: make it even")
        return self


class NoisyRecall(SyntheticTask[NoisyRecallSettings]):
    """Keys, each followed by its value in this text; some pairs are noise (MAD, 2403.17844, section 3.1)::

        tokens    c 5  a 7  # %  c 5  & #  a 7      (# % & are noise)
        targets   . .  . .  . .  5 .  . .  7 .

    Keys are drawn with replacement, and their values too, so that keys may share one; a key is asked from its second
    time on. The last pair is a key that was seen. The layout is that of the authors' generator with ``multi_query`` on,
    which trains on every next token and evaluates on these targets; here these are also what is trained on.

    Marks, for each pair: ``query``, the position of its key; ``key`` and ``value``, those of the last pair with the
    same key, -1 where it is not asked.
    """

    settings_type: ClassVar[type[Config]] = NoisyRecallSettings

    @property
    def d_vocab(self) -> int:
        """Keys, values and noise."""
        return self.settings.keys + self.settings.values + self.settings.noise_tokens

    @property
    def length(self) -> int:
        """Positions."""
        return self.settings.length

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples."""
        settings, pairs = self.settings, self.settings.length // 2
        first_noise = settings.keys + settings.values
        values = draw_integers((n, settings.keys), settings.keys, first_noise - 1, generator)
        keys = draw_integers((n, pairs), 0, settings.keys - 1, generator)
        noisy = draw_uniform((n, pairs), generator) < settings.noise
        sure = draw_integers((n, 1), 0, pairs - 2, generator)
        noisy.scatter_(1, sure, torch.zeros_like(sure, dtype=torch.bool))
        noisy[:, -1] = False
        keys[:, -1] = self._seen_key(keys[:, :-1], noisy[:, :-1], generator)
        noise = draw_integers((n, pairs, 2), first_noise, self.d_vocab - 1, generator)
        pair = torch.stack([keys, values.gather(1, keys)], 2)
        pair = torch.where(noisy[..., None], noise, pair)
        place = torch.arange(pairs, device=keys.device)
        same = (keys[:, :, None] == keys[:, None]) & ~noisy[:, :, None] & ~noisy[:, None]
        last = torch.where(same & (place < place[:, None]), place, -1).amax(2)
        target = torch.where(last >= 0, pair[..., 1], NOTHING_ASKED)
        targets = torch.stack([target, torch.full_like(target, NOTHING_ASKED)], 2).flatten(1)
        marks = {
            "query": (2 * place).expand(n, -1),
            "key": torch.where(last >= 0, 2 * last, -1),
            "value": torch.where(last >= 0, 2 * last + 1, -1),
        }
        return SyntheticBatch(pair.flatten(1), targets, marks)

    def _seen_key(
        self, keys: Int[Tensor, "n P"], noisy: Bool[Tensor, "n P"], generator: torch.Generator
    ) -> Int[Tensor, " n"]:
        """One of the keys that are no noise, each different one equally likely."""
        seen = torch.zeros(len(keys), self.settings.keys + 1, device=keys.device)
        seen.scatter_(1, keys.masked_fill(noisy, self.settings.keys), 1.0)
        seen = seen[:, :-1] > 0
        return draw_uniform((len(keys), self.settings.keys), generator).masked_fill(~seen, -1).argmax(1)
