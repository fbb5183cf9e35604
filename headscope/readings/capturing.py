"""Capture what is needed to rebuild any part of any pattern of one text later, without the model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from headscope import attention
from headscope.attention import AttentionCall, refuse_policy, tap
from headscope.captures import CapturedText, TokenText
from headscope.errors import HeadIndexError, TaskError, UnsupportedError
from headscope.heads import Head
from headscope.models.protocol import HookedModel
from headscope.readings.dense import DenseReading
from headscope.readings.interface import Reading
from headscope.readings.running import read, refuse_unseen

MOST_DENSE = 512


def token_text(model: HookedModel, ids: Sequence[int]) -> TokenText:
    """The tokens of a text, and each one's own piece of it.

    A piece that begins a word begins with a blank, also where the tokenizer drops it from a text's first word.
    """
    raw: list[str | None] = model.tokenizer.convert_ids_to_tokens(list(ids))
    pieces = [_piece(model, token, name or "") for token, name in zip(ids, raw, strict=True)]
    return TokenText(tuple(int(token) for token in ids), tuple(pieces))


def _piece(model: HookedModel, token: int, name: str) -> str:
    text = model.decode([token])
    return " " + text if name.startswith("\u2581") and not text.startswith(" ") else text


def capture(
    model: HookedModel, tokens: Sequence[int], *, name: str, title: str, heads: Sequence[Head] | None = None
) -> CapturedText:
    """Run one text and keep the post-rotary queries and keys of some heads, in float32.

    Inside ``with ablate(...)`` it captures the run as ablated. Under a policy, M is no softmax of all keys: its whole
    matrices are kept, up to 512 tokens. A model whose attention the seam refuses (learned sinks, chunks ...) is
    captured as whole matrices through its TransformerLens twin, up to 512 tokens.

    Args:
        model: the model.
        tokens: token ids of the text, the start token included if there is to be one.
        name: short name of the text.
        title: what it is, for people.
        heads: heads to keep (default: all), in any order.

    Raises:
        TaskError: if there are no tokens, or more than the model's context holds.
        HeadIndexError: for a head that the model does not have.
        UnsupportedError: if the model can be read neither way, or only without the edits that are installed.
    """
    _refuse_length(model, len(tokens))
    chosen = _choose(model, heads)
    if len(tokens) > MOST_DENSE and attention.is_under_policy(model.plain):
        raise UnsupportedError(
            f"whole patterns under a policy are kept up to {MOST_DENSE} tokens; this text has {len(tokens)}."
        )
    text, batch = token_text(model, tokens), torch.tensor([list(tokens)])
    try:
        return _from_seam(model, batch, chosen, name, title, text)
    except UnsupportedError as error:
        return _from_pattern(model, batch, chosen, name, title, text, error)


def _refuse_length(model: HookedModel, size: int) -> None:
    if not 1 <= size <= model.shape.n_ctx:
        raise TaskError(
            f"a text of {size} tokens cannot be read by {model.name!r}: give 1 to {model.shape.n_ctx} tokens."
        )


def _choose(model: HookedModel, heads: Sequence[Head] | None) -> tuple[Head, ...]:
    n_layers, n_heads = model.shape.n_layers, model.shape.n_heads
    if heads is None:
        return tuple(Head(layer, head) for layer in range(n_layers) for head in range(n_heads))
    for head in heads:
        if not (0 <= head.layer < n_layers and 0 <= head.head < n_heads):
            raise HeadIndexError(
                f"head {head.head} of layer {head.layer} does not exist in {model.name!r} "
                f"({n_layers} layers x {n_heads} heads, both from 0). Heads are written L3H11."
            )
    return tuple(dict.fromkeys(heads))


class _Kept:
    """What is kept of each layer's call: the chosen query heads and the key/value heads they read."""

    def __init__(self, heads: Sequence[Head]) -> None:
        self.query: dict[Head, np.ndarray] = {}
        self.key: dict[tuple[int, int], np.ndarray] = {}
        self.reads: dict[Head, tuple[int, int]] = {}
        self.numbers: dict[Head, tuple[float, int, float]] = {}
        self.matrix: dict[Head, np.ndarray] = {}  # under a policy
        self._heads = heads

    def __call__(self, call: AttentionCall) -> None:
        group = call.query.shape[1] // call.key.shape[1]
        for head in (head for head in self._heads if head.layer == call.layer):
            if call.pattern is not None:
                self.matrix[head] = _numbers(call.pattern[0, head.head])
                continue
            refuse_policy(call)
            shared = head.head // group
            self.query[head] = _numbers(call.query[0, head.head])
            self.reads[head] = (head.layer, shared)
            self.numbers[head] = (float(call.scale), int(call.window or 0), float(call.softcap or 0.0))
            if (head.layer, shared) not in self.key:
                self.key[head.layer, shared] = _numbers(call.key[0, shared])


