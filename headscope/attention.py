"""The seam: one attention function, registered with transformers, that readers and editors plug into.

`transformers.AttentionInterface` hands the registered function the post-rotary queries, the grouped keys
and values and the scale of every layer of every architecture that uses the registry. Inside
``with attention.tap(model, ...)`` the model runs through it: an *attender* computes attention in another way (a
policy), an *editor* replaces z, the head outputs before W_O, a *reader* sees each layer's call. Nothing stays
installed after the block.

A batch is right-padded: under a causal mask no real row sees a pad, so no mask tensor is ever built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function

from headscope import kernels
from headscope.errors import UnsupportedError

NAME = "headscope"


@dataclass(frozen=True)
class AttentionInput:
    """What one layer's attention is called with.

    Attributes:
        layer: index of the layer.
        query: post-rotary queries; query i stands at position ``key - query + i``.
        key: post-rotary keys, one per key/value head, cached ones included.
        value: values, one per key/value head.
        scale: what the logits are multiplied by.
        window: sliding window that hides keys in this call, or None.
        softcap: cap on the logits, or None.
    """

    layer: int
    query: Float[Tensor, "batch head query d_head"]
    key: Float[Tensor, "batch kv_head key d_head"]
    value: Float[Tensor, "batch kv_head key d_value"]
    scale: float
    window: int | None = None
    softcap: float | None = None

    @property
    def first_row(self) -> int:
        """Position of the first query."""
        return self.key.shape[2] - self.query.shape[2]


@dataclass(frozen=True, kw_only=True)
class AttentionCall(AttentionInput):
    """What one layer's attention was called with, and what it gave.

    Attributes:
        z: head outputs before W_O, as edited so far.
        lse: row log-sum-exp of the scaled logits; None where a policy attends.
        pattern: M of every query head under the policy that attends, or None without one.
    """

    z: Float[Tensor, "batch head query d_value"]
    lse: Float[Tensor, "batch head query"] | None
    pattern: Float[Tensor, "batch head query key"] | None = None

    @property
    def row_lse(self) -> Float[Tensor, "batch head query"]:
        """``lse`` of softmax attention.

        Raises:
            UnsupportedError: under a policy, whose rows are no softmax over all keys.
        """
        refuse_policy(self)
        assert self.lse is not None
        return self.lse

    def pattern_rows(self, first: int, stop: int) -> Float[Tensor, "batch head row seen"]:
        """M of positions ``first ... stop - 1`` over keys ``0 ... stop - 1``: the policy's where one attends."""
        rows = slice(first - self.first_row, stop - self.first_row)
        if self.pattern is not None:
            return self.pattern[:, :, rows, :stop].float()
        return softmax_rows(self, rows.start, rows.stop)


@dataclass(frozen=True)
class Attended:
    """What an attender gives.

    Attributes:
        z: head outputs before W_O.
        pattern: M of every query head, if it was wanted.
    """

    z: Float[Tensor, "batch head query d_value"]
    pattern: Float[Tensor, "batch head query key"] | None = None


def softmax_rows(call: AttentionInput, first: int, last: int) -> Float[Tensor, "batch head row seen"]:
    """Softmax of queries ``first ... last - 1`` of a call, over the keys up to the last of them.

    Raises:
        UnsupportedError: for a call in which a policy attends.
    """
    refuse_policy(call)
    stop = call.first_row + last
    return kernels.causal_logits(
        call.query[:, :, first:last],
        call.key[:, :, :stop],
        call.scale,
        first_row=call.first_row + first,
        window=call.window,
        softcap=call.softcap,
    ).softmax(-1)


def refuse_policy(call: AttentionInput) -> None:
    """Refuse to make M of queries and keys where a policy attends.

    Raises:
        UnsupportedError: if so.
    """
    if isinstance(call, AttentionCall) and call.lse is None:
        raise UnsupportedError("a policy attends in this model: read its pattern, not its queries and keys.")


def is_under_policy(model: PreTrainedModel) -> bool:
    """Whether a policy is open on this model."""
    return any(opened.attender is not None and opened.model is model for opened in _open_taps)


Reader = Callable[[AttentionCall], None]
Editor = Callable[[AttentionCall], Tensor]
Attender = Callable[[AttentionInput, bool], Attended]
"""Computes attention in place of softmax; the second argument says whether M is wanted too."""


@dataclass(eq=False)  # two open blocks may look alike
class Tap:
    """One open ``with`` block: who reads, who edits, and how often each layer really called."""

    model: PreTrainedModel
    reader: Reader | None = None
    editor: Editor | None = None
    attender: Attender | None = None
    calls: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._modules = {id(module) for module in self.model.modules()}

    def covers(self, module: nn.Module) -> bool:
        """Whether the calling module belongs to this tap's model."""
        return id(module) in self._modules


_open_taps: list[Tap] = []


