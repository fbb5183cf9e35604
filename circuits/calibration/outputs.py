"""Calibrated head outputs by an edit of z: the same numbers as the policy, at the price of the chosen heads only.

The policy computes every head of every layer densely. While heads are chosen one at a time, the others may as well go
through the fused operators; texts are then read in one call, from their first token.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.calibration.act import calibrated_layer, heads_by_layer
from circuits.calibration.sinks import Lengths, only_heads, pattern_rows
from circuits.policies.settings import ActSettings
from headscope.attention import AttentionCall, AttentionInput, tap
from headscope.errors import UnsupportedError
from headscope.heads import Head
from headscope.models.protocol import HookedModel

_ROW_CHUNK = 256


@torch.no_grad()
def calibration_change(
    call: AttentionInput, heads: list[int], settings: ActSettings, lengths: Lengths = None
) -> Float[Tensor, "batch chosen query d_value"]:
    """``z_calibrated - z`` of the chosen heads, float32: exactly 0 where a row has no sinks.

    Raises:
        UnsupportedError: if the call does not begin with the first token, or a policy attends.
    """
    if call.first_row:
        raise UnsupportedError(
            "calibrated outputs need whole texts; decode under the policy: applied(model, Act(...))."
        )
    chosen = only_heads(call, heads)
    memory = calibrated_layer(settings, heads, lengths)
    memory.look(chosen)
    parts = list[Tensor]()
    for first in range(0, chosen.query.shape[2], _ROW_CHUNK):
        last = min(first + _ROW_CHUNK, chosen.query.shape[2])
        pattern = pattern_rows(chosen, first, last)
        parts.append((memory.calibrated(pattern, first) - pattern) @ chosen.value[:, :, :last].float())
    return torch.cat(parts, 2)


@contextmanager
def calibrated(
    model: HookedModel, heads: Iterable[Head], settings: ActSettings, *, lengths: Lengths = None
) -> Generator[None, None, None]:
    """Run ``model.plain`` with these heads calibrated inside the block, on whole texts.

    Readers inside see z as calibrated, and queries and keys from which M would not be: the calibrated pattern is that
    of ``applied(model, Act(...))``.

    Args:
        model: the model.
        heads: query heads.
        settings: the rule; its own ``heads`` and layer range are not looked at.
        lengths: tokens of each text's prompt; see `circuits.calibration.act.Act`.

    Raises:
        HeadIndexError: for a head that the model does not have.
        UnsupportedError: if the model's attention does not go through the seam.
    """
    by_layer = heads_by_layer(model, heads)
    check_seam(model)

    def editor(call: AttentionCall) -> Tensor:
        chosen = by_layer.get(call.layer)
        if chosen is None:
            return call.z
        edited = call.z.to(torch.float32, copy=True)
        edited[:, chosen] += calibration_change(call, chosen, settings, lengths)
        return edited.to(call.z.dtype)

    with tap(model.plain, editor=editor):
        yield


def check_seam(model: HookedModel) -> None:
    """Refuse a model whose z cannot be edited.

    Raises:
        UnsupportedError: if so.
    """
    if not model.seam.supports("edit"):
        raise UnsupportedError(
            f"heads of {model.name!r} cannot be calibrated: its attention does not go through the attention registry "
            f"({model.seam['edit'].value})."
        )
