"""A tar, compressed or not → its members, front to back, in bounded memory and time.

`tarfile` reads the headers; the walk is ours, because tarfile's own holds a header of any size in
memory, takes minutes for some (CVE-2024-6232), follows sparse maps without end, and takes a damaged
header for the end of the archive.
"""

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from koasr.errors import RecordingError
from koasr.limits import Limits

_BLOCK = 512
_PIECE_BYTES = 1 << 16
_MAX_SIZE = 1 << 60
_MAX_EXTENDED_BYTES = 1 << 20
_HEADERS_PER_RECORDING = 8
"""Sidecars, long names and folders, on average."""
_MAX_SKIPPED = 64
"""Recordings' worth of bytes that are expanded to be thrown away; a plain tar is sought over."""
_WITHOUT_DATA = {tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE}
_WITHOUT_DATA |= {tarfile.DIRTYPE, tarfile.FIFOTYPE}
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)

DAMAGE = (RecordingError, EOFError, gzip.BadGzipFile, zlib.error)
"""What reading a tar that is none, or a part of one, raises."""


@dataclass(frozen=True)
class Member:
    """A member's header. `size_bytes` is what follows it, `kind` one of tarfile's types.

    Bytes of `name` that are not UTF-8 are lone surrogates, as in `os.fsdecode`.
    """

    name: str
    size_bytes: int
    kind: bytes
    is_sparse: bool

    @property
    def is_file(self) -> bool:
        """Whether it is bytes as they were, which alone are read."""
        return self.kind in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE) and (
            not self.is_sparse
        )


class TarStream:
    """Reads a tar once.

    Args:
        file: Where it starts.
        limits: `max_members` and `max_bytes` bound the headers read and the bytes expanded.
    """

    def __init__(self, file: io.BufferedReader, limits: Limits) -> None:
        is_compressed = file.peek(2)[:2] == b"\x1f\x8b"
        self._file = gzip.GzipFile(fileobj=file) if is_compressed else file
        self._limits = limits
        self._position = 0
        self._next = 0
        self._num_skipped = 0

    def read(self, num_bytes: int) -> bytes:
        """The next bytes of the current member's data.

        Raises:
            EOFError: There are fewer.
        """
        data = self._take(num_bytes)
        if len(data) != num_bytes:
            found = f"{len(data)} of {num_bytes} bytes"
            raise EOFError(f"it ends within a member: {found} from byte {self._position} on")
        self._position += num_bytes
        return data

    def _take(self, num_bytes: int) -> bytes:
        if not isinstance(self._file, gzip.GzipFile):
            return self._file.read(num_bytes)
        # Its `read` loses what it has expanded when the rest turns out to be damaged.
        data = bytearray()
        while piece := self._file.read1(min(num_bytes - len(data), _PIECE_BYTES)):
            data += piece
        return bytes(data)

    def members(self) -> Iterator[Member]:
        """Each member's header; its data may be read until the next is asked for.

        Tars that were joined end to end are read as one.

        Raises:
            RecordingError: `truncated`: a damaged header, or no end; `too_large`: see the limits.
        """
        extended: dict[str, bytes] = {}
        is_ended = False
        max_headers = _HEADERS_PER_RECORDING * self._limits.max_members
        for _ in range(max_headers):
            self._skip()
            block = self._take(_BLOCK)
            self._position += len(block)
            self._next = self._position
            if not block.strip(b"\0") and (block or is_ended):
                if len(block) < _BLOCK:
                    return
                is_ended = True
                continue
            header = self._parse(block)
            is_ended = False
            if header.type in _LONG:
                extended[_LONG[header.type]] = self._extended(header).split(b"\0")[0]
            elif header.type in _PAX:
                extended |= _pax_records(self._extended(header))
            else:
                member = self._member(header, block, extended)
                extended = {}
                if header.type != tarfile.XGLTYPE:
                    yield member
        raise RecordingError("too_large", f"wanted at most {max_headers} headers in a tar")

    def _parse(self, block: bytes) -> tarfile.TarInfo:
        at = self._position - len(block)
        if len(block) < _BLOCK:
            raise RecordingError("truncated", f"it ends at byte {at} without an end mark")
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise RecordingError("truncated", f"damaged header at byte {at}: {error}") from error
        if not 0 <= header.size < _MAX_SIZE:
            raise RecordingError("truncated", f"damaged header at byte {at}: no possible size")
        self._next = self._position + _padded(header.size)
        return header

    def _extended(self, header: tarfile.TarInfo) -> bytes:
        if header.size > _MAX_EXTENDED_BYTES:
            message = f"found a name or header of {header.size} bytes"
            raise RecordingError("too_large", f"{message}, wanted at most {_MAX_EXTENDED_BYTES}")
        return self.read(header.size)

    def _member(self, header: tarfile.TarInfo, block: bytes, extended: dict[str, bytes]) -> Member:
        if header.type == tarfile.GNUTYPE_SPARSE:
            self._skip_sparse_map(block)
        size = extended.get("size", b"%d" % header.size)
        if not (size.isdigit() and len(size) < 20 and int(size) < _MAX_SIZE):
            raise RecordingError("truncated", "damaged extended header: its size is no number")
        num_bytes = 0 if header.type in _WITHOUT_DATA else int(size)
        self._next = self._position + _padded(num_bytes)
        long_name = extended.get("GNU.sparse.name", extended.get("path"))
        name = long_name.decode("utf-8", "surrogateescape") if long_name else header.name
        is_sparse = any(key.startswith("GNU.sparse.") for key in extended)
        return Member(name, num_bytes, header.type, is_sparse)

    def _skip_sparse_map(self, block: bytes) -> None:
        """Pass over the blocks in which GNU's old format goes on with the map of a sparse file."""
        goes_on, num_bytes = block[482], 0
        while goes_on:
            num_bytes += _BLOCK
            if num_bytes > _MAX_EXTENDED_BYTES:
                raise RecordingError("too_large", f"a sparse map of more than {num_bytes} bytes")
            goes_on = self.read(_BLOCK)[504]

    def _skip(self) -> None:
        """Go to the end of the member's data."""
        num_bytes = self._next - self._position
        self._position = self._next
        if not isinstance(self._file, gzip.GzipFile):
            if num_bytes:
                self._file.seek(num_bytes, os.SEEK_CUR)
            return
        self._num_skipped += num_bytes
        if self._num_skipped > _MAX_SKIPPED * self._limits.max_bytes:
            message = f"found {self._num_skipped} bytes of other things to expand"
            raise RecordingError("too_large", message)
        while num_bytes:
            piece = self._file.read1(min(num_bytes, _PIECE_BYTES))
            if not piece:
                raise EOFError("it ends within a member")
            num_bytes -= len(piece)


def _padded(num_bytes: int) -> int:
    return num_bytes + -num_bytes % _BLOCK


def _pax_records(data: bytes) -> dict[str, bytes]:
    """Records `LENGTH KEY=VALUE\\n` of an extended header, each length counting itself.

    Source:
        POSIX.1-2017, pax, "pax Extended Header".
    """
    records: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        length, _, _ = data[position : position + 20].partition(b" ")
        end = position + int(length) if length.isdigit() else 0
        record = data[position + len(length) + 1 : end]
        if end > len(data) or not record.endswith(b"\n"):
            raise RecordingError("truncated", "damaged extended header")
        key, _, value = record[:-1].partition(b"=")
        records[key.decode("utf-8", "replace")] = value
        position = end
    return records
