"""Packs → staged objects → the one object that commits a shard.

A shard's transcripts are one object whose name depends on the shard, its version and the
fingerprint alone. That it exists is the commit; its Parquet footer is the record.
"""

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from koasr import __version__
from koasr.errors import JobError
from koasr.metrics import ErrorCounts, count_errors
from koasr.packs import Header
from koasr.runs import RECORD_KEY, Run, to_parquet
from koasr.storage import join, list_files, read_bytes, remove_tree, transient_errors, write_bytes


def encode_tables(header: Header, transcripts: pa.Table, rejects: pa.Table) -> bytes:
    """Both tables of a pack as two Arrow streams, one after the other."""
    sink = io.BytesIO()
    metadata = {RECORD_KEY: json.dumps(dataclasses.asdict(header))}
    options = pa.ipc.IpcWriteOptions(compression="zstd", unify_dictionaries=True)
    for table in (transcripts.replace_schema_metadata(metadata), rejects):
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
    return sink.getvalue()


def decode_tables(data: bytes) -> tuple[Header, pa.Table, pa.Table]:
    """What `encode_tables` made."""
    source = io.BytesIO(data)
    with pa.ipc.open_stream(source) as reader:
        transcripts = reader.read_all()
    with pa.ipc.open_stream(source) as reader:
        rejects = reader.read_all()
    header = Header(**json.loads(transcripts.schema.metadata[RECORD_KEY]))
    return header, transcripts.replace_schema_metadata(None), rejects


def staged_key(header: Header) -> str:
    """Name of a staged pack, from which alone a later run sees what is there.

    Example:
        >>> staged_key(Header("name", "uri", "etag", 3, True, 10, 99))
        '000003-0000-last-end'
    """
    pack = "last" if header.is_last else "more"
    piece = "end" if header.is_last_piece else "piece"
    return f"{header.index:06d}-{header.piece:04d}-{pack}-{piece}"


def list_staged(run: Run) -> dict[str, set[str]]:
    """Shard name → keys of its staged packs."""
    found: dict[str, set[str]] = {}
    for file in list_files(join(run.folder, "staged")):
        folder, _, key = file.uri.rpartition("/")
        found.setdefault(folder.rsplit("/", 1)[-1], set()).add(key.removesuffix(".arrows"))
    return found


def stage_pack(run: Run, header: Header, data: bytes) -> None:
    """Keep a finished pack until its shard is complete."""
    place = run.staged(header.shard, staged_key(header))
    with transient_errors(place):
        write_bytes(place, data)


def read_staged(run: Run, name: str) -> list[bytes]:
    """Every staged pack of a shard, in order."""
    with transient_errors(run.staged(name)):
        files = list_files(run.staged(name))
        return [read_bytes(file.uri) for file in files if file.uri.endswith(".arrows")]


def commit_shard(run: Run, packs: Sequence[bytes]) -> dict[str, Any]:
    """Write a shard's rejects, then its transcripts, which commits it.

    A recording whose later piece failed is in the rejects, so its earlier rows are dropped.

    Args:
        run: Names the objects.
        packs: `encode_tables` of every pack of the shard, in order.

    Returns:
        The record, as it stands in the footer.

    Raises:
        JobError: Recordings listed are not recordings transcribed and rejected.
    """
    decoded = [decode_tables(data) for data in packs]
    headers = [header for header, _, _ in decoded]
    name = headers[0].shard
    rejects = pa.concat_tables([table for _, _, table in decoded])
    rejects = _first_of_each(rejects, "recording_id")
    transcripts = pa.concat_tables([table for _, table, _ in decoded])
    is_rejected = pc.is_in(transcripts["recording_id"], value_set=rejects["recording_id"])
    transcripts = transcripts.filter(pc.invert(is_rejected))
    record = _record(run, headers, transcripts, rejects)
    _check_account(name, record, transcripts)
    metadata = {RECORD_KEY: json.dumps(record)}
    with transient_errors(run.transcripts(name)):
        for place, table in ((run.rejects(name), rejects), (run.transcripts(name), transcripts)):
            write_bytes(place, to_parquet(table.replace_schema_metadata(metadata)))
        remove_tree(run.staged(name))
    return record


def _first_of_each(table: pa.Table, column: str) -> pa.Table:
    first: dict[str, int] = {}
    for index, value in enumerate(table[column].to_pylist()):
        first.setdefault(value, index)
    return table.take(pa.array(list(first.values()), pa.int64()))


def _record(
    run: Run, headers: Sequence[Header], transcripts: pa.Table, rejects: pa.Table
) -> dict[str, Any]:
    confidence = transcripts["confidence"]
    return {
        "shard": headers[0].uri,
        "version": headers[0].version,
        "fingerprint": run.fingerprint,
        "run_id": run.run_id,
        "koasr": __version__,
        "recordings": sum(header.num_recordings for header in headers),
        "transcribed": pc.count_distinct(transcripts["recording_id"]).as_py(),
        "rejected": rejects.num_rows,
        "reasons": dict(Counter(rejects["reason"].to_pylist())),
        "rows": transcripts.num_rows,
        "empty": pc.sum(transcripts["is_empty"]).as_py() or 0,
        "audio_s": pc.sum(transcripts["duration_s"]).as_py() or 0.0,
        "confidence_sum": pc.sum(pc.cast(confidence, pa.float64())).as_py() or 0.0,
        "confidence_count": len(confidence) - confidence.null_count,
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


def _check_account(name: str, record: dict[str, Any], transcripts: pa.Table) -> None:
    accounted = record["transcribed"] + record["rejected"]
    if record["recordings"] != accounted:
        found = f"{record['recordings']} recordings read, {accounted} in the output"
        raise JobError(f"shard {name}: {found}; nothing was written: report this")
    if pc.count_distinct(transcripts["segment_id"]).as_py() != transcripts.num_rows:
        raise JobError(f"shard {name}: a segment_id twice; nothing was written: report this")
