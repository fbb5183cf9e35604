"""Heads weighted and chosen by a router: mixture of heads, mixture of attention experts, soft and sparse."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headscope.errors import ConfigError
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.head_mixing import AllHeads
from headscope.models.decoder.head_settings import ExpertHeadsSettings, MoHSettings


def router(config: DecoderConfig, choices: int) -> nn.Parameter:
    """Weights from the stream to a logit for each choice."""
    return nn.Parameter(torch.randn(config.d_model, choices) * config.d_model**-0.5)


def highest(x: Float[Tensor, "*rest N"], count: int) -> Bool[Tensor, "*rest N"]:
    """Which of the last axis are among the ``count`` highest."""
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, x.topk(count, dim=-1).indices, True)


class MixtureOfHeads(AllHeads):
    """MoH: some heads are always on, the others where a token's router wants them (Jin et al. 2024, 2410.11842, 3.2).

    ``g = a_1 softmax(W_s x)`` for shared heads, ``a_2 softmax(W_r x)`` for the top k of the others and 0 for the rest,
    with ``(a_1, a_2) = softmax(W_h x)``. The loss that balances the use of heads is the training's, not the model's.

    Attributes:
        W_shared: (d_model, shared heads); None for fewer than two.
        W_routed: (d_model, other heads).
        W_kind: (d_model, 2), of the two shares; None without shared heads.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        settings = cast(MoHSettings, config.heads.parsed())
        self.shared = config.n_heads // 4 if settings.shared is None else settings.shared
        self.routed, self.scaled = config.n_heads - self.shared, settings.scaled
        self.top_k = settings.top_k or (self.routed + 1) // 2
        if self.scaled and self.top_k == 1:
            raise ConfigError(
                "heads 'moh', scaled, with top_k 1: a lone weight over its sum is 1 and trains no router."
            )
        self.W_shared = router(config, self.shared) if self.shared > 1 else None
        self.W_routed = router(config, self.routed) if self.routed > 1 else None
        self.W_kind = router(config, 2) if self.shared else None

    def weights(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T H"]:
        """``g`` of every head, the shared ones first."""
        shared, routed = _softmax(stream, self.W_shared, self.shared), _softmax(stream, self.W_routed, self.routed)
        routed = routed * highest(routed, self.top_k)
        kinds = None if self.W_kind is None else (stream @ self.W_kind).softmax(-1)
        if self.scaled:
            routed = routed / routed.sum(-1, keepdim=True) * self.top_k
            shared, kinds = shared * self.shared, None if kinds is None else kinds * 2
        if kinds is None:
            return routed
        return torch.cat([kinds[..., :1] * shared, kinds[..., 1:] * routed], -1)


def _softmax(stream: Float[Tensor, "B T M"], weights: Tensor | None, choices: int) -> Float[Tensor, "B T N"]:
    if weights is None:
        return stream.new_ones(*stream.shape[:2], choices)
    return (stream @ weights).softmax(-1)


class ExpertHeads(AllHeads):
    """Groups of heads are experts: ``y = sum_e g_e(x) y_e`` over the top k of ``p = softmax(W x)``.

    ``g_e = p_e / sum of the chosen p``, the sum without gradient, as in the mixture of attention heads (Zhang et al.
    2022, arXiv 2210.05144, section 3.1), whose experts share keys and values (``sharing.key_heads = heads_each``); with
    all experts on it is the soft mixture of BAM (Zhang et al. 2024, 2408.08274).

    Attributes:
        W_router: (d_model, expert).
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        settings = cast(ExpertHeadsSettings, config.heads.parsed())
        self.heads_each, self.experts = settings.heads_each, config.n_heads // settings.heads_each
        self.top_k = settings.top_k or self.experts
        if self.experts == 1:
            raise ConfigError(f"heads_each {settings.heads_each} of {config.n_heads} heads make one expert: take more.")
        self.W_router = router(config, self.experts)

    def weights(self, stream: Float[Tensor, "B T M"]) -> Float[Tensor, "B T H"]:
        """``g`` of every head's expert."""
        share = (stream @ self.W_router).softmax(-1)
        chosen = share * highest(share, self.top_k)
        return (chosen / chosen.sum(-1, keepdim=True).detach()).repeat(1, 1, self.heads_each)
