"""The state of the page Circuit, and what it means for one run: which method, which circuit, which pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import Field

from app.frame.page import Content, cannot, empty
from app.frame.state import PageState
from app.live.requests import ModelChoice, PairRequest
from app.site import Site, View
from app.views.circuit import CircuitRun, Curve
from app.views.circuit_sizes import sizes_of, step_of
from app.views.circuit_words import no_edges
from app.views.record_numbers import number as number_of
from app.views.tokens import visible
from circuits.circuit_scores import CircuitScores
from circuits.methods import METHODS
from headscope.errors import HeadscopeError, UnknownNameError, UnsupportedError
from headscope.heads import Head
from headscope.runs.index import RunSummary

MAKE_ONE = (
    "Choose a run of kind circuit. One is made by: headscope circuit MODEL --task ioi --method patching,eap-ig-inputs"
)


class CircuitState(PageState):
    """What the page shows.

    Attributes:
        run: id of the run.
        method: whose circuit; empty means the first of the run that scores edges.
        other: the method that it is compared with; empty means the first other one.
        unit: circuits of heads or of edges.
        ranking: strongest by signed score or by magnitude.
        step: point of the slider, from the smallest circuit; -1 means the one where the page opens, as a rule the
            smallest that keeps 0.8 of the effect.
        truth: key of the truth of the ROC curves; empty means the first.
        pair: number of the pair of prompts shown, from 1; 0 means the one whose difference is nearest the median.
        head: chosen head; what is no head of the model gets a sentence.
        off: heads that are ablated in the live run.
    """

    run: str = Field(default="", max_length=100)
    method: str = Field(default="", max_length=60)
    other: str = Field(default="", max_length=60)
    unit: Literal["head", "edge"] = "head"
    ranking: Literal["signed", "absolute"] = "signed"
    step: int = Field(default=-1, ge=-1, le=200)
    truth: str = Field(default="", max_length=20, pattern=r"^(truth\d{1,4})?$")
    pair: int = Field(default=0, ge=0, le=100_000)
    head: str = Field(default="", max_length=40)
    off: tuple[str, ...] = Field(default=(), max_length=2_000)


@dataclass(frozen=True)
class Chosen:
    """A state on its run.

    Attributes:
        found: the run.
        method: the method shown.
        other: the second method; empty where the run has only one.
        state: the state, its step and methods filled in.
        size: parts kept before pruning.
        share: the same as a share of all parts.
    """

    found: CircuitRun
    method: str
    other: str
    state: CircuitState
    size: int
    share: float

    @property
    def scores(self) -> CircuitScores:
        """What the method found."""
        return self.found.scores(self.method)

    @property
    def curve(self) -> Curve | None:
        """The method's curve, if it is in."""
        return self.found.curve(self.method, self.state.unit, self.state.ranking)

    @property
    def kept(self) -> Any:
        """The circuit at the slider, as a mask."""
        return self.found.kept(self.method, self.state.unit, self.state.ranking, self.size)

    @property
    def alive(self) -> set[str]:
        """Labels of its components."""
        return self.found.alive(self.method, self.state.unit, self.state.ranking, self.size)


class NotYetError(HeadscopeError):
    """A stage that is not in."""


def suits(run: RunSummary) -> bool:
    """Whether the page can show a run."""
    return run.kind == "circuit"


def circuit_run(site: Site, run_id: str) -> CircuitRun:
    """A circuit run, read once as long as no stage is added.

    Raises:
        HeadscopeError: if there is no such run, or it is of another kind.
    """
    run = site.run(run_id)

    def opened() -> CircuitRun:
        found = CircuitRun(run)
        run.scores()  # read before the panels are drawn side by side: what reads it loads pandas, plotly looks at it
        return found

    return site.remember(("circuit", str(run.path), len(run.manifest.stages)), opened)


def quietly(site: Site, run_id: str) -> CircuitRun | None:
    """The run for the controls, or None: the panels say why."""
    try:
        return circuit_run(site, run_id) if run_id else None
    except HeadscopeError:
        return None


def default_method(found: CircuitRun) -> str:
    """The first method that scores edges and is not the random one, else the first."""
    useful = [m for m in found.methods if m in METHODS and METHODS[m].edges and m != "random"]
    return next(iter([*useful, *found.methods]), "")


