"""RWKV-4: a softmax over earlier tokens in every channel, whose scores do not depend on the query."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import pad

from headscope.config import Config
from headscope.mixers.head_linear import HeadLinear
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, State
from headscope.mixers.kinds import MatrixKind, RowKind
from headscope.mixers.same_width import check_same_width


class RWKV4Settings(Config):
    """Of RWKV-4.

    Attributes:
        perspectives: so many views of the text, each with a token shift of its own; their outputs are weighted by a
            softmax of the stream. 1 is RWKV-4, which leaves token shift to the decoder's convolution.
    """

    perspectives: int = Field(default=1, ge=1)


class RWKV4(Mixer):
    """``z_i = sigmoid(r_i) * sum_j softmax_j(k_j - w (i - 1 - j)) v_j``, ``u + k_i`` at ``j = i``, for each channel.

    RWKV (Peng et al. 2023, 2305.13048, section 3): the query is the receptance r, w > 0 a decay and u a bonus of each
    channel. With more perspectives (2402.02625) keys and values of perspective p are
    ``m_p x_t + (1 - m_p) x_{t-1}``, and their z are added with weights that sum to 1.

    Attributes:
        log_rate: log w, (head, d_head).
        bonus: u, (head, d_head).
        shift: m before its sigmoid, (perspective, key or value, head, d_head), or None.
    """

    kind: MatrixKind = "per_channel"
    streams: bool = True
    row_kind: RowKind = "substochastic"
    takes_scores: ClassVar[bool] = False
    bidirectional: ClassVar[bool] = False
    gate_names: ClassVar[tuple[str, ...]] = ("perspective",)
    settings_type: ClassVar[type[Config]] = RWKV4Settings

    def __init__(self, shape: MixerShape, settings: RWKV4Settings) -> None:
        super().__init__(shape, settings)
        check_same_width(shape, "rwkv4")
        heads, width, views = shape.n_heads, shape.d_head, settings.perspectives
        self.views = views
        self.log_rate = nn.Parameter(torch.linspace(-4.0, 0.5, width).repeat(heads, 1))
        self.bonus = nn.Parameter(torch.full((heads, width), 0.3))
        several = views > 1
        self.shift = nn.Parameter(torch.randn(views, 2, heads, width)) if several else None
        self.view = HeadLinear(shape, views) if several else None

    def gates(self, stream: Float[Tensor, "B T d_model"]) -> dict[str, Tensor]:
        """Weight of every perspective: (B, H, T, P)."""
        return {} if self.view is None else {"perspective": self.view(stream).softmax(-1)}

    def mix(self, given: MixerInput) -> Mix:
        """A softmax for each channel, its rows times the receptance."""
        receptance = given.query.sigmoid().mT[..., None]
        if self.shift is None:
            return Mix(self._weights(given, given.key) * receptance, given.value)
        before = pad(given.key, (0, 0, 1, -1))
        matrix = torch.zeros_like(receptance)
        for view, (of_key, of_value) in enumerate(self.shift.sigmoid()):
            weights = self._weights(given, torch.lerp(before, given.key, of_key[:, None]))
            share = of_value[..., None, None]
            shifted = weights * share + pad(weights, (-1, 1)) * (
                1 - share
            )  # column j also holds what j + 1 took from it
            matrix = matrix + shifted * given.gates["perspective"][..., view][:, :, None, :, None]
        return Mix(matrix * receptance, given.value)

    def start(self, token: MixerInput) -> State:
        """Nothing summed; no earlier token."""
        zeros = token.value.new_zeros(token.value.shape[0], self.views, *token.value[0, :, 0].shape)
        state = {"largest": torch.full_like(zeros, -torch.inf), "numerator": zeros, "denominator": zeros}
        return state if self.shift is None else state | {"key": zeros[:, 0], "value": zeros[:, 0]}

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Add the token, with its bonus, to both sums; then decay them and add it without."""
        key, value = token.key[:, None, :, 0], token.value[:, None, :, 0]
        after: State = {}
        if self.shift is not None:
            of_key, of_value = self.shift.sigmoid().unbind(1)
            after = {"key": key[:, 0], "value": value[:, 0]}
            key, value = state["key"][:, None].lerp(key, of_key), state["value"][:, None].lerp(value, of_value)
        read = _added(state, key + self.bonus, value)
        z = read["numerator"] / read["denominator"]
        if self.shift is not None:
            z = z * token.gates["perspective"].permute(0, 3, 1, 2)
        z = z.sum(1)[:, :, None] * token.query.sigmoid()
        decayed = dict(state, largest=state["largest"] - self.log_rate.exp())
        return z, after | _added(decayed, key, value)

    def state_size(self, length: int) -> int:  # noqa: ARG002
        """Numerator, denominator and largest score of each channel and perspective; the last token if it is shifted."""
        last = self.shape.cached if self.shift is not None else 0
        return 3 * self.views * self.shape.n_heads * self.shape.d_head + last

    def kept_tokens(self, length: int) -> KeptTokens:
        """The last token, if it is shifted."""
        return self.shape.kept(0 if self.shift is None else min(length, 1))

    def _weights(self, given: MixerInput, key: Float[Tensor, "B H T D"]) -> Float[Tensor, "B H D T T"]:
        offsets = given.offsets
        score = key.mT[..., None, :]
        decayed = score - self.log_rate.exp()[..., None, None] * (offsets - 1).clamp_min(0)
        scores = torch.where(offsets == 0, score + self.bonus[..., None, None], decayed)
        return scores.masked_fill(~given.visible, -torch.inf).softmax(-1)


def _added(state: State, score: Tensor, value: Tensor) -> State:
    """Both sums with one more token, over the exponential of the largest score."""
    largest = torch.maximum(state["largest"], score)
    kept, weight = (state["largest"] - largest).exp(), (score - largest).exp()
    return {
        "largest": largest,
        "numerator": state["numerator"] * kept + value * weight,
        "denominator": state["denominator"] * kept + weight,
    }
