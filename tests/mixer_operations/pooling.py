"""Naive twins of pools and fixed transforms."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from headscope.mixers.interface import MixerInput
from tests.mixer_operations import Operation


def mean_pool(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    size = given.value.shape[2]
    return torch.stack([given.value[:, :, : i + 1 if given.causal else size].mean(2) for i in range(size)], 2)


def fourier_mixing(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    """Real and imaginary parts of torch's transform along the text."""
    transformed = torch.fft.fft(given.value, dim=2, norm="ortho")
    heads = range(given.value.shape[1])
    return torch.stack([transformed[:, h].imag if h % 2 else transformed[:, h].real for h in heads], 1)


def global_filter(mixer: Any, given: MixerInput) -> Tensor:
    """Every frequency times its G, read between the two nearest of the longest text."""
    size, whole = given.value.shape[2], mixer.spectrum.shape[-1]
    spectrum = torch.fft.rfft(given.value, dim=2).clone()
    for f in range(size // 2 + 1):
        place = f * (whole - 1) / (size // 2)
        low = min(int(place), whole - 2)
        real, imaginary = (
            mixer.spectrum[:, part, :, low] * (1 - place + low) + mixer.spectrum[:, part, :, low + 1] * (place - low)
            for part in (0, 1)
        )
        spectrum[:, :, f] *= torch.complex(1 + real, imaginary)
    return torch.fft.irfft(spectrum, n=size, dim=2)


def cosines(given: Tensor) -> Tensor:
    """The orthonormal cosine transform along the text, term by term."""
    size, found = given.shape[2], []
    for f in range(size):
        waves = [math.cos(math.pi * f * (2 * t + 1) / (2 * size)) * given[:, :, t] for t in range(size)]
        found.append(sum(waves) * math.sqrt((2 if f else 1) / size))
    return torch.stack(found, 2)


def wavelets(given: Tensor) -> Tensor:
    """Haar's pyramid: sums and differences of neighbours over the root of two, then the same of the sums."""
    fine: list[Tensor] = []
    while given.shape[2] > 1:
        even, odd = given[:, :, ::2], given[:, :, 1::2]
        given, fine = (even + odd) / math.sqrt(2), [(even - odd) / math.sqrt(2), *fine]
    return torch.cat([given, *fine], 2)


def coefficient_attention(mixer: Any, given: MixerInput) -> Tensor:
    """Coefficients of queries, keys and values; the way back is the transform's transpose."""
    size = given.value.shape[2]
    haar = mixer.settings.transform == "haar"
    padded = 2 ** math.ceil(math.log2(size)) if haar else size
    transform = wavelets if haar else cosines
    kept = math.ceil(mixer.settings.keep * padded)

    def coefficients(part: Tensor) -> Tensor:
        zeros = part.new_zeros(*part.shape[:2], padded - size, part.shape[-1])
        return transform(torch.cat([part, zeros], 2))[:, :, :kept]

    query, key, value = coefficients(given.query), coefficients(given.key), coefficients(given.value)
    mixed = torch.softmax(torch.einsum("bhme,bhne->bhmn", query, key) * given.scale, -1) @ value
    basis = coefficients(torch.eye(size, dtype=value.dtype)[None, None])[0, 0]
    return torch.einsum("mt,bhmd->bhtd", basis, mixed)


def attended(query: Tensor, keys: list[Tensor], values: list[Tensor], scale: float, bias: Any = 0.0) -> Tensor:
    scores = torch.stack([(query * key).sum(-1) * scale for key in keys], -1) + bias
    return torch.einsum("bhn,nbhd->bhd", scores.softmax(-1), torch.stack(values))


def funnel(mixer: Any, given: MixerInput) -> Tensor:
    stride, found = mixer.settings.stride, []
    for i in range(given.query.shape[2]):
        start = i - i % stride
        query = given.query[:, :, start : start + stride].mean(2)
        found.append(attended(query, list(given.key.unbind(2)), list(given.value.unbind(2)), given.scale))
    return torch.stack(found, 2)


def hourglass(mixer: Any, given: MixerInput) -> Tensor:
    """Shift the text, pool blocks, attend, repeat."""
    stride, size = mixer.settings.stride, given.query.shape[2]
    blocks: list[tuple[Tensor, ...]] = []
    for c in range(-(-size // stride)):
        seen = slice(max(0, c * stride - stride + 1), c * stride + 1)
        blocks.append(tuple(part[:, :, seen].sum(2) / stride for part in (given.query, given.key, given.value)))
    found = []
    for i in range(size):
        _, keys, values = zip(*blocks[: i // stride + 1], strict=True)
        found.append(attended(blocks[i // stride][0], list(keys), list(values), given.scale))
    return torch.stack(found, 2)


def token_pooling(mixer: Any, given: MixerInput) -> Tensor:  # noqa: ARG001
    """One text and head at a time, a list of finished segments."""
    z = torch.zeros_like(given.value)
    for b in range(z.shape[0]):
        for h in range(z.shape[1]):
            segments, start, now = [], 0, torch.zeros_like(z[b, h, 0])
            for t in range(z.shape[2]):
                logit = given.gates["boundary"][b, 0, t]
                if logit > 0:
                    query, key, value = (x[b, h, start : t + 1].mean(0) for x in (given.query, given.key, given.value))
                    segments.append((key, value, logsigmoid(logit)))
                    scores = torch.stack([query @ k * given.scale + log_p for k, _, log_p in segments])
                    now, start = scores.softmax(0) @ torch.stack([v for _, v, _ in segments]), t + 1
                z[b, h, t] = now
    return z


def ponet(mixer: Any, given: MixerInput) -> Tensor:
    value, segment, window, found = given.value, mixer.settings.segment, mixer.settings.window, []
    keys, values = list(given.key.unbind(2)), list(value.unbind(2))
    whole = attended(given.query.mean(2), keys, values, given.scale)
    for i in range(value.shape[2]):
        start = i - i % segment
        of_segment = value[:, :, start : start + segment].max(2).values
        local = value[:, :, max(0, i - window) : i + window + 1].max(2).values
        gate = given.gates["row_gate"][:, :, i]
        found.append(whole * gate + of_segment * gate + local)
    return torch.stack(found, 2)


def convolution_ffn(mixer: Any, given: MixerInput) -> Tensor:
    x = given.value
    for layer in (0, 1):
        y = torch.zeros_like(x)
        for i in range(x.shape[2]):
            for lag in range(min(i + 1, mixer.settings.width)):
                y[:, :, i] += mixer.taps[layer, ..., lag] * x[:, :, i - lag]
        x = y if layer else 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    return x


OPERATIONS: dict[str, Operation] = {
    "mean-pool": mean_pool,
    "fourier-mixing": fourier_mixing,
    "global-filter": global_filter,
    "coefficient-attention": coefficient_attention,
    "funnel": funnel,
    "hourglass": hourglass,
    "token-pooling": token_pooling,
    "ponet": ponet,
    "convolution-ffn": convolution_ffn,
}
