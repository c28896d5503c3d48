"""Segments with evidence → those worth training on, surest first, and why the rest is not."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cyclopts import Parameter, validators
from numpy.typing import NDArray

from koasr.calibration import Calibration, Floats
from koasr.rows import short_hash

Mask = NDArray[np.bool_]
_limit = Parameter(validator=validators.Number(gte=0))
_count = Parameter(validator=validators.Number(gte=1))
_MAX_NGRAM = 4
ROUNDING_H = 1e-9
"""What ends exactly at a limit is in, whatever the rounding of the sum."""


@dataclass(frozen=True)
class Filters:
    """What a pseudo-label must be like, however sure the model was of it.

    Args:
        min_segment_s: Shorter segments (seconds).
        max_segment_s: Longer segments (seconds).
        min_chars_per_s: Slower speech: noise taken for words.
        max_chars_per_s: Faster speech: music, or several people.
        max_unk: Segments with more unknown tokens.
        max_repeats: One to four words, more often in a row.
        max_same_text: More segments of the same text.
        max_hours_per: KEY=HOURS: more of a value of a key (speaker=2).
    """

    min_segment_s: Annotated[float, _limit] = 1.0
    max_segment_s: Annotated[float, _limit] = 30.0
    min_chars_per_s: Annotated[float, _limit] = 1.0
    max_chars_per_s: Annotated[float, _limit] = 12.0
    max_unk: Annotated[int, _limit] = 0
    max_repeats: Annotated[int, _count] = 3
    max_same_text: Annotated[int | None, _count] = None
    max_hours_per: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Those that differ from the default, as flags: a selection is known by it."""
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return "".join(f" --{f.name.replace('_', '-')} {getattr(self, f.name)}" for f in changed)


@dataclass(frozen=True)
class Removed:
    """What one filter took out that none before it had."""

    why: str
    num_segments: int
    hours: float


@dataclass(frozen=True)
class Candidates:
    """Segments that passed the filters, the surest first.

    Attributes:
        rows: Their rows in the table. Shape (num_candidates,).
        scores: Of each; higher is surer.
        hours: Length of each.
        hyp_chars: Characters of each text, spaces left out.
        expected_cer: Of each; None without a calibration.
        removed: What the filters took, in their order.
    """

    rows: NDArray[np.int64]
    scores: Floats
    hours: Floats
    hyp_chars: Floats
    expected_cer: Floats | None
    removed: list[Removed] = field(default_factory=list)

    def forecast(self) -> Floats:
        """Expected CER of the best one, two, … together; NaN without a calibration."""
        if self.expected_cer is None:
            return np.full(len(self.rows), np.nan)
        errors = np.cumsum(self.expected_cer * self.hyp_chars)
        return np.asarray(errors / np.maximum(np.cumsum(self.hyp_chars), 1.0))


def has_repeats(text: str, max_repeats: int) -> bool:
    """Whether one to four words follow themselves more often than that.

    Example:
        >>> has_repeats("네 네 네", 3), has_repeats("아 네 아 네 아 네 아 네", 3)
        (False, True)
    """
    words = text.split()
    for length in range(1, _MAX_NGRAM + 1):
        num_same = 0
        for word, before in zip(words[length:], words, strict=False):
            num_same = num_same + 1 if word == before else 0
            if num_same >= length * max_repeats:
                return True
    return False


def find_candidates(
    table: pa.Table, calibration: Calibration | None, filters: Filters
) -> Candidates:
    """Sort out what no filter takes, and rank it.

    Args:
        table: Transcripts with segment_id, text, is_empty, duration_s, evidence, metadata, and
            the columns that `max_hours_per` names.
        calibration: For scores and expected CER; None ranks by the raw confidence.
        filters: What is left out.
    """
    evidence = table["evidence"].combine_chunks()

    def column(values: pa.Array) -> Floats:
        return np.asarray(values.to_numpy(zero_copy_only=False), np.float64)

    hours = np.nan_to_num(column(table["duration_s"].combine_chunks()) / 3600, posinf=0.0)
    if calibration:
        scores = calibration.scores_of(evidence)
    else:
        scores = column(pc.struct_field(evidence, "raw_confidence"))
    kept = np.ones(len(table), np.bool_)
    removed: list[Removed] = []

    def take(why: str, is_bad: Mask) -> None:
        found = kept & is_bad
        kept[found] = False
        if found.any():
            removed.append(Removed(why, int(found.sum()), float(hours[found].sum())))

    for why, is_bad in _structural(table, filters).items():
        take(why, is_bad)
    take("no confidence", np.isnan(scores))
    # Among equals a hash decides: neither the order of files nor that of speakers.
    tie = np.array([short_hash(name or "") for name in table["segment_id"].to_pylist()])
    order = np.lexsort((tie, -scores))
    if filters.max_same_text is not None:
        groups = table["text"].fill_null("").to_pylist()
        rank = _sums_before(order, kept, _numbers(groups), np.ones(len(table)))
        take(f"text seen {filters.max_same_text} times", rank >= filters.max_same_text)
    for key, limit in hours_per(filters).items():
        used = _sums_before(order, kept, _numbers(values_of(table, key)), hours)
        take(f"more than {limit:g} h of one {key}", used + hours > limit + ROUNDING_H)
    rows = order[kept[order]]
    texts = pc.utf8_length(pc.replace_substring(table["text"], " ", "")).combine_chunks()
    expected = calibration.expected_cer(scores[rows]) if calibration else None
    return Candidates(rows, scores[rows], hours[rows], column(texts)[rows], expected, removed)


