"""An output and one of its runs → what the run did and every segment it made, as plain columns."""

import json
from collections.abc import Mapping, Sequence
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
    """Every segment of a run, as columns of equal length; 24 bytes each.

    Attributes:
        shard: Number of its shard, in the order of `ReportedRun.objects`.
        row: Its row in that object.
        duration_s: Its length.
        confidence: NaN where nothing was said.
        expected_cer: NaN without a calibration.
        num_chars: Characters of its text.
        num_references: Segments that came with a reference.
        tallies: Of the metadata.
    """

    shard: NDArray[np.int32]
    row: NDArray[np.int32]
    duration_s: Floats
    confidence: Floats
    expected_cer: Floats
    num_chars: NDArray[np.int32]
    num_references: int
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


def read_rows(uri: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of an object, without the rest of it.

    Raises:
        JobError: It is damaged.
    """

    def read() -> pa.Table:
        fs, path = open_fs(uri)
        with fs.open(path, "rb") as file:
            return open_parquet(file).read(list(columns))

    return read_sound(uri, lambda: patiently(uri, read))


def scan_segments(reported: ReportedRun) -> Segments:
    """Read what is counted of each segment of a run; of other runs' rows in its objects nothing.

    Text and words of an object are not held, nor read but to be measured.
    """
    work = partial(_scan, run_id=reported.run.run_id)
    parts = concurrently(work, list(reported.objects.values()), "objects read")
    tallies: Tallies = {}
    for part in parts:
        _merge(tallies, part.tallies)
    shards = [np.full(len(part), number, np.int32) for number, part in enumerate(parts)]

    def column(name: str, kind: type) -> NDArray[Any]:
        held = [getattr(part, name) for part in parts]
        return np.concatenate([np.zeros(0, kind), *held], dtype=kind)

    return Segments(
        shard=np.concatenate([np.zeros(0, np.int32), *shards]),
        row=column("row", np.int32),
        duration_s=column("duration_s", np.float32),
        confidence=column("confidence", np.float32),
        expected_cer=column("expected_cer", np.float32),
        num_chars=column("num_chars", np.int32),
        num_references=sum(part.num_references for part in parts),
        tallies=tallies,
    )


_SCANNED = ["run_id", "duration_s", "confidence", "expected_cer", "is_empty", "text", "reference"]
_SCANNED += ["metadata"]


def _scan(uri: str, run_id: str) -> Segments:
    table = read_rows(uri, _SCANNED)
    is_ours = pc.equal(table["run_id"].cast(pa.string()), run_id).fill_null(False)
    rows = np.flatnonzero(is_ours.to_numpy()).astype(np.int32)
    table = table.filter(is_ours)

    def column(values: pa.ChunkedArray, kind: type) -> NDArray[Any]:
        return np.asarray(values.to_numpy(), kind)

    letters = pc.utf8_length(pc.replace_substring(table["text"].fill_null(""), " ", ""))
    return Segments(
        shard=np.zeros(len(rows), np.int32),
        row=rows,
        duration_s=column(table["duration_s"].fill_null(0.0), np.float32),
        confidence=column(table["confidence"], np.float32),
        expected_cer=column(table["expected_cer"], np.float32),
        num_chars=column(letters, np.int32),
        num_references=len(table) - table["reference"].null_count,
        tallies=_tally(table),
    )


def _tally(table: pa.Table) -> Tallies:
    metadata = table["metadata"].combine_chunks()
    keys = pc.unique(metadata.keys).to_pylist()[:_MAX_KEYS] if len(table) else []
    return {key: _by_value(table, key) for key in keys}


def _by_value(table: pa.Table, key: str) -> dict[str, NDArray[np.float64]]:
    values = pc.map_lookup(table["metadata"], key, "first").fill_null("")
    if pc.count_distinct(values).as_py() > MAX_VALUES:
        return {}
    columns = {name: table[name] for name in ("duration_s", "confidence")}
    columns |= {"value": values, "is_empty": table["is_empty"].cast(pa.int64())}
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
