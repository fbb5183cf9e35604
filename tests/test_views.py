"""Views: the rows and sentences that tables, figures and the report share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from app.views.agreement import score_agreement
from app.views.causal import causal_rows, causal_sentence, key_row, p_floor
from app.views.classes import head_classes
from app.views.definitions import definition_entries
from app.views.heads import top_groups, top_heads
from app.views.limits import limits
from app.views.numbers import (
    decimals_of,
    duration,
    file_size,
    fixed,
    interval,
    p_text,
    percent,
    signed,
)
from app.views.overlap import class_overlap
from app.views.provenance import provenance
from app.views.spread import spread_rows
from app.views.summary import summary
from headscope.checks import AblationPoint, CausalCheck
from headscope.heads import HeadScores, ScoreDefinition
from headscope.runs import RunWriter
from headscope.runs.reading import Run

NAN = float("nan")


def _scores(
    values: list[list[float]],
    *,
    name: str = "retrieval",
    threshold: float | None = 0.5,
    higher: bool = True,
    n_kv_heads: int | None = None,
) -> HeadScores:
    table = np.array(values, dtype=np.float64)
    definition = ScoreDefinition(
        name=name,
        title=f"{name} score",
        unit="share",
        formula="f",
        source="arXiv:2404.15574, section 2",
        reading="0 to 1",
        probe=name,
        threshold=threshold,
        head_class=name if threshold is not None else None,
        higher=higher,
    )
    n = np.full(table.shape, 7)
    return HeadScores(definition, "m", table, table - 0.1, table + 0.1, n, n_kv_heads or table.shape[1])


def _check(values: dict[int, tuple[float, list[float]]], *, harm: int, baseline: float) -> CausalCheck:
    points = [
        AblationPoint(
            k=k,
            heads=tuple(f"L0H{index}" for index in range(k)),
            value=value,
            low=value - 0.02,
            high=value + 0.02,
            random_values=tuple(draws),
            random_mean=float(np.mean(draws)),
            random_low=min(draws),
            random_high=max(draws),
            p_value=(1 + sum(harm * draw >= harm * value for draw in draws)) / (1 + len(draws)),
        )
        for k, (value, draws) in values.items()
    ]
    return CausalCheck(
        head_class="retrieval",
        score="retrieval",
        metric="needle accuracy",
        unit="share",
        harm=harm,
        ablation="zero",
        rows="all",
        baseline=baseline,
        baseline_low=baseline - 0.01,
        baseline_high=baseline + 0.01,
        n=10,
        n_draws=len(points[0].random_values),
        seed=0,
        points=tuple(points),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fixed(0.9425, 3), "0.943"),
        (fixed(-0.0001, 3), "0.000"),
        (signed(0.5, 2), "+0.50"),
        (signed(-0.5, 2), "-0.50"),
        (signed(-0.0001, 2), "+0.00"),
        (interval(0.9, 0.951, 2), "[0.90, 0.95]"),
        (interval(NAN, NAN), "exact"),
        (percent(22 / 270), "8.1\u00a0%"),
        (p_text(1 / 21), "0.048"),
        (p_text(0.0002), "2e-04"),
        (duration(3.14), "3.1 s"),
        (duration(185.0), "3 min 05 s"),
        (duration(7620.0), "2 h 07 min"),
        (file_size(820), "820 B"),
        (file_size(3_100_000), "3.1 MB"),
    ],
)
def test_numbers_have_fixed_decimals_and_units(text: str, expected: str) -> None:
    assert text == expected


def test_what_is_not_known_is_never_written_as_a_number() -> None:
    assert {fixed(NAN), signed(NAN), percent(NAN), p_text(NAN), duration(None), file_size(None)} == {"n/a"}


@pytest.mark.parametrize(("largest", "decimals"), [(0.4, 3), (9.9, 3), (12.0, 2), (512.0, 1), (NAN, 3)])
def test_decimals_follow_the_largest_value_of_a_table(largest: float, decimals: int) -> None:
    assert decimals_of(np.array([0.1, NAN, -largest])) == decimals


def test_top_heads_are_strongest_first_and_leave_out_what_has_no_value() -> None:
    rows = top_heads(_scores([[0.2, NAN, 0.9], [0.5, 0.1, 0.3]], n_kv_heads=1))
    assert [row.label for row in rows] == ["L0H2", "L1H0", "L1H2", "L0H0", "L1H1"]
    assert [row.is_member for row in rows] == [True, True, False, False, False]
    assert (rows[0].value, rows[0].low, rows[0].high, rows[0].n) == (0.9, 0.8, 1.0, 7)


def test_the_lowest_heads_are_the_strongest_where_low_makes_the_class() -> None:
    scores = _scores([[4.0, 40.0], [2.0, 30.0]], threshold=4.0, higher=False)
    assert [row.label for row in top_heads(scores, 2)] == ["L1H0", "L0H0"]
    assert [one.bound for one in head_classes([scores])] == ["≤\u00a04"]
    assert head_classes([scores])[0].count == 2


def test_a_group_has_the_value_and_n_of_its_strongest_query_head() -> None:
    rows = top_groups(_scores([[0.1, 0.4, 0.9, 0.2]], n_kv_heads=2))
    assert [(row.label, row.kv_head, row.value) for row in rows] == [("L0KV1", 1, 0.9), ("L0KV0", 0, 0.4)]


def test_a_class_counts_heads_at_or_beyond_the_threshold() -> None:
    made = head_classes([_scores([[0.5, 0.49], [0.9, NAN]])])[0]
    assert [row.label for row in made.members] == ["L1H0", "L0H0"]
    assert (made.count, made.n_heads, made.share) == (2, 3, 2 / 3)
    assert made.strongest is not None
    assert made.strongest.label == "L1H0"
    assert made.check is None


def test_scores_without_a_threshold_make_no_class() -> None:
    assert head_classes([_scores([[1.0]], threshold=None)]) == []


def test_a_class_without_any_value_is_empty_and_says_so() -> None:
    made = head_classes([_scores([[NAN, NAN]])])[0]
    assert (made.count, made.n_heads, made.strongest) == (0, 0, None)
    assert percent(made.share) == "n/a"


def test_overlap_counts_shared_heads_and_their_jaccard_index() -> None:
    classes = head_classes(
        [
            _scores([[1.0, 1.0], [1.0, 0.0]], name="a"),
            _scores([[0.0, 1.0], [1.0, 1.0]], name="b"),
            _scores([[0.0, 0.0], [0.0, 0.0]], name="c"),
        ]
    )
    overlap = class_overlap(classes)
    assert overlap.counts.tolist() == [[3, 2, 0], [2, 3, 0], [0, 0, 0]]
    assert overlap.jaccard[0, 1] == overlap.jaccard[1, 0] == 2 / 4
    assert overlap.jaccard[0, 2] == 0
    assert np.isnan(overlap.jaccard[2, 2])
    assert [(head.label, head.classes) for head in overlap.shared] == [
        ("L0H1", ("a", "b")),
        ("L1H0", ("a", "b")),
    ]


def test_causal_rows_hold_changes_and_count_the_draws_that_harm_as_much() -> None:
    check = _check({1: (0.6, [0.9, 0.6, 0.5, 0.8])}, harm=-1, baseline=0.9)
    row = causal_rows(check)[0]
    assert row.change == pytest.approx(-0.3)
    assert row.random_change == pytest.approx(0.7 - 0.9)
    assert (row.as_harmful, row.n_draws) == (2, 4)
    assert row.p_value == (1 + row.as_harmful) / (1 + row.n_draws)
    assert p_floor(row) == 1 / 5


@pytest.mark.parametrize(("ks", "expected"), [((1, 5, 20), 5), ((1, 2), 2), ((4, 6), 4), ((10, 20), 10)])
def test_headlines_use_five_heads_or_the_nearest_number(ks: tuple[int, ...], expected: int) -> None:
    row = key_row(_check({k: (0.5, [0.9]) for k in ks}, harm=-1, baseline=0.9))
    assert row is not None
    assert row.k == expected


def test_the_sentence_says_direction_control_and_the_floor_of_p() -> None:
    check = _check({5: (0.55, [0.95] * 20)}, harm=-1, baseline=0.97)
    sentence = causal_sentence(check, causal_rows(check)[0]).replace("\u00a0", " ")
    assert sentence == (
        "Zero-ablating the 5 strongest retrieval heads lowers needle accuracy (share) from 0.970 to 0.550 "
        "[0.530, 0.570]; 20 draws of 5 random heads of the same layers leave 0.950 on average "
        "(p = 0.048, the smallest that 20 draws can give)."
    )


def test_the_sentence_of_one_head_that_does_nothing_calls_it_no_evidence() -> None:
    check = _check({1: (0.97, [0.97] * 20)}, harm=-1, baseline=0.97)
    sentence = causal_sentence(check, causal_rows(check)[0]).replace("\u00a0", " ")
    assert "the strongest retrieval head leaves needle accuracy (share) at 0.970" in sentence
    assert "20 draws of 1 random head of the same layers" in sentence
    assert "(p = 1.000: 20 of these draws do at least as much harm, so it is no evidence)" in sentence


def test_a_loss_is_said_to_rise() -> None:
    check = _check({2: (4.0, [3.1] * 20)}, harm=1, baseline=3.0)
    assert "raises needle accuracy (share) from 3.000 to 4.000" in causal_sentence(check, causal_rows(check)[0])


def test_rank_agreement_is_spearmans_and_symmetric() -> None:
    generator = np.random.default_rng(0)
    scores = [_scores(generator.random((5, 4)).tolist(), name=name) for name in ("a", "b", "c")]
    agreement = score_agreement(scores)
    expected = spearmanr(scores[0].values.ravel(), scores[2].values.ravel()).statistic
    assert agreement.rho[0, 2] == pytest.approx(expected)
    assert np.array_equal(agreement.rho, agreement.rho.T)
    assert np.allclose(np.diag(agreement.rho), 1)
    assert np.array_equal(agreement.low, agreement.low.T)
    assert all(-1 <= pair.low < pair.rho < pair.high <= 1 for pair in agreement.pairs())
    strengths = [abs(pair.rho) for pair in agreement.pairs()]
    assert strengths == sorted(strengths, reverse=True)
    assert len(strengths) == 3


def test_rank_agreement_with_a_constant_score_is_missing_not_zero() -> None:
    agreement = score_agreement([_scores([[0.1, 0.2, 0.3]], name="a"), _scores([[1.0, 1.0, 1.0]], name="b")])
    assert np.isnan(agreement.rho[0, 1])
    assert agreement.pairs() == []


def test_a_definition_links_to_the_paper_only_by_its_arxiv_number() -> None:
    scores = _scores([[0.5]])
    other = replace(scores, definition=replace(scores.definition, source="javascript:alert(1) of 2024"))
    linked, unlinked = definition_entries([scores, other])
    assert linked.link == "https://arxiv.org/abs/2404.15574"
    assert unlinked.link is None
    assert linked.rule == "retrieval head: retrieval score ≥\u00a00.5"


def test_the_spread_of_a_score_is_over_all_heads_with_a_value() -> None:
    row = spread_rows([_scores([[0.1, 0.3], [NAN, 0.8]])])[0]
    assert (row.lowest, row.median, row.highest) == (0.1, 0.3, 0.8)
    assert row.strongest is not None
    assert row.strongest.label == "L1H1"


def test_the_summary_counts_what_the_classes_hold() -> None:
    scores = [_scores([[0.5, 0.49], [0.9, 0.1]]), _scores([[0.9, 0.0], [0.0, 0.0]], name="sink")]
    check = _check({5: (0.55, [0.95] * 20)}, harm=-1, baseline=0.97)
    words = summary("tiny", scores, head_classes(scores, [check]), [check])
    assert words.measured == (
        "2 scores were measured for each of the 4 attention heads of tiny (2 layers of 2 query heads)."
    )
    assert words.counted.replace("\u00a0", " ") == (
        "tiny has 2 retrieval heads of 4 (50.0 %, score ≥ 0.5) and 1 sink head (25.0 %, score ≥ 0.5)."
    )
    assert words.tested == (causal_sentence(check, causal_rows(check)[0]),)


def test_the_summary_of_nothing_says_so() -> None:
    words = summary("tiny", [], [], [])
    assert words.measured == "No score of tiny has been measured yet."
    assert (words.counted, words.tested) == ("", ())


def test_the_limits_name_untested_classes_and_the_floor_of_p() -> None:
    scores = [_scores([[0.5, 0.4]]), _scores([[0.9, 0.0]], name="sink")]
    check = _check({5: (0.55, [0.95] * 20)}, harm=-1, baseline=0.97)
    text = " ".join(limits(scores, head_classes(scores, [check]), [check]))
    assert "2 heads are compared on 2 scores" in text
    assert "No intervention tested sink:" in text
    assert "here 0.048 with 20 draws" in text
    assert limits([], [], []) == []


def test_provenance_lists_missing_stages_in_their_planned_order(
    tmp_path: Path,
    start_tiny_run: Callable[[Path], RunWriter],
    tiny_scores: dict[str, list[HeadScores]],
) -> None:
    with start_tiny_run(tmp_path) as writer:
        writer.save_scores("sink", tiny_scores["sink"], seconds=2.0)
    shown = provenance(Run.open(writer.path))
    assert [stage.name for stage in shown.stages] == list(writer.manifest.planned)
    assert [stage.name for stage in shown.stages if stage.is_done] == ["sink"]
    assert "INCOMPLETE" in {fact.value for fact in shown.facts}
