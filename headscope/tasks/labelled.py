"""Labelled texts for in-context learning: items with a label, sets of them, and splits that share no content."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from headscope.errors import TaskError

Kind = Literal["classification", "choice"]

LETTERS = tuple("ABCD")
"""Names of the options of a choice; the label of an item is the place of the right one."""

_POOL_DRAWS = 4  # a demonstration pool holds this many draws of shots, so that prompts differ
_SHUFFLE_SEED = 0
_LEAST = 4  # a part of fewer items is no advice


@dataclass(frozen=True)
class LabelledItem:
    """One text and its label.

    Attributes:
        text: what is judged; for a choice the question.
        label: index into `LabelledSet.labels`; for a choice index into ``options``.
        options: what a choice is made among, empty for a classification.
        group: what the item is made from (the phrase, fact or event that bears the label). Items of one group are
            alike: a split never parts them, and an interval that takes them for independent is too narrow.
    """

    text: str
    label: int
    options: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True)
class LabelledSet:
    """A balanced set of labelled items, and how it is asked.

    Attributes:
        name: what the command line calls it.
        title: short name for people.
        kind: "classification" (the answer is one of ``labels``) or "choice" (one of the item's own options).
        labels: words that answer; for a choice the letters of the options.
        template: how an item is written up to the answer, with the gap ``{text}``; the answer follows after a space.
        source: the data set whose form it has.
        items: all items, in a fixed shuffled order.
    """

    name: str
    title: str
    kind: Kind
    labels: tuple[str, ...]
    template: str
    source: str
    items: tuple[LabelledItem, ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise TaskError(f"the data set {self.name!r} has no items.")
        if "{text}" not in self.template:
            raise TaskError(f"the template of {self.name!r} needs the gap {{text}}: {self.template!r}.")
        for item in self.items:
            allowed = len(item.options) if self.kind == "choice" else len(self.labels)
            if not 0 <= item.label < allowed:
                raise TaskError(f"an item of {self.name!r} has label {item.label}, and there are {allowed}: {item}.")

    @property
    def n_per_label(self) -> tuple[int, ...]:
        """Number of items of each label."""
        counts = Counter(item.label for item in self.items)
        return tuple(counts[label] for label in range(len(self.labels)))

    @property
    def n_groups(self) -> int:
        """Number of different groups."""
        return len({item.group for item in self.items})

    @property
    def chance(self) -> float:
        """Accuracy of a guess: mean of one over the number of answers."""
        return sum(1 / (len(item.options) or len(self.labels)) for item in self.items) / len(self.items)


@dataclass(frozen=True)
class LabelledSplit:
    """Three parts of one set, no two of which share a group.

    Attributes:
        demonstrations: pool from which the worked examples of a prompt are drawn.
        select: items on which something (heads, say) is chosen.
        test: items on which the choice is judged.
    """

    demonstrations: tuple[LabelledItem, ...]
    select: tuple[LabelledItem, ...]
    test: tuple[LabelledItem, ...]


def balanced(items: Iterable[LabelledItem]) -> tuple[LabelledItem, ...]:
    """The items in a fixed shuffled order, each text with its options once, equally many of each label."""
    rows = list(dict.fromkeys(items))
    random.Random(_SHUFFLE_SEED).shuffle(rows)
    counts = Counter(item.label for item in rows)
    left = dict.fromkeys(counts, min(counts.values()))
    kept: list[LabelledItem] = []
    for item in rows:
        if left[item.label]:
            left[item.label] -= 1
            kept.append(item)
    return tuple(kept)


def split(labelled: LabelledSet, *, select: int, test: int, shots: int, seed: int = 0) -> LabelledSplit:
    """Part a set into a demonstration pool, a selection split and a test split, stratified by label.

    Whole groups go to one part, in proportion to its size, so that the phrase, fact or event which bears the label is
    new in the test split; openings, subjects and templates are shared. Items are then taken from the groups in turn,
    so that a part has as many different groups as it can. Label counts of a part differ by at most one.

    Args:
        labelled: the set.
        select: items in the selection split.
        test: items in the test split.
        shots: demonstrations of one prompt; the pool has four times as many, rounded up to equal label counts.
        seed: decides which group goes where.

    Raises:
        TaskError: if a number is below 0 (1 for the test split), or the set is too small.
    """
    if select < 0 or test < 1 or shots < 0:
        raise TaskError(
            f"a split of {select} selection items, {test} test items and {shots} shots was asked for; "
            "use at least 1 test item and no negative numbers."
        )
    n_labels = len(labelled.labels)
    pool = _POOL_DRAWS * math.ceil(shots / n_labels) * n_labels
    found = _parted(labelled, pool, select, test, seed)
    if found is None:
        raise TaskError(
            f"{labelled.name!r} has {len(labelled.items)} items in {labelled.n_groups} groups that are not parted: too "
            f"few for {select:,} selection items, {test:,} test items and the worked examples of {shots} shots. "
            f"{_what_fits(labelled, pool, select, test, seed)}"
        )
    return found


def _what_fits(labelled: LabelledSet, pool: int, select: int, test: int, seed: int) -> str:
    """The largest splits that fit: of the one for the other as asked, else of both, a third of it for selection."""
    most = len(labelled.items)
    ways: tuple[Callable[[int], tuple[int, int]], ...] = (
        lambda n: (n, test),
        lambda n: (select, n),
        lambda n: (n // 3, n - n // 3),
    )
    for sizes in ways:
        fits = bisect_left(range(1, most + 1), True, key=lambda n: _parted(labelled, pool, *sizes(n), seed) is None)
        if fits >= _LEAST:
            chosen, judged = sizes(fits)
            return f"These fit, and hardly more: {chosen:,} selection and {judged:,} test items."
    return "Ask for fewer shots."


def _parted(labelled: LabelledSet, pool: int, select: int, test: int, seed: int) -> LabelledSplit | None:
    """The split into parts of these sizes; None if there are too few items."""
    if pool + select + test > len(labelled.items):
        return None
    dice = random.Random(f"{labelled.name} {seed}")
    groups = _grouped(labelled.items)
    order = sorted(groups)
    dice.shuffle(order)
    sizes = (pool, select, test)
    parts = _share([groups[name] for name in order], sizes)
    taken = list[tuple[LabelledItem, ...]]()
    for part, size in zip(parts, sizes, strict=True):
        items = _take(labelled, part, size, dice)
        if items is None:
            return None
        taken.append(items)
    return LabelledSplit(*taken)


def _grouped(items: Sequence[LabelledItem]) -> dict[str, list[LabelledItem]]:
    groups: dict[str, list[LabelledItem]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[item.group or f"item {index}"].append(item)
    return dict(groups)


def _share(groups: Sequence[list[LabelledItem]], sizes: Sequence[int]) -> list[list[list[LabelledItem]]]:
    """Give each group to the part that, among its labels, has the smallest share of what it needs."""
    held = [Counter[int]() for _ in sizes]
    parts: list[list[list[LabelledItem]]] = [[] for _ in sizes]
    wanting = [index for index, size in enumerate(sizes) if size]
    for group in groups:
        counts = Counter(item.label for item in group)

        def filled(index: int, counts: Counter[int] = counts) -> float:
            return min(held[index][label] for label in counts) / sizes[index]

        chosen = min(wanting, key=filled)
        parts[chosen].append(group)
        held[chosen].update(counts)
    return parts


def _take(
    labelled: LabelledSet, part: Sequence[Sequence[LabelledItem]], size: int, dice: random.Random
) -> tuple[LabelledItem, ...] | None:
    """``size`` items, labels in equal numbers, groups in turn; None if there are too few."""
    n_labels = len(labelled.labels)
    extra = set(dice.sample(range(n_labels), size % n_labels))
    found: list[LabelledItem] = []
    for label in range(n_labels):
        wanted = size // n_labels + (label in extra)
        rows = _in_turn([[item for item in group if item.label == label] for group in part], dice)
        if len(rows) < wanted:
            return None
        found += rows[:wanted]
    dice.shuffle(found)
    return tuple(found)


def _in_turn(groups: Sequence[list[LabelledItem]], dice: random.Random) -> list[LabelledItem]:
    """One item of each group, then a second one of each, and so on; the order inside a group is random."""
    rows = [dice.sample(group, len(group)) for group in groups]
    longest = max((len(row) for row in rows), default=0)
    return [row[turn] for turn in range(longest) for row in rows if turn < len(row)]
