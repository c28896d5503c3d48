"""Scored segments → how well each score of theirs tells wrong from right, segments and words."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from koasr.reliability import (
    Bins,
    Floats,
    brier_score,
    detect_wrong,
    normalized_cross_entropy,
    reliability_bins,
    risk_coverage,
    spearman,
)
from koasr.scoring import ScoredSegments

QUALITY_COLUMNS = ("confidence", "expected_cer", "evidence", "duration_s")
"""What is read of the transcripts besides `scoring.SCORED_COLUMNS`."""

KEPT = (0.5, 0.7, 0.8, 0.9)
_DOUBTS = ("expected_cer", "blank_doubt", "num_unk")
"""Scores that rise where the others fall."""
_CURVE_POINTS = 200
WORDS = "word confidence"
ORACLE = "(CER itself)"


def read_scores(table: pa.Table) -> dict[str, Floats]:
    """Every score the transcripts have, by name, NaN where it is null.

    Args:
        table: With `QUALITY_COLUMNS`.
    """
    columns = {name: table[name] for name in ("confidence", "expected_cer")}
    evidence = table["evidence"]
    columns |= {score.name: pc.struct_field(evidence, score.name) for score in evidence.type}
    scores = {name: pc.cast(column, pa.float64()).to_numpy() for name, column in columns.items()}
    return {name: values for name, values in scores.items() if not np.isnan(values).all()}


def assess_confidence(scored: ScoredSegments, wrong_above: float) -> dict[str, Any]:
    """Quality of every score, for segments and for words.

    Args:
        scored: Segments whose table has `QUALITY_COLUMNS`.
        wrong_above: CER above which a segment is wrong.

    Returns:
        `segments`: by score, see `_assess_segments`; `words`: by score, that of the word itself
        first, see `_assess_words`. As JSON has it, but for NaN.

    Raises:
        JobError: scikit-learn is not installed.
    """
    seconds = scored.table["duration_s"].to_numpy()
    cer = scored.errors / np.maximum(scored.ref_chars, 1)
    scores = read_scores(scored.table)
    segments = {
        name: _assess_segments(scored, name, values, cer, seconds, wrong_above)
        for name, values in {**scores, ORACLE: -cer}.items()
    }
    words = {WORDS: _assess_words(scored, WORDS, scored.word_confidence)}
    for name, values in scores.items():
        words[name] = _assess_words(scored, name, values[scored.word_segment])
    return {"wrong_above": wrong_above, "segments": segments, "words": words}


def _trust(name: str, values: Floats) -> Floats:
    return -values if name in _DOUBTS else values


def _is_probability(name: str) -> bool:
    """Whether a score claims to be a probability of being right, or of an error."""
    return name == "expected_cer" or name.endswith(("confidence", "max_prob"))


def _assess_segments(
    scored: ScoredSegments,
    name: str,
    values: Floats,
    cer: Floats,
    seconds: Floats,
    wrong_above: float,
) -> dict[str, Any]:
    """One score of segments: what it finds, what it keeps, and whether its numbers are true."""
    has = ~np.isnan(values)
    trust = np.nan_to_num(_trust(name, values[has]))
    curve = risk_coverage(trust, scored.errors[has], scored.ref_chars[has], seconds[has])
    is_wrong = cer[has] > wrong_above
    num_points = min(len(curve.risk), _CURVE_POINTS)
    points = np.linspace(1, len(curve.risk), num_points).astype(np.int64)
    found: dict[str, Any] = {
        "num_segments": int(has.sum()),
        "num_without": int((~has).sum()),
        "wrong": asdict(detect_wrong(trust, is_wrong)),
        "spearman": spearman(trust, -cer[has]),
        "aurc": curve.area,
        "cer_kept": {f"{share:g}": curve.cer_at(share) for share in KEPT},
        "risk_coverage": {
            "coverage": curve.coverage[points].tolist(),
            "cer": curve.risk[points - 1].tolist(),
        },
    }
    if _is_probability(name):
        hyp_chars = scored.hyp_chars[has]
        doubt = np.clip(values[has] if name in _DOUBTS else 1 - values[has], 0, 1)
        observed = scored.errors[has] / np.maximum(hyp_chars, 1)
        found["char_error"] = _calibration(doubt, observed, hyp_chars.astype(np.float64))
    return found


def _assess_words(scored: ScoredSegments, name: str, values: Floats) -> dict[str, Any]:
    """One score of words: what it finds; that of the word itself claims to be a probability."""
    has = ~np.isnan(values)
    is_wrong = scored.word_is_wrong[has]
    found: dict[str, Any] = {
        "num_words": int(has.sum()),
        "wrong": asdict(detect_wrong(np.nan_to_num(_trust(name, values[has])), is_wrong)),
    }
    if name == WORDS:
        doubt = np.clip(1 - values[has], 0, 1)
        found["word_error"] = _calibration(doubt, is_wrong.astype(np.float64), None)
    return found


def _calibration(predicted: Floats, observed: Floats, weights: Floats | None) -> dict[str, Any]:
    """Whether predicted errors come true: ECE, Brier, NCE and the bins of the diagram."""
    if not len(predicted) or (weights is not None and not weights.sum()):
        return {}
    # Of a segment that lost more than it says, every character counts as wrong.
    share = np.minimum(observed, 1.0)
    bins = reliability_bins(predicted, share, weights)
    return {
        "ece": bins.error,
        "brier": brier_score(predicted, share, weights),
        "nce": normalized_cross_entropy(predicted, share, weights),
        "bins": _as_lists(bins),
    }


def _as_lists(bins: Bins) -> dict[str, list[float]]:
    columns: dict[str, NDArray[Any]] = asdict(bins)
    return {name: values.tolist() for name, values in columns.items()}
