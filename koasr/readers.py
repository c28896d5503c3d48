"""One shard → its recordings, encoded, in the order they lie in it; nothing goes to disk."""

import json
import math
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from koasr.errors import JobError, Reason, TransientError
from koasr.rows import Recording, Reject, Shard, recording_id
from koasr.sources import decode_text, is_audio, manifest_entries, resolve
from koasr.storage import open_fs, read_bytes, transient_errors, version_of

MAX_RECORDING_BYTES = 1 << 30
_REFERENCE_KEYS = ("text", "sentence", "transcript", "transcription", "reference")
_PARQUET_BATCH_ROWS = 32

Item = Recording | Reject


class _TarInfo(tarfile.TarInfo):
    """A header that is damaged or cut short ends the tar with an error.

    tarfile takes such a header, after the first, for the end of the archive.
    """

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_TarInfo":
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"damaged header at byte {tar.offset}") from error


def read_recordings(shard: Shard) -> Iterator[Item]:
    """Every recording of a shard, once; what cannot be read is a reject.

    A shard that vanished, changed or breaks off is one reject for all that could not be read.

    Raises:
        TransientError: The store failed in a way that may pass.
        JobError: The store denied access.
    """
    readers = {"tar": _read_tar, "parquet": _read_parquet, "files": _read_files}
    try:
        if shard.kind != "files":
            with transient_errors(shard.uri):
                if version_of(shard.uri) != shard.version:
                    message = "changed since it was listed: the next run takes the new version"
                    yield _unread(shard, "", "unreadable", message)
                    return
        yield from readers.get(shard.kind, _read_manifest)(shard)
    except (TransientError, JobError):
        raise
    except (FileNotFoundError, PermissionError) as error:
        yield _unread(shard, "", "unreadable", f"{type(error).__name__} since it was listed")
    # Untrusted bytes fail in more ways than can be named; the rest of a shard must not stop a run.
    except Exception as error:
        message = f"the rest of it cannot be read: {type(error).__name__}: {error}"
        yield _unread(shard, "", "unreadable", message)


def _unread(shard: Shard, key: str, reason: Reason, message: str, size_bytes: int = 0) -> Reject:
    key = _storable(key)
    name = recording_id(shard.uri, key) if key else f"{recording_id(shard.uri)}/"
    message = _storable(message)[:500]
    return Reject(name, shard.uri, key, shard.version, "read", reason, message, size_bytes)


def _storable(text: str) -> str:
    """Text that Parquet takes: what is not Unicode (an EUC-KR name, half a pair) is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def split_columns(columns: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Reference and metadata among the columns that came along with a recording.

    Example:
        >>> split_columns({"text": "안녕", "speaker": 3, "path": None})
        ('안녕', {'speaker': '3'})
    """
    key = next((k for k in _REFERENCE_KEYS if isinstance(columns.get(k), str)), None)
    reference = _storable(columns[key]) if key else None
    rest = {k: v for k, v in columns.items() if k != key and isinstance(v, str | int | float)}
    return reference, {_storable(k): _storable(str(v)) for k, v in rest.items()}


def _stem(name: str) -> str:
    """Folder and name up to the first dot: what WebDataset calls the key."""
    folder, separator, base = name.rpartition("/")
    return folder + separator + base.split(".", 1)[0]


