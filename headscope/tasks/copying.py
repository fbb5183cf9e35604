"""Copying a string, and continuing it from a few letters ("Repeat After Me", 2402.01032)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from pydantic import Field, model_validator
from torch import Tensor

from headscope.config import Config
from headscope.errors import ConfigError
from headscope.tasks.synthetic import NOTHING_ASKED, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import draw_integers

_SPECIAL = 4  # start, bar, end, padding: the ids that follow the letters


class CopyingSettings(Config):
    """Of copying.

    Attributes:
        letters: different letters; ids 0 to ``letters - 1``.
        shortest: letters of the shortest string.
        longest: letters of the longest string; every length between is equally likely.
    """

    letters: int = Field(default=26, ge=2)
    shortest: int = Field(default=4, ge=1)
    longest: int = Field(default=24, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> CopyingSettings:
        if self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} is above longest {self.longest}")
        return self


class Copying(SyntheticTask[CopyingSettings]):
    """A string of random letters after ``$``, then again after ``|``, until ``.`` (2402.01032, section 3)::

        tokens    $  c  a  d  a  |  c  a  d  a  *  *
        targets   -  -  -  -  -  c  a  d  a  .  -  -

    One string an example, padded on the right with ``*``, as the authors evaluate; they train on several in a row.
    The ids behind the letters are start, bar, end and padding. For texts beyond those of training use
    ``task.changed(shortest=..., longest=...)``.

    Marks: ``source``, the position in the first string of the letter that is asked; ``duplicate``, the position before
    it, which holds the letter that the query itself reads (``$`` where the query is the bar); -1 for the end.
    """

    settings_type: ClassVar[type[Config]] = CopyingSettings

    @property
    def d_vocab(self) -> int:
        """Letters, start, bar, end and padding."""
        return self.settings.letters + _SPECIAL

    @property
    def length(self) -> int:
        """Positions: the longest string twice, start and bar; the end is only ever predicted."""
        return 2 * self.settings.longest + 2

    def of_length(self, length: int) -> Copying:
        """Strings that fill texts of this length: all have ``(length - 2) / 2`` letters.

        Raises:
            ConfigError: if the length is odd or below 4.
        """
        if length % 2 or length < 4:
            raise ConfigError(f"copying has no texts of {length} tokens: give an even length from 4 on.")
        letters = length // 2 - 1
        return Copying(self.settings.model_copy(update={"shortest": letters, "longest": letters}))

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples."""
        settings, letters = self.settings, self.settings.letters
        string = draw_integers((n, settings.longest), 0, letters - 1, generator)
        size = draw_integers((n, 1), settings.shortest, settings.longest, generator)
        column = torch.arange(self.length + 1, device=string.device).expand(n, -1)
        text = torch.full_like(column, letters + 3)
        text[:, 0] = letters
        copied = column - size - 2  # the letter that stands here in the copy
        first = string.gather(1, (column - 1).clamp(0, settings.longest - 1))
        second = string.gather(1, copied.clamp(0, settings.longest - 1))
        text = torch.where((column >= 1) & (column <= size), first, text)
        text = torch.where(column == size + 1, letters + 1, text)
        text = torch.where((copied >= 0) & (copied < size), second, text)
        text = torch.where(copied == size, letters + 2, text)
        asked = (copied >= -1) & (copied < size)
        targets = torch.where(asked[:, :-1], text[:, 1:], NOTHING_ASKED)
        letter = (copied + 1).masked_fill(~asked | (copied + 1 == size), -1)[:, :-1]
        marks = {
            "query": column[:, :-1],
            "source": torch.where(letter < 0, -1, letter + 1),
            "duplicate": letter,
        }
        return SyntheticBatch(text[:, :-1], targets, marks)


