"""Mixtures of heads and experts against plain loops, against transformers, and where they are plain heads."""

from __future__ import annotations

from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu
from transformers.models.jetmoe.configuration_jetmoe import JetMoeConfig
from transformers.models.jetmoe.modeling_jetmoe import JetMoeAttention

from headscope.errors import ConfigError, UnknownNameError
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.sharing import Earlier

MODEL, LENGTH, BATCH = 12, 8, 2
KINDS: dict[str, dict[str, Any]] = {
    "moh": {"kind": "moh", "settings": {"shared": 2, "top_k": 2}},
    "moh-one-shared": {"kind": "moh", "settings": {"shared": 1, "top_k": 2}},
    "moh-none-shared": {"kind": "moh", "settings": {"shared": 0, "top_k": 3}},
    "moh-scaled": {"kind": "moh", "settings": {"shared": 2, "top_k": 2, "scaled": True}},
    "experts": {"kind": "experts", "settings": {"top_k": 2}},
    "experts-of-two": {"kind": "experts", "settings": {"heads_each": 2, "top_k": 1}},
    "soft-experts": {"kind": "experts", "settings": {"heads_each": 3}},
    "switch": {"kind": "switch", "settings": {"experts": 3, "top_k": 2}},
    "shrp": {"kind": "shrp"},
}


def decoder(heads: Any, n_heads: int = 6, **more: Any) -> Decoder:
    sizes = {"d_vocab": 7, "n_ctx": 16, "n_heads": n_heads, "d_model": MODEL, "n_layers": 1, "heads": heads}
    return Decoder(DecoderConfig.parse(sizes | more)).double().eval()


def tokens() -> Tensor:
    return torch.randint(0, 7, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))


def cached(model: Decoder) -> dict[str, Tensor]:
    with torch.no_grad():
        cache = model.run_with_cache(tokens())[1]
    return {name.removeprefix("blocks.0.attn."): part for name, part in cache.items()}


def stream(cache: dict[str, Tensor]) -> Tensor:
    return cache["blocks.0.ln1.hook_normalized"]  # gains are one


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def softmax(logits: Tensor) -> list[float]:
    powers = [exp(x) for x in logits.tolist()]
    return [x / sum(powers) for x in powers]


def top(values: list[float], count: int) -> list[float]:
    """The highest ones, 0 in place of the others."""
    kept = sorted(range(len(values)), key=lambda at: -values[at])[:count]
    return [value if at in kept else 0.0 for at, value in enumerate(values)]


