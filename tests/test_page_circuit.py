"""The page Circuit shows the run's own numbers; what is missing is a sentence; the live answer is that of patching."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from app.circuit_config import CircuitConfig
from app.circuit_run import run_circuit
from app.frame.page import Content
from app.frame.panels import content_of
from app.live.requests import ModelChoice, PairRequest, request_from_data, request_to_data
from app.live.results import PairResult
from app.live.work import Desk
from app.pages.circuit import PAGE
from app.pages.circuit_state import CircuitState, choose, circuit_run, pair_request
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site, View
from app.views.circuit_graph import MOST_EDGES
from app.views.circuit_sizes import sizes_of, stops_of
from app.views.numbers import fixed
from circuits.circuit_scores import CircuitScores
from circuits.evaluation import FaithfulnessCurve
from circuits.records import curve_from, scores_from
from headscope.errors import ConfigError, HeadIndexError
from headscope.heads import Head
from headscope.runs import Run

METHODS = ("eap", "patching", "random")
WITHOUT_EDGES = ("live", "edges")


class Silent:
    """Hears nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class DeskHost:
    """Answers in this process, as the model process would, and counts."""

    def __init__(self) -> None:
        self.asked: list[PairRequest] = []
        self.kept: dict[str, PairResult] = {}
        self.desk = Desk(lambda *_: None)

    def ask(self, request: PairRequest, *, channel: str) -> PairResult:
        assert channel
        self.asked.append(request)
        found = self.desk.answer(request, tell=lambda *_: None, check=lambda: None)
        assert isinstance(found, PairResult)
        self.kept[request.key] = found
        return found

    def recall(self, request: PairRequest) -> PairResult | None:
        return self.kept.get(request.key)

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three methods on the trained-in circuit."""
    config = CircuitConfig(
        model="trained:ioi", methods=METHODS, pairs=4, judged=3, resamples=100, random_draws=2, device="cpu"
    )
    return run_circuit(config, root=tmp_path_factory.mktemp("circuits"), command="x", listener=Silent())


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return Run.open(folder)


@pytest.fixture(scope="module")
def host() -> DeskHost:
    return DeskHost()


@pytest.fixture
def site(folder: Path, host: DeskHost) -> Iterator[Site]:
    made = Site(ServerSettings(root=folder.parent))
    made.__dict__["host"] = host
    host.asked.clear()
    yield made
    made.close()


def show(site: Site, name: str, **state: Any) -> Content:
    panel = PAGE.panel(name)
    assert panel is not None
    run_id = next(iter(run.id for run in site.runs() if run.kind == "circuit"))
    return content_of(panel, View(site, "tab"), CircuitState(**{"run": run_id, **state}))


def stored(run: Run, method: str) -> CircuitScores:
    record = run.record(f"{method}-parts")
    return scores_from(record["scores"], {name: run.tensor(f"{method}-parts", name) for name in record["arrays"]})


def stored_curve(run: Run, method: str, key: str) -> FaithfulnessCurve:
    rows = {one["key"]: one for one in run.record(f"{method}-curves")["curves"]}
    arrays = {name: run.tensor(f"{method}-curves", f"{key}.{name}") for name in rows[key]["arrays"]}
    return curve_from(rows[key]["curve"], arrays)


def records(content: Content) -> list[dict[str, Any]]:
    assert content.notice is None, content.notice
    assert content.table is not None
    return content.table.records()


@pytest.mark.parametrize("unit", ["head", "edge"])
@pytest.mark.parametrize("name", [panel.name for panel in PAGE.panels if panel.name != "live"])
def test_every_panel_shows_a_whole_run(site: Site, name: str, unit: str) -> None:
    content = show(site, name, unit=unit)
    assert content.notice is None, content.notice
    assert content.table is not None
    assert len(content.table.rows)


def test_the_curve_is_that_of_the_run(site: Site, run: Run) -> None:
    for unit in ("head", "edge"):
        rows = [row for row in records(show(site, "curve", method="eap", unit=unit)) if row["method"] == "eap"]
        curve = stored_curve(run, "eap", f"{unit}-signed")
        assert [row["faithfulness"] for row in rows] == curve.faithfulness.tolist()
        assert [row["worst"] for row in rows] == curve.worst.tolist()
        assert [row["low"] for row in rows] == curve.intervals()[0].tolist()


@pytest.mark.parametrize(("unit", "step"), [("head", 7), ("edge", 6), ("edge", 8)])
def test_the_circuit_drawn_is_the_one_that_was_judged(site: Site, run: Run, unit: str, step: int) -> None:
    chosen = choose(site, CircuitState(run=run.manifest.id, method="eap", unit=unit, step=step))
    curve = stored_curve(run, "eap", f"{unit}-signed")
    assert chosen.kept.sum() == curve.connected[step]
    drawn = records(show(site, "graph", method="eap", unit=unit, step=step))
    count = sum(row["kind"] == ("head" if unit == "head" else "edge") for row in drawn)
    most = MOST_EDGES if unit == "edge" else 16
    assert count == min(curve.connected[step], most)


def test_the_judged_circuit_can_be_judged_again(site: Site, run: Run) -> None:
    """Same ties, same pruning: the measure of the circuit that the page draws is the one on its curve."""
    from app.circuit_run import _seeker

    config = CircuitConfig.parse(run.manifest.config)
    runs = _seeker(config, Silent()).runs
    for unit, step in (("head", 7), ("edge", 6)):
        chosen = choose(site, CircuitState(run=run.manifest.id, method="random", unit=unit, step=step))
        again = (runs.heads if unit == "head" else runs.edges)(chosen.kept[None])[0]
        values = stored_curve(run, "random", f"{unit}-signed").values[chosen.state.step]
        np.testing.assert_allclose(again, values, atol=1e-4)


def test_the_sentence_has_the_number_of_the_slider(site: Site, run: Run) -> None:
    curve = stored_curve(run, "eap", "head-signed")
    said = str(show(site, "short", method="eap", step=7).body)
    assert f"the best {curve.kept[7]} of 16 heads" in said
    assert f"keeps {fixed(float(curve.faithfulness[7]))} of the effect" in said


def test_parts_are_the_scores_of_the_run(site: Site, run: Run) -> None:
    rows = {row["part"]: row for row in records(show(site, "nodes", method="eap", other="patching"))}
    eap, patching, table = stored(run, "eap"), stored(run, "patching"), run.score("circuit_eap")
    assert len(rows) == 16 + 4
    for layer, head in np.ndindex(4, 4):
        row = rows[f"L{layer}H{head}"]
        assert (row["score"], row["other"]) == (eap.heads[layer, head], patching.heads[layer, head])
        assert (row["low"], row["high"]) == (table.low[layer, head], table.high[layer, head])
    assert eap.mlps is not None
    assert [rows[f"L{layer}.mlp"]["score"] for layer in range(4)] == eap.mlps.tolist()


def test_edges_are_the_scores_of_the_run_and_csv_has_all(site: Site, run: Run, folder: Path) -> None:
    scores = stored(run, "eap")
    assert scores.edges is not None
    table = show(site, "edges", method="eap").table
    assert table is not None
    for row in table.records():
        writer, reader = str(row["edge"]).split(" -> ")
        assert row["score"] == float(scores.edges[scores.graph.writer(writer), scores.graph.reader(reader)])
    client = create_app(ServerSettings(root=folder.parent)).server.test_client()
    query = urlencode({"run": run.manifest.id, "method": "eap"})
    lines = client.get(f"/data/circuit/edges.csv?{query}").text.splitlines()
    assert len(lines) - 1 == len(table.rows) == scores.graph.n_edges


def test_the_scoreboard_has_the_figures_of_every_record(site: Site, run: Run) -> None:
    rows = {row["method"]: row for row in records(show(site, "board"))}
    agreements = run.record("agreement")
    for one in agreements["rows"]:
        found = one["agreement"]
        truth = next(t for t in agreements["truths"]
                     if (t["truth"]["name"], t["truth"]["unit"]) == (found["truth"], found["unit"]))  # fmt: skip
        key = truth["key"]
        if found["ranking"] == ("absolute" if "effects" in truth["arrays"] else "signed"):
            assert rows[found["method"]][f"{key}_auc"] == found["roc_auc"]
            assert rows[found["method"]][f"{key}_ap"] == found["average_precision"]
    for method in METHODS:
        curves = {one["key"]: one["areas"] for one in run.record(f"{method}-curves")["curves"]}
        assert rows[method]["cpr"] == curves["head-signed"]["cpr"]["value"]
        assert rows[method]["cmd_low"] == curves["head-absolute"]["cmd"]["low"]
        assert rows[method]["forwards"] == stored(run, method).forwards
    jaccard = {row["method"]: row["stability"]["jaccard"] for row in run.record("stability")["rows"]}
    assert {method: row["jaccard"] for method, row in rows.items()} == {m: jaccard.get(m) for m in METHODS}


def test_the_roc_curve_is_the_stored_one(site: Site, run: Run) -> None:
    rows = [row for row in records(show(site, "roc", truth="truth0")) if row["method"] == "eap"]
    key = next(one["key"] for one in run.record("agreement")["rows"]
               if one["agreement"]["method"] == "eap" and one["agreement"]["ranking"] == "signed")  # fmt: skip
    assert [row["true_positive_rate"] for row in rows] == run.tensor("agreement", f"{key}.true_positive_rate").tolist()


def test_trust_says_what_the_run_found(site: Site, run: Run) -> None:
    verdict = next(row for row in run.record("stability")["rows"] if row["method"] == "eap")["verdict"]
    content = show(site, "stability", method="eap")
    assert verdict in str(content.body)
    inclusion = run.tensor("stability", "eap.inclusion")
    assert {row["head"]: row["inclusion"] for row in records(content)} == {
        f"L{layer}H{head}": inclusion[layer, head] for layer, head in np.ndindex(4, 4)
    }
    row = next(row for row in run.record("check")["rows"] if row["method"] == "eap")
    shown = {one["figure"]: one["value"] for one in records(show(site, "check", method="eap"))}
    assert shown["faithfulness"] == row["check"]["faithfulness"]["value"]
    assert shown[f"drop {row['heads'][0]}"] == row["check"]["drops"][0]["value"]
    backup = run.record("check")["backup"]
    assert ", ".join(backup["movers"]) in str(show(site, "check").body)


def test_the_pair_is_shown_token_by_token_with_its_positions(site: Site, run: Run) -> None:
    record = run.record("prompts")
    pair = record["pairs"][1]
    rows = records(show(site, "task", pair=2))
    assert [row["clean_id"] for row in rows] == pair["clean"]
    assert [row["corrupted"] for row in rows] == [record["pieces"][str(token)] for token in pair["corrupted"]]
    assert {row["names"]: row["position"] for row in rows if row["names"]} == pair["positions"]
    assert record["performance"]["one_line"] in str(show(site, "task").body)


def test_odd_tokens_are_shown_as_text(folder: Path, tmp_path: Path) -> None:
    copy = _changed(folder, tmp_path, lambda text: text.replace('"<bos>"', '"<b>\\u202e\\n"'))
    body = str(show(Site(ServerSettings(root=copy.parent)), "task", run=copy.name).body)
    assert "<b>\u2039U+202E\u203a\u21b5" in body


def _changed(folder: Path, tmp_path: Path, change: Any, name: str = "records/prompts.json") -> Path:
    """A copy of the run with one file changed and its checksum kept true."""
    import hashlib

    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    content = change((copy / name).read_text()).encode()
    (copy / name).write_bytes(content)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][name] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_a_method_without_edges_says_so(site: Site) -> None:
    for name in ("graph", "curve", "nodes"):
        kind, said = show(site, name, method="patching", unit="edge").notice or ("", "")
        assert kind == "cannot"
        assert said.startswith("Activation patching scores heads, not edges")
    assert show(site, "graph", method="patching").notice is None
    assert show(site, "edges", method="patching").notice is not None


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"method": "acdc"}, "method of the run"),
        ({"run": "nothing"}, "no run is called"),
        ({"truth": "truth99"}, "truth of this run"),
    ],
    ids=["method", "run", "truth"],
)
def test_what_is_not_there_is_a_sentence(site: Site, state: dict[str, str], said: str) -> None:
    kind, sentence = show(site, "roc", **state).notice or ("", "")
    assert kind == "failed"
    assert said in sentence


def test_a_head_that_the_model_has_not_got_breaks_nothing(site: Site) -> None:
    for panel in PAGE.panels:
        if not panel.is_live:
            assert show(site, panel.name, head="L99H99", step=99, pair=99).notice is None


def test_another_kind_of_run_is_refused(tiny_run: Path) -> None:
    panel = PAGE.panel("graph")
    assert panel is not None
    content = content_of(panel, View(Site(ServerSettings(root=tiny_run.parent))), CircuitState(run=tiny_run.name))
    assert content.notice is not None
    assert "not circuit" in content.notice[1]


def test_an_unfinished_run_shows_what_is_in(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / f"{folder.name}.tmp"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["stages"] = [stage for stage in manifest["stages"] if stage["name"] in ("prompts", "eap", "eap-parts")]
    kept = {"prompts", "eap", "eap-parts"}
    manifest["files"] = {n: r for n, r in manifest["files"].items() if Path(n).stem in kept}
    manifest |= {"status": "running", "definitions": []}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    site = Site(ServerSettings(root=tmp_path))
    shown = {panel.name: show(site, panel.name, run=folder.name) for panel in PAGE.panels}
    assert {name for name, content in shown.items() if content.notice is None} == {
        "short", "graph", "nodes", "edges", "task", "board"
    }  # fmt: skip
    assert "not measured yet" in str(shown["short"].body)
    for name in ("curve", "roc", "stability", "check"):
        kind, said = shown[name].notice or ("", "")
        assert kind == "empty"
        assert "--resume" in said, name
    assert "several" in (shown["against"].notice or ("", ""))[1]
    kind, said = show(site, "graph", run=folder.name, method="patching").notice or ("", "")
    assert (kind, "not in yet" in said) == ("empty", True)


def test_a_record_that_is_not_what_it_should_be_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    copy = _changed(folder, tmp_path, lambda text: text.replace('"graph"', '"graf"'), "records/eap-parts.json")
    kind, said = show(Site(ServerSettings(root=copy.parent)), "graph", run=copy.name).notice or ("", "")
    assert kind == "failed"
    assert "eap-parts" in said


def test_the_page_opens_where_the_circuit_keeps_enough(site: Site, run: Run) -> None:
    made = json.dumps([str(part) for part in PAGE.layout(site, CircuitState())])
    curve = stored_curve(run, "eap", "head-signed")
    enough = np.flatnonzero((curve.faithfulness >= 0.8) & (curve.shares <= 0.5))
    step = int(enough[0]) if len(enough) else 6
    assert choose(site, CircuitState(run=run.manifest.id)).state.step == step
    assert run.manifest.id in made


@pytest.fixture(scope="module")
def demo() -> Site:
    """The runs that ship with the dashboard: one of them has a truth that was measured on a real model."""
    return Site(ServerSettings(root=Path(__file__).parents[1] / "app" / "demo" / "runs"))


def demo_run(site: Site, model: str) -> str:
    return next(run.id for run in site.runs() if run.kind == "circuit" and model in run.id)


def test_a_measured_truth_ranks_by_magnitude_whatever_the_page_ranks_by(demo: Site) -> None:
    run = demo_run(demo, "smollm2")
    for ranking in ("signed", "absolute"):
        content = show(demo, "roc", run=run, ranking=ranking, truth="truth0")
        assert content.table is not None
        assert content.table.meta["roc_auc"]["patching"] == 1.0
        assert "Methods are ranked by magnitude" in content.caption
        assert "Best: Activation patching, AUC 1.000." in content.caption
        rows = {row["method"]: row for row in records(show(demo, "board", run=run, ranking=ranking))}
        assert rows["patching"]["truth0_auc"] == 1.0
        assert rows["eap-ig-inputs"]["truth0_auc"] > 0.9


def test_a_known_circuit_ranks_by_sign_and_ties_are_named(demo: Site) -> None:
    run = demo_run(demo, "trained")
    said = show(demo, "roc", run=run, ranking="absolute", truth="truth0").caption
    assert "ranked by signed score" in said
    assert " and CD-T tie at AUC 1.000." in said
    assert said.count("Best: Activation patching, ") == 1


def test_a_circuit_of_heads_always_has_its_mlps(site: Site) -> None:
    for unit, allowed in (("head", {"always"}), ("edge", {"yes", "no"})):
        rows = records(show(site, "nodes", method="eap", unit=unit))
        assert {row["in_circuit"] for row in rows if str(row["part"]).endswith(".mlp")} <= allowed


def test_the_ranking_reaches_method_against_method(demo: Site) -> None:
    run = demo_run(demo, "smollm2")
    found = circuit_run(demo, run)
    for ranking in ("signed", "absolute"):
        content = show(demo, "against", run=run, ranking=ranking)
        best = [set(found.scores(m).ranked(absolute=ranking == "absolute")[: found.k]) for m in found.methods]
        assert f"{len(best[0] & best[1])} are the same" in content.caption
        assert content.figure is not None
        both = next(trace for trace in content.figure.data if trace.name.startswith("in both"))
        assert set(both.customdata) == {str(head) for head in best[0] & best[1]}


def test_the_slider_stops_only_where_the_circuit_grows(demo: Site, site: Site, run: Run) -> None:
    found = circuit_run(demo, demo_run(demo, "smollm2"))
    sizes = [
        sizes_of(found, "patching", "head", "signed")[1][stop] for stop in stops_of(found, "patching", "head", "signed")
    ]
    assert sizes == [1, 2, 5, 13, 27, 54, 135, 270]
    mine = circuit_run(site, run.manifest.id)
    assert stops_of(mine, "eap", "head", "signed") == [6, 7, 8, 9]
    assert choose(site, CircuitState(run=run.manifest.id, step=0)).size == 1
    left = stored_curve(run, "eap", "edge-signed").connected
    assert all(left[stop] > 0 for stop in stops_of(mine, "eap", "edge", "signed"))


def test_circuits_of_edges_open_at_few_edges(demo: Site) -> None:
    run = demo_run(demo, "smollm2")
    chosen = choose(demo, CircuitState(run=run, method="eap-ig-inputs", unit="edge"))
    curve = stored_curve(Run.open(Path(chosen.found.run.path)), "eap-ig-inputs", "edge-signed")
    enough = np.flatnonzero((curve.faithfulness >= 0.8) & (curve.shares <= 0.5))
    few = np.flatnonzero((curve.connected <= 500) & (curve.connected > 0) & (curve.shares <= 0.5))
    assert chosen.state.step == (enough[0] if len(enough) else few[-1])


def test_a_method_is_not_compared_with_itself(site: Site, run: Run) -> None:
    """The control says what the panels show."""
    state = CircuitState(run=run.manifest.id, method="eap", other="eap")
    assert choose(site, state).other == "patching"
    control = next(part for part in _parts(PAGE.layout(site, state)) if getattr(part, "id", "") == "circuit-other")
    assert control.value == "patching"
    assert [one["value"] for one in control.data] == ["patching", "random"]


def _parts(part: Any) -> Iterator[Any]:
    """A layout's components."""
    for one in part if isinstance(part, list) else [part]:
        yield one
        inside = getattr(one, "children", None)
        if inside is not None and not isinstance(inside, str):
            yield from _parts(inside)


