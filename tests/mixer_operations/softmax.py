"""Naive twins of softmax and its normalisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from headscope.mixers.interface import MixerInput
from tests.mixer_operations import Operation


def rows(given: MixerInput) -> Iterator[tuple[int, int]]:
    """Each row, and how many tokens it sees from the first."""
    for row in range(given.query.shape[2]):
        yield row, row + given.first_row + 1 if given.causal else given.key.shape[2]


def dots(given: MixerInput, row: int, stop: int) -> Tensor:
    """Scores of a row: (batch, head, tokens it sees)."""
    return torch.einsum("bhe,bhke->bhk", given.query[:, :, row], given.key[:, :, :stop]) * given.scale


def pooled(weights: Tensor, given: MixerInput) -> Tensor:
    """Sum of the first values with these weights."""
    return sum(weights[..., t, None] * given.value[:, :, t] for t in range(weights.shape[-1]))  # type: ignore[return-value]


def by_rows(weigh: Callable[[Any, MixerInput, int, int], Tensor]) -> Operation:
    """The twin of a mixer whose row's weights are ``weigh(mixer, given, row, stop)``."""

    def operation(mixer: Any, given: MixerInput) -> Tensor:
        return torch.stack([pooled(weigh(mixer, given, row, stop), given) for row, stop in rows(given)], 2)

    return operation


