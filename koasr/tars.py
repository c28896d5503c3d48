"""A tar → its recordings with their sidecars, as WebDataset lays them out; nothing is extracted."""

import json
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any

from koasr.errors import Reason
from koasr.rows import Recording, Reject, Shard, recording_id
from koasr.sources import decode_text, is_audio
from koasr.storage import open_fs, transient_errors

MAX_RECORDING_BYTES = 1 << 30
_REFERENCE_KEYS = ("text", "sentence", "transcript", "transcription", "reference")

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


def unread(shard: Shard, key: str, reason: Reason, message: str, size_bytes: int = 0) -> Reject:
    """The reject of what could not be read: a recording, or with key "" the rest of the shard."""
    key = storable(key)
    name = recording_id(shard.uri, key) if key else f"{recording_id(shard.uri)}/"
    message = storable(message)[:500]
    return Reject(name, shard.uri, key, shard.version, "read", reason, message, size_bytes)


def storable(text: str) -> str:
    """Text that Parquet takes: what is not Unicode (an EUC-KR name, half a pair) is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def split_columns(columns: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Reference and metadata among the columns that came along with a recording.

    Example:
        >>> split_columns({"text": "안녕", "speaker": 3, "path": None})
        ('안녕', {'speaker': '3'})
    """
    key = next((k for k in _REFERENCE_KEYS if isinstance(columns.get(k), str)), None)
    reference = storable(columns[key]) if key else None
    rest = {k: v for k, v in columns.items() if k != key and isinstance(v, str | int | float)}
    return reference, {storable(k): storable(str(v)) for k, v in rest.items()}


def _stem(name: str) -> str:
    """Folder and name up to the first dot: what WebDataset calls the key."""
    folder, separator, base = name.rpartition("/")
    return folder + separator + base.split(".", 1)[0]


def read_tar(shard: Shard) -> Iterator[Item]:
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
                    name = storable(member.name)
                    if group and _stem(name) != _stem(next(iter(group))):
                        yield from _tar_group(shard, group)
                        group = {}
                    if is_audio(name) and name in seen:
                        seen[name] += 1
                        message = "another member of this name in the tar"
                        key = f"{name}#{seen[name]}"
                        yield unread(shard, key, "duplicate_key", message, member.size)
                        continue
                    if is_audio(name):
                        seen[name] = 1
                    if is_audio(name) and member.size > MAX_RECORDING_BYTES:
                        group[name] = member.size
                    elif is_audio(name) or name.endswith((".txt", ".json")):
                        group[name] = _member_bytes(tar, member)
        except (tarfile.TarError, EOFError) as error:
            yield from _tar_group(shard, group)
            yield unread(shard, "", "truncated", f"the tar breaks off or is no tar: {error}")
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
            yield unread(shard, name, "too_large", message, data)
            continue
        reference, metadata = split_columns(_sidecar_columns(group, name))
        raw_pcm = name.lower().endswith(".pcm")
        place = (recording_id(shard.uri, name), shard.uri, name, shard.version)
        yield Recording(*place, data, reference, metadata, raw_pcm)
