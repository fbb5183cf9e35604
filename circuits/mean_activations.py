"""What every component writes on average over the prompts of a template, position by position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from headscope.models.anatomy import Activations, Anatomy
from headscope.tasks.contrast import ContrastBatch


def mean_activations(anatomy: Anatomy, batch: ContrastBatch, runs: Activations) -> Activations:
    """Activations averaged over the prompts of the same template, at each position; a row per prompt.

    **Definition**: ``a_i(t) <- mean of a_j(t) over prompts j of i's template with t <= end_j``. Run on the corrupted
    prompts it is the mean ablation of Wang et al. 2022 (arXiv 2211.00593, section 2), whose reference prompts keep the
    template and not the names. The streams are averaged too, so that they stay the sum of what the parts write.

    Args:
        anatomy: the model's parts, for the logits of the mean stream.
        batch: the pairs: templates and ends.
        runs: activations of those prompts, in order.
    """
    inside = torch.arange(batch.clean.shape[1], device=batch.end.device) <= batch.end[:, None]
    same = (batch.template[:, None] == batch.template).float()

    def mean(values: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch pos ..."]:
        weight = inside[:, :, None].to(values.device, torch.float32)
        total = torch.einsum("ij,jtd->itd", same.to(values.device), values.flatten(2).float() * weight)
        count = torch.einsum("ij,jtd->itd", same.to(values.device), weight)
        return (total / count.clamp_min(1.0)).to(values.dtype).view_as(values)

    streams = [mean(part) for part in runs.resid_pre]
    return Activations(
        mean(runs.embed),
        streams,
        [mean(part) for part in runs.resid_mid],
        [mean(part) for part in runs.z],
        [mean(part) for part in runs.mlp_out],
        anatomy.logits(streams[-1], batch.end),
    )


@dataclass(frozen=True)
class TemplateMeans:
    """Mean of what each component writes over the corrupted prompts of a template, at each position.

    Attributes:
        embed: the embedding.
        z: head outputs before W_O, per layer.
        mlp_out: MLP outputs, per layer.
    """

    embed: Float[Tensor, "template pos d_model"]
    z: list[Float[Tensor, "template pos head d_head"]]
    mlp_out: list[Float[Tensor, "template pos d_model"]]


def template_means(anatomy: Anatomy, batch: ContrastBatch, batch_size: int) -> TemplateMeans:
    """The means of each template, in the order of ``batch.template.unique()``; positions after an ``end`` do not count.

    Args:
        anatomy: the model's parts.
        batch: the pairs; their corrupted prompts are run.
        batch_size: most prompts in memory at once.
    """
    names, template = batch.template.unique(return_inverse=True)
    real = torch.arange(batch.corrupted.shape[1], device=batch.end.device) <= batch.end[:, None]
    count = torch.zeros(len(names), real.shape[1], device=real.device).index_add_(0, template, real.float())
    totals: list[Tensor] = []
    for rows in torch.arange(len(batch), device=batch.end.device).split(batch_size):
        run = anatomy.run(batch.corrupted[rows], batch.end[rows])
        written = [run.embed, *run.z, *run.mlp_out]
        totals = totals or [one.new_zeros(len(names), *one.shape[1:], dtype=torch.float32) for one in written]
        for total, one in zip(totals, written, strict=True):
            total.index_add_(0, template[rows], one.float() * _spread(real[rows], one))
    dtype, n_layers = anatomy.model.plain.dtype, len(anatomy.blocks)
    means = [(total / _spread(count.clamp_min(1), total)).to(dtype) for total in totals]
    return TemplateMeans(means[0], means[1 : 1 + n_layers], means[1 + n_layers :])


def _spread(values: Tensor, like: Tensor) -> Tensor:
    """``[a, pos]`` with as many dimensions as ``like``."""
    return values.view(*values.shape, *[1] * (like.ndim - values.ndim))