@contextmanager
def tap(
    model: PreTrainedModel,
    *,
    reader: Reader | None = None,
    editor: Editor | None = None,
    attender: Attender | None = None,
) -> Generator[Tap, None, None]:
    """Run ``model`` through the seam inside the block; taps nest, outer editors act first.

    Args:
        model: an unbridged transformers model (a bridge replaces the modules that would call the seam).
        reader: called with every layer's `AttentionCall`, after the edits.
        editor: returns the z that replaces ``call.z``; must not change it in place.
        attender: computes z instead of softmax attention, before any edit; one at a time.

    Raises:
        UnsupportedError: if another attender is open on this model.
    """
    if attender is not None and is_under_policy(model):
        raise UnsupportedError("another policy is open on this model: leave its block first.")
    opened = Tap(model, reader, editor, attender)
    previous = str(model.config._attn_implementation)  # pyright: ignore[reportPrivateUsage] (its only getter)
    if previous != NAME:
        model.set_attn_implementation(NAME)
    _open_taps.append(opened)
    try:
        yield opened
    finally:
        _open_taps.remove(opened)
        if previous != NAME:
            model.set_attn_implementation(previous)


@contextmanager
def untapped() -> Generator[None, None, None]:
    """Run without any reader or editor inside the block, whatever blocks are open around it."""
    waiting = _open_taps.copy()
    _open_taps.clear()
    try:
        yield
    finally:
        _open_taps[:] = waiting


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The registered function; see `transformers.AttentionInterface` for its contract."""
    _refuse_unknown(module, attention_mask, options, size=key.shape[2])
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    window, softcap = options.get("sliding_window"), options.get("softcap")
    window = window if window is not None and window < key.shape[2] else None
    layer = int(getattr(module, "layer_idx"))  # noqa: B009 (an int attribute that nn.Module does not declare)
    given = AttentionInput(layer, query, key, value, scale, window, softcap)
    taps = [opened for opened in _open_taps if opened.covers(module)]
    call = _first_call(given, taps)
    for opened in taps:
        if opened.editor is not None:
            call = replace(call, z=opened.editor(call))
    for opened in taps:
        opened.calls[layer] += 1
        if opened.reader is not None:
            opened.reader(call)
    return call.z.transpose(1, 2).contiguous(), None


def _first_call(given: AttentionInput, taps: list[Tap]) -> AttentionCall:
    """What attention gives before any edit: the policy's, if one is open, else softmax."""
    attender = next((opened.attender for opened in taps if opened.attender is not None), None)
    parts = (given.layer, given.query, given.key, given.value, given.scale, given.window, given.softcap)
    if attender is not None:
        attended = attender(given, any(opened.reader is not None for opened in taps))
        return AttentionCall(*parts, z=attended.z, lse=None, pattern=attended.pattern)
    if given.first_row == 0 and given.window is None and given.softcap is None:
        z, lse = kernels.flash_attention(given.query, given.key, given.value, given.scale)
    else:
        z, lse = kernels.chunked_attention(
            given.query, given.key, given.value, given.scale, window=given.window, softcap=given.softcap
        )
    return AttentionCall(*parts, z=z, lse=lse)


def _refuse_unknown(module: nn.Module, attention_mask: Tensor | None, options: dict[str, Any], *, size: int) -> None:
    """Refuse what would change M in a way the seam does not compute."""
    if attention_mask is not None:
        raise UnsupportedError(
            "this model builds an attention mask of its own; the attention seam only knows causal batches "
            "padded on the right, passed without an attention_mask."
        )
    if options.get("s_aux") is not None:
        raise UnsupportedError(f"{type(module).__name__} adds a learned sink to its softmax (s_aux).")
    window = getattr(getattr(module, "config", None), "sliding_window", None)
    if window and window < size and "sliding_window" not in options:
        raise UnsupportedError(f"{type(module).__name__} does not tell which of its layers slide a window of {window}.")
    if not getattr(module, "is_causal", True) or options.get("is_causal") is False:
        raise UnsupportedError(f"{type(module).__name__} is not causal; Headscope reads causal decoders.")


def _no_mask(
    *_: Any,
    attention_mask: Tensor | None = None,
    mask_function: Callable[..., Any] = causal_mask_function,
    local_size: int | None = None,
    q_length: int = 0,
    q_offset: int | Tensor = 0,
    kv_length: int = 0,
    config: Any = None,
    **__: Any,
) -> None:
    """The registered mask function: builds none, and refuses what attention could then not know of."""
    if attention_mask is not None and not bool(torch.all(attention_mask)):
        raise UnsupportedError("pass right-padded tokens and their lengths, not an attention_mask.")
    if mask_function is not causal_mask_function and local_size is None:
        raise UnsupportedError("this model asks for more than a causal mask; the attention seam knows no other.")
    if int(q_offset) + q_length != kv_length:
        raise UnsupportedError(
            "this cache drops old keys or keeps room for new ones, so that a key's place does not tell its position. "
            "Pass past_key_values=DynamicCache(), without the model's config."
        )
    chunk = getattr(config, "attention_chunk_size", None)
    if local_size is not None and chunk is not None and chunk < kv_length:
        raise UnsupportedError(f"this model attends in chunks of {chunk} tokens, of which the text has {kv_length}.")


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, _no_mask)
