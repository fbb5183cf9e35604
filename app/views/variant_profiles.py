"""Where heads of small models look and what they bring, as rows: of a comparison, or of a training at one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.views.table import Cell, Column, Table
from app.views.training import Snapshot
from app.views.variant_comparison import CompareRun
from circuits.comparison_results import HeadProfile
from headscope.heads import Head

View = Literal["share", "moved"]
VIEWS: tuple[View, ...] = ("share", "moved")
VIEW_TITLES: Mapping[View, str] = {"share": "share: where a row looks", "moved": "moved: what it brings"}
VIEW_MEANINGS: Mapping[View, str] = {
    "share": "Share: |M_ij| over the sum of its row, 0 to 1.",
    "moved": "Moved: |M_ij| times the norm of value j through W_O, over the sum of its row, 0 to 1.",
}
OFFSETS = tuple(range(9))
MATCH_OFFSETS = (-1, 0, 1, 2, 3, 4)
CARRY_OFFSETS = (1, 2, 3, 4)
FIRST = "first"
CELLS_MEAN = (
    "offset d: weight of row i on the token d places before it (d = 1 is a previous-token head); carry d: the same "
    "of rows d behind the earlier place of what is asked, which a later head can then find by it; match d: weight of "
    "an asked row on the place d behind the earlier same token (0 a duplicate-token head, +1 an induction or retrieval "
    "head); first: weight of the first token over later rows"
)
_NUMBERS: Mapping[str, tuple[str, str]] = {
    "first_uniform": ("First token if uniform", "weight of the first token if every row were uniform"),
    "first_norm": ("Value norm of first", "norm of the first token's value through W_O over the mean of the others"),
    "row_mass": ("Row mass", "mean sum of a row of M, with its signs"),
    "null_mass": ("Null mass", "mean mass that goes to no token; empty where the variant has no such place"),
    "negative": ("Negative share", "mean share of |M| that is negative"),
    "support": ("Effective columns", "exp(entropy of the share): how many columns a row looks at"),
    "usage": ("Usage", "weight that head mixing gives the head; empty where all count alike"),
}


@dataclass(frozen=True)
class ProfileRow:
    """One head.

    Attributes:
        model: name of the model in its run.
        label: the model, for people.
        head: ``L0H1``.
        cells: by view, mean weight on each kind of cells, ``offset 1``, ``carry 1``, ``match +1``, ``first``.
        numbers: what else is known of it, by name; None where there is no such thing.
        step: steps taken when it was looked at; None at the end.
        bars: least weight that counts as a head, of kinds of cells where it is not the usual one.
    """

    model: str
    label: str
    head: str
    cells: Mapping[View, Mapping[str, float]]
    numbers: Mapping[str, float | None]
    step: int | None = None
    bars: Mapping[str, float] = field(default_factory=dict[str, float])


def compared_rows(found: CompareRun, models: Sequence[str] = ()) -> tuple[ProfileRow, ...]:
    """Every head of the models (all of them by default)."""
    return tuple(
        _compared(one.name, found.label(one), head)
        for one in found.models
        if not models or one.name in models
        for head in one.heads
    )


def trained_rows(model: str, label: str, snapshot: Snapshot, length: int | None) -> tuple[ProfileRow, ...]:
    """Every head of a training at one step.

    Args:
        model: name of the training.
        label: for people.
        snapshot: what its heads did.
        length: tokens of the text, for what uniform rows would do.
    """
    by_head = dict[str, dict[str, float]]()
    for name, value in snapshot.probes.items():
        what, _, head = name.rpartition(".")
        by_head.setdefault(head, {})[what] = value
    heads = sorted(by_head, key=lambda name: (Head.parse(name).layer, Head.parse(name).head))
    return tuple(_trained(model, label, head, by_head[head], snapshot.step, length) for head in heads)


def uniform_first(length: int) -> float:
    """Weight of the first token if every later row were uniform: the mean of ``1 / (i + 1)``, i from 1."""
    return sum(1 / (row + 1) for row in range(1, length)) / (length - 1)


def cell_names(rows: Sequence[ProfileRow]) -> tuple[str, ...]:
    """Kinds of cells that the rows have, offsets first."""
    return tuple(dict.fromkeys(name for row in rows for cells in row.cells.values() for name in cells))


def profile_table(rows: Sequence[ProfileRow]) -> Table:
    """A row for each head: both views of every kind of cells, and the other numbers."""
    names = cell_names(rows)
    known = [name for name in _NUMBERS if any(row.numbers.get(name) is not None for row in rows)]
    steps = any(row.step is not None for row in rows)
    columns = [Column("model", "Model"), Column("name", "Name in the run"), Column("head", "Head")]
    columns += [Column("step", "Step", meaning="steps taken")] if steps else []
    columns += [
        Column(f"{view}_{_key(name)}", f"{name}, {view}", 3, f"mean weight, {view}") for view in VIEWS for name in names
    ]
    columns += [Column(name, *_title(name)) for name in known]
    made = list[tuple[Cell, ...]]()
    for row in rows:
        cells: list[Cell] = [row.label, row.model, row.head, *([row.step] if steps else [])]
        cells += [row.cells.get(view, {}).get(name) for view in VIEWS for name in names]
        made.append((*cells, *(row.numbers.get(name) for name in known)))
    return Table("Heads", tuple(columns), tuple(made), {"cells": CELLS_MEAN, **VIEW_MEANINGS})


def number_table(rows: Sequence[ProfileRow]) -> Table:
    """The numbers of each head that are no strip: its first token beside uniform rows, norms, masses."""
    known = [name for name in _NUMBERS if any(row.numbers.get(name) is not None for row in rows)]
    firsts = (
        Column("first_share", "First token, share", 3, "mean weight of later rows on the first token"),
        Column("first_moved", "First token, moved", 3, "the same, weighted by what its value writes"),
    )
    columns = (Column("model", "Model"), Column("head", "Head"), *firsts, *(Column(n, *_title(n)) for n in known))
    made = tuple(
        (
            row.label, row.head, *(row.cells.get(view, {}).get(FIRST) for view in VIEWS),
            *(row.numbers.get(name) for name in known),
        )
        for row in rows
    )  # fmt: skip
    return Table("Heads: first token, masses and norms", columns, made)


def _title(name: str) -> tuple[str, int, str]:
    title, meaning = _NUMBERS[name]
    return title, 2 if name == "support" else 3, meaning


def _key(name: str) -> str:
    return name.replace(" ", "_").replace("+", "").replace("-", "minus_")


def match_name(offset: int) -> str:
    """``match +1``, as claims call it."""
    return f"match {offset:+d}"


def _compared(model: str, label: str, head: HeadProfile) -> ProfileRow:
    cells = dict[View, Mapping[str, float]]()
    for view in VIEWS:
        offsets = zip(OFFSETS, head.offsets.get(view, ()), strict=False)
        matches = zip(MATCH_OFFSETS, head.matches.get(view, ()), strict=False)
        carries = zip(CARRY_OFFSETS, head.carries.get(view, ()), strict=False)
        cells[view] = {
            **{f"offset {d}": value for d, value in offsets},
            **{f"carry {d}": value for d, value in carries},
            **{match_name(d): value for d, value in matches},
            FIRST: head.first[view],
        }
    numbers = {name: getattr(head, name) for name in _NUMBERS}
    return ProfileRow(model, label, head.head, cells, numbers, bars=head.bars)


def _trained(
    model: str, label: str, head: str, probes: Mapping[str, float], step: int, length: int | None
) -> ProfileRow:
    cells = dict[View, Mapping[str, float]]()
    for view in VIEWS:
        own = {name.removeprefix(f"{view}."): value for name, value in probes.items() if name.startswith(f"{view}.")}
        cells[view] = {_cell(name): own[name] for name in sorted(own, key=_order)}
    numbers: dict[str, float | None] = {name: probes[name] for name in _NUMBERS if name in probes}
    if length is not None and length > 1:
        numbers["first_uniform"] = uniform_first(length)
    return ProfileRow(model, label, head, cells, numbers, step)


def _cell(name: str) -> str:
    kind, _, number = name.partition(".")
    return match_name(int(number)) if kind == "match" else f"{kind} {number}".strip()


def _order(name: str) -> tuple[int, int]:
    """Offsets, then carries, then matches, then the first token."""
    kind, _, number = name.partition(".")
    kinds = ("offset", "carry", "match", FIRST)
    return kinds.index(kind) if kind in kinds else len(kinds), int(number or 0)
