"""Naive twins of mixers that are sparse by content: one row of one head at a time, in plain numbers and lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from headscope.mixers.interface import MixerInput
from tests.mixer_operations import Operation

Row = Callable[[int, int, int], Tensor]


def each_row(given: MixerInput, read: Row) -> Tensor:
    """z, where ``read(batch, head, row)`` gives one row of it."""
    z = torch.zeros(*given.query.shape[:3], given.value.shape[-1], dtype=given.value.dtype)
    for b, h, i in product(*(range(size) for size in given.query.shape[:3])):
        z[b, h, i] = read(b, h, i)
    return z


def seen_by(given: MixerInput, i: int) -> range:
    return range(i + 1 if given.causal else given.key.shape[2])


def score(given: MixerInput, b: int, h: int, i: int, j: int) -> float:
    return float(given.query[b, h, i] @ given.key[b, h, j]) * given.scale


def best(numbers: dict[int, float], count: int) -> list[int]:
    return sorted(numbers, key=lambda one: -numbers[one])[:count]


def attend(given: MixerInput, b: int, h: int, scores: dict[int, float]) -> Tensor:
    """The mean of the values of the keys of ``scores``, weighted by their exponentials; 0 of none."""
    total = sum(math.exp(one) for one in scores.values())
    parts = [math.exp(one) / total * given.value[b, h, j] for j, one in scores.items()]
    return torch.stack(parts).sum(0) if parts else torch.zeros_like(given.value[b, h, 0])


def among(given: MixerInput, b: int, h: int, i: int, keys: Sequence[int] | set[int]) -> Tensor:
    return attend(given, b, h, {j: score(given, b, h, i, j) for j in keys})


def weighted_mean(weights: Sequence[float], vectors: Tensor) -> Tensor:
    return torch.tensor(weights, dtype=vectors.dtype) @ vectors / sum(weights)


def blocks_before(i: int, size: int) -> dict[int, list[int]]:
    return {r: list(range(r * size, (r + 1) * size)) for r in range(i // size)}


def own_tokens(i: int, size: int) -> list[int]:
    return list(range(i // size * size, i + 1))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def top_keys(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        return among(given, b, h, i, best({j: score(given, b, h, i, j) for j in seen_by(given, i)}, mixer.keys))

    return each_row(given, row)


def hip(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        count, k = len(seen_by(given, i)), mixer.settings.keys
        nodes = [(n * count // k, (n + 1) * count // k) for n in range(k)]
        nodes = [node for node in nodes if node[0] < node[1]]
        while any(stop - start > 1 for start, stop in nodes):
            halves = [half for start, stop in nodes for half in halved(start, stop)]
            worth = {n: score(given, b, h, i, (start + stop) // 2) for n, (start, stop) in enumerate(halves)}
            nodes = [halves[n] for n in best(worth, k)]
        return among(given, b, h, i, [start for start, _ in nodes])

    return each_row(given, row)


def halved(start: int, stop: int) -> list[tuple[int, int]]:
    middle = start + math.ceil((stop - start) / 2)
    return [half for half in ((start, middle), (middle, stop)) if half[0] < half[1]]


def routing(mixer: Any, given: MixerInput) -> Tensor:
    x = (given.query + given.key) / math.sqrt(2)
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

    def cluster(b: int, h: int, j: int) -> int:
        return max(range(mixer.clusters), key=lambda c: float(mixer.centroids[h, c] @ x[b, h, j]))

    def row(b: int, h: int, i: int) -> Tensor:
        mates = [j for j in seen_by(given, i) if cluster(b, h, j) == cluster(b, h, i)]
        return attend(given, b, h, {j: float(x[b, h, i] @ x[b, h, j]) * given.scale for j in mates})

    return each_row(given, row)


def bucket(x: Tensor, rotation: Tensor) -> int:
    sides = [float(one) for column in (rotation, -rotation) for one in x @ column]
    return sides.index(max(sides))


def reformer(mixer: Any, given: MixerInput) -> Tensor:
    """Every round by itself, then merged by their normalisers, each score less the log of how often it is found."""
    x = (given.query + given.key) / math.sqrt(2)

    def row(b: int, h: int, i: int) -> Tensor:
        code = [[bucket(x[b, h, j], one) for one in mixer.rotations] for j in seen_by(given, i)]
        mine = [bucket(x[b, h, i], one) for one in mixer.rotations]
        found = [[j for j in seen_by(given, i) if code[j][r] == mine[r] and j != i] for r in range(len(mine))]
        if not any(found):
            return given.value[b, h, i]
        often = {j: sum(j in one for one in found) for one in found for j in one}
        cosine = {j: float(x[b, h, i] @ x[b, h, j] / x[b, h, j].norm()) for j in often}
        logit = {j: cosine[j] * given.scale - math.log(often[j]) for j in often}
        rounds = [{j: logit[j] for j in one} for one in found if one]
        sizes = torch.tensor([[sum(math.exp(one) for one in found.values())] for found in rounds], dtype=x.dtype)
        return (sizes / sizes.sum() * torch.stack([attend(given, b, h, one) for one in rounds])).sum(0)

    return each_row(given, row)


def hash_equal(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        mine = [bucket(given.query[b, h, i], one) for one in mixer.rotations]
        found = {i}
        for j in seen_by(given, i):
            if any(bucket(given.key[b, h, j], one) == mine[r] for r, one in enumerate(mixer.rotations)):
                found.add(j)
        return among(given, b, h, i, found)

    return each_row(given, row)


def sampled_keys(mixer: Any, given: MixerInput) -> Tensor:
    at = mixer.settings

    def side(x: Tensor) -> list[bool]:
        return [float(x @ plane) > 0 for plane in mixer.planes]

    def row(b: int, h: int, i: int) -> Tensor:
        near = [j for j in range(i + 1) if i - j < at.recent]
        same = [j for j in range(i + 1) if j not in near and side(given.key[b, h, j]) == side(given.query[b, h, i])]
        exact = near + same[len(same) - min(at.block, len(same)) :]
        weight = [math.exp(float(given.key[b, h, j].square().sum()) * given.scale / 2) for j in range(i + 1)]
        scores = {j: score(given, b, h, i, j) for j in exact}
        for j in range(i + 1):
            share = 1 / (i + 1)
            if at.rates == "key_norm":
                share = share / 2 + weight[j] / sum(weight) / 2
            chance = min(1.0, at.samples * share)
            if j not in exact and float(mixer.draws[h, j % mixer.draws.shape[1]]) < chance:
                scores[j] = score(given, b, h, i, j) + math.log(1 / chance)
        return attend(given, b, h, scores)

    return each_row(given, row)


def collision(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        z, query = torch.zeros_like(given.value[b, h, 0]), given.query[b, h, i]
        for j in seen_by(given, i):
            angle = math.acos(float(query @ given.key[b, h, j] / query.norm() / given.key[b, h, j].norm()))
            z = z + (1 - angle / math.pi) ** mixer.settings.bits * given.value[b, h, j]
        return z

    return each_row(given, row)


def moba(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        blocks = blocks_before(i, mixer.size)
        match = {r: float(given.query[b, h, i] @ given.key[b, h, tokens].mean(0)) for r, tokens in blocks.items()}
        chosen = [j for r in best(match, mixer.settings.blocks - 1) for j in blocks[r]]
        return among(given, b, h, i, chosen + own_tokens(i, mixer.size))

    return each_row(given, row)


def block_gate(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        gate, blocks = dict[int, float](), blocks_before(i, mixer.size)
        for r, tokens in blocks.items():
            keys = given.key[b, h, tokens]
            pooled = torch.cat([keys.mean(0), keys.max(0).values, keys.min(0).values])
            query = given.query[b, h, i] @ mixer.W_q[h]
            gate[r] = (query @ (pooled @ mixer.W_k[h])).item() / math.sqrt(len(query))
        scores = {j: score(given, b, h, i, j) for j in own_tokens(i, mixer.size)}
        for r in best(gate, mixer.settings.blocks - 1):
            scores |= {j: score(given, b, h, i, j) + log_sigmoid(gate[r]) for j in blocks[r]}
        return attend(given, b, h, scores)

    return each_row(given, row)


def region_routing(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        blocks, own = blocks_before(i, mixer.size), own_tokens(i, mixer.size)
        mean = given.query[b, h, own].mean(0)
        match = {r: float(mean @ given.key[b, h, tokens].mean(0)) for r, tokens in blocks.items()}
        return among(given, b, h, i, own + [j for r in best(match, mixer.settings.blocks - 1) for j in blocks[r]])

    return each_row(given, row)


def longheads(mixer: Any, given: MixerInput) -> Tensor:
    def chunk_key(b: int, h: int, tokens: list[int]) -> Tensor:
        keys, reads = given.key[b, h, tokens], list[Tensor]()
        for query in given.query[b, h, tokens]:
            weights = [math.exp(float(query @ key) * given.scale) for key in keys]
            reads.append(weighted_mean(weights, keys))
        mean = torch.stack(reads).mean(0)
        weights = [math.exp(float(mean @ key) * given.scale) for key in keys]
        return weighted_mean(weights, keys)

    def row(b: int, h: int, i: int) -> Tensor:
        blocks = blocks_before(i, mixer.size)
        always = [r for r in blocks if r == 0 or r == i // mixer.size - 1]
        match = {
            r: float(given.query[b, h, i] @ chunk_key(b, h, tokens)) for r, tokens in blocks.items() if r not in always
        }
        open_ones = always + best(match, mixer.settings.chunks - 3)
        return among(given, b, h, i, [j for r in open_ones for j in blocks[r]] + own_tokens(i, mixer.size))

    return each_row(given, row)


def combiner(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        own = own_tokens(i, mixer.size)
        terms = [(math.exp(score(given, b, h, i, j)), given.value[b, h, j]) for j in own]
        for tokens in blocks_before(i, mixer.size).values():
            keys, values = given.key[b, h, tokens], given.value[b, h, tokens]
            summary = given.query[b, h, tokens].max(0).values
            inside = [math.exp(float(summary @ key) * given.scale) for key in keys]
            outer = math.exp(float(given.query[b, h, i] @ keys.max(0).values) * given.scale)
            terms.append((outer, weighted_mean(inside, values)))
        return weighted_mean([weight for weight, _ in terms], torch.stack([value for _, value in terms]))

    return each_row(given, row)


def multi_resolution(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        blocks = blocks_before(i, mixer.size)
        coarse = {
            r: float(given.query[b, h, i] @ given.key[b, h, tokens].mean(0)) * given.scale
            for r, tokens in blocks.items()
        }
        fine = best(coarse, mixer.settings.blocks - 1)
        scores = {j: score(given, b, h, i, j) for j in own_tokens(i, mixer.size)}
        for r, tokens in blocks.items():  # a block seen as one: every token as if it had the mean key
            scores |= {j: score(given, b, h, i, j) if r in fine else coarse[r] for j in tokens}
        return attend(given, b, h, scores)

    return each_row(given, row)


def nsa(mixer: Any, given: MixerInput) -> Tensor:
    size, at = mixer.size, mixer.settings
    of_key, of_value = mixer.place_key.softmax(-1), mixer.place_value.softmax(-1)

    def row(b: int, h: int, i: int) -> Tensor:
        complete = {r: list(range(r * size, r * size + size)) for r in range((i + 1) // size)}
        weight = {
            r: math.exp(float(given.query[b, h, i] @ (of_key[h] @ given.key[b, h, tokens])) * given.scale)
            for r, tokens in complete.items()
        }
        compressed = torch.zeros_like(given.value[b, h, 0])
        for r, tokens in complete.items():
            compressed = compressed + weight[r] / sum(weight.values()) * (of_value[h] @ given.value[b, h, tokens])
        own = i // size
        rest = {r: weight[r] for r in range(1, own - 1)}
        chosen = {0, own, max(own - 1, 0)} | set(best(rest, at.blocks - 3))
        read = among(given, b, h, i, [j for j in range(i + 1) if j // size in chosen])
        near = among(given, b, h, i, range(max(0, i - at.window + 1), i + 1))
        gate = given.gates["branch_gate"][b, h, i]
        return gate[0] * compressed + gate[1] * read + gate[2] * near

    return each_row(given, row)


def low_rank_mask(mixer: Any, given: MixerInput) -> Tensor:
    def row(b: int, h: int, i: int) -> Tensor:
        guess = {
            j: float((given.query[b, h, i] @ mixer.A[h]) @ (given.key[b, h, j] @ mixer.B[h])) / math.sqrt(mixer.rank)
            for j in seen_by(given, i)
        }
        chosen = best(guess, mixer.settings.keys)
        return attend(given, b, h, {j: score(given, b, h, i, j) + log_sigmoid(guess[j]) for j in chosen})

    return each_row(given, row)


def lightning_indexer(mixer: Any, given: MixerInput) -> Tensor:
    query, key, weight = (given.gates[f"index_{name}"] for name in ("query", "key", "weight"))

    def row(b: int, h: int, i: int) -> Tensor:
        index = dict[int, float]()
        for j in seen_by(given, i):
            index[j] = sum(
                float(weight[b, one, i]) * max(0.0, float(query[b, one, i] @ key[b, 0, j]))
                for one in range(query.shape[1])
            )
        chosen = best(index, mixer.settings.keys)
        return attend(given, b, h, {j: score(given, b, h, i, j) + log_sigmoid(index[j]) for j in chosen})

    return each_row(given, row)


def estimated_attention(mixer: Any, given: MixerInput) -> Tensor:
    size, total = mixer.size, mixer.total

    def positive(x: Tensor) -> Tensor:
        return torch.where(x > 0, x + 1, x.exp())

    def row(b: int, h: int, i: int) -> Tensor:
        mass = torch.zeros(total, dtype=given.value.dtype)
        for j in range(i + 1):
            mass[min(j // size, total - 1)] += positive(given.query[b, h, i]) @ positive(given.key[b, h, j])
        logs = (mass / (mass.sum() + 1e-6) + 1e-6).log()
        own = min(i // size, total - 1)
        share = (logs + gelu(logs @ mixer.W_in[h]) @ mixer.W_out[h])[: own + 1].softmax(0)
        chosen = [own, *best({c: float(share[c]) for c in range(own)}, mixer.settings.columns - 1)]
        column = {j: min(j // size, total - 1) for j in range(i + 1)}
        scores = {j: score(given, b, h, i, j) + math.log(share[column[j]]) for j in column if column[j] in chosen}
        return attend(given, b, h, scores)

    return each_row(given, row)


def sparse_queries(mixer: Any, given: MixerInput) -> Tensor:
    def sharpness(b: int, h: int, i: int) -> float:
        scores = [score(given, b, h, i, j) for j in seen_by(given, i)]
        return max(scores) - sum(scores) / len(scores)

    sharp = {at: sharpness(*at) for at in product(*(range(size) for size in given.query.shape[:3]))}

    def row(b: int, h: int, i: int) -> Tensor:
        rows = seen_by(given, i)
        room = math.ceil(mixer.settings.factor * math.log(len(rows) + 1))
        if i in best({j: sharp[b, h, j] for j in rows}, room):
            return among(given, b, h, i, rows)
        return given.value[b, h, : len(rows)].mean(0)

    return each_row(given, row)


def token_gates(mixer: Any, given: MixerInput) -> Tensor:
    at, keep, read = mixer.settings, given.gates["key_gate"], given.gates["query_gate"]

    def row(b: int, h: int, i: int) -> Tensor:
        kept = [j for j in seen_by(given, i) if float(keep[b, h, j]) > 0 or abs(i - j) < at.grace]
        z = attend(given, b, h, {j: score(given, b, h, i, j) + log_sigmoid(float(keep[b, h, j])) for j in kept})
        if at.queries:
            logit = float(read[b, h, i])
            z = z / (1 + math.exp(-logit)) if logit > 0 else z * 0
        if at.window:
            z = z + among(given, b, h, i, [j for j in seen_by(given, i) if abs(i - j) < at.window])
        return z

    return each_row(given, row)


def head_spans(mixer: Any, given: MixerInput) -> Tensor:
    at = mixer.settings

    def row(b: int, h: int, i: int) -> Tensor:
        span = at.spans[h % len(at.spans)] + int(at.growth[h % len(at.growth)] * (i + 1))
        return among(given, b, h, i, [j for j in range(i + 1) if j < at.sinks or j > i - span])

    return each_row(given, row)


def recycled(mixer: Any, given: MixerInput) -> Tensor:
    chosen = dict[tuple[int, int], list[int]]()
    z = torch.zeros_like(given.value)
    for i in range(given.query.shape[2]):
        for b, h in product(*(range(size) for size in given.query.shape[:2])):
            full = (i + 1) % mixer.settings.stride == 0
            last = (i + 1) // mixer.settings.stride * mixer.settings.stride
            keys = list(range(i + 1)) if full else chosen.get((b, h), []) + list(range(last, i + 1))
            z[b, h, i] = among(given, b, h, i, keys)
            if full:
                chosen[b, h] = best({j: score(given, b, h, i, j) for j in keys}, mixer.settings.keys)
    return z


OPERATIONS: dict[str, Operation] = {
    "top-keys": top_keys,
    "hip": hip,
    "routing": routing,
    "reformer": reformer,
    "hash-equal": hash_equal,
    "sampled-keys": sampled_keys,
    "collision": collision,
    "moba": moba,
    "block-gate": block_gate,
    "region-routing": region_routing,
    "longheads": longheads,
    "combiner": combiner,
    "multi-resolution": multi_resolution,
    "nsa": nsa,
    "low-rank-mask": low_rank_mask,
    "lightning-indexer": lightning_indexer,
    "estimated-attention": estimated_attention,
    "sparse-queries": sparse_queries,
    "token-gates": token_gates,
    "head-spans": head_spans,
    "recycled": recycled,
}
