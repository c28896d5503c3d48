"""Speech of given lengths for the benchmarks, cut from the bundled recordings."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import numpy as np
import soxr
from numpy.typing import NDArray
from sound import encode, write_tar

from koasr.audio import load_waveform
from koasr.readers import read_recordings
from koasr.rows import SAMPLE_RATE, Recording
from koasr.sources import list_shards

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "speech"
CLEAN = [SPEECH / name for name in ("webdataset", "parquet", "zeroth", "folder")]
MODEL = ROOT / "examples" / "model"

Samples = NDArray[np.int16]


def load_speech(folders: Sequence[Path] = CLEAN) -> Samples:
    """The recordings of these folders in a row, mono at 16 kHz. Bundled: about three minutes."""
    shards = list_shards([str(folder) for folder in folders])
    items = (item for shard in shards for item in read_recordings(shard))
    return np.concatenate([load_waveform(i).samples for i in items if isinstance(i, Recording)])


def cut(durations_s: Sequence[float]) -> list[Samples]:
    """Stretches of speech of these lengths, each from where the last one ended, round and round."""
    whole = load_speech()
    found, start = [], 0
    for duration_s in durations_s:
        count = int(duration_s * SAMPLE_RATE)
        found.append(np.take(whole, range(start, start + count), mode="wrap"))
        start = (start + count) % len(whole)
    return found


def log_normal(total_s: float) -> list[float]:
    """Seconds of recordings as corpora of sentences have them: 1 to 30, mostly 6."""
    rng = np.random.default_rng(0)
    return _fill(total_s, lambda: float(np.clip(rng.lognormal(np.log(6), 0.6), 1, 30)))


def long_tail(total_s: float) -> list[float]:
    """Seconds of recordings of which most are short, and a few hold a third of the audio."""
    rng = np.random.default_rng(1)
    return _fill(total_s, lambda: float(np.clip(1.5 * (1 + rng.pareto(1.2)), 1, 30)))


def _fill(total_s: float, draw: Callable[[], float]) -> list[float]:
    found: list[float] = []
    while sum(found) < total_s:
        found.append(draw())
    return found


def write_tars(
    folder: Path, waveforms: Sequence[Samples], *, kind: str, rate: int, per_tar: int = 100
) -> None:
    """WebDataset tars of these waveforms, as FLAC or MP3 of this sample rate."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(waveforms), per_tar):
        members = (
            (f"{index:06}.{kind.lower()}", encode_at(samples, rate, kind))
            for index, samples in enumerate(waveforms[first : first + per_tar], first)
        )
        write_tar(folder / f"{first:06}.tar", members)


def encode_at(samples: Samples, rate: int, kind: str) -> bytes:
    """A file of this kind and sample rate, of samples at 16 kHz."""
    return encode(soxr.resample(samples, SAMPLE_RATE, rate), rate, kind)
