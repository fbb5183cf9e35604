"""Long convolutions between gates: Hyena, its multi-head form, the recurrence distilled from it, and H3."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, RowMixer, State
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.modes import Modes, convolve, toeplitz
from headscope.mixers.same_width import check_same_width
from headscope.mixers.state_space import DiagonalModes


class ImplicitFilter(nn.Module):
    """``h_t = exp(-a_c t) MLP(1, cos, sin of t)`` for each channel c, t the lag over the longest text (2302.10866).

    The MLP has one hidden layer with a sine; a_c is fixed and runs from slow to fast, as in the released code.

    Attributes:
        W_in: (features, hidden).
        W_out: (head, channel, hidden).
    """

    decay: Tensor

    def __init__(self, shape: MixerShape, channels: int, *, bands: int, hidden: int) -> None:
        super().__init__()
        self.n_ctx, self.bands = shape.n_ctx, bands
        self.W_in = nn.Parameter(torch.randn(2 * bands + 1, hidden))
        self.bias = nn.Parameter(torch.randn(hidden))
        self.W_out = nn.Parameter(torch.randn(shape.n_heads, channels, hidden) * hidden**-0.5)
        fastest, slowest = -math.log(1e-2) / 0.3, -math.log(1e-2) / 1.5
        decay = torch.linspace(slowest, fastest, shape.n_heads * channels).reshape(shape.n_heads, channels)
        self.register_buffer("decay", decay, persistent=False)

    def forward(self, size: int) -> Float[Tensor, "H C L"]:
        """``h_0 .. h_{size - 1}``."""
        time = torch.arange(size, device=self.W_in.device, dtype=self.W_in.dtype) / self.n_ctx
        band = torch.arange(1, self.bands + 1, device=time.device, dtype=time.dtype)
        turn = 2 * math.pi * time[:, None] * band
        features = torch.cat([time[:, None], turn.cos(), turn.sin()], -1)
        hidden = (features @ self.W_in + self.bias).sin()
        return torch.einsum("hcw,lw->hcl", self.W_out, hidden) * (-self.decay[..., None] * time).exp()


class HyenaSettings(Config):
    """Of Hyena.

    Attributes:
        first_filter: values are convolved before the first gate too, as the paper's recurrence has it; the released
            code starts with the gate.
        bands: frequencies of the position that the filter reads.
        hidden: hidden width of the filter's MLP (the paper has 64).
    """

    first_filter: bool = True
    bands: int = Field(default=4, ge=1)
    hidden: int = Field(default=16, ge=1)


class Hyena(RowMixer):
    """``z = q * (h2 conv (k * (h1 conv v)))`` for each channel: ``M = D_q T_h2 D_k T_h1`` (2302.10866, definition 3.1).

    Order 2, filters from a small network of the lag. A filter without a state has to keep the whole text.
    """

    kind: MatrixKind = "per_channel"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = HyenaSettings

    def __init__(self, shape: MixerShape, settings: HyenaSettings) -> None:
        super().__init__(shape, settings)
        check_same_width(shape, "hyena")
        sizes = {"bands": settings.bands, "hidden": settings.hidden}
        self.filter = ImplicitFilter(shape, shape.d_head, **sizes)
        self.first = ImplicitFilter(shape, shape.d_head, **sizes) if settings.first_filter else None

    def mix(self, given: MixerInput) -> Mix:
        """Two Toeplitz matrices with the key between and the query before them."""
        size = given.key.shape[2]
        columns = given.columns
        later = toeplitz(self.filter(size), given.offsets) * given.query.mT[..., None] * given.key.mT[..., None, :]
        if self.first is None:
            return Mix(later, given.value)
        return Mix(later @ toeplitz(self.first(size), columns[:, None] - columns), given.value)

    def operation(self, given: MixerInput) -> Tensor:
        """Convolution, gate, convolution, gate."""
        size, inputs = given.key.shape[2], given.value
        inputs = inputs if self.first is None else convolve(self.first(size), inputs)
        return given.query * convolve(self.filter(size), given.key * inputs)


class MultiHyenaSettings(Config):
    """Of multi-head Hyena.

    Attributes:
        bands: frequencies of the position that the filter reads.
        hidden: hidden width of the filter's MLP.
    """

    bands: int = Field(default=4, ge=1)
    hidden: int = Field(default=16, ge=1)


class MultiHyena(RowMixer):
    """``M_ij = (q_i . k_j) h_{i - j}`` with one filter h for each head (MultiHyena, 2310.18780, section 4).

    The filter runs over outer products of keys and values, and queries contract them.
    """

    kind: MatrixKind = "linear"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = MultiHyenaSettings

    def __init__(self, shape: MixerShape, settings: MultiHyenaSettings) -> None:
        super().__init__(shape, settings)
        self.filter = ImplicitFilter(shape, 1, bands=settings.bands, hidden=settings.hidden)

    def mix(self, given: MixerInput) -> Mix:
        """Scores times the filter."""
        kernel = self.filter(given.key.shape[2]).squeeze(1)
        return Mix(given.query @ given.key.mT * given.scale * toeplitz(kernel, given.offsets), given.value)


class LaughingHyenaSettings(Config):
    """Of the recurrence that a multi-head Hyena is distilled into.

    Attributes:
        order: modes of each head's filter (the paper has about 16).
    """

    order: int = Field(default=4, ge=1)


class LaughingHyena(Mixer):
    """`MultiHyena` with ``h_l = Re sum_n R_n exp(l (-rate_n + i angle_n))``, a recurrence (2310.18780, section 3.1).

    Attributes:
        log_rate: (head, 1, mode); angle, real and imaginary alike.
    """

    kind: MatrixKind = "recurrent"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = LaughingHyenaSettings

    def __init__(self, shape: MixerShape, settings: LaughingHyenaSettings) -> None:
        super().__init__(shape, settings)
        size = (shape.n_heads, 1, settings.order)
        self.order = settings.order
        self.log_rate = nn.Parameter(torch.linspace(-4.0, 0.0, settings.order).expand(size).clone())
        self.angle = nn.Parameter(torch.linspace(0.1, 2.0, settings.order).expand(size).clone())
        self.real, self.imaginary = (nn.Parameter(torch.randn(size) * settings.order**-0.5) for _ in range(2))

    def mix(self, given: MixerInput) -> Mix:
        """Scores times the filter."""
        kernel = self._modes().kernel(given.key.shape[2]).squeeze(1)
        return Mix(given.query @ given.key.mT * given.scale * toeplitz(kernel, given.offsets), given.value)

    def start(self, token: MixerInput) -> State:
        """Zeros."""
        return self._modes().start(_outer(token))

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Every mode keeps a matrix from keys to values."""
        memory, state = self._modes().step(state, _outer(token))
        return token.query * token.scale @ memory.unflatten(-1, (self.shape.d_key, self.shape.d_head)), state

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """A complex matrix for each mode of each head."""
        return 2 * self.order * self.shape.n_heads * self.shape.d_key * self.shape.d_head

    def _modes(self) -> Modes:
        return Modes(self.log_rate.exp(), self.angle, self.real, self.imaginary)


