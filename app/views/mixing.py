"""Mixing matrices that a train or compare run has kept: of which models, at which steps, on which text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from app.views.training import TrainRun, cell_label
from app.views.variant_comparison import CompareRun
from app.views.variant_profiles import View
from headscope.errors import HeadscopeError, UnknownNameError
from headscope.heads import Head
from headscope.runs.reading import Run

MOST_TILES, MOST_CELLS, LARGEST = 48, 320_000, 256


@dataclass(frozen=True)
class Pictured:
    """A model whose matrices were kept.

    Attributes:
        name: its stage in the run.
        label: for people.
        variant: of the registry.
        steps: steps of its training at which they were kept; none for a comparison, which has the end.
    """

    name: str
    label: str
    variant: str
    steps: tuple[int, ...]

    def place(self, step: int | None) -> int | None:
        """Which of its pictures shows the model as it was at a step: the last one up to there, or the first."""
        if not self.steps:
            return None
        upto = [place for place, own in enumerate(self.steps) if step is None or own <= step]
        return max(upto, default=0)


@dataclass(frozen=True)
class Tile:
    """One matrix.

    Attributes:
        model: whose.
        head: ``L0H1``.
        step: when; None for a comparison.
        weights: row i looks at column j; pooled by maximum where there are too many.
        width: rows and columns in each cell.
    """

    model: Pictured
    head: str
    step: int | None
    weights: Float[np.ndarray, "row column"]
    width: int = 1

    @property
    def title(self) -> str:
        """``softmax, seed 0 · L0H1 · step 250``."""
        return f"{self.model.label} · {self.place}"

    @property
    def place(self) -> str:
        """``L0H1 · step 250``."""
        return self.head if self.step is None else f"{self.head} · step {self.step:,}"


@dataclass(frozen=True)
class Board:
    """Matrices side by side.

    Attributes:
        tiles: models in order, heads of each.
        heads: heads of a model that are shown.
        tokens: the text, a label for each token; empty where the task has vectors.
        left_out: matrices that were asked for and are not shown.
    """

    tiles: tuple[Tile, ...]
    heads: tuple[str, ...]
    tokens: tuple[str, ...]
    left_out: int


def pictured_models(found: TrainRun | CompareRun) -> tuple[Pictured, ...]:
    """Models of a run whose matrices were kept."""
    if isinstance(found, CompareRun):
        return tuple(Pictured(one.name, found.label(one), one.variant, ()) for one in found.models)
    kept = found.pictured
    cells = [one.cell for one in kept]
    return tuple(Pictured(one.cell.stage, cell_label(one.cell, cells), one.cell.variant, one.pictured) for one in kept)


def first_models(models: Sequence[Pictured], most: int = 4) -> tuple[str, ...]:
    """The models shown where none is chosen: the first of each variant."""
    firsts = {one.variant: one.name for one in reversed(models)}
    return tuple(firsts[name] for name in dict.fromkeys(one.variant for one in models))[:most]


def chosen_models(models: Sequence[Pictured], names: Sequence[str]) -> tuple[Pictured, ...]:
    """The models of these names, in their order.

    Raises:
        UnknownNameError: if one is not among them.
    """
    known = {one.name: one for one in models}
    for name in names:
        if name not in known:
            raise UnknownNameError.of("model with mixing matrices in this run", name[:80], known)
    return tuple(known[name] for name in names)


def all_steps(models: Sequence[Pictured]) -> tuple[int, ...]:
    """Every step at which any of the models was pictured."""
    return tuple(sorted({step for one in models for step in one.steps}))


def heads_of(run: Run, models: Sequence[Pictured]) -> tuple[str, ...]:
    """Heads that any of the models has, by layer."""
    shapes = [_read(run, one, "share", None).shape[:2] for one in models]
    layers, heads = (max((shape[axis] for shape in shapes), default=0) for axis in (0, 1))
    return tuple(str(Head(layer, head)) for layer in range(layers) for head in range(heads))


def tokens_of(run: Run, name: str) -> tuple[str, ...]:
    """The text that a model was pictured on, as the numbers of its tokens; empty where its inputs are vectors."""
    try:
        return tuple(str(int(token)) for token in run.tensor(name, "tokens"))
    except HeadscopeError:
        return ()


def board(run: Run, models: Sequence[Pictured], *, head: str, view: View, step: int | None) -> Board:
    """Matrices of the models at a step, a tile for each head, as many as can be drawn fast.

    Args:
        run: the run.
        models: whose.
        head: one head, or all where it is empty.
        view: which view of M.
        step: steps taken; None is the end.

    Raises:
        UnknownNameError: if no model has such a head.
    """
    arrays = {one.name: _read(run, one, view, step) for one in models}
    known = heads_of(run, models)
    if head and head not in known:
        raise UnknownNameError.of("head of these models", head, known)
    wanted = [head] if head else list(known)
    made = [
        _tile(one, name, arrays[one.name], step)
        for one in models
        for name in wanted
        if _has(arrays[one.name], Head.parse(name))
    ]
    size = made[0].weights.size if made else 1
    most = max(1, min(MOST_TILES, MOST_CELLS // size))
    most -= most % len(wanted) if most > len(wanted) else 0  # whole models
    text = tokens_of(run, models[0].name) if models else ()
    return Board(tuple(made[:most]), tuple(wanted), text, len(made) - len(made[:most]))


def pooled(weights: Float[np.ndarray, "row column"], width: int) -> Float[np.ndarray, "bin bin"]:
    """The largest weight of each ``width`` x ``width`` cells, so that a single strong one stays seen."""
    size = -(-len(weights) // width) * width
    padded = np.full((size, size), -np.inf, dtype=np.float32)
    padded[: len(weights), : weights.shape[1]] = weights
    return padded.reshape(size // width, width, size // width, width).max(axis=(1, 3))


def _tile(model: Pictured, head: str, array: Float[np.ndarray, "layer head row column"], step: int | None) -> Tile:
    place, at = model.place(step), Head.parse(head)
    weights = array[at.layer, at.head].astype(np.float32)
    width = -(-len(weights) // LARGEST)
    shown = pooled(weights, width) if width > 1 else weights
    return Tile(model, head, None if place is None else model.steps[place], shown, width)


def _has(array: np.ndarray, head: Head) -> bool:
    return head.layer < array.shape[0] and head.head < array.shape[1]


def _read(run: Run, model: Pictured, view: View, step: int | None) -> Float[np.ndarray, "layer head row column"]:
    return run.tensor(model.name, view, model.place(step))
