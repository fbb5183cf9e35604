"""The Prompt lab shows the library's own answer; what cannot work is a sentence; a pin needs no model."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
import pytest
import torch

from app.frame.page import Content
from app.frame.panels import content_of
from app.frame.shell import page_layout
from app.lab_run import save_lab
from app.live.client import ModelHost, Superseded
from app.live.requests import LabRequest
from app.live.results import LabResult, Refusal
from app.live.work import Desk
from app.pages.lab import PAGE
from app.pages.lab_state import LabState, find_answer, lab_request, question_of, resolved, score_run
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site, View, channels_of
from app.views.lab import LabView
from circuits import ablate
from headscope.errors import HeadIndexError, HeadscopeError
from headscope.heads import Head
from headscope.models.bridged import BridgedModel

TEXT = "the old keeper said that the old"
HEADS = ("L0H0", "L1H0")
MODEL = "planted:induction"
Planted = Callable[..., BridgedModel]


class DeskHost:
    """Answers in this process, as the model process would, and counts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, LabRequest]] = []
        self.kept: dict[str, LabResult] = {}
        self.desk = Desk(lambda *_: None)
        self.error: Exception | None = None

    def ask(self, request: LabRequest, *, channel: str) -> LabResult:
        self.asked.append((channel, request))
        if self.error is not None:
            raise self.error
        if request.key not in self.kept:
            found = self.desk.answer(request, tell=lambda *_: None, check=lambda: None)
            assert isinstance(found, LabResult)
            self.kept[request.key] = found
        return self.kept[request.key]

    def recall(self, request: LabRequest) -> LabResult | None:
        return self.kept.get(request.key)

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture(scope="module")
def host() -> DeskHost:
    return DeskHost()


@pytest.fixture
def site(tmp_path: Path, host: DeskHost) -> Site:
    made = Site(ServerSettings(root=tmp_path, model=MODEL))
    made.__dict__["host"] = host
    host.asked.clear()
    host.error = None
    return made


def state(**changes: Any) -> LabState:
    return LabState(**{"model": MODEL, "text": TEXT, "heads": HEADS, "random": 3, **changes})


def ask(site: Site, of: LabState, tab: str = "tab") -> LabView:
    """The answer as the page gets it before its panels are drawn."""
    return find_answer(View(site, tab), of, is_new=True)


def shown(site: Site, panel: str, of: LabState, tab: str = "tab") -> Content:
    """A panel after the page has asked, as the browser does it."""
    found = PAGE.panel(panel)
    assert found is not None
    assert PAGE.prepare
    with suppress(HeadscopeError, Superseded):
        PAGE.prepare(View(site, tab), of)
    return content_of(found, View(site, tab), of)


def words(content: Any) -> str:
    """All text of a component tree."""
    if isinstance(content, str | int | float):
        return str(content)
    if isinstance(content, list | tuple):
        return " ".join(map(words, content))
    return words(getattr(content, "children", None) or "")


@pytest.fixture
def fetch(site: Site) -> Callable[..., Any]:
    client = create_app(site.settings, site=site).server.test_client()
    return lambda path, **query: client.get(f"/data/lab/{path}?{urlencode(query)}")


def test_an_export_never_starts_the_model(fetch: Callable[..., Any], site: Site, host: DeskHost) -> None:
    host.kept.clear()
    for panel in ("strip", "next", "effect", "lens", "attribution", "clean", "ablated"):
        answer = fetch(f"{panel}.csv", model=MODEL, text=TEXT, captures=1)
        assert answer.status_code == 409
        assert answer.text == "This answer is not kept any more: open the page, then export.\n"
    panel = PAGE.panel("next")
    assert panel is not None
    content = content_of(panel, View(site, "tab"), state())
    assert content.notice == ("failed", "This answer is not kept any more: ask again.")
    assert host.asked == []
    ask(site, state(heads=()))
    assert fetch("next.csv", model=MODEL, text=TEXT, random=3).status_code == 200


def test_exports_are_what_the_model_says(fetch: Callable[..., Any], site: Site, planted: Planted) -> None:
    model = planted("induction")
    ask(site, state(random=2))
    query = {"model": MODEL, "text": TEXT, "heads": ",".join(HEADS), "temperature": 0.5, "random": 2}
    tokens = torch.tensor([model.encode(TEXT, bos=True)])
    with ablate(model, [Head.parse(label) for label in HEADS], "zero"):
        wanted = torch.softmax(model.logits(tokens)[0, -1].double() / 0.5, -1)
    rows = list(csv.DictReader(io.StringIO(fetch("next.csv", **query).text)))
    assert len(rows) >= 50
    for row in rows:
        assert float(row["p_ablated"]) == pytest.approx(float(wanted[int(row["id"])]), abs=1e-6)
    clean = torch.nn.functional.cross_entropy(model.logits(tokens)[0, :-1], tokens[0, 1:], reduction="none")
    losses = json.loads(fetch("strip.json", **query).text)
    assert [row["loss_clean"] for row in losses["rows"]][1:] == pytest.approx(clean.tolist(), abs=1e-4)
    assert losses["meta"]["request"]["heads"] == list(HEADS)
    assert "LIVE, NOT SAVED" in losses["source"]
    assert len(json.loads(fetch("effect.json", **query).text)["rows"]) == 4
    for panel in ("attribution", "lens"):
        assert fetch(f"{panel}.csv", **query).status_code == 200


