"""One shard → its recordings, encoded, in the order they lie in it; nothing goes to disk."""

import math
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from koasr.errors import JobError, TransientError
from koasr.rows import Recording, Reject, Shard, recording_id
from koasr.sources import decode_text, manifest_entries, resolve
from koasr.storage import open_fs, read_bytes, transient_errors, version_of
from koasr.tars import MAX_RECORDING_BYTES, Item, read_tar, split_columns, storable, unread

_PARQUET_BATCH_ROWS = 32


def read_recordings(shard: Shard) -> Iterator[Item]:
    """Every recording of a shard, once; what cannot be read is a reject.

    A shard that vanished, changed or breaks off is one reject for all that could not be read.

    Raises:
        TransientError: The store failed in a way that may pass.
        JobError: The store denied access.
    """
    readers = {"tar": read_tar, "parquet": _read_parquet, "files": _read_files}
    try:
        if shard.kind != "files":
            with transient_errors(shard.uri):
                if version_of(shard.uri) != shard.version:
                    message = "changed since it was listed: the next run takes the new version"
                    yield unread(shard, "", "unreadable", message)
                    return
        yield from readers.get(shard.kind, _read_manifest)(shard)
    except (TransientError, JobError):
        raise
    except (FileNotFoundError, PermissionError) as error:
        yield unread(shard, "", "unreadable", f"{type(error).__name__} since it was listed")
    # Untrusted bytes fail in more ways than can be named; the rest of a shard must not stop a run.
    except Exception as error:
        message = f"the rest of it cannot be read: {type(error).__name__}: {error}"
        yield unread(shard, "", "unreadable", message)


def _audio_column(schema: pa.Schema) -> str | None:
    for column in schema:
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
            return str(column.name)
    return next((c.name for c in schema if pa.types.is_binary(c.type) and c.name == "audio"), None)


class _Watched:
    """A stored file whose own failures are told from those that Parquet finds in its bytes."""

    closed = False

    def __init__(self, uri: str) -> None:
        self._uri = uri
        fs, path = open_fs(uri)
        with transient_errors(uri):
            self._file = fs.open(path, "rb")

    def read(self, size: int = -1) -> bytes:
        with transient_errors(self._uri):
            return bytes(self._file.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        self.closed = True


def _read_parquet(shard: Shard) -> Iterator[Item]:
    """Rows as the Hugging Face hub has them: a column `audio` of struct<bytes, path>."""
    parquet = pq.ParquetFile(pa.PythonFile(_Watched(shard.uri), mode="r"))
    audio_column = _audio_column(parquet.schema_arrow)
    if audio_column is None:
        found = ", ".join(parquet.schema_arrow.names)
        message = f"found columns {found}; wanted one of struct<bytes, path>"
        yield unread(shard, "", "unsupported_format", message)
        return
    number = 0
    for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
        for row in batch.to_pylist():
            yield _parquet_row(shard, f"{number}", row.pop(audio_column), row)
            number += 1


def _parquet_row(shard: Shard, key: str, audio: Any, columns: dict[str, Any]) -> Item:
    reference, metadata = split_columns(columns)
    if isinstance(audio, dict):
        metadata |= {"path": storable(str(audio["path"]))} if audio.get("path") else {}
        audio = audio["bytes"]
    if audio is None:
        return unread(shard, key, "unreadable", "the row has no audio bytes, only a path")
    name = recording_id(shard.uri, key)
    raw_pcm = metadata.get("path", "").lower().endswith(".pcm")
    return Recording(name, shard.uri, key, shard.version, audio, reference, metadata, raw_pcm)


def _read_manifest(shard: Shard) -> Iterator[Item]:
    """Lines of a JSONL manifest or a `.trn` script; several lines may cut one file."""
    held: tuple[str, bytes] = ("", b"")
    with transient_errors(shard.uri):
        entries = list(manifest_entries(shard))
    for key, entry in entries:
        if not entry:
            yield unread(shard, key, "unreadable", "not a JSON object with audio_filepath")
            continue
        uri = resolve(shard.audio_root, str(entry.pop("audio_filepath")))
        if uri is None:
            message = f"the path leads out of {shard.audio_root}: move the manifest above its audio"
            yield unread(shard, key, "bad_name", message)
            continue
        if held[0] != uri:
            try:
                with transient_errors(uri):
                    held = (uri, read_bytes(uri))
            except (FileNotFoundError, PermissionError) as error:
                yield unread(shard, key, "unreadable", f"{uri}: {type(error).__name__}")
                continue
        yield _cut(shard, storable(key), held[1], uri, entry)


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not math.isfinite(seconds) or not 0 <= seconds < 1e7:
        raise ValueError(f"{seconds} s")
    return seconds


def _cut(shard: Shard, key: str, audio: bytes, uri: str, entry: dict[str, Any]) -> Item:
    offset, duration = entry.get("offset"), entry.get("duration")
    try:
        offset_s = _seconds(offset or 0.0)
        duration_s = None if duration is None else _seconds(duration)
    except (TypeError, ValueError):
        message = "offset and duration are not numbers of seconds from 0 on"
        return unread(shard, key, "unreadable", message)
    reference, metadata = split_columns(entry)
    return Recording(
        recording_id(shard.uri, key),
        shard.uri,
        key,
        shard.version,
        audio,
        reference,
        metadata,
        raw_pcm=uri.lower().endswith(".pcm"),
        offset_s=offset_s,
        duration_s=duration_s,
    )


def _reference(uri: str, audio_uri: str, held: dict[str, dict[str, str]]) -> str | None:
    if not uri:
        return None
    if uri not in held:
        with transient_errors(uri):
            text = decode_text(read_bytes(uri))
        lines = (line.partition(" ") for line in text.splitlines())
        is_trans = uri.endswith(".trans.txt")
        held.clear()
        held[uri] = {k: v.strip() for k, _, v in lines} if is_trans else {"": text}
    stem = posixpath.splitext(posixpath.basename(audio_uri))[0]
    return held[uri].get(stem, held[uri].get(""))


def _read_files(shard: Shard) -> Iterator[Item]:
    held: dict[str, dict[str, str]] = {}
    for file in shard.files:
        name = recording_id(file.uri)
        if file.size_bytes > MAX_RECORDING_BYTES:
            message = f"found {file.size_bytes} bytes, wanted at most {MAX_RECORDING_BYTES}"
            yield Reject(name, file.uri, "", file.version, "read", "too_large", message)
            continue
        try:
            with transient_errors(file.uri):
                audio = read_bytes(file.uri)
            reference = _reference(file.reference_uri, file.uri, held)
        except (FileNotFoundError, PermissionError) as error:
            message = f"{type(error).__name__} since it was listed"
            yield Reject(name, file.uri, "", file.version, "read", "unreadable", message)
            continue
        raw_pcm = file.uri.lower().endswith(".pcm")
        yield Recording(name, file.uri, "", file.version, audio, reference, {}, raw_pcm)
