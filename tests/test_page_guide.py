"""The page Guide: its text is the code's, and every worked number follows from the real formula."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, fields
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from app.figures.guide_pictures import worked_pattern_figure, worked_series_figure
from app.guide.collect import collect, file_text, note_of
from app.guide.entries import FILE, collected
from app.pages.guide import PAGE, GuideState, titles
from app.pages.guide_text import marked
from app.server import create_app
from app.settings import ServerSettings
from app.site import Site
from app.views import worked, worked_methods
from app.views.policy_tables import family_text
from circuits.policies.catalog import POLICIES
from headscope.heads import ScoreDefinition
from headscope.statistics import bootstrap_scalar, permutation_p


def test_the_collected_text_is_the_codes() -> None:
    kept = (files("app.guide") / FILE).read_text(encoding="utf-8")
    assert kept == file_text(collect()), "run: python -m app.guide.collect"


def test_every_score_of_the_census_is_defined() -> None:
    from probes.census import PROBES

    assert collected().definitions == tuple(each for probe in PROBES.values() for each in probe.definitions)
    assert set(PROBES) <= set(titles())


def test_the_guide_is_read_without_torch() -> None:
    code = "import sys, app.pages.guide; print(any(n in sys.modules for n in ('torch', 'transformers')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_note_is_cut_at_its_labels() -> None:
    note = note_of("x", "Head.\n\nLead.\nDefinition (a): one\ntwo.\nPitfalls: three.\n\nArgs:\n    y: no.\n")
    assert note.headline == "Head."
    assert [(part.label, part.text) for part in note.sections] == [
        ("", "Lead."),
        ("Definition (a)", "one two."),
        ("Pitfalls", "three."),
    ]


def test_the_page_shows_every_field_of_every_definition(tmp_path: Path) -> None:
    shown = "".join(map(_text, PAGE.layout(Site(ServerSettings(root=tmp_path)), GuideState())))
    for each in collected().definitions:
        for field in fields(ScoreDefinition):
            value = asdict(each)[field.name]
            if isinstance(value, str) and field.name != "probe":
                assert value in shown, f"{each.name}: {field.name}"


def test_the_page_says_what_every_policy_is_and_where_it_is_not_its_papers(tmp_path: Path) -> None:
    shown = "".join(map(_text, PAGE.layout(Site(ServerSettings(root=tmp_path)), GuideState())))
    for kind in POLICIES.values():
        told = "how" + kind.summary + "keys" + family_text(kind) + "unit" + kind.unit + "source" + kind.source
        assert kind.title + " " + kind.name + told + (f"differs{kind.note}" if kind.note else "") in shown


def test_a_formula_keeps_its_lines(tmp_path: Path) -> None:
    note = note_of("x", "Head.\n\nThus::\n\n    a = b\n        + c\n\nMore\nwords.\nSource: me.\n")
    assert [(part.label, part.text) for part in note.sections] == [
        ("", "Thus:"), ("Formula", "a = b\n    + c"), ("", "More words."), ("Source", "me."),
    ]  # fmt: skip
    shown = "".join(map(_text, PAGE.layout(Site(ServerSettings(root=tmp_path)), GuideState())))
    assert "m_i = (1 - beta) sum_{t in S} A[i, t]\nA'[i, t] = beta A[i, t]" in shown


def _text(part: object) -> str:
    """All words of a component."""
    if isinstance(part, (list, tuple)):
        return "".join(map(_text, part))
    return part if isinstance(part, str) else _text(getattr(part, "children", None) or "")


def test_every_score_and_card_has_its_anchor(tmp_path: Path) -> None:
    layout = PAGE.layout(Site(ServerSettings(root=tmp_path)), GuideState())
    made = json.dumps(layout, default=lambda part: part.to_plotly_json())
    for anchor in {*titles(), *(each.name for each in collected().definitions)}:
        assert made.count(f'"id": "{anchor}"') == 1, anchor


def test_papers_are_links_that_send_no_referrer() -> None:
    words, link, rest = marked("Olsson et al., arXiv 2209.11895, section 2")
    assert (words, rest) == ("Olsson et al., ", ", section 2")
    assert link.href == "https://arxiv.org/abs/2209.11895"
    assert link.rel == "noreferrer noopener"


@pytest.mark.parametrize("name", [name for name in worked.PATTERNS if name != "copying"])
def test_toy_patterns_are_patterns(name: str) -> None:
    found = worked.PATTERNS[name]()
    np.testing.assert_allclose(found.values.sum(1), 1)
    assert (np.triu(found.values, 1) == 0).all()
    assert not found.cells[np.triu_indices(len(found.rows), 1)].any()


@pytest.mark.parametrize(("kind", "name"), [("previous", "previous_token"), ("duplicate", "duplicate_token"),
                                            ("induction", "induction")])  # fmt: skip
def test_cells_and_score_are_the_tasks(kind: str, name: str) -> None:
    import torch

    from headscope.tasks.repeated import RepeatedTokens

    task = RepeatedTokens(torch.zeros(1, 9, dtype=torch.long), start=1, period=4, copies=2)
    found = worked.PATTERNS[name]()
    rows, keys = (part.numpy() for part in task.cells(kind))  # type: ignore[arg-type]
    assert {*map(tuple, np.argwhere(found.cells).tolist())} == {*zip(rows.tolist(), keys.tolist(), strict=True)}
    assert found.result == pytest.approx(found.values[rows, keys].sum() / task.n_rows(kind))  # type: ignore[arg-type]


def test_sink_local_and_entropy_follow_their_formulas() -> None:
    sink, local, entropy = worked.sink(), worked.local(), worked.entropy()
    assert sink.result == pytest.approx(sink.values[:, 0].mean())
    profile = [np.trace(local.values, -back) / len(local.rows) for back in range(3)]  # c(d) = mean_i A[i, i - d]
    assert local.result == pytest.approx(sum(profile))
    rows = [-sum(p * np.log(p) for p in row if p > 0) for row in entropy.values]
    assert entropy.result == pytest.approx(np.mean(rows[1:]))
    assert rows[-1] == pytest.approx(np.log(len(entropy.rows)))


def test_retrieval_counts_top_keys_in_the_needle() -> None:
    found = worked.retrieval()
    hits = [found.values[row].argmax() == key for row, key in np.argwhere(found.cells)]
    assert found.result == np.mean(hits) == 0.5


def test_copying_is_the_share_of_raised_logits() -> None:
    found = worked.copying()
    shares = []
    for token, logits in enumerate(found.values):
        raised = [max(logit - logits.mean(), 0) for logit in logits]
        shares.append(raised[token] / sum(raised))
    assert found.result == pytest.approx(np.mean(shares))


def test_methods_follow_the_library() -> None:
    made = {name: make() for name, make in worked_methods.METHODS.items()}
    check = made["causal_check"]
    assert check.result == permutation_p(0.41, check.y, harm=-1) == 1 / 21
    assert made["direct_logits"].result == pytest.approx(sum(made["direct_logits"].y))
    ablations = dict(zip(made["ablations"].names, made["ablations"].y, strict=True))
    assert ablations["zero"] == 0
    assert ablations["to_bos"] == 0.2  # the value at position 0
    assert ablations["uniform"] == pytest.approx((0.2 + 1 + 2 - 1) / 4)
    found = bootstrap_scalar(worked_methods._EXAMPLES, generator=np.random.default_rng(0))
    assert dict(made["bootstrap"].lines) == {"low": found.low, "mean": found.mean, "high": found.high}
    ends = np.percentile(made["bootstrap"].y, [2.5, 97.5])
    np.testing.assert_allclose(ends, [found.low, found.high], atol=1e-9)


def test_pictures_show_the_numbers_of_the_table() -> None:
    for make in worked.PATTERNS.values():
        found = make()
        shown = worked_pattern_figure(found).data[0].z
        for row in found.table().records():
            seen = shown[row["query"], row["key"]]
            assert np.isnan(seen) or seen == np.float32(row["value"])
    for make in worked_methods.METHODS.values():
        series = make()
        trace = worked_series_figure(series).data[0]
        shown = trace.x if series.kind == "histogram" else trace.y
        assert list(shown) == [row["y"] for row in series.table().records()]


def test_every_worked_example_leaves_as_csv(tmp_path: Path) -> None:
    client = create_app(ServerSettings(root=tmp_path)).server.test_client()
    for panel in PAGE.panels:
        assert client.get(f"/data/guide/{panel.name}.csv").status_code == 200
