"""Which key/value heads an arm of a policies run kept whole, over the score that they were chosen by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from app.views.table import Cell, Column, Table
from circuits.policies.arms import RANDOM
from circuits.policies.results import Arm
from headscope.errors import UnsupportedError
from headscope.heads import HeadScores
from headscope.runs.reading import Run

FULL_HEADS = "full_heads"
"""Name of the array of an arm's assignment in its stage; the arm's number follows."""
_SCORES = {
    "duo-gate": ("duo_gate",),
    "razor": ("razor_induction", "razor_echo"),
    "retrieval": ("retrieval",),
    "induction": ("induction",),
}


@dataclass(frozen=True)
class Assignment:
    """An assignment of key/value heads.

    Attributes:
        arm: the arm that has it.
        full: True for heads that keep everything.
        scores: what they were chosen by, a value per key/value head; the first of several; None for random heads.
    """

    arm: Arm
    full: Bool[np.ndarray, "layer kv_head"]
    scores: HeadScores | None

    @property
    def count(self) -> int:
        """Heads that keep everything."""
        return int(self.full.sum())


def read_assignment(run: Run, stage: str, number: int, arm: Arm) -> Assignment:
    """The assignment of an arm.

    Args:
        run: a policies run.
        stage: the arm's stage.
        number: the arm's number in it.
        arm: the arm.

    Raises:
        UnsupportedError: if the run does not say which heads the arm kept whole.
    """
    if not run.record(stage).get("has_heads"):
        raise UnsupportedError(f"the run {run.manifest.id} does not say which heads each arm kept whole.")
    full = run.tensor(stage, f"{FULL_HEADS}{number}").astype(bool)
    return Assignment(arm, full, _scores(run, arm.rule))


def _scores(run: Run, rule: str) -> HeadScores | None:
    known = run.scores() if rule != RANDOM else {}
    found = next((known[name] for name in _SCORES.get(rule, (rule,)) if name in known), None)
    if found is None or found.n_heads == found.n_kv_heads:
        return found
    return found.by_kv_head()


def assignment_table(run: Run, found: Assignment) -> Table:
    """A row per key/value head, by layer."""
    scores = found.scores
    columns = (
        Column("layer", "Layer"),
        Column("kv_head", "KV head"),
        Column("full", "Full cache", meaning="whether it keeps everything"),
        Column("score", scores.definition.title if scores else "Score", 4, "of its strongest query head"),
    )
    rows = tuple[tuple[Cell, ...], ...](
        (layer, head, bool(found.full[layer, head]), None if scores is None else float(scores.values[layer, head]))
        for layer, head in np.ndindex(*found.full.shape)
    )
    meta = {"run": run.manifest.id, "rule": found.arm.rule, "share": found.arm.share, "draw": found.arm.draw}
    return Table("Key/value heads with a full cache", columns, rows, meta)
