"""References and transcripts → the reference of each recording, found by their names."""

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from koasr.errors import JobError
from koasr.items import nfc
from koasr.reference_files import Reference
from koasr.sources import is_audio

JOIN_COLUMNS = ("segment_id", "recording_id", "source_uri", "source_key", "metadata")
"""What is read of the transcripts to find their references."""

_DEPTHS = (3, 2, 1)
"""How much of two paths is compared, folders and the file's name: the most first."""

_TWO_TEXTS = -1


@dataclass(frozen=True)
class Join:
    """Who was found for whom.

    Attributes:
        references: Text by recording_id, or by segment_id where a reference names a segment.
        num_references: Texts there were.
        num_unused: Of them, those of no transcript.
        num_recordings: Recordings there were.
        num_without: Of them, those without a text.
    """

    references: dict[str, str]
    num_references: int
    num_unused: int
    num_recordings: int
    num_without: int


def join_references(found: Sequence[Reference], transcripts: pa.Table) -> Join:
    """The reference of each recording: by an id, else by as much of its path as both sides have.

    Args:
        found: References, in any order.
        transcripts: With `JOIN_COLUMNS`.

    Raises:
        JobError: No reference fits, or one name has two references.
    """
    found = list(dict.fromkeys(found))
    names = _Names(found)
    rows = transcripts.select(["segment_id", "recording_id"]).to_pylist()
    own = ((row["segment_id"], names.of_id(row["segment_id"])) for row in rows)
    used = {name: index for name, index in own if index is not None}
    recordings = {row["recording_id"] for row in rows}
    has_own = {row["recording_id"] for row in rows if row["segment_id"] in used}
    matched = {n: i for n, i in _match(names, transcripts).items() if n not in has_own}
    used |= matched
    if not used:
        one = next((reference.path or reference.ids[0] for reference in found), "")
        raise JobError(
            f"none of {len(found):,} references fits one of {len(recordings):,} recordings: found "
            f"{one!r} there and {next(iter(sorted(recordings)), '')!r} here, wanted a segment_id, "
            "a recording_id, a source_key or the same file name"
        )
    return Join(
        {name: found[index].text for name, index in used.items()},
        len(found),
        len(found) - len(set(used.values())),
        len(recordings),
        len(recordings) - len(has_own | matched.keys()),
    )


def count_matches(found: Sequence[Reference], rejects: pa.Table) -> int:
    """How many rejected recordings have a reference.

    Raises:
        JobError: One name has two references.
    """
    return len(_match(_Names(list(dict.fromkeys(found))), rejects))


class _Names:
    """Under which names the references are known, each the index of one or `_TWO_TEXTS`."""

    def __init__(self, found: Sequence[Reference]) -> None:
        self._found = found
        self._ids = self._index((nfc(n), i) for i, r in enumerate(found) for n in r.ids)
        self._paths = [
            self._index((n, i) for i, r in enumerate(found) for n in _known_as(r, depth))
            for depth in _DEPTHS
        ]

    def _index(self, names: Iterable[tuple[str, int]]) -> dict[str, int]:
        index: dict[str, int] = {}
        for name, place in names:
            held = index.setdefault(name, place)
            if held != place and self._found[held].text != self._found[place].text:
                index[name] = _TWO_TEXTS
        return index

    def of_id(self, *names: str) -> int | None:
        """The reference with one of these ids."""
        return next((self._one(self._ids, nfc(n)) for n in names if nfc(n) in self._ids), None)

    def of_path(self, path: str, offset: str) -> int | None:
        """The reference whose path ends as this one, the longest ending first."""
        for depth, index in zip(_DEPTHS, self._paths, strict=True):
            for name in _asked_for_as(path, offset, depth):
                if name in index:
                    return self._one(index, name)
        return None

    def _one(self, index: dict[str, int], name: str) -> int:
        if index[name] == _TWO_TEXTS:
            raise JobError(
                f"two references of different text are named {name!r}: "
                "give them with more of their paths, or with a recording_id"
            )
        return index[name]


def _tail(path: str, depth: int) -> str | None:
    """The last parts of a path, without the extension of audio or text; None of a short one."""
    path = nfc(path).rstrip("/")
    stem, extension = posixpath.splitext(path)
    parts = (stem if is_audio(path) or extension.lower() == ".txt" else path).split("/")
    return "/".join(parts[-depth:]) if path and len(parts) >= depth else None


def _start(offset: str) -> float | None:
    """Where a manifest's line begins in its file; None if it does not say."""
    with suppress(ValueError):
        return float(offset)
    return None


def _known_as(reference: Reference, depth: int) -> Iterator[str]:
    """A part of a file is known by where it begins, and by the file's name if it is the only one.

    Example:
        >>> list(_known_as(Reference((), "/a/b/c.wav", "네", "2.50"), 2))
        ['b/c from 2.500 s', 'b/c']
    """
    name, start_s = _tail(reference.path, depth), _start(reference.offset)
    if name is not None and start_s is not None:
        yield f"{name} from {start_s:.3f} s"
    if name is not None:
        yield name


def _asked_for_as(path: str, offset: str, depth: int) -> Iterator[str]:
    """As `_known_as`, of a recording: a part that begins later is never taken for the whole."""
    name, start_s = _tail(path, depth), _start(offset)
    if name is not None and start_s is not None:
        yield f"{name} from {start_s:.3f} s"
    if name is not None and not start_s:
        yield name


def _match(names: _Names, table: pa.Table) -> dict[str, int]:
    """recording_id → index of its reference."""
    columns = [table[name].to_pylist() for name in ("recording_id", "source_uri", "source_key")]
    described = [[None] * table.num_rows] * 2
    if "metadata" in table.column_names:
        found = (pc.map_lookup(table["metadata"], key, "first") for key in ("path", "offset"))
        described = [values.to_pylist() for values in found]
    matched: dict[str, int] = {}
    for name, uri, key, path, offset in zip(*columns, *described, strict=True):
        if name in matched:
            continue
        index = names.of_id(name, f"{uri}\n{key}", *([key] if key else []))
        if index is None:
            index = names.of_path(_path_of(uri, key, path), offset or "")
        if index is not None:
            matched[name] = index
    return matched


def _path_of(uri: str, key: str, path: str | None) -> str:
    """Where a recording's file lay: a manifest numbers its lines, a Parquet file its rows.

    Example:
        >>> _path_of("/a/b.wav", "", None), _path_of("m.jsonl", "3:c/d.wav", None)
        ('/a/b.wav', 'c/d.wav')
        >>> _path_of("x.parquet", "17", "clips/e.mp3"), _path_of("x.parquet", "17", None)
        ('clips/e.mp3', '')
    """
    if not key:
        return uri
    if key.isdecimal():
        return path or ""
    return re.sub(r"^\d+:", "", key)
