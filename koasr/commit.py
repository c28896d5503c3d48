"""Packs → staged objects → the one object that commits a shard.

A shard's transcripts are one object whose name depends on the shard, its version and the
fingerprint alone. That it exists is the commit; its Parquet footer is the record.
"""

import dataclasses
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from koasr import __version__
from koasr.errors import JobError
from koasr.metrics import ErrorCounts, count_errors
from koasr.packs import Header
from koasr.runs import RECORD_KEY, Run, read_record, to_parquet
from koasr.storage import (
    exists,
    join,
    list_files,
    read_bytes,
    remove_tree,
    transient_errors,
    write_bytes,
)


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
        >>> staged_key(Header("name", "uri", "etag", "5d41402a", 3, True, 10, 99))
        '000003-0000-last-end-5d41402a'
    """
    pack = "last" if header.is_last else "more"
    piece = "end" if header.is_last_piece else "piece"
    return f"{header.index:06d}-{header.piece:04d}-{pack}-{piece}-{header.members}"


class ShardPacks:
    """Which packs of one shard are staged, by their keys alone."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._packs: dict[int, dict[str, set[str]]] = {}
        for key in keys:
            self.add(key)

    def add(self, key: str) -> None:
        """Take in one key. A pack that holds other recordings than before takes its place."""
        index, _, _, _, members = key.split("-")
        packs = self._packs.get(int(index), {})
        self._packs[int(index)] = {members: packs.get(members, set()) | {key}}

    def complete(self) -> dict[int, str]:
        """Index and members of the packs of which every piece is there."""
        found = {}
        for index, packs in self._packs.items():
            for members, keys in packs.items():
                pieces = sorted(key.split("-")[1:4] for key in keys)
                in_order = [int(piece) for piece, _, _ in pieces] == list(range(len(pieces)))
                if in_order and pieces[-1][2] == "end":
                    found[index] = members
        return found

    def without_partial(self) -> "ShardPacks":
        """The complete packs alone: of the others every piece is made again."""
        complete = self.complete()
        return ShardPacks(key for i in complete for key in self._packs[i][complete[i]])

    def all_keys(self) -> list[str] | None:
        """Keys of the whole shard in order; None while a pack or piece is missing."""
        complete = self.complete()
        ends = [i for i in complete if any("-last-" in k for k in self._packs[i][complete[i]])]
        if not ends or not set(range(min(ends) + 1)) <= complete.keys():
            return None
        indices = range(min(ends) + 1)
        return sorted(key for i in indices for key in self._packs[i][complete[i]])


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


def read_staged(run: Run, name: str, keys: Iterable[str]) -> list[bytes]:
    """These staged packs of a shard; empty if another attempt has cleared them."""
    found = []
    for key in keys:
        try:
            with transient_errors(run.staged(name, key)):
                found.append(read_bytes(run.staged(name, key)))
        except FileNotFoundError:
            return []
    return found


def commit_shard(run: Run, name: str, packs: Sequence[bytes]) -> dict[str, Any]:
    """Write a shard's rejects, then its transcripts, which commits it.

    A shard that is committed already is left as it is: its record is adopted. A recording whose
    later piece failed is in the rejects, so its earlier rows are dropped.

    Args:
        run: Names the objects.
        name: Name of the shard's output.
        packs: `encode_tables` of every pack of the shard, in order.

    Returns:
        The record, as it stands in the footer.

    Raises:
        JobError: A pack is missing, or recordings listed are not those transcribed and rejected.
    """
    with transient_errors(run.transcripts(name)):
        if exists(run.transcripts(name)):
            return read_record(run.transcripts(name))
    decoded = [decode_tables(data) for data in packs]
    headers = [header for header, _, _ in decoded]
    keys = [staged_key(header) for header in headers]
    if ShardPacks(keys).all_keys() != keys:
        raise JobError(f"shard {name}: packs are missing, found {keys}: run it again")
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
    return record


def clear_staged(run: Run, name: str) -> None:
    """Remove the staged packs of a committed shard; what cannot be removed only takes space."""
    with suppress(Exception):
        remove_tree(run.staged(name))


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
