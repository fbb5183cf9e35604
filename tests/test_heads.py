"""A head's address, and the table of scores: order, classes, key/value view, frame and how it looks in a notebook."""

from __future__ import annotations

import dataclasses
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope.errors import HeadIndexError
from headscope.heads import Head, HeadScores, ScoreDefinition

DEFINITION = ScoreDefinition(
    "made_up", "Made up", "share", "a < b & c", "arXiv:0000.00000", "0 to 1", "made_up", 0.5, "made-up"
)
NAN = float("nan")


def scores_of(values: np.ndarray, *, n_kv_heads: int = 1, higher: bool = True, model: str = "made-up") -> HeadScores:
    """Scores with an interval of 0.1 either side and n that tells the heads apart."""
    return HeadScores(
        dataclasses.replace(DEFINITION, higher=higher),
        model,
        values,
        values - 0.1,
        values + 0.1,
        np.arange(values.size).reshape(values.shape) + 1,
        n_kv_heads,
    )


@st.composite
def tables(draw: st.DrawFn, *, gaps: bool = True) -> np.ndarray:
    """Layer x head tables of distinct values, some of them NaN; the heads come in pairs."""
    layers, heads = draw(st.integers(1, 4)), 2 * draw(st.integers(1, 4))
    order = draw(st.permutations(range(layers * heads)))
    values = np.array(order, dtype=np.float64).reshape(layers, heads) / (layers * heads)
    if gaps:
        values[draw(st.lists(st.booleans(), min_size=heads, max_size=heads)) * np.ones((layers, 1), dtype=bool)] = NAN
    return values


@pytest.mark.parametrize(
    ("label", "head"),
    [
        ("L3H11", (3, 11)),
        ("l3h11", (3, 11)),
        ("3.11", (3, 11)),
        ("3-11", (3, 11)),
        ("a3.h11", (3, 11)),
        (" L0H0\n", (0, 0)),
    ],
)
def test_a_head_is_read_in_every_common_spelling(label: str, head: tuple[int, int]) -> None:
    assert Head.parse(label) == Head(*head)


@pytest.mark.parametrize("label", ["", "L3", "H3L1", "L-1H2", "3", "3:11", "L3H11x", "a3.11", "L3.H11", "L1H2 L3H4"])
def test_anything_else_is_refused_with_the_right_spelling(label: str) -> None:
    with pytest.raises(HeadIndexError, match="Heads are written L3H11"):
        Head.parse(label)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_printed_head_is_read_back(layer: int, head: int) -> None:
    assert Head.parse(str(Head(layer, head))) == Head(layer, head)


@settings(deadline=None)
@given(tables(), st.booleans())
def test_heads_rank_strongest_first_and_nan_last(values: np.ndarray, higher: bool) -> None:
    ranked = scores_of(values, higher=higher).ranked()
    assert sorted(ranked) == [Head(*place) for place in np.ndindex(values.shape)]
    in_order = [values[head] for head in ranked]
    known = [value for value in in_order if not np.isnan(value)]
    assert known == sorted(known, reverse=higher)
    assert np.isnan(in_order[len(known) :]).all()


@settings(deadline=None)
@given(tables(), st.booleans(), st.floats(0, 1))
def test_members_are_at_or_beyond_the_threshold_in_rank_order(values: np.ndarray, higher: bool, bar: float) -> None:
    scores = scores_of(values, higher=higher)
    beyond = {
        Head(*place) for place in np.ndindex(values.shape) if (values[place] >= bar if higher else values[place] <= bar)
    }
    members = scores.members(bar)
    assert set(members) == beyond
    assert members == [head for head in scores.ranked() if head in beyond]


def test_the_threshold_itself_counts_and_the_definitions_is_the_default() -> None:
    scores = scores_of(np.array([[0.5, 0.4999, NAN, 0.6]]))
    assert scores.members() == [Head(0, 3), Head(0, 0)]
    bare = dataclasses.replace(scores, definition=dataclasses.replace(DEFINITION, threshold=None, head_class=None))
    with pytest.raises(ValueError, match="'made_up' has no threshold of its own"):
        bare.members()


