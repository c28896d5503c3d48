"""The objects of a run → its segments: counted as columns, and some of their rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from koasr.calibration import Floats
from koasr.report_run import ReportedRun
from koasr.runs import open_parquet, read_sound
from koasr.storage import open_fs, patiently
from koasr.threads import concurrently

MAX_VALUES = 20
"""A key of the metadata with more values than that tells no subsets."""
_MAX_KEYS = 40

Tallies = dict[str, dict[str, NDArray[np.float64]]]
"""Key → value → segments, seconds, segments with a confidence, sum of it, segments without speech.
A key with too many values has none."""
_SCANNED = ["run_id", "duration_s", "confidence", "expected_cer", "is_empty", "text", "reference"]
_SCANNED += ["metadata"]
_KINDS: dict[str, type] = {
    "shard": np.int32,
    "row": np.int32,
    "duration_s": np.float32,
    "confidence": np.float32,
    "expected_cer": np.float32,
    "num_chars": np.int32,
    "has_reference": np.bool_,
}
_BATCH_ROWS = 1 << 14


@dataclass(frozen=True)
class Segments:
    """Every segment of a run, as columns of equal length; 25 bytes each.

    Attributes:
        shard: Number of its shard, in the order of `ReportedRun.objects`.
        row: Its row in that object.
        duration_s: Its length.
        confidence: NaN where nothing was said.
        expected_cer: NaN without a calibration.
        num_chars: Characters of its text.
        has_reference: Whether it came with one, of its recording.
        tallies: Of the metadata.
        num_empty: How many have no speech.
    """

    shard: NDArray[np.int32]
    row: NDArray[np.int32]
    duration_s: Floats
    confidence: Floats
    expected_cer: Floats
    num_chars: NDArray[np.int32]
    has_reference: NDArray[np.bool_]
    tallies: Tallies
    num_empty: int = 0

    def __len__(self) -> int:
        return len(self.row)


def take_rows(
    uri: str, columns: Sequence[str], rows: NDArray[np.integer[Any]] | None = None
) -> pa.Table:
    """Some columns of some rows of an object, without the rest of it in memory.

    Args:
        uri: The object.
        columns: What to read.
        rows: Which ones, rising; all if not given.

    Raises:
        JobError: It is damaged.
    """

    def read() -> pa.Table:
        parts: list[pa.RecordBatch] = []
        with _opened(uri) as file:
            schema = pa.schema([file.schema_arrow.field(name) for name in columns])
            for first, batch in _batches(file, columns):
                if rows is not None:
                    inside = (rows >= first) & (rows < first + len(batch))
                    batch = batch.take(pa.array(rows[inside] - first))
                parts.append(batch)
        return pa.Table.from_batches(parts, schema)

    return read_sound(uri, lambda: patiently(uri, read))


@contextmanager
def _opened(uri: str) -> Iterator[Any]:
    fs, path = open_fs(uri)
    with fs.open(path, "rb") as source:
        yield open_parquet(source)


def _batches(file: Any, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows of an object, some at a time, and the number of the first of them."""
    first = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns)):
        yield first, batch.select(list(columns))
        first += len(batch)


def scan_segments(reported: ReportedRun) -> Segments:
    """Read what is counted of each segment of a run; of other runs' rows in its objects nothing.

    Texts are read to be measured, some at a time; words not at all.
    """
    work = partial(_scan, run_id=reported.run.run_id)
    numbered = list(enumerate(reported.objects.values()))
    return _add_keyless(_join(concurrently(work, numbered, "objects read")))


def _join(parts: Sequence[Segments]) -> Segments:
    tallies: Tallies = {}
    for part in parts:
        _merge(tallies, part.tallies)
    columns = {
        name: np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in parts)])
        for name, kind in _KINDS.items()
    }
    return Segments(**columns, tallies=tallies, num_empty=sum(part.num_empty for part in parts))


def _add_keyless(segments: Segments) -> Segments:
    """Count what lacks a key as its value "": a batch tells nothing of keys that none of it has."""
    is_spoken = ~np.isnan(segments.confidence)
    total = np.array(
        [
            len(segments),
            segments.duration_s.sum(dtype=float),
            is_spoken.sum(),
            segments.confidence[is_spoken].sum(dtype=float),
            segments.num_empty,
        ]
    )
    for values in segments.tallies.values():
        rest = total - sum(values.values(), np.zeros(5))
        if values and rest[0] > 0:
            values[""] = values.get("", 0.0) + np.maximum(rest, 0.0)
            if len(values) > MAX_VALUES:
                values.clear()
    return segments


def _scan(numbered: tuple[int, str], run_id: str) -> Segments:
    number, uri = numbered

    def read() -> Segments:
        with _opened(uri) as file:
            batches = _batches(file, _SCANNED)
            return _join([_measure(batch, first, number, run_id) for first, batch in batches])

    return read_sound(uri, lambda: patiently(uri, read))


def _measure(batch: pa.RecordBatch, first: int, shard: int, run_id: str) -> Segments:
    is_ours = pc.equal(batch["run_id"].cast(pa.string()), run_id).fill_null(False)
    rows = first + np.flatnonzero(is_ours.to_numpy(zero_copy_only=False))
    batch = batch.filter(is_ours)
    columns = {
        "shard": np.full(len(rows), shard),
        "row": rows,
        "duration_s": batch["duration_s"].fill_null(0.0),
        "confidence": batch["confidence"],
        "expected_cer": batch["expected_cer"],
        "num_chars": pc.utf8_length(pc.replace_substring(batch["text"].fill_null(""), " ", "")),
        "has_reference": batch["reference"].is_valid(),
    }
    arrays: dict[str, Any] = {
        name: np.asarray(columns[name], kind) for name, kind in _KINDS.items()
    }
    num_empty = pc.sum(batch["is_empty"]).as_py() or 0
    return Segments(**arrays, tallies=_tally(batch), num_empty=num_empty)


def _tally(batch: pa.RecordBatch) -> Tallies:
    keys = pc.unique(batch["metadata"].keys).to_pylist()[:_MAX_KEYS] if len(batch) else []
    return {key: _by_value(batch, key) for key in keys}


def _by_value(batch: pa.RecordBatch, key: str) -> dict[str, NDArray[np.float64]]:
    values = pc.map_lookup(batch["metadata"], key, "first").fill_null("")
    if pc.count_distinct(values).as_py() > MAX_VALUES:
        return {}
    columns = {name: batch[name] for name in ("duration_s", "confidence")}
    columns |= {"value": values, "is_empty": batch["is_empty"].cast(pa.int64())}
    wanted = [("value", "count"), ("duration_s", "sum"), ("confidence", "count")]
    wanted += [("confidence", "sum"), ("is_empty", "sum")]
    found = pa.table(columns).group_by("value").aggregate(wanted).to_pylist()
    names = [f"{name}_{what}" for name, what in wanted]
    return {row["value"]: np.array([row[name] or 0.0 for name in names], float) for row in found}


def _merge(tallies: Tallies, others: Tallies) -> None:
    for key, values in others.items():
        if key not in tallies and len(tallies) < _MAX_KEYS:
            tallies[key] = {name: counts.copy() for name, counts in values.items()}
            continue
        held = tallies.get(key)
        if not held:
            continue
        for value, counts in values.items():
            held[value] = held.get(value, 0.0) + counts
        if not values or len(held) > MAX_VALUES:
            held.clear()