@pytest.mark.parametrize("scaled", [False, True], ids=["paper", "code"])
@pytest.mark.parametrize(("shared", "top_k"), [(2, 2), (1, 3), (0, 2), (5, 1)])
def test_moh_weights_heads_in_two_stages(shared: int, top_k: int, scaled: bool) -> None:
    if scaled and top_k == 1:
        pytest.skip("refused")
    model = decoder({"kind": "moh", "settings": {"shared": shared, "top_k": top_k, "scaled": scaled}})
    cache, m = cached(model), model.blocks[0].attn.head_mixing
    x, found = stream(cache), cache["hook_head_weight"]
    for b in range(BATCH):
        for t in range(LENGTH):
            always = softmax(x[b, t] @ m.W_shared) if shared > 1 else [1.0] * shared
            routed = top(softmax(x[b, t] @ m.W_routed) if shared < 5 else [1.0], top_k)
            kinds = softmax(x[b, t] @ m.W_kind) if shared else [0.0, 1.0]
            if scaled:
                always, kinds = [w * shared for w in always], [w * 2 for w in kinds] if shared else kinds
                routed = [w / sum(routed) * top_k for w in routed]
            wanted = [kinds[0] * w for w in always] + [kinds[1] * w for w in routed]
            close(found[b, t], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize(("heads_each", "top_k"), [(1, 2), (1, 1), (2, 2), (2, None), (3, 1)])
def test_experts_share_their_weight_among_the_chosen(heads_each: int, top_k: int | None) -> None:
    model = decoder({"kind": "experts", "settings": {"heads_each": heads_each, "top_k": top_k}})
    cache, experts = cached(model), 6 // heads_each
    x, router = stream(cache), model.blocks[0].attn.head_mixing.W_router
    for b in range(BATCH):
        for t in range(LENGTH):
            chosen = top(softmax(x[b, t] @ router), top_k or experts)
            wanted = [chosen[head % experts] / sum(chosen) for head in range(6)]
            close(cache["hook_head_weight"][b, t], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("name", [name for name in KINDS if name not in ("switch", "shrp")])
def test_a_weight_multiplies_what_its_head_writes(name: str) -> None:
    """Heads add up with their weights, those of the plain heads of the same parameters."""
    model, plain = decoder(KINDS[name]), decoder("all")
    plain.load_state_dict({path: part for path, part in model.state_dict().items() if "head_mixing" not in path})
    cache, base = cached(model), cached(plain)
    weights, z = cache["hook_head_weight"], base["hook_z"]
    wanted = sum(weights[:, :, h, None] * (z[:, :, h] @ plain.blocks[0].attn.W_O[h]) for h in range(6))
    close(cache["blocks.0.hook_attn_out"], wanted)


@pytest.mark.parametrize(
    ("name", "router"),
    [
        ({"kind": "moh", "settings": {"shared": 3, "top_k": 3, "scaled": True}}, 0.0),
        ({"kind": "moh", "settings": {"shared": 0, "top_k": 6, "scaled": True}}, 0.0),
    ],
    ids=["half-shared", "all-routed"],
)
def test_all_heads_with_even_weights_are_plain_heads(name: Any, router: float) -> None:
    model, plain = decoder(name), decoder("all")
    with torch.no_grad():
        for parameter in model.blocks[0].attn.head_mixing.parameters():
            parameter.fill_(router)
        plain.load_state_dict({path: part for path, part in model.state_dict().items() if "head_mixing" not in path})
        close(model(tokens()), plain(tokens()))


def test_even_soft_experts_are_the_mean_of_their_heads() -> None:
    model, plain = decoder("experts"), decoder("all")
    with torch.no_grad():
        model.blocks[0].attn.head_mixing.W_router.fill_(0)
        plain.load_state_dict({path: part for path, part in model.state_dict().items() if "head_mixing" not in path})
        plain.blocks[0].attn.W_O.div_(6)
        close(model(tokens()), plain(tokens()))


def test_experts_with_shared_keys_are_those_of_jetmoe() -> None:
    experts, top_k, groups, width = 3, 2, 2, 4
    theirs_config = JetMoeConfig(
        hidden_size=MODEL, num_key_value_heads=groups, kv_channels=width, num_experts_per_tok=top_k,
        num_local_experts=experts, attn_implementation="eager", attention_dropout=0.0,
    )  # fmt: skip
    settings = {"heads_each": groups, "top_k": top_k}
    sharing = {"key_heads": groups, "value_heads": groups}
    model = decoder({"kind": "experts", "settings": settings}, experts * groups, d_head=width, sharing=sharing)
    ours, theirs = model.blocks[0].attn, JetMoeAttention(theirs_config, 0).double().eval()
    x = torch.randn(BATCH, LENGTH, MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs.experts.bias.zero_()
        theirs.experts.router.layer.weight.copy_(ours.head_mixing.W_router.mT)
        for e in range(experts):
            mine = [g * experts + e for g in range(groups)]  # head h is of expert h % experts
            theirs.experts.input_linear.weight[e].copy_(ours.W_Q[mine].permute(0, 2, 1).flatten(0, 1))
            theirs.experts.output_linear.weight[e].copy_(ours.W_O[mine].flatten(0, 1).mT)
        made = ours.keys_values
        theirs.kv_proj.weight.copy_(torch.cat([part.permute(0, 2, 1).flatten(0, 1) for part in (made.W_K, made.W_V)]))
        still = torch.ones(1, LENGTH, width, dtype=torch.float64), torch.zeros(1, LENGTH, width, dtype=torch.float64)
        mask = torch.full((LENGTH, LENGTH), -torch.inf, dtype=torch.float64).triu(1)[None, None]
        wanted = theirs(x, mask, still)[0]
        torch.testing.assert_close(ours(x, Earlier()), wanted, rtol=1e-5, atol=1e-5)  # their router is float32


@pytest.mark.parametrize(("experts", "top_k"), [(3, 2), (4, 4), (1, 1)])
def test_switchhead_routes_values_and_outputs(experts: int, top_k: int) -> None:
    model = decoder({"kind": "switch", "settings": {"experts": experts, "top_k": top_k}}, n_heads=2)
    cache, m = cached(model), model.blocks[0].attn.head_mixing
    x, pattern = stream(cache), cache["hook_pattern"]

    def gates(select: Tensor, b: int, t: int, h: int) -> list[float]:
        logits = (x[b, t] @ select)[h * experts : (h + 1) * experts]
        return top([1 / (1 + exp(-logit)) for logit in logits.tolist()], top_k)

    for b in range(BATCH):
        for i in range(LENGTH):
            wanted = torch.zeros(MODEL, dtype=torch.float64)
            for h in range(2):
                z = torch.zeros(MODEL // 2, dtype=torch.float64)
                for j in range(i + 1):
                    value = sum(g * (x[b, j] @ m.W_V[h, e]) for e, g in enumerate(gates(m.W_select_V, b, j, h)))
                    z = z + pattern[b, h, i, j] * value
                wanted = wanted + sum(g * (z @ m.W_O[h, e]) for e, g in enumerate(gates(m.W_select_O, b, i, h)))
                assert float(cache["hook_head_weight"][b, i, h]) == pytest.approx(sum(gates(m.W_select_O, b, i, h)))
            close(cache["blocks.0.hook_attn_out"][b, i], wanted.detach())


def test_switchhead_with_one_expert_is_plain_heads_with_sigmoid_gates() -> None:
    model = decoder({"kind": "switch", "settings": {"experts": 1, "top_k": 1}})
    plain = decoder("all", output_gate="head")
    m, attn = model.blocks[0].attn.head_mixing, plain.blocks[0].attn
    weights = {path: part for path, part in model.state_dict().items() if "head_mixing" not in path}
    weights["blocks.0.attn.W_O"], weights["blocks.0.attn.gate"] = m.W_O[:, 0], m.W_select_O[..., None]
    weights["blocks.0.attn.keys_values.W_V"] = m.W_V[:, 0]
    plain.load_state_dict(weights)
    with torch.no_grad():
        gate = (cached(model)["blocks.0.ln1.hook_normalized"] @ m.W_select_V).sigmoid()
        hooks = [("blocks.0.attn.hook_v", lambda value, hook: value * gate[..., None])]  # noqa: ARG005
        close(model(tokens()), plain.run_with_hooks(tokens(), fwd_hooks=hooks))
        assert attn.gate.shape == (MODEL, 6, 1)


def test_shrp_sends_one_head_through_the_shared_network() -> None:
    model = decoder({"kind": "shrp", "settings": {"hidden": 5}})
    cache, m = cached(model), model.blocks[0].attn.head_mixing
    x, pattern, value = stream(cache), cache["hook_pattern"], cache["hook_v"]
    for b in range(BATCH):
        for i in range(LENGTH):
            share = softmax(x[b, i] @ m.W_router)
            head = share.index(max(share))
            z = sum(pattern[b, head, i, j] * value[b, j, head] for j in range(i + 1)) * share[head]
            close(cache["blocks.0.hook_attn_out"][b, i], (gelu(z @ m.W_in) @ m.W_out).detach())
            assert cache["hook_head_weight"][b, i].count_nonzero() == 1


@pytest.mark.parametrize("name", KINDS)
def test_results_of_heads_add_up(name: str) -> None:
    model = decoder(KINDS[name])
    before = cached(model)["blocks.0.hook_attn_out"]
    model.blocks[0].attn.use_result = True
    cache = cached(model)
    assert cache["hook_result"].shape == (BATCH, LENGTH, 6, MODEL)
    close(cache["hook_result"].sum(2), before)
    close(cache["blocks.0.hook_attn_out"], before)


@pytest.mark.parametrize("name", KINDS)
def test_a_head_without_weight_writes_nothing(name: str) -> None:
    model = decoder(KINDS[name])
    model.blocks[0].attn.use_result = True
    before, found = cached(model)["hook_result"], list[Tensor]()
    busiest = int(before.abs().sum((0, 1, 3)).argmax())

    def off(weights: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return weights * (torch.arange(6) != busiest)

    hooks = [("blocks.0.attn.hook_head_weight", off), ("blocks.0.attn.hook_result", lambda r, hook: found.append(r))]  # noqa: ARG005
    with torch.no_grad():
        model.run_with_hooks(tokens(), fwd_hooks=hooks)
    assert float(before[:, :, busiest].abs().max()) > 0
    before[:, :, busiest] = 0
    close(found[0], before)


@pytest.mark.parametrize("name", KINDS)
def test_every_parameter_is_trained_and_no_token_sees_later_ones(name: str) -> None:
    model = decoder(KINDS[name])
    text = tokens()
    logits = model(text)
    logits.log_softmax(-1)[..., 3].mean().backward()
    assert [path for path, part in model.named_parameters() if part.grad is None or not part.grad.abs().max() > 0] == []
    changed = text.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 7
    close(model(changed)[:, :5].detach(), logits[:, :5].detach())
    close(model(text[:1]).detach(), logits[:1].detach())


@pytest.mark.parametrize(
    ("heads", "error", "said"),
    [
        ("mohh", UnknownNameError, "Did you mean 'moh'"),
        ({"kind": "moh", "settings": {"topk": 2}}, ConfigError, "Did you mean 'top_k'"),
        ({"kind": "moh", "settings": {"shared": 5, "top_k": 2}}, ConfigError, "are more than n_heads 6"),
        ({"kind": "moh", "settings": {"top_k": 1, "scaled": True}}, ConfigError, "trains no router"),
        ({"kind": "experts", "settings": {"heads_each": 4}}, ConfigError, "does not divide n_heads 6"),
        ({"kind": "experts", "settings": {"heads_each": 2, "top_k": 4}}, ConfigError, "above the 3 experts"),
        ({"kind": "experts", "settings": {"heads_each": 6}}, ConfigError, "make one expert"),
        ({"kind": "switch", "settings": {"experts": 2, "top_k": 3}}, ConfigError, "top_k 3 is above experts 2"),
    ],
)
def test_impossible_mixtures_are_refused(heads: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        decoder(heads)


def test_values_of_experts_cannot_be_shared() -> None:
    with pytest.raises(ConfigError, match="make values of their own"):
        decoder("switch", sharing={"value_heads": 2})


def test_the_scale_of_learned_temperatures() -> None:
    model, plain = decoder("all", temperature="learned"), decoder("all")
    with torch.no_grad():
        model.blocks[0].attn.log_temperature.copy_(torch.tensor([log(h + 1.0) for h in range(6)]))
        base, found = cached(plain), cached(model)
    scores = torch.einsum("bihe,bjhe->bhij", base["hook_q"], base["hook_k"]) * 2**-0.5
    scores = scores * torch.arange(1.0, 7, dtype=torch.float64)[:, None, None]
    hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    torch.testing.assert_close(
        found["hook_pattern"], scores.masked_fill(hidden, -torch.inf).softmax(-1), atol=1e-6, rtol=0
    )