@settings(deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_permuting_the_heads_permutes_the_members(values: np.ndarray, random: Random) -> None:
    order = list(range(values.shape[1]))
    random.shuffle(order)
    moved = scores_of(values[:, order]).members(0.3)
    assert {Head(layer, order[head]) for layer, head in moved} == set(scores_of(values).members(0.3))


@settings(deadline=None)
@given(tables(gaps=False))
def test_the_maximum_of_a_group_is_at_least_its_mean_and_both_are_what_they_say(values: np.ndarray) -> None:
    scores = scores_of(values, n_kv_heads=values.shape[1] // 2)
    largest, mean = scores.by_kv_head("max"), scores.by_kv_head("mean")
    assert (largest.values >= mean.values).all()
    pairs = values.reshape(len(values), -1, 2)
    assert np.array_equal(largest.values, pairs.max(-1))
    np.testing.assert_allclose(mean.values, pairs.mean(-1))
    assert largest.n_heads == scores.n_kv_heads
    assert [largest.kv_head(group) for group in range(largest.n_heads)] == list(range(scores.n_kv_heads))


@settings(deadline=None)
@given(tables(), st.booleans())
def test_the_strongest_of_a_group_brings_its_own_interval_and_n(values: np.ndarray, higher: bool) -> None:
    scores = scores_of(values, n_kv_heads=values.shape[1] // 2, higher=higher)
    grouped = scores.by_kv_head()
    for layer, group in np.ndindex(grouped.values.shape):
        members = [Head(layer, 2 * group), Head(layer, 2 * group + 1)]
        best = next(head for head in scores.ranked() if head in members)
        assert grouped.n[layer, group] == scores.n[best]
        for part in ("values", "low", "high"):
            np.testing.assert_array_equal(getattr(grouped, part)[layer, group], getattr(scores, part)[best])


def test_where_low_is_strong_the_group_view_takes_the_lowest() -> None:
    grouped = scores_of(np.array([[0.9, 0.2, NAN, 0.7]]), n_kv_heads=2, higher=False).by_kv_head()
    assert grouped.values.tolist() == [[0.2, 0.7]]


def test_the_frame_has_a_row_per_head_with_its_key_value_head() -> None:
    frame = scores_of(np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, NAN]]), n_kv_heads=2).to_frame()
    columns = ["score", "label", "layer", "head", "kv_head", "value", "low", "high", "n", "unit"]
    assert list(frame.columns) == columns
    assert frame["label"].tolist() == ["L0H0", "L0H1", "L0H2", "L0H3", "L1H0", "L1H1", "L1H2", "L1H3"]
    assert frame["kv_head"].tolist() == [0, 0, 1, 1] * 2
    assert frame["n"].tolist() == list(range(1, 9))
    assert frame["value"].tolist()[:7] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert (frame["unit"] == "share").all()


@settings(deadline=None)
@given(tables(), st.integers(0, 40))
def test_top_is_the_beginning_of_the_ranking(values: np.ndarray, count: int) -> None:
    scores = scores_of(values)
    top = scores.top(count)
    assert top["label"].tolist() == [str(head) for head in scores.ranked()[:count]]
    assert list(top.index) == list(range(len(top)))


def test_a_notebook_shows_ten_heads_the_definition_and_no_markup_of_a_models_name() -> None:
    values = np.linspace(0, 1, 24).reshape(3, 8)
    shown = scores_of(values, model="<img src=x onerror=alert(1)>")._repr_html_()
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert "a &lt; b &amp; c" in shown
    assert "arXiv:0000.00000" in shown
    assert shown.count("<tr") == 11
    assert shown.index("L2H7") < shown.index("L2H6")
    assert "L1H5" not in shown


def test_the_short_form_names_the_strongest_head() -> None:
    assert repr(scores_of(np.array([[0.1, 0.9]]))) == (
        "HeadScores('made_up' of 'made-up', 1 x 2, strongest L0H1 = 0.900)"
    )
