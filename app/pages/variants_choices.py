"""What the controls of the page Variants offer, and how one changes another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import Dash, Input, Output, State

from app.frame.page import Page
from app.pages.variants_state import VariantsState, begun_training, matrix_run, quietly, shown_models
from app.site import Site, current_site
from app.views.mixing import Pictured, all_steps, heads_of, pictured_models
from app.views.training import TrainRun

Option = dict[str, str]
_MOST_OFFERED = 400


def width_options(found: TrainRun | None, wanted: int | None = None) -> list[Option]:
    """Widths of the run, and what the address asks for although the run has none such."""
    widths = list(found.widths if found else ())
    if wanted is not None and wanted not in widths:
        widths.append(wanted)
    return [{"value": str(width), "label": str(width)} for width in widths]


def model_options(site: Site, state: VariantsState) -> tuple[list[Option], tuple[Pictured, ...]]:
    """Models to choose from, and those that are shown."""
    found = quietly(lambda: matrix_run(site, state))
    models = (quietly(lambda: pictured_models(found)) or ()) if found is not None else ()
    options = [{"value": one.name, "label": one.label} for one in models[:_MOST_OFFERED]]
    known = {option["value"] for option in options}
    options += [{"value": name, "label": name[:60]} for name in state.models if name not in known]
    shown = (quietly(lambda: shown_models(found, state.models)) or ()) if found is not None else ()
    return options, shown


def head_options(site: Site, state: VariantsState) -> list[Option]:
    """Heads that the shown models have, and what the address asks for."""
    _, shown = model_options(site, state)
    found = quietly(lambda: matrix_run(site, state))
    names = list((quietly(lambda: heads_of(found.run, shown)) or ()) if found is not None and shown else ())
    if state.head and state.head not in names:
        names.append(state.head)
    return [{"value": name, "label": name} for name in names]


def steps_text(steps: Sequence[int], value: int | None) -> str:
    """``step 250 of 600``."""
    return f"step {value if value is not None else steps[-1]:,} of {steps[-1]:,}" if steps else ""


def register(app: Dash, page: Page) -> None:
    """Another run brings its own variants, widths, models, heads and steps."""
    _register_training(app, page)
    _register_models(app, page)
    _register_steps(app, page)


def _register_training(app: Dash, page: Page) -> None:
    @app.callback(
        Output(page.id("shown"), "data"),
        Output(page.id("shown"), "value"),
        Output(page.id("width"), "data"),
        Output(page.id("width"), "value"),
        Input(page.id("run"), "value"),
        State(page.id("shown"), "value"),
        State(page.id("width"), "value"),
        prevent_initial_call=True,
    )
    def _(run: str | None, shown: list[str] | None, width: str | None) -> Any:
        found = quietly(lambda: begun_training(current_site(), VariantsState(run=(run or "")[:100])))
        names = found.variants if found else ()
        widths = [str(one) for one in (found.widths if found else ())]
        kept = width if width in widths else (widths[-1] if widths else None)
        options = [{"value": name, "label": name} for name in names]
        return options, [name for name in shown or () if name in names], width_options(found), kept


def _register_models(app: Dash, page: Page) -> None:
    @app.callback(
        Output(page.id("models"), "data"),
        Output(page.id("models"), "value"),
        inputs={
            name: Input(page.id(name), "value") for name in ("run", "comparison", "source")
        } | {"models": State(page.id("models"), "value")},
        prevent_initial_call=True,
    )  # fmt: skip
    def _(**given: Any) -> Any:
        state = _state({**given, "models": None})
        options, _ = model_options(current_site(), state)
        known = {option["value"] for option in options}
        return options, [name for name in given["models"] or () if name in known]


def _register_steps(app: Dash, page: Page) -> None:
    names = ("run", "comparison", "source", "models")

    @app.callback(
        output={
            "heads": Output(page.id("head"), "data"),
            "head": Output(page.id("head"), "value"),
            "most": Output(page.id("step"), "max"),
            "marks": Output(page.id("step"), "marks"),
            "value": Output(page.id("step"), "value"),
            "off": Output(page.id("step"), "disabled"),
            "hidden": Output("variants-scrub", "hidden"),
            "steps": Output("variants-scrub", "data-steps"),
        },
        inputs={name: Input(page.id(name), "value") for name in names}
        | {name: State(page.id(name), "value") for name in ("head", "step")},
        prevent_initial_call=True,
    )
    def _(**given: Any) -> Any:
        state, site = _state({**given, "head": None, "step": None}), current_site()
        heads = head_options(site, state)
        steps = all_steps(model_options(site, state)[1])
        return {
            "heads": heads,
            "head": given["head"] if given["head"] in [one["value"] for one in heads] else None,
            "most": max(steps, default=1) or 1,
            "marks": [{"value": step} for step in steps],
            "value": given["step"] if given["step"] in steps else (steps[-1] if steps else 0),
            "off": len(steps) < 2,
            "hidden": len(steps) < 2,
            "steps": ",".join(map(str, steps)),
        }

    @app.callback(
        Output("variants-step-said", "children"),
        Input(page.id("step"), "value"),
        Input("variants-scrub", "data-steps"),
    )
    def _(step: int | None, steps: str | None) -> str:
        return steps_text([int(one) for one in (steps or "").split(",") if one], step)


def _state(given: Mapping[str, Any]) -> VariantsState:
    return VariantsState.read({name: value for name, value in given.items() if value is not None})[0]
