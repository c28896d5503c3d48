"""Finished packs of a shard that is not complete yet: kept, listed, read back."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Iterable
from contextlib import suppress

import pyarrow as pa

from koasr.errors import JobError
from koasr.packs import Header
from koasr.runs import RECORD_KEY, Run
from koasr.storage import (
    list_names,
    read_bytes,
    remove,
    remove_tree,
    transient_errors,
    write_bytes,
)
from koasr.threads import concurrently

_DIGEST_BYTES = 16
_NUM_READS = 3


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
        >>> staged_key(Header("name", "uri", "etag", "7b8b965a.5d41402a", 3, True, 10, 99))
        '000003-000000..-last-end-7b8b965a.5d41402a'
    """
    pack = "last" if header.is_last else "more"
    piece = "end" if header.is_last_piece else "piece"
    place = f"{header.index:06d}-{header.piece:06d}.{header.cut}"
    return f"{place}-{pack}-{piece}-{header.members}"


class ShardPacks:
    """Which packs of one shard are staged, by their keys alone.

    Packs of one index that hold other recordings (an id was forgotten, a limit was raised) are
    kept apart. `members` names the pack before (`before.own`), so only packs that follow each
    other make a shard: mixed, they could hold a recording twice or not at all.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._packs: dict[int, dict[str, set[str]]] = {}
        self._last_index: int | None = None
        for key in keys:
            self.add(key)

    def add(self, key: str) -> None:
        """Take in one key."""
        number, _, pack, _, members = key.split("-", 4)
        index = int(number)
        self._packs.setdefault(index, {}).setdefault(members, set()).add(key)
        if pack == "last":
            known = index if self._last_index is None else self._last_index
            self._last_index = min(index, known)

    def holds(self, header: Header) -> bool:
        """Whether every piece of this very pack is there."""
        return header.members in self._complete(header.index)

    def without_partial(self) -> "ShardPacks":
        """The complete packs alone: of the others every piece is made again."""
        return ShardPacks(
            key
            for index, packs in self._packs.items()
            for members in self._complete(index)
            for key in _chain(packs[members])
        )

    def keys(self) -> list[str]:
        """Every key in order."""
        return sorted(k for packs in self._packs.values() for keys in packs.values() for k in keys)

    def all_keys(self) -> list[str] | None:
        """Keys of the whole shard in order; None while a pack or piece is missing."""
        if self._last_index is None or len(self._packs) <= self._last_index:
            return None
        # Of each complete pack that follows complete ones from the first on: the pack before.
        levels: list[dict[str, str]] = []
        for index in range(max(self._packs) + 1):
            before = levels[-1] if levels else {"": ""}
            level = {
                members: previous
                for members in self._complete(index)
                for previous in before
                if not self._is_last(index - 1, previous) and _follows(members, previous)
            }
            levels.append(level)
            ends = [members for members in level if self._is_last(index, members)]
            if ends:
                return self._trace(levels, min(ends))
        return None

    def _trace(self, levels: list[dict[str, str]], members: str) -> list[str]:
        found: list[str] = []
        for index in reversed(range(len(levels))):
            found += _chain(self._packs[index][members])[::-1]
            members = levels[index][members]
        return found[::-1]

    def _complete(self, index: int) -> list[str]:
        return sorted(m for m, keys in self._packs.get(index, {}).items() if _chain(keys))

    def _is_last(self, index: int, members: str) -> bool:
        return any("-last-" in key for key in self._packs.get(index, {}).get(members, ()))


def _chain(keys: Iterable[str]) -> list[str]:
    """The pieces of a whole pack, each beginning where the one before ends; empty if one lacks.

    Attempts may cut a pack in other ways: a recording ran out of time, or the seconds of a piece
    were changed. Mixed, their pieces would hold some speech twice or not at all.
    """
    pieces: dict[int, list[str]] = {}
    for key in sorted(keys):
        pieces.setdefault(_place(key)[0], []).append(key)
    chains: dict[str, list[str]] = {"": []}
    for number in range(len(pieces)):
        longer: dict[str, list[str]] = {}
        for key in pieces.get(number, ()):
            _, begin, end = _place(key)
            if begin in chains and key.split("-", 4)[3] == "end":
                return [*chains[begin], key]
            if begin in chains:
                longer.setdefault(end, [*chains[begin], key])
        chains = longer
    return []


def _place(key: str) -> tuple[int, str, str]:
    """Number of a piece in its pack, and the marks of where it begins and ends."""
    number, _, cut = key.split("-", 4)[1].partition(".")
    begin, _, end = cut.partition(".")
    return int(number), begin, end


def _follows(members: str, previous: str) -> bool:
    before, separator, _ = members.partition(".")
    return not separator or before == previous.partition(".")[2]


def list_staged(run: Run) -> dict[str, set[str]]:
    """Shard name → keys of its staged packs.

    Folder by folder: one listing of everything would hold details of every object at once.
    """
    places = [(name, run.staged(name)) for name in list_names(run.staged(""))]
    listed = concurrently(list_names, [place for _, place in places], "staged shards listed")
    return {
        name: {key.removesuffix(".arrows") for key in keys if not key.startswith(".")}
        for (name, _), keys in zip(places, listed, strict=True)
    }


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def stage_pack(run: Run, header: Header, data: bytes) -> None:
    """Keep a finished pack until its shard is complete, with its checksum at the end."""
    place = run.staged(header.shard, staged_key(header))
    with transient_errors(place):
        write_bytes(place, data + _digest(data))


def read_staged(run: Run, name: str, keys: Iterable[str]) -> list[bytes]:
    """These staged packs of a shard; empty if another attempt has cleared them.

    Raises:
        JobError: One is damaged. It is removed, so that the next run makes it again.
    """
    found = []
    for key in keys:
        place = run.staged(name, key)
        try:
            with transient_errors(place):
                found.append(_read_checked(place))
        except FileNotFoundError:
            return []
    return found


def _read_checked(place: str) -> bytes:
    # Bytes that were damaged on the way are whole when they are read again.
    for _ in range(_NUM_READS):
        data = read_bytes(place)
        if _digest(data[:-_DIGEST_BYTES]) == data[-_DIGEST_BYTES:]:
            return data[:-_DIGEST_BYTES]
    remove(place)
    raise JobError(f"staged pack {place} was damaged and is removed: run it again")


def clear_staged(run: Run, name: str) -> None:
    """Remove the staged packs of a committed shard; what cannot be removed only takes space."""
    with suppress(Exception):
        remove_tree(run.staged(name))
