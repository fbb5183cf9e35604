"""Classes of heads: which heads reach the threshold of the score that defines the class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.views.heads import HeadRow, head_row, top_heads
from app.views.numbers import NO_BREAK, plain
from headscope.checks import CausalCheck
from headscope.heads import HeadScores, ScoreDefinition


@dataclass(frozen=True)
class HeadClass:
    """One class of heads.

    Attributes:
        name: name of the class ("retrieval").
        definition: the score that makes it.
        members: heads at or beyond the threshold, strongest first.
        n_heads: heads of the model that have a value.
        strongest: strongest head, a member or not; None where no head has a value.
        check: the intervention on this class, or None where none was run.
    """

    name: str
    definition: ScoreDefinition
    members: tuple[HeadRow, ...]
    n_heads: int
    strongest: HeadRow | None
    check: CausalCheck | None

    @property
    def count(self) -> int:
        """Heads in the class."""
        return len(self.members)

    @property
    def share(self) -> float:
        """Heads in the class over all heads with a value."""
        return self.count / self.n_heads if self.n_heads else float("nan")

    @property
    def bound(self) -> str:
        """The threshold as text: ``≥ 0.1``, or ``≤ 32`` where a low value makes the class."""
        return bound_text(self.definition)


def bound_text(definition: ScoreDefinition) -> str:
    """The threshold of a score as text, empty where it has none."""
    if definition.threshold is None:
        return ""
    return f"{'≥' if definition.higher else '≤'}{NO_BREAK}{plain(definition.threshold)}"


def head_classes(scores: Iterable[HeadScores], checks: Sequence[CausalCheck] = ()) -> list[HeadClass]:
    """One class per score that names a class and a threshold, in the order of the scores."""
    return [
        _head_class(one, checks)
        for one in scores
        if one.definition.head_class is not None and one.definition.threshold is not None
    ]


def _head_class(scores: HeadScores, checks: Sequence[CausalCheck]) -> HeadClass:
    name = scores.definition.head_class or scores.name
    valued = top_heads(scores, scores.values.size)
    return HeadClass(
        name=name,
        definition=scores.definition,
        members=tuple(head_row(scores, head) for head in scores.members()),
        n_heads=len(valued),
        strongest=valued[0] if valued else None,
        check=next((check for check in checks if check.head_class == name), None),
    )
