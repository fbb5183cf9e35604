"""Naive twins of fixed masks: each cell is looked at by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headscope.mixers.interface import MixerInput
from tests.mixer_operations import Operation


def bits(x: int) -> int:
    x = (x ^ (x >> 32)) % 2**32
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B % 2**32
    return (x >> 16) ^ x


def drawn_blocks(part: Any, block: int, head: int, length: int, causal: bool) -> list[int]:
    others = range(block) if causal else [b for b in range((length - 1) // part.size + 1) if b != block]
    order = {b: bits(bits(block * 2**20 + part.seed) + head * 2**20 + b) for b in others}
    return sorted(others, key=lambda b: (order[b], b))[: part.count]


def neighbours(part: Any, i: int, length: int, causal: bool) -> range:
    group = i // part.stride * part.stride
    if causal:
        return range(group + part.stride - part.window, group + part.stride)
    left, right = part.window // 2, part.window // 2 + part.window % 2 - 1
    leader = min(group + part.stride // 2, length - 1)
    centre = max(min(leader, length - 1 - right), left)
    return range(centre - left, centre + right + 1)


def sampled(part: Any, i: int, j: int, head: int) -> bool:
    start = i // part.size * part.size
    outside = max(start - j, j - (start + part.size) + 1)  # tokens beyond the block's edge; 1 is the nearest
    return part.halo < outside <= part.halo + part.factor * part.size and j % part.factor == head % part.factor


def shown(part: Any, i: int, j: int, head: int, layer: int, length: int, causal: bool) -> bool:
    if part.kind == "all":
        return True
    if part.kind == "window":
        return abs(i - j) in range(0, part.size * part.dilation, part.dilation)
    if part.kind == "first":
        return min(i, j) < part.count
    if part.kind == "stride":
        return abs(i - j) % part.size == 0
    if part.kind == "block_ends":
        return j % part.size in range(part.size - part.count, part.size)
    if part.kind == "block":
        shift = part.shift + (part.size // 2 if part.stagger and layer % 2 == 1 else 0)
        mates = [t for t in range(length) if (t + shift) // part.size == (i + shift) // part.size]
        start = (i + shift) // part.size * part.size - shift
        return j in mates or start - part.halo <= j < start or start + part.size <= j < start + part.size + part.halo
    if part.kind == "dilated_segment":
        taken = [t for t in range(length) if (t % part.size - head) % part.dilation == 0]
        return i // part.size == j // part.size and i in taken and j in taken
    if part.kind == "sampled":
        return sampled(part, i, j, head)
    if part.kind == "random":
        return j // part.size in drawn_blocks(part, i // part.size, head, length, causal)
    if part.kind == "neighbourhood":
        return j in neighbours(part, i, length, causal)
    assert part.kind == "look"
    return j <= i if part.side == "left" else j >= i


def counts(mixer: Any, head: int, i: int, length: int, causal: bool) -> list[int]:
    """How often row i of a head sees each token."""
    patterns, layer = mixer.settings.patterns, mixer.shape.layer
    parts = patterns[head * len(patterns) // mixer.shape.n_heads]
    found = [sum(shown(part, i, j, head, layer, length, causal) for part in parts) for j in range(length)]
    found = [0 if causal and j > i else n for j, n in enumerate(found)]
    found[i] = max(found[i], 1)
    return found if mixer.settings.overlap == "each" else [min(n, 1) for n in found]


def masked(mixer: Any, given: MixerInput) -> Tensor:
    z, length, chosen = torch.zeros_like(given.value), given.key.shape[2], mixer.settings
    for head in range(z.shape[1]):
        slope = chosen.slopes[head * len(chosen.patterns) // z.shape[1]] if chosen.slopes else 0.0
        slope *= chosen.slope_by_layer[0]  # the harness has one layer
        for i in range(length):
            weights = torch.zeros(z.shape[0], length, dtype=z.dtype)
            for j, count in enumerate(counts(mixer, head, i, length, given.causal)):
                score = (given.query[:, head, i] * given.key[:, head, j]).sum(-1) * given.scale
                weights[:, j] = count * (score - slope * min(abs(i - j), chosen.slope_cap or length)).exp()
            z[:, head, i] = torch.einsum("bk,bkd->bd", weights / weights.sum(-1, keepdim=True), given.value[:, head])
    return z


def streaming(mixer: Any, i: int) -> list[int]:
    """What sinks and a window leave a row."""
    return [j for j in range(i + 1) if j < mixer.settings.first or i - j < mixer.settings.window]


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Softmax of one row of one head over some keys: (B, E), (B, n, E), (B, n, D)."""
    weights = (torch.einsum("be,bne->bn", query, key) * scale).exp()
    return torch.einsum("bn,bnd->bd", weights / weights.sum(-1, keepdim=True), value)


def gated_streaming(mixer: Any, given: MixerInput) -> Tensor:
    z = torch.zeros_like(given.value)
    for head in range(z.shape[1]):
        share = 1 / (1 + (-mixer.gate[head]).exp())
        for i in range(z.shape[2]):
            found = [
                attend(given.query[:, head, i], given.key[:, head, seen], given.value[:, head, seen], given.scale)
                for seen in (list(range(i + 1)), streaming(mixer, i))
            ]
            z[:, head, i] = share * found[0] + (1 - share) * found[1]
    return z


def compensated(mixer: Any, given: MixerInput) -> Tensor:
    z = torch.zeros_like(given.value)
    for head in range(z.shape[1]):
        for i in range(z.shape[2]):
            seen = list(range(i + 1)) if head < mixer.settings.full_heads else streaming(mixer, i)
            gone = [j for j in range(i + 1) if j not in seen]
            key, value = given.key[:, head, seen], given.value[:, head, seen]
            if gone:  # one token that counts for all: as many copies of the mean
                mean = given.key[:, head, gone].mean(1, keepdim=True), given.value[:, head, gone].mean(1, keepdim=True)
                key = torch.cat([key, mean[0].expand(-1, len(gone), -1)], 1)
                value = torch.cat([value, mean[1].expand(-1, len(gone), -1)], 1)
            z[:, head, i] = attend(given.query[:, head, i], key, value, given.scale)
    return z


def block_summaries(mixer: Any, given: MixerInput) -> Tensor:
    z, chosen, length = torch.zeros_like(given.value), mixer.settings, given.key.shape[2]
    blocks = [list(range(b, min(b + chosen.block, length))) for b in range(0, length, chosen.block)]
    for head in range(z.shape[1]):
        for i in range(length):
            own = i // chosen.block
            near = [j for j in range(length) if abs(i - j) < chosen.window]
            near = blocks[own] if chosen.near == "block" else near
            near = [j for j in near if j <= i or not given.causal]
            keys, values = [given.key[:, head, near]], [given.value[:, head, near]]
            for tokens in blocks[:own] if given.causal else blocks:
                key, value = given.key[:, head, tokens], given.value[:, head, tokens]
                if chosen.summary == "mean":
                    keys.append(key.mean(1, keepdim=True))
                    values.append(value.mean(1, keepdim=True))
                else:
                    for latent in mixer.latent[head].expand(z.shape[0], -1, -1).unbind(1):
                        keys.append(attend(latent, key, key, given.scale)[:, None])
                        values.append(attend(latent, key, value, given.scale)[:, None])
            z[:, head, i] = attend(given.query[:, head, i], torch.cat(keys, 1), torch.cat(values, 1), given.scale)
    return z


OPERATIONS: dict[str, Operation] = {
    "masked": masked,
    "gated-streaming": gated_streaming,
    "compensated": compensated,
    "block-summaries": block_summaries,
}
