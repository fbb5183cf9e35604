"""Heads that see sinks and a window, and what is made of the rest: a gate to full attention, or one mean token."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from headscope.config import Config
from headscope.mixers.interface import KeptTokens, Mix, Mixer, MixerInput, MixerShape, RowMixer, State


class GatedStreamingSettings(Config):
    """Of heads between full and streaming attention; the window is short by default, for small models.

    Attributes:
        first: tokens at the start that streaming attention sees.
        window: nearest tokens that it sees, the row's own included.
        gate: logit of the share of full attention at the start.
    """

    first: int = Field(default=1, ge=0)
    window: int = Field(default=4, ge=1)
    gate: float = Field(default=1.0, allow_inf_nan=False)


class GatedStreaming(RowMixer):
    """``M = a softmax(s) + (1 - a) softmax(s over sinks and window)``, ``a = sigmoid(gate)`` for each head.

    The training-time attention of DuoAttention (Xiao et al. 2024, arXiv 2410.10819, section 2.2). The paper clips a
    to [0, 1] after each step and trains it alone on a finished model, with a penalty on its sum; here it is a sigmoid
    and is trained with the weights.

    Attributes:
        gate: (head).
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = GatedStreamingSettings

    def __init__(self, shape: MixerShape, settings: GatedStreamingSettings) -> None:
        super().__init__(shape, settings)
        self.first, self.window = settings.first, settings.window
        self.gate = nn.Parameter(torch.full((shape.n_heads,), settings.gate))

    def mix(self, given: MixerInput) -> Mix:
        """Both softmaxes, weighed by the gate."""
        scores, far = given.scores, dropped(given, self.first, self.window)
        full = scores.masked_fill(~given.visible, -torch.inf).softmax(-1)
        near = scores.masked_fill(~given.visible | far, -torch.inf).softmax(-1)
        share = self.gate.sigmoid()[:, None, None]
        return Mix(share * full + (1 - share) * near, given.value)


class CompensatedSettings(Config):
    """Of heads with a compensation token; the window is short by default, for small models.

    Attributes:
        first: tokens at the start that are kept.
        window: nearest tokens that are kept, the row's own included.
        full_heads: so many heads, the first ones, keep everything.
    """

    first: int = Field(default=1, ge=0)
    window: int = Field(default=4, ge=1)
    full_heads: int = Field(default=1, ge=0)


class Compensated(Mixer):
    """Softmax over sinks, a window and the mean of all dropped tokens, counted as often as there are such.

    RazorAttention (Tang et al. 2024, arXiv 2407.15891, section 3.3): dropped tokens become one token with
    ``k = mean k_j``, ``v = mean v_j`` and weight ``n exp(q . k)``. Spread over the tokens it stands for, that is a
    softmax in which every dropped token has the mean of their scores. The first ``full_heads`` heads keep everything.
    """

    bidirectional: ClassVar[bool] = False
    settings_type: ClassVar[type[Config]] = CompensatedSettings

    def __init__(self, shape: MixerShape, settings: CompensatedSettings) -> None:
        super().__init__(shape, settings)
        self.first, self.window = settings.first, settings.window
        self.full = min(settings.full_heads, shape.n_heads)

    def mix(self, given: MixerInput) -> Mix:
        """Softmax of the scores, with means where tokens were dropped."""
        streaming = torch.arange(self.shape.n_heads, device=given.query.device) >= self.full
        far = dropped(given, self.first, self.window) & streaming[:, None, None]
        scores = given.scores
        mean = (scores * far).sum(-1, keepdim=True) / far.sum(-1, keepdim=True).clamp(min=1)
        scores = torch.where(far, mean, scores).masked_fill(~given.visible, -torch.inf)
        return Mix(scores.softmax(-1), given.value)

    def start(self, token: MixerInput) -> State:
        """No tokens; sums of 0."""
        state = {"count": torch.zeros(token.key.shape[0], dtype=token.key.dtype, device=token.key.device)}
        for name, part in (("key", token.key), ("value", token.value)):
            state |= {f"full_{name}": part[:, : self.full, :0], f"near_{name}": part[:, self.full :, :0]}
            state[f"sum_{name}"] = torch.zeros_like(part[:, self.full :])
        return state

    def step(self, state: State, token: MixerInput) -> tuple[Float[Tensor, "B H 1 D"], State]:
        """Mix over the kept tokens and the mean; then add what leaves the window to the sums."""
        query, full = token.query * token.scale, self.full
        state = dict(state)
        for name, part in (("key", token.key), ("value", token.value)):
            state[f"full_{name}"] = torch.cat([state[f"full_{name}"], part[:, :full]], 2)
            state[f"near_{name}"] = torch.cat([state[f"near_{name}"], part[:, full:]], 2)
        whole = (query[:, :full] @ state["full_key"].mT).softmax(-1) @ state["full_value"]
        count = state["count"][:, None, None, None]
        means = {name: state[f"sum_{name}"] / count.clamp(min=1) for name in ("key", "value")}
        key, value = (torch.cat([state[f"near_{name}"], means[name]], 2) for name in ("key", "value"))
        scores = query[:, full:] @ key.mT
        scores = torch.cat([scores[..., :-1], scores[..., -1:] + count.log()], -1)
        z = torch.cat([whole, scores.softmax(-1) @ value], 1)
        if state["near_key"].shape[2] == self.first + self.window:
            state["count"] = state["count"] + 1
            for name in ("key", "value"):
                near = state[f"near_{name}"]
                state[f"sum_{name}"] = state[f"sum_{name}"] + near[:, :, self.first, None]
                state[f"near_{name}"] = torch.cat([near[:, :, : self.first], near[:, :, self.first + 1 :]], 2)
        return z, state

    def state_size(self, length: int) -> int:
        """Keys and values of full heads; of others the kept ones and two sums; and how many were dropped."""
        shape, heads = self.shape, self.shape.n_heads
        keys, values = (groups - self.full * groups // heads for groups in self._groups())
        kept = self.kept_tokens(length)
        return kept.keys + kept.values + keys * shape.d_key + values * shape.d_head + 1

    def kept_tokens(self, length: int) -> KeptTokens:
        """All but the sums and the number; heads that share with a full one keep everything."""
        near, heads = min(length, self.first + self.window - 1), self.shape.n_heads
        of_keys, of_values = (
            near * groups + (length - near) * (-(-self.full * groups // heads)) for groups in self._groups()
        )
        return KeptTokens(length if self.full else near, of_keys * self.shape.d_key, of_values * self.shape.d_head)

    def _groups(self) -> tuple[int, int]:
        """Heads with keys of their own, and with values."""
        return self.shape.key_heads or self.shape.n_heads, self.shape.value_heads or self.shape.n_heads


def dropped(given: MixerInput, first: int, window: int) -> Bool[Tensor, "Q K"]:
    """Tokens before each row that are neither among the first nor in its window."""
    return (given.offsets >= window) & (given.columns >= first)
