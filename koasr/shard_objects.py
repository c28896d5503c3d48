"""The one object that holds all of a committed shard: transcripts, rejects, record.

Rows are its Parquet; the record (JSON) and the rejects are in its footer, so that one write says
it all. The file below `rejects/` is a copy for readers, made from it, with the same record:
`ensure_rejects` makes it again wherever it is not.

A rewrite leaves a mark in `_koasr/rewriting/` until its copy is made, so that whoever comes after
a crash knows which copy to look at.
"""

import base64
import dataclasses
import hashlib
import io
import json
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from koasr.drift import count_confidence
from koasr.errors import JobError
from koasr.metrics import ErrorCounts, count_errors
from koasr.runs import (
    RECORD_KEY,
    object_name,
    open_parquet,
    open_record,
    read_footer,
    read_record,
    read_sound,
    to_parquet,
)
from koasr.storage import (
    join,
    list_files,
    open_fs,
    patiently,
    read_bytes,
    remove,
    write_bytes,
)
from koasr.transcripts import TRANSCRIPTS

REJECTS_KEY = b"koasr_rejects"
_MAX_ROUNDS = 20
"""Of looking at what others wrote meanwhile. Each round needs another writer."""


@dataclass(frozen=True)
class ShardObject:
    """What a transcripts object holds."""

    record: dict[str, Any]
    transcripts: pa.Table
    rejects: pa.Table

    @property
    def attempt(self) -> str:
        """Which write this is; no two are the same."""
        return str(self.record["attempt"])


def make_object(
    record: dict[str, Any], transcripts: pa.Table, rejects: pa.Table
) -> tuple[ShardObject, bytes]:
    """An object of a new attempt, counted, and its bytes.

    Args:
        record: What is known of the shard besides the counts.
        transcripts: Rows of schema `TRANSCRIPTS`.
        rejects: Rows of schema `REJECTS`.
    """
    cell = _encode(rejects)
    counted = record | _counts(transcripts, rejects)
    counted |= {"attempt": uuid.uuid4().hex, "rejects_digest": _digest(cell)}
    footer = {RECORD_KEY: json.dumps(counted).encode(), REJECTS_KEY: cell}
    return ShardObject(counted, transcripts, rejects), to_parquet(transcripts, footer)


def make_copy(made: ShardObject) -> bytes:
    """The bytes of its file below `rejects/`."""
    return to_parquet(made.rejects, {RECORD_KEY: json.dumps(made.record).encode()})


def _encode(rejects: pa.Table) -> bytes:
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=True)
    with pa.ipc.new_stream(sink, rejects.schema, options=options) as writer:
        writer.write_table(rejects)
    return base64.b64encode(sink.getvalue())


def _digest(cell: bytes) -> str:
    return hashlib.blake2b(cell, digest_size=16).hexdigest()


def _open_footer(uri: str, footer: dict[bytes, bytes]) -> tuple[dict[str, Any], pa.Table]:
    record = open_record(uri, footer)
    if _digest(footer[REJECTS_KEY]) != record["rejects_digest"]:
        raise ValueError("its rejects do not have their checksum")
    with pa.ipc.open_stream(base64.b64decode(footer[REJECTS_KEY])) as reader:
        return record, reader.read_all()


def read_object(uri: str) -> ShardObject:
    """All of a transcripts object, its checksums compared.

    Raises:
        FileNotFoundError: There is none.
        JobError: It is damaged, or none of ours.
    """

    def read() -> ShardObject:
        source = io.BytesIO(read_bytes(uri))
        parquet = open_parquet(source)
        record, rejects = _open_footer(uri, dict(parquet.metadata.metadata or {}))
        transcripts = parquet.read().replace_schema_metadata(None)
        # Checksums are of pages; what says where a page belongs has none.
        if transcripts.schema != TRANSCRIPTS or transcripts.num_rows != record["rows"]:
            raise ValueError("its columns or rows are not those that were written")
        return ShardObject(record, transcripts, rejects)

    return read_sound(uri, read)


def read_rejects(uri: str) -> pa.Table:
    """The rejects of a shard, from the footer of its transcripts object."""
    return read_sound(uri, lambda: _open_footer(uri, read_footer(uri))[1])


def read_sources(uri: str) -> set[tuple[str, str]]:
    """(source_uri, source_version) of everything in a transcripts object, its rejects included."""
    columns = ["source_uri", "source_version"]

    def read() -> pa.Table:
        fs, path = open_fs(uri)
        with fs.open(path, "rb") as file:
            return open_parquet(file).read(columns)

    transcripts = read_sound(uri, lambda: patiently(uri, read))
    found: set[tuple[str, str]] = set()
    for table in (transcripts, read_rejects(uri).select(columns)):
        pairs = table.group_by(columns).aggregate([])
        found.update(zip(*(pairs[name].to_pylist() for name in columns), strict=True))
    return found


def rejects_uri(uri: str) -> str:
    """Where the copy of the rejects of a transcripts object lies."""
    root, _, below = uri.rpartition("/transcripts/")
    return join(root, "rejects", below)


def _attempt_of_copy(uri: str) -> str | None:
    try:
        return str(read_record(uri).get("attempt"))
    except (FileNotFoundError, JobError):
        return None


