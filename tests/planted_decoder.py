"""A decoder with hand-set weights: a previous-token head, and the induction head that reads it."""

from __future__ import annotations

import torch

from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder

SHARP = 60.0


def induction_decoder(d_vocab: int = 12, n_ctx: int = 24) -> Decoder:
    """Predicts, after a token that was seen before, the token that followed it.

    The stream holds the token (one-hot), its position (one-hot), the token before it (written by L0H0), the prediction
    (written by L1H0), and a constant that keeps the norm of all tokens the same.
    """
    size = 3 * d_vocab + n_ctx
    config = DecoderConfig.parse(
        {
            "d_vocab": d_vocab,
            "n_ctx": n_ctx,
            "n_layers": 2,
            "n_heads": 1,
            "d_model": size,
            "d_head": d_vocab,
            "d_key": max(n_ctx, d_vocab),
            "position": "learned",
        }
    )
    model = Decoder(config)
    token, before, answer = (slice(start, start + d_vocab) for start in (0, d_vocab, 2 * d_vocab))
    place = slice(3 * d_vocab, size)
    eye, places = torch.eye(d_vocab), torch.eye(n_ctx)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.zero_()
        model.W_E[:, token] = eye
        assert model.W_pos is not None
        model.W_pos[:, place] = places
        first, second = model.blocks[0].attn, model.blocks[1].attn
        first.W_Q[0, place, :n_ctx] = SHARP * torch.diag(torch.ones(n_ctx - 1), -1)  # row i asks for position i - 1
        first.keys_values.W_K[0, place, :n_ctx] = places
        first.keys_values.W_V[0, token] = eye
        first.W_O[0, :, before] = eye
        second.W_Q[0, token, :d_vocab] = SHARP * eye
        second.keys_values.W_K[0, before, :d_vocab] = eye
        second.keys_values.W_K[0, place.start] = -1.0  # the first row could look nowhere else than at itself
        second.keys_values.W_V[0, token] = eye
        second.W_O[0, :, answer] = eye
        model.W_U[answer] = eye
    return model.eval()
