"""What decoding keeps: keys and values that heads and layers share, and the formulas of the registry."""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction
from math import ceil, floor
from typing import Any

import pytest
import torch
from torch import Tensor

from headscope.mixers.building import build_mixer
from headscope.mixers.interface import Mixer, MixerInput, MixerShape, State
from headscope.mixers.registry import Variant, variant
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder
from tests.mixer_cases import HEADS, MODEL, built, with_one_mixer

LENGTH = 21
BY_CHANCE = {  # a state of its own in which a single token still looks as it came
    "path": ["key"],  # the newest key is not yet reflected
    "path-fox": ["key"],
    "delta-former": ["value"],  # the first token takes nothing out
    "longvq": ["value"],  # the mean of one
}


def name(entry: Variant) -> str:
    return entry.name


def decoding(entry: Variant) -> bool:
    model = DecoderConfig.parse({"causal": entry.causal} | dict(entry.config))
    mixer = build_mixer(model.mixer[0].kind, MixerShape(2, 8, 8, 16, 32), model.mixer[0].settings)
    return mixer.decodes and entry.causal and "sharing" not in entry.config


def read(mixer: Mixer, given: MixerInput) -> State:
    """The state after the whole text."""
    state = mixer.start(given.token(0))
    for at in range(given.query.shape[2]):
        _, state = mixer.step(state, given.token(at))
    return state


def vectors(state: State) -> list[Tensor]:
    """The state in pieces along its last axis, without pieces of one number."""
    found = list[Tensor]()
    for part in state.values():
        if part.ndim > 1 and part.is_floating_point() and part.shape[-1] > 1:
            found += list(part.reshape(-1, part.shape[-1]))
    return found


class Raw:
    """The keys and values that a layer was given, to be found again in a state."""

    def __init__(self, entry: Variant, given: MixerInput) -> None:
        self.token = {
            vector.numpy().tobytes(): at
            for name in {"key", "value"} - set(BY_CHANCE.get(entry.name, ()))
            for part in (getattr(given, name),)
            for at in range(part.shape[2])
            for vector in part[0, :, at]
        }

    def in_state(self, state: State) -> dict[bytes, int]:
        """Bytes of each key or value that the state holds, and its token."""
        found = {vector.numpy().tobytes() for vector in vectors(state)}
        return {one: at for one, at in self.token.items() if one in found}


def layers_of(entry: Variant, **sharing: Any) -> tuple[Decoder, list[MixerInput]]:
    """A decoder of two layers, and what both mixers were called with on one text."""
    sizes = {"d_vocab": 400, "d_model": MODEL, "n_heads": HEADS, "n_ctx": LENGTH + 1, "n_layers": 2}
    plain = {"conv": 0, "sharing": sharing}
    model = Decoder(DecoderConfig.parse(sizes | dict(entry.config) | plain)).double().eval()
    called = list[MixerInput]()
    for layer in model.mixing_layers:
        layer.mixed = lambda given: called.append(given) or torch.zeros_like(given.value)
    model(torch.arange(LENGTH)[None] * 17)
    return model, called


