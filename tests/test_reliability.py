"""Measures of confidence against numbers worked out by hand, and against scikit-learn's."""

import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from koasr.bootstrap import draw_sums, ratio_interval
from koasr.errors import JobError
from koasr.reliability import (
    Floats,
    brier_score,
    detect_wrong,
    normalized_cross_entropy,
    reliability_bins,
    risk_coverage,
    spearman,
)


def floats(*values: float) -> Floats:
    return np.array(values, np.float64)


@pytest.fixture
def drawn() -> tuple[Floats, Floats]:
    """Probabilities that are somewhat too high, and what came true."""
    rng = np.random.default_rng(0)
    predicted = rng.uniform(size=2_000)
    return predicted, (rng.uniform(size=2_000) < predicted**1.5).astype(np.float64)


def test_bins_by_hand() -> None:
    bins = reliability_bins(floats(0.0, 0.4, 0.6, 1.0), floats(0, 1, 1, 1), num_bins=2)
    assert bins.counts.tolist() == [2, 2]
    assert bins.predicted.tolist() == pytest.approx([0.2, 0.8])
    assert bins.observed.tolist() == pytest.approx([0.5, 1.0])
    assert bins.error == pytest.approx((2 * 0.3 + 2 * 0.2) / 4)


def test_a_bin_pools_errors_over_characters() -> None:
    # 1 of 10 and 9 of 90 characters: predicted 0.1 for both, so nothing is off.
    errors, hyp_chars = floats(1, 9), floats(10, 90)
    bins = reliability_bins(floats(0.1, 0.1), errors / hyp_chars, hyp_chars)
    assert bins.counts.sum() == 2
    assert bins.error == pytest.approx(0.0)
    # The long one is off: nine tenths of the characters.
    off = reliability_bins(floats(0.1, 0.5), errors / hyp_chars, hyp_chars)
    assert off.error == pytest.approx(0.9 * 0.4)


def test_empty_bins_have_no_mean_and_no_weight() -> None:
    bins = reliability_bins(floats(0.5), floats(1))
    assert bins.counts.tolist() == [0] * 7 + [1] + [0] * 7
    assert np.isnan(bins.observed).sum() == 14
    assert bins.error == pytest.approx(0.5)


def test_bins_and_brier_are_those_of_sklearn(drawn: tuple[Floats, Floats]) -> None:
    predicted, observed = drawn
    bins = reliability_bins(predicted, observed)
    truth, promised = calibration_curve(observed, predicted, n_bins=15)
    np.testing.assert_allclose(bins.observed, truth)
    np.testing.assert_allclose(bins.predicted, promised)
    assert brier_score(predicted, observed) == pytest.approx(brier_score_loss(observed, predicted))


def test_cross_entropy_is_that_of_sklearn(drawn: tuple[Floats, Floats]) -> None:
    predicted, observed = drawn
    constant = np.full(len(observed), observed.mean())
    entropy, crossed = (log_loss(observed, p) for p in (constant, predicted))
    found = normalized_cross_entropy(predicted, observed)
    assert found == pytest.approx((entropy - crossed) / entropy, abs=1e-6)


def test_cross_entropy_of_the_base_rate_is_0_and_of_the_truth_1() -> None:
    observed = floats(0, 0, 1, 0)
    assert normalized_cross_entropy(np.full(4, 0.25), observed) == pytest.approx(0.0)
    assert normalized_cross_entropy(observed, observed) == pytest.approx(1.0, abs=1e-5)
    assert normalized_cross_entropy(1 - observed, observed) < 0
    assert math.isnan(normalized_cross_entropy(observed, np.zeros(4)))


def test_weights_are_repetitions() -> None:
    predicted, shares, weights = floats(0.2, 0.7), floats(0.25, 0.5), floats(4, 2)
    items = np.repeat(predicted, [4, 2]), floats(1, 0, 0, 0, 1, 0)
    assert brier_score(predicted, shares, weights) == pytest.approx(brier_score(*items))
    found = normalized_cross_entropy(predicted, shares, weights)
    assert found == pytest.approx(normalized_cross_entropy(*items))


