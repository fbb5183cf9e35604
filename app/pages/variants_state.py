"""The state of the page Variants, and what it means for a train and a compare run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from pydantic import Field

from app.figures.training import Measure
from app.frame.choices import newest
from app.frame.page import Content, cannot, empty
from app.frame.state import PageState
from app.site import Site, View
from app.views import training, variant_comparison
from app.views.mixing import Pictured, chosen_models, first_models, pictured_models
from app.views.training import TrainRun
from app.views.variant_comparison import CompareRun
from app.views.variant_profiles import View as MatrixView
from headscope.errors import HeadscopeError, UnsupportedError
from headscope.runs.index import RunSummary
from headscope.training.sweep import VariantResult

TRAIN_ONE = "headscope train mqar --variants softmax,linear,delta --pictures 12"
COMPARE_ONE = "headscope compare softmax linear delta --run latest"
"""Commands that make the runs of this page."""
MOST_CURVES = 10
T = TypeVar("T")
_FIRST_MODELS = {"train": 4, "compare": 6}
Source = Literal["", "train", "compare"]


class VariantsState(PageState):
    """What the page shows.

    Attributes:
        variant: the one on the card; empty means the first that is listed.
        text: words that a listed variant must hold.
        family: of the listed variants; empty means all.
        status: of the listed variants; empty means all.
        run: id of the train run.
        measure: what the learning curves show.
        width: width of the curves; None means the largest.
        shown: variants that are drawn; empty means all, or the best where there are too many.
        rated: variant whose every rate is drawn; empty means the most accurate one.
        task_measure: measure of the task that is drawn; empty means the first.
        place: head or layer whose measure is drawn; empty means all.
        comparison: id of the compare run.
        source: which run's matrices are shown; empty means the train run's where it kept any.
        models: whose matrices; empty means one of each variant.
        view: view of M.
        head: one head, or all.
        step: steps of the training; None means the end.
        colours: 0 to 1, or to the largest weight that is shown.
    """

    variant: str = Field(default="", max_length=80)
    text: str = Field(default="", max_length=120)
    family: str = Field(default="", max_length=60)
    status: str = Field(default="", pattern=r"^(built|policy|left out)?$")
    run: str = Field(default="", max_length=100)
    measure: Measure = "accuracy"
    width: int | None = Field(default=None, ge=1, le=1_000_000)
    shown: tuple[str, ...] = Field(default=(), max_length=60)
    rated: str = Field(default="", max_length=80)
    task_measure: str = Field(default="", max_length=80)
    place: str = Field(default="", max_length=12, pattern=r"^(L\d{1,4}(H\d{1,4})?|embed)?$")
    comparison: str = Field(default="", max_length=100)
    source: Source = ""
    models: tuple[str, ...] = Field(default=(), max_length=48)
    view: MatrixView = "share"
    head: str = Field(default="", max_length=12, pattern=r"^(L\d{1,4}H\d{1,4})?$")
    step: int | None = Field(default=None, ge=0, le=10**9)
    colours: Literal["unit", "fit"] = "unit"


class NotYetError(HeadscopeError):
    """Nothing of it is in."""


def is_training(run: RunSummary) -> bool:
    """Whether a run holds trainings."""
    return run.kind == training.KIND


def is_comparison(run: RunSummary) -> bool:
    """Whether a run holds compared models."""
    return run.kind == variant_comparison.KIND


def start(site: Site, state: VariantsState) -> VariantsState:
    """The state with runs and the source of the matrices filled in, where they are left open.

    A run of another kind, which the menu brings from another page, gives way to one of the kind that is shown here.
    """
    kind = next((run.kind for run in site.runs() if run.id == state.run), "")
    if kind == variant_comparison.KIND and not state.comparison:
        state = state.model_copy(update={"comparison": state.run})
    if kind not in ("", training.KIND):
        state = state.model_copy(update={"run": newest(site, "", is_training) or state.run})
    runs = {
        "run": newest(site, state.run, is_training),
        "comparison": newest(site, state.comparison, is_comparison),
    }
    opened = state.model_copy(update=runs)
    return opened.model_copy(update={"source": state.source or source_of(site, opened)})


def source_of(site: Site, state: VariantsState) -> Literal["train", "compare"]:
    """Which run's matrices are shown where the state leaves it open."""
    found = quietly(lambda: train_run(site, state.run)) if state.run else None
    kept = bool(found and quietly(lambda: found.pictured))
    return "train" if kept or not state.comparison else "compare"