@pytest.mark.parametrize(
    ("head", "said"),
    [("L9H9", "has 4 layers of 4 heads: there is no L9H9"), ("foo", "names no head"),
     ("1.1", "Write the head '1.1' as L1H1"),
     ("L\u00b2H1", "names no head")],
    ids=["outside", "text", "form", "digit"],
)  # fmt: skip
def test_what_is_no_head_gets_a_sentence(site: Site, head: str, said: str) -> None:
    assert said in str(show(site, "graph", head=head).body)
    assert show(site, "graph", head="L1H1").body is None


def _with_differences(text: str) -> str:
    record = json.loads(text)
    for pair, clean in zip(record["pairs"], (9.0, -1.5, 2.0, 3.0), strict=True):
        pair |= {"clean_difference": clean, "corrupted_difference": -4.25}
    return json.dumps(record)


def test_the_page_opens_at_a_typical_pair_and_marks_those_that_are_wrong(folder: Path, tmp_path: Path) -> None:
    copy = _changed(folder, tmp_path, _with_differences)
    site = Site(ServerSettings(root=copy.parent))
    shown = show(site, "task", run=copy.name)
    assert shown.caption.startswith("Pair 3 of 4")
    assert "clean 2.00, corrupted -4.25." in str(shown.body)
    assert "the model gets this pair wrong" in str(show(site, "task", run=copy.name, pair=2).body)
    made = str(PAGE.layout(site, CircuitState(run=copy.name)))
    assert "2: clean -1.50, corrupted -4.25, WRONG" in made


