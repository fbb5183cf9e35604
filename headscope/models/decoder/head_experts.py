"""Heads made of experts: SwitchHead's routed values and outputs, and one head for each token with a shared network."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu
from transformer_lens.hook_points import HookPoint

from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.head_mixing import AllHeads
from headscope.models.decoder.head_routing import highest, router
from headscope.models.decoder.head_settings import ExpanderSettings, SwitchHeadSettings


class SwitchHead(AllHeads):
    """Values and outputs of every head come from experts, chosen by sigmoids (Csordas et al. 2023, 2312.07987, 2).

    ``v_j = sum_e s_je W_V^e x_j`` and ``y_i = sum_e r_ie W_O^e z_i`` over the top k experts of each, s being
    ``sigmoid(W_s x)`` of the token that is read and r ``sigmoid(W_r x)`` of the one that reads. A head's weight is
    ``sum_e r_ie``; the shares of its experts and the gates of values are hooks of this module.

    Attributes:
        W_V: (head, expert, d_model, d_head).
        W_O: (head, expert, d_head, d_model).
        W_select_V: (d_model, head * expert).
        W_select_O: (d_model, head * expert).
    """

    makes_values: ClassVar[bool] = True
    needs_output: ClassVar[bool] = False
    stream_axes: ClassVar[dict[str, int]] = {"W_V": 2, "W_O": 3}

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        settings = cast(SwitchHeadSettings, config.heads.parsed())
        heads, width, size = config.n_heads, config.head_width, config.d_model
        self.heads, self.experts, self.top_k = heads, settings.experts, settings.top_k
        self.W_V = nn.Parameter(torch.randn(heads, self.experts, size, width) * size**-0.5)
        self.W_O = nn.Parameter(torch.randn(heads, self.experts, width, size) * (heads * width) ** -0.5)
        self.W_select_V, self.W_select_O = router(config, heads * self.experts), router(config, heads * self.experts)
        self.hook_value_experts, self.hook_output_experts = HookPoint(), HookPoint()

    def weights(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T H"]:
        """The sum of the gates of a head's output experts."""
        return self._gates(stream, self.W_select_O).sum(-1)

    def values(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T H D"]:
        """The gated values of the chosen experts."""
        gates = self.hook_value_experts(self._gates(stream, self.W_select_V))
        return torch.einsum("bthe,btm,hemd->bthd", gates, stream, self.W_V)

    def results(
        self,
        z: Float[Tensor, "B T H D"],
        W_O: Float[Tensor, "H D M"] | None,  # noqa: ARG002
        stream: Float[Tensor, "B T M"],
    ) -> Float[Tensor, "B T H M"]:
        """What each head writes; z has its weight already, so experts have shares of it."""
        gates = self._gates(stream, self.W_select_O)
        shares = self.hook_output_experts(gates / gates.sum(-1, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny))
        return torch.einsum("bthe,bthd,hedm->bthm", shares, z, self.W_O)

    def _gates(self, stream: Tensor, select: Tensor) -> Float[Tensor, "B T H E"]:
        gates = (stream @ select).sigmoid().unflatten(-1, (self.heads, self.experts))
        return gates * highest(gates, self.top_k)


class SharedExpander(AllHeads):
    """One head for each token, the router's first choice, through a network that all heads share (SHRP, 2512.20635).

    ``y = W_out gelu(W_in p_h z_h)`` for the head h with the highest ``p = softmax(W x)``.

    Attributes:
        W_router: (d_model, head).
        W_in: (d_head, hidden).
        W_out: (hidden, d_model).
    """

    needs_output: ClassVar[bool] = False
    stream_axes: ClassVar[dict[str, int]] = {"W_out": 1}

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        hidden, width = cast(ExpanderSettings, config.heads.parsed()).hidden, config.head_width
        self.W_router = router(config, config.n_heads)
        self.W_in = nn.Parameter(torch.randn(width, hidden) * width**-0.5)
        self.W_out = nn.Parameter(torch.randn(hidden, config.d_model) * hidden**-0.5)

    def weights(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T H"]:
        """The probability of the chosen head, 0 for the others."""
        share = (stream @ self.W_router).softmax(-1)
        return share * highest(share, 1)

    def results(
        self,
        z: Float[Tensor, "B T H D"],
        W_O: Float[Tensor, "H D M"] | None,  # noqa: ARG002
        stream: Float[Tensor, "B T M"],  # noqa: ARG002
    ) -> Float[Tensor, "B T H M"]:
        """The network of each head's z, which is 0 where the head is off."""
        return gelu(z @ self.W_in) @ self.W_out
