"""Softmax attention."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headscope.mixers.interface import Mix, MixerInput, RowMixer


class Softmax(RowMixer):
    """``M = softmax(s)`` over the tokens a row sees (Vaswani et al. 2017, arXiv 1706.03762, section 3.2.1)."""

    def mix(self, given: MixerInput) -> Mix:
        """Masked softmax of the scores."""
        scores = given.scores.masked_fill(~given.visible, -torch.inf)
        return Mix(scores.softmax(-1), given.value)

    def operation(self, given: MixerInput) -> Tensor:
        """Torch's fused operator, where it computes the same."""
        if given.edit_scores is not None:
            return self.mix(given).z
        mask = torch.where(given.visible, 0.0, -torch.inf).to(given.query.dtype)
        if given.bias is not None:
            mask = mask + given.bias
        return scaled_dot_product_attention(given.query, given.key, given.value, attn_mask=mask, scale=given.scale)
