"""Naive twins of linear attention and its relatives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv1d, elu, layer_norm, pad, silu

from headscope.mixers.interface import MixerInput
from tests.mixer_operations import Operation


def by_kernel(given: MixerInput, kernel: Any, *, lowest: float = 0.0) -> Tensor:
    """z of ``M_ij = kernel(row, column) / sum``, cell by cell; the kernel is (batch, head)."""
    rows = []
    for row in range(given.query.shape[2]):
        stop = row + 1 if given.causal else given.key.shape[2]
        weights = torch.stack([kernel(row, column) for column in range(stop)], -1)
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(lowest or 1e-30)
        rows.append((weights[..., None] * given.value[:, :, :stop]).sum(2))
    return torch.stack(rows, 2)


def linear(mixer: Any, given: MixerInput) -> Tensor:
    positive = mixer.settings.features == "elu"
    query = elu(given.query) + 1 if positive else given.query * given.scale
    key = elu(given.key) + 1 if positive else given.key
    rows = []
    for row in range(given.query.shape[2]):
        stop = row + 1 if given.causal else given.key.shape[2]
        memory = sum(torch.einsum("bhe,bhd->bhed", key[:, :, t], given.value[:, :, t]) for t in range(stop))
        z = torch.einsum("bhe,bhed->bhd", query[:, :, row], memory)
        total = (query[:, :, row] * key[:, :, :stop].sum(2)).sum(-1, keepdim=True)
        rows.append(z / total if mixer.settings.normalise else z)
    return torch.stack(rows, 2)


def taylor(mixer: Any, given: MixerInput) -> Tensor:
    settings = mixer.settings

    def kernel(row: int, column: int) -> Tensor:
        query, key, scale = given.query[:, :, row], given.key[:, :, column], given.scale
        if settings.inputs == "norm":
            query = (query - query.mean(-1, keepdim=True)) / (query.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            key = (key - key.mean(-1, keepdim=True)) / (key.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            query, key = query * mixer.gain[0] + mixer.offset[0], key * mixer.gain[1] + mixer.offset[1]
        if settings.inputs == "unit":
            query, key = query / query.norm(dim=-1, keepdim=True), key / key.norm(dim=-1, keepdim=True)
            scale = mixer.temperature.flatten()
        score = (query * key).sum(-1) * scale
        return 1 + score + score**2 / 2 if settings.polynomial == "taylor" else score**2

    return by_kernel(given, kernel)


def hedgehog(mixer: Any, given: MixerInput) -> Tensor:
    def half(x: Tensor, which: int, sign: int) -> Tensor:
        mapped = torch.einsum("bhe,hef->bhf", x, mixer.weight[which]) + mixer.offset[which, :, 0]
        return (sign * mapped).exp() / (sign * mapped).exp().sum(-1, keepdim=True)

    def kernel(row: int, column: int) -> Tensor:
        query, key = given.query[:, :, row], given.key[:, :, column]
        return sum(((half(query, 0, sign) * half(key, 1, sign)).sum(-1) for sign in (1, -1)), torch.zeros(()))

    return by_kernel(given, kernel)


def random_kernel(mixer: Any, given: MixerInput) -> Any:
    """The mean over directions of ``exp(w . (x + y) - (|x|^2 + |y|^2) / 2)``."""

    def kernel(row: int, column: int) -> Tensor:
        query, key = given.query[:, :, row], given.key[:, :, column]
        query, key = query * math.sqrt(given.scale), key * math.sqrt(given.scale)
        along = torch.einsum("bhe,hef->bhf", query + key, mixer.directions)
        return (along - (query.square().sum(-1) + key.square().sum(-1))[..., None] / 2).exp().mean(-1)

    return kernel


def random_features(mixer: Any, given: MixerInput) -> Tensor:
    return by_kernel(given, random_kernel(mixer, given))


def fourier_features(mixer: Any, given: MixerInput) -> Tensor:
    """The mean over directions of ``cos(w . (x - y))``, of unit x and y."""

    def kernel(row: int, column: int) -> Tensor:
        query, key = given.query[:, :, row], given.key[:, :, column]
        apart = query / query.norm(dim=-1, keepdim=True) - key / key.norm(dim=-1, keepdim=True)
        return torch.einsum("bhe,hef->bhf", apart * mixer.widths[:, 0], mixer.directions).cos().mean(-1)

    return by_kernel(given, kernel, lowest=0.01)


def gated_fourier_features(mixer: Any, given: MixerInput) -> Tensor:
    along = [
        torch.einsum("bhte,hef->bhtf", x / x.norm(dim=-1, keepdim=True) * mixer.widths, mixer.directions)
        for x in (given.query, given.key)
    ]
    query, key = (torch.cat([x.sin(), x.cos()], -1) / mixer.settings.count**0.5 for x in along)
    memory, total, rows = torch.zeros(()), torch.zeros(()), []
    for t in range(given.query.shape[2]):
        forget = given.gates["forget"][:, :, t, None]
        memory = forget[..., None] * memory + (1 - forget)[..., None] * (
            key[:, :, t, :, None] * given.value[:, :, t, None, :]
        )
        total = forget * total + (1 - forget) * key[:, :, t]
        norm = (query[:, :, t] * total).sum(-1, keepdim=True).clamp_min(0.01)
        rows.append(torch.einsum("bhf,bhfd->bhd", query[:, :, t], memory) / norm)
    return torch.stack(rows, 2)


def relative_features(mixer: Any, given: MixerInput) -> Tensor:
    def kernel(row: int, column: int) -> Tensor:
        query, key = given.query[:, :, row], given.key[:, :, column]
        query, key = query / query.norm(dim=-1, keepdim=True), key / key.norm(dim=-1, keepdim=True)
        along = torch.einsum("bhe,hef->bhf", query + key, mixer.directions)
        distance = mixer.bias[:, mixer.shape.n_ctx - 1 + row - column]
        return (along - 1).exp().mean(-1) * distance.exp()

    return by_kernel(given, kernel)


def retention(mixer: Any, given: MixerInput) -> Tensor:
    """The recurrence in complex numbers: ``S <- gamma e^{i theta} S + conj(k) v``, ``z = Re(q S)``."""
    query, key = (silu(x) if mixer.settings.features == "silu" else x for x in (given.query, given.key))
    angles = torch.zeros(query.shape[1], query.shape[3]).to(query) if mixer.angles is None else mixer.angles
    if mixer.settings.rotation == "pairs":
        half = query.shape[-1] // 2
        query, key = (torch.complex(x[..., :half], x[..., half:]) for x in (query, key))
    else:
        query, key = query + 0j, key + 0j
    turn = torch.polar(mixer.log_decay.exp()[:, None].expand_as(angles).to(angles), angles)
    memory, rows = torch.zeros((), dtype=torch.complex128), []
    for t in range(query.shape[2]):
        memory = turn[..., None] * memory + key[:, :, t, :, None].conj() * given.value[:, :, t, None]
        rows.append((query[:, :, t, :, None] * memory).sum(2).real * given.scale)
    return torch.stack(rows, 2)


def cosformer(mixer: Any, given: MixerInput) -> Tensor:
    def kernel(row: int, column: int) -> Tensor:
        products = given.query[:, :, row].clamp_min(0) * given.key[:, :, column].clamp_min(0)
        return products.sum(-1) * math.cos(math.pi * (row - column) / (2 * mixer.shape.n_ctx))

    return by_kernel(given, kernel)


def latte(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    rows = []
    for row in range(given.query.shape[2]):
        stop = row + 1 if given.causal else given.key.shape[2]
        z = torch.zeros_like(given.value[:, :, 0])
        states = given.query[:, :, row].exp() / given.query[:, :, row].exp().sum(-1, keepdim=True)
        for state in range(given.key.shape[3]):
            tokens = given.key[:, :, :stop, state].exp()
            mean = (tokens[..., None] * given.value[:, :, :stop]).sum(2) / tokens.sum(-1, keepdim=True)
            z = z + states[..., state, None] * mean
        rows.append(z)
    return torch.stack(rows, 2)


def flow(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    query, key, size = given.query.sigmoid(), given.key.sigmoid(), given.query.shape[2]
    seen = [range(t + 1) if given.causal else range(size) for t in range(size)]

    def total(of: Any, t: int) -> Tensor:
        return sum((of(other) for other in seen[t]), torch.zeros(()))

    def dots(x: Tensor, y: Tensor) -> Tensor:
        return (x * y).sum(-1, keepdim=True)

    into = [dots(query[:, :, t], total(lambda j: key[:, :, j], t)) / len(seen[t]) for t in range(size)]
    out = [dots(key[:, :, t], total(lambda i: query[:, :, i], t)) / len(seen[t]) for t in range(size)]
    rows, sources = [], []
    for t in range(size):
        left = dots(key[:, :, t], total(lambda i: query[:, :, i] / into[i], t)) / len(seen[t])
        sources.append(left.clamp(-1, 1).exp())
    for t in range(size):
        allocation = (dots(query[:, :, t], total(lambda j: key[:, :, j] / out[j], t)) / len(seen[t])).sigmoid()
        z = torch.zeros_like(given.value[:, :, 0])
        for j in seen[t]:
            competition = sources[j] / total(lambda i: sources[i], j) * len(seen[j])
            z = z + dots(query[:, :, t], key[:, :, j]) / into[t] / len(seen[t]) * competition * given.value[:, :, j]
        rows.append(z * allocation)
    return torch.stack(rows, 2)


def galerkin(mixer: Any, given: MixerInput) -> Tensor:
    parts = {"query": given.query, "key": given.key, "value": given.value}
    for name in mixer.settings.normed.split("_"):
        parts[name] = layer_norm(parts[name], parts[name].shape[-1:]) * mixer.gains[name] + mixer.offsets[name]
    rows = []
    for row in range(given.query.shape[2]):
        stop = row + 1 if given.causal else given.key.shape[2]
        memory = torch.einsum("bhje,bhjd->bhed", parts["key"][:, :, :stop], parts["value"][:, :, :stop]) / stop
        rows.append(torch.einsum("bhe,bhed->bhd", parts["query"][:, :, row], memory))
    return torch.stack(rows, 2)


def vector_quantised(mixer: Any, given: MixerInput) -> Tensor:
    """Softmax over codewords, each weighed by how many keys it stands for."""
    z, words = torch.zeros_like(given.value), mixer.codebook.shape[1]
    for batch, head, row in torch.cartesian_prod(*(torch.arange(n) for n in given.query.shape[:3])).tolist():
        book = mixer.codebook[head]
        stop = row + 1 if given.causal else given.key.shape[2]
        count, total = torch.zeros(words, dtype=z.dtype), torch.zeros(words, z.shape[-1], dtype=z.dtype)
        for column in range(stop):
            nearest = (given.key[batch, head, column] - book).norm(dim=-1).argmin()
            count[nearest] += 1
            total[nearest] += given.value[batch, head, column]
        weights = (book @ given.query[batch, head, row] * given.scale).exp()
        z[batch, head, row] = weights @ total / (weights @ count)
    return z


def global_context(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    return by_kernel(given, lambda row, column: given.gates["importance"][:, :, column].exp())  # noqa: ARG005


def prefix_linear(mixer: Any, given: MixerInput) -> Tensor:
    """Two sums of kernels ``1 + s + s^2 / 2``: of the tokens so far, and of the prefix's second keys and values."""
    rows, size = [], given.query.shape[2]
    prefix = min(size, mixer.settings.prefix or mixer.shape.n_ctx // 2)
    for row in range(size):
        z, norm = torch.zeros_like(given.value[:, :, 0]), torch.zeros(())
        tokens = [(given.key[:, :, j], given.value[:, :, j]) for j in range(row + 1)]
        again = [(given.gates["prefix_key"][:, :, j], given.gates["prefix_value"][:, :, j]) for j in range(prefix)]
        for key, value in tokens + again:
            score = (given.query[:, :, row] * key).sum(-1, keepdim=True) * given.scale
            weight = 1 + score + score**2 / 2
            z, norm = z + weight * value, norm + weight
        rows.append(z / norm)
    return torch.stack(rows, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Softmax attention of every row to every key, row by row."""
    rows = []
    for row in range(query.shape[2]):
        weights = (torch.einsum("bhe,bhje->bhj", query[:, :, row], key) * scale).exp()
        rows.append(torch.einsum("bhj,bhjd->bhd", weights / weights.sum(-1, keepdim=True), value))
    return torch.stack(rows, 2)


def pooled(x: Tensor, count: int) -> Tensor:
    """Means of the pieces that token t belongs to by ``t count // size``."""
    size = x.shape[2]
    pieces = [[t for t in range(size) if t * count // size == piece] for piece in range(min(count, size))]
    return torch.stack([x[:, :, piece].mean(2) for piece in pieces], 2)


def linformer(mixer: Any, given: MixerInput) -> Tensor:
    size = given.key.shape[2]
    key, value = (
        torch.stack([sum(row[t] * x[:, :, t] for t in range(size)) for row in projection], 2)
        for projection, x in zip(mixer.projections, (given.key, given.value), strict=True)
    )
    return attend(given.query, key, value, given.scale)


def nystrom(mixer: Any, given: MixerInput) -> Tensor:
    """From the right: landmarks attend to tokens, their kernel is undone, rows attend to landmarks."""
    settings = mixer.settings
    query, key = pooled(given.query, settings.rank), pooled(given.key, settings.rank)
    seen = attend(query, given.key, given.value, given.scale)
    eye = torch.eye(query.shape[2], dtype=seen.dtype)
    kernel = attend(query, key, eye.expand(*seen.shape[:2], *eye.shape), given.scale)
    undone = torch.empty_like(kernel)
    for batch, head in torch.cartesian_prod(*(torch.arange(n) for n in kernel.shape[:2])).tolist():
        one = kernel[batch, head]
        inverse = one.T / (torch.linalg.matrix_norm(one, 1) * torch.linalg.matrix_norm(one, torch.inf))
        for _ in range(settings.iterations):
            left = one @ inverse
            inverse = 0.25 * inverse @ (13 * eye - left @ (15 * eye - left @ (7 * eye - left)))
        undone[batch, head] = inverse
    z = attend(given.query, key, undone @ seen, given.scale)
    for t in range(z.shape[2]):
        for tap in range(settings.kernel):
            other = t + settings.kernel // 2 - tap
            if 0 <= other < z.shape[2]:
                z[:, :, t] += mixer.filter[:, tap, None] * given.value[:, :, other]
    return z


def agent(mixer: Any, given: MixerInput) -> Tensor:
    agents = pooled(given.query, mixer.settings.rank)
    answers = attend(agents, given.key, given.value, given.scale)
    return attend(given.query, agents, answers, given.scale)


def compressed(mixer: Any, given: MixerInput) -> Tensor:
    kernel, stride = mixer.settings.kernel, mixer.settings.stride
    both = torch.cat([given.key, given.value], -1)
    channels = both.permute(0, 1, 3, 2).flatten(1, 2)
    channels = pad(channels, ((kernel - 1) // 2, kernel))
    filters = mixer.filters.flatten(0, 1)[:, None]
    small = conv1d(channels, filters, stride=stride, groups=filters.shape[0])
    small = small[..., : -(-both.shape[2] // stride)].unflatten(1, mixer.filters.shape[:2]).mT
    key, value = small.split([given.key.shape[-1], given.value.shape[-1]], -1)
    return attend(given.query, key, value, given.scale)


def holographic(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    """By Fourier transforms: binding multiplies spectra, unbinding multiplies by the conjugate."""
    bound = sum(
        torch.fft.fft(given.key[:, :, t]) * torch.fft.fft(given.value[:, :, t]) for t in range(given.key.shape[2])
    )
    scores = []
    for t in range(given.query.shape[2]):
        found = torch.fft.ifft(torch.fft.fft(given.query[:, :, t]).conj() * bound).real
        value = given.value[:, :, t]
        scores.append((found * value).sum(-1) / found.norm(dim=-1) / value.norm(dim=-1))
    weights = torch.stack(scores, -1).exp()
    return (weights / weights.sum(-1, keepdim=True))[..., None] * given.value


OPERATIONS: dict[str, Operation] = {
    "linear": linear,
    "taylor": taylor,
    "hedgehog": hedgehog,
    "random-features": random_features,
    "fourier-features": fourier_features,
    "gated-fourier-features": gated_fourier_features,
    "relative-features": relative_features,
    "retention": retention,
    "cosformer": cosformer,
    "latte": latte,
    "flow": flow,
    "galerkin": galerkin,
    "vector-quantised": vector_quantised,
    "global-context": global_context,
    "prefix-linear": prefix_linear,
    "linformer": linformer,
    "nystrom": nystrom,
    "agent": agent,
    "compressed": compressed,
    "holographic": holographic,
}
