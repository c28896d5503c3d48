"""Encoded audio for tests: made in memory, and written as tars."""

import io
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from koasr.rows import Recording


def tone(seconds: float, sample_rate_hz: int = 16_000) -> NDArray[np.int16]:
    """A tone that swells, so that a shift in time would show."""
    time_s = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    wave = np.sin(2 * np.pi * 440 * time_s) * (0.1 + 0.4 * time_s / max(seconds, 0.01))
    return np.asarray(wave * 32_767, np.int16)


def encode(
    samples: NDArray[Any], sample_rate_hz: int = 16_000, kind: str = "FLAC", subtype: str = ""
) -> bytes:
    """Samples as a file of this kind; but for Ogg's serial number, the same bytes every time."""
    sink = io.BytesIO()
    soundfile.write(sink, samples, sample_rate_hz, format=kind, subtype=subtype or None)
    audio = sink.getvalue()
    # libsndfile puts the time of day into the PEAK chunk of a WAV of floats: blank it.
    time_at = audio.find(b"PEAK") + 12
    if subtype in {"FLOAT", "DOUBLE"} and time_at > 12:
        audio = audio[:time_at] + bytes(4) + audio[time_at + 4 :]
    return audio


def wav(data: bytes, *, codec: int = 1, size: int | None = None, rate: int = 16_000) -> bytes:
    """A 16-bit mono WAV whose header may lie about its codec, size or rate."""
    size = len(data) if size is None else size
    header = struct.pack("<4sIHHIIHH", b"fmt ", 16, codec, 1, rate, 2 * rate, 2, 16)
    return (
        b"RIFF"
        + struct.pack("<I", 36)
        + b"WAVE"
        + header
        + struct.pack("<4sI", b"data", size)
        + data
    )


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar of these names and bytes."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def recording(audio: bytes, **changes: Any) -> Recording:
    """A recording of these bytes."""
    return Recording("id", "uri", "key", "version", audio, **changes)
