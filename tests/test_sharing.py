"""Sharing of keys and values: plain formulas, what equals what, and what a token-by-token decoding really keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import rms_norm
from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from headscope.errors import ConfigError
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from headscope.models.decoder.mixing_layer import MixingLayer
from headscope.models.decoder.sharing import Earlier, ProjectedKeysValues

MODEL, LENGTH, BATCH, HEADS = 12, 10, 2, 4


def decoder(n_layers: int = 1, **more: Any) -> Decoder:
    sizes = {"d_vocab": 7, "n_ctx": 16, "n_heads": HEADS, "d_model": MODEL, "n_layers": n_layers}
    model = Decoder(DecoderConfig.parse(sizes | more)).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.1 * noise)  # gains and mixes leave their first values
    return model


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(0, 7, (BATCH, LENGTH), generator=torch.Generator().manual_seed(seed))


def layer(model: Decoder, index: int = 0) -> MixingLayer:
    found = model.blocks[index].attn
    assert isinstance(found, MixingLayer)
    return found


def maker(model: Decoder, index: int = 0) -> ProjectedKeysValues:
    found = layer(model, index).keys_values
    assert found is not None
    return found


def activations(model: Decoder) -> Any:
    with torch.no_grad():
        return model.run_with_cache(tokens())[1]


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def stream_of(model: Decoder, cache: Any, index: int) -> Tensor:
    return cache[f"blocks.{index}.ln1.hook_normalized"] * model.blocks[index].ln1.w


@pytest.mark.parametrize(
    ("key_heads", "value_heads"),
    [(1, 1), (2, 2), (1, 2), (1, 4), (4, 2), (4, 4)],
    ids=["mqa", "gqa", "diffqkv", "one-key", "two-values", "all"],
)
def test_head_h_reads_its_group(key_heads: int, value_heads: int) -> None:
    model = decoder(sharing={"key_heads": key_heads, "value_heads": value_heads}, d_key=5)
    cache, made = activations(model), maker(model)
    x = stream_of(model, cache, 0)
    for head in range(HEADS):
        close(cache["blocks.0.attn.hook_k"][:, :, head], x @ made.W_K[head // (HEADS // key_heads)])
        close(cache["blocks.0.attn.hook_v"][:, :, head], x @ made.W_V[head // (HEADS // value_heads)])
    assert made.W_K.shape == (key_heads, MODEL, 5)
    assert made.W_V.shape == (value_heads, MODEL, MODEL // HEADS)


def test_heads_that_share_equal_heads_with_the_same_weights() -> None:
    shared, own = (
        decoder(sharing={"key_heads": 2, "value_heads": 1}, conv=3, qk_norm=True),
        decoder(conv=3, qk_norm=True),
    )
    weights = shared.state_dict()
    for name in ("W_K", "W_V", "conv_k.filter", "conv_v.filter"):
        path = f"blocks.0.attn.keys_values.{name}"
        groups = 2 if name in ("W_K", "conv_k.filter") else 1
        parts = weights[path].unflatten(0, (groups, -1))
        weights[path] = parts.repeat_interleave(HEADS // groups, 0).flatten(0, 1)
    own.load_state_dict(weights)
    with torch.no_grad():
        close(own(tokens()), shared(tokens()))


@pytest.mark.parametrize("layers", [2, 3])
def test_layers_share_with_the_first_of_their_group(layers: int) -> None:
    model = decoder(n_layers=5, sharing={"layers": layers}, conv=3, qk_norm=True)
    cache = activations(model)
    for index in range(5):
        leader = index - index % layers
        for name in ("hook_k", "hook_v"):
            close(cache[f"blocks.{index}.attn.{name}"], cache[f"blocks.{leader}.attn.{name}"])
        assert (layer(model, index).keys_values is None) == (index != leader)
    first, second = cache["blocks.0.attn.hook_k"], cache[f"blocks.{layers}.attn.hook_k"]
    assert float((first - second).abs().max()) > 0.1, "groups have keys of their own"


def test_shared_keys_are_convolved_and_normalised_once() -> None:
    model = decoder(n_layers=2, sharing={"layers": 2}, conv=3, qk_norm=True)
    cache, made = activations(model), maker(model)
    raw = torch.einsum("btm,gme->btge", stream_of(model, cache, 0), made.W_K)
    assert made.conv_k is not None
    assert made.norm_k is not None
    filters = made.conv_k.filter.unflatten(0, (HEADS, -1))
    convolved = torch.zeros_like(raw)
    for t in range(LENGTH):
        for back in range(min(3, t + 1)):
            convolved[:, t] += raw[:, t - back] * filters[..., 2 - back]
    wanted = convolved / (convolved.square().mean(-1, keepdim=True) + 1e-6).sqrt() * made.norm_k.gain
    close(cache["blocks.1.attn.hook_k"], wanted)


def test_a_layer_cannot_share_keys_with_one_that_makes_none() -> None:
    with pytest.raises(
        ConfigError, match="'softmax' reads keys, and the mixer 'rg-lru', whose layer it shares, makes none"
    ):
        decoder(n_layers=2, mixer=("rg-lru", "softmax"), sharing={"layers": 2})


def test_latent_keys_and_values_come_from_one_vector() -> None:
    model = decoder(sharing={"latent": 5, "latent_rope": 2}, d_key=6)
    cache, made = activations(model), maker(model)
    x = stream_of(model, cache, 0)
    latent = rms_norm(x @ made.W_latent, (5,), made.latent_norm.gain, 1e-6)
    for head in range(HEADS):
        key = torch.cat([x @ made.W_KR, latent @ made.W_K[head]], -1)
        close(cache["blocks.0.attn.hook_k"][:, :, head], key)
        close(cache["blocks.0.attn.hook_v"][:, :, head], latent @ made.W_V[head])


def test_mla_is_that_of_deepseek() -> None:
    rope, content, latent, width = 4, 3, 5, MODEL // HEADS
    theirs_config = DeepseekV3Config(
        hidden_size=MODEL, num_attention_heads=HEADS, num_key_value_heads=HEADS, q_lora_rank=None, kv_lora_rank=latent,
        qk_rope_head_dim=rope, qk_nope_head_dim=content, v_head_dim=width, rope_interleave=False,
        attn_implementation="eager", max_position_embeddings=64, attention_dropout=0.0,
    )  # fmt: skip
    position = {"kind": "rope", "settings": {"fraction": rope / (rope + content)}}
    model = decoder(d_key=rope + content, sharing={"latent": latent, "latent_rope": rope}, position=position)
    ours, made = layer(model), maker(model)
    theirs = DeepseekV3Attention(theirs_config, 0).double().eval()
    with torch.no_grad():
        content_first = torch.cat([ours.W_Q[..., rope:], ours.W_Q[..., :rope]], -1)
        theirs.q_proj.weight.copy_(content_first.permute(0, 2, 1).flatten(0, 1))
        theirs.kv_a_proj_with_mqa.weight.copy_(torch.cat([made.W_latent, made.W_KR], 1).mT)
        theirs.kv_a_layernorm.weight.copy_(made.latent_norm.gain)
        theirs.kv_b_proj.weight.copy_(torch.cat([made.W_K, made.W_V], -1).permute(0, 2, 1).flatten(0, 1))
        theirs.o_proj.weight.copy_(ours.W_O.flatten(0, 1).mT)
        x = torch.randn(BATCH, LENGTH, MODEL, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        places = DeepseekV3RotaryEmbedding(theirs_config)(x, torch.arange(LENGTH)[None])
        mask = torch.full((LENGTH, LENGTH), -torch.inf, dtype=torch.float64).triu(1)[None, None]
        wanted = theirs(x, places, mask)[0]
        torch.testing.assert_close(ours(x, Earlier()), wanted, rtol=1e-5, atol=1e-5)  # their angles are float32


def test_keys_from_the_embedding_forget_the_layers_below() -> None:
    model = decoder(n_layers=3, sharing={"source": "embedding"}, position="learned", d_mlp=8)
    cache = activations(model)
    embedding = cache["blocks.0.hook_resid_pre"]
    for index in range(3):
        made = maker(model, index)
        x = rms_norm(embedding, (MODEL,), made.source_norm.gain, 1e-6)
        close(cache[f"blocks.{index}.attn.hook_k"], torch.einsum("btm,hme->bthe", x, made.W_K))
        close(cache[f"blocks.{index}.attn.hook_v"], torch.einsum("btm,hme->bthe", x, made.W_V))


def test_values_are_mixed_with_those_of_the_first_layer() -> None:
    model = decoder(n_layers=3, value_residual="learned", conv=2)
    cache = activations(model)
    first = cache["blocks.0.attn.hook_v"]
    for index in (1, 2):
        made, mix = maker(model, index), layer(model, index).value_mix
        own = torch.einsum("btm,hmd->bthd", stream_of(model, cache, index), made.W_V)
        own = made.conv_v(own)
        close(cache[f"blocks.{index}.attn.hook_v"], mix[0] * first + mix[1] * own)
    with torch.no_grad():
        alone = decoder(n_layers=3, conv=2)
        for index in (1, 2):
            layer(model, index).value_mix.copy_(torch.tensor([0.0, 1.0]))
        alone.load_state_dict({name: part for name, part in model.state_dict().items() if "value_mix" not in name})
        close(model(tokens()), alone(tokens()))


def test_svformer_has_the_values_of_the_first_layer_only() -> None:
    model = decoder(n_layers=3, value_residual="first", conv=2)
    cache = activations(model)
    for index in (1, 2):
        close(cache[f"blocks.{index}.attn.hook_v"], cache["blocks.0.attn.hook_v"])
        assert maker(model, index).W_V is None
        assert maker(model, index).conv_v is None


SHARING: dict[str, dict[str, Any]] = {
    "plain": {},
    "conv": {"conv": 3},
    "mqa": {"sharing": {"key_heads": 1, "value_heads": 1}},
    "gqa-conv-norm": {"sharing": {"key_heads": 2, "value_heads": 2}, "conv": 4, "qk_norm": True},
    "diffqkv": {"sharing": {"key_heads": 1, "value_heads": 2}, "d_key": 7},
    "cla": {"sharing": {"layers": 2}, "conv": 3},
    "mlkv": {"sharing": {"layers": 3, "key_heads": 1, "value_heads": 1}},
    "mla": {"sharing": {"latent": 5}, "conv": 3},
    "mla-rope": {"sharing": {"latent": 5, "latent_rope": 2}, "d_key": 6},
    "inattention": {"sharing": {"source": "embedding"}, "conv": 3},
    "resformer": {"value_residual": "learned"},
    "svformer": {"value_residual": "first", "conv": 3, "sharing": {"key_heads": 2}},
}


class Decoding:
    """Reads a text token by token, keeping as little as it can: tensors in `kept`, by name."""

    def __init__(self, model: Decoder) -> None:
        self.model, self.config = model, model.config
        self.kept: dict[str, Tensor] = {}

    @property
    def size(self) -> int:
        return sum(part.numel() for part in self.kept.values())

    def append(self, name: str, token: Tensor) -> Tensor:
        self.kept[name] = torch.cat([self.kept[name], token], 1) if name in self.kept else token
        return self.kept[name]

    def convolved(self, name: str, part: Any, token: Tensor) -> Tensor:
        """One token of a convolution, which keeps the tokens before it."""
        if part is None:
            return token
        width = part.filter.shape[1]
        window = self.kept.get(name, token.new_zeros(1, width - 1, *token.shape[2:]))
        window = torch.cat([window, token], 1)
        self.kept[name] = window[:, 1:]
        return torch.einsum("bwgd,gdw->bgd", window, part.filter.unflatten(0, token.shape[2:]))[:, None]

    def keys_values(self, index: int, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Keys and values of all tokens so far, of one layer, and the value of this token where values are kept."""
        made, config = maker(self.model, index), self.config
        if config.sharing.source == "embedding" or config.sharing.latent is not None:
            if config.sharing.latent is not None:
                rope = [] if made.W_KR is None else [x @ made.W_KR]
                latent = made.latent_norm(x @ made.W_latent)
                held = self.append(f"{index} latent", torch.cat([latent, *rope], -1))
                source, rope_part = held.split([config.sharing.latent, held.shape[-1] - config.sharing.latent], -1)
            else:
                source, rope_part = made.source_norm(self.kept["embedding"]), x[..., :0]
            key = torch.einsum("btm,gme->btge", source, made.W_K)
            key = (
                torch.cat([rope_part[:, :, None].expand(*key.shape[:3], -1), key], -1) if made.W_KR is not None else key
            )
            value = torch.einsum("btm,gmd->btgd", source, made.W_V)
            key = key if made.conv_k is None else made.conv_k(key)
            return key, value if made.conv_v is None else made.conv_v(value), None
        key = torch.einsum("btm,gme->btge", x, made.W_K)
        key = self.convolved(f"{index} conv k", made.conv_k, key)
        key = self.append(f"{index} key", key if made.norm_k is None else made.norm_k(key))
        if made.W_V is None:
            return key, None, None
        value = self.convolved(f"{index} conv v", made.conv_v, torch.einsum("btm,gmd->btgd", x, made.W_V))
        mix = layer(self.model, index).value_mix
        value = value if mix is None or first is None else mix[0] * first + mix[1] * value
        return key, self.append(f"{index} value", value), value

    def next(self, token: Tensor) -> Tensor:
        """Logits after one more token."""
        model, config = self.model, self.config
        stream = model.W_E[token]
        if config.sharing.source == "embedding":
            self.append("embedding", stream)
        first = first_all = None
        for index in range(config.n_layers):
            attn = layer(model, index)
            x = model.blocks[index].ln1(stream)
            if index % config.sharing.layers == 0:
                key, value, newest = self.keys_values(index, x, first)
                first, first_all = (newest, value) if index == 0 else (first, first_all)
                value = first_all if value is None else value
            query = self.convolved(f"{index} conv q", attn.conv_q, torch.einsum("btm,hme->bthe", x, attn.W_Q))
            query = query if attn.norm_q is None else attn.norm_q(query)
            keys, values = (part.repeat_interleave(HEADS // part.shape[2], 2) for part in (key, value))
            weights = (torch.einsum("bqhe,bkhe->bhqk", query, keys) * attn.scale).softmax(-1)
            stream = stream + torch.einsum("bhqk,bkhd,hdm->bqm", weights, values, attn.W_O)
        return model.unembed(stream)


@pytest.mark.parametrize("name", SHARING)
def test_state_size_is_what_decoding_keeps(name: str) -> None:
    model = decoder(n_layers=4, **SHARING[name])
    text = tokens()[:1]
    decoding, rows = Decoding(model), []
    with torch.no_grad():
        for at in range(LENGTH):
            rows.append(decoding.next(text[:, at : at + 1]))
            assert decoding.size == model.state_size(at + 1), f"after {at + 1} tokens"
        close(torch.cat(rows, 1), model(text))


def test_a_recurrence_keeps_one_state_for_each_pair_of_key_and_value() -> None:
    kept = {
        name: decoder(mixer={"kind": "linear", "settings": {"normalise": False}}, **SHARING[name]).state_size(99)
        for name in ("plain", "mqa", "conv")
    }
    width = MODEL // HEADS
    assert kept == {"plain": HEADS * width**2, "mqa": width**2, "conv": HEADS * width**2 + 3 * MODEL * 2}


@pytest.mark.parametrize(
    ("sharing", "said"),
    [
        ({"key_heads": 3}, "does not divide n_heads"),
        ({"latent_rope": 2}, "goes with a latent only"),
        ({"latent": 4, "latent_rope": 3}, "leaves nothing of d_key"),
        ({"latent": 4, "source": "embedding"}, "goes with source 'stream' only"),
    ],
)
def test_impossible_sharing_is_refused(sharing: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        decoder(sharing=sharing)


@pytest.mark.parametrize("name", SHARING)
def test_every_parameter_of_every_layer_is_trained(name: str) -> None:
    model = decoder(n_layers=4, **SHARING[name])
    model(tokens()).log_softmax(-1)[..., 3].mean().backward()
    assert [path for path, part in model.named_parameters() if part.grad is None or not part.grad.abs().max() > 0] == []