def test_pairs_count_from_one(site: Site) -> None:
    assert show(site, "task").caption.startswith("Pair 1 of 4")
    assert show(site, "task", pair=4).caption.startswith("Pair 4 of 4")


@pytest.mark.parametrize(
    ("excess", "said"),
    [
        ((1.5, 1.0, 2.0), "1.500 [1.000, 2.000] more than one by one added up: they cover for each other."),
        ((-1.5, -2.0, -1.0), "1.500 [1.000, 2.000] less than one by one added up: each alone already breaks what the "
         "others do, or they saturate the same thing."),
        ((-1.5, -2.0, 0.25), "1.500 [-0.250, 2.000] less than one by one added up; the interval holds 0"),
    ],
    ids=["more", "less", "neither"],
)  # fmt: skip
def test_backup_heads_say_how_much_and_the_sign_is_in_words(
    folder: Path, tmp_path: Path, excess: tuple[float, float, float], said: str
) -> None:
    gain = Run.open(folder).tensor("check", "gain")
    free = [Head(*place) for place in np.ndindex(4, 4) if np.isfinite(gain[place])]

    def made(text: str) -> str:
        record = json.loads(text)
        record["backup"]["excess"] |= dict(zip(("value", "low", "high"), excess, strict=True))
        record["backup"]["backups"] = [str(head) for head in free[:10]]
        return json.dumps(record)

    copy = _changed(folder, tmp_path, made, "records/check.json")
    body = str(show(Site(ServerSettings(root=copy.parent)), "check", run=copy.name).body).replace("\u2212", "-")
    assert said in body
    best, *_, least = sorted(free[:10], key=lambda head: -gain[head])
    assert f"by how much: {best} {gain[best]:+.3f}" in body
    assert f"{least} {gain[least]:+.3f}" not in body
    assert f"and 2 more (n = 3; uncorrected for {len(free)} heads)" in body


