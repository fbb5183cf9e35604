"""The panels of the page Compare: what one score of two runs says, and why it cannot where it cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dash import html
from pydantic import Field

from app.figures.comparison import depth_figure, difference_figure, paired_maps_figure, run_scatter_figure
from app.frame.page import Content, cannot, empty
from app.frame.state import PageState
from app.frame.words import link
from app.site import View
from app.views.classes import bound_text, head_classes
from app.views.comparison import (
    NO_COMMON_INDEX,
    Comparison,
    MovedHead,
    agreement_sentence,
    compare,
    comparison_table,
    count_sentence,
    paired_table,
)
from app.views.depth import depth_table
from app.views.numbers import decimals_of, fixed, interval, signed
from app.views.score_table import moved_bar
from app.views.setting_differences import difference_sentence, difference_table, setting_differences
from app.views.source import isolated, n_text, source_line
from headscope.errors import UnsupportedError
from headscope.heads import HeadScores
from headscope.runs.reading import Run

_SHOWN_MOVERS = 12
_CHANGES = {"never": "neither", "stayed": "both", "": "no class"}


class CompareState(PageState):
    """What the page shows.

    Attributes:
        a: id of the first run.
        b: id of the second; differences are B - A.
        score: the score compared; empty means the first of run A that makes a class.
        threshold: of the class, in both runs; None means run A's own.
        head: chosen head.
    """

    a: str = Field(default="", max_length=100)
    b: str = Field(default="", max_length=100)
    score: str = Field(default="", max_length=100)
    threshold: float | None = Field(default=None, allow_inf_nan=False)
    head: str = Field(default="", max_length=12, pattern=r"^(L\d{1,4}H\d{1,4})?$")


@dataclass(frozen=True)
class _Pair:
    """Two runs and the score of each, with one threshold."""

    runs: tuple[Run, Run]
    a: HeadScores
    b: HeadScores

    @property
    def is_same(self) -> bool:
        return self.runs[0].manifest.id == self.runs[1].manifest.id

    @property
    def named(self) -> dict[str, HeadScores]:
        """Both scores under a heading: ``A: smollm2, seed 0``."""
        return {
            f"{letter}: {isolated(run.manifest.model.name)}, seed {run.manifest.seed}": scores
            for letter, run, scores in zip("AB", self.runs, (self.a, self.b), strict=True)
        }

    @property
    def whole_source(self) -> str:
        return f"A: {source_line(self.runs[0], self.a)} | B: {source_line(self.runs[1], self.b)}"

    @property
    def source(self) -> str:
        parts = (
            f"{letter}: run {run.manifest.id}, {n_text(scores)}{'' if run.is_complete else ', UNFINISHED RUN'}"
            for letter, run, scores in zip("AB", self.runs, (self.a, self.b), strict=True)
        )
        return f"{self.a.name} · {' · '.join(parts)}"


def _pair(view: View, state: CompareState) -> _Pair:
    first, second = view.site.run(state.a), view.site.run(state.b)
    found = [run.scores() for run in (first, second)]
    name = state.score or first_score(found[0])
    for letter, run, scores in zip("AB", (first, second), found, strict=True):
        if name not in scores:
            shared = ", ".join(each for each in found[0] if each in found[1]) or "none"
            raise _MissingError(f"Run {letter} ({run.manifest.id}) holds no score {name!r}. Scores of both: {shared}.")
    one = moved_bar(found[0][name], state.threshold)
    return _Pair((first, second), one, moved_bar(found[1][name], one.definition.threshold))


class _MissingError(UnsupportedError):
    """A score that only one of the runs holds."""


def first_score(scores: dict[str, HeadScores]) -> str:
    made = [one.definition.name for one in head_classes(scores.values())]
    return next(iter([*(name for name in made if name == "induction"), *made, *scores]), "")


def guarded_panel(build: Any) -> Any:
    """What a page cannot compare is said in its own words."""

    def guarded(view: View, state: CompareState) -> Content:
        if not state.a or not state.b:
            return empty("Choose two runs that hold scores of heads. The page Jobs, or headscope score, makes them.")
        try:
            return build(view, state)
        except UnsupportedError as error:
            return cannot(f"{str(error)[:1].upper()}{str(error)[1:]}")

    return guarded


def _compared(view: View, state: CompareState) -> tuple[_Pair, Comparison]:
    pair = _pair(view, state)
    key = ("compare", *(run.manifest.id for run in pair.runs), *(len(run.manifest.stages) for run in pair.runs),
           pair.a.name, pair.a.definition.threshold)  # fmt: skip
    return pair, view.site.remember(key, lambda: compare(pair.a, pair.b))


def short(view: View, state: CompareState) -> Content:
    pair = _pair(view, state)
    differences = setting_differences(*pair.runs)
    said = [html.P(difference_sentence(differences))] if not pair.is_same else []
    return Content(
        body=[html.P(_headline(view, state, pair), className="hs-finding"), *said, *_cautions(pair)],
        table=difference_table(*pair.runs, differences),
        source=pair.whole_source,
    )


def _headline(view: View, state: CompareState, pair: _Pair) -> str:
    if pair.is_same:
        return "A and B are the same run: every difference is 0."
    if pair.a.values.shape == pair.b.values.shape:
        return agreement_sentence(_compared(view, state)[1])
    counts = ""
    if pair.a.definition.threshold is not None:
        name = pair.a.definition.head_class or pair.a.definition.title
        counted = "; ".join(count_sentence(*each) for each in (("A", pair.a), ("B", pair.b)))
        counts = f" Heads of the class {name} ({bound_text(pair.a.definition)}): {counted}."
    return f"The two models differ in shape, and {NO_COMMON_INDEX}: no head is compared with a head.{counts}"


def _cautions(pair: _Pair) -> list[html.P]:
    one, two = (run.score(pair.a.name).definition for run in pair.runs)
    found: list[str] = []
    if one.threshold != two.threshold:
        found.append(f"The runs' own thresholds differ ({one.threshold} and {two.threshold}): A's is used for both.")
    if one.formula != two.formula or one.unit != two.unit:
        found.append(f"The score is defined differently in the two runs: A {one.formula}; B {two.formula}.")
    models = [isolated(run.manifest.model.name) for run in pair.runs]
    if models[0] != models[1] and pair.a.values.shape == pair.b.values.shape:
        found.append(
            f"{models[0]} and {models[1]} are different models of the same shape: that two heads share an index says "
            "nothing about them unless one model was made from the other."
        )
    return [html.P(text, className="hs-soft") for text in found]


def maps(view: View, state: CompareState) -> Content:
    pair = _pair(view, state)
    bound = bound_text(pair.a.definition)
    outlined = f" Outlined: {bound}." if bound else ""
    counts = "; ".join(count_sentence(*each) for each in (("A", pair.a), ("B", pair.b))) if bound else ""
    return Content(
        paired_maps_figure(pair.named),
        table=paired_table(pair.named),
        summary=f"{pair.a.definition.title} by layer and head in two runs. {counts}",
        caption=f"Both maps share one colour range.{outlined} Layer 0 is on top.",
        source=pair.source,
    )


def difference(view: View, state: CompareState) -> Content:
    pair, found = _compared(view, state)
    largest = found.largest
    moved = ""
    if largest is not None:
        moved = f" Largest: {largest.head}, {signed(largest.difference, decimals_of(pair.a.values))}."
    return Content(
        difference_figure(found),
        table=comparison_table(found),
        summary=f"Difference B - A of {pair.a.definition.title} by layer and head.{moved}",
        caption=f"{_outlined(found)} Purple: higher in B; orange: lower in B.{moved}",
        source=pair.source,
    )


def _outlined(found: Comparison) -> str:
    """What the outlines of the map mean, and of how many heads nothing can be said."""
    heads = found.heads
    known = [row for row in heads if row.intervals != "no interval"]
    if not known:
        return "Nothing is outlined: the values have no intervals, they are exact or of one example."
    of = f"{len(known)} of {len(heads)} heads with intervals" if len(known) < len(heads) else f"{len(heads)} heads"
    return (
        f"Outlined: {sum(row.is_apart for row in known)} of the {of}, whose two 95 % intervals do not overlap. With so "
        "many heads some do so by chance."
    )


def scatter(view: View, state: CompareState) -> Content:
    pair, found = _compared(view, state)
    first, second = (isolated(run.manifest.model.name) for run in pair.runs)
    return Content(
        run_scatter_figure(found, (first, second)),
        table=comparison_table(found),
        summary=f"{pair.a.definition.title} of every head in A against B. {agreement_sentence(found)}",
        caption=f"{agreement_sentence(found)} The interval is a bootstrap over heads. Line: no change; dotted: the "
        "threshold. Click a mark to choose the head.",
        source=pair.source,
    )


def movers(view: View, state: CompareState) -> Content:
    pair, found = _compared(view, state)
    digits = decimals_of(pair.a.values)
    names = ("head", "A", "95 % interval", "B", "95 % interval", "B - A", "intervals", "in class")
    head = html.Tr(
        [html.Th(name, scope="col", className="hs-number" if 0 < i < 7 else "") for i, name in enumerate(names)]
    )
    shown = list(found.heads[:_SHOWN_MOVERS])
    shown += [row for row in found.heads[_SHOWN_MOVERS:] if str(row.head) == state.head]
    rows = [_mover(row, digits, pair, chosen=str(row.head) == state.head) for row in shown]
    return Content(
        body=html.Table([html.Thead(head), html.Tbody(rows)], className="hs-table"),
        table=comparison_table(found),
        caption=f"The {min(_SHOWN_MOVERS, len(shown))} of {len(found.heads)} heads that moved most, and the chosen one."
        " Numbers has all.",
        source=pair.source,
    )


def _mover(row: MovedHead, digits: int, pair: _Pair, *, chosen: bool) -> html.Tr:
    cells = (
        fixed(row.a, digits),
        interval(row.a_low, row.a_high, digits),
        fixed(row.b, digits),
        interval(row.b_low, row.b_high, digits),
        signed(row.difference, digits),
    )
    label = link(str(row.head), "/heads", run=pair.runs[1].manifest.id, head=str(row.head), score=pair.b.name)
    return html.Tr(
        [
            html.Th([label, " (chosen)" if chosen else ""], scope="row"),
            *(html.Td(cell, className="hs-number") for cell in cells),
            html.Td(row.intervals, className="hs-number"),
            html.Td(_CHANGES.get(row.change, row.change)),
        ]
    )


def depth(view: View, state: CompareState) -> Content:
    pair = _pair(view, state)
    if pair.a.definition.threshold is None:
        return empty(f"{pair.a.definition.title} makes no class. Set a threshold, or choose a score with a class.")
    counts = "; ".join(count_sentence(*each) for each in (("A", pair.a), ("B", pair.b)))
    return Content(
        depth_figure(pair.named),
        table=depth_table(pair.named),
        summary=f"Share of each layer's heads in the class, by relative depth. {counts}",
        caption=f"{counts}. Class: {pair.a.definition.title} {bound_text(pair.a.definition)}.",
        source=pair.source,
    )
