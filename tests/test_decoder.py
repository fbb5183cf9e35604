"""The decoder's own axes against plain formulas, its hooks against TransformerLens, its files, and its export."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import gelu, normalize

from headscope.errors import ConfigError, ModelError, UnsupportedError
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.export import to_bridge
from headscope.models.decoder.saving import load_decoder, save_decoder

VOCAB, MODEL, HEADS, WIDTH, LENGTH, BATCH = 7, 12, 3, 4, 9, 2
HIDDEN = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)


def decoder(dtype: torch.dtype = torch.float64, **more: Any) -> Decoder:
    sizes = {"d_vocab": VOCAB, "n_ctx": 16, "n_heads": HEADS, "d_model": MODEL, "n_layers": 2}
    model = Decoder(DecoderConfig.parse(sizes | more)).to(dtype).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype))
    model.normalise_weights()
    return model


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randint(0, VOCAB, (BATCH, length), generator=torch.Generator().manual_seed(0))


def cached(model: Decoder) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(model.run_with_cache(tokens())[1])


def close(one: Tensor, other: Tensor, bound: float = 1e-9) -> None:
    torch.testing.assert_close(one, other, rtol=bound, atol=bound)


def gpt(weights: dict[str, Tensor], text: Tensor) -> Tensor:
    """A plain softmax decoder with RMS norms and MLPs, one example and head at a time."""

    def rms(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.w"]

    rows = []
    for example in text:
        stream = weights["W_E"][example]
        for block in ("blocks.0", "blocks.1"):
            x = rms(stream, f"{block}.ln1")
            for h in range(HEADS):
                query = x @ weights[f"{block}.attn.W_Q"][h]
                key, value = (x @ weights[f"{block}.attn.keys_values.{name}"][h] for name in ("W_K", "W_V"))
                pattern = (query @ key.mT / WIDTH**0.5).masked_fill(HIDDEN, -torch.inf).softmax(-1)
                stream = stream + pattern @ value @ weights[f"{block}.attn.W_O"][h]
            hidden = gelu(rms(stream, f"{block}.ln2") @ weights[f"{block}.mlp.W_in"])
            stream = stream + hidden @ weights[f"{block}.mlp.W_out"]
        rows.append(rms(stream, "ln_final") @ weights["W_U"])
    return torch.stack(rows)


def test_the_plain_decoder_is_a_transformer() -> None:
    model = decoder(d_mlp=8)
    with torch.no_grad():
        close(model(tokens()), gpt(model.state_dict(), tokens()))


def test_layer_norm_is_that_of_torch() -> None:
    model = decoder(norm="layer")
    cache, norm = cached(model), model.ln_final
    stream = cache["blocks.1.hook_resid_post"]
    wanted = torch.nn.functional.layer_norm(stream, (MODEL,), norm.w, norm.b, 1e-6).detach()
    with torch.no_grad():
        close(norm(stream), wanted)


def ngpt(model: Decoder, text: Tensor) -> Tensor:
    """Section 2.6 of arXiv 2410.01131, with gelu MLPs; every matrix a parameter of unit length."""
    w, d = {name: part.detach() for name, part in model.state_dict().items()}, MODEL

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True)

    stream = w["W_E"][text]
    for block in ("blocks.0", "blocks.1"):
        s_qk = w[f"{block}.attn.scale_qk.stored"] * d**0.5
        change = torch.zeros_like(stream)
        for h in range(HEADS):
            query = unit(stream @ w[f"{block}.attn.W_Q"][h]) * s_qk[h]
            key = unit(stream @ w[f"{block}.attn.keys_values.W_K"][h]) * s_qk[h]
            scores = WIDTH**0.5 * query @ key.mT
            pattern = scores.masked_fill(HIDDEN, -torch.inf).softmax(-1)
            change = change + pattern @ (stream @ w[f"{block}.attn.keys_values.W_V"][h]) @ w[f"{block}.attn.W_O"][h]
        step = (w[f"{block}.attn_step.size.stored"] * 0.05 * d**0.5).abs()
        stream = unit(stream + step * (unit(change) - stream))
        hidden = stream @ w[f"{block}.mlp.W_in"] * w[f"{block}.mlp.scale.stored"] * d**0.5
        step = (w[f"{block}.mlp_step.size.stored"] * 0.05 * d**0.5).abs()
        stream = unit(stream + step * (unit(gelu(hidden) @ w[f"{block}.mlp.W_out"]) - stream))
    return stream @ w["W_U"] * w["logit_scale.stored"] * d**0.5


def test_the_sphere_is_ngpt() -> None:
    model = decoder(block="sphere", d_mlp=8)
    with torch.no_grad():
        close(model(tokens()), ngpt(model, tokens()))


@pytest.mark.parametrize(
    "more", [{"d_mlp": 8}, {"heads": "switch"}, {"sharing": {"latent": 5, "latent_rope": 2}}], ids=str
)
def test_weights_on_the_sphere_are_unit_vectors_along_the_stream(more: dict[str, Any]) -> None:
    model = decoder(block="sphere", **more)
    wide = {
        name: part for name, part in model.named_parameters() if name.split(".")[-1].startswith("W_") and part.ndim > 1
    }
    for name, part in wide.items():
        if "select" in name:
            continue
        lengths = [part.norm(dim=axis) for axis in range(part.ndim)]
        assert any(torch.allclose(length, torch.ones_like(length)) for length in lengths), name
        assert MODEL in part.shape or "W_K" in name or "W_V" in name
    before = {name: part.clone() for name, part in model.state_dict().items()}
    model.normalise_weights()
    assert all(torch.allclose(part, before[name], atol=1e-12) for name, part in model.state_dict().items())


def test_the_stream_of_the_sphere_has_length_one() -> None:
    cache = cached(decoder(block="sphere", d_mlp=8, position="learned"))
    for name in ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.1.hook_resid_post"):
        close(cache[name].norm(dim=-1), torch.ones(BATCH, LENGTH, dtype=torch.float64))


def test_normalising_leaves_other_models_alone() -> None:
    model = decoder()
    before = {name: part.clone() for name, part in model.state_dict().items()}
    model.normalise_weights()
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())


@pytest.mark.parametrize("gate", ["head", "channel"])
@pytest.mark.parametrize("normed", [False, True], ids=["as-mixed", "output-norm"])
def test_z_is_normalised_and_gated_before_it_is_written(gate: str, normed: bool) -> None:
    model = decoder(output_gate=gate, output_norm=normed)
    cache, attn = cached(model), model.blocks[0].attn
    x = cache["blocks.0.ln1.hook_normalized"] * model.blocks[0].ln1.w
    for h in range(HEADS):
        z = cache["blocks.0.attn.hook_pattern"][:, h] @ cache["blocks.0.attn.hook_v"][:, :, h]
        if normed:
            z = z / (z.square().mean(-1, keepdim=True) + 1e-6).sqrt() * attn.output_norm.gain
        z = z * (1 / (1 + (-(x @ attn.gate[:, h])).exp()))
        close(cache["blocks.0.attn.hook_z"][:, :, h], z.detach())


def test_queries_and_keys_are_normalised() -> None:
    model = decoder(qk_norm=True)
    cache, attn = cached(model), model.blocks[0].attn
    x = cache["blocks.0.ln1.hook_normalized"] * model.blocks[0].ln1.w
    for name, weights, gain in (
        ("hook_q", attn.W_Q, attn.norm_q.gain),
        ("hook_k", attn.keys_values.W_K, attn.keys_values.norm_k.gain),
    ):
        raw = torch.einsum("btm,hme->bthe", x, weights)
        wanted = raw / (raw.square().mean(-1, keepdim=True) + 1e-6).sqrt() * gain
        close(cache[f"blocks.0.attn.{name}"], wanted.detach())


def test_the_length_sets_the_temperature() -> None:
    cache = cached(decoder(temperature="log_length"))
    scores = torch.einsum("bihe,bjhe->bhij", cache["blocks.0.attn.hook_q"], cache["blocks.0.attn.hook_k"]) / WIDTH**0.5
    for row in range(LENGTH):
        pattern = (scores[:, :, row, : row + 1] * log(row + 2) / log(17)).softmax(-1)
        close(cache["blocks.0.attn.hook_pattern"][:, :, row, : row + 1], pattern)


def test_a_model_is_a_function_of_its_seed_and_disturbs_no_generator() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (Decoder(DecoderConfig(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.W_E, same.W_E)
    assert not torch.equal(one.W_E, other.W_E)


def test_rows_are_those_of_all_logits() -> None:
    model, rows = decoder(), torch.tensor([0, 5, 8])
    with torch.no_grad():
        close(model(tokens(), rows=rows), model(tokens())[:, rows])
        close(model.unembed(model.stream(tokens())), model(tokens()))


def test_layers_may_have_mixers_of_their_own() -> None:
    model = decoder(mixer=("linear", "softmax"))
    assert [type(block.attn.mixer).__name__ for block in model.blocks] == ["Linear", "Softmax"]


@pytest.mark.parametrize("mixer", ["softmax", "linear"])
def test_long_texts_take_the_shorter_way_to_the_same_logits(mixer: str) -> None:
    model, text = decoder(mixer=mixer), tokens(300)
    mixer_of_layer, built = model.blocks[0].attn.mixer, list[int]()
    mix = mixer_of_layer.mix
    mixer_of_layer.mix = lambda given: (built.append(1), mix(given))[1]
    with torch.no_grad():
        short = model(text)
        assert built == ([] if mixer == "softmax" else [1])  # the linear mixer has no shorter way of its own
        dense = model.run_with_hooks(text, fwd_hooks=[("blocks.0.attn.hook_pattern", lambda m, hook: m)])  # noqa: ARG005
    close(short, dense, 1e-8)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"d_model": 10}, "no multiple of n_heads"),
        ({"mixer": ["softmax"] * 3}, "names 3 mixers for 2 layers"),
        ({"mixer": "sofmax"}, "Did you mean 'softmax'"),
        ({"block": "sphere", "qk_norm": True}, "leave qk_norm out"),
        ({"blocks": 1}, "there is no setting 'blocks'"),
    ],
)
def test_impossible_decoders_are_refused(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        decoder(**data)


# Hooks


def test_results_of_heads_add_up_to_what_the_layer_writes() -> None:
    model = decoder(output_gate="channel", mixer="linear")
    for block in model.blocks:
        block.attn.use_result = True
    cache = cached(model)
    for index in range(2):
        results = cache[f"blocks.{index}.attn.hook_result"]
        close(results.sum(2), cache[f"blocks.{index}.hook_attn_out"])
        z, W_O = cache[f"blocks.{index}.attn.hook_z"], model.blocks[index].attn.W_O
        close(results, torch.einsum("bthd,hdm->bthm", z, W_O).detach())


def test_the_stream_is_the_sum_of_what_was_written() -> None:
    cache = cached(decoder(d_mlp=8, position="sinusoidal"))
    total = cache["hook_embed"] + cache["hook_pos_embed"]
    for index in range(2):
        close(cache[f"blocks.{index}.hook_resid_pre"], total)
        total = total + cache[f"blocks.{index}.hook_attn_out"]
        close(cache[f"blocks.{index}.hook_resid_mid"], total)
        total = total + cache[f"blocks.{index}.hook_mlp_out"]
        close(cache[f"blocks.{index}.hook_resid_post"], total)


@pytest.mark.parametrize("mixer", ["softmax", "linear", "gated-linear"])
def test_an_edit_of_the_pattern_cuts_a_token_from_a_row(mixer: str) -> None:
    model = decoder(mixer=mixer, n_layers=1)
    matrices: list[Tensor] = []

    def cut(matrix: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        matrices.append(matrix)
        changed = matrix.clone()
        changed[:, 1, 6, 2] = 0
        return changed

    with torch.no_grad():
        base, before = cached(model), model(tokens())
        after = model.run_with_hooks(tokens(), fwd_hooks=[("blocks.0.attn.hook_pattern", cut)])
        stream = base["blocks.0.hook_resid_post"].clone()
        weight, value = matrices[0][:, 1, 6, 2], base["blocks.0.attn.hook_v"][:, 2, 1]
        stream[:, 6] -= weight[:, None] * value @ model.blocks[0].attn.W_O[1]
        close(after, model.unembed(stream))
        close(after[:, [5, 7]], before[:, [5, 7]])


def test_a_pattern_for_each_channel_can_be_cut_in_one_channel() -> None:
    model = decoder(mixer="mamba", n_layers=1)
    shape = cached(model)["blocks.0.attn.hook_pattern"].shape
    assert shape == (BATCH, HEADS, WIDTH, LENGTH, LENGTH)

    def cut(matrix: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        changed = matrix.clone()
        changed[:, 0, 3] = 0
        return changed

    found: list[Tensor] = []
    hooks = [("blocks.0.attn.hook_pattern", cut), ("blocks.0.attn.hook_z", lambda z, hook: found.append(z))]  # noqa: ARG005
    with torch.no_grad():
        base = cached(model)["blocks.0.attn.hook_z"].clone()
        model.run_with_hooks(tokens(), fwd_hooks=hooks)
    assert float(base[:, :, 0, 3].abs().max()) > 0
    base[:, :, 0, 3] = 0
    close(found[0], base)


def test_edits_of_scores_come_before_the_weights() -> None:
    model = decoder()
    edit = ("blocks.0.attn.hook_attn_scores", lambda scores, hook: scores * 0)  # noqa: ARG005
    found: list[Tensor] = []
    keep = ("blocks.0.attn.hook_pattern", lambda matrix, hook: found.append(matrix))  # noqa: ARG005
    with torch.no_grad():
        model.run_with_hooks(tokens(), fwd_hooks=[edit, keep])
    even = torch.ones(LENGTH, LENGTH, dtype=torch.float64).tril() / torch.arange(1.0, LENGTH + 1)[:, None]
    close(found[0], even.expand_as(found[0]))


def test_hooks_end_with_their_block() -> None:
    model = decoder()
    with torch.no_grad():
        before = model(tokens())
        with model.hooks(fwd_hooks=[("blocks.0.attn.hook_z", lambda z, hook: z * 0)]):  # noqa: ARG005
            assert not torch.allclose(model(tokens()), before)
        assert torch.equal(model(tokens()), before)
    assert all(not point.fwd_hooks and not point.bwd_hooks for point in model.hook_dict.values())


# Export

EXPORTED: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned-mlp": {"position": "learned", "norm": "layer", "d_mlp": 8},
    "sinusoidal": {"position": "sinusoidal"},
    "rope-linear": {"position": "rope", "mixer": "linear", "d_mlp": 8},
    "alibi-gqa": {"position": "alibi", "n_heads": 4, "sharing": {"key_heads": 2, "value_heads": 2}},
    "conv-norms-gate": {"conv": 3, "qk_norm": True, "output_norm": True, "output_gate": "channel"},
    "cope-temperature": {"position": "cope", "temperature": "learned"},
    "other-answers": {"d_output": 3},
    "both-ways": {"causal": False, "position": "t5"},
}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_bridge_has_the_same_logits_and_the_same_pattern_to_edit(name: str) -> None:
    model = decoder(torch.float32, **EXPORTED[name])
    bridge = to_bridge(model)

    def edit(matrix: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return matrix * torch.linspace(0, 2, LENGTH)

    with torch.no_grad():
        before = model(tokens())
        close(bridge(tokens()), before, 1e-4)
        for index in range(2):
            hooks = [(f"blocks.{index}.attn.hook_pattern", edit)]
            after = model.run_with_hooks(tokens(), fwd_hooks=hooks)
            assert not torch.allclose(after, before, atol=1e-2)
            close(bridge.run_with_hooks(tokens(), fwd_hooks=hooks), after, 1e-4)


@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("d_mlp", [0, 8])
def test_hooks_have_the_names_shapes_and_numbers_of_transformer_lens(norm: str, d_mlp: int) -> None:
    model = decoder(torch.float32, position="learned", norm=norm, d_mlp=d_mlp)
    ours = cached(model)
    with torch.no_grad():
        theirs = dict(to_bridge(model).run_with_cache(tokens())[1])
    assert set(ours) <= set(theirs)
    usual = {"hook_resid_pre", "ln1.hook_scale", "attn.hook_q", "attn.hook_pattern", "attn.hook_z", "hook_resid_post"}
    assert {f"blocks.0.{name}" for name in usual} | {"hook_embed", "ln_final.hook_normalized"} <= set(ours)
    for name, part in ours.items():
        if not name.endswith("hook_attn_scores"):  # which of a native bridge is a copy of the pattern
            close(theirs[name], part, 1e-4)


def test_the_bridge_is_a_copy() -> None:
    model = decoder(torch.float32)
    bridge = to_bridge(model)
    with torch.no_grad():
        before = bridge(tokens())
        for parameter in model.parameters():
            parameter.zero_()
        close(bridge(tokens()), before)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"d_input": 5}, "reads vectors in place of tokens"),
        ({"block": "sphere"}, "move on the sphere"),
        ({"heads": "switch"}, "mixed by 'switch'"),
        ({"sharing": {"layers": 2}}, "layers share"),
        ({"sharing": {"latent": 4}}, "latent vector"),
        ({"sharing": {"source": "embedding"}}, "from the embedding"),
        ({"value_residual": "learned"}, "values depend on those of the first layer"),
        ({"position": {"kind": "rope", "randomised": 32}}, "positions are drawn"),
        ({"sharing": {"key_heads": 1}}, "different numbers of heads"),
        ({"d_key": 8}, "d_key is not d_head"),
        ({"mixer": "mamba"}, "no single matrix for each head"),
    ],
)
def test_what_a_bridge_cannot_express_is_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        to_bridge(decoder(torch.float32, **more))


# Files

SAVED: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {
        "mixer": ("linear", "softmax"),
        "position": {"kind": "rope", "settings": {"base": 50.0}, "randomised": 40},
        "sharing": {"key_heads": 1, "layers": 2},
        "heads": {"kind": "moh", "settings": {"shared": 1, "top_k": 1}},
        "conv": 2,
        "qk_norm": True,
        "output_gate": "head",
        "d_mlp": 8,
    },
    "sphere": {"block": "sphere", "position": "alibi"},
}


@pytest.mark.parametrize("name", SAVED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_file_gives_the_model_back(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    model = decoder(dtype, **SAVED[name])
    file = save_decoder(model, tmp_path / "some" / "model.safetensors")
    loaded = load_decoder(file)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.W_E.dtype == dtype
    with torch.no_grad():
        assert torch.equal(loaded(tokens()), model(tokens()))
    assert [path.name for path in file.parent.iterdir()] == ["model.safetensors"]


def test_a_folder_will_do(tmp_path: Path) -> None:
    model = decoder()
    assert save_decoder(model, tmp_path / "model").name == "decoder.safetensors"
    with torch.no_grad():
        assert torch.equal(load_decoder(tmp_path / "model")(tokens()), model(tokens()))


def test_bfloat16_takes_half_the_space(tmp_path: Path) -> None:
    model = decoder(torch.float32, d_mlp=512)
    whole = save_decoder(model, tmp_path / "whole.safetensors").stat().st_size
    half = save_decoder(model, tmp_path / "half.safetensors", bf16=True)
    assert half.stat().st_size < 0.6 * whole
    loaded = load_decoder(half)
    assert torch.equal(loaded.W_U, model.W_U.bfloat16().float())


def damaged(tmp_path: Path, what: str) -> Path:
    """A file that is wrong in one way."""
    model, file = decoder(torch.float32), tmp_path / "model.safetensors"
    tensors = {name: part.clone() for name, part in model.state_dict().items()}
    config = json.loads(model.config.model_dump_json())
    if what == "cut":
        file.write_bytes(save_decoder(model, tmp_path / "good.safetensors").read_bytes()[:-100])
        return file
    if what == "text":
        file.write_text("not a model")
        return file
    changes: dict[str, Any] = {
        "missing": lambda: tensors.pop("W_U"),
        "extra": lambda: tensors.update(more=torch.zeros(1)),
        "shape": lambda: tensors.update(W_U=torch.zeros(3, 3)),
        "unknown-mixer": lambda: config.update(mixer=[{"kind": "sofmax", "settings": {}}]),
        "unknown-position": lambda: config.update(position={"kind": "rpe"}),
        "unknown-setting": lambda: config.update(colour="red"),
    }
    changes.get(what, lambda: None)()
    metadata = {"format": "headscope-decoder-1", "config": json.dumps(config)}
    if what == "other":
        metadata = {"format": "pt"}
    if what == "no-json":
        metadata["config"] = "{"
    save_file(tensors, file, metadata=metadata)
    return file


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("cut", "cannot be read as a decoder"),
        ("text", "cannot be read as a decoder"),
        ("other", "holds no decoder of Headscope"),
        ("no-json", "cannot be read as a decoder"),
        ("missing", "W_U is missing"),
        ("extra", "more is not known"),
        ("shape", r"W_U .* has shape \(3, 3\) and not \(12, 7\)"),
        ("unknown-mixer", "make no decoder: .*Did you mean 'softmax'"),
        ("unknown-position", "make no decoder: no position encoding"),
        ("unknown-setting", "make no decoder: there is no setting 'colour'"),
    ],
)
def test_a_file_that_is_no_decoder_is_refused(tmp_path: Path, what: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_decoder(damaged(tmp_path, what))


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no decoder at"):
        load_decoder(tmp_path / "nothing")
    with pytest.raises(ModelError, match="there is no decoder at"):
        load_decoder(tmp_path)


def test_the_sphere_is_kept_by_steps_that_normalise() -> None:
    model = decoder(block="sphere")
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        model(tokens()).log_softmax(-1)[..., 3].mean().neg().backward()
        optimizer.step()
        model.normalise_weights()
    close(normalize(model.W_E, dim=1).detach(), model.W_E.detach())
    close(model.blocks[1].attn.W_O.norm(dim=2).detach(), torch.ones(HEADS, WIDTH, dtype=torch.float64))
