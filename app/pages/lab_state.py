"""The state of the Prompt lab, the question that it asks, and where the answer is: in a run, or with the live model."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from app.forms.choices import MODELS
from app.frame.choices import finished_first
from app.frame.state import PageState
from app.lab_run import KIND, PinnedLab, load_lab, same_question
from app.live.kept import kept_answer
from app.live.requests import AblationKind, LabRequest
from app.site import Site, View
from app.views.classes import head_classes
from app.views.lab import LabView
from headscope.errors import HeadscopeError

MOST_SETS = 20
QUESTION = (
    "model", "text", "heads", "ablation", "policy", "kept", "position", "a", "b", "random", "seed", "captures",
)  # fmt: skip
"""Fields that change the answer."""


class LabState(PageState):
    """What the page shows.

    Attributes:
        pinned: id of a kept answer; it is shown as long as the question is its own.
        model: name of the model; empty means the one that the server was started with.
        text: what it reads.
        heads: labels of the ablated heads.
        ablation: what takes the place of their output.
        policy: policy that the text is read under; empty means none.
        kept: tokens that every head may keep or look at under it.
        position: position whose next token is predicted; negative from the end.
        a: token A; empty means the likeliest.
        b: token B; empty means the likeliest other.
        random: sets of as many random heads.
        seed: of the random sets and of the passages of mean and resample.
        captures: whether attention is read too.
        run: score run whose classes can be chosen.
        group: class of which the strongest heads are ticked.
        k: how many of them.
        temperature: of the table of next tokens.
        shade: what colours the tokens.
        head: head whose attention is drawn; empty means the first ablated one.
    """

    pinned: str = Field(default="", max_length=100)
    model: str = Field(default="", max_length=1_000)
    text: str = Field(default="", max_length=20_000)
    heads: tuple[str, ...] = Field(default=(), max_length=2_000)
    ablation: AblationKind = "zero"
    policy: str = Field(default="", max_length=40)
    kept: int = Field(default=64, ge=1, le=4_096)
    position: int = Field(default=-1, ge=-4_096, lt=4_096)
    a: str = Field(default="", max_length=200)
    b: str = Field(default="", max_length=200)
    random: int = Field(default=0, ge=0, le=MOST_SETS)
    seed: int = Field(default=0, ge=0, lt=2**32)
    captures: bool = False
    run: str = Field(default="", max_length=100)
    group: str = Field(default="", max_length=100)
    k: int = Field(default=5, ge=1, le=2_000)
    temperature: float = Field(default=1.0, ge=0.1, le=3.0)
    shade: str = Field(default="clean", pattern="^(clean|ablated|change)$")
    head: str = Field(default="", max_length=12)


def lab_request(state: LabState, default_model: str) -> LabRequest:
    """The question of a state.

    Raises:
        HeadscopeError: if a head's label cannot be read.
    """
    return LabRequest.parse(
        {
            "choice": {"model": state.model.strip() or default_model},
            "text": state.text,
            "heads": [label for label in state.heads if label.strip()],
            "ablation": state.ablation,
            "policy": state.policy,
            "kept": state.kept,
            "position": state.position,
            "token_a": state.a or None,
            "token_b": state.b or None,
            "random_sets": state.random,
            "seed": state.seed,
            "captures": state.captures,
        }
    )


def question_of(request: LabRequest) -> dict[str, Any]:
    """The fields of a state that ask the same."""
    return {
        "model": request.choice.model,
        "text": request.text,
        "heads": request.heads,
        "ablation": request.ablation,
        "policy": request.policy,
        "kept": request.kept,
        "position": request.position,
        "a": request.token_a or "",
        "b": request.token_b or "",
        "random": request.random_sets,
        "seed": request.seed,
        "captures": request.captures,
    }


def pinned_lab(site: Site, run_id: str) -> PinnedLab:
    """A kept answer, read once.

    Raises:
        HeadscopeError: if there is no such run, or it keeps none.
    """
    run = site.run(run_id)
    return site.remember(("lab", run.path, run.manifest.finished), lambda: load_lab(run))


def resolved(site: Site, state: LabState) -> LabState:
    """The state with the question of its pinned run, where the address named only the run."""
    blank = LabState()
    if not state.pinned or any(getattr(state, name) != getattr(blank, name) for name in QUESTION):
        return state
    try:
        return state.model_copy(update=question_of(pinned_lab(site, state.pinned).request))
    except HeadscopeError:
        return state  # the panels say why


def opening(site: Site, state: LabState) -> LabState:
    """The state that a page begins with: an address without a question shows the newest pinned answer."""
    blank = LabState()
    if not state.pinned and all(getattr(state, name) == getattr(blank, name) for name in QUESTION):
        newest = (run.id for run in site.runs() if run.kind == KIND and run.status == "done")
        state = state.model_copy(update={"pinned": next(newest, "")})
    return resolved(site, state)


def is_known_model(site: Site, name: str) -> bool:
    """Whether a link may load this model: one that comes with Headscope, the server's own, or that of a run here.

    Any other name, a folder or an id of the hub, is loaded only when somebody types it; then links know it too.
    """
    known = {*MODELS, site.settings.model, *site.typed_models}
    return not name or name in known or any(run.model == name for run in site.runs())


def is_asking(state: LabState) -> bool:
    """Whether there is a text to ask about."""
    return bool(state.text.strip())


def find_answer(view: View, state: LabState, *, is_new: bool = False) -> LabView:
    """The pinned answer if the question is its own, else that of the live model.

    Args:
        view: who asks.
        state: the question.
        is_new: whether the model may be asked, in place of what the tab has asked before; panels and exports only read
            what was answered.

    Raises:
        Superseded: if the tab has asked something newer.
        HeadscopeError: what cannot work.
    """
    site = view.site
    state = resolved(site, state)
    pinned = pinned_lab(site, state.pinned) if state.pinned else None
    request = lab_request(state, site.settings.model)
    if pinned is not None:
        alike = request.model_copy(update={"choice": _own_choice(request, pinned), "bos": pinned.request.bos})
        if same_question(alike, pinned.request, n_tokens=pinned.result.n_tokens):
            return LabView(pinned.request, pinned.result, pinned)
    if is_new:
        channel = f"{view.tab}-lab" if view.tab else f"unnamed-{hash(request.key)}"
        return LabView(request, site.host.ask(request, channel=channel))
    return LabView(request, kept_answer(site.host, request, tab=view.tab))


def _own_choice(request: LabRequest, pinned: PinnedLab) -> Any:
    """A pinned answer may have been made with another device or number format than the live model would use."""
    same = request.choice.model == pinned.request.choice.model
    return pinned.request.choice if same else request.choice


def class_members(site: Site, run_id: str) -> dict[str, list[str]]:
    """Labels of the heads of each class of a score run, strongest first; none where it cannot be read."""
    try:
        scores = site.run(run_id).scores() if run_id else {}
    except HeadscopeError:
        return {}
    return {one.name: [row.label for row in one.members] for one in head_classes(scores.values()) if one.members}


def score_run(site: Site, wanted: str, model: str) -> str:
    """``wanted`` if it is a score run of the model, else the newest that is; empty if there is none."""
    runs = finished_first(run for run in site.runs() if run.is_readable and run.n_scores and run.model == model)
    suiting = [run.id for run in runs if run.kind == "score"]
    return wanted if wanted in suiting else next(iter(suiting), "")


NO_TEXT = "Write a text above: the model reads it and predicts what comes next."
