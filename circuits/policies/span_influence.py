"""What shortening the window of one head does to the loss: the detector behind MoA's search.

Fu et al. 2024 (MoA), arXiv 2406.14909, section 4.1; ``thu-nics/MoA``, ``modify_llama_profile.py``. A rule gives a head
a window of ``base + slope * tokens so far`` and the first ``sink`` tokens; what lies between is masked, and a row of M
is scaled up to sum to one again. Three estimates of how much the loss of each example rises:

- ``cells``, the paper's: the sum over masked cells of what masking that cell alone does to first order in M, the rest
  of its row scaled up: ``E_ij = A_ij (s_i - g_ij) / (1 - A_ij)``, with ``g = dL/dA`` and ``s_i = sum_j g_ij A_ij``. The
  authors' code then takes absolute values of the mean over texts; here the sign stays.
- ``window``: all cells of a row masked together, ``sum_kept g_ij A_ij / sum_kept A_ij - s_i``. Cells that are masked
  together are not scaled up for one another; first order in M, exact in the row itself.
- ``exact``: the loss itself, with this head alone cut; a run for every rule and head.

The loss is cross-entropy at the rows that count, against the text or against the model's own first choices. Its own
distribution would not do as a target: the gradient is zero there. For the same reason the first-order estimates of a
model that is nearly sure of its targets are far too small; it is their order that counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.policies.masks import Spans
from circuits.policies.policy import applied
from circuits.policies.search_settings import SpanSearchSettings
from circuits.policies.windowed_attention import full_attention
from headscope.attention import Attended, AttentionInput, tap
from headscope.kernels import causal_logits, expand_kv
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch
from probes.probe import OnStep, no_progress

Estimate = Literal["window", "cells", "exact"]
Supervision = Literal["model", "text"]
_ROW_CHUNK = 256


@dataclass(frozen=True)
class SpanRules:
    """What a head may choose from.

    Attributes:
        base: window in tokens.
        slope: what it grows by per token of text.
        sink: first tokens that stay.
    """

    base: Float[np.ndarray, " rule"]
    slope: Float[np.ndarray, " rule"]
    sink: int

    @classmethod
    def of(cls, settings: SpanSearchSettings) -> SpanRules:
        """Every pair of a base and a slope, and last of all everything (base 1, slope 1)."""
        pairs = [(base, slope) for base in settings.bases for slope in settings.slopes]
        table = np.array([*pairs, (1, 1)], dtype=np.float32)
        return cls(table[:, 0], table[:, 1], settings.sink)

    def window(self, length: int) -> Int[np.ndarray, " rule"]:
        """Keys that the row at position ``length - 1`` sees nearby, itself included."""
        return np.minimum(np.ceil(self.base + self.slope * np.float32(length)), length).astype(np.int64)

    def entries(self, length: int) -> Int[np.ndarray, " rule"]:
        """Keys that this row sees in all."""
        return np.minimum(self.window(length) + self.sink, length)


def span_influence(
    model: HookedModel,
    batch: AnswerBatch,
    rules: SpanRules,
    *,
    estimate: Estimate = "window",
    supervision: Supervision = "model",
    on_step: OnStep = no_progress,
) -> Float[np.ndarray, "example rule layer head"]:
    """By how much the loss rises when one query head follows a rule, in nats per token that counts.

    Args:
        model: the model.
        batch: texts; ``counted`` rows make the loss.
        rules: what to try, for each head alone.
        estimate: see above; the first two take one backward pass, ``exact`` a run per rule and head.
        supervision: ``model``: the targets are the tokens that the model puts first; ``text``: the next tokens.
        on_step: called with (done, total) layers.

    Raises:
        UnsupportedError: if the model's attention does not go through the seam, or caps its logits.
    """
    with torch.no_grad():
        targets = batch.tokens[:, batch.rows + 1].to(model.device)
        if supervision == "model":
            targets = _logits(model, batch).argmax(-1)
    if estimate == "exact":
        return _exact(model, batch, rules, targets, on_step)
    calls, gradients = _backward(model, batch, targets)
    found: list[np.ndarray] = []
    for call, gradient in zip(calls, gradients, strict=True):
        found.append(_first_order(call, gradient, rules, estimate).cpu().numpy())
        on_step(len(found), len(calls))
    return np.stack(found, 2).astype(np.float64)


def _logits(model: HookedModel, batch: AnswerBatch) -> Float[Tensor, "batch row d_vocab"]:
    """At the rows that count, on the plain model with whatever acts on it."""
    tokens, rows = batch.tokens.to(model.device), batch.rows.to(model.device)
    return model.plain(input_ids=tokens, use_cache=False, logits_to_keep=rows).logits


def _loss(model: HookedModel, batch: AnswerBatch, targets: Int[Tensor, "batch row"]) -> Float[Tensor, " batch"]:
    """Mean cross-entropy of each example over its rows that count."""
    logits, counted = _logits(model, batch).float(), batch.counted[:, batch.rows].to(model.device)
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (each.view_as(targets) * counted).sum(-1) / counted.sum(-1)


def _backward(model: HookedModel, batch: AnswerBatch, targets: Tensor) -> tuple[list[AttentionInput], list[Tensor]]:
    """What each layer's attention was called with, and the gradient of the loss at its z."""
    calls, shifts = list[AttentionInput](), list[Tensor]()

    def attend(call: AttentionInput, _: bool) -> Attended:
        z = full_attention(call)
        shifts.append(torch.zeros_like(z, requires_grad=True))
        query, key, value = (part.detach() for part in (call.query, call.key, call.value))
        calls.append(replace(call, query=query, key=key, value=value))
        return Attended(z + shifts[-1])

    with torch.enable_grad(), tap(model.plain, attender=attend):
        gradients = torch.autograd.grad(_loss(model, batch, targets).sum(), shifts)
    return calls, list(gradients)