def test_a_note_stands_beside_the_kinds_of_ablation(folder: Path, tmp_path: Path) -> None:
    change: Any = lambda text: json.dumps(json.loads(text) | {"ablations_note": "Measured on 3 pairs."})  # noqa: E731
    copy = _changed(folder, tmp_path, change, "records/stability.json")
    body = show(Site(ServerSettings(root=copy.parent)), "stability", run=copy.name, method="eap").body
    assert "Measured on 3 pairs." in str(body)


# ---- live


def test_opening_the_page_asks_no_model(site: Site, run: Run, host: DeskHost) -> None:
    assert PAGE.prepare is not None
    PAGE.prepare(View(site, "tab"), CircuitState(run=run.manifest.id))
    assert not host.asked
    assert (show(site, "live").notice or ("", ""))[0] == "empty"


def test_ablating_a_head_live_is_patching_it(site: Site, run: Run, host: DeskHost) -> None:
    """Clean minus ablated is the very effect that activation patching stored for this prompt and head."""
    assert PAGE.prepare is not None
    head = stored(run, "patching").ranked()[0]
    effects = run.tensor("patching-parts", "examples")
    for pair in (0, 1):
        state = CircuitState(run=run.manifest.id, pair=pair + 1, off=(str(head),))
        PAGE.prepare(View(site, "tab"), state)
        rows = records(show(site, "live", pair=pair + 1, off=(str(head),)))
        value = {row["run"]: row["logit_difference"] for row in rows}
        assert value["clean"] - value["ablated"] == pytest.approx(effects[pair, head.layer, head.head], abs=1e-3)
        body = show(site, "live", pair=pair + 1, off=(str(head),))
        assert f"{value['ablated']:.3f}" in str(body.body)
        assert "Resample ablation" in body.caption
        assert "LIVE, NOT SAVED" in body.source
    assert len(host.asked) == 2


