"""One shard → its recordings, encoded, in the order they lie in it; nothing goes to disk."""

import json
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from koasr.errors import Reason
from koasr.rows import Recording, Reject, Shard, recording_id
from koasr.sources import is_audio, trn_path
from koasr.storage import absolute, join, open_fs, read_bytes, transient_errors

MAX_RECORDING_BYTES = 1 << 30
_REFERENCE_KEYS = ("text", "sentence", "transcript", "transcription", "reference")
_PARQUET_BATCH_ROWS = 32

Item = Recording | Reject


def read_recordings(shard: Shard) -> Iterator[Item]:
    """Every recording of a shard, once; what cannot be read is a reject.

    Raises:
        TransientError: The store failed in a way that may pass.
    """
    readers = {"tar": _read_tar, "parquet": _read_parquet, "files": _read_files}
    try:
        yield from readers.get(shard.kind, _read_manifest)(shard)
    except (FileNotFoundError, PermissionError) as error:
        yield _unread(shard, "", "unreadable", f"{type(error).__name__} since it was listed")


def _unread(shard: Shard, key: str, reason: Reason, message: str, size_bytes: int = 0) -> Reject:
    name = recording_id(shard.uri, key)
    return Reject(name, shard.uri, key, shard.version, "read", reason, message[:500], size_bytes)