@torch.no_grad()
def _first_order(
    call: AttentionInput, gradient: Float[Tensor, "batch head row d_value"], rules: SpanRules, estimate: Estimate
) -> Float[Tensor, "batch rule head"]:
    """The estimate of one layer, summed over rows a chunk at a time."""
    value = expand_kv(call.value, call.query.shape[1]).float()
    total = torch.zeros(len(value), len(rules.base), value.shape[1], device=value.device)
    change = _window_change if estimate == "window" else _cell_change
    for first in range(0, call.query.shape[2], _ROW_CHUNK):
        query = call.query[:, :, first : first + _ROW_CHUNK]
        stop = first + query.shape[2]
        logits = causal_logits(query, call.key[:, :, :stop], call.scale, first_row=first, window=call.window)
        slopes = gradient[:, :, first:stop].float() @ value[:, :, :stop].mT
        cuts = torch.from_numpy(np.stack([length - rules.window(length) for length in range(first + 1, stop + 1)], 1))
        cuts = cuts.to(value.device).clamp_min(rules.sink).clamp_max(stop)
        total += change(logits.softmax(-1), slopes, cuts, rules.sink).sum(-1)
    return total


def _window_change(
    pattern: Float[Tensor, "batch head row key"],
    slopes: Float[Tensor, "batch head row key"],
    cuts: Int[Tensor, "rule row"],
    sink: int,
) -> Float[Tensor, "batch rule head row"]:
    """Keys ``sink ... cut - 1`` of each row masked together: ``sum_kept g A / sum_kept A - s``.

    What is kept is summed up from both ends, so that no small rest is a difference of large sums.
    """
    moved = slopes * pattern
    mass, pull = _kept(pattern, cuts, sink), _kept(moved, cuts, sink)
    change = pull / mass.clamp_min(torch.finfo(mass.dtype).tiny) - moved.sum(-1)[:, None]
    return change.masked_fill((cuts <= sink)[None, :, None], 0.0)


def _kept(cells: Tensor, cuts: Tensor, sink: int) -> Float[Tensor, "batch rule head row"]:
    """Sum of the first ``sink`` cells of each row and of those from its cut on."""
    tails = torch.nn.functional.pad(cells.flip(-1).cumsum(-1).flip(-1), (0, 1))
    rows = torch.arange(cells.shape[2], device=cells.device)
    return cells[..., :sink].sum(-1)[:, None] + tails[:, :, rows, cuts].transpose(1, 2)


def _cell_change(
    pattern: Float[Tensor, "batch head row key"],
    slopes: Float[Tensor, "batch head row key"],
    cuts: Int[Tensor, "rule row"],
    sink: int,
) -> Float[Tensor, "batch rule head row"]:
    """The sum over keys ``sink ... cut - 1`` of ``A (s - g) / (1 - A)``."""
    mean = (slopes * pattern).sum(-1, keepdim=True)
    each = pattern * (mean - slopes) / (1 - pattern).clamp_min(torch.finfo(pattern.dtype).eps)
    sums = torch.nn.functional.pad(each[..., sink:].cumsum(-1), (1, 0))
    rows = torch.arange(each.shape[2], device=each.device)
    return sums[:, :, rows, (cuts - sink).clamp_min(0)].transpose(1, 2)


@torch.no_grad()
def _exact(
    model: HookedModel, batch: AnswerBatch, rules: SpanRules, targets: Tensor, on_step: OnStep
) -> Float[np.ndarray, "example rule layer head"]:
    """The loss with each head alone under each rule, minus the loss with all heads whole."""
    shape = model.shape
    base, slope = (torch.ones(shape.n_layers, shape.n_heads) for _ in range(2))  # everything
    with applied(model, Spans(base, slope, rules.sink)):
        whole = _loss(model, batch, targets)
    found = np.zeros((len(batch.tokens), len(rules.base), shape.n_layers, shape.n_heads))
    for layer in range(shape.n_layers):
        for head in range(shape.n_heads):
            for rule, pair in enumerate(zip(rules.base, rules.slope, strict=True)):
                cut = [part.clone() for part in (base, slope)]
                cut[0][layer, head], cut[1][layer, head] = map(float, pair)
                with applied(model, Spans(cut[0], cut[1], rules.sink)):
                    found[:, rule, layer, head] = (_loss(model, batch, targets) - whole).cpu().numpy()
        on_step(layer + 1, shape.n_layers)
    return found
