"""What a probe is: definitions, and a measurement that gives one value per example and head."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.errors import TaskError
from headscope.heads import HeadScores, ScoreDefinition
from headscope.models.protocol import HookedModel
from headscope.statistics import bootstrap_mean, count_examples
from headscope.tasks import Needle, load_haystack
from headscope.tasks.needle import choose_needles, load_needles
from probes.settings import ProbeConfig

Samples = Mapping[str, Float[np.ndarray, "example layer head"]]
OnStep = Callable[[int, int], None]

_TOKENS_PER_FORWARD = 2048
_LENGTHS, _PROSE_LENGTH = (256, 512, 1024), 256


@dataclass(frozen=True)
class Bench:
    """A model on the bench: what a measurement is given.

    Attributes:
        model: the model.
        config: how it is measured.
        part: which needles: all; or, where heads are chosen by one measurement and judged by another, every second one
            for each. A single needle is in both parts.
    """

    model: HookedModel
    config: ProbeConfig = field(default_factory=ProbeConfig)
    part: Literal["all", "choose", "judge"] = "all"

    @cached_property
    def _texts(self) -> tuple[str, str]:
        whole = load_haystack(self.config.haystack)
        cut = max(whole.find(" ", len(whole) * 3 // 4), 0)
        return whole[:cut], whole[cut:]

    @property
    def haystack(self) -> str:
        """The text that heads are scored on: the first three quarters of the haystack."""
        return self._texts[0]

    @property
    def held_out(self) -> str:
        """The text that causal checks are run on: the last quarter, which no head was scored on."""
        return self._texts[1]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Needle prompt lengths: those asked for, or the default ones that fit the context with their answer.

        Raises:
            TaskError: if not even the shortest default fits.
        """
        longest = max(len(self.model.encode(" " + needle.answer)) for needle in self.needles)
        room = self.model.shape.n_ctx - longest
        found = self.config.lengths or tuple(length for length in _LENGTHS if length <= room)
        if not found:
            raise TaskError(
                f"the context of {self.model.name!r} ({self.model.shape.n_ctx} tokens) is too short for the default "
                f"needle lengths {_LENGTHS}. Pass --lengths of at most {room}."
            )
        return found

    @property
    def prose_length(self) -> int:
        """Tokens per passage of prose."""
        return self.config.prose_length or min(_PROSE_LENGTH, self.model.shape.n_ctx)

    @cached_property
    def needles(self) -> tuple[Needle, ...]:
        """The needles that prompts are built with."""
        found = self._all_needles
        if self.part == "all" or len(found) < 2:
            return found
        return found[::2] if self.part == "choose" else found[1::2]

    @property
    def _all_needles(self) -> tuple[Needle, ...]:
        if self.config.needle_file is not None:
            return load_needles(self.config.needle_file)
        if self.model.needles and not self.config.needles:
            return self.model.needles  # a model of few words brings needles made of them
        return choose_needles(self.config.needles)

    def generator(self, purpose: str) -> torch.Generator:
        """A generator that depends on the seed and the purpose only, so that probes can run in any order."""
        return torch.Generator().manual_seed(self.config.seed * 1_000_003 + zlib.crc32(purpose.encode()))

    def zeros(self, n: int) -> Float[np.ndarray, "example layer head"]:
        """An empty table of samples."""
        return np.zeros((n, self.model.shape.n_layers, self.model.shape.n_heads), dtype=np.float32)


@dataclass(frozen=True)
class Probe:
    """A named measurement.

    Attributes:
        name: what the command line calls it.
        summary: one line for people.
        definitions: the scores it gives; the first is the one the probe is named for.
        measure: gives the samples of every score.
        needs: the capability it cannot do without, besides the reading itself.
    """

    name: str
    summary: str
    definitions: tuple[ScoreDefinition, ...]
    measure: Callable[[Bench, OnStep], Samples]
    needs: Literal["reading", "bridge"] = "reading"


def no_progress(done: int, total: int) -> None:
    """The default progress callback: nothing."""


def batches(tokens: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Cut a batch so that one forward pass takes about two thousand tokens."""
    size = max(1, _TOKENS_PER_FORWARD // tokens.shape[1])
    for first in range(0, len(tokens), size):
        yield slice(first, first + size), tokens[first : first + size]


def summarise(
    definition: ScoreDefinition,
    samples: Float[np.ndarray, "example layer head"],
    model: HookedModel,
    *,
    seed: int,
) -> HeadScores:
    """Mean over examples with n and a 95 % percentile-bootstrap interval (1,000 resamples of examples).

    NaN samples are examples that do not count for that head. A single example is a property of the weights,
    not a sample: its interval is NaN.
    """
    generator = np.random.default_rng([seed, zlib.crc32(definition.name.encode())])
    count = count_examples(samples)
    if len(samples) == 1:
        blank = np.full(samples.shape[1:], np.nan)
        mean, low, high = samples[0].astype(np.float64), blank, blank
    else:
        mean, low, high = bootstrap_mean(samples, generator=generator)
    return HeadScores(definition, model.name, mean, low, high, count.astype(np.int64), model.shape.n_kv_heads)
