"""Pointer networks: additive scores, and a softmax that points at tokens."""

from __future__ import annotations

import torch
from torch import nn

from headscope.config import Config
from headscope.mixers.interface import Mix, MixerInput, MixerShape, RowMixer


class Pointer(RowMixer):
    """``M_i = softmax_j(u . tanh(W_1 k_j + W_2 q_i))`` (Vinyals et al. 2015, arXiv 1506.03134, section 2.3).

    Additive attention (Bahdanau et al. 2014, 1409.0473). In the paper the weights are the output, over the tokens that
    an encoder read; here they mix values as in any other head.

    Attributes:
        W_1: (head, d_key, d_key), of keys.
        W_2: (head, d_key, d_key), of queries.
        direction: u, (head, d_key).
    """

    def __init__(self, shape: MixerShape, settings: Config) -> None:
        super().__init__(shape, settings)
        heads, width = shape.n_heads, shape.d_key
        self.W_1 = nn.Parameter(torch.randn(heads, width, width) * width**-0.5)
        self.W_2 = nn.Parameter(torch.randn(heads, width, width) * width**-0.5)
        self.direction = nn.Parameter(torch.randn(heads, width))

    def mix(self, given: MixerInput) -> Mix:
        """Additive scores, edited and masked, then their softmax."""
        hidden = torch.tanh((given.query @ self.W_2)[:, :, :, None] + (given.key @ self.W_1)[:, :, None])
        scores = (hidden @ self.direction[:, None, :, None]).squeeze(-1)
        scores = scores if given.bias is None else scores + given.bias
        scores = scores if given.edit_scores is None else given.edit_scores(scores)
        return Mix(scores.masked_fill(~given.visible, -torch.inf).softmax(-1), given.value)
