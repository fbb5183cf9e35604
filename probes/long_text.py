"""One long text: where every head's attention goes, in one pass, and the mass of chosen rows on chosen keys.

Dense rows, a chunk at a time, so that sliding windows and capped logits are read too; memory O(chunk * T) per head.
Under a policy the rows are the policy's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.attention import AttentionCall, tap
from headscope.models.protocol import HookedModel
from headscope.readings.running import refuse_unseen
from probes.probe import OnStep, no_progress

_ROW_CHUNK = 256


@dataclass(frozen=True)
class LongText:
    """What every head does on one long text.

    Attributes:
        column_mass: mean mass that each key receives from the rows that can see it, in [0, 1].
        previous_mass: mean of ``M[i, i - 1]`` over rows 1 ... T - 1.
        row_mass: the last row's mass on each key.
    """

    column_mass: Float[np.ndarray, "layer head pos"]
    previous_mass: Float[np.ndarray, "layer head"]
    row_mass: Float[np.ndarray, "layer head pos"]


def measure_long_text(model: HookedModel, tokens: list[int], on_step: OnStep = no_progress) -> LongText:
    """Read one text through the attention seam.

    Args:
        model: the model.
        tokens: the text.
        on_step: called with (done, total) layers.

    Raises:
        UnsupportedError: if the model's attention does not go through the seam.
    """
    layers: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def reader(call: AttentionCall) -> None:
        layers[call.layer] = _layer(call)
        on_step(len(layers), model.shape.n_layers)

    model.last_path = "plain"
    with torch.no_grad(), tap(model.plain, reader=reader):
        model.plain.base_model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False)
    refuse_unseen(model, set(range(model.shape.n_layers)) - set(layers))
    columns = [torch.stack([layers[layer][part] for layer in sorted(layers)]).cpu().numpy() for part in range(3)]
    return LongText(*columns)


def _layer(call: AttentionCall) -> tuple[Tensor, Tensor, Tensor]:
    size = call.query.shape[2]
    total = torch.zeros(call.query.shape[1], size, dtype=torch.float64, device=call.query.device)
    previous, last = torch.zeros_like(total[:, 0]), torch.zeros_like(total, dtype=torch.float32)
    for first in range(0, size, _ROW_CHUNK):
        stop = min(first + _ROW_CHUNK, size)
        rows = call.pattern_rows(first, stop)[0]
        total[:, :stop] += rows.sum(1)
        previous += rows.diagonal(first - 1, 1, 2).sum(-1)
        last[:, :stop] = rows[:, -1]
    reach = torch.arange(size, 0, -1, device=total.device).clamp_max(call.window or size)
    return (total / reach).float(), (previous / max(size - 1, 1)).float(), last


@torch.no_grad()
def span_mass(
    call: AttentionCall, *, first_row: int, rows: list[int], spans: list[tuple[int, int]]
) -> Float[Tensor, "batch head"]:
    """Mean over rows ``first_row ...`` of the mass on a span of keys, for each example.

    Args:
        call: one layer's attention.
        first_row: first row that counts, the same in every example.
        rows: rows that count in each example.
        spans: first key and the key behind the last of each example's span.
    """
    stop = first_row + max(rows)
    pattern = call.pattern_rows(first_row, stop)
    each = [
        part[:, :count, start:end].sum(-1).mean(-1)
        for part, count, (start, end) in zip(pattern, rows, spans, strict=True)
    ]
    return torch.stack(each)
