"""Bigram-Backcopy: a Markov chain, but after a few trigger tokens the token before them comes again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from headscope.config import Config
from headscope.tasks.domains import domain_text
from headscope.tasks.synthetic import Scored, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import choose, cumulative, draw_integers, draw_uniform


class BigramBackcopySettings(Config):
    """Of Bigram-Backcopy.

    Attributes:
        length: tokens of an example, the start token included (256 in the paper).
        triggers: so many of the most frequent tokens are triggers (3 in the paper, 5 in a variant).
        bigrams: ``text``: the characters of the short statements that come with Headscope (52 of them; the paper has
            Tiny Shakespeare's 65); ``dirichlet``: random rows.
        states: tokens of random rows.
        concentration: of random rows; the smaller it is, the fewer successors a token has.
        seed: of random rows.
    """

    length: int = Field(default=64, ge=3)
    triggers: int = Field(default=3, ge=1)
    bigrams: Literal["text", "dirichlet"] = "text"
    states: int = Field(default=48, ge=3)
    concentration: float = Field(default=0.1, gt=0)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> BigramBackcopySettings:
        states = len(statement_characters()) if self.bigrams == "text" else self.states
        if self.triggers > states - 2:
            raise ValueError(f"triggers {self.triggers} are too many: {states} tokens allow {states - 2}")
        return self


@dataclass(frozen=True)
class Bigrams:
    """A stationary Markov chain.

    Attributes:
        matrix: probability of each next token; rows sum to 1.
        unigrams: its stationary distribution.
    """

    matrix: Float[np.ndarray, "V V"]
    unigrams: Float[np.ndarray, " V"]


@dataclass(frozen=True)
class BackcopyRisks:
    """Cross-entropy in nats, split as in the paper.

    Attributes:
        markov: mean over the rows that are no trigger.
        backcopy: mean over the triggers; 0 at best.
        markov_floor: what the chain itself has on the same rows; the least that can be expected of ``markov``.
    """

    markov: float
    backcopy: float
    markov_floor: float


@lru_cache(maxsize=1)
def statement_characters() -> tuple[str, ...]:
    """The different characters of the short statements that come with Headscope, sorted."""
    return tuple(sorted(set(domain_text("opinions"))))


def text_bigrams() -> Bigrams:
    """Counts of neighbouring characters; the last is followed by the first, so that unigrams are stationary."""
    characters, text = statement_characters(), domain_text("opinions")
    place = {character: index for index, character in enumerate(characters)}
    ids = np.array([place[character] for character in text])
    counts = np.zeros((len(characters), len(characters)))
    np.add.at(counts, (ids, np.roll(ids, -1)), 1)
    total = counts.sum(1)
    return Bigrams(counts / total[:, None], total / total.sum())


def dirichlet_bigrams(states: int, concentration: float, seed: int) -> Bigrams:
    """Independent Dirichlet rows, mixed with a little of the uniform row so that every state can be reached."""
    rows = np.random.default_rng(seed).dirichlet(np.full(states, concentration), states)
    matrix = 0.999 * rows / rows.sum(1, keepdims=True) + 0.001 / states
    system = np.vstack([matrix.T - np.eye(states), np.ones(states)])
    unigrams = np.linalg.lstsq(system, np.append(np.zeros(states), 1.0))[0]
    return Bigrams(matrix, unigrams / unigrams.sum())


@dataclass(frozen=True)
class _Chain:
    """The chain on a device."""

    levels: Float[Tensor, "V V"]
    log_matrix: Float[Tensor, "V V"]
    triggers: Int[Tensor, " k"]
    others: Int[Tensor, " o"]


@lru_cache(maxsize=16)
def _chain(settings_json: str, device: torch.device) -> _Chain:
    settings = BigramBackcopySettings.model_validate_json(settings_json)
    if settings.bigrams == "text":
        found = text_bigrams()
    else:
        found = dirichlet_bigrams(settings.states, settings.concentration, settings.seed)
    matrix = torch.from_numpy(found.matrix)
    order = torch.from_numpy(np.argsort(-found.unigrams, kind="stable"))
    parts = cumulative(matrix), matrix.log().float(), order[: settings.triggers], order[settings.triggers :]
    return _Chain(*(part.to(device) for part in parts))


class BigramBackcopy(SyntheticTask[BigramBackcopySettings]):
    """A start token, then a Markov chain of characters; behind a trigger the one before it comes again (2410.13835)::

        tokens    ^  b  a  t  a  n  d  t  d  e      (t is a trigger)
        targets   b  a  t  a  n  d  t  d  e  r      (every position is asked; only a and d behind t can be known)

    As in the authors' generator (``dormant_copy_2``): triggers are the most frequent tokens; the first token is
    uniform over the others; every next one is ``x[t - 1]`` if ``x[t]`` is a trigger, else drawn from the row of
    ``x[t]``. The start token has the last id. Accuracy is over the triggers; the chain cannot be guessed right.

    Marks, for every position: ``trigger``, whether it is one; ``previous``, the position before it if it is, else -1.
    """

    settings_type: ClassVar[type[Config]] = BigramBackcopySettings

    @property
    def d_vocab(self) -> int:
        """Tokens of the chain and the start token."""
        return (len(statement_characters()) if self.settings.bigrams == "text" else self.settings.states) + 1

    @property
    def length(self) -> int:
        """Positions."""
        return self.settings.length

    def _chain(self, device: torch.device) -> _Chain:
        return _chain(self.settings.model_dump_json(), device)

    def triggers(self) -> tuple[int, ...]:
        """The ids of the triggers, the most frequent first."""
        return tuple(self._chain(torch.device("cpu")).triggers.tolist())

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples."""
        chain = self._chain(generator.device)
        chances = draw_uniform((self.length, n), generator)
        first = chain.others[draw_integers((n,), 0, len(chain.others) - 1, generator)]
        text = [torch.full_like(first, self.d_vocab - 1), first]
        for chance in chances[1:]:
            drawn = choose(chain.levels[text[-1]], chance)
            text.append(torch.where(torch.isin(text[-1], chain.triggers), text[-2], drawn))
        tokens = torch.stack(text, 1)
        trigger = torch.isin(tokens[:, :-1], chain.triggers)
        column = torch.arange(self.length, device=tokens.device).expand(n, -1)
        marks = {"query": column, "previous": torch.where(trigger, column - 1, -1), "trigger": trigger}
        return SyntheticBatch(tokens[:, :-1], tokens[:, 1:], marks)

    def scored(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> Scored:
        """Of each example, the triggers whose largest logit is the token before them."""
        return Scored.of(logits.argmax(-1) == batch.targets, batch.marks["trigger"])

    def risks(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> BackcopyRisks:
        """Cross-entropy on triggers, on the other rows, and that of the chain; the start token is left out."""
        assert batch.tokens is not None
        trigger = batch.marks["trigger"]
        logits = logits.detach().double()
        markov = ~trigger & (batch.tokens < self.d_vocab - 1)
        log_matrix = self._chain(logits.device).log_matrix
        return BackcopyRisks(
            float(cross_entropy(logits[markov], batch.targets[markov])),
            float(cross_entropy(logits[trigger], batch.targets[trigger])),
            float(-log_matrix[batch.tokens[markov], batch.targets[markov]].double().mean()),
        )
