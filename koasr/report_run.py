"""An output and one of its runs → what the run did and every segment it made, as plain columns."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from koasr.calibration import Floats
from koasr.errors import JobError
from koasr.runs import Run, by_shard, open_parquet, open_plan, read_sound
from koasr.shard_objects import read_rejects
from koasr.storage import (
    absolute,
    check_reachable,
    job_errors,
    join,
    list_files,
    list_names,
    open_fs,
    patiently,
    read_bytes,
)
from koasr.threads import concurrently

_NUM_EARLIER = 30
"""Runs before this one whose summaries are read."""
_NUM_EXAMPLES = 3
_REJECTS_AT_ONCE = 32
_OPTIONAL: dict[str, Any] = {
    "state": "done",
    "exit_code": 0,
    "reason": "",
    "planned": 0,
    "confidence_counts": [],
    "drift": None,
    "feeding": None,
}
"""Of a summary: what older ones lack."""
_NEEDED = {"run_id", "date", "recordings", "rejected", "reasons", "segments", "audio_s", "wall_s"}
MAX_VALUES = 20
"""A key of the metadata with more values than that tells no subsets."""
_MAX_KEYS = 40

Tallies = dict[str, dict[str, NDArray[np.float64]]]
"""Key → value → segments, seconds, segments with a confidence, sum of it, segments without speech.
A key with too many values has none."""


@dataclass(frozen=True)
class ReportedRun:
    """A run with a summary.

    Attributes:
        run: Its place.
        summary: As `summary.json` has it.
        earlier: Summaries of the runs before it, the oldest first.
        objects: URI of the transcripts object by the name of its shard.
    """

    run: Run
    summary: dict[str, Any]
    earlier: list[dict[str, Any]]
    objects: dict[str, str]


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
    """

    shard: NDArray[np.int32]
    row: NDArray[np.int32]
    duration_s: Floats
    confidence: Floats
    expected_cer: Floats
    num_chars: NDArray[np.int32]
    has_reference: NDArray[np.bool_]
    tallies: Tallies

    def __len__(self) -> int:
        return len(self.row)


def open_run(output: str, run_id: str | None) -> ReportedRun:
    """A run of an output, the newest one with a summary if none is named.

    Raises:
        JobError: There is no such run, it has no summary yet, or it cannot be read.
    """
    output = absolute(output)
    check_reachable(output)
    with job_errors(output):
        folder = join(output, "_koasr", "runs")
        names = [name for name in list_names(folder) if not name.startswith(".")]
        if run_id is not None and run_id not in names:
            held = f"the last are {', '.join(names[-3:])}" if names else "it has none"
            raise JobError(f"{output} has no run {run_id!r}: {held}")
        read = partial(_read_summary, folder)
        if run_id is None:
            run_id = next((name for name in reversed(names) if read(name)), "")
        summary = read(run_id) if run_id else None
        if summary is None:
            which = f"run {run_id}" if run_id else "any run"
            raise JobError(f"{output} has no summary of {which}: koasr transcribe writes it last")
        before = [name for name in names if name < run_id][-_NUM_EARLIER:]
        earlier = concurrently(read, before, "summaries read")
        run, planned = _read_place(output, run_id, summary)
        held_files = list_files(join(output, "transcripts", f"date={run.date}"))
        objects = {name: uris[0] for name, uris in by_shard(held_files).items()}
    if planned is not None:
        objects = {name: uri for name, uri in objects.items() if name in planned}
    return ReportedRun(run, summary, [held for held in earlier if held], objects)


def _read_summary(folder: str, run_id: str) -> dict[str, Any] | None:
    """None where there is none, or one that is damaged."""
    try:
        document = json.loads(read_bytes(join(folder, run_id, "summary.json")))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    is_whole = isinstance(document, dict) and document.keys() >= _NEEDED
    return {**_OPTIONAL, **document} if is_whole else None


def _read_place(
    output: str, run_id: str, summary: Mapping[str, Any]
) -> tuple[Run, frozenset[str] | None]:
    """The run, and the names of its shards; None where it left no plan."""
    try:
        plan = join(output, "_koasr", "runs", run_id, "plan.parquet")
        run, names = open_plan(output, plan)
    except FileNotFoundError:
        return Run(output, run_id, str(summary["date"]), str(summary.get("fingerprint"))), None
    return run, frozenset(names)


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
    return _join(concurrently(work, numbered, "objects read"))


def _join(parts: Sequence[Segments]) -> Segments:
    tallies: Tallies = {}
    for part in parts:
        _merge(tallies, part.tallies)
    columns = {
        name: np.concatenate([np.zeros(0, kind), *(getattr(part, name) for part in parts)])
        for name, kind in _KINDS.items()
    }
    return Segments(**columns, tallies=tallies)


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
    return Segments(**arrays, tallies=_tally(batch))


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


def read_examples(reported: ReportedRun) -> dict[str, list[dict[str, Any]]]:
    """A few rejects of each reason; objects are looked at until there are enough."""
    wanted = {reason: min(n, _NUM_EXAMPLES) for reason, n in reported.summary["reasons"].items()}
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in wanted}
    uris = list(reported.objects.values())
    for start in range(0, len(uris), _REJECTS_AT_ONCE):
        if all(len(found[reason]) >= count for reason, count in wanted.items()):
            break
        some = uris[start : start + _REJECTS_AT_ONCE]
        for table in concurrently(read_rejects, some, "rejects read"):
            for reason, held in found.items():
                missing = wanted[reason] - len(held)
                is_it = pc.equal(table["reason"].cast(pa.string()), reason)
                held += table.filter(is_it).slice(0, max(missing, 0)).to_pylist()
    return found