def train_run(site: Site, run_id: str) -> TrainRun:
    """The train run, read once as long as no training is added.

    Raises:
        UnsupportedError: if it is of another kind.
        HeadscopeError: if it cannot be opened.
    """
    run = site.run(run_id)
    if run.manifest.kind != training.KIND:
        raise UnsupportedError(
            f"the run {run.manifest.id} is of kind {run.manifest.kind}, not train. One is made by: {TRAIN_ONE}"
        )
    return site.remember((training.KIND, str(run.path), len(run.manifest.stages)), lambda: TrainRun(run))


def compare_run(site: Site, run_id: str) -> CompareRun:
    """The compare run, read once as long as no model is added.

    Raises:
        UnsupportedError: if it is of another kind.
        HeadscopeError: if it cannot be opened.
    """
    run = site.run(run_id)
    if run.manifest.kind != variant_comparison.KIND:
        raise UnsupportedError(
            f"the run {run.manifest.id} is of kind {run.manifest.kind}, not compare. One is made by: {COMPARE_ONE}"
        )
    key = (variant_comparison.KIND, str(run.path), len(run.manifest.stages))
    return site.remember(key, lambda: CompareRun(run))


def begun_training(site: Site, state: VariantsState) -> TrainRun:
    """The train run of the state, with at least one training in it.

    Raises:
        NotYetError: if no run is chosen, or none of its trainings is in yet.
        HeadscopeError: if it cannot be opened or is of another kind.
    """
    if not state.run:
        raise NotYetError(f"Choose a run of kind train. One is made by: {TRAIN_ONE}")
    found = train_run(site, state.run)
    if not found.trained:
        raise NotYetError(_unfinished("training", "train", found.run.manifest.id))
    return found


def begun_comparison(site: Site, state: VariantsState) -> CompareRun:
    """The compare run of the state, with at least one model in it.

    Raises:
        NotYetError: if no run is chosen, or none of its models is in yet.
        HeadscopeError: if it cannot be opened or is of another kind.
    """
    if not state.comparison:
        raise NotYetError(f"Choose a run of kind compare. One is made by: {COMPARE_ONE}")
    found = compare_run(site, state.comparison)
    if not found.models:
        raise NotYetError(_unfinished("model", "compare", found.run.manifest.id))
    return found


def drawn(found: TrainRun, state: VariantsState) -> tuple[tuple[VariantResult, ...], int]:
    """The variants whose curves are drawn, at the width of the state, and how many there are.

    Raises:
        NotYetError: if nothing was trained at that width.
    """
    width = state.width or found.widths[-1]
    here = [one for one in found.best if one.width == width]
    if not here:
        raise NotYetError(
            f"Nothing was trained at width {width}; widths of this run: {', '.join(map(str, found.widths))}."
        )
    kept = {name for name in state.shown if name in found.variants}
    if not kept:
        kept = {one.variant for one in sorted(here, key=lambda one: -one.accuracy.mean)[:MOST_CURVES]}
    return tuple(one for one in here if one.variant in kept), len(here)


def matrix_run(site: Site, state: VariantsState) -> TrainRun | CompareRun:
    """The run whose matrices are shown.

    Raises:
        NotYetError: if none is chosen or in yet.
    """
    source = state.source or source_of(site, state)
    return begun_training(site, state) if source == "train" else begun_comparison(site, state)


def shown_models(found: TrainRun | CompareRun, names: Sequence[str]) -> tuple[Pictured, ...]:
    """The models of these names, or one of each variant.

    Raises:
        NotYetError: if the run kept no matrices.
        UnknownNameError: if a name is none of its models.
    """
    models = pictured_models(found)
    if not models:
        raise NotYetError(
            "This run kept no mixing matrices. Train with --pictures 12, or look at its trained models: "
            f"headscope compare VARIANT --run {found.run.manifest.id}"
        )
    most = _FIRST_MODELS["train" if isinstance(found, TrainRun) else "compare"]
    return chosen_models(models, names or first_models(models, most))


def quietly(make: Callable[[], T]) -> T | None:
    """What ``make`` gives, or None where it fails: the panels say why."""
    try:
        return make()
    except HeadscopeError:
        return None


def guarded(build: Callable[[View, VariantsState], Content]) -> Callable[[View, VariantsState], Content]:
    """A panel that says in its own words what it cannot show."""

    def whole(view: View, state: VariantsState) -> Content:
        try:
            return build(view, state)
        except NotYetError as error:
            return empty(str(error))
        except UnsupportedError as error:
            return cannot(f"{str(error)[:1].upper()}{str(error)[1:]}")

    return whole


def _unfinished(what: str, command: str, run_id: str) -> str:
    return (
        f"No {what} of this run is in yet: it is unfinished or goes on. Where it was stopped, go on with it: "
        f"headscope {command} --resume {run_id}"
    )
