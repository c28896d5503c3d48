"""Curves and thresholds on simulated speech, whose true error rate is known."""

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import ArrayLike

from koasr.calibration import Calibration, Floats, log_odds
from koasr.curve import MIN_CLUSTERS, Labelled, find_thresholds, fit_curve

TARGET = 0.05
DELTA = 0.1


def labelled(scores: Floats, errors: ArrayLike, chars: ArrayLike, clusters: ArrayLike) -> Labelled:
    counts = [np.asarray(values, np.int64) for values in (errors, chars, clusters)]
    return Labelled(scores, counts[0], counts[1], counts[1], counts[1] / 5.0, counts[2])


def world(num_segments: int, num_speakers: int, seed: int) -> Labelled:
    """Segments whose character error rate rises with what the score sees only in part."""
    rng = np.random.default_rng(seed)
    speakers = rng.integers(num_speakers, size=num_segments)
    chars = rng.integers(5, 80, num_segments)
    hardness = rng.normal(size=num_segments) + rng.normal(0, 0.5, num_speakers)[speakers]
    errors = rng.binomial(chars, 1 / (1 + np.exp(3.0 - 1.2 * hardness)))
    scores = 1 / (1 + np.exp(hardness + rng.normal(0, 0.7, num_segments)))
    return labelled(scores, errors, chars, np.unique(speakers, return_inverse=True)[1])


@cache
def everyone() -> Labelled:
    """What a promise is about: the speech that nobody labelled."""
    return world(200_000, 4_000, 1)


def cer_from(min_score: float, speech: Labelled) -> float:
    kept = speech.scores >= min_score
    return float(speech.errors[kept].sum() / speech.ref_chars[kept].sum())


def naive(speech: Labelled, target: float) -> float:
    """The lowest score whose CER on the labelled segments is the target's."""
    order = np.argsort(-speech.scores)
    cer = np.cumsum(speech.errors[order]) / np.cumsum(speech.ref_chars[order])
    return float(speech.scores[order][np.flatnonzero(cer <= target)[-1]])


def test_a_promise_is_kept_and_the_naive_threshold_breaks_it() -> None:
    broken, broken_naively, shares = 0, 0, []
    for seed in range(60):
        speech = world(600, 40, 1000 + seed)
        (found,) = find_thresholds(speech, [TARGET], delta=DELTA, draws=400)
        assert found.min_score is not None
        broken += cer_from(found.min_score, everyone()) > TARGET
        broken_naively += cer_from(naive(speech, TARGET), everyone()) > TARGET
        shares.append(found.kept_share)
    # Of 60 draws at 0.1, more than 12 come up in fewer than 1 of 100.
    assert broken <= 12
    assert broken_naively > 18
    # It is not kept by keeping nothing: the CER of everything is 9 %.
    assert np.mean(shares) > 0.4


def test_what_a_threshold_says_of_itself_is_so() -> None:
    speech = world(2_000, 60, 3)
    for found in find_thresholds(speech, [0.1, 0.03, 0.05], delta=DELTA):
        assert found.min_score is not None
        assert found.cer is not None
        assert found.upper_cer is not None
        kept = speech.scores >= found.min_score
        assert found.cer == pytest.approx(cer_from(found.min_score, speech))
        assert found.cer < found.upper_cer <= found.target
        share = speech.duration_s[kept].sum() / speech.duration_s.sum()
        assert found.kept_share == pytest.approx(share)


def test_stricter_targets_come_first_and_keep_less() -> None:
    found = find_thresholds(world(2_000, 60, 3), [0.1, 0.03, 0.05], delta=DELTA)
    assert [one.target for one in found] == [0.03, 0.05, 0.1]
    shares = [one.kept_share for one in found]
    assert shares == sorted(shares)
    assert len(set(shares)) == 3


def test_a_smaller_delta_keeps_less() -> None:
    speech = world(1_000, 40, 4)
    shares = [
        find_thresholds(speech, [TARGET], delta=delta)[0].kept_share for delta in (0.01, 0.1, 0.4)
    ]
    assert shares[0] < shares[1] < shares[2]


def test_the_same_speech_gives_the_same_thresholds() -> None:
    speech = world(600, 40, 5)
    order = np.random.default_rng(0).permutation(600)
    shuffled = Labelled(*(getattr(speech, f.name)[order] for f in dataclasses.fields(Labelled)))
    found = [find_thresholds(one, [0.03, 0.1], delta=DELTA) for one in (speech, speech, shuffled)]
    assert found[0] == found[1] == found[2]
    assert fit_curve(speech) == pytest.approx(fit_curve(shuffled))


def test_the_walk_stops_where_it_first_fails() -> None:
    """From 0.9 on nothing is wrong, a little below much is, and most of the rest is right."""
    scores = np.repeat([0.9, 0.8, 0.7], [400, 400, 4_000])
    errors = np.repeat([0, 4, 0], [400, 400, 4_000])
    speech = labelled(scores, errors, np.full(4_800, 20), np.arange(4_800) % 40)
    assert cer_from(0.7, speech) < 0.02
    (found,) = find_thresholds(speech, [TARGET], delta=DELTA)
    assert (found.min_score, found.cer, found.upper_cer) == (0.9, 0.0, 0.0)
    assert found.kept_share == pytest.approx(400 / 4_800)


