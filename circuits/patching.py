"""Activation patching: the effect of replacing what a component writes, for every component or for any sets of them.

**Definition** (noising, the default): ``measure(clean run) - measure(clean run in which the components write what they
wrote in the corrupted run)``, everything after them recomputed. Denoising: ``measure(corrupted run in which they write
what they wrote in the clean run) - measure(corrupted run)``. Above 0 the components help the right answer in both. The
two differ wherever components back each other up (noising misses them) or need each other (denoising does).

**Source**: Zhang and Nanda 2023, arXiv 2309.16042, section 2; Heimersheim and Nanda 2024, arXiv 2404.15255, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuits.discovery import Found, Search, graph_of
from circuits.graph import Graph
from circuits.mean_activations import template_means
from circuits.measures import Measure
from circuits.method_settings import PatchingSettings
from circuits.patched_runs import patched_rows
from headscope.heads import Head
from headscope.models.anatomy import Activations, Anatomy
from headscope.tasks.contrast import ContrastBatch
from probes.probe import OnStep, no_progress


def find_patching(search: Search[PatchingSettings]) -> Found:
    """Every head and every MLP, patched alone."""
    graph = search.graph
    effects = effects_of(search.anatomy, search.batch, every_component(graph), search.settings, search.on_step)
    return found_components(graph, effects)


def found_components(graph: Graph, effects: Float[np.ndarray, "set batch"]) -> Found:
    """The scores of all components, from the effects of the sets of `every_component`."""
    parts = effects.T.reshape(-1, graph.n_layers, graph.writers_per_layer)
    return Found(parts[..., :-1].mean(0), parts[..., -1].mean(0), examples=parts[..., :-1])


def every_component(graph: Graph) -> Bool[Tensor, "set writer"]:
    """Masks that keep all but one component: each head and MLP in the order of `Graph.writers`; never the input."""
    return ~torch.eye(len(graph.writers), dtype=torch.bool)[1:]


def all_but(graph: Graph, heads: Iterable[Head], mlps: Iterable[int] = ()) -> Bool[Tensor, " writer"]:
    """The mask that keeps all but these heads and the MLPs of these layers.

    Raises:
        HeadIndexError: if the model has no such head or layer.
    """
    keep = torch.ones(len(graph.writers), dtype=torch.bool)
    for label in [*(str(head) for head in heads), *(f"L{layer}.mlp" for layer in mlps)]:
        keep[graph.writer(label)] = False
    return keep


def effect_of(
    anatomy: Anatomy,
    batch: ContrastBatch,
    heads: Iterable[Head] = (),
    mlps: Iterable[int] = (),
    settings: PatchingSettings | None = None,
) -> Float[np.ndarray, " batch"]:
    """The effect of patching these heads and MLPs together, per prompt; see `effects_of`.

    Heads that back each other up show it here: their joint effect exceeds the sum of their own.

    Raises:
        HeadIndexError: if the model has no such head or layer.
    """
    return effects_of(anatomy, batch, all_but(graph_of(anatomy), heads, mlps)[None], settings)[0]


@torch.no_grad()
def effects_of(
    anatomy: Anatomy,
    batch: ContrastBatch,
    keep: Bool[Tensor, "set writer"],
    settings: PatchingSettings | None = None,
    on_step: OnStep = no_progress,
) -> Float[np.ndarray, "set batch"]:
    """The joint effect of each set of components on each prompt (definition: see the module).

    Args:
        anatomy: the model's parts; its work is counted.
        batch: the pairs of prompts.
        keep: for each set, the components of `Graph.writers` that are *not* patched.
        settings: measure, direction, replacement and the most prompts in memory at once.
        on_step: called with (done, total) runs.

    Returns:
        In the measure's unit; above 0 the set helps the right answer.
    """
    chosen = settings or PatchingSettings()
    batch = batch.to(anatomy.model.device)
    effects = torch.zeros(len(keep), len(batch), device=anatomy.model.device)
    noising, done = chosen.direction == "noising", 0
    for places, part, clean, other in _runs(anatomy, batch, chosen):
        judge = Measure(chosen.measure, part, clean.logits)
        run, base = (clean, other) if noising else (other, clean)
        before = judge(run.logits)
        for rows in patched_rows(anatomy, run, base, part.end, keep, batch_rows=chosen.batch_size):
            change = judge(rows.logits, rows.prompts) - before[rows.prompts]
            effects[rows.sets, places[rows.prompts]] = -change if noising else change
            on_step(done := done + len(rows.sets), effects.numel())
    return effects.cpu().double().numpy()


_Run = tuple[Int[Tensor, " part"], ContrastBatch, Activations, Activations]


def _runs(anatomy: Anatomy, batch: ContrastBatch, settings: PatchingSettings) -> Iterator[_Run]:
    """Some pairs at a time: where they stand, the pairs, the clean run, and the run that components are taken from."""
    means = template_means(anatomy, batch, settings.batch_size) if settings.replacement == "mean" else None
    _, template = batch.template.unique(return_inverse=True)
    for places in torch.arange(len(batch), device=batch.end.device).split(settings.batch_size):
        part = batch.select(places)
        clean = anatomy.run(part.clean, part.end)
        if means is not None:
            written = [means.embed, *means.z, *means.mlp_out]
            yield places, part, clean, _with_writers(clean, [mean[template[places]] for mean in written])
        elif settings.replacement == "zero":
            yield places, part, clean, _with_writers(clean, [torch.zeros_like(one) for one in _writers(clean)])
        else:
            yield places, part, clean, anatomy.run(part.corrupted, part.end)


def _writers(run: Activations) -> list[Tensor]:
    """What components write, in one list: the embedding, every layer's z, every layer's MLP output."""
    return [run.embed, *run.z, *run.mlp_out]


def _with_writers(run: Activations, written: list[Tensor]) -> Activations:
    n_layers = len(run.z)
    return replace(run, embed=written[0], z=written[1 : 1 + n_layers], mlp_out=written[1 + n_layers :])
