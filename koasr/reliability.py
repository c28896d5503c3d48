"""Scores and what was true → how well the scores tell it: calibration, ranking, what to keep."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from koasr.errors import JobError

NUM_BINS = 15

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Bins:
    """A reliability diagram: equal-width bins of a predicted probability.

    Attributes:
        counts: Items in each bin. All shapes (num_bins,).
        weights: Their weight.
        predicted: Their weighted mean prediction, NaN for none.
        observed: Their weighted mean outcome, NaN for none.
    """

    counts: NDArray[np.int64]
    weights: Floats
    predicted: Floats
    observed: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of prediction and outcome, by weight."""
        total = self.weights.sum()
        gaps = np.nan_to_num(np.abs(self.predicted - self.observed))
        return float((gaps * self.weights).sum() / total) if total else float("nan")


def reliability_bins(
    predicted: Floats, observed: Floats, weights: Floats | None = None, num_bins: int = NUM_BINS
) -> Bins:
    """Predictions beside outcomes, bin by bin.

    Args:
        predicted: Probabilities. Shape (num_items,).
        observed: Outcomes: 0 or 1, or the share of an item's units for which it came true.
        weights: Units of each item; 1 if not given.
        num_bins: Of equal width between 0 and 1.

    Example:
        >>> bins = reliability_bins(np.array([0.1, 0.1, 0.9]), np.array([0, 1, 1]), num_bins=2)
        >>> bins.counts.tolist(), bins.observed.tolist(), round(bins.error, 3)
        ([2, 1], [0.5, 1.0], 0.3)
    """
    weights = np.ones(len(predicted)) if weights is None else weights
    places = np.clip((predicted * num_bins).astype(np.int64), 0, num_bins - 1)
    total = np.bincount(places, weights, num_bins).astype(np.float64)
    sums = [np.bincount(places, weights * values, num_bins) for values in (predicted, observed)]
    with np.errstate(invalid="ignore"):
        predicted_mean, observed_mean = (values / total for values in sums)
    counts = np.bincount(places, minlength=num_bins)
    return Bins(counts, total, predicted_mean, observed_mean)


def brier_score(predicted: Floats, observed: Floats, weights: Floats | None = None) -> float:
    """Mean squared distance of a probability from each unit's outcome; 0 is perfect.

    Example:
        >>> round(brier_score(np.array([0.9, 0.2]), np.array([1.0, 0.0])), 3)
        0.025
    """
    squares = observed * (1 - predicted) ** 2 + (1 - observed) * predicted**2
    return float(np.average(squares, weights=weights))


def normalized_cross_entropy(
    predicted: Floats, observed: Floats, weights: Floats | None = None
) -> float:
    """Share of the outcomes' entropy that the probabilities explain: (H - CE) / H.

    1 is perfect, 0 as good as naming the base rate each time, less is worse; NaN where all
    outcomes are the same.

    Source:
        Siu & Gish 1999; NIST's measure of word confidence.
    """
    base = np.full(1, np.average(observed, weights=weights))
    entropy = _cross_entropy(base, base, None)
    if not 0 < base[0] < 1:
        return float("nan")
    return 1 - _cross_entropy(predicted, observed, weights) / entropy


def _cross_entropy(predicted: Floats, observed: Floats, weights: Floats | None) -> float:
    # A prediction of 0 or 1 that is wrong would cost everything: float32 knows no finer ones.
    p = np.clip(predicted, 2.0**-24, 1 - 2.0**-24)
    return float(np.average(-observed * np.log(p) - (1 - observed) * np.log1p(-p), weights=weights))


@dataclass(frozen=True)
class Detection:
    """How well falling trust finds what is wrong; NaN where all or nothing is.

    Attributes:
        share: Of what is wrong: the `aupr` of chance.
        auroc: Chance that something wrong is trusted less than something right.
        aupr: Average precision, wrong ones being what is looked for.
    """

    share: float
    auroc: float
    aupr: float


def detect_wrong(trust: Floats, is_wrong: Bools) -> Detection:
    """How well a score tells wrong from right.

    Args:
        trust: Higher means more trusted. Shape (num_items,).
        is_wrong: Shape (num_items,).

    Raises:
        JobError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import average_precision_score, roc_auc_score
    except ImportError as error:
        raise JobError("scikit-learn is not installed: pip install koasr[trust]") from error
    share = float(np.mean(is_wrong)) if len(is_wrong) else float("nan")
    if not 0 < share < 1:
        return Detection(share, float("nan"), float("nan"))
    doubt = -trust
    return Detection(
        share,
        float(roc_auc_score(is_wrong, doubt)),
        float(average_precision_score(is_wrong, doubt)),
    )


@dataclass(frozen=True)
class RiskCoverage:
    """What the most trusted part of the audio costs: its CER, for each share that is kept.

    Items of equal trust are kept together. Shapes (num_points,), the first point being 0.

    Attributes:
        coverage: Share of the audio, rising to 1.
        errors: Character errors in it.
        ref_chars: Reference characters in it.
    """

    coverage: Floats
    errors: Floats
    ref_chars: Floats

    @property
    def risk(self) -> Floats:
        """CER of what is kept at each point but the first. Shape (num_points - 1,)."""
        return _ratio(self.errors[1:], self.ref_chars[1:])

    @property
    def area(self) -> float:
        """Area under the curve (AURC): the mean CER over all shares of audio. Lower is better."""
        return float((np.diff(self.coverage) * self.risk).sum())

    def cer_at(self, coverage: float) -> float:
        """CER of this share of the audio, the most trusted of it."""
        at = np.array([coverage])
        errors, ref_chars = (
            np.interp(at, self.coverage, sums) for sums in (self.errors, self.ref_chars)
        )
        return float(_ratio(errors, ref_chars)[0])


def risk_coverage(
    trust: Floats, errors: NDArray[np.int64], ref_chars: NDArray[np.int64], seconds: Floats
) -> RiskCoverage:
    """The curve of CER against the share of audio kept, the most trusted first.

    Args:
        trust: Higher means more trusted. Shape (num_segments,), as the others.
        errors: Character errors.
        ref_chars: Reference characters.
        seconds: Of audio.

    Example:
        >>> curve = risk_coverage(
        ...     np.array([0.9, 0.5]), np.array([0, 5]), np.array([10, 10]), np.array([3.0, 3.0]))
        >>> curve.cer_at(0.5), curve.cer_at(1.0), curve.area
        (0.0, 0.25, 0.125)
    """
    order = np.argsort(-trust, kind="stable")
    is_last = np.append(np.diff(trust[order]) != 0, True)[: len(order)]
    sums = [np.cumsum(values[order])[is_last] for values in (seconds, errors, ref_chars)]
    kept, *others = (np.concatenate([[0.0], values]) for values in sums)
    return RiskCoverage(kept / kept[-1] if kept[-1] else kept, *others)


def spearman(one: Floats, other: Floats) -> float:
    """Correlation of ranks; NaN where one of both is constant.

    Raises:
        JobError: SciPy, which comes with scikit-learn, is not installed.
    """
    try:
        from scipy.stats import rankdata
    except ImportError as error:
        raise JobError("SciPy is not installed: pip install koasr[trust]") from error
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])


def _ratio(errors: Floats, ref_chars: Floats) -> Floats:
    """CER; where nothing was said, each error counts as one against one character."""
    return errors / np.maximum(ref_chars, 1.0)