def decode_text(data: bytes) -> str:
    """Text of a reference file: UTF-8, else cp949, which older Korean corpora use."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return data.decode("cp949", "replace").strip()


def _printable(name: str) -> str:
    """A member name that is not UTF-8 as text that can be stored, each odd byte escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def split_columns(columns: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Reference and metadata among the columns that came along with a recording.

    Example:
        >>> split_columns({"text": "안녕", "speaker": 3, "path": None})
        ('안녕', {'speaker': '3'})
    """
    key = next((k for k in _REFERENCE_KEYS if isinstance(columns.get(k), str)), None)
    reference = columns[key] if key else None
    rest = {k: v for k, v in columns.items() if k != key and isinstance(v, str | int | float)}
    return reference, {k: str(v) for k, v in rest.items()}


def _read_tar(shard: Shard) -> Iterator[Item]:
    """WebDataset groups: members that follow each other and share the name up to the first dot."""
    fs, path = open_fs(shard.uri)
    seen: set[str] = set()
    with transient_errors(shard.uri):
        file = fs.open(path, "rb", block_size=8 << 20)
    with file, transient_errors(shard.uri):
        group: dict[str, tarfile.TarInfo | bytes] = {}
        stem = None
        try:
            with tarfile.open(fileobj=file, mode="r|*") as tar:
                for member in tar:
                    if not member.isfile():
                        continue
                    folder, _, name = member.name.rpartition("/")
                    if (folder, name.split(".", 1)[0]) != stem:
                        yield from _tar_group(shard, group, seen)
                        stem, group = (folder, name.split(".", 1)[0]), {}
                    name = _printable(member.name)
                    if is_audio(name) and name in (seen | group.keys()):
                        message = "a second member of this name in the tar"
                        yield _unread(shard, f"{name}#2", "duplicate_key", message, member.size)
                    elif member.size > MAX_RECORDING_BYTES:
                        group[name] = member
                    elif is_audio(name) or name.endswith((".txt", ".json")):
                        group[name] = _member_bytes(tar, member)
        except (tarfile.ReadError, EOFError) as error:
            yield from _tar_group(shard, group, seen)
            yield _unread(shard, "", "truncated", f"the tar ends early or is no tar: {error}")
            return
        yield from _tar_group(shard, group, seen)


def _member_bytes(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    handle = tar.extractfile(member)
    data = handle.read() if handle else b""
    if len(data) != member.size:
        raise EOFError(f"{len(data)} of {member.size} bytes of a member")
    return data


def _tar_group(
    shard: Shard, group: dict[str, tarfile.TarInfo | bytes], seen: set[str]
) -> Iterator[Item]:
    columns: dict[str, Any] = {}
    for name, data in group.items():
        if name.endswith(".json") and isinstance(data, bytes):
            try:
                columns |= json.loads(data)
            except (ValueError, TypeError):
                columns["sidecar"] = "unreadable json"
    for name, data in group.items():
        if name.endswith(".txt") and isinstance(data, bytes):
            columns["text"] = decode_text(data)
    reference, metadata = split_columns(columns)
    for name, data in group.items():
        if not is_audio(name):
            continue
        seen.add(name)
        if not isinstance(data, bytes):
            message = f"found {data.size} bytes, wanted at most {MAX_RECORDING_BYTES}"
            yield _unread(shard, name, "too_large", message, data.size)
            continue
        identity = recording_id(shard.uri, name)
        raw_pcm = name.lower().endswith(".pcm")
        yield Recording(
            identity, shard.uri, name, shard.version, data, reference, metadata, raw_pcm
        )


def _audio_column(schema: pa.Schema) -> str | None:
    for column in schema:
        if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:
            return str(column.name)
    return next((c.name for c in schema if pa.types.is_binary(c.type) and c.name == "audio"), None)


def _read_parquet(shard: Shard) -> Iterator[Item]:
    """Rows as the Hugging Face hub has them: a column `audio` of struct<bytes, path>."""
    fs, path = open_fs(shard.uri)
    with transient_errors(shard.uri):
        file = fs.open(path, "rb")
    with file, transient_errors(shard.uri):
        try:
            parquet = pq.ParquetFile(file)
            audio_column = _audio_column(parquet.schema_arrow)
        except pa.ArrowInvalid as error:
            yield _unread(shard, "", "unreadable", f"not a Parquet file: {error}")
            return
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
        metadata |= {"path": str(audio["path"])} if audio.get("path") else {}
        audio = audio["bytes"]
    if audio is None:
        return _unread(shard, key, "unreadable", "the row has no audio bytes, only a path")
    name = recording_id(shard.uri, key)
    raw_pcm = metadata.get("path", "").lower().endswith(".pcm")
    return Recording(name, shard.uri, key, shard.version, audio, reference, metadata, raw_pcm)


def _manifest_entries(shard: Shard) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Key and columns of each line; None for a line that cannot be read."""
    with transient_errors(shard.uri):
        lines = decode_text(read_bytes(shard.uri)).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if shard.kind == "trn":
            text = line.partition("::")[2].strip()
            yield f"{number}:{trn_path(line)}", {"audio_filepath": trn_path(line), "text": text}
            continue
        try:
            entry = json.loads(line)
            key = f"{number}:{entry['audio_filepath']}"
        except (ValueError, TypeError, KeyError):
            yield f"{number}:", None
        else:
            yield key, entry


def _inside(root: str, path: str) -> str | None:
    """The URI of a manifest's path, None when it leads out of the manifest's own folder."""
    if "::" in path:
        return None
    uri = absolute(path) if "://" in path or path.startswith("/") else join(root, path)
    scheme, separator, rest = uri.partition("://")
    uri = f"{scheme}://{posixpath.normpath(rest)}" if separator else posixpath.normpath(uri)
    return uri if uri.startswith(root.rstrip("/") + "/") else None


def _read_manifest(shard: Shard) -> Iterator[Item]:
    """Lines of a JSONL manifest or a `.trn` script; several lines may cut one file."""
    held: tuple[str, bytes] = ("", b"")
    for key, entry in _manifest_entries(shard):
        if entry is None:
            yield _unread(shard, key, "unreadable", "not a JSON object with audio_filepath")
            continue
        uri = _inside(shard.audio_root, str(entry.pop("audio_filepath")))
        if uri is None:
            message = f"the path leads out of {shard.audio_root}: move the manifest above its audio"
            yield _unread(shard, key, "bad_name", message)
            continue
        if held[0] != uri:
            try:
                with transient_errors(uri):
                    held = (uri, read_bytes(uri))
            except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
                yield _unread(shard, key, "unreadable", f"{uri}: {type(error).__name__}")
                continue
        yield _cut(shard, key, held[1], uri, entry)


def _cut(shard: Shard, key: str, audio: bytes, uri: str, entry: dict[str, Any]) -> Item:
    offset, duration = entry.get("offset"), entry.get("duration")
    try:
        offset_s = float(offset or 0.0)
        duration_s = None if duration is None else float(duration)
    except (TypeError, ValueError):
        return _unread(shard, key, "unreadable", "offset and duration are not numbers of seconds")
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
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            message = f"{type(error).__name__} since it was listed"
            yield Reject(name, file.uri, "", file.version, "read", "unreadable", message)
            continue
        raw_pcm = file.uri.lower().endswith(".pcm")
        yield Recording(name, file.uri, "", file.version, audio, reference, {}, raw_pcm)
