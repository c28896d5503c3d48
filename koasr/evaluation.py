"""Transcripts beside references → every figure of an evaluation, as JSON has them."""

from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from koasr import __version__
from koasr.accuracy import Counted, count_confusions, count_pairs, rates_of, values_of
from koasr.bootstrap import NUM_DRAWS
from koasr.confidence_quality import QUALITY_COLUMNS, assess_confidence
from koasr.errors import JobError
from koasr.normalize import Normalizer
from koasr.reference_files import Reference
from koasr.references import JOIN_COLUMNS, Join, count_matches, join_references
from koasr.scoring import SCORED_COLUMNS, Pair, pair_up, score_pairs

EVALUATION_VERSION = 1
EVALUATED_COLUMNS = (
    *dict.fromkeys((*SCORED_COLUMNS, *QUALITY_COLUMNS, *JOIN_COLUMNS, "fingerprint")),
)
"""What is read of the transcripts."""

_NUM_CONFUSIONS = 200


@dataclass(frozen=True)
class Evaluation:
    """What a comparison found.

    Attributes:
        document: Figures and single characters, no text; as JSON has it, but for NaN.
        pairs: What was compared.
        counted: Counts of each pair.
    """

    document: dict[str, Any]
    pairs: list[Pair]
    counted: Counted


def evaluate_transcripts(
    transcripts: pa.Table,
    found: Sequence[Reference] | None,
    rejects: pa.Table,
    normalizer: Normalizer,
    *,
    by: Sequence[str] = (),
    vocabulary: Container[str] | None = None,
    confidence_level: float = 0.95,
    wrong_above: float = 0.1,
) -> Evaluation:
    """Hold transcripts against references.

    Args:
        transcripts: With `EVALUATED_COLUMNS`, and the columns of `by`.
        found: References; None takes those that came along with the speech.
        rejects: Recordings without a transcript: `recording_id`, `source_uri`, `source_key`.
        normalizer: Applied to both sides.
        by: Columns or keys of the metadata, for each of whose values rates are given.
        vocabulary: Tokens of the model.
        confidence_level: Of the intervals.
        wrong_above: CER above which a segment is wrong.

    Raises:
        JobError: Nothing can be compared.
    """
    joined = None if found is None else join_references(found, transcripts)
    paired = pair_up(transcripts, joined.references if joined else None, normalizer)
    if not paired.pairs:
        raise JobError(
            "no transcript has a reference: give a file of references as the second argument"
            if not paired.num_masked
            else f"all {paired.num_masked:,} references hide what was said (u/, @name)"
        )
    counted = count_pairs(paired.pairs, transcripts, vocabulary)
    scored = score_pairs(transcripts, paired.pairs)
    document = {
        "version": EVALUATION_VERSION,
        "koasr": __version__,
        "normalizer": normalizer.describe(),
        "fingerprints": sorted(filter(None, set(transcripts["fingerprint"].to_pylist()))),
        "confidence_level": confidence_level,
        "num_draws": NUM_DRAWS,
        "counts": _counts(transcripts, paired.pairs, counted)
        | _left_out(transcripts, joined, found, rejects)
        | {"masked": paired.num_masked},
        "rates": _rates(counted, confidence_level),
        "subsets": {
            name: _subsets(counted, values_of(paired.pairs, transcripts, name), confidence_level)
            for name in by
        },
        "confusions": [
            {"reference": said, "hypothesis": heard, "count": count}
            for (said, heard), count in count_confusions(paired.pairs).most_common(_NUM_CONFUSIONS)
        ],
    }
    try:
        document["confidence"] = assess_confidence(scored, wrong_above)
    except JobError as error:
        document["confidence"] = {"left_out": str(error)}
    return Evaluation(document, paired.pairs, counted)


def _counts(transcripts: pa.Table, pairs: Sequence[Pair], counted: Counted) -> dict[str, Any]:
    return {
        "recordings": len(pairs),
        "segments": sum(len(pair.rows) for pair in pairs),
        "clusters": len(set(counted.clusters)),
        "audio_s": float(counted.seconds.sum()),
        "empty_references": sum(not pair.reference for pair in pairs),
        "empty_hypotheses": sum(not pair.hypothesis for pair in pairs),
    }


def _left_out(
    transcripts: pa.Table, joined: Join | None, found: Sequence[Reference] | None, rejects: pa.Table
) -> dict[str, int | None]:
    """What is not in the figures; None for what cannot be known."""
    counts: dict[str, int | None] = {"rejected": rejects.num_rows}
    if joined is None or found is None:
        ids, given = transcripts["recording_id"].to_pylist(), transcripts["reference"].to_pylist()
        has = {name for name, text in zip(ids, given, strict=True) if text is not None}
        without = len(set(ids)) - len(has)
        return counts | {"without_reference": without, "unused_references": None}
    return {
        # Of those, the ones that would have been compared.
        "rejected": count_matches(found, rejects),
        "without_reference": joined.num_without,
        "unused_references": joined.num_unused,
    }


def _rates(
    counted: Counted, level: float, chosen: NDArray[np.bool_] | None = None
) -> dict[str, Any]:
    return {name: asdict(rate) for name, rate in rates_of(counted, level, chosen).items()}


def _subsets(counted: Counted, values: Sequence[str], level: float) -> dict[str, Any]:
    """Figures of each value, the one with most audio first."""
    labels = np.array(values, np.str_)
    found: dict[str, dict[str, Any]] = {}
    for label in sorted(set(values)):
        chosen = labels == label
        found[label] = {
            "recordings": int(chosen.sum()),
            "audio_s": float(counted.seconds[chosen].sum()),
            "rates": _rates(counted, level, chosen),
        }
    return dict(sorted(found.items(), key=lambda entry: -entry[1]["audio_s"]))
