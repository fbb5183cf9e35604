"""One text, run once untouched, and everything that later requests about it can take from that run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from app.live.requests import ALL_HEADS_UP_TO, MOST_TOKENS, NAMED_HEADS, TextRequest
from circuits.clean_run import CleanRun
from circuits.interventions import Reference
from headscope.captures import CapturedText
from headscope.errors import ConfigError, HeadIndexError, TaskError, UnsupportedError
from headscope.heads import Head
from headscope.models.protocol import HookedModel
from headscope.readings.capturing import capture
from probes.row_states import RowStates, record_row

_ROWS = 256
_MOST_CAPTURED = 256 << 20  # bytes


Check = Callable[[], None]
Tell = Callable[[str, int, int], None]


@contextmanager
def checked(model: HookedModel, check: Check) -> Generator[None, None, None]:
    """Call ``check`` before every layer of every forward pass inside the block; it raises to stop."""

    active = [check]  # emptied at the end: a twin that is made inside the block copies the hooks with the modules

    def before(*_: Any) -> None:
        for one in active:
            one()

    handles = [block.register_forward_pre_hook(before) for block in model.blocks]
    try:
        yield
    finally:
        active.clear()
        for handle in handles:
            handle.remove()


@dataclass
class CleanText:
    """The clean run of one text.

    Attributes:
        model: the model.
        ids: token ids.
        row: row whose prediction is looked at.
        run: runs on from any layer; None if the model's attention does not go through the seam.
        refusal: why there is none.
        states: the row's residual stream.
        logits: of the row.
        loss: of each next token.
        captured: queries and keys of all heads, once somebody asked.
        references: z of passages of prose as long as the text, by seed, once somebody asked.
    """

    model: HookedModel
    ids: list[int]
    row: int
    run: CleanRun | None
    refusal: str
    states: RowStates
    logits: Float[Tensor, " d_vocab"]
    loss: Float[Tensor, " pair"]
    captured: CapturedText | None = field(default=None, repr=False)
    references: dict[int, Reference] = field(default_factory=dict[int, Reference], repr=False)

    @classmethod
    @torch.no_grad()
    def of(cls, model: HookedModel, ids: list[int], row: int) -> CleanText:
        """Run the text once."""
        tokens, run, refusal = torch.tensor([ids]), None, ""
        with record_row(model, row) as states:
            try:
                run = CleanRun(model, tokens, layers=range(model.shape.n_layers))
                logits = run.logits
                del run.logits  # T x d_vocab: only one row and the losses are needed
            except UnsupportedError as error:
                refusal, logits = str(error), model.logits(tokens)
        loss = next_token_loss(logits[0], tokens[0])
        return cls(model, ids, row, run, refusal, states, logits[0, row].float().clone(), loss)

    def captures(self) -> CapturedText:
        """Queries and keys of all heads, run on the first call."""
        if self.captured is None:
            self.captured = capture_heads(self.model, self.ids, [], "clean")
        return self.captured


@torch.no_grad()
def next_token_loss(logits: Float[Tensor, "pos d_vocab"], tokens: Int[Tensor, " pos"]) -> Float[Tensor, " pair"]:
    """Cross-entropy of each next token in nats, float32, a chunk of rows at a time."""
    targets = tokens[1:].to(logits.device)
    parts = [
        torch.nn.functional.cross_entropy(logits[at : at + _ROWS][: len(want)].float(), want, reduction="none")
        for at in range(0, len(targets), _ROWS)
        for want in (targets[at : at + _ROWS],)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)


def encode(model: HookedModel, request: TextRequest) -> list[int]:
    """Token ids of a request's text.

    Raises:
        TaskError: if they are more than a live request takes or the model's context holds, or none.
    """
    ids = model.encode(request.text, bos=request.bos)
    most = min(MOST_TOKENS, model.shape.n_ctx)
    if not ids:
        raise TaskError(f"the text has no tokens for {model.name!r}: write at least one word.")
    if len(ids) > most:
        whose = f"{model.name!r} reads" if model.shape.n_ctx < MOST_TOKENS else "a live request takes"
        raise TaskError(f"the text has {len(ids)} tokens; {whose} at most {most}. Shorten it, or start a run for it.")
    return ids


def refuse_heads(model: HookedModel, heads: Sequence[Head]) -> None:
    """Refuse heads that the model does not have.

    Raises:
        HeadIndexError: naming the first of them.
    """
    shape = model.shape
    for head in heads:
        if head.layer >= shape.n_layers or head.head >= shape.n_heads:
            raise HeadIndexError(
                f"{model.name!r} has no head {head}: it has {shape.n_layers} layers x {shape.n_heads} heads, both "
                "from 0."
            )


def row_of(position: int, size: int) -> int:
    """The row that a position means; negative ones count from the end.

    Raises:
        ConfigError: if the text has no such row.
    """
    if not -size <= position < size:
        raise ConfigError(f"position {position} is outside the text of {size} tokens: use {-size} to {size - 1}.")
    return position % size


def capture_heads(
    model: HookedModel, ids: list[int], heads: Sequence[Head], name: str, *, whole: bool = False
) -> CapturedText:
    """Queries and keys of the heads, or of all if none is named.

    Args:
        model: the model.
        ids: the text.
        heads: the heads, or none for all.
        name: what the capture is called.
        whole: whether a policy is open, so that whole patterns are kept.

    Raises:
        UnsupportedError: if that is more than a live answer holds; says what would be less.
    """
    size, shape = len(ids), model.shape
    if size > ALL_HEADS_UP_TO and not 1 <= len(heads) <= NAMED_HEADS:
        raise UnsupportedError(
            f"all heads are kept up to {ALL_HEADS_UP_TO} tokens, and this text has {size}: name 1 to {NAMED_HEADS} "
            "heads."
        )
    if whole:
        _refuse_patterns(len(heads) or shape.n_layers * shape.n_heads, size)
    count = len(heads) * 2 if heads else shape.n_layers * (shape.n_heads + shape.n_kv_heads)
    if count * size * shape.d_head * 4 > _MOST_CAPTURED:
        raise UnsupportedError(
            f"queries and keys of so many heads take {count * size * shape.d_head * 4 >> 20} MB, more than "
            f"{_MOST_CAPTURED >> 20} MB: name fewer heads, or shorten the text."
        )
    return capture(model, ids, name=name, title=f"{size} tokens", heads=list(heads) or None)


def _refuse_patterns(n_heads: int, size: int) -> None:
    """Refuse more whole patterns than a live answer holds."""
    most = int((_MOST_CAPTURED / (4 * n_heads)) ** 0.5)
    if size > most:
        raise UnsupportedError(
            f"whole patterns of {n_heads} heads are kept up to {most} tokens, and this text has {size}: shorten it."
        )
