"""Copying heads: what they attend to, they make more likely as output.

Definition (direct path): for each of 25 different random tokens t, the value that the head reads at t goes through
W_O, the gains of the norms that follow (one behind the attention where there is one, the final norm) and W_U, giving a
logit for each of the 25 tokens; subtract their mean, keep the positive part; the score is the share of it that falls
on t itself, averaged over t.
Source: Olsson et al. 2022 (arXiv 2209.11895), copying score, on values instead of attended positions, so that it is a
property of the OV circuit alone; not rescaled to -1..1 (chance is about 0.04 to 0.1).
Second column: sum of the eigenvalues of the full OV circuit W_E W_V W_O W_U over the sum of their absolute values
(Elhage et al. 2021, "copying heads"), from d_head x d_head products; a property of the weights, so it has no interval.
Pitfalls: both leave out the MLPs and the final norm's scale (it cancels in the shares). The eigenvalue score reads
raw embeddings, which deep layers never see, so it says little beyond the first layers.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headscope.heads import ScoreDefinition
from headscope.kernels import expand_kv
from headscope.models.protocol import HookedModel
from headscope.readings import Reading, read
from headscope.tasks import build_repeated
from probes.probe import Bench, OnStep, Probe, Samples

_TOKENS = 25

COPYING = ScoreDefinition(
    name="copying",
    title="Copying",
    unit="share of raised logits",
    formula="mean_t relu(l_t - mean l)[t] / sum relu(l_t - mean l), l_t = W_U g W_O v_t on the 25 tokens present",
    source="Olsson et al. 2022, arXiv 2209.11895 (copying score, direct path)",
    reading="0 to 1; 1 means each token read raises only itself; chance is about 0.04 to 0.1",
    probe="copying",
    threshold=0.2,
    head_class="copying",
    caveats="OV circuit only, whatever the head attends to; direct path, MLPs left out; not rescaled to -1..1. "
    "The threshold, five times a token's equal share, is a convention of ours.",
)
OV_EIGENVALUE = ScoreDefinition(
    name="ov_eigenvalue",
    title="OV eigenvalue",
    unit="ratio",
    formula="sum lambda / sum |lambda|, eigenvalues of W_E W_V W_O W_U with the norms' gains folded in",
    source="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
    reading="-1 to 1; 1 means every direction is copied with positive sign",
    probe="copying",
    caveats="A property of the weights: no sampling, no interval. Reads raw embeddings: means little in deep layers.",
)


def _unembedding(model: HookedModel) -> Float[Tensor, "d_vocab d_model"]:
    """W_U with the gain of the final norm folded in."""
    head: Tensor = cast(Any, model.plain.get_output_embeddings()).weight
    return head.float() * _gain(model.bridge.ln_final, head)


@torch.no_grad()
def _gain(norm: Any, like: Tensor) -> Float[Tensor, " d_model"]:
    """What a norm multiplies each direction by, apart from its scale; ones where there is no norm.

    Seen by running it on a vector of signs, whose mean is 0 and root mean square 1: models differ in what they
    store (weight, or weight - 1 in Gemma), and a bias cancels.
    """
    signs = torch.ones(like.shape[-1], device=like.device, dtype=like.dtype)
    if norm is None:
        return signs.float()
    signs[1::2] = -1.0
    return ((norm(signs[None, None]) - norm(-signs[None, None]))[0, 0] / 2 * signs).float()


def _writes(model: HookedModel) -> Float[Tensor, "layer head d_head d_model"]:
    """W_O with the gain of the norm behind the attention folded in, where the model has one."""
    blocks: Any = model.bridge.blocks
    w_o: Tensor = model.bridge.W_O.detach()
    gains = [_gain(getattr(block, "ln1_post", None), w_o) for block in blocks]
    return w_o.float() * torch.stack(gains)[:, None, None]


def _copied_share(
    value: Float[Tensor, "batch head token d_head"],
    w_o: Float[Tensor, "head d_head d_model"],
    unembed: Float[Tensor, "batch token d_model"],
) -> Float[Tensor, "batch head"]:
    written = torch.einsum("bhtd,hdm->bhtm", value, w_o)
    logits = torch.einsum("bhtm,bsm->bhts", written, unembed)
    raised = (logits - logits.mean(-1, keepdim=True)).relu()
    share = raised.diagonal(dim1=2, dim2=3) / raised.sum(-1).clamp_min(1e-20)
    return share.mean(-1)


def _measure(bench: Bench, on_step: OnStep) -> Samples:
    model, n = bench.model, bench.config.repeated_examples
    task = build_repeated(
        model, n=n, period=min(_TOKENS, bench.config.period), copies=1, generator=bench.generator("copying")
    )
    w_o = _writes(model)
    unembed = _unembedding(model)[task.tokens[:, task.start :].to(model.device)]
    copying = bench.zeros(n)

    def take(layer: int, reading: Reading) -> None:
        value = expand_kv(reading.value[:, :, task.start :].float(), model.shape.n_heads)
        copying[:, layer] = _copied_share(value, w_o[layer], unembed).cpu().numpy()

    read(model, task.tokens, take, method=bench.config.method)
    on_step(1, 2)
    eigenvalues = _eigenvalue_ratio(model)
    on_step(2, 2)
    return {"copying": copying, "ov_eigenvalue": eigenvalues[None]}


def _eigenvalue_ratio(model: HookedModel) -> Float[np.ndarray, "layer head"]:
    """Eigenvalues of W_E W_V W_O W_U equal those of W_O (W_U W_E) W_V, a d_head x d_head matrix."""
    embed: Tensor = cast(Any, model.plain.get_input_embeddings()).weight.float()
    through = (_unembedding(model).T @ embed[: model.shape.d_vocab]).double()
    blocks: Any = model.bridge.blocks
    w_v, w_o = model.bridge.W_V.detach().double(), _writes(model).double()
    ratios = np.zeros((model.shape.n_layers, model.shape.n_heads), dtype=np.float32)
    for layer in range(model.shape.n_layers):
        gain = _gain(getattr(blocks[layer], "ln1", None), embed).double()
        values = w_v[layer].repeat_interleave(model.shape.n_heads // w_v.shape[1], dim=0) * gain[:, None]
        small = torch.einsum("hdm,mn,hne->hde", w_o[layer], through, values)
        found = torch.linalg.eigvals(small)
        ratios[layer] = (found.real.sum(-1) / found.abs().sum(-1).clamp_min(1e-30)).cpu().numpy()
    return ratios


PROBE = Probe(
    "copying",
    "does the OV circuit raise the token it reads",
    (COPYING, OV_EIGENVALUE),
    _measure,
    needs="bridge",
)