def test_an_export_answers_with_a_sentence(fetch: Callable[..., Any]) -> None:
    for query, said in (
        ({}, "Write a text above"),
        ({"text": "a", "heads": "foo"}, "'foo' is not a head"),
        ({"text": "a", "pinned": "../../etc"}, "no run is called"),
    ):
        answer = fetch("next.csv", **query)
        assert answer.status_code == 409
        assert said in answer.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": ("foo",)}, "'foo' is not a head"),
        ({"heads": ("L9H9",)}, "has no head L9H9: it has 2 layers x 4 heads"),
        ({"text": "a " * 5_000}, "Shorten it"),
        ({"model": "smolm2"}, "smollm2"),
        ({"a": "old keeper"}, "name exactly one token"),
        ({"a": "old", "b": "old"}, "A and B are both"),
        ({"position": 90}, "position 90 is outside the text"),
        ({"policy": "streming"}, "Did you mean 'streaming'"),
        ({"policy": "streaming", "ablation": "act"}, "both change where heads look"),
    ],
    ids=["no head", "missing head", "long text", "model", "two tokens", "same tokens", "position", "policy", "both"],
)
def test_what_cannot_work_is_a_sentence(site: Site, changes: dict[str, Any], said: str) -> None:
    assert PAGE.prepare
    with pytest.raises(HeadscopeError) as caught:
        PAGE.prepare(View(site, "tab"), state(**changes))
    assert said in str(caught.value)


def test_without_a_text_nothing_is_asked(site: Site, host: DeskHost) -> None:
    assert PAGE.prepare
    PAGE.prepare(View(site, "tab"), state(text="  \n"))
    content = shown(site, "strip", state(text=" "))
    assert content.notice is not None
    assert content.notice[0] == "empty"
    assert host.asked == []


def test_every_panel_shows_the_answer_and_names_its_source(site: Site) -> None:
    for panel in PAGE.panels:
        content = shown(site, panel.name, state(captures=True, shade="change"))
        assert content.notice is None, panel.name
        assert content.source.startswith("LIVE, NOT SAVED"), panel.name
        assert content.table is not None
        assert content.table.rows
    said = words(shown(site, "effect", state()).body)
    found = find_answer(View(site, "tab"), state()).result
    assert found.ablated is not None
    change = abs(found.ablated.logit_diff - found.clean.logit_diff)
    less = sum(abs(one.logit_diff - found.clean.logit_diff) < change for one in found.random_sets)
    assert f"{less} of 3 random sets change it less." in said
    for kind in ("zero", "mean", "uniform"):
        assert f"({kind}: " in shown(site, "next", state(ablation=kind)).caption


def test_a_policy_is_shown_pinned_and_put_into_the_address(site: Site, host: DeskHost) -> None:
    asked = state(policy="streaming", kept=3, heads=(), random=0, captures=True, head="L1H0")
    read, refused = LabState.read(dict(parse_qsl(asked.query())))
    assert (read, refused) == (asked, ())
    assert "policy=streaming&kept=3" in asked.query()
    said = words(shown(site, "strip", asked).body)
    assert "Under StreamingLLM from the first token on" in said
    assert "The cache keeps" in said
    content = shown(site, "ablated", asked)
    assert content.table is not None
    seen = [key for query, key, value in content.table.rows if query == 7 and value > 0]  # type: ignore[operator]
    assert seen == [5, 6, 7]  # of three tokens none is spent on a sink
    assert "L1H0, run under the policy" in content.caption
    assert "no random ones" in shown(site, "effect", asked).caption
    live = ask(site, asked)
    name = save_lab(live.request, live.result, root=site.root).name
    host.asked.clear()
    assert find_answer(View(site, "tab"), LabState(pinned=name)).pinned is not None
    assert resolved(site, LabState(pinned=name)).policy == "streaming"
    assert host.asked == []


