"""Settings of policies whose heads have to be found first, and of finding them. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from circuits.policies.settings import PolicySettings
from headscope.config import Config


class RazorSettings(PolicySettings):
    """Of RazorAttention. The paper keeps at least 4,000 recent tokens, so that shorter texts stay whole.

    Attributes:
        sink: first tokens that heads outside the split keep.
        recent: fewest most recent tokens that they keep, the row itself included (4,000 in the paper).
        recent_share: they keep this share of the text so far, where that is more.
        compensate: whether one token stands for those dropped, the mean of their keys and values.
    """

    sink: int = Field(default=4, ge=0)
    recent: int = Field(default=256, ge=1)
    recent_share: float = Field(default=0.2, ge=0, le=1)
    compensate: bool = True

    def sized(self, budget: int) -> PolicySettings:
        """Heads outside the split keep ``budget`` entries, the compensation token among them, however long the text;
        at most a quarter are first tokens, and a budget of one token has no room for compensation."""
        sink, compensate = min(self.sink, budget // 4), self.compensate and budget > 1
        recent = max(1, budget - sink - compensate)
        return self.model_copy(update={"sink": sink, "recent": recent, "recent_share": 0.0, "compensate": compensate})


class RazorHeadSettings(Config):
    """Of the probe that finds RazorAttention's heads, and of the split.

    Attributes:
        seed: of the random tokens.
        examples: sequences (one in the paper).
        period: random tokens per copy, none twice (2,500 in the paper, with accidental repeats).
        copies: copies per sequence.
        induction_share: of key/value heads, those with the highest induction scores keep everything.
        echo_share: likewise by echo score.
    """

    seed: int = Field(default=0, ge=0, lt=2**32)
    examples: int = Field(default=2, ge=1)
    period: int = Field(default=256, ge=2)
    copies: int = Field(default=4, ge=2)
    induction_share: float = Field(default=0.14, ge=0, le=1)
    echo_share: float = Field(default=0.01, ge=0, le=1)


class GateSettings(Config):
    """Of DuoAttention's gate optimisation; steps, rate and weight are those of the release.

    Attributes:
        sink: first tokens that the streaming part sees (128 in the release).
        recent: most recent tokens that it sees, the row itself included.
        steps: optimiser steps.
        rate: highest learning rate; it begins and ends at a tenth of it.
        warm_up: share of the steps over which the rate rises, and falls again at the end.
        penalty: weight of the gates in the loss.
        penalise: their mean (the release), or their sum (the paper's equation 2).
        rows: compare hidden states at the ``labels`` themselves (the release), or at the rows that predict them
            (``counted``).
        checkpoint: recompute each layer in the backward pass instead of keeping what it computed: less memory, a
            third more time.
    """

    sink: int = Field(default=128, ge=0)
    recent: int = Field(default=256, ge=1)
    steps: int = Field(default=2000, ge=1)
    rate: float = Field(default=0.02, gt=0)
    warm_up: float = Field(default=0.2, ge=0, le=0.5)
    penalty: float = Field(default=0.05, ge=0)
    penalise: Literal["mean", "sum"] = "mean"
    rows: Literal["labels", "counted"] = "labels"
    checkpoint: bool = False


class PasskeySettings(Config):
    """Of the texts that gates are trained on (the release: 1,000 to 32,000 tokens, 10 passkeys of 32 words).

    Attributes:
        seed: of every draw; each step has a generator of its own.
        shortest: fewest tokens.
        longest: most tokens.
        lengths: how many lengths, evenly between; a step draws one of them.
        batch: texts per step.
        passkeys: passkeys per text.
        words: words per passkey.
    """

    seed: int = Field(default=0, ge=0, lt=2**31)
    shortest: int = Field(default=512, ge=1)
    longest: int = Field(default=1024, ge=1)
    lengths: int = Field(default=50, ge=1)
    batch: int = Field(default=1, ge=1)
    passkeys: int = Field(default=10, ge=1)
    words: int = Field(default=32, ge=1)


class SpanSearchSettings(Config):
    """Of MoA's search: what each head may choose from, and what all may spend.

    Attributes:
        sink: first tokens that every head keeps.
        bases: windows in tokens.
        slopes: what a window may grow by per token of text; every pair of a base and a slope is a rule, and so is
            keeping everything.
        budget: share of the full cache at every length searched over.
        estimate: how the loss of a shorter window is estimated, see `circuits.policies.span_influence`.
        supervision: ``model``: the loss is that of the model's own first choices (the paper: its own answers);
            ``text``: of the text.
        count: ``cache``: what a key/value head holds for all its query heads counts, and these share a rule;
            ``keys``: what each query head attends to counts, and each has its own.
    """

    sink: int = Field(default=4, ge=0)
    bases: tuple[int, ...] = Field(default=(16, 32, 64, 128, 256, 512), min_length=1)
    slopes: tuple[float, ...] = Field(default=(0.0, 0.125, 0.25, 0.5), min_length=1)
    budget: float = Field(default=0.5, gt=0, le=1)
    estimate: Literal["window", "cells", "exact"] = "window"
    supervision: Literal["model", "text"] = "model"
    count: Literal["cache", "keys"] = "cache"