def _numbers(part: Tensor) -> np.ndarray:
    return part.detach().float().cpu().numpy().copy()


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """One array; layers with narrower heads are filled up with zeros, which change no logit."""
    widest = max(part.shape[1] for part in parts)
    return np.stack([np.pad(part, ((0, 0), (0, widest - part.shape[1]))) for part in parts])


def _from_seam(
    model: HookedModel, batch: Tensor, heads: Sequence[Head], name: str, title: str, text: TokenText
) -> CapturedText:
    kept = _Kept(heads)
    model.last_path = "plain"
    with torch.no_grad(), tap(model.plain, reader=kept) as opened:
        model.plain.base_model(input_ids=batch.to(model.device), use_cache=False)
    refuse_unseen(model, {head.layer for head in heads} - set(opened.calls))
    if kept.matrix:
        return _whole(kept.matrix, heads, name, title, text)
    shared = list(kept.key)
    return CapturedText(
        name=name,
        title=title,
        text=text,
        heads=tuple(heads),
        query=_stacked([kept.query[head] for head in heads]),
        key=_stacked(list(kept.key.values())),
        key_index=tuple(shared.index(kept.reads[head]) for head in heads),
        scale=tuple(kept.numbers[head][0] for head in heads),
        window=tuple(kept.numbers[head][1] for head in heads),
        softcap=tuple(kept.numbers[head][2] for head in heads),
    )


def _from_pattern(
    model: HookedModel,
    batch: Tensor,
    heads: Sequence[Head],
    name: str,
    title: str,
    text: TokenText,
    reason: UnsupportedError,
) -> CapturedText:
    size, found = batch.shape[1], dict[Head, np.ndarray]()
    if _is_edited(model):
        raise UnsupportedError(f"{reason} Its whole patterns can be read only without the edits that are installed.")
    if size > MOST_DENSE:
        raise UnsupportedError(f"{reason} Its whole patterns are kept up to {MOST_DENSE} tokens; this text has {size}.")

    def take(layer: int, reading: Reading) -> None:
        assert isinstance(reading, DenseReading)
        for head in (head for head in heads if head.layer == layer):
            found[head] = _numbers(reading.pattern[0, head.head])

    try:
        read(model, batch, take, layers={head.layer for head in heads}, method="dense")
    except UnsupportedError as error:
        raise UnsupportedError(f"{reason} Nor as a whole pattern: {error}") from None
    return _whole(found, heads, name, title, text)


def _whole(
    found: dict[Head, np.ndarray], heads: Sequence[Head], name: str, title: str, text: TokenText
) -> CapturedText:
    """Whole matrices in place of queries and keys."""
    size = len(text)
    return CapturedText(
        name=name,
        title=title,
        text=text,
        heads=tuple(heads),
        query=np.zeros((len(heads), size, 0), dtype=np.float32),
        key=np.zeros((0, size, 0), dtype=np.float32),
        key_index=(),
        scale=(),
        window=(),
        softcap=(),
        matrix=np.stack([found[head] for head in heads]),
    )


def _is_edited(model: HookedModel) -> bool:
    opened = attention._open_taps  # pyright: ignore[reportPrivateUsage] (the seam has no question for it)
    edited = any(one.editor is not None and one.model is model.plain for one in opened)
    return edited or attention.is_under_policy(model.plain)
