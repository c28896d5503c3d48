"""A run beside those before it → whether its speech is still the same, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from koasr.drift import DRIFT_PSI, MIN_DRIFT_SEGMENTS, Drift, stability_index
from koasr.summary import drift_text

_SLIGHT_PSI = 0.1


def comparable(
    summary: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Earlier runs whose confidence means the same: made by the same calibration, or by none."""

    def label(held: Mapping[str, Any]) -> str | None:
        return held["drift"]["calibration"] if held["drift"] else None

    return [
        one for one in earlier if label(one) == label(summary) and any(one["confidence_counts"])
    ]


def add_histograms(summaries: Sequence[Mapping[str, Any]]) -> list[int]:
    """Their confidence together, as of `count_confidence`; empty without any."""
    counts = [one["confidence_counts"] for one in summaries]
    return [sum(column) for column in zip(*counts, strict=True)]


def say_drift(summary: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> str:
    """Whether this night's speech is like that of the nights before, and like the calibration's."""
    found = []
    if before:
        found.append(_against(summary["confidence_counts"], before))
    else:
        found.append("There is no earlier night to compare with.")
    if drift := summary["drift"]:
        found.append(f"Drift from the calibration: {drift_text(Drift(**drift))}.")
    return " ".join(found)


def _against(counts: Sequence[int], before: Sequence[Mapping[str, Any]]) -> str:
    expected = add_histograms(before)
    nights = f"the {len(before)} runs before" if len(before) > 1 else "the run before"
    if min(sum(counts), sum(expected)) < MIN_DRIFT_SEGMENTS:
        return (
            f"Fewer than {MIN_DRIFT_SEGMENTS} segments here or in {nights}: too few to tell whether"
            " the speech has changed."
        )
    psi = stability_index(expected, counts)
    now, then = _mean(counts), _mean(expected)
    means = f"mean confidence {now:.2f} here, {then:.2f} there, PSI {psi:.2f}"
    if psi <= _SLIGHT_PSI:
        return f"Confidence is as in {nights} ({means})."
    turn = "lower" if now < then else "higher"
    if psi <= DRIFT_PSI:
        return f"Confidence is a little {turn} than in {nights} ({means}): worth an eye."
    return (
        f"The speech has changed: confidence is {turn} than in {nights} ({means}). Listen below,"
        " and do not trust old thresholds before you have."
    )


def _mean(counts: Sequence[int]) -> float:
    spoken = np.array(counts[:-1], float)
    middles = (np.arange(len(spoken)) + 0.5) / len(spoken)
    return float((spoken * middles).sum() / max(spoken.sum(), 1.0))
