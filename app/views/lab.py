"""A lab answer as plain data: what was done, the tokens and their loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from app.lab_run import PinnedLab
from app.live.requests import LabRequest
from app.live.results import LabResult
from app.views.lab_words import CHANGED, what_was_done
from app.views.source import source_line
from app.views.table import Column, Table
from app.views.tokens import visible


@dataclass(frozen=True)
class LabView:
    """A question and its answer, live or from a run.

    Attributes:
        request: what was asked.
        result: the answer.
        pinned: the run that keeps it; None while it is only in memory.
    """

    request: LabRequest
    result: LabResult
    pinned: PinnedLab | None = None

    @property
    def changed(self) -> str:
        """What the second run is called: ablated, calibrated, under the policy."""
        return CHANGED[self.request.change]

    @property
    def source(self) -> str:
        """The provenance line of every panel."""
        if self.pinned is not None:
            return source_line(self.pinned.run)
        facts = self.result.facts
        return (
            f"LIVE, NOT SAVED · {self.result.model} ({(facts.revision or 'unknown')[:12]}) · one text of "
            f"{self.result.n_tokens} tokens · seed {self.request.seed} · {self.result.seconds:.2f} s"
        )

    @property
    def meta(self) -> dict[str, Any]:
        """What travels with the numbers as JSON."""
        return {
            "model": self.result.model,
            "revision": self.result.facts.revision,
            "saved": self.pinned.run.manifest.id if self.pinned else None,
            "request": self.request.model_dump(mode="json"),
            "position": self.result.position,
            "a": {"id": self.result.a.id, "text": self.result.a.text},
            "b": {"id": self.result.b.id, "text": self.result.b.text},
            "reservations": list(self.result.reservations),
        }


def intervention(view: LabView) -> str:
    """What was done to the model, in a sentence or a few."""
    return what_was_done(view.request, view.result)


def a_minus_b(result: LabResult) -> str:
    """``A 'x' minus B 'y'``, with every character of the tokens seen."""
    return f"A '{visible(result.a.text, result.a.id)}' minus B '{visible(result.b.text, result.b.id)}'"


def where(result: LabResult) -> str:
    """``after position 12 'cat'``."""
    at = result.position
    return f"after position {at} '{visible(result.text.pieces[at], result.text.ids[at])}'"


def token_losses(result: LabResult) -> tuple[Float[np.ndarray, " pos"], Float[np.ndarray, " pos"] | None]:
    """Loss of each token given those before it, clean and changed, nats; NaN for the first, which nothing predicts."""
    first = np.full(1, np.nan, dtype=np.float32)
    clean = np.concatenate([first, result.clean.loss])
    return clean, None if result.ablated is None else np.concatenate([first, result.ablated.loss])


def _token_columns(changed: str) -> tuple[Column, ...]:
    return (
        Column("position", "Position"),
        Column("id", "Id"),
        Column("token", "Token"),
        Column("loss_clean", "Loss", 4, "nats; cross-entropy of this token given those before it, untouched model"),
        Column("loss_ablated", f"Loss, {changed}", 4, "nats"),
        Column("change", "Change", 4, f"nats; {changed} minus untouched"),
    )


def token_table(view: LabView) -> Table:
    """A row per token of the text."""
    text, (clean, ablated) = view.result.text, token_losses(view.result)
    rows = tuple(
        (
            place,
            text.ids[place],
            text.pieces[place],
            float(clean[place]),
            None if ablated is None else float(ablated[place]),
            None if ablated is None else float(ablated[place]) - float(clean[place]),
        )
        for place in range(len(text))
    )
    return Table("Tokens of the text and their loss", _token_columns(view.changed), rows, view.meta)
