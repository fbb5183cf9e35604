"""The run in words: how many heads of each class, and what ablating them did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.views.causal import causal_sentence, key_row
from app.views.classes import HeadClass
from app.views.numbers import percent
from headscope.checks import CausalCheck
from headscope.heads import HeadScores


@dataclass(frozen=True)
class Summary:
    """Sentences for the head of a report.

    Attributes:
        measured: what was measured, of which model.
        counted: how many heads each class has; empty without classes.
        tested: one sentence per causal check, in the order of the checks.
    """

    measured: str
    counted: str
    tested: tuple[str, ...]


def summary(
    model: str,
    scores: Sequence[HeadScores],
    classes: Sequence[HeadClass],
    checks: Sequence[CausalCheck],
) -> Summary:
    """Put the run into words; every number is one of the rows that the tables show."""
    return Summary(
        measured=_measured(model, scores),
        counted=_counted(model, classes),
        tested=tuple(causal_sentence(check, row) for check in checks if (row := key_row(check)) is not None),
    )


def _measured(model: str, scores: Sequence[HeadScores]) -> str:
    if not scores:
        return f"No score of {model} has been measured yet."
    one = scores[0]
    many = "score was" if len(scores) == 1 else "scores were"
    groups = "" if one.n_kv_heads == one.n_heads else f", {one.n_kv_heads} key/value heads per layer"
    return (
        f"{len(scores)} {many} measured for each of the {one.values.size} attention heads of {model} "
        f"({one.n_layers} layers of {one.n_heads} query heads{groups})."
    )


def _counted(model: str, classes: Sequence[HeadClass]) -> str:
    if not classes:
        return ""
    parts = [
        f"{one.count} {one.name} {'head' if one.count == 1 else 'heads'}"
        f"{_of(one, classes[0])} ({percent(one.share)}, score {one.bound})"
        for one in classes
    ]
    return f"{model} has {_listed(parts)}."


def _of(one: HeadClass, first: HeadClass) -> str:
    """The number of heads, said once unless some heads have no value."""
    return f" of {one.n_heads}" if one is first or one.n_heads != first.n_heads else ""


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
