"""Mixing by pools and fixed kernels that is not linear in its values: PoNet, and FFN-like attention by convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from headscope.config import Config
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import KeptTokens, MixerInput, MixerShape, State
from headscope.mixers.modes import convolve
from headscope.mixers.nonlinear import Nonlinear


class PoNetSettings(Config):
    """Of a pooling network.

    Attributes:
        segment: tokens of a segment.
        window: how many tokens on each side the local pool sees.
    """

    segment: int = Field(default=4, ge=1)
    window: int = Field(default=1, ge=0)


class PoNet(Nonlinear):
    """``z_i = g * o_i + max(segment of i) * o_i + max(window around i)``, by channel (Tan et al. 2021, 2110.02442, 3).

    g is what the mean query attends to, ``softmax(mean(q) . k_j / sqrt(d)) v``; both maxima are of v; ``o_i = W x_i``.
    The paper makes v of the three pools by a map each; here they share one. It works both ways only.
    """

    decodes: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = True
    causal: bool = False
    gate_names: ClassVar[tuple[str, ...]] = ("row_gate",)
    settings_type: ClassVar[type[Config]] = PoNetSettings

    def __init__(self, shape: MixerShape, settings: PoNetSettings) -> None:
        super().__init__(shape, settings)
        self.segment, self.window = settings.segment, settings.window
        self.gate = HeadLinear(shape, shape.d_head)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """o: (B, H, T, D)."""
        return {"row_gate": self.gate(stream)}

    def operation(self, given: MixerInput) -> Float[Tensor, "B H T D"]:
        """The three pools."""
        scores = given.query.mean(2, keepdim=True) @ given.key.mT * given.scale
        whole, place = scores.softmax(-1) @ given.value, given.columns
        block = place // self.segment
        of_segment = _largest(given.value, block[:, None] == block)
        local = _largest(given.value, (place[:, None] - place).abs() <= self.window)
        return (whole + of_segment) * given.gates["row_gate"] + local

    def state_size(self, length: int) -> int:
        """The whole text: queries, keys, values and gates."""
        return length * self.shape.n_heads * (2 * self.shape.d_key + 2 * self.shape.d_head)


class ConvolutionFFNSettings(Config):
    """Of FFN-like attention by convolutions.

    Attributes:
        width: taps of each convolution.
    """

    width: int = Field(default=7, ge=1)


class ConvolutionFFN(Nonlinear):
    """``z = f2 conv gelu(f1 conv v)`` with learned taps for each channel, causal (MetaMixer, 2406.02021, section 3).

    A feed-forward network read as attention: v stands for the query, the taps f1 for keys and f2 for values.

    Attributes:
        taps: (first or second, head, d_head, width).
    """

    reads_query_key: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = ConvolutionFFNSettings

    def __init__(self, shape: MixerShape, settings: ConvolutionFFNSettings) -> None:
        super().__init__(shape, settings)
        size = (2, shape.n_heads, shape.d_head, settings.width)
        self.taps = nn.Parameter(torch.randn(size) * settings.width**-0.5)

    def operation(self, given: MixerInput) -> Float[Tensor, "B H T D"]:
        """Both convolutions."""
        return convolve(self.taps[1], gelu(convolve(self.taps[0], given.value)))

    def start(self, token: MixerInput) -> State:
        """Zeros before the text."""
        batch, heads, _, width = token.value.shape
        zeros = token.value.new_zeros(batch, heads, self.taps.shape[-1] - 1, width)
        return {"value": zeros, "hidden": gelu(zeros)}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """One row of each convolution."""
        values = torch.cat([state["value"], token.value], 2)
        hidden = gelu(_row(self.taps[0], values))
        hidden = torch.cat([state["hidden"], hidden], 2)
        return _row(self.taps[1], hidden), {"value": values[:, :, 1:], "hidden": hidden[:, :, 1:]}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The last inputs of each convolution, one fewer than there are taps."""
        last = self.taps.shape[-1] - 1
        return self.shape.kept(last).values + last * self.shape.n_heads * self.shape.d_head

    def kept_tokens(self, length: int) -> KeptTokens:
        """The last values."""
        return replace(self.shape.kept(min(length, self.taps.shape[-1] - 1)), keys=0)


def _largest(value: Float[Tensor, "B H T D"], seen: Tensor) -> Float[Tensor, "B H T D"]:
    """The largest value of each channel among the tokens that a row sees."""
    return value[:, :, None].masked_fill(~seen[..., None], -torch.inf).amax(3)


def _row(taps: Float[Tensor, "H D W"], values: Float[Tensor, "B H W D"]) -> Float[Tensor, "B H 1 D"]:
    return torch.einsum("hdw,bhwd->bhd", taps.flip(-1), values)[:, :, None]
