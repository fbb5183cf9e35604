"""The state of the page Heads, and what it means for one run: its scores, the shown one, the head."""

from __future__ import annotations

from pydantic import Field

from app.frame.state import PageState
from app.site import View
from app.views.classes import head_classes
from app.views.heads import top_heads
from app.views.score_table import moved_bar
from headscope.errors import UnknownNameError
from headscope.heads import Head, HeadScores
from headscope.runs.reading import Run


class HeadsState(PageState):
    """What the page shows.

    Attributes:
        run: id of the run.
        score: score on the map; empty means the first of the run that makes a class.
        bar: threshold; None means the score's own.
        against: second score, for the scatter.
        head: chosen head.
        maps: one score, or all of them small.
    """

    run: str = Field(default="", max_length=100)
    score: str = Field(default="", max_length=100)
    bar: float | None = None
    against: str = Field(default="", max_length=100)
    head: str = Field(default="", max_length=12, pattern=r"^(L\d{1,4}H\d{1,4})?$")
    maps: str = Field(default="one", pattern="^(one|all)$")


def first_class(scores: dict[str, HeadScores]) -> str:
    """The score that is shown where none is named: one that makes a class, if there is any."""
    made = head_classes(scores.values())
    wanted = [one.definition.name for one in made if one.name == "retrieval"]
    return next(iter([*wanted, *(one.definition.name for one in made), *scores]), "")


def second_score(scores: dict[str, HeadScores], first: str) -> str:
    """The score that it is set against where none is named."""
    made = [one.definition.name for one in head_classes(scores.values()) if one.definition.name != first]
    wanted = [name for name in made if name == "induction"]
    return next(iter([*wanted, *made, *(name for name in scores if name != first)]), first)


def chosen(view: View, state: HeadsState) -> tuple[Run, dict[str, HeadScores], HeadScores]:
    """The run, its scores and the one on the map, with the threshold of the state.

    Raises:
        HeadscopeError: if there is no such run or score.
    """
    run = view.site.run(state.run)
    scores = run.scores()
    if not scores:
        raise UnknownNameError(f"the run {state.run} holds no scores of heads. Choose a score run.")
    name = state.score or first_class(scores)
    return run, scores, moved_bar(run.score(name), state.bar)


def strongest(scores: HeadScores | None) -> str:
    """The head that is chosen where none is named."""
    best = top_heads(scores, 1) if scores is not None else ()
    return best[0].label if best else "L0H0"


def head_kept(scores: HeadScores, head: str | None) -> str:
    """The head, where the model has it, else the strongest."""
    state, refused = HeadsState.read({"head": head})
    if refused or not state.head:
        return strongest(scores)
    found = Head.parse(state.head)
    return state.head if found.layer < scores.n_layers and found.head < scores.n_heads else strongest(scores)
