"""Guide: what every score and method is, where it comes from, how to read it, and a worked example of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dash_mantine_components as dmc
from dash import ClientsideFunction, Dash, Input, Output, html
from dash.development.base_component import Component
from pydantic import Field

from app.figures.guide_pictures import worked_pattern_figure, worked_series_figure
from app.frame.page import Content, Page, Panel
from app.frame.panels import panel_box
from app.frame.state import PageState
from app.guide.entries import Section, collected
from app.pages.guide_circuits import methods_text, tasks_text
from app.pages.guide_policies import calibration_text, policies_text
from app.pages.guide_text import marked, noted, sectioned
from app.site import Site, View
from app.views.classes import bound_text
from app.views.worked import PATTERNS, WorkedPattern
from app.views.worked_methods import METHODS
from app.views.worked_series import WorkedSeries
from headscope.heads import ScoreDefinition

_METHOD_TITLES = {
    "causal_check": ("Causal check", ("causal_check", "p_value")),
    "ablations": ("Kinds of ablation", ("ablations", "single_heads")),
    "direct_logits": ("Direct logit attribution", ("direct_logits",)),
    "logit_lens": ("Logit lens", ("logit_lens",)),
    "rank_agreement": ("Rank agreement", ("rank_agreement", "rank_interval")),
    "bootstrap": ("Bootstrap interval", ("bootstrap",)),
    "roc_auc": ("A circuit against a truth", ("agreement",)),
    "faithfulness": ("Faithfulness of a circuit", ("curves", "faithfulness", "stability")),
}
_TEXT_ONLY = {"needle_grid": "Needle grid", "weights": "OV and QK circuits"}
_CIRCUITS = {"circuit_methods": "Circuit methods", "circuit_tasks": "Circuit tasks"}
_POLICIES = {"cache_policies": "Policies", "act": "Attention calibration (ACT)"}
_BESIDE = ("Definition", "Tokens", "Activation frequency", "Second column")  # said by the formulas; kept in a fold


class GuideState(PageState):
    """What the page shows.

    Attributes:
        q: words that a card must hold to be shown.
    """

    q: str = Field(default="", max_length=200)


def titles() -> dict[str, str]:
    """Anchor and title of every card, in order."""
    probes = {name: collected().of_probe(name)[0].title for name in PATTERNS}
    return {
        **probes,
        **{name: title for name, (title, _) in _METHOD_TITLES.items()},
        **_TEXT_ONLY,
        **_CIRCUITS,
        **_POLICIES,
    }


def _pattern(make: Callable[[], WorkedPattern]) -> Callable[[View, GuideState], Content]:
    def build(_view: View, _state: GuideState) -> Content:
        worked = make()
        return Content(
            worked_pattern_figure(worked),
            table=worked.table(),
            summary=f"{worked.title}. {worked.steps}.",
            caption=f"Outlined: the cells that count. {worked.steps[:1].upper()}{worked.steps[1:]}.",
            source="A pattern made by hand to show the formula; not a model's.",
        )

    return build


def _series(make: Callable[[], WorkedSeries]) -> Callable[[View, GuideState], Content]:
    def build(_view: View, _state: GuideState) -> Content:
        worked = make()
        return Content(
            worked_series_figure(worked),
            table=worked.table(),
            summary=f"{worked.title}. {worked.steps}.",
            caption=f"{worked.steps[:1].upper()}{worked.steps[1:]}.",
            source="Numbers made up to show the method; not a model's.",
        )

    return build


def _layout(_site: Site, state: GuideState) -> list[Component]:
    names = titles()
    controls = html.Div(
        [
            dmc.TextInput(
                id=PAGE.id("q"), label="Search", value=state.q, debounce=200, className="hs-grow",
                placeholder="name, formula, paper, arXiv id, pitfall",
            ),
            html.P(id="guide-found", className="hs-soft hs-guide-found", role="status"),
        ],
        className="hs-controls",
    )  # fmt: skip
    label: dict[str, Any] = {"aria-label": "Cards"}
    links = [html.A(title, href=f"#{anchor}") for anchor, title in names.items()]
    contents = html.Nav(links, className="hs-guide-contents", **label)
    cards = [
        *(_card(name, names[name], _probe_text(name), picture=True) for name in PATTERNS),
        *(_card(name, names[name], _method_text(_METHOD_TITLES[name][1]), picture=True) for name in _METHOD_TITLES),
        *(_card(name, names[name], _method_text((name,)), picture=False) for name in _TEXT_ONLY),
        _card("circuit_methods", names["circuit_methods"], methods_text(), picture=False),
        _card("circuit_tasks", names["circuit_tasks"], tasks_text(), picture=False),
        _card("cache_policies", names["cache_policies"], policies_text(), picture=False),
        _card("act", names["act"], calibration_text(), picture=False),
    ]
    return [controls, contents, html.Div(cards, id="guide-cards")]


def _card(anchor: str, title: str, text: list[Any], *, picture: bool) -> html.Article:
    shown = [panel_box(PAGE, anchor, tall=300)] if picture else []
    words = html.Div(
        [html.H2(html.A(title, href=f"#{anchor}", className="hs-anchor")), *text], className="hs-guide-text"
    )
    return html.Article([words, *shown], id=anchor, className="hs-guide-card" + ("" if picture else " hs-guide-plain"))


def _probe_text(name: str) -> list[Any]:
    note = collected().notes[name]
    definitions = collected().of_probe(name)
    later = [part for part in note.sections if not _is_beside(part) and not part.label.startswith("Source")]
    fuller = [part for part in note.sections if _is_beside(part)]
    return [
        html.P(marked(note.headline)),
        *(_definition(each, is_first=each.name == name) for each in definitions),
        *sectioned(later),
        html.Details([html.Summary("How it is measured"), *sectioned(fuller)], className="hs-fold"),
    ]


def _is_beside(part: Section) -> bool:
    return not part.label or part.label.startswith(_BESIDE)


def _method_text(names: tuple[str, ...]) -> list[Any]:
    return noted([collected().notes[name] for name in names])


def _definition(each: ScoreDefinition, *, is_first: bool) -> html.Section:
    facts: list[tuple[str, Any]] = [("reading", each.reading), ("unit", each.unit)]
    if each.head_class is not None:
        facts.append(("class", f"{each.head_class} head: {bound_text(each)}"))
    facts.append(("source", marked(each.source)))
    if each.caveats:
        facts.append(("caveats", each.caveats))
    parts: list[Any] = []
    for name, text in facts:
        parts += [html.Dt(name), html.Dd(text)]
    body = [
        html.H3([each.title, " ", html.Code(each.name)]),
        html.Code(each.formula, className="hs-formula"),
        html.Dl(parts, className="hs-facts"),
    ]
    return html.Section(body) if is_first else html.Section(body, id=each.name)


def _register(app: Dash, page: Page) -> None:
    app.clientside_callback(
        ClientsideFunction("headscope_guide", "filter"),
        Output("guide-found", "children"),
        Input(page.id("q"), "value"),
        Input("guide-cards", "id"),
    )


PAGE = Page(
    name="guide",
    title="Guide",
    path="/guide",
    summary="What each score and method is, where it comes from, and how to read it.",
    state=GuideState,
    layout=_layout,
    panels=(
        *(Panel(name, "Worked example", (), _pattern(make)) for name, make in PATTERNS.items()),
        *(Panel(name, "Worked example", (), _series(make)) for name, make in METHODS.items()),
    ),
    register=_register,
)
