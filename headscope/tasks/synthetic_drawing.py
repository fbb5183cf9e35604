"""Random draws of whole batches, without a copy to the host: they run on any device."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def draw_integers(shape: tuple[int, ...], low: int, high: int, generator: torch.Generator) -> Int[Tensor, "*shape"]:
    """Uniform integers from ``low`` to ``high``, both included."""
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


def draw_uniform(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Uniform numbers in [0, 1)."""
    return torch.rand(shape, generator=generator, device=generator.device)


def draw_normal(shape: tuple[int, ...], generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator, device=generator.device)


def draw_distinct(
    weights: Float[Tensor, " K"], n: int, count: int, generator: torch.Generator
) -> Int[Tensor, "{n} {count}"]:
    """``n`` times ``count`` different indices, drawn one after another with probability as their weight.

    The order in which exponential clocks ring whose rates are the weights is that of such draws. The weights lie on
    the generator's device.
    """
    waits = torch.empty((n, weights.shape[0]), device=generator.device).exponential_(generator=generator)
    return (waits / weights).topk(count, largest=False).indices


def draw_subset(size: int, n: int, count: int, generator: torch.Generator) -> Int[Tensor, "{n} {count}"]:
    """``n`` times ``count`` different integers below ``size``, in random order."""
    return draw_uniform((n, size), generator).topk(count).indices


def cumulative(weights: Float[Tensor, "*rows K"]) -> Float[Tensor, "*rows K"]:
    """Cumulative probabilities; the last is exactly 1."""
    sums = weights.double().cumsum(-1)
    return (sums / sums[..., -1:]).float()


def choose(levels: Float[Tensor, "*rows K"], chances: Float[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The index whose stretch of the `cumulative` probabilities holds each chance, a number in [0, 1).

    One set of probabilities for all chances, or one for each.
    """
    if levels.ndim == 1:
        return torch.searchsorted(levels, chances, right=True)
    return (levels <= chances[..., None]).sum(-1)
