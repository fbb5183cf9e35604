"""CD-T: exact at every layer, equal to its closed forms, and in agreement with patching where they should agree."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from circuits.cdt import Carrier, relevance
from circuits.decomposition import Split
from circuits.discovery import discover
from circuits.mean_activations import template_means
from circuits.method_settings import CdtSettings
from headscope.models.anatomy import Activations, Anatomy, dissect
from headscope.models.bridged import BridgedModel
from headscope.models.planted import build_planted
from headscope.statistics import rank_agreement
from headscope.tasks.contrast import ContrastBatch

FAMILIES = ["llama", "qwen2", "gpt2", "gpt_neox"]
RULES = [
    pytest.param(pattern_of, products, id=f"{pattern_of}-{products}")
    for pattern_of, products in (("beta", "halves"), ("total", "rest"), ("gamma", "halves"), ("gamma", "rest"))
]
Parts = tuple[Tensor, Tensor]


def close(found: Tensor | np.ndarray, wanted: Tensor | np.ndarray, size: float = 1e-5) -> None:
    wanted = torch.as_tensor(wanted)
    torch.testing.assert_close(torch.as_tensor(found), wanted, atol=size * max(1.0, float(wanted.abs().max())), rtol=0)


class TwoStreams:
    """The same method written out with beta and gamma side by side, neither taken from the model's activations."""

    def __init__(self, anatomy: Anatomy, settings: CdtSettings) -> None:
        self.anatomy, self.settings = anatomy, settings

    def bias(self, parts: Parts, bias: Tensor | None) -> Parts:
        beta, gamma = parts
        if bias is None:
            return parts
        size = beta.abs() + gamma.abs()
        return beta + bias * beta.abs() / size, gamma + bias * gamma.abs() / size

    def linear(self, parts: Parts, layer: Any) -> Parts:
        weight = layer.weight.T if isinstance(layer, nn.Linear) else layer.weight
        return self.bias((parts[0] @ weight, parts[1] @ weight), layer.bias)

    def norm(self, parts: Parts, norm: Any) -> Parts:
        total = parts[0] + parts[1]
        if not isinstance(norm, nn.LayerNorm):
            size = (total.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
            return parts[0] / size * norm.weight, parts[1] / size * norm.weight
        size = ((total - total.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
        own = [(part - part.mean(-1, keepdim=True)) / size * norm.weight for part in parts]
        added = self.bias(parts, norm.bias)
        return own[0] + added[0] - parts[0], own[1] + added[1] - parts[1]

    def heads(self, parts: Parts, weight: Tensor, bias: Tensor | None) -> Parts:
        made = [torch.einsum("btd,hdk->bthk", part, weight) for part in parts]
        return self.bias((made[0], made[1]), bias)

    def attention(self, layer: int, normed: Parts) -> Parts:
        part = self.anatomy.blocks[layer]
        turn = self.anatomy.turned
        q, k = ([turn(x) for x in self.heads(normed, w, b)] for w, b in ((part.w_q, part.b_q), (part.w_k, part.b_k)))
        v = [x.transpose(1, 2) for x in self.heads(normed, part.w_v, part.b_v)]
        group = q[0].shape[1] // k[0].shape[1]
        k, v = ([x.repeat_interleave(group, 1) for x in side] for side in (k, v))
        whole = self.anatomy.pattern(layer, q[0] + q[1], k[0] + k[1])
        if self.settings.pattern_of == "total":
            z = whole @ v[0], whole @ v[1]
        elif self.settings.pattern_of == "beta":
            own = self.anatomy.pattern(layer, q[0], k[0])
            z = own @ v[0], own @ v[1] + (whole - own) @ (v[0] + v[1])
        else:
            rest = self.anatomy.pattern(layer, q[1], k[1])
            z = rest @ v[0] + (whole - rest) @ (v[0] + v[1]), rest @ v[1]
        made = [x.transpose(1, 2).flatten(2) @ part.w_o.flatten(0, 1) for x in z]
        return self.bias((made[0], made[1]), part.b_o)

    def activate(self, parts: Parts, function: Any) -> Parts:
        return function(parts[0] + parts[1]) - function(parts[1]), function(parts[1])

    def mlp(self, layer: int, stream: Parts) -> Parts:
        part = self.anatomy.blocks[layer]
        module: Any = part.mlp
        normed = self.norm(stream, part.mlp_norm)
        if not hasattr(module, "gate_proj"):
            gpt2 = hasattr(module, "c_fc")
            first, last = (module.c_fc, module.c_proj) if gpt2 else (module.dense_h_to_4h, module.dense_4h_to_h)
            return self.linear(self.activate(self.linear(normed, first), module.act), last)
        opened = self.activate(self.linear(normed, module.gate_proj), module.act_fn)
        inner = self.linear(normed, module.up_proj)
        alone, mixed = opened[0] * inner[0], opened[0] * inner[1] + opened[1] * inner[0]
        share = 1.0 if self.settings.products == "rest" else 0.5
        made = alone + share * mixed, opened[1] * inner[1] + (1 - share) * mixed
        return self.linear(made, module.down_proj)

    def block(self, layer: int, stream: Parts) -> Parts:
        written = self.attention(layer, self.norm(stream, self.anatomy.blocks[layer].attn_norm))
        middle = stream[0] + written[0], stream[1] + written[1]
        added = self.mlp(layer, stream if self.anatomy.parallel else middle)
        return middle[0] + added[0], middle[1] + added[1]


@pytest.fixture(params=FAMILIES)
def anatomy(request: pytest.FixtureRequest, tiny: Any) -> Anatomy:
    return dissect(tiny(request.param))


@pytest.fixture
def exact(anatomy: Anatomy) -> Anatomy:
    """In float64: shares of biases, |x| : |y|, make rounding grow by a factor of about 40 a layer."""
    model: Any = anatomy.model
    return dissect(BridgedModel(copy.deepcopy(model.plain).double(), model.tokenizer, name=model.name))


@torch.no_grad()
@pytest.mark.parametrize(("pattern_of", "products"), RULES)
def test_both_parts_add_up_to_the_activation_at_every_layer_and_the_logits(
    exact: Anatomy, random_pairs: Any, pattern_of: Any, products: Any
) -> None:
    anatomy = exact
    settings = CdtSettings(pattern_of=pattern_of, products=products)
    batch = random_pairs(anatomy.model)
    run, carrier, twin = anatomy.run(batch.clean, batch.end), Carrier(anatomy, settings), TwoStreams(anatomy, settings)
    beta = (
        torch.randn(run.embed.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        * run.embed.std()
        * 0.3
    )
    parts, stream = (beta, run.embed - beta), Split(run.embed, beta[None])
    for layer in range(len(anatomy.blocks)):
        parts, (stream, _) = twin.block(layer, parts), carrier.block(layer, stream)
        scale = float(max(part.abs().max() for part in parts))
        close((parts[0] + parts[1]) / scale, run.resid_pre[layer + 1] / scale)
        close(stream.beta[0] / scale, parts[0] / scale)
        close(stream.total, run.resid_pre[layer + 1])
    logits, rows = carrier.logits(stream, batch.end), torch.arange(len(batch))
    beta, gamma = twin.linear(
        twin.norm((parts[0][rows, batch.end], parts[1][rows, batch.end]), anatomy.final_norm),
        anatomy.model.plain.get_output_embeddings(),
    )
    scale = float(beta.abs().max())
    close((beta + gamma) / scale, run.logits / scale)
    close(logits.beta[0] / scale, beta / scale)
    close(logits.gamma[0] / scale, gamma / scale)


@torch.no_grad()
def test_beta_of_everything_is_the_whole_and_of_nothing_is_nothing(exact: Anatomy, random_pairs: Any) -> None:
    anatomy = exact
    batch = random_pairs(anatomy.model)
    run, carrier = anatomy.run(batch.clean, batch.end), Carrier(anatomy, CdtSettings())
    stream = Split(run.embed, torch.stack([run.embed, torch.zeros_like(run.embed)]))
    for layer in range(len(anatomy.blocks)):
        stream, _ = carrier.block(layer, stream)
    logits = carrier.logits(stream, batch.end).beta
    close(logits[0], run.logits, 1e-4)
    close(logits[1], torch.zeros_like(run.logits))


@torch.no_grad()
def test_a_last_head_has_its_direct_logit_attribution(tiny: Any, random_pairs: Any) -> None:
    anatomy = dissect(tiny("gpt_neox"))  # nothing stands between a head of the last layer and the final norm
    batch: ContrastBatch = random_pairs(anatomy.model)
    scores = discover(anatomy, batch, "cdt")
    clean, twin = anatomy.run(batch.clean, batch.end), anatomy.run(batch.corrupted, batch.end)
    unembed: Any = anatomy.model.plain.get_output_embeddings()
    rows, unembed = torch.arange(len(batch)), unembed.weight
    longest = batch.end == batch.end.max()
    mean = torch.stack(
        [(twin.z[-1] if t < batch.end.max() else twin.z[-1][longest])[:, t].mean(0) for t in range(9)], 0
    )
    norm: Any = anatomy.final_norm
    stream = clean.resid_pre[-1][rows, batch.end]
    apart = anatomy.head_out(2, clean.z[-1] - mean)[rows, batch.end]
    direct = (apart - apart.mean(-1, keepdim=True)) / (stream.var(-1, unbiased=False) + norm.eps).sqrt()[:, None, None]
    direction = (unembed[batch.right[:, 0]] - unembed[batch.wrong[:, 0]]) * norm.weight
    share = apart.abs() / (apart.abs() + (stream[:, None] - apart).abs()) * norm.bias / norm.weight
    wanted = ((direct + share) * direction[:, None]).sum(-1)
    assert scores.examples is not None
    close(scores.examples[:, -1], wanted.double())


@torch.no_grad()
def test_the_mean_is_over_the_real_rows_of_a_template(tiny: Any, random_pairs: Any) -> None:
    anatomy = dissect(tiny("llama"))
    batch = dataclasses.replace(random_pairs(anatomy.model, n=5), template=torch.tensor([7, 3, 7, 3, 7]))
    batch.end[2] = 4
    run, means = anatomy.run(batch.corrupted, batch.end), template_means(anatomy, batch, 2)
    for number, members in enumerate(([1, 3], [0, 2, 4])):
        for position in range(9):
            real = [i for i in members if batch.end[i] >= position]
            close(means.z[1][number, position], run.z[1][real, position].mean(0))
            close(means.mlp_out[2][number, position], run.mlp_out[2][real, position].mean(0))


def test_every_prompt_is_compared_with_the_mean_of_its_own_template(tiny: Any, random_pairs: Any) -> None:
    """The pairs of one template score the same with and without those of the other."""
    anatomy = dissect(tiny("gpt2"))
    batch = dataclasses.replace(random_pairs(anatomy.model), template=torch.tensor([7, 3, 7, 3]))
    found, later = discover(anatomy, batch, "cdt").examples, relevance(anatomy, batch)
    apart = [batch.select(rows) for rows in ([0, 2], [1, 3])]
    assert found is not None
    for start, part in enumerate(apart):
        alone = discover(anatomy, part, "cdt").examples
        assert alone is not None
        close(found[start::2], alone)
    wanted = np.mean([relevance(anatomy, part) for part in apart], 0)
    np.testing.assert_allclose(later, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("measure", ["logit_difference", "kl"])
def test_scores_do_not_hang_on_how_rows_are_batched(tiny: Any, random_pairs: Any, measure: Any) -> None:
    anatomy, batch = dissect(tiny("llama")), random_pairs(tiny("llama"))
    whole = discover(anatomy, batch, "cdt", CdtSettings(measure=measure, batch_size=64))
    for batch_size in (1, 3, 11):
        found = discover(anatomy, batch, "cdt", CdtSettings(measure=measure, batch_size=batch_size))
        close(found.heads, whole.heads, 1e-4)
        assert whole.mlps is not None
        assert found.mlps is not None
        close(found.mlps, whole.mlps, 1e-4)


def test_the_logit_difference_of_beta_is_the_score(tiny: Any, random_pairs: Any) -> None:
    anatomy, batch = dissect(tiny("gpt2")), random_pairs(tiny("gpt2"))
    with torch.no_grad():
        carrier, clean = Carrier(anatomy, CdtSettings()), anatomy.run(batch.clean, batch.end)
        mean = template_means(anatomy, batch, 8).mlp_out[1][torch.zeros(len(batch), dtype=torch.long)]
        stream = Split(clean.resid_pre[2], clean.mlp_out[1] - mean)
        logits = carrier.logits(carrier.block(2, stream)[0], batch.end)
    mlps = discover(anatomy, batch, "cdt").mlps
    assert mlps is not None
    close(mlps[1], batch.logit_difference(logits.beta).double().mean())


def naive_patching(anatomy: Anatomy, batch: ContrastBatch) -> np.ndarray:
    """Effect of each head's mean over the corrupted prompts in its place; one run per head."""
    clean, means = anatomy.run(batch.clean, batch.end), template_means(anatomy, batch, len(batch))
    found = np.zeros((len(anatomy.blocks), anatomy.model.shape.n_heads))
    for layer in range(len(anatomy.blocks)):
        for head in range(found.shape[1]):
            z = clean.z[layer].clone()
            z[:, :, head] = means.z[layer][0, :, head]
            middle = clean.resid_pre[layer] + anatomy.attn_out(layer, z)
            stream = middle + anatomy.mlp(layer, clean.resid_pre[layer] if anatomy.parallel else middle)
            changed = anatomy.finish(stream, layer + 1, batch.end)
            found[layer, head] = (batch.logit_difference(clean.logits) - batch.logit_difference(changed)).mean()
    return found


@torch.no_grad()
@pytest.mark.parametrize(("name", "floor"), [("llama", 0.5), ("qwen2", 0.7), ("gpt2", 0.4), ("gpt_neox", 0.2)])
def test_random_heads_rank_somewhat_as_by_patching(tiny: Any, random_pairs: Any, name: str, floor: float) -> None:
    anatomy = dissect(tiny(name))
    batch = random_pairs(anatomy.model, n=6, seed=3)
    found = discover(anatomy, batch, "cdt").heads
    assert rank_agreement(found, naive_patching(anatomy, batch)) > floor


def frozen_finish(anatomy: Anatomy, clean: Activations, stream: Tensor, layer: int, batch: ContrastBatch) -> Tensor:
    """Logits of a changed stream when every norm keeps the scale of the clean run; for a model without biases."""

    def norm(x: Tensor, known: Tensor, module: Any) -> Tensor:
        return x * (known.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).rsqrt() * module.weight

    for index in range(layer, len(anatomy.blocks)):
        part = anatomy.blocks[index]
        normed = norm(stream, clean.resid_pre[index], part.attn_norm)
        query, key, value = (torch.einsum("btd,hdk->bthk", normed, w) for w in (part.w_q, part.w_k, part.w_v))
        z = anatomy.attend(index, anatomy.turned(query), anatomy.turned(key), value.transpose(1, 2))
        stream = stream + anatomy.attn_out(index, z)
        stream = stream + part.mlp(norm(stream, clean.resid_mid[index], part.mlp_norm))
    unembed: Any = anatomy.model.plain.get_output_embeddings()
    return unembed(norm(stream, clean.resid_pre[-1], anatomy.final_norm))[torch.arange(len(batch)), batch.end]


@torch.no_grad()
def test_by_the_rules_of_gamma_it_is_mean_patching_with_frozen_norms(tiny: Any, random_pairs: Any) -> None:
    anatomy, batch = dissect(tiny("llama")), random_pairs(tiny("llama"))
    scores = discover(anatomy, batch, "cdt", CdtSettings(pattern_of="gamma", products="rest"))
    clean, means = anatomy.run(batch.clean, batch.end), template_means(anatomy, batch, 8)
    mlps = scores.mlps
    assert mlps is not None
    for layer in range(2):
        changed = clean.resid_pre[layer + 1] - clean.mlp_out[layer] + means.mlp_out[layer]
        logits = frozen_finish(anatomy, clean, changed, layer + 1, batch)
        effect = (batch.logit_difference(clean.logits) - batch.logit_difference(logits)).mean()
        assert mlps[layer] == pytest.approx(float(effect), rel=1e-4, abs=1e-4)


def planted_pairs(model: Any) -> ContrastBatch:
    """``a b c d ... a b c d`` -> what followed the last token; in the twin nothing in the first copy is repeated."""
    generator = torch.Generator().manual_seed(0)
    clean, corrupted, right, wrong = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    for _ in range(6):
        drawn = torch.randperm(40, generator=generator)[:20] + 8
        first, other = drawn[:8], drawn[8:16]
        start = torch.tensor([model.bos])
        clean.append(torch.cat([start, first, first[:4]]))
        corrupted.append(torch.cat([start, other, first[:4]]))
        right.append(first[4:5])
        wrong.append(drawn[16:17])
    return ContrastBatch(
        "induction",
        torch.stack(clean),
        torch.stack(corrupted),
        torch.full((6,), 12),
        torch.stack(right),
        torch.stack(wrong),
        torch.zeros(6, dtype=torch.long),
        {},
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_planted_induction_and_the_head_it_reads_rank_first(planted: Any, seed: int) -> None:
    model = planted("induction", seed)
    known = build_planted("induction", seed).truth
    truth = {*known["induction"], *known["previous-token"]}
    pairs = planted_pairs(model)
    scores = discover(model, pairs, "cdt")
    assert set(scores.ranked()[:2]) == truth
    others = np.sort(scores.heads.ravel())[:-2]
    assert scores.heads[tuple(next(iter(known["previous-token"])))] > 100 * np.abs(others).max()
    taken = discover(model, pairs, "cdt", CdtSettings(pattern_of="total"))  # blind to what works through keys
    assert set(taken.ranked()[:1]) == known["induction"]
    assert taken.heads[tuple(next(iter(known["previous-token"])))] < 0.01 * scores.heads.max()


def test_relevance_to_later_heads_finds_what_the_induction_head_reads(planted: Any) -> None:
    model = planted("induction", 0)
    known = build_planted("induction", 0).truth
    (source,), (target,) = known["previous-token"], known["induction"]
    found = relevance(dissect(model), planted_pairs(model))
    assert found.shape == (2, 5, 2, 4)
    assert np.isnan(found[1]).all()
    assert np.isnan(found[0, :, 0]).all()
    assert not np.isnan(found[0, :, 1]).any()
    assert found[0, source.head, 1, target.head] > 0.5
    assert np.delete(found[0, :, 1, target.head], source.head).max() < 0.01