def test_calibrated_heads_are_called_so(site: Site) -> None:
    asked = state(ablation="act", captures=True, head="L0H0")
    assert "Calibrated at every position (ACT: " in words(shown(site, "strip", asked).body)
    assert "Heads calibrated" in words(shown(site, "next", asked).body)
    assert "This head is calibrated itself" in shown(site, "ablated", asked).caption
    assert "calibrated the same way (n = 3" in shown(site, "effect", asked).caption


def test_controls_follow_the_policy(site: Site) -> None:
    app = create_app(site.settings, site=site)
    app.server.testing = True
    (output,) = (key for key in app.callback_map if "lab-kept-box.hidden" in key)
    for policy, told in (
        (None, [True, False, "Changed heads"]),
        ("streaming", [False, False, "Changed heads"]),
        ("duo", [False, True, "Heads that keep everything"]),
        ("sigmoid", [True, False, "Changed heads"]),
    ):
        found = call(app.server.test_client(), output, [("lab-policy", "value", policy)], [])["response"]
        parts = (("lab-kept-box", "hidden"), ("lab-ablation", "disabled"), ("lab-heads", "label"))
        assert [found[name][prop] for name, prop in parts] == told


def test_attention_is_read_only_on_request_and_of_the_chosen_head(site: Site, planted: Planted) -> None:
    off = shown(site, "clean", state())
    assert off.notice == ("empty", "Switch on Read attention above.")
    content = shown(site, "clean", state(captures=True, head="L1H0"))
    _, cache = planted("induction").bridge.run_with_cache(torch.tensor([planted("induction").encode(TEXT, bos=True)]))
    wanted = cache["blocks.1.attn.hook_pattern"][0, 0].detach().numpy()
    assert content.table is not None
    for query, key, value in content.table.rows:
        assert value == pytest.approx(float(wanted[int(query), int(key)]), abs=1e-4)  # type: ignore[arg-type]
    alone = shown(site, "ablated", state(captures=True, heads=()))
    assert alone.notice is not None
    assert "Tick heads" in alone.notice[1]
    missing = shown(site, "clean", state(captures=True, head="L7H0"))
    assert missing.notice is not None
    assert "there is no L7H0" in missing.notice[1]
    assert "ablated itself" in shown(site, "ablated", state(captures=True, head="L0H0")).caption


def test_tabs_do_not_replace_each_other(site: Site, host: DeskHost) -> None:
    for text, tab in ((TEXT, "one"), ("the old", "two")):
        shown(site, "next", state(text=text), tab=tab)
    assert (
        [channel for channel, _ in host.asked] == ["one-lab", "two-lab"] == [channels_of(t)[0] for t in ("one", "two")]
    )


def test_a_model_that_cannot_be_ablated_still_shows_the_rest(site: Site, host: DeskHost) -> None:
    request = lab_request(state(text="the old"), MODEL)
    reason = "this model cannot do that, because its attention does not go through the seam"
    whole = host.ask(request, channel="test")
    host.kept[request.key] = replace(
        whole, ablated=None, kl=None, random_sets=(), refusals=(Refusal("ablation", reason),)
    )
    asked = state(text="the old")
    assert shown(site, "effect", asked).notice == ("cannot", reason)
    assert reason in words(shown(site, "strip", asked).body)
    for panel in ("next", "lens", "attribution"):
        assert shown(site, panel, asked).notice is None


def test_a_pinned_answer_is_shown_without_a_model_until_a_field_changes(site: Site, host: DeskHost) -> None:
    live = ask(site, state())
    name = save_lab(live.request, live.result, root=site.root).name
    host.asked.clear()
    only = LabState(pinned=name)
    filled = resolved(site, only)
    assert {key: getattr(filled, key) for key in question_of(live.request)} == question_of(live.request)
    for given in (only, filled, filled.model_copy(update={"position": 7, "temperature": 2.0})):
        for panel in ("strip", "effect", "next", "attribution", "lens"):
            content = shown(site, panel, given)
            assert content.notice is None
            assert content.source.startswith(f"Run {name}")
    assert host.asked == []
    pinned = find_answer(View(site, "tab"), only)
    np.testing.assert_array_equal(pinned.result.clean.logits, live.result.clean.logits)
    changed = shown(site, "next", filled.model_copy(update={"heads": ("L0H1",)}))
    assert changed.source.startswith("LIVE, NOT SAVED")
    assert [request.heads for _, request in host.asked] == [("L0H1",)]
    cleared = shown(site, "next", filled.model_copy(update={"text": ""}))
    assert cleared.notice is not None
    assert cleared.notice[0] == "empty"


def test_a_pin_made_on_another_device_is_still_its_own_question(site: Site, host: DeskHost) -> None:
    asked = lab_request(state(), MODEL)
    there = asked.model_copy(update={"choice": asked.choice.model_copy(update={"device": "cpu"}), "bos": False})
    result = host.ask(there, channel="test")
    name = save_lab(there, result, root=site.root).name
    host.asked.clear()
    assert find_answer(View(site, "tab"), LabState(pinned=name)).pinned is not None
    assert host.asked == []


