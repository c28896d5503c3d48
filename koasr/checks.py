"""One committed object, counted again from its rows and held against what it says of itself."""

import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from koasr.drift import count_confidence
from koasr.errors import JobError, TransientError
from koasr.rows import short_hash
from koasr.runs import RECORD_KEY, is_forgotten_key, is_group, object_name, open_parquet
from koasr.shard_objects import ShardObject, read_object, rejects_uri
from koasr.storage import read_bytes, transient_errors
from koasr.transcripts import REJECTS

Hashes = NDArray[np.int64]


@dataclass(frozen=True)
class Difference:
    """What was found in an output that should not be. Holds no text of a recording."""

    place: str
    what: str
    found: str
    wanted: str


@dataclass(frozen=True)
class Checked:
    """What is left of an object once it is checked: enough to hold it against the others.

    `segments`, `recordings` and `files` are hashes of segment_ids, of recording_ids (transcribed
    and rejected) and of (source_uri, source_version), of this process alone.
    """

    uri: str
    differences: list[Difference]
    record: dict[str, Any] = field(default_factory=dict)
    segments: Hashes = field(default_factory=lambda: hashes([]))
    recordings: Hashes = field(default_factory=lambda: hashes([]))
    files: Hashes = field(default_factory=lambda: hashes([]))


def hashes(values: Iterable[Any]) -> Hashes:
    """64 bits of each value, with this process's own key: nobody can prepare a collision."""
    return np.fromiter(map(hash, values), np.int64)


def check_object(uri: str, fingerprint: str, forgotten: frozenset[str]) -> Checked:
    """Read an object and the readable copy of its rejects, and find every difference in them.

    Args:
        uri: A transcripts object.
        fingerprint: The output's.
        forgotten: `read_forgotten` of the output.

    Raises:
        JobError: The store failed.
    """
    try:
        with transient_errors(uri):
            held = read_object(uri)
        held.transcripts.validate(full=True)
        held.rejects.validate(full=True)
        return _check(uri, held, fingerprint, forgotten)
    except FileNotFoundError:
        return Checked(uri, [Difference(uri, "object", "gone since it was listed", "still there")])
    except TransientError as error:
        raise JobError(f"the store failed again and again: {error}") from error
    # Damaged bytes fail in more ways than can be named, and each is a finding.
    except Exception as error:
        return Checked(uri, [_unreadable(uri, error)])


def _check(uri: str, held: ShardObject, fingerprint: str, forgotten: frozenset[str]) -> Checked:
    ids = held.transcripts["recording_id"].to_pylist() + held.rejects["recording_id"].to_pylist()
    found = [
        *_check_names(uri, held, fingerprint),
        *_check_counts(uri, held),
        *_check_ids(uri, held, forgotten),
        *_check_copy(uri, held),
    ]
    return Checked(
        uri,
        found,
        held.record,
        segments=hashes(held.transcripts["segment_id"].to_pylist()),
        recordings=hashes(set(ids)),
        files=hashes(_files(held)),
    )


def _unreadable(uri: str, error: Exception) -> Difference:
    message = " ".join(str(error).split())[:120]
    return Difference(uri, "object", f"{type(error).__name__}: {message}", "one that can be read")


def _check_names(uri: str, held: ShardObject, fingerprint: str) -> Iterator[Difference]:
    """Name, record and rows speak of the same shard, made the same way."""
    record = held.record
    # Those of the transcripts are held against the schema, and counted, as they are read.
    if held.rejects.schema != REJECTS:
        differing = ", ".join(sorted(f.name for f in set(held.rejects.schema) ^ set(REJECTS)))
        yield Difference(
            uri, "columns of the rejects", differing or "in another order", "as declared"
        )
    shard, version = record["shard"], record["version"]
    wanted = f"{short_hash(shard)}.{short_hash(version, record['fingerprint'])}"
    if not object_name(uri).endswith(f".{wanted}"):
        yield Difference(uri, "name", object_name(uri), f"….{wanted} of {shard}")
    for made in {record["fingerprint"], *held.transcripts["fingerprint"].unique().to_pylist()}:
        if made != fingerprint:
            yield Difference(uri, "fingerprint", str(made), fingerprint)
    # The rows of a group of loose files have each its own file's URI.
    strangers = _files(held) - {(shard, version)}
    if strangers and not is_group(object_name(uri)):
        yield Difference(uri, "source", f"rows of {len(strangers)} other sources", shard)


