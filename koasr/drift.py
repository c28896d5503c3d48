"""Histograms of confidence → whether speech is still what a calibration was made from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from koasr.calibration import CONFIDENCE_BINS, Calibration

_DRIFT_GROUP = 0.1
DRIFT_PSI = 0.2
"""The customary bound of a population stability index: above it the population is another."""
MIN_DRIFT_SEGMENTS = 200
"""Of two samples of one population, 10 groups and this size, the index is 0.09 by chance."""


def count_confidence(confidence: pa.ChunkedArray) -> list[int]:
    """Histogram of a column `confidence`: 100 bins over [0, 1], then how many are null.

    Example:
        >>> counts = count_confidence(pa.chunked_array([[0.005, 0.999, 1.0, None]]))
        >>> counts[0], counts[99], counts[100], len(counts)
        (1, 2, 1, 101)
    """
    values = confidence.drop_null().to_numpy()
    counts, _ = np.histogram(values, bins=CONFIDENCE_BINS, range=(0.0, 1.0))
    return [*counts.tolist(), confidence.null_count]


def stability_index(expected: Sequence[int], found: Sequence[int]) -> float:
    """Population stability index of two histograms of `count_confidence`: 0 for equal ones.

    Neighbouring bins are taken together until each group has a tenth of what is expected.

    Source:
        Siddiqi 2006, "Credit Risk Scorecards": sum of (q - p) ln(q / p).

    Example:
        >>> stability_index([50] * 100 + [0], [5] * 100 + [0])
        0.0
    """
    groups: list[list[int]] = []
    held = [0, 0]
    for p, q in zip(expected[:-1], found[:-1], strict=True):
        held = [held[0] + p, held[1] + q]
        if held[0] >= _DRIFT_GROUP * sum(expected):
            groups.append(held)
            held = [0, 0]
    groups += [held, [expected[-1], found[-1]]]
    # Half a segment more in each, so that an empty group is finite.
    counts = np.array([group for group in groups if sum(group)]) + 0.5
    p, q = (counts / counts.sum(axis=0)).T
    return round(float(np.sum((q - p) * np.log(q / p))), 6)


@dataclass(frozen=True)
class Drift:
    """How far a run's confidence is from that of the labelled speech.

    Attributes:
        calibration: Its label.
        psi: Population stability index; None of too few segments to tell.
        has_drifted: Whether the calibration's promises no longer carry.
    """

    calibration: str
    psi: float | None
    has_drifted: bool


def find_drift(calibration: Calibration, counts: Sequence[int]) -> Drift:
    """Whether speech is of the kind that a calibration was made from.

    Args:
        calibration: By which its confidence was made.
        counts: As of `count_confidence`.
    """
    if sum(counts) < MIN_DRIFT_SEGMENTS:
        return Drift(calibration.label, None, False)
    psi = stability_index(calibration.confidence_counts, counts)
    return Drift(calibration.label, psi, psi > DRIFT_PSI)
