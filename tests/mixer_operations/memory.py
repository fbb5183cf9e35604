"""Naive twins of memories, landmarks and segments: segments are read one after the other."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import elu, sigmoid

from headscope.mixers.interface import MixerInput
from tests.mixer_operations import Operation


def normal(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


def transformer_xl(mixer: Any, given: MixerInput) -> Tensor:
    z, (_, heads, length, _) = torch.zeros_like(given.value), given.key.shape
    segment, memory, width = mixer.settings.segment, mixer.settings.memory, mixer.W_R.shape[1]
    for head in range(heads):
        for i in range(length):
            seen = range(max(i // segment * segment - memory, 0), i + 1)
            scores = []
            for j in seen:
                angles = [(i - j) / 10000 ** (2 * w / width) for w in range(width // 2)]
                wave = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
                relative = torch.tensor(wave, dtype=z.dtype) @ mixer.W_R[head]
                q, k = given.query[:, head, i], given.key[:, head, j]
                terms = q * k + q * relative + mixer.content_bias[head] * k + mixer.position_bias[head] * relative
                scores.append(terms.sum(-1) * given.scale)
            weights = normal(torch.stack(scores, -1).exp())
            z[:, head, i] = torch.einsum("bk,bkd->bd", weights, given.value[:, head, list(seen)])
    return z


def landmark(mixer: Any, given: MixerInput) -> Tensor:
    z, size = torch.zeros_like(given.value), mixer.settings.block
    for i in range(z.shape[2]):
        e = (torch.einsum("bhe,bhke->bhk", given.query[:, :, i], given.key) * given.scale).exp()
        own = list(range(i // size * size, i + 1))
        marks = [b * size + size - 1 for b in range(i // size)]
        total = e[..., own + marks].sum(-1)
        for j in own:
            z[:, :, i] += (e[..., j] / total)[..., None] * given.value[:, :, j]
        for mark in marks:
            block = list(range(mark - size + 1, mark + 1))
            inside = torch.einsum("bhk,bhkd->bhd", normal(e[..., block]), given.value[:, :, block])
            z[:, :, i] += (e[..., mark] / total)[..., None] * inside
    return z


def infini(mixer: Any, given: MixerInput) -> Tensor:
    q, k, v, gate = given.query, given.key, given.value, sigmoid(mixer.gate)[:, None]
    memory, total, found = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None]), torch.zeros_like(k[:, :, 0]), []
    for begin in range(0, k.shape[2], mixer.settings.segment):
        part = range(begin, min(begin + mixer.settings.segment, k.shape[2]))
        for i in part:
            weights = normal((torch.einsum("bhe,bhke->bhk", q[:, :, i], k[:, :, begin : i + 1]) * given.scale).exp())
            local = torch.einsum("bhk,bhkd->bhd", weights, v[:, :, begin : i + 1])
            f = elu(q[:, :, i]) + 1
            recalled = torch.einsum("bhe,bhed->bhd", f, memory)
            recalled = recalled / (f * total).sum(-1, keepdim=True) if begin else recalled
            found.append(gate * recalled + (1 - gate) * local)
        after, after_total = memory, total
        for j in part:
            f, new = elu(k[:, :, j]) + 1, v[:, :, j]
            if mixer.settings.delta and begin:
                new = new - torch.einsum("bhe,bhed->bhd", f, memory) / (f * total).sum(-1, keepdim=True)
            after, after_total = after + f[..., None] * new[:, :, None], after_total + f
        memory, total = after, after_total
    return torch.stack(found, 2)


def segment_memory(mixer: Any, given: MixerInput) -> Tensor:
    chosen, found, z = mixer.settings, [], given.value
    slots = [
        (mixer.first_key[:, m].expand_as(z[:, :, 0]), mixer.first_value[:, m].expand_as(z[:, :, 0]))
        for m in range(chosen.slots)
    ]

    def read(query: Tensor, pairs: list[tuple[Tensor, Tensor]], which: int) -> Tensor:
        e = [((query * key).sum(-1, keepdim=True) * given.scale).exp() for key, _ in pairs]
        read_off = torch.stack([w * pair[which] for w, pair in zip(e, pairs, strict=True)]).sum(0)
        return read_off / torch.stack(e).sum(0)

    tokens = [(given.key[:, :, t], given.value[:, :, t]) for t in range(z.shape[2])]
    for begin in range(0, z.shape[2], chosen.segment):
        for i in range(begin, min(begin + chosen.segment, z.shape[2])):
            seen = tokens[max(begin - chosen.past * chosen.segment, 0) : i + 1]
            found.append(read(given.query[:, :, i], slots + seen, 1))
        after = []
        for m, (key, value) in enumerate(slots):
            if chosen.query == "learned":
                query = mixer.write_query[:, m]
            else:
                query = torch.einsum("bhe,hef->bhf", key, mixer.W_write)
            pairs = ([slots[m]] if chosen.apart else slots) + tokens[begin : begin + chosen.segment]
            new, keep = (read(query, pairs, 0), read(query, pairs, 1)), 0.0
            if chosen.gate:
                keep = sigmoid(mixer.gate[:, m, None])
            after.append((keep * key + (1 - keep) * new[0], keep * value + (1 - keep) * new[1]))
        slots = after
    return torch.stack(found, 2)


def retrieved_memory(mixer: Any, given: MixerInput) -> Tensor:
    z, chosen = torch.zeros_like(given.value), mixer.settings
    for b, head, i in ((b, h, i) for b in range(z.shape[0]) for h in range(z.shape[1]) for i in range(z.shape[2])):
        score = [float((given.query[b, head, i] * given.key[b, head, j]).sum() * given.scale) for j in range(i + 1)]
        near = list(range(max(i - chosen.window + 1, 0), i + 1))
        far = sorted(range(near[0]), key=lambda j: -score[j])[: chosen.count]
        sums = {}
        for name, group in (("near", near), ("far", far), ("both", near + far)):
            if group:
                weights = torch.tensor([math.exp(score[j]) for j in group], dtype=z.dtype)
                sums[name] = normal(weights) @ given.value[b, head, group]
        if chosen.together == "softmax":
            z[b, head, i] = sums["both"]
        else:
            share = float(sigmoid(mixer.gate[head])) if far else 0.0
            z[b, head, i] = (1 - share) * sums["near"] + (share * sums["far"] if far else 0)
    return z


def pointer(mixer: Any, given: MixerInput) -> Tensor:
    z = torch.zeros_like(given.value)
    for head in range(z.shape[1]):
        for i in range(z.shape[2]):
            stop = i + 1 if given.causal else z.shape[2]
            q = given.query[:, head, i] @ mixer.W_2[head]
            u = [torch.tanh(given.key[:, head, j] @ mixer.W_1[head] + q) @ mixer.direction[head] for j in range(stop)]
            weights = normal(torch.stack(u, -1).exp())
            z[:, head, i] = torch.einsum("bk,bkd->bd", weights, given.value[:, head, :stop])
    return z


OPERATIONS: dict[str, Operation] = {
    "transformer-xl": transformer_xl,
    "landmark": landmark,
    "infini": infini,
    "segment-memory": segment_memory,
    "retrieved-memory": retrieved_memory,
    "pointer": pointer,
}