def test_equal_scores_are_kept_or_left_together() -> None:
    """Half of the segments share a score, and all of them are too many for the target."""
    speech = world(1_000, 40, 6)
    scores = np.where(speech.scores < np.median(speech.scores), 0.25, speech.scores)
    tied = dataclasses.replace(speech, scores=scores)
    (found,) = find_thresholds(tied, [TARGET], delta=DELTA)
    assert found.min_score is not None
    assert found.min_score > 0.25
    (everything,) = find_thresholds(tied, [0.9], delta=DELTA)
    assert (everything.min_score, everything.kept_share) == (0.25, 1.0)


def _all_wrong(speech: Labelled) -> Labelled:
    return dataclasses.replace(speech, errors=speech.ref_chars)


def _few_speakers(speech: Labelled) -> Labelled:
    return dataclasses.replace(speech, clusters=speech.clusters % (MIN_CLUSTERS - 1))


def _few_chars(speech: Labelled) -> Labelled:
    first = np.arange(20)
    columns = (getattr(speech, field.name)[first] for field in dataclasses.fields(Labelled))
    return dataclasses.replace(Labelled(*columns), ref_chars=np.full(20, 5), clusters=first)


@pytest.mark.parametrize("spoil", [_all_wrong, _few_speakers, _few_chars])
def test_nothing_is_promised_without_ground(spoil: Callable[[Labelled], Labelled]) -> None:
    found = find_thresholds(spoil(world(600, 40, 7)), [0.01, 0.3], delta=DELTA)
    for one in found:
        assert (one.min_score, one.cer, one.upper_cer, one.kept_share) == (None, None, None, 0.0)


def test_as_many_speakers_as_needed_are_enough() -> None:
    speech = world(600, 40, 7)
    ten = dataclasses.replace(speech, clusters=speech.clusters % MIN_CLUSTERS)
    assert find_thresholds(ten, [0.3], delta=DELTA)[0].min_score is not None


def as_calibration(knots: Floats) -> Calibration:
    pairs = tuple((float(at), float(cer)) for at, cer in knots)
    return Calibration("c", "f", "raw_confidence", pairs, (), (0,) * 101, {})


def test_the_curve_falls_and_finds_the_true_error_rate() -> None:
    """Of a segment with score s, each character is wrong with probability (1 - s) / 2."""
    rng = np.random.default_rng(8)
    scores = rng.uniform(0.02, 0.98, 20_000)
    chars = rng.integers(10, 60, 20_000)
    speech = labelled(scores, rng.binomial(chars, (1 - scores) / 2), chars, np.zeros(20_000))
    knots = fit_curve(speech)
    assert np.isfinite(knots).all()
    assert (np.diff(knots[:, 0]) > 0).all()
    assert (np.diff(knots[:, 1]) <= 0).all()
    at = np.linspace(0.05, 0.95, 19)
    assert as_calibration(knots).expected_cer(at) == pytest.approx((1 - at) / 2, abs=0.02)


def test_the_curve_is_right_on_speech_it_has_not_seen() -> None:
    made, held_out = as_calibration(fit_curve(world(3_000, 150, 9))), everyone()
    forecast = made.expected_cer(held_out.scores) @ held_out.hyp_chars
    assert forecast / held_out.errors.sum() == pytest.approx(1.0, abs=0.1)


def test_each_level_has_half_an_error_more_at_the_middle_of_its_segments() -> None:
    scores = np.array([0.2, 0.4, 0.8, 0.9])
    speech = labelled(scores, np.array([6, 2, 0, 0]), np.array([10, 10, 10, 30]), np.zeros(4))
    at = log_odds(scores)
    expected = [(at[0], 6.5 / 11), (at[1], 2.5 / 11), ((at[2] + 3 * at[3]) / 4, 0.5 / 41)]
    assert fit_curve(speech) == pytest.approx(np.array(expected))


@pytest.mark.parametrize(
    ("scores", "errors", "num_knots"),
    [
        ([0.0, 1.0], [10, 0], 2),
        ([0.0, 1.0], [0, 10], 1),
        ([0.5, 0.5], [10, 0], 1),
        ([0.3, 0.6], [5, 5], 1),
        ([0.3, 0.6], [0, 0], 1),
        ([0.5], [3], 1),
    ],
)
def test_curves_at_the_edge(scores: list[float], errors: list[int], num_knots: int) -> None:
    """Scores of 0 and 1, ties, and one level only: flat, and finite."""
    chars, clusters = np.full(len(scores), 10), np.zeros(len(scores))
    knots = fit_curve(labelled(np.array(scores), np.array(errors), chars, clusters))
    assert len(knots) == num_knots
    assert np.isfinite(knots).all()
    found = as_calibration(knots).expected_cer(np.array([0.0, 0.5, 1.0]))
    assert (np.diff(found) <= 0).all()
    assert (found > 0).all()
    if num_knots == 1:
        rate = (sum(errors) + 0.5) / (10 * len(errors) + 1)
        assert found == pytest.approx([rate] * 3)