def ensure_rejects(uri: str) -> dict[str, Any]:
    """Make the copy of the rejects of a transcripts object again, unless it is of this attempt.

    After each write the object is looked at again: when drivers race, the last to write a copy
    sees the last object, so the two agree in the end.

    Returns:
        The record.

    Raises:
        FileNotFoundError: There is no such object; then there is no copy either.
    """
    copy = rejects_uri(uri)
    for round_number in range(_MAX_ROUNDS):
        try:
            record, rejects = read_sound(uri, lambda: _open_footer(uri, read_footer(uri)))
        except FileNotFoundError:
            if round_number:
                remove(copy)
            raise
        if _attempt_of_copy(copy) == record["attempt"]:
            return record
        write_bytes(copy, to_parquet(rejects, {RECORD_KEY: json.dumps(record).encode()}))
    raise JobError(f"{copy} is written by others again and again: stop them and run it again")


def replace_object(uri: str, attempt: str, data: bytes) -> bool:
    """Put other bytes in the place of an object that was read, and make its copy.

    Args:
        uri: The transcripts object.
        attempt: That of the object which `data` was made from.
        data: From `make_object`.

    Returns:
        False, with nothing written, when there is another attempt by now.

    Raises:
        FileNotFoundError: It was removed meanwhile.
    """
    mark = _mark(uri)
    write_bytes(mark, b"")
    is_same = read_record(uri)["attempt"] == attempt
    if is_same:
        write_bytes(uri, data)
    ensure_rejects(uri)
    remove(mark)
    return bool(is_same)


def _mark(uri: str) -> str:
    root, _, below = uri.rpartition("/transcripts/")
    return join(root, "_koasr", "rewriting", below)


def finish_rewrites(output: str) -> None:
    """Make the copies that a rewrite could not make because it died."""
    folder = join(output, "_koasr", "rewriting")
    for mark in list_files(folder):
        date, name = mark.uri.rsplit("/", 2)[-2:]
        try:
            ensure_rejects(join(output, "transcripts", date, name))
        except FileNotFoundError:
            remove(join(output, "rejects", date, name))
        remove(mark.uri)


def rewrite(uri: str, drop: Callable[[pa.Table], pa.Array], why: str) -> int:
    """Take rows out of a committed shard. Nothing is written when there is nothing to take out.

    An object that is emptied stays: it is still the commit.

    Args:
        uri: A transcripts object.
        drop: Gets the transcripts, then the rejects; gives a mask of the rows to take out.
        why: `superseded`, `pruned` or `forgotten`; counted in the record under `removed`.

    Returns:
        The number of recordings taken out.
    """
    for _ in range(_MAX_ROUNDS):
        try:
            held = read_object(uri)
            kept, taken = [], set()
            for table in (held.transcripts, held.rejects):
                mask = drop(table)
                taken |= set(table.filter(mask)["recording_id"].to_pylist())
                kept.append(table.filter(pc.invert(mask)))
            if not taken:
                ensure_rejects(uri)
                return 0
            removed = Counter(held.record["removed"]) + Counter({why: len(taken)})
            _, data = make_object(held.record | {"removed": dict(removed)}, *kept)
            if replace_object(uri, held.attempt, data):
                return len(taken)
        except FileNotFoundError:
            return 0
    raise JobError(f"{uri} is written by others again and again: stop them and run it again")


def remove_object(uri: str) -> None:
    """Remove a transcripts object, then the copy of its rejects."""
    remove(uri)
    remove(rejects_uri(uri))


def mark_removed(uri: str, why: str, run_id: str) -> None:
    """Say before a shard's only object is removed that it was committed and is not to be done."""
    root, name = uri.rpartition("/transcripts/")[0], object_name(uri)
    document = {"name": name, "reason": why, "run_id": run_id}
    write_bytes(join(root, "_koasr", "removed", f"{name}.json"), json.dumps(document).encode())


def _counts(transcripts: pa.Table, rejects: pa.Table) -> dict[str, Any]:
    confidence = transcripts["confidence"]
    transcribed = pc.count_distinct(transcripts["recording_id"]).as_py()
    return {
        "recordings": transcribed + rejects.num_rows,
        "transcribed": transcribed,
        "rejected": rejects.num_rows,
        "reasons": dict(Counter(rejects["reason"].to_pylist())),
        "rows": transcripts.num_rows,
        "empty": pc.sum(transcripts["is_empty"]).as_py() or 0,
        "audio_s": pc.sum(transcripts["duration_s"]).as_py() or 0.0,
        "confidence_sum": pc.sum(pc.cast(confidence, pa.float64())).as_py() or 0.0,
        "confidence_count": len(confidence) - confidence.null_count,
        "confidence_counts": count_confidence(confidence),
        "errors": dataclasses.asdict(_count_errors(transcripts)),
    }


def _count_errors(transcripts: pa.Table) -> ErrorCounts:
    """Errors over the recordings that came with a reference, each joined from its segments."""
    columns = ["recording_id", "start_s", "text", "reference"]
    known = transcripts.select(columns).filter(pc.is_valid(transcripts["reference"]))
    texts: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for row in known.to_pylist():
        key = (row["recording_id"], row["reference"])
        texts.setdefault(key, []).append((row["start_s"], row["text"]))
    total = ErrorCounts()
    for (_, reference), parts in texts.items():
        total += count_errors(reference, " ".join(text for _, text in sorted(parts)))
    return total