def test_detection_by_hand() -> None:
    # Of the 2 x 2 pairs of a wrong and a right one, three are in order.
    found = detect_wrong(floats(0.9, 0.8, 0.7, 0.2), np.array([False, True, False, True]))
    assert (found.share, found.auroc) == (0.5, 0.75)
    assert found.aupr == pytest.approx((1 / 1 + 2 / 3) / 2)


@pytest.mark.parametrize("wrong", [[], [True, True], [False, False]])
def test_nothing_to_detect_has_no_measure(wrong: list[bool]) -> None:
    found = detect_wrong(np.arange(len(wrong), dtype=np.float64), np.array(wrong, np.bool_))
    assert math.isnan(found.auroc)
    assert math.isnan(found.aupr)


def test_what_is_kept_by_hand() -> None:
    trust, seconds = floats(0.1, 0.9, 0.5), floats(5, 3, 2)
    curve = risk_coverage(trust, np.array([9, 0, 2]), np.array([10, 10, 20]), seconds)
    assert curve.coverage.tolist() == pytest.approx([0, 0.3, 0.5, 1.0])
    assert curve.risk.tolist() == pytest.approx([0, 2 / 30, 11 / 40])
    assert curve.cer_at(0.5) == pytest.approx(2 / 30)
    # Half of the last segment's errors and characters.
    assert curve.cer_at(0.75) == pytest.approx(6.5 / 35)
    assert curve.area == pytest.approx(0.3 * 0 + 0.2 * 2 / 30 + 0.5 * 11 / 40)


def test_equal_trust_is_kept_together_whatever_the_order() -> None:
    errors, ref_chars, seconds = np.array([5, 0]), np.array([10, 10]), floats(1, 1)
    one = risk_coverage(floats(0.5, 0.5), errors, ref_chars, seconds)
    other = risk_coverage(floats(0.5, 0.5), errors[::-1], ref_chars, seconds)
    assert one.cer_at(0.5) == other.cer_at(0.5) == pytest.approx(0.25)
    assert one.area == pytest.approx(0.25)


def test_errors_over_silence_are_finite() -> None:
    curve = risk_coverage(floats(0.9, 0.1), np.array([3, 0]), np.array([0, 10]), floats(1, 1))
    assert curve.risk.tolist() == pytest.approx([3.0, 0.3])


def test_correlation_of_ranks_with_ties() -> None:
    assert spearman(floats(1, 2, 30), floats(5, 6, 7)) == pytest.approx(1.0)
    assert spearman(floats(1, 1, 2), floats(1, 2, 3)) == pytest.approx(math.sqrt(3) / 2)
    assert math.isnan(spearman(floats(1, 1), floats(1, 2)))


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("sklearn.metrics", lambda: detect_wrong(floats(1, 2), np.array([True, False]))),
        ("scipy.stats", lambda: spearman(floats(1, 2), floats(1, 2))),
    ],
)
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, call: Callable[[], object]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(JobError, match=r"pip install koasr\[trust\]"):
        call()


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(1), 0
    for seed in range(200):
        # 40 speakers, each with a CER of their own around 0.1, 5 texts of 20 characters each.
        rates = np.repeat(rng.beta(2, 18, size=40), 5)
        counts = np.stack([rng.binomial(20, rates), np.full(200, 20)], axis=1)
        clusters = np.repeat(np.arange(40), 5).astype(str)
        interval = ratio_interval(draw_sums(clusters, counts, num_draws=300, seed=seed), 0, 1, 0.9)
        assert interval is not None
        covered += interval[0] <= 0.1 <= interval[1]
    # 180 is meant, 4.2 one standard deviation; drawing texts one by one covers 121.
    assert 165 <= covered <= 195


def test_texts_of_a_cluster_are_drawn_together() -> None:
    counts = np.array([[1, 10], [1, 10], [5, 10], [5, 10]])
    sums = draw_sums(np.array(["a", "a", "b", "b"]), counts, seed=0)
    assert {tuple(row) for row in sums.tolist()} == {(4, 40), (12, 40), (20, 40)}
    assert np.array_equal(sums, draw_sums(np.array(["a", "a", "b", "b"]), counts, seed=0))


def test_a_ratio_over_nothing_has_no_interval() -> None:
    sums = draw_sums(np.array(["a", "b"]), np.array([[1, 0], [1, 0]]), seed=0)
    assert ratio_interval(sums, 0, 1, 0.95) is None