def softmax(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:  # noqa: ARG001
    weights = dots(given, row, stop).exp()
    return weights / weights.sum(-1, keepdim=True)


def sink(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    weights = dots(given, row, stop).exp()
    return weights / (mixer.logit.exp()[:, None] + weights.sum(-1, keepdim=True))


def memory_key_values(mixer: Any, given: MixerInput) -> Tensor:
    made = []
    for row, stop in rows(given):
        weights = dots(given, row, stop).exp()
        top, bottom = pooled(weights, given), weights.sum(-1, keepdim=True)
        for n in range(mixer.settings.memories):
            key, value = mixer.memory_key[:, n], mixer.memory_value[:, n]
            weight = ((given.query[:, :, row] * key).sum(-1, keepdim=True) * given.scale).exp()
            top, bottom = top + weight * value, bottom + weight
        made.append(top / bottom)
    return torch.stack(made, 2)


def sigmoid(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    odds = dots(given, row, stop).exp()
    if mixer.settings.length_bias:
        odds = odds / stop
    if mixer.settings.learned_bias:
        odds = odds * mixer.bias.exp()[:, None]
    return odds / (1 + odds)


def relu(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    scores = dots(given, row, stop)
    return torch.where(scores > 0, scores, 0.0) ** mixer.settings.power / stop**mixer.settings.length_power


def polynomial(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    weights = dots(given, row, stop) ** mixer.settings.degree
    return weights / (1 + weights.sum(-1, keepdim=True))


def lssa(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    query, key = given.query[:, :, row], given.key[:, :, :stop]
    cosines = torch.einsum("bhe,bhke->bhk", query, key) / query.norm(dim=-1)[..., None] / key.norm(dim=-1)
    weights = (1 + (math.log(query.shape[-1]) * math.log(stop) * cosines).exp()).log()
    weights = weights / weights.sum(-1, keepdim=True)
    if not mixer.settings.reweight:
        return weights
    above = stop * weights - (1 if stop > 3 else 0)
    powers = torch.where(above > 0, above, 0.0) ** mixer.settings.power
    return powers / powers.sum(-1, keepdim=True)


def forgetting(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:  # noqa: ARG001
    forget = given.gates["log_forget"].exp()
    weights = dots(given, row, stop).exp()
    kept = [forget[:, :, t + 1 : stop].prod(-1) for t in range(stop)]
    weights = weights * torch.stack(kept, -1)
    return weights / weights.sum(-1, keepdim=True)


def stick_breaking(mixer: Any, given: MixerInput) -> Tensor:
    z = torch.zeros(*given.query.shape[:3], given.value.shape[-1], dtype=given.value.dtype)
    for row, stop in rows(given):
        left = torch.ones_like(given.value[:, :, 0, :1])
        for t in reversed(range(stop - 1)):
            share = torch.sigmoid(dots(given, row, stop)[..., t, None])
            z[:, :, row] += left * share * given.value[:, :, t]
            left = left * (1 - share)
        if mixer.settings.rest == "self":
            z[:, :, row] += left * given.value[:, :, stop - 1]
    return z


def constant_query(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:  # noqa: ARG001
    weights = given.gates["token_score"][:, :, :stop].exp()
    return weights / weights.sum(-1, keepdim=True)


def standardised(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    scores = dots(given, row, stop)
    deviation = (scores.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return mixer.gain[:, None] * (scores - scores.mean(-1, keepdim=True)) / deviation + mixer.bias[:, None]


def cosine(mixer: Any, given: MixerInput) -> Tensor:
    query, key = (x / x.norm(dim=-1, keepdim=True) for x in (given.query, given.key))
    made = []
    for row, stop in rows(given):
        memory = sum(torch.einsum("bhe,bhd->bhed", key[:, :, t], given.value[:, :, t]) for t in range(stop))
        made.append(torch.einsum("bhe,bhed->bhd", query[:, :, row], memory))
        made[-1] = made[-1] / stop ** torch.sigmoid(mixer.length_power)[:, None]
    return torch.stack(made, 2)


def toeplitz_softmax(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    middle = mixer.factor.shape[1] // 2
    factors = [mixer.factor[:, middle + row + given.first_row - t] for t in range(stop)]
    return softmax(mixer, given, row, stop) * torch.stack(factors, -1)


def gated_positional(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    ahead = torch.arange(stop) - row - given.first_row
    weights = (mixer.position[:, :1] * ahead**2 + mixer.position[:, 1:] * ahead).softmax(-1)
    share = torch.sigmoid(mixer.gate)[:, None]
    return (1 - share) * softmax(mixer, given, row, stop) + share * weights


def fourier_rows(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    scores, hidden = dots(given, row, stop), torch.zeros(1)
    for t in range(stop):
        for m in range(1, mixer.settings.frequencies + 1):
            angle = m * scores[..., t, None]
            hidden = hidden + mixer.cosine[:, :, t, m - 1] * angle.cos() + mixer.sine[:, :, t, m - 1] * angle.sin()
    if mixer.settings.rank is None:
        return hidden[..., :stop]
    return torch.einsum("hkr,bhr->bhk", mixer.W_row[:, :stop], hidden)


def tensor_attention(mixer: Any, given: MixerInput) -> Tensor:
    divisor = given.query.shape[-1] ** (1.0 if mixer.settings.scale == "width" else 0.5)
    made = []
    for row, stop in rows(given):
        top = bottom = torch.zeros(1)
        for j in range(stop):
            for other in range(stop):
                pair = given.key[:, :, j] * given.gates["second_key"][:, :, other]
                weight = ((given.query[:, :, row] * pair).sum(-1, keepdim=True) / divisor).exp()
                top = top + weight * given.value[:, :, j] * given.gates["second_value"][:, :, other]
                bottom = bottom + weight
        made.append(top / bottom)
    return torch.stack(made, 2)


def isomorphic(mixer: Any, given: MixerInput) -> Tensor:
    def network(x: Tensor) -> Tensor:
        hidden = torch.einsum("bhd,hdf->bhf", x, mixer.W_in) + mixer.b_in[:, 0]
        hidden = hidden / (hidden.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.gain[:, 0]
        return torch.einsum("bhf,hfd->bhd", hidden * torch.sigmoid(hidden), mixer.W_out) + mixer.b_out[:, 0]

    made = []
    for row, stop in rows(given):
        own = (1 + mixer.self_loop[:, None]) * given.value[:, :, row + given.first_row]
        scores = dots(given, row, stop)
        if mixer.settings.sparse:
            weights = scores.softmax(-1)
            edges = torch.where(weights > mixer.settings.threshold, weights - mixer.settings.threshold, 0.0)
            made.append(pooled(weights, given) + mixer.share[:, None] * network(own + pooled(edges, given)))
        else:
            made.append(network(own + pooled((scores * mixer.sharpening[:, None]).softmax(-1), given)))
    return torch.stack(made, 2)


def differential(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    maps = []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        products = torch.einsum("bhe,bhke->bhk", given.query[:, :, row, part], given.key[:, :, :stop, part])
        weights = (products * given.scale * math.sqrt(2)).exp()
        maps.append(weights / weights.sum(-1, keepdim=True))
    products = (mixer.left * mixer.right).sum(-1)
    share = products[0].exp() - products[1].exp() + 0.8 - 0.6 * math.exp(-0.3 * mixer.shape.layer)
    return maps[0] - share * maps[1]


def entmax(mixer: Any, given: MixerInput, row: int, stop: int) -> Tensor:
    alpha = {"entmax": 1.5, "sparsemax": 2.0}[mixer.settings.form]
    scores = dots(given, row, stop) * (alpha - 1)
    high = scores.amax(-1, keepdim=True)
    low = high - 1
    for _ in range(60):  # halve where the row's sum passes 1
        middle = (low + high) / 2
        enough = ((scores - middle).clamp_min(0) ** (1 / (alpha - 1))).sum(-1, keepdim=True) >= 1
        low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
    return (scores - low).clamp_min(0) ** (1 / (alpha - 1))


OPERATIONS: dict[str, Operation] = {
    "softmax": by_rows(softmax),
    "sink": by_rows(sink),
    "memory-key-values": memory_key_values,
    "sigmoid": by_rows(sigmoid),
    "relu": by_rows(relu),
    "polynomial": by_rows(polynomial),
    "lssa": by_rows(lssa),
    "forgetting": by_rows(forgetting),
    "stick-breaking": stick_breaking,
    "constant-query": by_rows(constant_query),
    "standardised": by_rows(standardised),
    "cosine": cosine,
    "toeplitz-softmax": by_rows(toeplitz_softmax),
    "gated-positional": by_rows(gated_positional),
    "fourier-rows": by_rows(fourier_rows),
    "tensor": tensor_attention,
    "isomorphic": isomorphic,
    "differential": by_rows(differential),
    "entmax": by_rows(entmax),
}
