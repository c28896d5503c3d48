"""Audio files: cut, lying, odd, or no audio at all."""

import struct
from typing import Any

import numpy as np
from sound import encode, tone, wav

from hostile.cases import FLAC, PCM, VORBIS, WAV, Case, file_of
from koasr.limits import Limits

SPEECH = tone(0.5)
MP3 = encode(SPEECH, kind="MP3")
OPUS = encode(SPEECH, kind="OGG", subtype="OPUS")


def bad(name: str, data: bytes, *reasons: str, file: str = "a.wav", **limits: Any) -> Case:
    """A file that is rejected."""
    return Case(name, file_of(file, data), 0, reasons, Limits(**limits))


def good(name: str, data: bytes, file: str = "a.wav") -> Case:
    """A file that is odd, and transcribed."""
    return Case(name, file_of(file, data), 1)


def pcm_wav(data: bytes, channels: int, rate: int, bits: int, codec: int = 1) -> bytes:
    """A WAV of any layout, possible or not."""
    width = channels * bits // 8
    rates = (rate, rate * width & 0xFFFFFFFF, width & 0xFFFF, bits)
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, codec, channels, *rates)
    body = struct.pack("<4sI", b"data", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(body)) + b"WAVE" + head + body


def floats(*odd: float) -> bytes:
    """A float WAV with these values in the middle."""
    wave = (tone(0.5) / 32_768).astype("<f4")
    wave[4_000 : 4_000 + len(odd)] = odd
    return pcm_wav(wave.tobytes(), 1, 16_000, 32, codec=3)


