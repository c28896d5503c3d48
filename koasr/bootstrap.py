"""Counts that belong together in clusters → how far their ratios may be from the truth."""

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 1_000
_DRAWN_AT_ONCE = 1 << 22
"""Numbers: 32 MB of weights."""


def draw_sums(
    clusters: NDArray[np.str_], counts: NDArray[np.int64], *, num_draws: int = NUM_DRAWS, seed: int
) -> NDArray[np.float64]:
    """Sums of the counts over clusters drawn with replacement, as many as there are.

    Sentences of one speaker err alike, so that drawing them one by one would promise too much.

    Args:
        clusters: Name of each row's cluster. Shape (num_rows,).
        counts: Shape (num_rows, num_counts).
        num_draws: How often all clusters are drawn.
        seed: The same seed draws the same.

    Returns:
        Shape (num_draws, num_counts).
    """
    names, places = np.unique(clusters, return_inverse=True)
    summed = np.zeros((len(names), counts.shape[1]))
    np.add.at(summed, places, counts)
    rng = np.random.default_rng(seed)
    at_once = max(1, _DRAWN_AT_ONCE // max(1, len(names)))
    parts = []
    for start in range(0, num_draws, at_once):
        size = min(at_once, num_draws - start)
        drawn = rng.integers(len(names), size=(size, len(names)))
        drawn += np.arange(size)[:, None] * len(names)
        weights = np.bincount(drawn.ravel(), minlength=size * len(names))
        parts.append(weights.reshape(size, len(names)).astype(np.float64) @ summed)
    return np.concatenate(parts)


def ratio_interval(
    sums: NDArray[np.float64], above: int, below: int, level: float
) -> tuple[float, float] | None:
    """Percentile interval of one summed count over another; None where nothing was counted.

    Args:
        sums: From `draw_sums`.
        above: Column of the numerator.
        below: Column of the denominator.
        level: Share of the draws inside, such as 0.95.
    """
    has_any = sums[:, below] > 0
    if not has_any.any():
        return None
    rates = sums[has_any, above] / sums[has_any, below]
    low, high = np.quantile(rates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