class H3Settings(Config):
    """Of H3.

    Attributes:
        shift: taps of the shift state space on keys (the paper has 64).
        order: complex states of the diagonal state space of each channel (the paper has 32).
    """

    shift: int = Field(default=4, ge=1)
    order: int = Field(default=8, ge=1)


class H3(Mixer):
    """``z = q * SSM_diag(SSM_shift(k) * v)`` by channel: ``M_ij = q_i h_{i - j} sum_w f_w k_{j - w}`` (2212.14052, 3).

    The shift state space remembers the last tokens, so that its output is a convolution with taps f; the diagonal one
    is S4D's, with its skip.

    Attributes:
        taps: f, (head, d_head, shift).
    """

    kind: MatrixKind = "per_channel"
    row_kind: RowKind = "signed"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = H3Settings

    def __init__(self, shape: MixerShape, settings: H3Settings) -> None:
        super().__init__(shape, settings)
        check_same_width(shape, "h3")
        size = (shape.n_heads, shape.d_head)
        self.order = settings.order
        self.taps = nn.Parameter(torch.randn(*size, settings.shift) * settings.shift**-0.5)
        self.diagonal = DiagonalModes(shape, settings.order)
        self.skip = nn.Parameter(torch.ones(size))

    def mix(self, given: MixerInput) -> Mix:
        """The diagonal state space's filter between the shifted key and the query."""
        key = convolve(self.taps, given.key).mT
        kernel = toeplitz(self._kernel(given.key.shape[2]), given.offsets)
        return Mix(kernel * given.query.mT[..., None] * key[..., None, :], given.value)

    def operation(self, given: MixerInput) -> Tensor:
        """Shift, gate, convolution, gate."""
        written = convolve(self.taps, given.key) * given.value
        return given.query * convolve(self._kernel(given.key.shape[2]), written)

    def start(self, token: MixerInput) -> State:
        """Zeros."""
        batch, heads, _, width = token.key.shape
        last = token.key.new_zeros(batch, heads, self.taps.shape[-1] - 1, width)
        return {"last": last} | self.diagonal().start(token.value[:, :, 0])

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Shift the keys, gate the value, turn the modes, gate again."""
        keys = torch.cat([state["last"], token.key], 2)
        written = torch.einsum("hdw,bhwd->bhd", self.taps.flip(-1), keys) * token.value[:, :, 0]
        z, after = self.diagonal().step(state, written)
        z = (z + self.skip * written)[:, :, None] * token.query
        return z, after | {"last": keys[:, :, 1:]}

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """The last keys, and a complex number for each mode of each channel."""
        modes = 2 * self.order * self.shape.n_heads * self.shape.d_head
        return self.shape.kept(self.taps.shape[-1] - 1).keys + modes

    def kept_tokens(self, length: int) -> KeptTokens:
        """The last keys."""
        return replace(self.shape.kept(min(length, self.taps.shape[-1] - 1)), values=0)

    def _kernel(self, size: int) -> Float[Tensor, "H D L"]:
        kernel = self.diagonal().kernel(size)
        return torch.cat([kernel[..., :1] + self.skip[..., None], kernel[..., 1:]], -1)


def _outer(token: MixerInput) -> Float[Tensor, "B H ED"]:
    return (token.key.mT @ token.value).flatten(-2)
