"""What a comparison with a peer is: both answers to the same random numbers, and how far apart they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headscope.mixers.building import build_mixer
from headscope.mixers.interface import MixerShape
from headscope.mixers.registry import Variant
from tests.mixer_cases import LENGTH, MODEL, N_CTX, Case, make_case, small_config

ROUNDING = 1e-10
"""How far float64 results of two orders of computing may lie apart, of ``1 + the largest number``."""


@dataclass(frozen=True)
class Answers:
    """The same numbers from both sides, the more the better."""

    ours: Tensor
    theirs: Tensor


Compare = Callable[[Variant, int], Answers]


@dataclass(frozen=True)
class Comparison:
    """How one entry of the registry is compared with its peer.

    Attributes:
        entry: its name.
        compare: from the entry and a seed to both answers.
        bound: how far apart they may be, of ``1 + the largest number``.
        double: whether all of it is computed `in_double`.
    """

    entry: str
    compare: Compare
    bound: float
    double: bool


COMPARISONS: list[Comparison] = []


def agrees(*entries: str, bound: float = ROUNDING, double: bool = True) -> Callable[[Compare], Compare]:
    """A comparison of these entries of the registry; `tests/test_peer_coverage.py` reads the names off the source.

    Args:
        entries: their names, as literal strings.
        bound: larger than that of rounding only where the peer computes something slightly different.
        double: compute all of it `in_double`.
    """

    def add(compare: Compare) -> Compare:
        COMPARISONS.extend(Comparison(entry, compare, bound, double) for entry in entries)
        return compare

    return add


def agrees_on_z(
    *entries: str, bound: float = ROUNDING, length: int = LENGTH, causal: bool | None = None
) -> Callable[[Callable[[Case], Tensor]], Compare]:
    """A comparison of z, from a function of the peer alone, which is computed `in_double`.

    Our z is both that of M and that of the mixer's own operation.

    Args:
        entries: names of entries, as literal strings.
        bound: see `agrees`.
        length: tokens.
        causal: in place of the entry's.
    """

    def add(peer: Callable[[Case], Tensor]) -> Compare:
        def compare(entry: Variant, seed: int) -> Answers:
            case = make_case(entry, seed=seed, length=length, causal=causal)
            with in_double():
                theirs = peer(case)
            ours = [case.mixer.mix(case.given).z, case.mixer.operation(case.given)]
            return Answers(torch.stack(ours), torch.stack([theirs, theirs]))

        return agrees(*entries, bound=bound, double=False)(compare)

    return add


def with_settings(entry: Variant, settings: Mapping[str, Any]) -> Variant:
    """An entry whose mixer has other settings."""
    choice = small_config(entry).mixer[0]
    mixer = {"kind": choice.kind, "settings": dict(choice.settings) | dict(settings)}
    return replace(entry, config=dict(entry.config) | {"mixer": mixer})


def in_layer(case: Case, layer: int, n_layers: int) -> Case:
    """The same call of a mixer that is built for another layer."""
    choice, given = small_config(case.entry).mixer[0], case.given
    sizes = (given.query.shape[1], given.value.shape[-1], given.query.shape[-1], MODEL, N_CTX, layer, n_layers)
    mixer = build_mixer(choice.kind, MixerShape(*sizes), choice.settings).to(given.query.dtype)
    return replace(case, mixer=mixer)


class InDouble(TorchFunctionMode):
    """Every request for float32 is one for float64, so that peers that ask for single precision compute in double.

    In single precision a bound of 1e-5 would hide a small number that is added to a denominator.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        func = Tensor.double if func is Tensor.float else func
        args = tuple(torch.float64 if part is torch.float32 else part for part in args)
        kwargs = {name: torch.float64 if part is torch.float32 else part for name, part in (kwargs or {}).items()}
        return func(*args, **kwargs)


@contextmanager
def in_double() -> Iterator[None]:
    """New tensors are float64, and so are those that ask for float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with InDouble():
            yield
    finally:
        torch.set_default_dtype(before)


def flat(x: Tensor) -> Tensor:
    """Heads side by side: (B, H, T, D) to (B, T, H D)."""
    return x.transpose(1, 2).flatten(2)


def by_head(x: Tensor, heads: int) -> Tensor:
    """Heads apart again: (B, T, H D) to (B, H, T, D)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def packed(case: Case) -> Tensor:
    """A stream that holds queries, keys and values of all heads, in turn, for peers that make them from a stream."""
    return torch.cat([flat(case.given.query), flat(case.given.key), flat(case.given.value)], -1)


def reads(layer: nn.Linear, first: int) -> None:
    """Let a linear map read the inputs from ``first`` on, as they are; those past the last are 0."""
    with torch.no_grad():
        layer.weight.zero_()
        count = min(layer.out_features, layer.in_features - first)
        layer.weight[:count, first : first + count] = torch.eye(count)
        if layer.bias is not None:
            layer.bias.zero_()
