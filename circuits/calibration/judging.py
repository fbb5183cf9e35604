"""Answers of a model with heads calibrated: one set of heads, every head alone, or the derivative for all at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.calibration.act import heads_by_layer
from circuits.calibration.judges import Judge, Part
from circuits.calibration.outputs import calibrated, calibration_change, check_seam
from circuits.calibration.results import Answers
from circuits.clean_run import CleanRun
from circuits.policies.settings import ActSettings
from headscope.attention import AttentionCall, tap
from headscope.heads import Head
from headscope.models.protocol import HookedModel
from probes.probe import OnStep, no_progress

_GRADIENT_SHARE = 8  # a backward pass keeps every activation, so fewer items run together


def margins_of(scores: Float[Tensor, "item label"], labels: Int[Tensor, " item"]) -> Float[Tensor, " item"]:
    """Score of the right answer minus that of the best wrong one; above 0 is right."""
    right = torch.nn.functional.one_hot(labels.to(scores.device), scores.shape[-1]).bool()
    return scores[right] - scores.masked_fill(right, -torch.inf).amax(-1)


class _Sheet:
    """Answers that are filled in part by part."""

    def __init__(self, judge: Judge) -> None:
        labels = judge.labels
        self._labels, self._groups = labels, judge.groups
        self._predictions = np.empty(len(labels), dtype=np.int64)
        self._margins = np.empty(len(labels), dtype=np.float64)

    def fill(self, part: Part, logits: Float[Tensor, "row position d_vocab"]) -> None:
        scores, items = part.scores(logits), part.items
        self._predictions[items.numpy()] = scores.argmax(-1).cpu().numpy()
        self._margins[items.numpy()] = margins_of(scores, self._labels[items]).double().cpu().numpy()

    def answers(self) -> Answers:
        return Answers(self._predictions, self._margins, self._labels.numpy().astype(np.int64), self._groups)


@torch.no_grad()
def answers_under(
    model: HookedModel,
    judge: Judge,
    heads: Sequence[Head],
    settings: ActSettings,
    *,
    batch_size: int = 16,
    on_step: OnStep = no_progress,
) -> Answers:
    """Answers with ``heads`` calibrated; with none, those of the model itself.

    Args:
        model: the model.
        judge: the items.
        heads: query heads.
        settings: what is done to them.
        batch_size: items of one forward pass.
        on_step: called with (done, total) parts.
    """
    sheet, parts = _Sheet(judge), judge.parts(batch_size)
    model.last_path = "plain"
    for done, part in enumerate(parts):
        with calibrated(model, heads, settings, lengths=part.prompt_lengths):
            device = model.device
            output = model.plain(
                input_ids=part.tokens.to(device), use_cache=False, logits_to_keep=part.positions.to(device)
            )
        sheet.fill(part, output.logits)
        on_step(done + 1, len(parts))
    return sheet.answers()


@torch.no_grad()
def answers_under_each(
    model: HookedModel,
    judge: Judge,
    candidates: Sequence[Head],
    settings: ActSettings,
    *,
    base: Sequence[Head] = (),
    batch_size: int = 16,
    on_step: OnStep = no_progress,
) -> tuple[Answers, list[Answers]]:
    """Answers with ``base`` calibrated, and with each candidate besides, run from the candidate's layer on.

    Args:
        model: the model.
        judge: the items.
        candidates: heads to add, one at a time.
        settings: what is done to heads.
        base: heads that are calibrated in every run.
        batch_size: items of one forward pass.
        on_step: called with (done, total) runs of a part.
    """
    sheets, parts = [_Sheet(judge) for _ in range(1 + len(candidates))], judge.parts(batch_size)
    layers = {head.layer for head in candidates}
    for index, part in enumerate(parts):
        with calibrated(model, base, settings, lengths=part.prompt_lengths):
            run = CleanRun(model, part.tokens, layers=layers, positions=part.positions)
        sheets[0].fill(part, run.logits)
        for place, head in enumerate(candidates, 1):
            with calibrated(model, (*base, head), settings, lengths=part.prompt_lengths):
                sheets[place].fill(part, run.logits_from(head.layer))
            on_step(index * len(candidates) + place, len(parts) * len(candidates))
    first, *others = (sheet.answers() for sheet in sheets)
    return first, others


def margin_derivatives(
    model: HookedModel,
    judge: Judge,
    heads: Sequence[Head],
    settings: ActSettings,
    *,
    batch_size: int = 16,
    on_step: OnStep = no_progress,
) -> tuple[Answers, Float[np.ndarray, "item layer head"]]:
    """How fast each item's margin rises as each head is calibrated, for all heads by one backward pass.

    **Definition**: with ``z_h(c) = z_h + c (z_h^ACT - z_h)``, ``d margin / dc`` at c = 0
    ``= sum over rows of grad_z . (z^ACT - z)``; the sinks are those of the uncalibrated run. NaN for other heads.

    Args:
        model: the model.
        judge: the items.
        heads: query heads.
        settings: what c = 1 does to them.
        batch_size: items of one forward pass without gradients; an eighth of it run together.
        on_step: called with (done, total) parts.

    Returns:
        The answers of the uncalibrated model, and the derivatives, nats (per token of the answer) for the whole step.
    """
    check_seam(model)
    by_layer, shape = heads_by_layer(model, heads), model.shape
    found = np.full((len(judge.labels), shape.n_layers, shape.n_heads), np.nan)
    sheet, parts = _Sheet(judge), judge.parts(max(1, batch_size // _GRADIENT_SHARE))
    for done, part in enumerate(parts):
        logits, rows = _row_derivatives(model, part, judge.labels[part.items], by_layer, settings)
        items = torch.zeros(len(part.items), *rows.shape[1:]).index_add(0, part.item_of_row, rows)
        for layer, chosen in by_layer.items():
            found[part.items.numpy()[:, None], layer, chosen] = items[:, layer, chosen].double().numpy()
        sheet.fill(part, logits)
        on_step(done + 1, len(parts))
    return sheet.answers(), found


def _row_derivatives(
    model: HookedModel, part: Part, labels: Int[Tensor, " item"], by_layer: dict[int, list[int]], settings: ActSettings
) -> tuple[Float[Tensor, "row position d_vocab"], Float[Tensor, "row layer head"]]:
    """Logits, and the derivative by a coefficient of each row and head."""
    size = (len(part.tokens), model.shape.n_layers, model.shape.n_heads)
    coefficient = torch.zeros(size, device=model.device, requires_grad=True)

    def editor(call: AttentionCall) -> Tensor:
        chosen = by_layer.get(call.layer)
        if chosen is None:
            return call.z
        change = calibration_change(call, chosen, settings, part.prompt_lengths)
        step = torch.zeros_like(call.z, dtype=torch.float32)
        step[:, chosen] = coefficient[:, call.layer, chosen][..., None, None] * change
        return call.z + step.to(call.z.dtype)

    model.last_path = "plain"
    with torch.enable_grad(), tap(model.plain, editor=editor):
        logits = model.plain(
            input_ids=part.tokens.to(model.device),
            use_cache=False,
            logits_to_keep=part.positions.to(model.device),
        ).logits
        total = margins_of(part.scores(logits), labels).sum()
        (gradient,) = torch.autograd.grad(total, coefficient)
    return logits.detach(), gradient.cpu()
