"""The corpus of the torture program: thousands of short recordings of every kind of source."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from sound import encode, write_tar

SAMPLE_RATE_HZ = 16_000
TAR_RECORDINGS = 600
_BAD_EVERY = 50
_REFERENCE = "가나다라"


def _sound(number: int) -> NDArray[np.int16]:
    """A chirp of 0.3 to 0.7 s that no other number has."""
    rng = np.random.default_rng(number)
    time_s = np.arange(round(rng.uniform(0.3, 0.7) * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    start_hz, slope = rng.uniform(100, 3_000), rng.uniform(-100, 3_000)
    wave = 0.5 * np.sin(2 * np.pi * (start_hz + slope * time_s) * time_s)
    return np.asarray(wave * 32_767, np.int16)


def recording(number: int) -> tuple[str, bytes]:
    """Name and bytes of one recording; one in fifty is bad, in one of six ways."""
    kind = ("flac", "wav")[number % 2]
    audio = encode(_sound(number), SAMPLE_RATE_HZ, kind.upper())
    if number % _BAD_EVERY == 7:
        nan = np.full(8_000, np.nan, np.float32)
        no_number = encode(nan, SAMPLE_RATE_HZ, "WAV", "FLOAT")
        ways = [b"", b"no audio", audio[: len(audio) // 2], no_number, audio[:30], bytes(100)]
        bad = ways[number // _BAD_EVERY % len(ways)]
        return f"{number:05d}.{'wav' if bad[:4] == b'RIFF' else kind}", bad
    return f"{number:05d}.{kind}", audio


def _write_tar(path: Path, numbers: range) -> None:
    members = []
    for number in numbers:
        name, audio = recording(number)
        stem = name.partition(".")[0]
        members += [(name, audio), (f"{stem}.txt", _REFERENCE.encode())]
    write_tar(path, members)


def _write_parquet(path: Path, numbers: range) -> None:
    rows = []
    for number in numbers:
        name, audio = recording(number)
        rows.append({"audio": {"bytes": audio, "path": name}, "sentence": _REFERENCE})
    pq.write_table(pa.Table.from_pylist(rows), path)


def _write_manifest(folder: Path, numbers: range) -> None:
    (folder / "named").mkdir(parents=True)
    lines = []
    for number in numbers:
        name, audio = recording(number)
        (folder / "named" / name).write_bytes(audio)
        lines.append(json.dumps({"audio_filepath": f"named/{name}", "text": _REFERENCE}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_files(folder: Path, numbers: range) -> None:
    folder.mkdir()
    for number in numbers:
        name, audio = recording(number)
        (folder / name).write_bytes(audio)
        (folder / name).with_suffix(".txt").write_text(_REFERENCE, encoding="utf-8")


def write_corpus(folder: Path, num_recordings: int) -> None:
    """Write the recordings 0 … n - 1: most in tars, the rest in each other kind of source."""
    folder.mkdir(parents=True)
    # Each file of its own is a request to the store, so there are few of them.
    num_single = min(60, num_recordings // 20)
    num_rows = num_recordings // 10
    bounds = [0, num_single, 2 * num_single, 2 * num_single + num_rows, num_recordings]
    files, manifest, parquet, tars = (range(*pair) for pair in itertools.pairwise(bounds))
    _write_files(folder / "files", files)
    _write_manifest(folder, manifest)
    _write_parquet(folder / "rows.parquet", parquet)
    for index, start in enumerate(range(tars.start, tars.stop, TAR_RECORDINGS)):
        stop = min(start + TAR_RECORDINGS, tars.stop)
        _write_tar(folder / f"{index:03d}.tar", range(start, stop))
