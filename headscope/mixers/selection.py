"""Softmax over the keys that a rule leaves open: what mixers with a mask of their own share."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headscope.mixers.interface import Mix, MixerInput, RowMixer, State


def earlier_first(worth: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """Worth to rank by, in which the earlier of equal ones is ahead by more than rounding can undo.

    Equal tokens have equal keys where nothing tells positions, and their scores differ in the last bit, which depends
    on the shape of the product that made them.
    """
    column = torch.arange(worth.shape[-1], device=worth.device, dtype=worth.dtype)
    return worth.detach() - 64 * torch.finfo(worth.dtype).eps * column


def top_mask(scores: Float[Tensor, "*batch K"], count: int) -> Bool[Tensor, "*batch K"]:
    """The ``count`` largest of each row, the earlier one of equal ones; those of ``-inf`` never."""
    order = earlier_first(scores).argsort(dim=-1, descending=True, stable=True)[..., :count]
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, torch.ones_like(order, dtype=torch.bool))
    return chosen & (scores > -torch.inf)


def masked_softmax(scores: Float[Tensor, "*batch K"], seen: Bool[Tensor, "*batch K"]) -> Float[Tensor, "*batch K"]:
    """Softmax over what is seen; 0 in a row that sees nothing."""
    empty = ~seen.any(-1, keepdim=True)
    return scores.masked_fill(~(seen | empty), -torch.inf).softmax(-1).masked_fill(~seen, 0)


class RowGatedMixer(RowMixer):
    """A row mixer some of whose gates are read by their own row only.

    Attributes:
        row_gates: those gates; decoding keeps none of earlier tokens.
    """

    row_gates: ClassVar[tuple[str, ...]] = ()

    def start(self, token: MixerInput) -> State:
        """No tokens."""
        return super().start(replace(token, gates=self._kept(token)))

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Append the token and mix its row."""
        parts = {"key": token.key, "value": token.value, **self._kept(token)}
        state = {name: torch.cat([state[name], part], 2) for name, part in parts.items()}
        gates = {name: state.get(name, gate) for name, gate in token.gates.items()}
        return self.mix(replace(token, key=state["key"], value=state["value"], gates=gates)).z, state

    @property
    def gate_width(self) -> int:
        """Numbers in a head's kept gates for one token."""
        return len(self.gate_names) - len(self.row_gates)

    def row_gate(self, given: MixerInput, name: str) -> Tensor:
        """A gate of the rows."""
        return given.gates[name][:, :, -given.query.shape[2] :]

    def _kept(self, token: MixerInput) -> dict[str, Tensor]:
        return {name: gate for name, gate in token.gates.items() if name not in self.row_gates}


class ChoosingMixer(RowGatedMixer):
    """``M = softmax(s + b)`` over the keys that `choose` leaves open for each row; b is what a learned gate adds."""

    @abstractmethod
    def choose(
        self, given: MixerInput, scores: Float[Tensor, "B H Q K"]
    ) -> tuple[Bool[Tensor, "B H Q K"], Float[Tensor, "B H Q K"]]:
        """The keys left open for each row, none of them after it in a causal text, and ``s + b``."""

    def mix(self, given: MixerInput) -> Mix:
        """Softmax over the chosen keys."""
        chosen, scores = self.choose(given, given.scores)
        return Mix(masked_softmax(scores, chosen), given.value, choice=chosen)
