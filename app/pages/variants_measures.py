"""The panels about a training on its way: the task's own measures, and one variant at every rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, State, html

from app.figures.rate_curves import rates_figure
from app.figures.training import MEASURES
from app.figures.training_measures import MOST_FACETS, measures_figure
from app.frame.page import Content, Page, empty
from app.pages.variants_state import VariantsState, begun_training, drawn, quietly
from app.pages.variants_training import source
from app.site import Site, View, current_site
from app.views.measure_meanings import Measure
from app.views.numbers import fixed
from app.views.rate_curves import RateCurve, rate_curves
from app.views.table import Column, Table
from app.views.training import TrainRun
from app.views.training_measures import BAND_RULE, HEADS_RULE, Facet, MeasuredRun, shown_table
from headscope.errors import UnknownNameError
from headscope.training.sweep import VariantResult

Option = dict[str, str]


def measured(site: Site, found: TrainRun) -> MeasuredRun:
    """The measures of a run, read once as long as no training is added."""
    key = ("measures", str(found.run.path), len(found.run.manifest.stages))
    return site.remember(key, lambda: MeasuredRun(found))


def measures(view: View, state: VariantsState) -> Content:
    found = begun_training(view.site, state)
    own = measured(view.site, found)
    if not own.measures:
        return empty("No measures of this task were kept in this run: some tasks have them, with --pictures 3.")
    measure, (best, here) = chosen(own, state), drawn(found, state)
    facets = [one for one in own.by_place(measure.name, best) if not state.place or one.title == state.place]
    if not facets:
        return empty(f"None of the drawn variants has {measure.title} {state.place}.")
    shown = facets[:MOST_FACETS]
    return Content(
        measures_figure(shown, order=found.variants),
        table=shown_table(facets, measure.title),
        summary=f"{measure.title} against steps, width {best[0].width}. At the end: {_ends(shown)}.",
        caption=_caption(measure, facets, best, here, found),
        source=source(found),
    )


def chosen(own: MeasuredRun, state: VariantsState) -> Measure:
    """The measure of the state, or the first.

    Raises:
        UnknownNameError: if the run has no such measure.
    """
    known = {one.name: one for one in own.measures}
    wanted = state.task_measure or own.measures[0].name
    if wanted not in known:
        raise UnknownNameError.of("measure of this run", wanted, known)
    return known[wanted]


def _ends(facets: list[Facet]) -> str:
    curves = [curve for facet in facets for curve in facet.curves]
    return "; ".join(f"{one.best.variant} {one.place} {fixed(one.mean[-1])}".replace("  ", " ") for one in curves)


def _caption(measure: Measure, facets: list[Facet], best: tuple[VariantResult, ...], here: int, found: TrainRun) -> str:
    told = [f"{measure.name}: {measure.meaning}" if measure.meaning else "", f"Width {best[0].width}.", BAND_RULE]
    heads = {one.place for facet in facets for one in facet.curves if "H" in one.place}
    if len(heads) > 1 and max(len(one.seeds) for facet in facets for one in facet.curves) > 1:
        told.append(HEADS_RULE)
    diverged = [t for one in best for t in found.of(one.variant, one.width, one.rate) if t.result.diverged]
    if diverged:
        names = ", ".join(one.cell.stage for one in diverged)
        told.append(f"Diverged: {names}; a mean ends where a training has no number.")
    if len(facets) > MOST_FACETS:
        told.append(f"Drawn: {MOST_FACETS} of {len(facets)} places; choose one above.")
    if len(best) < here:
        told.append(f"Drawn: {len(best)} of {here} variants; choose them above.")
    first = found.of(best[0].variant, best[0].width, best[0].rate)[0]
    if n := found.run.record(first.cell.stage).get("measured"):
        told.append(f"n = {n} examples, the same at every step.")
    return " ".join(one for one in told if one)


def every_rate(view: View, state: VariantsState) -> Content:
    found = begun_training(view.site, state)
    best, curves = rated(found, state)
    if len(curves) == 1:
        return empty(f"{best.variant} was trained at one rate, {best.rate:g}: its curve is above.")
    told = ", ".join(f"{one.rate:g}: {fixed(one.held_out)}" for one in curves)
    return Content(
        rates_figure(curves, measure=state.measure),
        table=_rate_table(best, curves),
        summary=f"{MEASURES[state.measure].capitalize()} of {best.variant} at every rate. Held-out accuracy: {told}.",
        caption=f"{best.variant}, width {best.width}: thin lines are seeds, thick ones their mean, in which a training "
        f"that ended early keeps its last value. Held-out accuracy at the end, by rate: {told}.",
        source=source(found),
    )


def rated(found: TrainRun, state: VariantsState) -> tuple[VariantResult, tuple[RateCurve, ...]]:
    """The variant of the state at its width, or the most accurate one, and its curves.

    Raises:
        NotYetError: if nothing was trained at that width.
        UnknownNameError: if the variant was not trained at it.
    """
    wide = state.model_copy(update={"shown": found.variants})
    here = {one.variant: one for one in drawn(found, wide)[0]}
    name = state.rated or max(here.values(), key=lambda one: one.accuracy.mean).variant
    if name not in here:
        raise UnknownNameError.of("variant trained at this width", name, here)
    return here[name], rate_curves(found, here[name])


def _rate_table(best: VariantResult, curves: tuple[RateCurve, ...]) -> Table:
    columns = (
        Column("variant", "Variant"), Column("width", "Width"), Column("rate", "Rate"),
        Column("step", "Step", meaning="steps taken before"), Column("accuracy", "Accuracy", 3, "held out, mean"),
        Column("loss", "Loss", 3, "held out, mean, nats per answer"), Column("seeds", "Seeds"),
    )  # fmt: skip
    rows = tuple(
        (best.variant, best.width, one.rate, *point, len(one.trained))
        for one in curves
        for point in zip(one.steps, one.accuracy, one.loss, strict=True)
    )
    return Table("Every rate", columns, rows)


def measure_options(site: Site, state: VariantsState) -> list[Option]:
    """Measures of the run; none where it has none."""
    found = quietly(lambda: begun_training(site, state))
    own = (quietly(lambda: measured(site, found).measures) or ()) if found else ()
    return [{"value": one.name, "label": one.title} for one in own]


def place_options(site: Site, state: VariantsState) -> list[Option]:
    """Heads or layers at which the chosen measure was taken."""

    def read() -> list[Option]:
        found = begun_training(site, state)
        own, every = measured(site, found), state.model_copy(update={"place": ""})
        facets = own.by_place(chosen(own, every).name, drawn(found, every)[0]) if own.measures else ()
        names = [facet.title for facet in facets if facet.curves[0].place]
        return [{"value": name, "label": name} for name in names]

    return quietly(read) or []


def measure_controls(page: Page, site: Site, state: VariantsState) -> html.Div:
    """Which measure of the task, and where."""
    options, places = measure_options(site, state), place_options(site, state)
    value = state.task_measure or (options[0]["value"] if options else None)
    return html.Div(
        [
            dmc.Select(
                id=page.id("task_measure"), label="Measure", data=_with(options, value), value=value, searchable=True,
                allowDeselect=False, w=330, comboboxProps={"withinPortal": True},
            ),
            dmc.Select(
                id=page.id("place"), label="Head or layer", data=_with(places, state.place), value=state.place or None,
                placeholder="all", clearable=True, w=130,
            ),
        ],
        className="hs-controls",
    )  # fmt: skip


def rate_controls(page: Page, site: Site, state: VariantsState) -> html.Div:
    """Whose rates are drawn."""
    found = quietly(lambda: begun_training(site, state))
    names = [{"value": name, "label": name} for name in (found.variants if found else ())]
    field = dmc.Select(
        id=page.id("rated"), label="Variant", data=_with(names, state.rated), value=state.rated or None,
        placeholder="the most accurate", clearable=True, searchable=True, w=240, comboboxProps={"withinPortal": True},
    )  # fmt: skip
    return html.Div(field, className="hs-controls")


def _with(options: list[Option], value: str | None) -> list[Option]:
    """The options, and what the address asks for although the run has none such."""
    known = {one["value"] for one in options}
    return options if not value or value in known else [*options, {"value": value, "label": value[:80]}]


def register(app: Dash, page: Page) -> None:
    """Another run brings its own measures and variants, another measure its own places."""
    _register_run(app, page)
    _register_places(app, page)


def _register_run(app: Dash, page: Page) -> None:
    fields = {name: State(page.id(name), "value") for name in ("task_measure", "rated")}

    @app.callback(
        output={
            "measures": Output(page.id("task_measure"), "data"),
            "measure": Output(page.id("task_measure"), "value"),
            "variants": Output(page.id("rated"), "data"),
            "rated": Output(page.id("rated"), "value"),
            "hidden": Output(f"{page.id('measures')}-half", "hidden"),
        },
        inputs={"run": Input(page.id("run"), "value"), **fields},
        prevent_initial_call=True,
    )
    def _(run: str | None, task_measure: str | None, rated: str | None) -> Mapping[str, Any]:
        site, state = current_site(), VariantsState(run=(run or "")[:100])
        options = measure_options(site, state)
        found = quietly(lambda: begun_training(site, state))
        names = found.variants if found else ()
        kept = task_measure if task_measure in [one["value"] for one in options] else None
        return {
            "measures": options,
            "measure": kept or (options[0]["value"] if options else None),
            "variants": [{"value": name, "label": name} for name in names],
            "rated": rated if rated in names else None,
            "hidden": not options,
        }


def _register_places(app: Dash, page: Page) -> None:
    @app.callback(
        Output(page.id("place"), "data"),
        Output(page.id("place"), "value"),
        Input(page.id("run"), "value"),
        Input(page.id("task_measure"), "value"),
        State(page.id("place"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, task_measure: str | None, place: str | None) -> Any:
        given = {"run": run, "task_measure": task_measure}
        state = VariantsState.read({name: value for name, value in given.items() if value is not None})[0]
        options = place_options(current_site(), state)
        return options, place if place in [one["value"] for one in options] else None