def total_samples(count: int) -> bytes:
    """A FLAC whose header counts this many samples."""
    data = bytearray(FLAC)
    data[21] = data[21] & 0xF0 | count >> 32
    data[22:26] = (count & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(data)


def id3(num_bytes: int, promised: int | None = None) -> bytes:
    """A tag in front of an MP3."""
    size = num_bytes if promised is None else promised
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + digits + bytes(num_bytes)


def lying_xing() -> bytes:
    """An MP3 whose first frame says that 2,147,483,647 follow."""
    data = bytearray(MP3)
    at = max(data.find(b"Xing"), data.find(b"Info"))
    data[at : at + 4] = b"Xing"
    data[at + 4 : at + 12] = struct.pack(">II", 1, 0x7FFFFFFF)
    return bytes(data)


def flipped(data: bytes, at: int) -> bytes:
    """A file with one byte of its frames inverted."""
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


_CUT_WAV = [
    bad(f"a WAV cut after {end} bytes", WAV[:end], reason)
    for end, reason in [
        (0, "empty"),
        (3, "unsupported_format"),
        (8, "unsupported_format"),
        (12, "unreadable"),
        (20, "unreadable"),
        (36, "unreadable"),
        (43, "empty"),
        (45, "truncated"),
        (9_001, "truncated"),
    ]
]
_CUT_OTHERS = [
    bad(f"a FLAC cut after {end} bytes", FLAC[:end], reason, file="a.flac")
    for end, reason in [
        (4, "unreadable"),
        (20, "unreadable"),
        (42, "truncated"),
        (900, "truncated"),
    ]
] + [
    bad("an Ogg Vorbis cut in its middle", VORBIS[: len(VORBIS) // 2], "truncated", file="a.ogg"),
    bad("an Opus cut in its middle", OPUS[: len(OPUS) // 2], "truncated", file="a.opus"),
    bad("an MP3 that is a tag alone", id3(500), "unsupported_format", file="a.mp3"),
    bad("an MP3 whose tag never ends", id3(10, 1 << 27) + MP3, "truncated", file="a.mp3"),
]
_LYING = [
    bad("a WAV that promises 10^9 bytes", wav(PCM, size=10**9), "truncated"),
    good("a WAV from a pipe", wav(PCM, size=0xFFFFFFFF)),
    good("a WAV from ffmpeg's pipe", wav(PCM, size=0xFFFFFFF0)),
    good("a FLAC from a pipe", total_samples(0), "a.flac"),
    bad("a FLAC of 2^36 - 1 samples", total_samples((1 << 36) - 1), "too_long", file="a.flac"),
    bad("a FLAC of 10^9 samples", total_samples(10**9), "too_long", file="a.flac"),
    good("an MP3 of 2^31 frames", lying_xing(), "a.mp3"),
    bad("a WAV of 0 Hz", wav(PCM, rate=0), "unreadable"),
    bad("a WAV of 1 Hz", wav(PCM, rate=1), "bad_sample_rate"),
    bad("a WAV of 2^31 Hz", wav(PCM, rate=0x7FFFFFFF), "bad_sample_rate"),
    bad("a WAV of no channels", pcm_wav(PCM, 0, 16_000, 16), "unreadable"),
    bad("a WAV of 1,024 channels", pcm_wav(bytes(1 << 20), 1024, 16_000, 16), "too_many_channels"),
    bad("a WAV of 65,535 channels", pcm_wav(bytes(1 << 20), 65_535, 16_000, 16), "unreadable"),
    bad("a WAV of 0 bits", pcm_wav(PCM, 1, 16_000, 0), "unreadable"),
]
_CODECS = [
    bad(f"a WAV in {subtype}", encode(SPEECH, kind="WAV", subtype=subtype), "unsupported_format")
    for subtype in ("IMA_ADPCM", "MS_ADPCM", "ULAW", "ALAW", "GSM610")
] + [
    bad(f"{kind} under another name", encode(SPEECH, kind=kind), "unsupported_format")
    for kind in ("AIFF", "AU", "CAF", "W64", "VOC")
]
_NO_AUDIO = [
    bad(name, data, "unsupported_format", file=file)
    for name, data, file in [
        ("a picture as WAV", b"\x89PNG\r\n\x1a\n" + bytes(500), "a.wav"),
        ("a web page as MP3", b"<!doctype html><title>404</title>", "a.mp3"),
        ("an archive as FLAC", b"PK\x03\x04" + bytes(100), "a.flac"),
        ("zeros as Ogg", bytes(4_096), "a.ogg"),
        ("a playlist as MP3", b"#EXTM3U\nfile:///etc/passwd\n", "a.mp3"),
    ]
]
_ODD = [
    good("192 kHz in 8 channels", encode(np.repeat(tone(0.3, 192_000)[:, None], 8, 1), 192_000)),
    good("a WAV in 24 bits", encode(SPEECH, kind="WAV", subtype="PCM_24")),
    good("a WAV in 32 bits", encode(SPEECH, kind="WAV", subtype="PCM_32")),
    good("a WAV in 8 bits", encode(SPEECH, kind="WAV", subtype="PCM_U8")),
    good("a WAV in doubles", encode(SPEECH, kind="WAV", subtype="DOUBLE")),
    good("an extensible WAV", encode(SPEECH, kind="WAVEX")),
    good("an RF64", encode(SPEECH, kind="RF64")),
    good("denormal floats", floats(*[1e-42] * 100)),
    good("floats far above full scale", floats(1e30, -1e30)),
    bad("a NaN", floats(float("nan")), "non_finite"),
    bad("an infinity", floats(float("inf")), "non_finite"),
    good("Opus in Ogg", OPUS, "a.opus"),
    good("Vorbis links chained in one Ogg", VORBIS + VORBIS, "a.ogg"),
    good("an MP3 behind a megabyte of tags", id3(1 << 20) + MP3, "a.mp3"),
    bad("a WAV without samples", wav(b""), "empty"),
    bad("a WAV of 1 sample", wav(PCM[:2]), "too_short"),
    bad("a WAV of 399 samples", wav(PCM[: 2 * 399]), "too_short"),
    good("a WAV of 0.1 s", wav(PCM[: 2 * 1_600])),
    good("silence", wav(bytes(32_000))),
    good("a DC offset", wav(np.full(16_000, 12_000, "<i2").tobytes())),
    good("a full-scale square", wav(np.tile([32_767, -32_768], 8_000).astype("<i2").tobytes())),
    good("PCM of an odd number of bytes", PCM + b"\x01", "a.pcm"),
    bad("PCM of no bytes", b"", "empty", file="a.pcm"),
    bad("longer than the limit", WAV, "too_long", max_duration_s=0.3),
    bad("larger than the limit", WAV, "too_large", max_bytes=10_000),
    bad("a compressed file longer than the limit", MP3, "too_long", max_duration_s=0.3),
]
AUDIO = (*_CUT_WAV, *_CUT_OTHERS, *_LYING, *_CODECS, *_NO_AUDIO, *_ODD)
