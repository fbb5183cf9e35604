"""Intervals, p values and agreement against closed forms, scipy and invariances."""

from __future__ import annotations

import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from headscope import statistics
from headscope.statistics import (
    bootstrap_groups,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_scalar,
    count_examples,
    jaccard,
    permutation_p,
    rank_agreement,
    rank_agreement_interval,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_interval_covers_the_mean_of_normal_data_about_as_often_as_it_says() -> None:
    """2000 experiments of 40 examples each, true mean 0, as the cells of one call.

    The percentile bootstrap's standard deviation has the divisor n and its quantiles are normal ones, so the
    coverage for normal data is P(|t_39| < 1.96 sqrt(39 / 40)) = 0.940. Resamples shared by all cells do not
    bias it, and their noise (1000 resamples) is small. The bounds are 4 standard errors,
    sqrt(.94 * .06 / 2000), wide: a false alarm in 1 of 16 000 seeds.
    """
    samples = rng(1).normal(size=(40, 2000))
    interval = bootstrap_mean(samples, generator=rng(2))
    covered = ((interval.low <= 0) & (interval.high >= 0)).mean()
    expected = 2 * scipy.stats.t.cdf(1.96 * np.sqrt(39 / 40), 39) - 1
    assert expected == pytest.approx(0.940, abs=0.002)
    assert covered == pytest.approx(expected, abs=4 * np.sqrt(0.94 * 0.06 / 2000))


def test_interval_is_that_of_scipys_percentile_bootstrap() -> None:
    """scipy draws its resamples in the same way, so with the same generator the ends agree to rounding."""
    samples = rng(3).exponential(size=50)
    ours = bootstrap_scalar(samples, generator=rng(4), resamples=2000)
    theirs = scipy.stats.bootstrap(
        (samples,), np.mean, n_resamples=2000, method="percentile", confidence_level=0.95, rng=rng(4)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-12)
    assert ours.mean == pytest.approx(samples.mean(), rel=1e-15)


def test_ends_are_the_normal_quantiles_when_there_are_many_examples() -> None:
    """Closed form: mean -+ 1.96 s / sqrt(n).

    A 2.5 % quantile of 20 000 draws errs by 0.019 s / sqrt(n), the normal shape by some 0.02: 3 errors each.
    """
    samples = rng(5).normal(3.0, 2.0, size=500)
    interval = bootstrap_scalar(samples, generator=rng(6), resamples=20_000)
    step = samples.std() / np.sqrt(500)
    assert interval.low == pytest.approx(samples.mean() - 1.96 * step, abs=0.1 * step)
    assert interval.high == pytest.approx(samples.mean() + 1.96 * step, abs=0.1 * step)


def test_mean_of_the_examples_that_count_ignores_the_others() -> None:
    samples = rng(7).normal(size=(30, 2, 3))
    holed = samples.copy()
    holed[10:, 0, 1] = np.nan
    interval = bootstrap_mean(holed, generator=rng(8))
    assert interval.mean[0, 1] == pytest.approx(samples[:10, 0, 1].mean())
    assert (interval.low < interval.mean).all()
    assert (interval.mean < interval.high).all()
    assert count_examples(holed).tolist() == [[30, 10, 30], [30, 30, 30]]


def test_interval_with_uncounted_examples_is_as_wide_as_without_them() -> None:
    """20 that count among 60 against the 20 alone: the same standard error, up to the noise of 300 cells."""
    samples = np.full((60, 300), np.nan)
    samples[::3] = rng(9).normal(size=(20, 300))
    with_holes = bootstrap_mean(samples, generator=rng(10))
    alone = bootstrap_mean(samples[::3], generator=rng(11))
    ratio = (with_holes.high - with_holes.low).mean() / (alone.high - alone.low).mean()
    assert ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("counting", "has_mean"), [(0, False), (1, True)])
def test_one_example_has_no_interval_and_none_no_mean(counting: int, has_mean: bool) -> None:
    samples = np.full((5, 2), np.nan)
    samples[:counting] = 0.25
    interval = bootstrap_mean(samples, generator=rng())
    assert np.isnan([interval.low, interval.high]).all()
    assert np.isnan(bootstrap_mean(samples[:0], generator=rng()).mean).all()
    assert (interval.mean == 0.25).all() if has_mean else np.isnan(interval.mean).all()