@pytest.mark.parametrize("entry", [entry for entry in with_one_mixer() if decoding(entry)], ids=name)
def test_layers_that_share_keep_keys_and_values_once(entry: Variant) -> None:
    with torch.no_grad():
        model, (first, second) = layers_of(entry, layers=2)
        states = [read(layer.mixer, given) for layer, given in zip(model.mixing_layers, (first, second), strict=True)]
    kept = [Raw(entry, given).in_state(state) for given, state in zip((first, second), states, strict=True)]
    twice = sum(len(one) // 8 for one in kept[0].keys() & kept[1].keys())
    held = sum(part.numel() for state in states for part in state.values())
    assert model.state_size(LENGTH) == held - twice


@pytest.mark.parametrize("entry", [entry for entry in with_one_mixer() if decoding(entry)], ids=name)
def test_a_latent_is_kept_in_place_of_the_keys_and_values_made_of_it(entry: Variant) -> None:
    with torch.no_grad():
        model, called = layers_of(entry, latent=3)
        held = 0
        for layer, given in zip(model.mixing_layers, called, strict=True):
            state = read(layer.mixer, given)
            raw = Raw(entry, given).in_state(state)
            held += sum(part.numel() for part in state.values()) - sum(len(one) // 8 for one in raw)
            held += 3 * len(set(raw.values()))
    assert model.state_size(LENGTH) == held


def shared(kind: str, key_heads: int, value_heads: int) -> tuple[Mixer, State]:
    """A variant for four heads that share keys and values, and its state after a text; no two weights are alike."""
    choice = DecoderConfig.parse(dict(variant(kind).config)).mixer[0]
    torch.manual_seed(0)
    shape = MixerShape(4, 4, 4, 8, LENGTH + 1, key_heads=key_heads, value_heads=value_heads)
    mixer = build_mixer(choice.kind, shape, choice.settings).double()
    key, value = (
        torch.randn(1, heads, LENGTH, 4).double().repeat_interleave(4 // heads, 1) for heads in (key_heads, value_heads)
    )
    with torch.no_grad():
        for weight in mixer.parameters():
            weight.normal_()
        gates = mixer.gates(torch.randn(1, LENGTH, 8).double())
        return mixer, read(mixer, MixerInput(torch.randn(1, 4, LENGTH, 4).double(), key, value, gates))


SHARED = [
    "sliding-window",
    "moa-spans",
    "fit",
    "tglobal",
    "compensated-heads",
    "hourglass",
    "combiner",
    "mean-pool",
    "base-conv",
    "mambaout",
    "h3",
    "metamixer",
    "megalodon",
    "rwkv-perspectives",
    "dynamic-token-pooling",
    "titans-mac",
    "titans-mag",
    "recurrent-memory",
    "dsa",
    "recycled",
    "longheads",
]


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize(("key_heads", "value_heads"), [(1, 1), (2, 1), (1, 2)])
def test_heads_that_share_keep_keys_and_values_once(kind: str, key_heads: int, value_heads: int) -> None:
    mixer, state = shared(kind, key_heads, value_heads)
    pieces = vectors(state)
    single = sum(part.numel() for part in state.values()) - sum(len(piece) for piece in pieces)
    once = {piece.numpy().tobytes(): len(piece) for piece in pieces}
    assert mixer.state_size(LENGTH) == single + sum(once.values())


SUMMED = [
    "linear",
    "cosformer",
    "based",
    "rebased",
    "taylor-shift",
    "performer",
    "hedgehog",
    "gla",
    "mamba2",
    "retention",
    "delta",
    "gated-delta",
    "rwkv7",
    "latte",
    "infini",
    "flowformer",
    "lmu",
    "s4",
    "longvq",
]


@pytest.mark.parametrize("kind", SUMMED)
@pytest.mark.parametrize(("key_heads", "value_heads"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_heads_that_share_keep_once_what_their_sums_have_in_common(kind: str, key_heads: int, value_heads: int) -> None:
    mixer, state = shared(kind, key_heads, value_heads)
    parts = [
        [piece.numpy().tobytes() for piece in part.unbind(1)] if part.ndim > 1 else [b""] for part in state.values()
    ]
    sizes = [part[:, 0].numel() if part.ndim > 1 else part.numel() for part in state.values()]
    assert mixer.state_size(LENGTH) == sum(len(set(part)) * size for part, size in zip(parts, sizes, strict=True))


def test_a_layer_keeps_what_the_one_it_shares_with_does_not() -> None:
    config = {"n_layers": 2, "sharing": {"layers": 2}, "n_ctx": 32, "d_model": MODEL, "n_heads": HEADS}
    window = {"kind": "masked", "settings": {"patterns": [[{"kind": "window", "size": 8}]]}}
    cells = 2 * MODEL
    for mixers, kept in [
        (["softmax", window], [LENGTH * cells, 1]),
        ([window, "softmax"], [7 * cells + 1, (LENGTH - 7) * cells]),
        (["delta", "softmax"], [MODEL * MODEL // HEADS, LENGTH * cells]),
    ]:
        model = Decoder(DecoderConfig.parse(config | {"mixer": mixers}))
        assert [layer.state_size(LENGTH) for layer in model.mixing_layers] == kept


FUNCTIONS: dict[str, Any] = {"floor": floor, "ceil": ceil, "min": min, "ones": int.bit_count}
OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda one, other: Fraction(one) / other,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
IN_WORDS = {"longnet", "lsg"}  # what later rows can see of such masks has no short formula
WINDOW = {"w": 8, "n": 2, "g": 1}
SYMBOLS: dict[str, dict[str, Any]] = {
    "combiner": {"c": 4},
    "longheads": {"c": 4},
    "dsa": {"r": 2},
    "moa-spans": {"n": 1, "a_h": [4, 2], "b_h": [0, Fraction(1, 2)]},
    "recycled": {"k": 4},
    "head-windows": {"n": 1, "w_h": [4, 12]},
    "sparse-strided": {"l": 4},
    "sparse-fixed": {"l": 4, "c": 1},
    "dilated-window": {"w": 4, "d": 3},
    "longformer": {"g": 1, "w": 4, "d_h": [1, 2]},
    "halonet": {"b": 4, "h": 3},
    "shifted-groups": {"g": 8, "n": 2, "s_h": [0, 4]},
    "staggered-blocks": {"b": 8, "g": 1},
    "tglobal": {"b": 4, "w": 4},
    "fit": {"b": 4, "latents": 2},
    "context-compression": {"b": 8, "latents": 2},
    "tcnca": {"c": 8},
    "full-and-streaming-heads": {"n": 1, "w": 4},
    "compensated-heads": {"full": 1, "n": 1, "w": 4},
    "segment-window": {"b": 8},
    "performer": {"F": 32},
    "rfa": {"F": 32},
    "rfa-gate": {"F": 32},
    "latte": {"L": 20},
    "longvq": {"S": 16},
    "gsa": {"m": 8},
    "abc": {"m": 8},
    "titans-mac": {"s": 8},
    "mamba": {"N": 16},
    "mamba-plain": {"N": 16},
    "decimamba": {"N": 16},
    "longhorn": {"N": 16},
    "samba": {"N": 20},
    "rwkv-perspectives": {"P": 3},
    "h3": {"N": 8, "shift": 4},
    "laughing-hyena": {"N": 4},
    "s4d": {"N": 8},
    "s4": {"N": 8},
    "lmu": {"N": 8},
    "cema": {"N": 4},
    "megalodon": {"N": 4, "chunk": 8},
    "attamba": {"chunk": 4},
    "hourglass": {"stride": 2},
    "mla": {"latent": 8, "rope": 2},
    "gqa": {"G": 2},
    "diffqkv": {"G_k": 1, "G_v": 2},
}
SEGMENTS = {"segment": 8, "memory": 8, "slots": 2}


def parsed(formula: str) -> ast.expr:
    """A formula in the registry's writing, where a blank is a product, as an expression."""
    words = re.findall(r"\w+|\S", formula.replace(" mod ", " % "))
    found = list[str]()
    for word in words:
        before = found[-1] if found else ""
        calls = before in FUNCTIONS or before == "sum_h"
        if (re.match(r"\w", word) or (word == "(" and not calls)) and re.match(r"[\w)]$|\w+$", before):
            found.append("*")
        found.append(word.replace("^", "**"))
    return ast.parse(" ".join(found), mode="eval").body


def value_of(node: ast.expr, known: dict[str, Any]) -> Any:
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(name):
            return known[name]
        case ast.BinOp(left, operation, right):
            return OPERATORS[type(operation)](value_of(left, known), value_of(right, known))
        case ast.Call(ast.Name("sum_h"), [inner]):
            by_head = [{n: v[h] if isinstance(v, list) else v for n, v in known.items()} for h in range(known["H"])]
            return sum(value_of(inner, one) for one in by_head)
        case ast.Call(ast.Name(name), parts):
            return FUNCTIONS[name](*(value_of(part, known) for part in parts))
        case _:
            raise ValueError(ast.dump(node))


def formulas(text: str) -> list[ast.expr]:
    """One formula, or that of the first layer and that of the last."""
    return [parsed(re.sub(r" in .*", "", piece)) for piece in re.split(r"(?<=layers), |(?<=layer), ", text)]


def small(entry: Variant) -> Decoder:
    heads = entry.config.get("n_heads", 2)
    sizes = {"d_vocab": 11, "d_model": 20 * heads, "n_heads": heads, "n_ctx": 64, "causal": entry.causal}
    return Decoder(DecoderConfig.parse(sizes | dict(entry.config)))


def told_and_kept(entry: Variant, model: Decoder, length: int) -> list[tuple[Any, int]]:
    """What the registry says and what is counted, of the first layer, and of the last where that is another kind."""
    config, layers, texts = model.config, model.mixing_layers, formulas(entry.state)
    known = WINDOW | SEGMENTS | {"H": config.n_heads, "D": 20, "E": config.key_width, "d": config.key_width}
    known |= {"T": length, "T_max": 64, "conv": config.conv, "d_model": config.d_model} | SYMBOLS.get(entry.name, {})
    kept = [layers[0], layers[-1]][: len(texts)]
    return [(value_of(one, known), layer.state_size(length)) for one, layer in zip(texts, kept, strict=True)]


@pytest.mark.parametrize("entry", [entry for entry in built() if entry.name not in IN_WORDS], ids=name)
def test_the_registry_says_how_much_is_kept(entry: Variant) -> None:
    """Never more than the formula, and as much at some length: a segment that begins anew holds less."""
    model = small(entry)
    both = [told_and_kept(entry, model, length) for length in range(40, 57)]
    assert all(kept <= told for layers in both for told, kept in layers)
    for of_layer in zip(*both, strict=True):
        assert any(kept == told for told, kept in of_layer), of_layer


def test_a_formula_is_read_as_it_is_written() -> None:
    known = {"H": 2, "T": 7, "D": 3, "w_h": [1, 2], "d": 4}
    read_as = {"2 H T D + 1": 85, "H (D + 1) D": 24, "H d^2 (D + 1)": 128, "sum_h(w_h + 1) D": 15, "T mod 4": 3}
    read_as |= {"H ceil(T / 2)": 8, "D ones(T)": 9, "2 min(T, D + 1)": 8}
    assert {text: value_of(parsed(text), known) for text in read_as} == read_as
