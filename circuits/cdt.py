"""CD-T: what each head and MLP contributes, by carrying its deviation from its mean through the model.

Definition: at the source, beta is what the component writes less mu, its mean over the corrupted prompts of the same
template at that position; everything else is gamma. Both are carried through all later layers by the rules of
`circuits.decomposition`. The score is ``measure(logits) - measure(gamma logits)``; with the logit difference of one
right and one wrong token this is the logit difference of beta itself, which is what the paper scores.
Source: Hsu et al. 2024 (arXiv 2407.00886), section 3.
Choice: the defaults are not the paper's. With ``pattern_of`` "beta" (the paper) or "total" (its released code) a head
that works through the queries and keys of later heads is missed: of the two heads of a planted induction circuit only
the second is found. On 4 pairs of smollm2 (IOI, 270 heads) the rank agreement with mean patching was 0.67 with
"gamma", 0.34 with "total", 0.33 with "beta". A gated MLP, which the paper does not have, multiplies two parts: with
``products`` "rest" they grow without bound under the total's norm, to infinity on smollm2.
Pitfalls: norms keep the total's scale, so a score is not the effect of removing the part. A template with a single
prompt has its twin for a mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.decomposition import (
    Split,
    split_attention,
    split_bias,
    split_linear,
    split_mlp,
    split_norm,
    stabilised,
)
from circuits.discovery import Found, Search
from circuits.mean_activations import TemplateMeans, template_means
from circuits.measures import Measure
from circuits.method_settings import CdtSettings
from headscope.models.anatomy import Activations, Anatomy
from headscope.tasks.contrast import ContrastBatch


@dataclass(frozen=True)
class Carrier:
    """Carries decompositions of the residual stream through a model: totals ``[prompt, pos, d_model]``, beta with a
    leading axis of sources.
    """

    anatomy: Anatomy
    settings: CdtSettings

    def z(self, layer: int, stream: Split) -> Split:
        """Head outputs of a layer, ``[..., prompt, pos, head, d_head]``."""
        part = self.anatomy.blocks[layer]
        normed = split_norm(stream, part.attn_norm)
        query, key, value = (
            _into_heads(normed, weight, bias)
            for weight, bias in ((part.w_q, part.b_q), (part.w_k, part.b_k), (part.w_v, part.b_v))
        )
        query = query if part.q_norm is None else split_norm(query, part.q_norm)
        key = key if part.k_norm is None else split_norm(key, part.k_norm)
        turned = query.map(self._turned), key.map(self._turned), value.map(lambda x: x.transpose(-2, -3))
        return split_attention(*turned, part.scale, self.settings.pattern_of).map(lambda x: x.transpose(-2, -3))

    def attention(self, layer: int, z: Split) -> Split:
        """What attention writes; the bias of W_O is shared out."""
        part = self.anatomy.blocks[layer]
        return split_linear(z.map(lambda x: x.flatten(-2)), part.w_o.flatten(0, 1), part.b_o)

    def mlp(self, layer: int, stream: Split) -> Split:
        """What the MLP writes, given the stream that it reads."""
        part = self.anatomy.blocks[layer]
        return split_mlp(
            split_norm(stream, part.mlp_norm),
            part.mlp,
            products=self.settings.products,
            stabilise=self.settings.stabilise,
        )

    def leave(self, middle: Split, written: Split) -> Split:
        """The stream that leaves a layer: between attention and MLP, plus what the MLP wrote."""
        return stabilised(middle + written) if self.settings.stabilise else middle + written

    def block(self, layer: int, stream: Split) -> tuple[Split, Split]:
        """One whole layer: the stream that leaves it, and its z."""
        z = self.z(layer, stream)
        middle = stream + self.attention(layer, z)
        return self.leave(middle, self.mlp(layer, stream if self.anatomy.parallel else middle)), z

    def logits(self, stream: Split, end: Int[Tensor, " prompt"]) -> Split:
        """Logits at the rows ``end``, ``[..., prompt, d_vocab]``."""
        rows = stream.map(lambda x: x[..., torch.arange(len(end), device=end.device), end, :])
        unembed = self.anatomy.model.plain.get_output_embeddings()
        assert isinstance(unembed, torch.nn.Linear)
        return split_bias(split_norm(rows, self.anatomy.final_norm).map(lambda x: x @ unembed.weight.T), unembed.bias)

    def _turned(self, found: Tensor) -> Tensor:
        return self.anatomy.turned(found.flatten(0, -4)).unflatten(0, found.shape[:-3])


def _into_heads(normed: Split, weight: Tensor, bias: Tensor | None) -> Split:
    flat = split_linear(normed, weight.transpose(0, 1).flatten(1), None if bias is None else bias.flatten())
    return flat.map(lambda x: x.unflatten(-1, weight[:, 0].shape))


def head_sources(
    carrier: Carrier, clean: Activations, mu: Float[Tensor, "prompt pos head d_head"], layer: int, heads: slice
) -> Split:
    """The stream that leaves a layer when beta is what some of its heads write beyond their mean."""
    apart = carrier.anatomy.head_out(layer, clean.z[layer] - mu)[..., heads, :]
    middle = Split(clean.resid_mid[layer], apart.movedim(-2, 0))
    if carrier.anatomy.parallel:
        return carrier.leave(middle, Split(clean.mlp_out[layer], torch.zeros_like(middle.beta)))
    return carrier.leave(middle, carrier.mlp(layer, middle))


def _streams(
    carrier: Carrier, clean: Activations, means: TemplateMeans, template: Int[Tensor, " prompt"]
) -> Iterator[tuple[int, slice, Split]]:
    """``(layer, which, stream)`` of all sources: heads, then the MLP of each layer, ``batch_size`` rows at a time."""
    heads = carrier.anatomy.model.shape.n_heads
    step = max(1, carrier.settings.batch_size // len(template))
    for layer in range(len(carrier.anatomy.blocks)):
        mu_z, mu_mlp = means.z[layer][template], means.mlp_out[layer][template]
        for start in range(0, heads + 1, step):
            parts, stop = list[Split](), min(start + step, heads + 1)
            if start < heads:
                parts.append(head_sources(carrier, clean, mu_z, layer, slice(start, min(stop, heads))))
            if stop > heads:
                parts.append(Split(clean.resid_pre[layer + 1], (clean.mlp_out[layer] - mu_mlp)[None]))
            stream = Split(clean.resid_pre[layer + 1], torch.cat([part.beta for part in parts]))
            carrier.anatomy.work.forwards += stream.beta.shape[0] * len(template) / len(carrier.anatomy.blocks)
            yield layer, slice(start, stop), stream


def _carried(carrier: Carrier, stream: Split, layer: int, end: Int[Tensor, " prompt"]) -> tuple[Split, list[Split]]:
    """Logits of a stream that leaves ``layer``, and z of every layer after it."""
    blocks, found = len(carrier.anatomy.blocks), list[Split]()
    carrier.anatomy.work.forwards += stream.beta[..., 0, 0].numel() * (blocks - layer - 1) / blocks
    for later in range(layer + 1, blocks):
        stream, z = carrier.block(later, stream)
        found.append(z)
    return carrier.logits(stream, end), found


def _prompts(batch: ContrastBatch, settings: CdtSettings, sources: int) -> Iterator[Int[Tensor, " prompt"]]:
    """Prompts in chunks of which all sources of a layer fit into one batch."""
    return iter(torch.arange(len(batch), device=batch.end.device).split(max(1, settings.batch_size // sources)))


@torch.no_grad()
def find_cdt(search: Search[CdtSettings]) -> Found:
    """Relevance of every head and MLP to the measure, mean over prompts; signed."""
    anatomy, batch, settings = search.anatomy, search.batch, search.settings
    shape, carrier = anatomy.model.shape, Carrier(anatomy, settings)
    means = template_means(anatomy, batch, settings.batch_size)
    template = batch.template.unique(return_inverse=True)[1]
    scores, done = torch.zeros(len(batch), shape.n_layers, shape.n_heads + 1, dtype=torch.float64), 0
    for rows in _prompts(batch, settings, shape.n_heads + 1):
        part = batch.select(rows)
        clean = anatomy.run(part.clean, part.end)
        measure = Measure(settings.measure, part, clean.logits)
        whole = measure(clean.logits)
        for layer, which, stream in _streams(carrier, clean, means, template[rows]):
            logits, _ = _carried(carrier, stream, layer, part.end)
            pairs = torch.arange(len(part), device=rows.device).repeat(len(stream.beta))
            without = measure(logits.gamma.flatten(0, 1), pairs).view(-1, len(part))
            scores[rows.cpu(), layer, which] = (whole - without).T.double().cpu()
            done += len(rows) * len(without)
            search.on_step(done, scores.numel())
    found = scores.numpy()
    heads = found[..., :-1]
    return Found(heads.mean(0), found[..., -1].mean(0), examples=heads, notes=_notes(batch))


def _notes(batch: ContrastBatch) -> tuple[str, ...]:
    fewest = int(batch.template.unique(return_counts=True)[1].min())
    return (
        ()
        if fewest > 1
        else ("a template has a single prompt: the mean that its heads are compared with is that of its one twin.",)
    )


@torch.no_grad()
def relevance(
    anatomy: Anatomy, batch: ContrastBatch, settings: CdtSettings | None = None
) -> Float[np.ndarray, "layer head later_layer later_head"]:
    """How much of each later head's output comes from each head's (and, as one more "head", MLP's) deviation.

    **Definition**: ``sum ||beta_t||_1 / sum ||gamma_t||_1`` of the later head's z over the positions t up to ``end``,
    mean over prompts (Hsu et al. 2024, arXiv 2407.00886, section 3.3, with sums in place of the sum of ratios, which
    a position with hardly any gamma would decide).
    **Range**: 0 and up, without a sign; NaN where the second head is not in a later layer.

    Args:
        anatomy: the model's parts.
        batch: the pairs, on the model's device.
        settings: as for the method ``cdt``; ``measure`` is not used.
    """
    settings = settings or CdtSettings()
    shape, carrier = anatomy.model.shape, Carrier(anatomy, settings)
    means = template_means(anatomy, batch, settings.batch_size)
    template = batch.template.unique(return_inverse=True)[1]
    found = np.full((shape.n_layers, shape.n_heads + 1, shape.n_layers, shape.n_heads), np.nan)
    for rows in _prompts(batch, settings, shape.n_heads + 1):
        part = batch.select(rows)
        clean = anatomy.run(part.clean, part.end)
        real = torch.arange(part.clean.shape[1], device=rows.device) <= part.end[:, None]
        for layer, which, stream in _streams(carrier, clean, means, template[rows]):
            for later, z in enumerate(_carried(carrier, stream, layer, part.end)[1], layer + 1):
                ratio = (_size(z.beta, real) / _size(z.gamma, real)).sum(-2).double().cpu().numpy() / len(batch)
                found[layer, which, later] = np.nan_to_num(found[layer, which, later]) + ratio
    return found


def _size(z: Tensor, real: Tensor) -> Tensor:
    """L1 norm of each head's output over the real positions: ``[..., prompt, head]``."""
    return (z.float().abs() * real[..., None, None]).sum((-3, -1))
