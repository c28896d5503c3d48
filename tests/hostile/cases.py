"""What a hostile case is, and the sound ones that it spoils."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sound import encode, tone, wav

from koasr.limits import DEFAULT_LIMITS, Limits

PCM = tone(0.5).tobytes()
FLAC = encode(tone(0.5))
WAV = wav(PCM)
VORBIS = encode(tone(0.5), kind="OGG", subtype="VORBIS")
ELSEWHERE = next((Path(__file__).parents[2] / "examples" / "speech").rglob("*.flac"))
"""Sound, and outside of every input."""
ACCENTED = "caf\udce9.flac"
"""A name in Latin-1, as Python shows what is not UTF-8."""
COMPOSED, DECOMPOSED = "\uac00\ub098.flac", "\u1100\u1161\u1102\u1161.flac"
"""One Korean name as most systems write it, and as macOS does."""


@dataclass(frozen=True)
class Case:
    """A source and its outcome: how many recordings are transcribed, and why the others are not.

    `write` puts the files into a folder, which is the input. `reasons` are in no order.
    """

    name: str
    write: Callable[[Path], None]
    num_loaded: int = 0
    reasons: tuple[str, ...] = ()
    limits: Limits = field(default=DEFAULT_LIMITS)


def file_of(name: str, data: bytes) -> Callable[[Path], None]:
    """A writer of one file."""
    return lambda folder: _write(folder / name, data)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