def test_a_constant_has_an_interval_of_no_width_whatever_its_size() -> None:
    interval = bootstrap_scalar([1e9 + 0.1] * 7, generator=rng())
    assert interval.low == interval.mean == interval.high


def test_cells_do_not_change_each_other_and_their_order_does_not_matter() -> None:
    samples = rng(12).normal(size=(25, 4, 5))
    whole = bootstrap_mean(samples, generator=rng(13))
    swapped = bootstrap_mean(samples[:, ::-1], generator=rng(13))
    single = bootstrap_mean(samples[:, 2, 3], generator=rng(13))
    assert np.allclose(whole.low[::-1], swapped.low, rtol=0, atol=1e-12)
    assert single.high == pytest.approx(whole.high[2, 3], abs=1e-12)


def test_resampling_in_blocks_gives_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = rng(14).normal(size=(25, 6))
    whole = bootstrap_mean(samples, generator=rng(15), resamples=100)
    monkeypatch.setattr(statistics, "_COUNTS_AT_ONCE", 25 * 7)
    blocks = bootstrap_mean(samples, generator=rng(15), resamples=100)
    assert np.allclose(whole, blocks, rtol=0, atol=1e-13)


@settings(max_examples=20, deadline=None)
@given(shift=st.floats(-1e6, 1e6), scale=st.floats(1e-3, 1e3))
def test_interval_shifts_and_scales_with_the_data(shift: float, scale: float) -> None:
    samples = rng(16).normal(size=20)
    plain = np.array(bootstrap_scalar(samples, generator=rng(17), resamples=50))
    moved = np.array(bootstrap_scalar(shift + scale * samples, generator=rng(17), resamples=50))
    assert np.allclose(moved, shift + scale * plain, rtol=1e-9, atol=1e-9 * scale)


def test_the_heads_of_a_large_model_take_seconds_not_minutes() -> None:
    samples = rng(18).random((200, 32, 32)).astype(np.float32)
    start = time.perf_counter()
    bootstrap_mean(samples, generator=rng(19))
    assert time.perf_counter() - start < 10


def test_permutation_p_counts_draws_at_least_as_harmful_and_is_never_zero() -> None:
    draws = [0.1, 0.2, 0.3, 0.4]
    assert permutation_p(0.3, draws, harm=1) == pytest.approx(3 / 5)
    assert permutation_p(0.3, draws, harm=-1) == pytest.approx(4 / 5)
    assert permutation_p(0.5, draws, harm=1) == pytest.approx(1 / 5)
    assert permutation_p(0.5, draws, harm=-1) == 1.0
    assert np.isnan(permutation_p(0.5, [0.1, np.nan], harm=1))
    with pytest.raises(ValueError, match="harm is 0"):
        permutation_p(0.5, draws, harm=0)


def test_permutation_p_of_nothing_special_is_uniform() -> None:
    """Of 20 numbers drawn alike the first one's rank is uniform over 20: chi-square, 1 % false alarms."""
    drawn = rng(20).random((2000, 20))
    values = [permutation_p(row[0], row[1:], harm=1) for row in drawn]
    ranks = np.rint(np.array(values) * 20).astype(int) - 1
    assert scipy.stats.chisquare(np.bincount(ranks, minlength=20)).pvalue > 0.01


def test_rank_agreement_is_scipys_spearman_with_ties() -> None:
    a, b = rng(21).integers(0, 6, (2, 5, 9)).astype(np.float64)
    theirs = scipy.stats.spearmanr(a.ravel(), b.ravel()).statistic
    assert rank_agreement(a, b) == pytest.approx(theirs, abs=1e-12)


def test_rank_agreement_sees_order_only_and_its_interval_holds_it() -> None:
    a = rng(23).normal(size=(6, 6))
    noisy = a + rng(24).normal(size=(6, 6))
    assert rank_agreement_interval(a, np.exp(a), generator=rng()) == pytest.approx((1, 1, 1))
    assert rank_agreement_interval(a, -a, generator=rng()) == pytest.approx((-1, -1, -1))
    found = rank_agreement_interval(a, noisy, generator=rng())
    assert -1 < found.low < found.mean < found.high < 1
    assert found.mean == rank_agreement(a, noisy)


