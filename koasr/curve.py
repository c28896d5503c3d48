"""Labelled segments → the curve from confidence to expected CER, and thresholds that hold.

A curve that is right on average says nothing of a threshold picked by looking at it. The lowest
threshold whose CER meets a target on the labelled segments misses it on others every second time;
a bound over resampled speakers, and a walk that stops where it first fails, do not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from koasr.calibration import Floats, Threshold, log_odds
from koasr.errors import JobError

_GRID = 200
MIN_CLUSTERS = 10
"""Speakers or recordings that a threshold must stand on: a bootstrap over fewer is too narrow."""
MIN_REF_CHARS = 500

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Segments that are not empty, with what they got wrong; columns of equal length.

    Attributes:
        scores: Confidence of each, in [0, 1].
        errors: Character errors of each.
        ref_chars: Characters of its reference.
        hyp_chars: Characters of its hypothesis, at least 1.
        duration_s: Length of each.
        clusters: Number of its speaker or recording, from 0.
    """

    scores: Floats
    errors: Ints
    ref_chars: Ints
    hyp_chars: Ints
    duration_s: Floats
    clusters: Ints


def fit_curve(labelled: Labelled) -> Floats:
    """Knots of the falling curve from the score's log-odds to errors a character.

    Each level of the isotonic fit stands at the middle of its segments, so that the curve between
    has no steps; half an error more in each keeps the best level from promising none.

    Returns:
        Shape (num_knots, 2).

    Raises:
        JobError: scikit-learn is not installed.
    """
    try:
        from sklearn.isotonic import IsotonicRegression
    except ImportError as error:
        raise JobError("scikit-learn is not installed: pip install koasr[trust]") from error

    scores, chars = log_odds(labelled.scores), labelled.hyp_chars
    levels = IsotonicRegression(increasing=False).fit_transform(
        scores, labelled.errors / chars, sample_weight=chars
    )
    # From the least sure to the surest, whose level is the lowest.
    _, level = np.unique(-levels, return_inverse=True)
    num_chars = np.bincount(level, chars)
    middle = np.bincount(level, scores * chars) / num_chars
    rate = (np.bincount(level, labelled.errors) + 0.5) / (num_chars + 1.0)
    return np.stack([middle, np.minimum.accumulate(rate)], axis=1)


def find_thresholds(
    labelled: Labelled,
    targets: Sequence[float],
    *,
    delta: float,
    draws: int = 1000,
    seed: int = 0,
) -> list[Threshold]:
    """For each target the lowest score from which on its CER can be promised.

    From the best segments on, more and more are kept, as long as the upper bound of their CER
    stays below the target; what comes after the first failure is not looked at.

    Args:
        labelled: Segments drawn from what the promise is for.
        targets: CERs, in [0, 1].
        delta: How often a promise may be broken.
        draws: Of the bootstrap over clusters.
        seed: Of the draws.

    Source:
        Fixed-sequence testing: Angelopoulos et al. 2021, "Learn then Test", arXiv 2110.01052.
    """
    ends, falling = _steps(labelled.scores)
    errors = _kept(labelled, labelled.errors, ends)
    chars = _kept(labelled, labelled.ref_chars, ends)
    hours = _kept(labelled, labelled.duration_s, ends).sum(axis=0)
    num_clusters = len(chars)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=draws)
    upper = np.quantile((drawn @ errors) / np.maximum(drawn @ chars, 1.0), 1.0 - delta, axis=0)
    cer = errors.sum(axis=0) / np.maximum(chars.sum(axis=0), 1.0)
    enough = ((chars > 0).sum(axis=0) >= MIN_CLUSTERS) & (chars.sum(axis=0) >= MIN_REF_CHARS)
    first = int(np.argmax(enough)) if enough.any() else len(ends)
    found = []
    for target in sorted(targets):
        fails = np.flatnonzero(upper[first:] > target)
        last = (first + int(fails[0]) if len(fails) else len(ends)) - 1
        if last < first:
            found.append(Threshold(target, None, None, None, 0.0))
            continue
        min_score, share = float(falling[ends[last] - 1]), float(hours[last] / hours[-1])
        found.append(Threshold(target, min_score, float(cer[last]), float(upper[last]), share))
    return found


def _steps(scores: Floats) -> tuple[Ints, Floats]:
    """How many of the best to keep, step by step, and the scores from the surest on.

    Equal scores are kept or left together.
    """
    falling = -np.sort(-scores)
    ends = np.unique(np.linspace(0, len(scores), _GRID + 1).astype(np.int64)[1:])
    return np.unique(np.searchsorted(-falling, -falling[ends - 1], side="right")), falling


def _kept(labelled: Labelled, values: Floats | Ints, ends: Ints) -> Floats:
    """Sums over each cluster's segments among the best. Shape (num_clusters, num_ends)."""
    order = np.argsort(-labelled.scores, kind="stable")
    step = np.searchsorted(ends, np.arange(len(order)), side="right")
    sums = np.zeros((int(labelled.clusters.max()) + 1, len(ends)))
    np.add.at(sums, (labelled.clusters[order], step), values[order])
    return np.asarray(sums.cumsum(axis=1))
