"""Runs of a text under a cache policy or another sparse attention, with heads kept whole or ablated besides."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np

from app.live.changed_run import ChangedRun, Opened
from app.live.clean_text import CleanText, capture_heads
from app.live.requests import LabRequest
from app.live.results import PolicyCost
from circuits.policies.catalog import build_policy, policy_kind
from circuits.policies.head_split import HeadSplit
from circuits.policies.kinds import PolicyKind
from circuits.policies.policy import Policy, applied
from headscope.captures import CapturedText
from headscope.heads import Head
from headscope.models.protocol import ModelShape


@dataclass(frozen=True, kw_only=True)
class Governed(ChangedRun):
    """The whole text under a policy.

    A policy that keeps some key/value heads whole keeps those of the heads given, and cuts the others. Under any other
    all heads follow it, and the heads given are changed besides.

    Attributes:
        kind: the policy.
        kept: tokens that every head may keep or look at, where that is asked.
        besides: what is done to the heads given, or None.
    """

    kind: PolicyKind
    kept: int
    besides: ChangedRun | None

    @contextmanager
    def opened(self, heads: Sequence[Head]) -> Generator[Opened, None, None]:
        """The policy, and what is done besides."""
        policy = self.policy(heads)
        from_row = 0 if policy.eager else self.clean.row
        more = self.besides.opened(heads) if self.besides is not None and heads else nullcontext()
        with applied(self.clean.model, policy, from_row=from_row) as opened, more:
            yield Opened(opened)

    def policy(self, heads: Sequence[Head]) -> Policy:
        """The policy with its budget and its heads.

        Raises:
            UnsupportedError: if the model cannot run under it.
        """
        model = self.clean.model
        split = split_of(model.shape, heads) if self.kind.needs_split else None
        return build_policy(model, self.kind.name, self.kind.settings().sized(self.kept), split)

    def first_layer(self, heads: Sequence[Head]) -> int:  # noqa: ARG002
        """A policy acts on every layer."""
        return 0

    def captures(self, heads: Sequence[Head]) -> CapturedText:
        """Whole patterns: under a policy they are no softmax of all keys."""
        with self.opened(heads):
            return capture_heads(self.clean.model, self.clean.ids, [], "ablated", whole=True)

    def cost(self, opened: Opened, heads: Sequence[Head]) -> PolicyCost | None:
        """What its rows took."""
        assert opened.applied is not None
        tally, shape = opened.applied.tally, self.clean.model.shape
        return PolicyCost(
            from_row=opened.applied.from_row,
            kv_bytes=tally.kv_bytes,
            full_kv_bytes=tally.full_kv_bytes,
            share_attended=tally.share_attended,
            whole=tuple(map(str, whole_groups(shape, heads))) if self.kind.needs_split else (),
        )


def govern(clean: CleanText, request: LabRequest, besides: ChangedRun | None) -> Governed:
    """The policy that a request asks for."""
    kind = policy_kind(request.policy)
    notes = (f"{kind.title} as it is built here: {kind.note}.",) if kind.note else ()
    if kind.needs_split:
        besides = None
    notes += besides.notes if besides else ()
    return Governed(clean, notes, kind=kind, kept=request.kept, besides=besides)


def split_of(shape: ModelShape, heads: Sequence[Head]) -> HeadSplit:
    """The key/value heads that these query heads read keep everything, all others do not."""
    full = np.zeros((shape.n_layers, shape.n_kv_heads), dtype=bool)
    for group in groups_of(shape, heads):
        full[group] = True
    return HeadSplit(full, "chosen heads")


def groups_of(shape: ModelShape, heads: Sequence[Head]) -> list[Head]:
    """The key/value heads that these query heads read, each once, in order."""
    size = shape.n_heads // shape.n_kv_heads
    return sorted({Head(head.layer, head.head // size) for head in heads})


def whole_groups(shape: ModelShape, heads: Sequence[Head]) -> list[Head]:
    """These query heads and all that share their key/value heads."""
    return members_of(shape, groups_of(shape, heads))


def members_of(shape: ModelShape, groups: Sequence[Head]) -> list[Head]:
    """The query heads of key/value heads."""
    size = shape.n_heads // shape.n_kv_heads
    return [Head(group.layer, group.head * size + one) for group in groups for one in range(size)]