def test_ablating_every_head_and_none(site: Site, run: Run) -> None:
    found = circuit_run(site, run.manifest.id)
    every = tuple(str(Head(layer, head)) for layer, head in np.ndindex(4, 4))
    answers = {
        heads: site.host.ask(pair_request(found, CircuitState(run=run.manifest.id, off=heads)), channel="c")
        for heads in ((), every)
    }
    assert answers[()].ablated.logit_difference == pytest.approx(answers[()].clean.logit_difference, abs=1e-4)
    drop = answers[every].clean.logit_difference - answers[every].ablated.logit_difference
    assert abs(drop) > 1
    for one in answers.values():
        probability = one.clean.probability
        assert (np.diff(probability) <= 0).all()
        assert probability.sum() <= 1 + 1e-5


def test_live_refusals_are_sentences(site: Site, run: Run) -> None:
    found = circuit_run(site, run.manifest.id)
    request = pair_request(found, CircuitState(run=run.manifest.id, off=("L0H0",)))
    with pytest.raises(HeadIndexError, match="has no head L9H0"):
        site.host.ask(request.model_copy(update={"heads": ("L9H0",)}), channel="c")
    with pytest.raises(ConfigError, match="prompts are of another model"):
        site.host.ask(request.model_copy(update={"clean": (10**6, *request.clean[1:])}), channel="c")
    with pytest.raises(ConfigError, match="name exactly one token"):
        site.host.ask(request.model_copy(update={"right": ("daniel julia",)}), channel="c")
    with pytest.raises(ConfigError, match="of one length"):
        PairRequest.parse({**request.model_dump(), "clean": request.clean[1:]})


def test_a_pair_request_survives_the_pipe() -> None:
    request = PairRequest(
        choice=ModelChoice(model="trained:ioi"), heads=("L1H1", "L0H2", "L1H1"), clean=(1, 2), corrupted=(1, 3),
        right=("a",), wrong=("b",),
    )  # fmt: skip
    assert request.heads == ("L0H2", "L1H1")
    assert request_from_data(json.loads(json.dumps(request_to_data(request)))) == request


def test_an_answer_that_is_gone_is_said_in_the_panel(site: Site, host: DeskHost) -> None:
    host.kept.clear()
    kind, said = show(site, "live", off=("L0H0",)).notice or ("", "")
    assert kind == "failed"
    assert "not kept any more" in said
