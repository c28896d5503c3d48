"""A tar → its recordings with their sidecars, as WebDataset lays them out; nothing is extracted."""

import json
import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import Any

from koasr.errors import Reason, RecordingError
from koasr.items import Item, escape_name, identify, nfc, shorten_name, split_columns, unread
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.rows import Recording, Shard
from koasr.sources import decode_text, is_audio
from koasr.stored import open_stored
from koasr.tar_stream import DAMAGE, Member, TarStream

_SIDECAR = (".txt", ".json")
_ARCHIVE = (".tar", ".tar.gz", ".tgz", ".zip", ".parquet")
_MAX_SIDECAR_BYTES = 1 << 20
_MAX_GROUP_BYTES = 256 << 20
_MAX_GROUP_MEMBERS = 10_000
"""A group is held in memory: `2026.11.22-1.flac` and all its neighbours are one by their names."""
_KINDS = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}


def leads_out(name: str) -> bool:
    """Whether a name, were it extracted, would land outside; on Windows too.

    Example:
        >>> [leads_out(name) for name in ("a/b.wav", "/b.wav", "a/../b.wav", "C:\\\\b.wav")]
        [False, True, True, True]
    """
    parts = re.split(r"[/\\]", name)
    return not parts[0] or ".." in parts or re.fullmatch(r"[A-Za-z]:", parts[0]) is not None


def _stem(name: str) -> str:
    """Folder and name up to the first dot: what WebDataset calls the key."""
    folder, separator, base = nfc(name).rpartition("/")
    return folder + separator + base.split(".", 1)[0]


def _json_columns(data: bytes) -> dict[str, Any]:
    try:
        columns = json.loads(data)
    # Deep nesting is a RecursionError.
    except (ValueError, RecursionError):
        columns = None
    return columns if isinstance(columns, dict) else {"sidecar": "unreadable json"}


class _Group:
    """Members that follow each other and share the name up to the first dot."""

    def __init__(self, shard: Shard, stem: str) -> None:
        self._shard, self.stem = shard, stem
        self._items: list[Item | tuple[str, bytes]] = []
        self._columns: dict[str, dict[str, Any]] = {}
        self._num_bytes = 0

    @property
    def is_full(self) -> bool:
        num_members = max(len(self._items), len(self._columns))
        return self._num_bytes > _MAX_GROUP_BYTES or num_members >= _MAX_GROUP_MEMBERS

    def add_reject(self, key: str, reason: Reason, message: str, size_bytes: int) -> None:
        self._items.append(unread(self._shard, key, reason, message, size_bytes))

    def add_audio(self, key: str, data: bytes) -> None:
        self._items.append((key, data))
        self._num_bytes += len(data)

    def add_sidecar(self, name: str, data: bytes | None) -> None:
        """Take in a sidecar; None for one that is too long to be read."""
        stem = posixpath.splitext(nfc(name))[0]
        columns = self._columns.setdefault(stem, {})
        self._num_bytes += len(data or b"")
        if data is None:
            columns["sidecar"] = "too long"
        elif name.lower().endswith(".txt"):
            columns["text"] = decode_text(data)
        else:
            self._columns[stem] = _json_columns(data) | columns

    def items(self) -> Iterator[Item]:
        """Its recordings, each with the sidecars of its own stem if there are, else the group's.

        `a.1.flac` and `a.2.flac` are one group by their first dot, and have a `.txt` each.
        """
        everything: dict[str, Any] = {}
        for _, columns in sorted(self._columns.items(), reverse=True):
            everything |= columns
        for item in self._items:
            if not isinstance(item, tuple):
                yield item
                continue
            key, data = item
            own = self._columns.get(posixpath.splitext(nfc(key))[0], everything)
            reference, metadata = split_columns(own)
            place = (identify(self._shard.uri, key), self._shard.uri, key, self._shard.version)
            raw_pcm = key.lower().endswith(".pcm")
            yield Recording(*place, data, reference, metadata, raw_pcm)


class _Names:
    """The keys given so far, so that no two recordings share one."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def claim(self, name: str) -> tuple[str, bool]:
        """The key of the next member of this name, and whether it is the first."""
        count = self._counts[nfc(name)] = self._counts.get(nfc(name), 0) + 1
        return (name, True) if count == 1 else (f"{name}#{count}", False)


def _problem(member: Member, limits: Limits) -> tuple[Reason, str] | None:
    """Why an audio member is not read, if it is not."""
    if leads_out(member.name):
        return "bad_name", "wanted a name below the tar's root: not absolute, and without '..'"
    if member.name.lower().endswith(_ARCHIVE):
        return "unsupported_format", "an archive inside the tar: list it as an input of its own"
    if not member.is_file:
        what = _KINDS.get(member.kind, f"a member of type {member.kind!r}")
        if member.is_sparse or member.kind == tarfile.GNUTYPE_SPARSE:
            what = "a sparse file: pack it without --sparse"
        return "unreadable", f"{what}; links and special files in a tar are never followed"
    if member.size_bytes > limits.max_bytes:
        return "too_large", f"found {member.size_bytes} bytes, wanted at most {limits.max_bytes}"
    return None


def _add(stream: TarStream, member: Member, group: _Group, names: _Names, limits: Limits) -> None:
    """Take a member into its group: audio, a reject, a sidecar, or nothing."""
    name = escape_name(member.name)
    if member.kind == tarfile.DIRTYPE or posixpath.basename(name).startswith("._"):
        return  # "._" is what macOS keeps beside a file
    num_bytes = len(name.encode())
    is_long = num_bytes > limits.max_name_bytes
    if name.lower().endswith(_SIDECAR):
        if member.is_file and not is_long:
            fits = member.size_bytes <= _MAX_SIDECAR_BYTES
            group.add_sidecar(name, stream.read(member.size_bytes) if fits else None)
        return
    if not is_audio(name) and not name.lower().endswith(_ARCHIVE):
        return
    key, is_first = names.claim(shorten_name(name))
    problem = _problem(member, limits)
    if is_long:
        message = f"found a name of {num_bytes} bytes, wanted at most {limits.max_name_bytes}"
        group.add_reject(key, "bad_name", message, member.size_bytes)
    elif not is_first:
        message = "another member of this name in the tar"
        group.add_reject(key, "duplicate_key", message, member.size_bytes)
    elif problem is not None:
        group.add_reject(key, *problem, member.size_bytes)
    else:
        group.add_audio(key, stream.read(member.size_bytes))


def read_tar(shard: Shard, limits: Limits = DEFAULT_LIMITS) -> Iterator[Item]:
    """WebDataset groups: members that follow each other and share the name up to the first dot."""
    group, names = _Group(shard, ""), _Names()
    with open_stored(shard.uri) as file:
        try:
            stream = TarStream(file, limits)
            for member in stream.members():
                stem = _stem(member.name[: limits.max_name_bytes])
                if group.is_full or stem != group.stem:
                    yield from group.items()
                    group = _Group(shard, stem)
                _add(stream, member, group, names, limits)
        except DAMAGE as error:
            yield from group.items()
            message = "the tar breaks off or is no tar"
            if isinstance(error, RecordingError):
                yield unread(shard, "", error.reason, f"{message}: {error.message}")
            else:
                yield unread(shard, "", "truncated", f"{message}: {error}")
            return
    yield from group.items()