def _read_tar(shard: Shard) -> Iterator[Item]:
    """WebDataset groups: members that follow each other and share the name up to the first dot."""
    fs, path = open_fs(shard.uri)
    seen: dict[str, int] = {}
    group: dict[str, bytes | int] = {}
    with transient_errors(shard.uri):
        file = fs.open(path, "rb", block_size=8 << 20)
    with file, transient_errors(shard.uri):
        try:
            with tarfile.open(fileobj=file, mode="r|*", tarinfo=_TarInfo) as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    name = _storable(member.name)
                    if group and _stem(name) != _stem(next(iter(group))):
                        yield from _tar_group(shard, group)
                        group = {}
                    if is_audio(name) and name in seen:
                        seen[name] += 1
                        message = "another member of this name in the tar"
                        key = f"{name}#{seen[name]}"
                        yield _unread(shard, key, "duplicate_key", message, member.size)
                        continue
                    if is_audio(name):
                        seen[name] = 1
                    if is_audio(name) and member.size > MAX_RECORDING_BYTES:
                        group[name] = member.size
                    elif is_audio(name) or name.endswith((".txt", ".json")):
                        group[name] = _member_bytes(tar, member)
        except (tarfile.TarError, EOFError) as error:
            yield from _tar_group(shard, group)
            yield _unread(shard, "", "truncated", f"the tar breaks off or is no tar: {error}")
            return
        yield from _tar_group(shard, group)


def _member_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_RECORDING_BYTES:
        return b""
    handle = tar.extractfile(member)
    data = handle.read() if handle else b""
    if len(data) != member.size:
        raise EOFError(f"{len(data)} of {member.size} bytes of a member")
    return data


def _sidecar_columns(group: dict[str, bytes | int], audio: str) -> dict[str, Any]:
    """Columns of the sidecars of one audio member: of its own stem if there are, else the group's.

    `a.1.flac` and `a.2.flac` are one group by their first dot, and have a `.txt` each.
    """
    sidecars = {n: d for n, d in group.items() if not is_audio(n) and isinstance(d, bytes)}
    own = {
        n: d for n, d in sidecars.items() if posixpath.splitext(n)[0] == audio.rpartition(".")[0]
    }
    columns: dict[str, Any] = {}
    for name, data in sorted((own or sidecars).items()):
        if name.endswith(".txt"):
            columns["text"] = decode_text(data)
            continue
        try:
            columns = {**dict(json.loads(data)), **columns}
        except (ValueError, TypeError):
            columns["sidecar"] = "unreadable json"
    return columns


def _tar_group(shard: Shard, group: dict[str, bytes | int]) -> Iterator[Item]:
    for name, data in group.items():
        if not is_audio(name):
            continue
        if isinstance(data, int):
            message = f"found {data} bytes, wanted at most {MAX_RECORDING_BYTES}"
            yield _unread(shard, name, "too_large", message, data)
            continue
        reference, metadata = split_columns(_sidecar_columns(group, name))
        raw_pcm = name.lower().endswith(".pcm")
        place = (recording_id(shard.uri, name), shard.uri, name, shard.version)
        yield Recording(*place, data, reference, metadata, raw_pcm)


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
        yield _unread(shard, "", "unsupported_format", message)
        return
    number = 0
    for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
        for row in batch.to_pylist():
            yield _parquet_row(shard, f"{number}", row.pop(audio_column), row)
            number += 1


def _parquet_row(shard: Shard, key: str, audio: Any, columns: dict[str, Any]) -> Item:
    reference, metadata = split_columns(columns)
    if isinstance(audio, dict):
        metadata |= {"path": _storable(str(audio["path"]))} if audio.get("path") else {}
        audio = audio["bytes"]
    if audio is None:
        return _unread(shard, key, "unreadable", "the row has no audio bytes, only a path")
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
            yield _unread(shard, key, "unreadable", "not a JSON object with audio_filepath")
            continue
        uri = resolve(shard.audio_root, str(entry.pop("audio_filepath")))
        if uri is None:
            message = f"the path leads out of {shard.audio_root}: move the manifest above its audio"
            yield _unread(shard, key, "bad_name", message)
            continue
        if held[0] != uri:
            try:
                with transient_errors(uri):
                    held = (uri, read_bytes(uri))
            except (FileNotFoundError, PermissionError) as error:
                yield _unread(shard, key, "unreadable", f"{uri}: {type(error).__name__}")
                continue
        yield _cut(shard, _storable(key), held[1], uri, entry)


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
        return _unread(shard, key, "unreadable", message)
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
