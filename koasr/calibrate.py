"""Transcripts and references → a calibration: expected CER and thresholds that hold."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cyclopts import Parameter, validators
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from koasr import __version__
from koasr.calibration import Calibration, Score, Threshold
from koasr.curve import MIN_CLUSTERS, Labelled, find_thresholds, fit_curve
from koasr.drift import count_confidence
from koasr.errors import JobError
from koasr.help import TEXTS
from koasr.normalize import Normalizer
from koasr.reading import read_transcripts
from koasr.reference_files import read_references
from koasr.references import JOIN_COLUMNS, join_references
from koasr.scoring import SCORED_COLUMNS, ScoredSegments, score_segments
from koasr.storage import write_result
from koasr.writable import check_file

TARGETS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
MIN_SEGMENTS = 100
_DRAWS = 1000
_share = Parameter(validator=validators.Number(gt=0, lt=1))
_COLUMNS = {*SCORED_COLUMNS, *JOIN_COLUMNS, "evidence", "duration_s", "fingerprint", "model"}


def calibrate(
    transcripts: str,
    references: str | None = None,
    /,
    *,
    out: str,
    name: str = "calibration",
    score: Score = "raw_confidence",
    targets: Annotated[tuple[float, ...], _share] = TARGETS,
    delta: Annotated[float, _share] = 0.1,
    normalizer: Annotated[Normalizer | None, Parameter(name="*", group=TEXTS)] = None,
) -> None:
    """Make a calibration of labelled transcripts, print its thresholds, and write it.

    Args:
        transcripts: Output of koasr transcribe, or Parquet files of its schema.
        references: As of koasr evaluate; by default what came along with the speech.
        out: File for the calibration (JSON).
        name: Letters, digits, - and _; it stands in the column calibration, with a hash.
        score: What the curve is over; koasr evaluate shows which ranks errors best.
        targets: CERs to find thresholds for.
        delta: How often a promised CER may be exceeded.
        normalizer: How texts are made comparable.

    Raises:
        JobError: Too few labelled segments or speakers, or transcripts of several models.
    """
    if not re.fullmatch(r"[\w-]{1,64}", name, re.ASCII):
        raise JobError(f"--name: found {name!r}, wanted up to 64 letters, digits, - and _", 2)
    check_file(out)
    console, normalizer = Console(soft_wrap=True, markup=False), normalizer or Normalizer()
    table = read_transcripts(transcripts, sorted(_COLUMNS))
    known = None
    if references is not None:
        known = join_references(read_references(references), table).references
    scored = score_segments(table, known, normalizer)
    made = make_calibration(
        scored,
        name=name,
        score=score,
        targets=targets,
        delta=delta,
        details={
            "koasr": __version__,
            "transcripts": transcripts,
            "references": references,
            "normalizer": normalizer.describe(),
        },
    )
    write_result(out, made.to_json())
    _print(made, console)
    console.print(f"koasr: wrote {out}: {made.label}", highlight=False)


def make_calibration(
    scored: ScoredSegments,
    *,
    name: str,
    score: Score = "raw_confidence",
    targets: Sequence[float] = TARGETS,
    delta: float = 0.1,
    details: Mapping[str, Any] | None = None,
) -> Calibration:
    """The calibration that labelled segments give.

    Args:
        scored: With `evidence`, `duration_s`, `fingerprint` and `model` in its table.
        name: For people.
        score: What the curve is over.
        targets: CERs to find thresholds for.
        delta: How often a promised CER may be exceeded.
        details: Noted in it.

    Raises:
        JobError: Too few labelled segments or speakers, or transcripts of several models.
    """
    fingerprints = pc.unique(scored.table["fingerprint"]).to_pylist()
    if len(fingerprints) != 1:
        found = ", ".join(map(str, fingerprints)) or "no labelled segment"
        raise JobError(f"found transcripts of {found}: wanted references for those of one model")
    labelled, is_empty = label(scored, score)
    num_clusters = len(np.unique(labelled.clusters))
    if len(labelled.scores) < MIN_SEGMENTS or num_clusters < MIN_CLUSTERS:
        raise JobError(
            f"found {len(labelled.scores)} labelled segments of {num_clusters} speakers or "
            f"recordings that are not empty: wanted at least {MIN_SEGMENTS} of {MIN_CLUSTERS}"
        )
    curve = fit_curve(labelled)
    thresholds = find_thresholds(labelled, targets, delta=delta, draws=_DRAWS)
    made = Calibration(
        name=name,
        fingerprint=str(fingerprints[0]),
        score=score,
        knots=tuple((float(at), float(cer)) for at, cer in curve),
        thresholds=tuple(thresholds),
        confidence_counts=(),
        details={
            **(details or {}),
            "model": pc.unique(scored.table["model"]).to_pylist(),
            "delta": delta,
            "draws": _DRAWS,
            "segments": len(labelled.scores),
            "empty_segments": int(is_empty.sum()),
            "speakers_or_recordings": num_clusters,
            "hours": float(labelled.duration_s.sum() / 3600),
            "ref_chars": int(labelled.ref_chars.sum()),
            "cer": float(labelled.errors.sum() / max(1, labelled.ref_chars.sum())),
        },
    )
    confidence = made.confidence_of(made.scores_of(scored.table["evidence"].combine_chunks()))
    counts = count_confidence(pa.chunked_array([pa.array(confidence, from_pandas=True)]))
    return dataclasses.replace(made, confidence_counts=tuple(counts))


def label(scored: ScoredSegments, score: Score) -> tuple[Labelled, NDArray[np.bool_]]:
    """The segments that say something, as a curve is fitted to them; and which are left out."""
    values = pc.struct_field(scored.table["evidence"].combine_chunks(), score)
    scores = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
    is_empty = np.isnan(scores) | (scored.hyp_chars == 0)
    kept = ~is_empty
    found = Labelled(
        scores=scores[kept],
        errors=scored.errors[kept],
        ref_chars=scored.ref_chars[kept],
        hyp_chars=scored.hyp_chars[kept],
        duration_s=scored.table["duration_s"].to_numpy()[kept],
        clusters=np.unique(scored.clusters[kept], return_inverse=True)[1],
    )
    return found, is_empty


def _print(made: Calibration, console: Console) -> None:
    details = made.details
    table = Table(
        "CER to hold",
        f"{made.score} from",
        "CER of the kept",
        f"upper bound ({100 * (1 - details['delta']):g}%)",
        "hours kept",
        title=f"{made.label}: {details['segments']:,} segments, {details['hours']:.1f} h, "
        f"{details['speakers_or_recordings']:,} speakers or recordings, CER {details['cer']:.1%}",
        title_justify="left",
    )
    for threshold in made.thresholds:
        table.add_row(f"{threshold.target:.1%}", *_cells(threshold))
    console.print(table)


def _cells(threshold: Threshold) -> list[str]:
    if threshold.min_score is None or threshold.cer is None or threshold.upper_cer is None:
        return ["cannot be held", "-", "-", "0%"]
    shares = f"{threshold.cer:.2%}", f"{threshold.upper_cer:.2%}", f"{threshold.kept_share:.1%}"
    return [f"{threshold.min_score:.4f}", *shares]
