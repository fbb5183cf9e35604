"""In-context language learning: strings of a random regular language, another one in every text (ICLL)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from headscope.config import Config
from headscope.tasks.synthetic import NOTHING_ASKED, Scored, SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import draw_integers, draw_subset, draw_uniform


class RegularLanguageSettings(Config):
    """Of in-context language learning; the defaults are the paper's, except for the length.

    Attributes:
        symbols: symbols of all languages; ids 0 to ``symbols - 1``.
        fewest_symbols: symbols of the smallest language.
        fewest_states: states of the smallest automaton.
        most_states: states of the largest automaton.
        edges: most edges out of a state; every number from 1 on is equally likely.
        fewest_strings: fewest strings in a text.
        most_strings: most strings in a text.
        longest: symbols of the longest string; every number from 1 on is equally likely.
        length: tokens of an example: longer texts are cut, shorter ones padded (the authors do not cut).
    """

    symbols: int = Field(default=18, ge=2)
    fewest_symbols: int = Field(default=4, ge=1)
    fewest_states: int = Field(default=4, ge=2)
    most_states: int = Field(default=12, ge=2)
    edges: int = Field(default=3, ge=1)
    fewest_strings: int = Field(default=10, ge=1)
    most_strings: int = Field(default=19, ge=1)
    longest: int = Field(default=49, ge=1)
    length: int = Field(default=256, ge=2)

    @model_validator(mode="after")
    def _fits(self) -> RegularLanguageSettings:
        for low, high in (
            ("fewest_symbols", "symbols"),
            ("fewest_states", "most_states"),
            ("fewest_strings", "most_strings"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} {getattr(self, low)} is above {high} {getattr(self, high)}")
        if self.edges > self.fewest_symbols or self.edges >= self.fewest_states:
            raise ValueError(
                f"edges {self.edges} need as many symbols and one state more, but fewest_symbols is "
                f"{self.fewest_symbols} and fewest_states {self.fewest_states}"
            )
        return self


@dataclass(frozen=True)
class RandomAutomata:
    """One automaton for each example: edges out of every state, all equally likely; state 0 starts every string.

    Attributes:
        symbol: what each edge writes.
        to: the state it leads to.
        edges: so many of a state's edges exist; the rest is to be ignored.
    """

    symbol: Int[Tensor, "B S E"]
    to: Int[Tensor, "B S E"]
    edges: Int[Tensor, "B S"]

    def step(
        self, state: Int[Tensor, "B K"], chance: Float[Tensor, "B K"]
    ) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B K"]]:
        """Symbol and next state of one edge for every state, chosen by a chance in [0, 1)."""
        edge = (chance * self.edges.gather(1, state)).long()
        place = state * self.symbol.shape[2] + edge
        return self.symbol.flatten(1).gather(1, place), self.to.flatten(1).gather(1, place)

    def allowed(self, d_vocab: int) -> Bool[Tensor, "B S {d_vocab}"]:
        """Which ids can come next in every state."""
        batch, states, edges = self.symbol.shape
        exists = torch.arange(edges, device=self.symbol.device) < self.edges[..., None]
        counts = torch.zeros(batch, states, d_vocab, device=self.symbol.device)
        return counts.scatter_add(2, self.symbol, exists.float()) > 0


class RegularLanguages(SyntheticTask[RegularLanguageSettings]):
    """Strings of one random regular language, joined by ``|``; the next text has another language (2401.12973)::

        tokens    c  a  c  |  c  b  |  c  a  c  a  *      (after c: a or b; after a: c; * pads)
        targets   a  c  |  c  b  |  c  a  c  a  .  .

    Each text draws its number of states, its alphabet, for each state 1 to ``edges`` different symbols, and for each
    of these a different next state that is not the state itself; strings start in the same state, stop at a random
    length, and take every edge with equal probability (the authors' generator, ``dfa.py`` of berlino/seq_icl). The
    authors then minimise the automata, which changes no string and no probability, and train on 5,000 fixed languages;
    here every text has a new one. Ids behind the symbols are the bar and the padding.

    Bars are learned but not judged: accuracy and total variation are over the positions whose target is a symbol.

    Marks: ``state``, the automaton's state after each token, -1 for padding; ``legal``, the symbols that can
    come next.
    """

    settings_type: ClassVar[type[Config]] = RegularLanguageSettings

    @property
    def d_vocab(self) -> int:
        """Symbols, bar and padding."""
        return self.settings.symbols + 2

    @property
    def length(self) -> int:
        """Positions."""
        return self.settings.length

    def automata(self, n: int, generator: torch.Generator) -> RandomAutomata:
        """``n`` random automata."""
        settings, edges, most = self.settings, self.settings.edges, self.settings.most_states
        states = draw_integers((n, 1, 1), settings.fewest_states, most, generator)
        size = draw_integers((n, 1, 1), settings.fewest_symbols, settings.symbols, generator)
        alphabet = draw_subset(settings.symbols, n, settings.symbols, generator)
        outside = torch.arange(settings.symbols, device=alphabet.device) >= size
        drawn = draw_uniform((n, most, settings.symbols), generator).masked_fill(outside, -1).topk(edges).indices
        symbol = alphabet[:, None].expand(-1, most, -1).gather(2, drawn)
        other = torch.arange(most, device=alphabet.device)
        barred = (other >= states) | (other == other[:, None])
        to = draw_uniform((n, most, most), generator).masked_fill(barred, -1).topk(edges).indices
        return RandomAutomata(symbol, to, draw_integers((n, most), 1, edges, generator))

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` examples."""
        settings = self.settings
        automata = self.automata(n, generator)
        sizes = draw_integers((n, settings.most_strings), 1, settings.longest, generator)
        count = draw_integers((n, 1), settings.fewest_strings, settings.most_strings, generator)
        symbols, states = self._strings(automata, n, generator)
        room = max(settings.most_strings * (settings.longest + 1), settings.length + 1) + 1
        places = _places(sizes, count, settings.longest + 1, room - 1)
        step = torch.arange(settings.longest + 1, device=sizes.device)
        bar = step == sizes[..., None]
        text = torch.full((n, room), settings.symbols + 1, device=sizes.device)
        text = text.scatter(1, places, torch.where(bar, settings.symbols, symbols).flatten(1))[:, : settings.length + 1]
        state = torch.full((n, room), -1, device=sizes.device)
        state = state.scatter(1, places, torch.where(bar, 0, states).flatten(1))[:, : settings.length]
        targets = text[:, 1:].masked_fill(text[:, 1:] > settings.symbols, NOTHING_ASKED)
        allowed = automata.allowed(self.d_vocab)
        index = state.clamp(min=0)[..., None].expand(-1, -1, self.d_vocab)
        legal = allowed.gather(1, index) & (state >= 0)[..., None]
        return SyntheticBatch(text[:, :-1], targets, {"state": state, "legal": legal})

    def _strings(
        self, automata: RandomAutomata, n: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "n K L"], Int[Tensor, "n K L"]]:
        """Symbols, and the state after each, of the longest possible strings."""
        settings = self.settings
        chances = draw_uniform((settings.longest + 1, n, settings.most_strings), generator)
        state = torch.zeros_like(chances[0], dtype=torch.long)
        symbols: list[Tensor] = []
        states: list[Tensor] = []
        for chance in chances:
            symbol, state = automata.step(state, chance)
            symbols.append(symbol)
            states.append(state)
        return torch.stack(symbols, 2), torch.stack(states, 2)

    def judged(self, batch: SyntheticBatch) -> Bool[Tensor, "B T"]:
        """The positions whose target is a symbol of the language."""
        return batch.is_asked & (batch.targets < self.settings.symbols)

    def scored(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> Scored:
        """Of each example, the judged positions whose largest logit is a symbol that can come next."""
        legal = batch.marks["legal"].gather(2, logits.argmax(-1, keepdim=True)).squeeze(2)
        return Scored.of(legal.bool(), self.judged(batch))

    def total_variation(self, logits: Float[Tensor, "B T d_output"], batch: SyntheticBatch) -> float:
        """Mean over the judged positions of ``1/2 sum |p - q|``: p the model's, q uniform on what can come next.

        p counts the bar, as the authors' does, which q never writes: a model that knows where strings can stop does
        not reach 0. From 0 to 1, low is good.
        """
        legal = batch.marks["legal"][self.judged(batch)].double()
        model = logits.detach().double().softmax(-1)[self.judged(batch)]
        return float(0.5 * (model - legal / legal.sum(-1, keepdim=True)).abs().sum(-1).mean())


def _places(sizes: Int[Tensor, "n K"], count: Int[Tensor, "n 1"], width: int, outside: int) -> Int[Tensor, "n cell"]:
    """Where each symbol and each bar of ``K`` strings stands in the text; ``outside`` for what is left out."""
    end = (sizes + 1).cumsum(1)
    total = end.gather(1, count - 1) - 1  # no bar behind the last string
    step = torch.arange(width, device=sizes.device)
    place = (end - sizes - 1)[..., None] + step
    written = (step <= sizes[..., None]) & (place < total[..., None])
    return place.masked_fill(~written, outside).flatten(1)