def test_the_address_survives_odd_text(site: Site) -> None:
    given = state(text='a,b\n<s>"&=#+ é ', a=" x", heads=("L0H0", "L1H1"), captures=True, position=3)
    read, refused = LabState.read(dict(parse_qsl(given.query(), keep_blank_values=True)))
    assert (read, refused) == (given, ())
    assert resolved(site, given) == given
    with pytest.raises(HeadIndexError):
        lab_request(state(heads=("x",)), MODEL)


def test_only_score_runs_of_the_model_offer_classes(tiny_run: Path) -> None:
    root = Site(ServerSettings(root=tiny_run.parent))
    name = tiny_run.name.removesuffix(".tmp")
    assert score_run(root, "", "made-up") == name
    assert score_run(root, "something", "made-up") == name
    assert score_run(root, name, "smollm2") == ""


def test_the_page_renders_for_any_state(site: Site) -> None:
    for given in (LabState(), state(), state(heads=("L0H0",) * 50), LabState(pinned="nothing")):
        assert PAGE.layout(site, given)


@pytest.mark.slow
def test_asking_again_after_the_process_was_killed_starts_another(tmp_path: Path) -> None:
    import os
    import signal

    site = Site(ServerSettings(root=tmp_path, model=MODEL))
    try:
        assert isinstance(site.host, ModelHost)
        first = shown(site, "next", state())
        assert first.notice is None
        assert site.host.pid is not None
        os.kill(site.host.pid, signal.SIGKILL)
        second = shown(site, "next", state(text="the old keeper"))
        third = shown(site, "next", state(text="the old keeper")) if second.notice else second
        assert third.notice is None
    finally:
        site.close()


@pytest.mark.parametrize("name", ["/some/folder", "../folder", "someone/model", "smollm"])
def test_a_link_loads_no_model_that_nobody_here_knows(tmp_path: Path, name: str) -> None:
    app = create_app(ServerSettings(root=tmp_path))
    with app.server.test_request_context("/", headers={"Host": "127.0.0.1"}):
        layout = page_layout(PAGE)(model=name, text="a text")
    shown = json.dumps(layout.to_plotly_json(), default=lambda part: part.to_plotly_json())
    assert "A link loads no such model" in shown
    assert f'"value": "{name}"' not in shown


def call(client: Any, output: str, inputs: list[tuple[str, str, Any]], states: list[tuple[str, str, Any]]) -> Any:
    """What the server answers to a callback that the browser fires."""
    ids = ("id", "property", "value")
    body = {
        "output": output,
        "outputs": [
            dict(zip(ids, one.split("@")[0].rsplit(".", 1), strict=False)) for one in output[2:-2].split("...")
        ],
        "inputs": [dict(zip(ids, one, strict=True)) for one in inputs],
        "state": [dict(zip(ids, one, strict=True)) for one in states],
        "changedPropIds": [".".join(inputs[0][:2])],
    }
    answer = client.post("/_dash-update-component", json=body)
    assert answer.status_code in (200, 204), answer.text
    return answer.get_json(silent=True)


def test_what_is_said_and_kept_is_the_question_that_was_answered(site: Site) -> None:
    asked = state(text="the river said")
    ask(site, asked)
    app = create_app(site.settings, site=site)
    app.server.testing = True
    client = app.server.test_client()
    answer = {"values": {name: getattr(asked, name) for name in PAGE.prepare_uses}}
    outputs = [key for key in app.callback_map if "lab-saved.children" in key]
    said, kept = (next(key for key in outputs if part in key) for part in ("lab-pin.disabled", "lab-pinned.data"))
    tab = [("tab", "data", "tab")]
    first = call(client, said, [("lab-answer", "data", answer)], tab)
    assert "Live, not saved." in json.dumps(first)
    done = call(client, kept, [("lab-pin", "n_clicks", 1)], [("lab-answer", "data", answer), *tab])
    (run,) = site.runs()
    assert done["response"]["lab-pinned"]["data"] == run.id
    pinned = find_answer(View(site, "tab"), LabState(pinned=run.id))
    assert pinned.request.text == "the river said"
    then = {"values": {**answer["values"], "pinned": run.id}}
    assert "Saved as" in json.dumps(call(client, said, [("lab-answer", "data", then)], tab))
    for nothing in (None, {"error": "no head", "kind": "failed"}):
        told = call(client, said, [("lab-answer", "data", nothing)], tab)["response"]
        assert (told["lab-saved"]["children"], told["lab-pin"]["disabled"]) == ("", True)