def default_other(found: CircuitRun, method: str) -> str:
    """The first method other than the one shown."""
    return next((m for m in found.methods if m != method), "")


def choose(site: Site, state: CircuitState) -> Chosen:
    """What the state means.

    Raises:
        NotYetError: if no method is in yet.
        UnknownNameError: for a method that the run does not have.
        UnsupportedError: for circuits of edges by a method that scores none.
    """
    found = circuit_run(site, state.run)
    if not found.methods:
        raise NotYetError("No method of this run is in yet.")
    method = state.method or default_method(found)
    other = state.other if state.other != method else ""
    other = other or default_other(found, method)
    for name in (method, other):
        if name and name not in found.methods:
            planned = name in found.config.get("methods", ())
            if planned:
                raise NotYetError(f"The method {name} is planned in this run and not in yet.")
            raise UnknownNameError.of(f"method of the run {found.run.manifest.id}", name[:60], found.methods)
    if state.unit == "edge" and found.scores(method).edges is None:
        raise UnsupportedError(no_edges(method))
    shares, sizes = sizes_of(found, method, state.unit, state.ranking)
    step = step_of(found, method, state.unit, state.ranking, state.step)
    whole = state.model_copy(update={"method": method, "other": other, "step": step})
    return Chosen(found, method, other, whole, sizes[step], float(shares[step]))


def guarded(build: Callable[[View, CircuitState], Content]) -> Callable[[View, CircuitState], Content]:
    """A panel that says in its own words what it cannot show."""

    def whole(view: View, state: CircuitState) -> Content:
        if not state.run:
            return empty(MAKE_ONE)
        try:
            return build(view, state)
        except NotYetError as error:
            return empty(str(error))
        except UnsupportedError as error:
            return cannot(f"{str(error)[:1].upper()}{str(error)[1:]}")

    return whole


def shown_pair(found: CircuitRun, number: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The record of the prompts, the pair shown, and its number, from 1.

    Raises:
        NotYetError: if the prompts are not in.
    """
    if not found.has("prompts"):
        raise NotYetError(found.missing("prompts"))
    record = found.run.record("prompts")
    pairs = record["pairs"]
    number = min(number, len(pairs)) if number else typical_pair(pairs)
    return record, pairs[number - 1], number


def typical_pair(pairs: Sequence[Mapping[str, Any]]) -> int:
    """Number, from 1, of the pair whose clean difference is nearest the median; 1 where the run keeps none."""
    if not all("clean_difference" in pair for pair in pairs):
        return 1
    values = np.array([number_of(pair["clean_difference"]) for pair in pairs])
    if not np.isfinite(values).any():
        return 1
    return 1 + int(np.nanargmin(np.abs(values - np.nanmedian(values))))


def no_such_head(found: CircuitRun, method: str, head: str) -> str:
    """A sentence for what is no head of the run's model; empty where it is one, or nothing is named."""
    if not head.strip():
        return ""
    graph = found.scores(method).graph
    shape = f"{found.run.manifest.model.name} has {graph.n_layers} layers of {graph.n_heads} heads"
    try:
        named = Head.parse(head)
    except HeadscopeError:
        return f"{visible(head)!r} names no head: {shape}, L0H0 to L{graph.n_layers - 1}H{graph.n_heads - 1}."
    if named.layer < graph.n_layers and named.head < graph.n_heads:
        return "" if str(named) == head.strip() else f"Write the head {visible(head)!r} as {named}."
    return f"{shape}: there is no {named}."


def pair_request(found: CircuitRun, state: CircuitState) -> PairRequest:
    """What the live model is asked.

    Raises:
        HeadscopeError: if a head's label cannot be read, or the run has no prompts yet.
    """
    _, pair, _ = shown_pair(found, state.pair)
    dtype, device = (
        str(found.config.get(name, default)) for name, default in (("dtype", "float32"), ("device", "auto"))
    )
    choice = ModelChoice(model=found.run.manifest.model.name, dtype=dtype, device=device)
    return PairRequest.parse(
        {
            "choice": choice.model_dump(),
            "heads": [label for label in state.off if label.strip()],
            **{name: pair[name] for name in ("clean", "corrupted", "right", "wrong")},
        }
    )