def _check_counts(uri: str, held: ShardObject) -> Iterator[Difference]:
    table, rejects, record = held.transcripts, held.rejects, held.record
    transcribed = pc.count_distinct(table["recording_id"]).as_py()
    confidence = table["confidence"]
    counted = {
        "transcribed": transcribed,
        "rejected": rejects.num_rows,
        "recordings": transcribed + rejects.num_rows,
        "reasons": dict(Counter(rejects["reason"].to_pylist())),
        "empty": pc.sum(table["is_empty"]).as_py() or 0,
        "audio_s": pc.sum(table["duration_s"]).as_py() or 0.0,
        "confidence_sum": pc.sum(pc.cast(confidence, pa.float64())).as_py() or 0.0,
        "confidence_count": len(confidence) - confidence.null_count,
        "confidence_counts": count_confidence(confidence),
    }
    for name, found in counted.items():
        # Records had no histogram before there were calibrations.
        wanted = record.get(name, found if name == "confidence_counts" else None)
        if found != wanted and not _is_close(found, wanted):
            yield Difference(uri, name, f"{found} in the rows", f"{wanted} as in its record")


def _is_close(found: Any, wanted: Any) -> bool:
    """Whether two sums of floats differ by no more than the order of their terms explains."""
    are_floats = isinstance(found, float) and isinstance(wanted, float)
    return are_floats and math.isclose(found, wanted, abs_tol=1e-6)


def _check_ids(uri: str, held: ShardObject, forgotten: frozenset[str]) -> Iterator[Difference]:
    transcribed = set(held.transcripts["recording_id"].to_pylist())
    rejected = held.rejects["recording_id"].to_pylist()
    twice = len(rejected) - len(set(rejected))
    if twice:
        yield Difference(uri, "recordings rejected twice", f"{twice:,}", "0")
    both = len(transcribed & set(rejected))
    if both:
        yield Difference(uri, "recordings transcribed and rejected", f"{both:,}", "0")
    known = transcribed | set(rejected) if forgotten else set()
    kept = sum(is_forgotten_key(name) in forgotten for name in known)
    if kept:
        yield Difference(uri, "forgotten recordings", f"{kept:,}", "0: run koasr forget again")


def _check_copy(uri: str, held: ShardObject) -> Iterator[Difference]:
    place = rejects_uri(uri)
    try:
        with transient_errors(place):
            data = read_bytes(place)
    except FileNotFoundError:
        yield Difference(place, "copy of the rejects", "none", "one")
        return
    try:
        parquet = open_parquet(io.BytesIO(data))
        record, rejects = json.loads(parquet.metadata.metadata[RECORD_KEY]), parquet.read()
        rejects.validate(full=True)
    except Exception as error:
        yield _unreadable(place, error)
        return
    if record != held.record:
        yield Difference(place, "record of the copy", "another", "that of the transcripts")
    elif not rejects.equals(held.rejects):
        yield Difference(place, "rows of the copy", "others", "those in the transcripts' footer")


def _files(held: ShardObject) -> set[tuple[str, str]]:
    """(source_uri, source_version) of every row."""
    columns = ["source_uri", "source_version"]
    rows = pa.concat_tables([held.transcripts.select(columns), held.rejects.select(columns)])
    pairs = rows.group_by(columns).aggregate([])
    return set(zip(*(pairs[name].to_pylist() for name in columns), strict=True))
