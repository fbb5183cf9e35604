"""Run a model on a batch and hand each layer's reading to a callback, which reduces it on the spot."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from headscope.attention import AttentionCall, tap
from headscope.errors import UnsupportedError
from headscope.models.protocol import HookedModel
from headscope.readings.dense import DenseReading
from headscope.readings.flash import FlashReading
from headscope.readings.interface import Reading
from headscope.readings.methods import Method

OnReading = Callable[[int, Reading], None]


def read(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    on_reading: OnReading,
    *,
    lengths: Int[Tensor, " batch"] | None = None,
    layers: Collection[int] | None = None,
    method: Method = "flash",
) -> None:
    """One forward pass; ``on_reading(layer, reading)`` is called once per wanted layer, in order.

    Args:
        model: the model.
        tokens: token ids, padded on the right.
        on_reading: takes what it needs from the reading; nothing is kept afterwards.
        lengths: real tokens of each example (default: all).
        layers: layers to read (default: all).
        method: ``flash`` reads the plain model through the attention seam, and the whole pattern where a policy
            attends; ``dense`` reads the pattern of the TransformerLens twin, which knows no policy.

    Raises:
        UnsupportedError: if the model cannot be read that way; says why.
    """
    wanted = set(range(model.shape.n_layers)) if layers is None else set(layers)
    if not wanted <= set(range(model.shape.n_layers)):
        raise UnsupportedError(
            f"{model.name!r} has layers 0 to {model.shape.n_layers - 1}, asked for {sorted(wanted)}."
        )
    tokens = tokens.to(model.device)
    real = torch.full((len(tokens),), tokens.shape[1], device=tokens.device) if lengths is None else lengths
    real = real.to(tokens.device)
    if len(real) != len(tokens) or not bool(((real > 0) & (real <= tokens.shape[1])).all()):
        raise UnsupportedError(
            f"lengths must be one number from 1 to {tokens.shape[1]} for each of {len(tokens)} examples, "
            f"not {real.tolist()}."
        )
    run = _read_flash if method == "flash" else _read_dense
    with torch.no_grad():
        run(model, tokens, real, wanted, on_reading)


def _read_flash(model: HookedModel, tokens: Tensor, lengths: Tensor, layers: set[int], on_reading: OnReading) -> None:
    def reader(call: AttentionCall) -> None:
        if call.layer not in layers:
            return
        if call.pattern is not None:  # a policy attends
            on_reading(call.layer, DenseReading(call.pattern, call.value, lengths))
        else:
            on_reading(call.layer, FlashReading(call, lengths))

    model.last_path = "plain"
    with tap(model.plain, reader=reader) as opened:
        model.plain.base_model(input_ids=tokens, use_cache=False)
    refuse_unseen(model, layers - set(opened.calls))


def refuse_unseen(model: HookedModel, missing: set[int]) -> None:
    """Refuse the flash reading of a model whose layers did not all call the attention registry.

    Raises:
        UnsupportedError: if any layer is missing.
    """
    if missing:
        raise UnsupportedError(
            f"{type(model.plain).__name__} does not route the attention of layers {sorted(missing)} through the "
            "attention registry of transformers, so the flash reading sees nothing. Use the dense reading."
        )


def _read_dense(model: HookedModel, tokens: Tensor, lengths: Tensor, layers: set[int], on_reading: OnReading) -> None:
    values: dict[int, Tensor] = {}
    seen: set[int] = set()

    def keep_value(value: Tensor, layer: int) -> None:
        values[layer] = value.transpose(1, 2)

    def take_pattern(pattern: Tensor, layer: int) -> None:
        seen.add(layer)
        on_reading(layer, DenseReading(pattern, values.pop(layer), lengths))

    hooks: list[tuple[str | Callable[..., Any], Callable[..., Any]]] = []
    for layer in sorted(layers):
        hooks.append((f"blocks.{layer}.attn.hook_v", lambda v, layer=layer, **_: keep_value(v, layer)))
        hooks.append((f"blocks.{layer}.attn.hook_pattern", lambda p, layer=layer, **_: take_pattern(p, layer)))
    model.last_path = "bridge"
    model.bridge.run_with_hooks(tokens, return_type=None, fwd_hooks=hooks)
    if seen != layers:
        raise UnsupportedError(
            f"TransformerLens gives no pattern for layers {sorted(layers - seen)} of {type(model.plain).__name__}: "
            "the architecture computes attention out of its reach."
        )
