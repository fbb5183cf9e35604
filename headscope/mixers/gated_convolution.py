"""A convolution with taps of its own for each channel, and a gate of the row: Mamba's block without its state space."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from headscope.config import Config
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.modes import convolve, toeplitz


class GatedConvolutionSettings(Config):
    """Of a gated convolution.

    Attributes:
        width: taps of each channel; ``n_ctx`` if None, and a token further back than that is not read.
        gate: what the gate is put through, or no gate at all.
        length_scale: row i is divided by the square root of the tokens that it sees.
    """

    width: int | None = Field(default=7, ge=1)
    gate: Literal["gelu", "identity", "none"] = "gelu"
    length_scale: bool = False


class GatedConvolution(Mixer):
    """``z_i = act(W x_i) * sum_w f_w v_{i - w}`` for each channel; ``M_ij = act(W x_i) f_{i - j}``.

    MambaOut's gated convolution (Yu and Wang 2024, 2405.07992, section 3), causal. With an identity gate and long
    filters it is BaseConv (Zoology, 2312.04927), with ``length_scale`` an Extractor (2308.07661).

    Attributes:
        taps: f, (head, d_head, width).
    """

    kind: MatrixKind = "per_channel"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    reads_query_key: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("row_gate",)
    settings_type: ClassVar[type[Config]] = GatedConvolutionSettings

    def __init__(self, shape: MixerShape, settings: GatedConvolutionSettings) -> None:
        super().__init__(shape, settings)
        width = settings.width or shape.n_ctx
        self.gelu, self.length_scale = settings.gate == "gelu", settings.length_scale
        self.taps = nn.Parameter(torch.randn(shape.n_heads, shape.d_head, width) * min(width, 8) ** -0.5)
        self.gate = None if settings.gate == "none" else HeadLinear(shape, shape.d_head)

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """What each channel of a row is multiplied by: (B, H, T, D)."""
        if self.gate is None:
            return {}
        gate = self.gate(stream)
        return {"row_gate": gelu(gate) if self.gelu else gate}

    def mix(self, given: MixerInput) -> Mix:
        """The taps along the diagonals, times the row's gate."""
        matrix = toeplitz(self.taps, given.offsets).expand(given.value.shape[0], -1, -1, -1, -1)
        if self.gate is not None:
            matrix = matrix * given.gates["row_gate"].mT[..., None]
        if self.length_scale:
            matrix = matrix / (given.rows + 1).to(matrix.dtype).sqrt()[:, None]
        return Mix(matrix, given.value)

    def operation(self, given: MixerInput) -> Tensor:
        """One filter for the whole batch, then the gate."""
        z = convolve(self.taps, given.value)
        z = z if self.gate is None else z * given.gates["row_gate"]
        return z / (given.rows + 1).to(z.dtype).sqrt()[:, None] if self.length_scale else z

    def start(self, token: MixerInput) -> State:
        """Zeros before the text; how many tokens came, where that counts."""
        batch, heads, _, width = token.value.shape
        state = {"last": token.value.new_zeros(batch, heads, self.taps.shape[-1] - 1, width)}
        return state | ({"count": token.value.new_zeros(batch)} if self.length_scale else {})

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """One row of the convolution."""
        values = torch.cat([state["last"], token.value], 2)
        z = torch.einsum("hdw,bhwd->bhd", self.taps.flip(-1), values)[:, :, None]
        z = z if self.gate is None else z * token.gates["row_gate"]
        after = {"last": values[:, :, 1:]}
        if self.length_scale:
            after["count"] = state["count"] + 1
            z = z / after["count"].sqrt()[:, None, None, None]
        return z, after

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The last values, one fewer than there are taps; the count."""
        return self.shape.kept(self.taps.shape[-1] - 1).values + int(self.length_scale)

    def kept_tokens(self, length: int) -> KeptTokens:
        """The last values."""
        return replace(self.shape.kept(min(length, self.taps.shape[-1] - 1)), keys=0)