def _structural(table: pa.Table, filters: Filters) -> Mapping[str, Mask]:
    """What a row's own columns say against it, by why; the first that holds is counted."""

    def mask(values: pa.ChunkedArray) -> Mask:
        return np.asarray(values.fill_null(False).to_numpy(zero_copy_only=False), np.bool_)

    def evidence(name: str) -> pa.ChunkedArray:
        return pc.struct_field(table["evidence"], name)

    duration_s, rate = table["duration_s"], evidence("chars_per_s")
    texts = table["text"].fill_null("").to_pylist()
    repeats = np.array([has_repeats(text, filters.max_repeats) for text in texts], np.bool_)
    return {
        "no id, text or duration": mask(_is_incomplete(table)),
        "nothing said": mask(table["is_empty"]),
        f"shorter than {filters.min_segment_s:g} s": mask(
            pc.less(duration_s, filters.min_segment_s)
        ),
        f"longer than {filters.max_segment_s:g} s": mask(
            pc.greater(duration_s, filters.max_segment_s)
        ),
        f"more than {filters.max_unk} unknown tokens": mask(
            pc.greater(evidence("num_unk"), float(filters.max_unk))
        ),
        f"below {filters.min_chars_per_s:g} characters a second": mask(
            pc.less(rate, filters.min_chars_per_s)
        ),
        f"above {filters.max_chars_per_s:g} characters a second": mask(
            pc.greater(rate, filters.max_chars_per_s)
        ),
        f"words repeated more than {filters.max_repeats} times": repeats,
    }


def _is_incomplete(table: pa.Table) -> pa.ChunkedArray:
    """Rows of another writer's Parquet files that lack what every transcript has."""
    is_named = pc.and_(pc.is_valid(table["segment_id"]), pc.is_valid(table["text"]))
    has_length = pc.is_finite(table["duration_s"]).fill_null(False)
    return pc.invert(pc.and_(is_named, has_length))


def hours_per(filters: Filters) -> dict[str, float]:
    """Limit by key of `max_hours_per`.

    Raises:
        ValueError: One is not KEY=HOURS, with hours above 0.
    """
    pairs = [pair.rpartition("=") for pair in filters.max_hours_per]
    limits = {key: float(limit) for key, _, limit in pairs}
    if not all(key and limit > 0 for key, limit in limits.items()):
        raise ValueError("no key, or hours that are not above 0")
    return limits


def values_of(table: pa.Table, key: str) -> list[str]:
    """A column, or a key of the metadata, of each row; "" where there is none."""
    if key in table.column_names:
        return [str(value) for value in table[key].to_pylist()]
    return [value or "" for value in pc.map_lookup(table["metadata"], key, "first").to_pylist()]


def _numbers(values: list[str]) -> NDArray[np.int64]:
    return np.asarray(np.unique(values, return_inverse=True)[1], np.int64)


def _sums_before(
    order: NDArray[np.int64], kept: Mask, groups: NDArray[np.int64], values: Floats
) -> Floats:
    """Sum of the values of all kept rows of its group that come before each row in the order."""
    by_group = order[np.argsort(groups[order], kind="stable")]
    counted = np.where(kept, values, 0.0)[by_group]
    before = np.cumsum(counted) - counted
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    base = np.repeat(before[starts], np.diff(starts, append=len(by_group)))
    sums = np.empty(len(order))
    sums[by_group] = before - base
    return sums
