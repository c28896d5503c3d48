"""Confidence of a segment → its expected CER, by a curve that labelled segments gave."""

import json
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from koasr.errors import JobError
from koasr.rows import short_hash
from koasr.storage import absolute, check_reachable, job_errors, join, read_bytes, write_bytes

CALIBRATION_VERSION = 1
Score = Literal["raw_confidence", "min_word_confidence"]
"""Evidence that a curve may stand on: surer is higher, in [0, 1]."""

_SCORES: dict[Any, Score] = {score: score for score in get_args(Score)}
CONFIDENCE_BINS = 100
"""Equal widths over [0, 1], of every run's histogram; segments without text are counted beside."""
_EDGE = 1e-6
_MAX_BYTES = 16 << 20
_LABEL = re.compile(r"[\w-]{1,80}", re.ASCII)

Floats = NDArray[np.float64]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Threshold:
    """A score from which on a CER can be promised, and what was seen there.

    Attributes:
        target: The CER promised for all that is kept.
        min_score: The lowest score kept; None when not even the best segments hold the target.
        cer: Of the labelled segments kept.
        upper_cer: Upper bound of it.
        kept_share: Of the labelled hours.
    """

    target: float
    min_score: float | None
    cer: float | None
    upper_cer: float | None
    kept_share: float


@dataclass(frozen=True)
class Calibration:
    """How one model's evidence becomes an expected CER, for one kind of speech.

    Attributes:
        name: For people; `label` names it in the transcripts.
        fingerprint: Of the transcripts it was made from, and so of those it is for.
        score: The evidence that it is a curve over.
        knots: Log-odds of the score, rising, and expected CERs, falling; straight lines between.
        thresholds: By target, the strictest first.
        confidence_counts: Histogram of the labelled segments' confidence, and how many were empty.
        details: How and from what it was made: delta, draws, counts, normalizer, sources.
    """

    name: str
    fingerprint: str
    score: Score
    knots: tuple[tuple[float, float], ...]
    thresholds: tuple[Threshold, ...]
    confidence_counts: tuple[int, ...]
    details: dict[str, Any]

    @property
    def label(self) -> str:
        """Its name with a hash of all that decides an expected CER, a promise or a drift."""
        promises = [asdict(threshold) for threshold in self.thresholds]
        counts = self.confidence_counts
        decides = json.dumps([self.fingerprint, self.score, self.knots, promises, counts])
        return f"{self.name}-{short_hash(decides, length=8)}"

    def scores_of(self, evidence: pa.Array) -> Floats:
        """Score of each segment; NaN where nothing was said.

        Args:
            evidence: The column of that name. Shape (num_segments,).
        """
        values = pc.struct_field(evidence, self.score)
        return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)

    def expected_cer(self, scores: Floats) -> Floats:
        """Errors to expect for each character of the hypothesis; may exceed 1."""
        knots = np.array(self.knots)
        return np.asarray(np.interp(log_odds(scores), knots[:, 0], knots[:, 1]))

    def confidence_of(self, scores: Floats) -> Floats:
        """One minus the expected CER, and not below 0."""
        return np.asarray(np.maximum(1.0 - self.expected_cer(scores), 0.0))

    def threshold(self, target: float) -> Threshold | None:
        """The threshold of a CER, or that of the nearest stricter target; None without one."""
        fitting = [held for held in self.thresholds if held.target <= target + 1e-9]
        return fitting[-1] if fitting else None

    def to_json(self) -> bytes:
        """As the file has it."""
        document = {"koasr_calibration": CALIBRATION_VERSION, "label": self.label, **asdict(self)}
        return json.dumps(document, indent=1, ensure_ascii=False).encode()


def log_odds(probability: Floats) -> Floats:
    """ln(p / (1 - p)), finite at 0 and 1 too."""
    p = np.clip(probability, _EDGE, 1.0 - _EDGE)
    return np.asarray(np.log(p / (1.0 - p)))


def calibrate_rows(table: pa.Table, calibration: Calibration) -> pa.Table:
    """Transcripts with `confidence`, `expected_cer` and `calibration` from their evidence."""
    scores = calibration.scores_of(table["evidence"].combine_chunks())
    columns = {
        "confidence": pa.array(calibration.confidence_of(scores), from_pandas=True),
        "expected_cer": pa.array(calibration.expected_cer(scores), from_pandas=True),
        "calibration": pa.array([calibration.label] * len(table)),
    }
    for name, column in columns.items():
        field = table.schema.field(name)
        place = table.schema.get_field_index(name)
        table = table.set_column(place, field, column.cast(field.type))
    return table


