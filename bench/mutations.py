"""Seeds of every kind of source, and ways to spoil them: the inputs of `fuzz.py`."""

import gzip
import io
import json
import random
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from sound import encode, tone, wav

SPEECH = tone(0.3)
FLAC = encode(SPEECH)
_INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_TOKENS: tuple[bytes, ...] = (
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b'"',
    b"{",
    b"[" * 2_000,
    b"\\ud800",
    b"\0",
)
_TOKENS += (b"\xef\xbb\xbf", b"\xb0\xa1", b"\n", b"../", b"::", b"9" * 5_000, b"file:///")


@dataclass(frozen=True)
class Seed:
    """A sound source: `name` is the file that is spoiled, `beside` lies there unspoiled."""

    kind: str
    name: str
    data: bytes
    beside: tuple[tuple[str, bytes], ...] = ()
    is_text: bool = False


def _audio() -> list[Seed]:
    kinds = [("wav", "WAV", s) for s in ("PCM_16", "PCM_24", "PCM_U8", "FLOAT", "DOUBLE")]
    kinds += [("wav", "WAVEX", "PCM_16"), ("wav", "RF64", "PCM_16"), ("wav", "WAV", "IMA_ADPCM")]
    kinds += [("flac", "FLAC", "PCM_16"), ("flac", "FLAC", "PCM_24"), ("mp3", "MP3", "")]
    kinds += [("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS")]
    seeds = [Seed(f"{k} {s}", f"a.{end}", encode(SPEECH, 16_000, k, s)) for end, k, s in kinds]
    stereo = np.stack([tone(0.2, 44_100)] * 2, axis=1)
    seeds += [Seed(f"stereo {k}", f"a.{k}", encode(stereo, 44_100, k.upper())) for k in _STEREO]
    vorbis = encode(SPEECH, kind="OGG", subtype="VORBIS")
    tagged = b"ID3\x04\0\0\0\0\x07\x68" + bytes(1_000) + encode(SPEECH, kind="MP3")
    seeds += [Seed("chained Ogg", "a.ogg", vorbis + vorbis), Seed("tagged MP3", "a.mp3", tagged)]
    return [*seeds, Seed("pcm", "a.pcm", SPEECH.tobytes()), Seed("pipe WAV", "a.wav", _PIPE)]


_STEREO = ("wav", "flac", "mp3", "ogg")
_PIPE = wav(SPEECH.tobytes(), size=0xFFFFFFFF)


def _tar(form: int) -> bytes:
    sink = io.BytesIO()
    entry = json.dumps({"text": "안녕", "speaker": 3, "deep": [{"a": None}]}).encode()
    members = [("a.flac", FLAC), ("a.json", entry), ("x/b.wav", _PIPE[:5_000])]
    members += [("x/b.txt", "안녕하세요".encode("cp949")), ("긴" * 90 + ".flac", FLAC)]
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "a.flac"
        tar.addfile(link)
    return sink.getvalue()


def _parquet(compression: str) -> bytes:
    sink = io.BytesIO()
    audio = [{"bytes": FLAC, "path": f"{i}.flac"} for i in range(3)]
    table = pa.table({"audio": audio, "text": ["가", None, "나"], "n": [1, 2, None]})
    pq.write_table(table, sink, compression=compression, row_group_size=2)
    return sink.getvalue()


def _text() -> list[Seed]:
    lines = [{"audio_filepath": "a.flac", "text": "가나다", "offset": 0.1, "duration": 0.1}]
    lines += [{"audio_filepath": "x/../a.flac", "speaker": "ㄱ"}, {"audio_filepath": "gone.flac"}]
    manifest = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
    script = "a.flac :: 안녕 하세요\na.flac :: (1개)/(한 개)\ngone.pcm :: 없다\n"
    beside = (("a.flac", FLAC),)
    return [
        Seed("manifest", "m.jsonl", manifest, beside, is_text=True),
        Seed("script", "s.trn", script.encode("cp949"), beside, is_text=True),
        Seed("trans.txt", "f.trans.txt", "a 안녕\nb 가\n".encode(), beside, is_text=True),
        Seed("sidecar", "a.txt", "안녕하세요".encode(), beside, is_text=True),
    ]


