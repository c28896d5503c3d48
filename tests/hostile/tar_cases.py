"""Tars: cut, lying, bombs, and members that are no files."""

import gzip
import io
import json
import tarfile
from typing import Any

from hostile.cases import ACCENTED, COMPOSED, DECOMPOSED, FLAC, VORBIS, Case, file_of
from koasr.limits import Limits

BLOCK = 512


def member(name: str, data: bytes = FLAC, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    """A member with these fields in its header."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of these members."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as file:
        for info, data in members:
            file.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def files(*names: str) -> bytes:
    """A tar of sound recordings."""
    return tar(*(member(name) for name in names))


def padded(data: bytes) -> bytes:
    """Data to the end of its block."""
    return data + bytes(-len(data) % BLOCK)


def header(name: str, kind: bytes, size: int) -> bytes:
    """A header with its size as it is given, possible or not."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:BLOCK])
    if 0 <= size < 8**11:
        block[124:136] = b"%011o\0" % size
    else:
        block[124:136] = size.to_bytes(12, "big", signed=True)
        block[124] = 0xFF if size < 0 else 0x80
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SOUND = padded(FLAC)
ONE = header("a.flac", b"0", len(FLAC)) + SOUND
END = bytes(2 * BLOCK)


def pax(records: bytes) -> bytes:
    """An extended header."""
    return header("x", b"x", len(records)) + padded(records)


def plain(name: str, data: bytes, num_loaded: int, *reasons: str, **limits: Any) -> Case:
    """A tar and its outcome."""
    return Case(name, file_of("s.tar", data), num_loaded, reasons, Limits(**limits))


def zipped(name: str, data: bytes, num_loaded: int, *reasons: str, **limits: Any) -> Case:
    """A compressed tar and its outcome."""
    return Case(name, file_of("s.tar.gz", data), num_loaded, reasons, Limits(**limits))


def bomb(num_bytes: int) -> bytes:
    """A compressed tar whose first recording expands to this."""
    data = header("b.wav", b"0", num_bytes) + padded(bytes(num_bytes))
    return gzip.compress(data + ONE + END, 1)


def sidecar(name: str, data: bytes) -> bytes:
    """A sidecar and its recording."""
    return tar(member(name, data), member("b.flac"))


def link(kind: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """A member that is no file."""
    return member("link.wav", b"", type=kind, linkname="/etc/passwd")


def sparse(size: int) -> bytes:
    """A sparse file in GNU's old format: its header, its map, and a block of data."""
    block = bytearray(header("b.wav", b"S", BLOCK))
    block[386:410] = b"%011o\0%011o\0" % (0, BLOCK)
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(BLOCK)


_TWO = files("a.flac", "b.flac")
_SECOND = BLOCK + len(SOUND)
_DIFFERENT = tar(member("a.flac"), member("b.flac", VORBIS))
_GZ = gzip.compress(_TWO)
_KEYS = json.dumps({str(i): i for i in range(100_000)}).encode()
_TWICE = ("unreadable", "duplicate_key")
_NINE = files(*(f"{i}.flac" for i in range(9)))
_FOLDERS = tar(*[member("x/", b"", type=tarfile.DIRTYPE)] * 99)
_BROKEN = [
    plain("a tar of no bytes", b"", 0, "truncated"),
    plain("a tar of zeros", bytes(10_240), 0),
    plain("no tar", b"koasr " * 2_000, 0, "truncated"),
    plain("a tar cut in its first header", _TWO[:300], 0, "truncated"),
    plain("a tar cut between members", _TWO[:_SECOND], 1, "truncated"),
    plain("a tar cut in a header", _TWO[: _SECOND + 200], 1, "truncated"),
    plain("a tar cut in a member", _TWO[: _SECOND + BLOCK + 90], 1, "truncated"),
    plain("a damaged header", ONE + b"x" * BLOCK + ONE + END, 1, "truncated"),
    plain("a size below 0", ONE + header("b.flac", b"0", -1024) + SOUND, 1, "truncated"),
    plain(
        "a size of 10^12", ONE + header("b.flac", b"0", 10**12) + SOUND, 1, "too_large", "truncated"
    ),
    plain("a size of 10^24", ONE + header("b.flac", b"0", 10**24) + SOUND, 1, "truncated"),
    zipped("a compressed tar that is none", b"\x1f\x8b" + bytes(300), 0, "truncated"),
    zipped("a compressed tar cut short", gzip.compress(_DIFFERENT)[:-200], 1, "truncated"),
    zipped("a compressed tar with a wrong checksum", _GZ[:-8] + bytes(8), 2, "truncated"),
    plain("a compressed tar by the name of a plain one", _GZ, 2),
]
_BOMBS = [
    zipped("a recording that expands", bomb(50 << 20), 1, "too_large", max_bytes=1 << 20),
    zipped("a tar that expands", bomb(200 << 20), 0, "too_large", "too_large", max_bytes=1 << 20),
    plain("more members than the limit", _NINE, 5, "too_large", max_members=5),
    plain("headers without end", _FOLDERS, 0, "too_large", max_members=5),
    plain("a name of a size below 0", header("x", b"L", -1024) + ONE, 0, "truncated"),
    plain("a name of 2 MB", header("x", b"L", 2 << 20) + bytes(2 << 20) + ONE, 0, "too_large"),
    plain("an extended header of 10^11 bytes", header("x", b"x", 10**11) + ONE, 0, "too_large"),
    plain("an extended header that is all digits", pax(b"1" * 600_000) + ONE, 0, "truncated"),
    plain("an extended header that is none", pax(b"5 a=b\n" * 3) + ONE, 0, "truncated"),
    plain("a sparse file of 10^10 bytes", sparse(8**11 - 1) + ONE + END, 1, "unreadable"),
    plain(
        "a sparse file in an extended header",
        pax(b"22 GNU.sparse.major=1\n") + header("b.wav", b"0", BLOCK) + bytes(BLOCK) + ONE + END,
        1,
        "unreadable",
    ),
]
_MEMBERS = [
    plain(f"{what} by the name of audio", tar(member("a.flac"), link(kind)), 1, "unreadable")
    for what, kind in [
        ("a symbolic link", tarfile.SYMTYPE),
        ("a hard link", tarfile.LNKTYPE),
        ("a pipe", tarfile.FIFOTYPE),
        ("a device", tarfile.CHRTYPE),
        ("a disk", tarfile.BLKTYPE),
        ("a member of an unknown type", b"Z"),
    ]
] + [
    plain("a folder by the name of audio", tar(member("a.wav", b"", type=b"5")), 0),
    plain("a tar in a tar", tar(member("in.tar", _TWO), member("a.flac")), 1, "unsupported_format"),
    plain("tars joined end to end", _TWO + files("c.flac"), 3),
    plain("what macOS keeps beside a file", files("._a.flac", "a.flac"), 1),
    plain("one name three times", files("a.flac", "a.flac", "a.flac"), 1, *["duplicate_key"] * 2),
    plain("a file and a link of one name", tar(link(b"1"), member("link.wav")), 0, *_TWICE),
]
_NAMES = [
    plain(f"the name {name}", files(name, "a.flac"), 1, "bad_name")
    for name in ("/etc/a.flac", "../a.flac", "x/../../a.flac", "..\\a.flac", "C:\\a.flac")
] + [
    plain("a name that is not UTF-8", files(ACCENTED), 1),
    plain("a name, and what it looks like escaped", files(ACCENTED, "caf\\udce9.flac"), 2),
    plain("a name with a line end", files("a\nb.flac"), 1),
    plain("a composed name", files(COMPOSED), 1),
    plain("a decomposed name", files(DECOMPOSED), 1),
    plain("one name in two forms", files(COMPOSED, DECOMPOSED), 1, "duplicate_key"),
    plain("a GNU long name", files("가" * 300 + ".flac"), 1),
    plain("a PAX long name", tar(member("가" * 300 + ".flac"), form=tarfile.PAX_FORMAT), 1),
    plain("a GNU name past the limit", files("x/" * 600 + "a.flac", "a.flac"), 1, "bad_name"),
    plain(
        "two PAX names past the limit",
        tar(member("x/" * 6_000 + "a.flac"), member("x/" * 6_000 + "b.flac"), form=1),
        0,
        *["bad_name"] * 2,
    ),
]
_SIDECARS = [
    plain("a reference in cp949", sidecar("b.txt", "안녕".encode("cp949")), 1),
    plain("JSON nested 100,000 deep", sidecar("b.json", b"[" * 100_000), 1),
    plain("JSON of a number of 10^6 digits", sidecar("b.json", b'{"a": ' + b"9" * 10**6 + b"}"), 1),
    plain("JSON that is no object", sidecar("b.json", b"[[1, 2]]"), 1),
    plain("JSON with half a pair", sidecar("b.json", b'{"text": "\\ud800"}'), 1),
    plain("JSON of 100,000 keys", sidecar("b.json", _KEYS), 1),
    plain("a reference of 3 MB", sidecar("b.txt", "가".encode() * (1 << 20)), 1),
    plain("a decomposed sidecar", tar(member(COMPOSED), member(DECOMPOSED[:-4] + "txt", b"x")), 1),
]
TARS = (*_BROKEN, *_BOMBS, *_MEMBERS, *_NAMES, *_SIDECARS)
