"""The controls of the Prompt lab's question: text, model, tokens, what is done to which heads, under which policy."""

from __future__ import annotations

from typing import Any

import dash_mantine_components as dmc
from dash import Dash, Input, Output, ctx, html, no_update
from dash.development.base_component import Component

from app.forms.choices import MODELS
from app.frame.choices import has_scores, run_select
from app.frame.page import Page
from app.live.policy_choice import FAMILIES, OFFERED, is_sized, keeps_heads
from app.pages.lab_state import LabState, class_members, score_run
from app.site import Site, current_site
from app.views.lab_words import ABLATIONS

COMPARE, STOP = "Compare with the same number of random heads", "Stop comparing with random heads"
"""What the button of the random sets says."""


def question(page: Page, site: Site, state: LabState, members: dict[str, list[str]]) -> html.Div:
    """The controls of the question."""
    parts = [*_asked(page, state), *_changed(page, state), *_chosen_heads(page, site, state, members)]
    return html.Div(parts, className="hs-controls lab-question")


def _asked(page: Page, state: LabState) -> list[Component]:
    """Text, model and the two tokens."""
    return [
        dmc.Textarea(
            id=page.id("text"), label="Text", value=state.text, debounce=400, autosize=True, minRows=2, maxRows=8,
            placeholder="When Mary and John went to the store, John gave a drink to", className="lab-text",
            inputProps={"maxLength": 20_000},
        ),
        dmc.Autocomplete(
            id=page.id("model"), label="Model", value=state.model, data=list(MODELS), debounce=500, w=170,
        ),
        dmc.TextInput(
            id=page.id("a"), label="Token A", value=state.a, debounce=500, w=130, placeholder="likeliest",
        ),
        dmc.TextInput(
            id=page.id("b"), label="Token B", value=state.b, debounce=500, w=130, placeholder="likeliest other",
        ),
    ]  # fmt: skip


def _changed(page: Page, state: LabState) -> list[Component]:
    """What is done to the heads, under which policy, and whether attention is read."""
    kinds = [{"value": kind, "label": label} for kind, (label, _) in ABLATIONS.items()]
    return [
        dmc.Select(
            id=page.id("ablation"), label="Ablation", data=kinds, value=state.ablation, allowDeselect=False, w=270,
            disabled=keeps_heads(state.policy),
        ),
        dmc.Select(
            id=page.id("policy"), label="Policy", data=_policies(), value=state.policy or None, clearable=True,
            searchable=True, placeholder="None: full attention", w=250,
        ),
        html.Div(
            dmc.NumberInput(
                id=page.id("kept"), label="Tokens kept", value=state.kept, min=1, max=4_096, step=16, w=110,
            ),
            id="lab-kept-box", hidden=not is_sized(state.policy),
        ),
        html.Div(
            dmc.Switch(id=page.id("captures"), label="Read attention", checked=state.captures),
            className="lab-switch",
        ),
        dmc.TextInput(
            id=page.id("head"), label="of head", value=state.head, debounce=400, w=90, placeholder="L5H1",
            className="lab-attention",
        ),
    ]  # fmt: skip


def _chosen_heads(page: Page, site: Site, state: LabState, members: dict[str, list[str]]) -> list[Component]:
    """The heads by name, the classes that tick the strongest of them, and random heads for comparison."""
    return [
        dmc.TagsInput(
            id=page.id("heads"), label=_heads_label(state.policy), value=list(state.heads), className="lab-heads",
            splitChars=[",", " ", ";"], acceptValueOnBlur=True, clearable=True, placeholder="L5H1, L17H3 ...",
        ),
        run_select(page, site, state.run, label="Classes of the run", suits=has_scores),
        dmc.Select(
            id=page.id("group"), label="Strongest heads of", data=_class_choices(members), value=state.group or None,
            clearable=True, placeholder="a class", w=200,
        ),
        dmc.NumberInput(id=page.id("k"), label="how many", value=state.k, min=1, max=2_000, step=1, w=90),
        html.Button(STOP if state.random else COMPARE, id="lab-compare", type="button", className="hs-button"),
    ]  # fmt: skip


def _policies() -> list[dict[str, Any]]:
    return [
        {
            "group": title,
            "items": [{"value": name, "label": kind.title} for name, kind in OFFERED.items() if kind.family == family],
        }
        for family, title in FAMILIES.items()
    ]


def _heads_label(policy: str) -> str:
    return "Heads that keep everything" if keeps_heads(policy) else "Changed heads"


def _class_choices(members: dict[str, list[str]]) -> list[dict[str, str]]:
    """Classes to tick the strongest heads of, with their sizes."""
    return [{"value": name, "label": f"{name} ({len(heads)})"} for name, heads in members.items()]


def register_question(app: Dash, page: Page) -> None:
    """How one control of the question changes another."""
    _register_choice(app, page)
    _register_policy(app, page)


def _register_choice(app: Dash, page: Page) -> None:
    """A class ticks its strongest heads; ticking others by hand leaves the class; a model brings its own score run."""

    @app.callback(
        Output(page.id("run"), "value"),
        Output(page.id("group"), "data"),
        Input(page.id("run"), "value"),
        Input(page.id("model"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, model: str | None) -> Any:
        site = current_site()
        chosen = score_run(site, run or "", model or site.settings.model)
        return (no_update if chosen == (run or "") else chosen or None), _class_choices(class_members(site, chosen))

    @app.callback(
        Output(page.id("heads"), "value"),
        Output(page.id("group"), "value"),
        Input(page.id("group"), "value"),
        Input(page.id("k"), "value"),
        Input(page.id("run"), "value"),
        Input(page.id("heads"), "value"),
        prevent_initial_call=True,
    )
    def _(group: str | None, k: int | None, run: str | None, heads: list[str] | None) -> Any:
        if not group:
            return no_update, no_update
        wanted = class_members(current_site(), run or "").get(group, [])[: k or 1]
        if ctx.triggered_id == page.id("heads"):
            return no_update, no_update if heads == wanted else None
        return (wanted, no_update) if wanted else (no_update, None)


def _register_policy(app: Dash, page: Page) -> None:
    """A policy decides what the heads are for, and whether it has a budget."""

    @app.callback(
        Output("lab-kept-box", "hidden"),
        Output(page.id("ablation"), "disabled"),
        Output(page.id("heads"), "label"),
        Input(page.id("policy"), "value"),
    )
    def _(policy: str | None) -> tuple[bool, bool, str]:
        chosen = policy or ""
        return not is_sized(chosen), keeps_heads(chosen), _heads_label(chosen)