def read_calibration(uri: str) -> Calibration:
    """The calibration of a file that `koasr calibrate` wrote.

    Raises:
        JobError: There is none, or it is no calibration.
    """
    uri = absolute(uri)
    check_reachable(uri)
    with job_errors(uri):
        data = read_bytes(uri, start=0, end=_MAX_BYTES)
    try:
        document = json.loads(data)
    # Of deep nesting Python makes a RecursionError.
    except (ValueError, RecursionError) as error:
        line = f" from line {error.lineno} on" if isinstance(error, json.JSONDecodeError) else ""
        raise JobError(f"{uri} is no file of koasr calibrate: not JSON{line}") from error
    try:
        return _parse(document)
    except ValueError as error:
        raise JobError(f"{uri} is no file of koasr calibrate: {error}") from error


def keep_calibration(output: str, calibration: Calibration) -> None:
    """Keep a calibration beside the transcripts that it fills in, by its label."""
    write_bytes(_kept(output, calibration.label), calibration.to_json())


def kept_calibration(output: str, label: str) -> Calibration:
    """A calibration that `keep_calibration` kept.

    Raises:
        JobError: It is gone, or is another.
    """
    # It comes from the rows, and is to name a file of the output's.
    if not _LABEL.fullmatch(label):
        raise JobError(f"{output} has rows of {label[:80]!r}, which is no label of a calibration")
    uri = _kept(output, label)
    made = read_calibration(uri)
    if made.label != label:
        raise JobError(f"{uri} is {made.label}: wanted {label}, which the rows were made with")
    return made


def _kept(output: str, label: str) -> str:
    return join(output, "_koasr", "calibrations", f"{label}.json")


def _parse(document: Any) -> Calibration:
    if not isinstance(document, dict):
        raise ValueError(f"found {reprlib.repr(document)}, wanted a JSON object")
    if document.get("koasr_calibration") != CALIBRATION_VERSION:
        found = document.get("koasr_calibration")
        raise ValueError(f"found version {reprlib.repr(found)}, wanted {CALIBRATION_VERSION}")
    made = Calibration(
        name=_field(document, "name", str, "a text"),
        fingerprint=_field(document, "fingerprint", str, "a text"),
        score=_field(document, "score", _SCORES.__getitem__, " or ".join(_SCORES)),
        knots=_field(document, "knots", _knots, "pairs of finite numbers, their CER never rising"),
        thresholds=_field(document, "thresholds", _thresholds, "objects of finite numbers"),
        confidence_counts=_field(
            document, "confidence_counts", _counts, f"{CONFIDENCE_BINS + 1} counts from 0 on"
        ),
        details=_field(document, "details", dict, "an object"),
    )
    if made.label != document.get("label"):
        found = reprlib.repr(document.get("label"))
        raise ValueError(f"changed by hand: its label {found} is not that of its numbers")
    if not _LABEL.fullmatch(made.label):
        raise ValueError("its name is not of letters, digits, - and _")
    return made


def _field(document: Mapping[str, Any], name: str, read: Callable[[Any], _T], wanted: str) -> _T:
    """A field's value, or which one is wrong, and what it was to be."""
    if name not in document:
        raise ValueError(f"it has no {name!r}")
    try:
        return read(document[name])
    # What anybody may have written into it fails in more ways than can be named.
    except Exception as error:
        raise ValueError(f"{name!r} is {reprlib.repr(document[name])}, wanted {wanted}") from error


def _knots(value: Any) -> tuple[tuple[float, float], ...]:
    knots = tuple((float(score), float(cer)) for score, cer in value)
    steps = np.diff(np.array(knots).reshape(-1, 2), axis=0)
    if not knots or not np.isfinite(knots).all() or (steps * (-1, 1) > 0).any():
        raise ValueError
    return knots


def _thresholds(value: Any) -> tuple[Threshold, ...]:
    found = tuple(Threshold(**document) for document in value)
    for one in found:
        maybe = [n for n in (one.min_score, one.cer, one.upper_cer) if n is not None]
        if not np.isfinite([one.target, one.kept_share, *maybe]).all():
            raise ValueError
    return found


def _counts(value: Any) -> tuple[int, ...]:
    counts = tuple(map(int, value))
    if len(counts) != CONFIDENCE_BINS + 1 or min(counts) < 0:
        raise ValueError
    return counts


def check_fingerprint(calibration: Calibration, fingerprint: str) -> None:
    """Refuse a calibration of another model, precision or way of cutting and decoding.

    Raises:
        JobError: It is of other transcripts than these.
    """
    if calibration.fingerprint != fingerprint:
        raise JobError(
            f"the calibration {calibration.label} is of fingerprint {calibration.fingerprint}, "
            f"found transcripts of {fingerprint}: make one with koasr calibrate from transcripts "
            "of this model"
        )
