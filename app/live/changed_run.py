"""The second run of a request: the same text with the model changed inside `with`, from the first changed layer on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from app.live.clean_text import CleanText, capture_heads, next_token_loss
from app.live.results import PolicyCost
from circuits.policies.policy import Applied
from headscope.captures import CapturedText
from headscope.heads import Head


@dataclass
class Opened:
    """A change while it is on, and what was noted of it.

    Attributes:
        applied: the open policy, or None.
        sinks: positions of the sinks that calibration weakens, by head.
    """

    applied: Applied | None = None
    sinks: dict[Head, list[int]] = field(default_factory=dict[Head, list[int]])


@dataclass(frozen=True)
class Ran:
    """What a changed run gave.

    Attributes:
        logits: of the row looked at.
        loss: of each next token.
        cost: what the policy took, or None without one.
        notes: what a reader of the numbers must know of this run.
    """

    logits: Float[Tensor, " d_vocab"]
    loss: Float[Tensor, " pair"]
    cost: PolicyCost | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChangedRun(ABC):
    """One way to change the model, for any heads.

    Attributes:
        clean: the clean run.
        notes: what a reader must know of the change.
    """

    clean: CleanText
    notes: tuple[str, ...] = ()

    @abstractmethod
    def opened(self, heads: Sequence[Head]) -> AbstractContextManager[Opened]:
        """The change, on inside the block."""

    def first_layer(self, heads: Sequence[Head]) -> int:
        """The first layer that the change acts on."""
        return min(heads).layer

    @torch.no_grad()
    def run(self, heads: Sequence[Head]) -> Ran:
        """Logits of the row and loss of each next token, from the first changed layer on."""
        clean = self.clean
        assert clean.run is not None
        with self.opened(heads) as opened:
            logits = clean.run.logits_from(self.first_layer(heads))[0]
        loss = next_token_loss(logits, torch.tensor(clean.ids))
        return Ran(logits[clean.row].float().clone(), loss, self.cost(opened, heads), self.told(opened, heads))

    def captures(self, heads: Sequence[Head]) -> CapturedText:
        """Attention of all heads in the changed run."""
        with self.opened(heads):
            return capture_heads(self.clean.model, self.clean.ids, [], "ablated")

    def cost(self, opened: Opened, heads: Sequence[Head]) -> PolicyCost | None:  # noqa: ARG002
        """What a policy took."""
        return None

    def told(self, opened: Opened, heads: Sequence[Head]) -> tuple[str, ...]:  # noqa: ARG002
        """What a reader must know of one run."""
        return ()