def test_interval_of_rank_agreement_covers_the_true_one_about_as_often_as_it_says() -> None:
    """300 pairs of independent scores of 100 heads, true agreement 0: about 285 intervals hold it.

    5 % of misses plus 3 standard errors, sqrt(.05 * .95 / 300) = 1.3 %: a false alarm in 1 of 700 seeds.
    """
    pairs = rng(25).normal(size=(300, 2, 100))
    found = [rank_agreement_interval(a, b, generator=rng(26), resamples=200) for a, b in pairs]
    missed = np.mean([not one.low <= 0 <= one.high for one in found])
    assert missed < 0.05 + 3 * 0.013


def test_rank_agreement_leaves_out_heads_without_a_score_and_is_nan_without_any_order() -> None:
    a = np.array([[1.0, 2.0, np.nan, 3.0, 4.0]])
    b = np.array([[2.0, 4.0, -9.0, 6.0, 8.0]])
    assert rank_agreement(a, b) == pytest.approx(1)
    assert np.isnan(rank_agreement_interval(a, np.ones_like(a), generator=rng())).all()
    assert np.isnan(rank_agreement(a[:, :2], b[:, :2]))
    with pytest.raises(ValueError, match="different models"):
        rank_agreement(a, b[:, :3])


def test_jaccard_counts_shared_members() -> None:
    assert jaccard({1, 2, 3}, {2, 3, 4}) == pytest.approx(2 / 4)
    assert jaccard({1}, {1}) == 1
    assert jaccard({1}, set()) == 0
    assert np.isnan(jaccard(set(), set()))


def test_groups_of_equal_examples_have_the_interval_of_one_example_each() -> None:
    """Copies add nothing: a hundred examples that are twenty, five times over, are as uncertain as the twenty."""
    dice = np.random.default_rng(0)
    values = dice.normal(size=20)
    copied, groups = np.repeat(values, 5), np.repeat(np.arange(20), 5).tolist()
    single = bootstrap_scalar(values, generator=np.random.default_rng(1))
    grouped = bootstrap_groups(copied, groups, generator=np.random.default_rng(1))
    assert grouped == pytest.approx(single)
    loose = bootstrap_scalar(copied, generator=np.random.default_rng(1))
    assert (loose.high - loose.low) < 0.6 * (grouped.high - grouped.low)


def test_examples_without_groups_stand_for_themselves() -> None:
    values = np.random.default_rng(0).normal(size=30)
    alone = bootstrap_groups(values, [], generator=np.random.default_rng(1))
    assert alone == bootstrap_scalar(values, generator=np.random.default_rng(1))
    assert bootstrap_groups(values, list(range(30)), generator=np.random.default_rng(1)) == pytest.approx(alone)


def test_one_group_has_no_interval_and_a_wrong_number_of_groups_is_refused() -> None:
    assert np.isnan(bootstrap_groups([1.0, 2.0], ["a", "a"], generator=np.random.default_rng(0)).low)
    with pytest.raises(ValueError, match="as many groups"):
        bootstrap_groups([1.0, 2.0], ["a"], generator=np.random.default_rng(0))


def test_a_ratio_is_sum_over_sum_and_its_interval_draws_both_together() -> None:
    random = np.random.default_rng(0)
    wholes = random.integers(0, 9, 60).astype(float)
    parts = wholes * random.random(60)
    found = bootstrap_ratio(parts, wholes, generator=np.random.default_rng(1), resamples=400)
    assert found.mean == pytest.approx(parts.sum() / wholes.sum())
    counted = wholes > 0
    some, every, generator = parts[counted], wholes[counted], np.random.default_rng(1)
    picked = generator.integers(0, len(some), size=(400, len(some)))
    naive = some[picked].sum(1) / every[picked].sum(1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])))


def test_a_ratio_of_equal_wholes_is_the_mean_and_few_examples_have_no_interval() -> None:
    shares = np.random.default_rng(0).random(30)
    ratio = bootstrap_ratio(4 * shares, np.full(30, 4.0), generator=np.random.default_rng(1))
    assert ratio == pytest.approx(bootstrap_scalar(shares, generator=np.random.default_rng(1)))
    alone = bootstrap_ratio(np.array([1.0, 0.0]), np.array([2.0, 0.0]), generator=np.random.default_rng(1))
    assert alone.mean == 0.5
    assert np.isnan(alone.low)
    assert np.isnan(bootstrap_ratio(np.zeros(3), np.zeros(3), generator=np.random.default_rng(1)).mean)
    with pytest.raises(ValueError, match="need as many wholes"):
        bootstrap_ratio(np.zeros(3), np.zeros(2), generator=np.random.default_rng(1))
