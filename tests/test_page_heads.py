"""The page of all heads: its table is the map's, the head it chooses itself stands in the field, ids are unique."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.demo import shipped_runs
from app.frame.panels import content_of
from app.pages import PAGES
from app.pages.heads import PAGE
from app.pages.heads_state import HeadsState
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site, View
from headscope.runs import Run


@pytest.fixture(scope="module")
def score_run() -> Run:
    """The newest shipped score run of smollm2; for reading only."""
    from importlib.resources import files

    name = [name for name in shipped_runs() if "-score-smollm2-" in name][-1]
    return Run.open(Path(str(files("app.demo") / "runs" / name)))


def values_of(root: Path, query: str) -> Any:
    """Value of the field ``head`` in the layout for a query."""
    state, _ = HeadsState.read(dict(pair.split("=") for pair in query.split("&")))
    parts: Any = PAGE.layout(Site(ServerSettings(root=root)), state)
    return next(box.value for box in parts[0].children if getattr(box, "id", "") == "heads-head")


def test_the_table_of_all_heads_has_the_numbers_of_the_map(score_run: Run) -> None:
    client = create_app(ServerSettings(root=score_run.path.parent)).server.test_client()
    query = f"run={score_run.manifest.id}&score=induction"
    texts = [
        client.get(f"/data/heads/{panel}.csv?{query}", headers={"Host": "127.0.0.1"}).text for panel in ("map", "rows")
    ]
    assert texts[0] == texts[1]
    panel = PAGE.panel("rows")
    assert panel is not None
    state = HeadsState(run=score_run.manifest.id, score="induction")
    content = content_of(panel, View(Site(ServerSettings(root=score_run.path.parent))), state)
    scores = score_run.score("induction")
    assert [(row["label"], row["value"]) for row in content.body.rowData] == [
        (str(head), float(scores.values[head])) for head in scores.ranked()
    ]
    assert "induction: n = " in content.source


def test_the_strongest_head_stands_in_an_empty_field(score_run: Run) -> None:
    query = f"run={score_run.manifest.id}&score=sink"
    assert values_of(score_run.path.parent, query) == str(score_run.score("sink").ranked()[0])
    assert values_of(score_run.path.parent, f"{query}&head=L3H4") == "L3H4"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_field_and_a_panel_never_share_an_id(page: Any) -> None:
    names = {panel.name for panel in page.panels}
    parts = {
        f"{name}-{part}"
        for name in names
        for part in ("graph", "plot", "body", "caption", "source", "actions", "title")
    }
    assert not {*page.fields, "answer"} & (names | parts)