class NgramLookupSettings(Config):
    """Of n-gram lookup.

    Attributes:
        letters: different letters; ids 0 to ``letters - 1``.
        string: letters of the string.
        ngram: letters that are given.
        answer: letters that are asked.
        key: whether the letters are given after the string or before it.
    """

    letters: int = Field(default=26, ge=2)
    string: int = Field(default=24, ge=2)
    ngram: int = Field(default=3, ge=1)
    answer: int = Field(default=4, ge=1)
    key: Literal["suffix", "prefix"] = "suffix"

    @model_validator(mode="after")
    def _fits(self) -> NgramLookupSettings:
        if self.ngram + self.answer > self.string:
            raise ValueError(
                f"ngram {self.ngram} and answer {self.answer} do not fit in a string of {self.string} letters"
            )
        return self


class NgramLookup(SyntheticTask[NgramLookupSettings]):
    """A string, and some letters of it that have to be continued as in the string (2402.01032, section 3)::

        suffix   tokens    $  d  a  c  b  a  e  |  c  b  a  e         prefix   $  c  b  |  d  a  c  b  a  e  |  a  e
                 targets   -  -  -  -  -  -  -  -  -  a  e  .                  -  -  -  -  -  -  -  -  -  -  a  e  .

    The last target is the end of the text. Letters that stand in the string more than once mean their first place, as
    in the authors' generator.

    Marks: ``source``, the position in the string of the letter that is asked; ``duplicate``, the position before it,
    which holds the letter that the query itself reads (another where the query is the bar); -1 for the end.
    """

    settings_type: ClassVar[type[Config]] = NgramLookupSettings

    @property
    def d_vocab(self) -> int:
        """Letters, start, bar, end and padding (which is not used)."""
        return self.settings.letters + _SPECIAL

    @property
    def length(self) -> int:
        """Positions: start, one or two bars, the string, the letters given and the answer."""
        return self.settings.string + self._besides

    @property
    def _besides(self) -> int:
        """Positions that are not the string."""
        settings = self.settings
        return settings.ngram + settings.answer + (2 if settings.key == "suffix" else 3)

    def of_length(self, length: int) -> SyntheticTask[NgramLookupSettings]:
        """Texts of this length, by a longer or shorter string.

        Raises:
            ConfigError: if the string would be too short for the letters that are given and asked.
        """
        return self.changed(string=length - self._besides)

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples."""
        settings = self.settings
        string = draw_integers((n, settings.string), 0, settings.letters - 1, generator)
        places = settings.string - settings.ngram - settings.answer + 1
        chosen = draw_integers((n,), 0, places - 1, generator)
        windows = string.unfold(1, settings.ngram, 1)
        given = windows[torch.arange(n, device=string.device), chosen]
        place = (windows == given[:, None]).all(2).long().argmax(1)
        steps = torch.arange(settings.answer, device=string.device)
        at = place[:, None] + settings.ngram + steps
        text, begin = self._text(string, given, string.gather(1, at))
        asked = torch.arange(self.length - settings.answer - 1, self.length, device=string.device).expand(n, -1)
        targets = text[:, 1:].clone()
        targets[:, : -settings.answer - 1] = NOTHING_ASKED
        end = torch.full_like(at[:, :1], -1)
        source, duplicate = (torch.cat([at + begin - back, end], 1) for back in (0, 1))
        marks = {"query": asked, "source": source, "duplicate": duplicate}
        return SyntheticBatch(text[:, :-1], targets, marks, asked=asked)

    def _text(
        self, string: Int[Tensor, "n L"], given: Int[Tensor, "n G"], answer: Int[Tensor, "n A"]
    ) -> tuple[Int[Tensor, "n T"], int]:
        """The text with its end, and the position of the string."""
        letters = self.settings.letters
        start, bar, end = (torch.full_like(string[:, :1], letters + kind) for kind in range(3))
        if self.settings.key == "suffix":
            return torch.cat([start, string, bar, given, answer, end], 1), 1
        return torch.cat([start, given, bar, string, bar, answer, end], 1), self.settings.ngram + 2
