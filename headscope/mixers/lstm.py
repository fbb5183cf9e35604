"""Recurrent networks whose gates read their own last output: LSTM, both ways, and xLSTM's scalar memory."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from headscope.config import Config
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import MixerInput, MixerShape, State
from headscope.mixers.nonlinear import Nonlinear

_GATES = ("input", "forget", "output")


class GatedCell(Nonlinear):
    """The base of cells with an input, a forget and an output gate, each ``W x_t + R h_{t-1} + b`` before its function.

    The value is what comes in: the candidate is ``tanh(v_t + R h_{t-1})``. Heads do not read each other's outputs, and
    there are no queries and keys.

    Attributes:
        back: R of the three gates and of the candidate: (head, D, 4 D).
        kept: what the state holds beside the output h, each (B, H, D).
    """

    reads_query_key: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = _GATES
    kept: ClassVar[tuple[str, ...]]

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        width = shape.d_head
        self.read = nn.ModuleDict({name: HeadLinear(shape, width, bias=float(name == "forget")) for name in _GATES})
        self.back = nn.Parameter(torch.randn(shape.n_heads, width, 4 * width) * width**-0.5 * 0.5)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """What the stream adds to each gate before its function: (B, H, T, D) each."""
        return {name: part(stream) for name, part in self.read.items()}

    def start(self, token: MixerInput) -> State:
        """Zeros."""
        zeros = torch.zeros_like(token.value[:, :, 0])
        return {name: zeros.clone() for name in ("out", *self.kept)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Gates and candidate from the token and the last output, then the cell."""
        back = torch.einsum("bhd,hde->bhe", state["out"], self.back).chunk(4, -1)
        gates = [token.gates[name].squeeze(2) + part for name, part in zip(_GATES, back, strict=False)]
        after = self.cell(state, torch.tanh(token.value.squeeze(2) + back[3]), *gates)
        return after["out"][:, :, None], after

    @abstractmethod
    def cell(self, state: State, candidate: Tensor, write: Tensor, forget: Tensor, output: Tensor) -> State:
        """The state after one token, from its candidate and its gates before their functions."""

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The output and what is kept."""
        return self.shape.n_heads * self.shape.d_head * (1 + len(self.kept))


class LSTM(GatedCell):
    """``c_t = f_t c_{t-1} + i_t g_t``, ``h_t = o_t tanh(c_t)``, all gates sigmoids (Hochreiter, Schmidhuber 1997)."""

    kept: ClassVar[tuple[str, ...]] = ("cell",)

    def cell(self, state: State, candidate: Tensor, write: Tensor, forget: Tensor, output: Tensor) -> State:
        """One token."""
        cell = forget.sigmoid() * state["cell"] + write.sigmoid() * candidate
        return {"out": output.sigmoid() * torch.tanh(cell), "cell": cell}


class SLSTM(GatedCell):
    """``c_t = f_t c_{t-1} + i_t g_t``, ``n_t = f_t n_{t-1} + i_t``, ``h_t = o_t c_t / n_t`` (xLSTM, 2405.04517, 2.2).

    ``i_t = exp(.)``, ``f_t = sigmoid(.)``; c and n are kept times ``exp(-m_t)``, which changes no result.
    """

    kept: ClassVar[tuple[str, ...]] = ("cell", "total", "largest")

    def start(self, token: MixerInput) -> State:
        """Zeros, and no largest weight."""
        state = super().start(token)
        return dict(state, largest=torch.full_like(state["largest"], -torch.inf))

    def cell(self, state: State, candidate: Tensor, write: Tensor, forget: Tensor, output: Tensor) -> State:
        """One token."""
        forget = logsigmoid(forget) + state["largest"]
        largest = torch.maximum(forget, write)
        kept, new = (forget - largest).exp(), (write - largest).exp()
        cell, total = kept * state["cell"] + new * candidate, kept * state["total"] + new
        return {"out": output.sigmoid() * cell / total, "cell": cell, "total": total, "largest": largest}


class BidirectionalLSTM(Nonlinear):
    """The sum of two LSTMs, one reading the text from each end (Schuster and Paliwal 1997)."""

    reads_query_key: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = True
    causal: bool = False
    decodes: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = (*_GATES, *(f"back_{name}" for name in _GATES))

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        self.onward, self.backward_cell = LSTM(shape, settings), LSTM(shape, settings)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Gates of both: (B, H, T, D) each."""
        back = self.backward_cell.gates(stream)
        return {**self.onward.gates(stream), **{f"back_{name}": gate for name, gate in back.items()}}

    def operation(self, given: MixerInput) -> Float[Tensor, "B H Q D"]:
        """One LSTM on the text, one on the text turned round."""
        turned = replace(
            given,
            query=given.query.flip(2),
            key=given.key.flip(2),
            value=given.value.flip(2),
            gates={name: given.gates[f"back_{name}"].flip(2) for name in _GATES},
        )
        return self.onward.operation(given) + self.backward_cell.operation(turned).flip(2)

    def state_size(self, length: int) -> int:
        """It needs the whole text: values and gates of every token."""
        return length * self.shape.n_heads * self.shape.d_head * (1 + len(self.gate_names))