def seeds() -> list[Seed]:
    """Every kind of source; the audio in them is short, so that many can be tried."""
    forms = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
    tars = [Seed("tar", "s.tar", _tar(form)) for form in forms[:2]] * 3
    tars += [Seed("tar.gz", "s.tar.gz", _tar(form)) for form in forms[:2]]
    parquets = [Seed("Parquet", "p.parquet", _parquet(name)) for name in ("none", "snappy", "zstd")]
    return [*_audio(), *tars, *parquets, *_text() * 2]


def _place(data: bytearray, chance: random.Random) -> int:
    """Where to spoil: half of the time near the start or the end, where headers are."""
    if chance.random() < 0.5:
        return chance.randrange(len(data))
    near = chance.randrange(min(256, len(data)))
    return near if chance.random() < 0.8 else len(data) - 1 - near


def _flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 2, 4, 16, 64))):
        data[_place(data, chance)] = chance.randrange(256)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _splice(data: bytearray, chance: random.Random) -> None:
    start, length = _place(data, chance), chance.choice((1, 2, 4, 16, 512, 2_000))
    piece = data[start : start + length]
    at = _place(data, chance)
    chance.choice((data.__delitem__, lambda s: data.__setitem__(s, piece * 3)))(
        slice(at, at + chance.choice((0, length)))
    )


def _field(data: bytearray, chance: random.Random) -> None:
    """Write a number that is on some edge over a field."""
    width = chance.choice((1, 2, 4, 8))
    number = chance.choice(_INTERESTING) & (1 << 8 * width) - 1
    at = _place(data, chance)
    data[at : at + width] = number.to_bytes(width, chance.choice(("little", "big")))


def _token(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at : at + chance.choice((0, 1, 5))] = chance.choice(_TOKENS)


def _tar_field(data: bytearray, chance: random.Random) -> None:
    """Write into a field of a header; its checksum is put right afterwards."""
    heads = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"]
    at = chance.choice(heads or [0])
    start, end = chance.choice(((0, 100), (124, 136), (156, 157), (157, 257), (345, 500)))
    value = chance.choice((b"\0", b"\xff", b"\x80", b"7", b"/", b"x", b"L", b"S", b"g", b"1", b"."))
    length = chance.choice((1, end - start))
    data[at + start : at + start + length] = value * length
    size = chance.choice((b"00000000000\0", b"77777777777\0", b"\xff" * 12, b"\x80" + b"\xff" * 11))
    if chance.random() < 0.2:
        data[at + 124 : at + 136] = size


def _right_checksums(data: bytearray) -> None:
    for at in range(0, len(data) - 511, 512):
        if data[at + 257 : at + 262] == b"ustar":
            data[at + 148 : at + 156] = b" " * 8
            data[at + 148 : at + 156] = b"%06o\0 " % sum(data[at : at + 512])


def _crc_table() -> Iterator[int]:
    """Ogg's checksum of each byte."""
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 1 << 31 else 0)) & 0xFFFFFFFF
        yield value


_CRC = tuple(_crc_table())


def _right_pages(data: bytearray) -> None:
    """Put the checksums of Ogg pages right, so that what is spoiled in them is decoded."""
    at = data.find(b"OggS")
    while 0 <= at <= len(data) - 27:
        table = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(table) + sum(table)
        data[at + 22 : at + 26] = bytes(4)
        checksum = 0
        for byte in data[at:end]:
            checksum = (checksum << 8 & 0xFFFFFFFF) ^ _CRC[checksum >> 24 ^ byte]
        data[at + 22 : at + 26] = checksum.to_bytes(4, "little")
        at = data.find(b"OggS", end)


_WAYS: tuple[Callable[[bytearray, random.Random], None], ...] = (_flip, _cut, _splice, _field)


def mutate(seed: Seed, chance: random.Random) -> bytes:
    """The seed's bytes, spoiled in one to three ways."""
    data = bytearray(seed.data)
    is_tar = seed.kind.startswith("tar")
    ways = [*_WAYS, *[_token] * 3 * seed.is_text, *[_tar_field] * 4 * is_tar]
    for _ in range(chance.choice((1, 1, 2, 3))):
        if data:
            chance.choice(ways)(data, chance)
    if is_tar and chance.random() < 0.8:
        _right_checksums(data)
    if seed.name.endswith((".ogg", ".opus")) and chance.random() < 0.6:
        _right_pages(data)
    if seed.kind == "tar.gz":
        data = bytearray(gzip.compress(data, 1))
        if data and chance.random() < 0.4:
            chance.choice(_WAYS)(data, chance)
    return bytes(data)
