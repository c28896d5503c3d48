"""Side by side: recordings loaded in this process, and in the decoder's child.

Same recordings, same code; the order changes from round to round. Prints a table with the median
and the spread over the rounds, and writes JSON. CPU time is that of both processes together.
"""

import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cyclopts
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from koasr.audio import load_waveform, stream_audio
from koasr.decoder import Decoder
from koasr.packs import Decode
from koasr.readers import read_recordings
from koasr.rows import SAMPLE_RATE, Recording
from koasr.sources import list_shards

ROOT = Path(__file__).parent.parent


@dataclass
class Seconds:
    """Of wall clock and of CPU, one of each a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def load_speech(folder: Path) -> NDArray[np.int16]:
    """All recordings of the folder in a row, mono at 16 kHz."""
    items = (item for shard in list_shards([str(folder)]) for item in read_recordings(shard))
    return np.concatenate([load_waveform(i).samples for i in items if isinstance(i, Recording)])


def encode(speech: NDArray[np.int16], *, seconds: int, rate: int, kind: str) -> list[Recording]:
    """The speech cut into files of this kind."""
    size = seconds * SAMPLE_RATE
    found = []
    for start in range(0, len(speech) - size + 1, size):
        samples = speech[start : start + size]
        sink = io.BytesIO()
        soundfile.write(sink, soxr.resample(samples, SAMPLE_RATE, rate), rate, format=kind)
        found.append(Recording(str(start), "", "", "", sink.getvalue()))
    return found


def cpu_s(pid: int | None) -> float:
    """Seconds of CPU that this process and that one have taken."""
    child = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 if pid else 0.0
    return time.process_time() + child


def load_all(recordings: list[Recording], decode: Decode, repeat: int) -> None:
    for _ in range(repeat):
        for recording in recordings:
            for _ in decode(recording)[1]:
                pass


def compare(
    recordings: list[Recording], decoder: Decoder, rounds: int, round_s: float
) -> dict[str, Seconds]:
    """Both ways in turn, each for about `round_s` a round; a first round is not counted."""
    ways: list[tuple[str, Decode]] = [("here", stream_audio), ("child", decoder.stream)]
    start_s = time.perf_counter()
    load_all(recordings, stream_audio, 1)
    repeat = max(1, round(round_s / (time.perf_counter() - start_s)))
    found = {name: Seconds() for name, _ in ways}
    for index in range(rounds + 1):
        for name, decode in ways[:: 1 if index % 2 else -1]:
            start_s, start_cpu_s = time.perf_counter(), cpu_s(decoder.pid)
            load_all(recordings, decode, repeat)
            if index:
                found[name].wall.append((time.perf_counter() - start_s) / repeat)
                found[name].cpu.append((cpu_s(decoder.pid) - start_cpu_s) / repeat)
    return found


def spread(values: list[float], form: Callable[[float], str]) -> str:
    low, high = min(values), max(values)
    return f"{form(statistics.median(values))} ({form(low)} to {form(high)})"


def respawn_s(recording: Recording, decoder: Decoder, rounds: int) -> list[float]:
    """Seconds from a dead child to a loaded recording."""
    found = []
    for _ in range(rounds):
        decoder.close()
        start_s = time.perf_counter()
        load_all([recording], decoder.stream, 1)
        found.append(time.perf_counter() - start_s)
    return found


def load(
    *,
    speech: Path = ROOT / "examples" / "speech" / "webdataset",
    rounds: int = 9,
    round_s: float = 1.0,
    out: Path = ROOT / "runs" / "bench" / "load.json",
) -> None:
    """Measure what decoding in a child process costs.

    Args:
        speech: Folder of recordings.
        rounds: How often each way runs; one more is a warm-up and not counted.
        round_s: Seconds of a round.
        out: Where the JSON goes.
    """
    samples = load_speech(speech)[: 150 * SAMPLE_RATE]
    corpora = {
        "FLAC 16 kHz, 15 s": encode(samples, seconds=15, rate=16_000, kind="FLAC"),
        "MP3 44.1 kHz, 15 s": encode(samples, seconds=15, rate=44_100, kind="MP3"),
        "FLAC 16 kHz, 1 s": encode(samples, seconds=1, rate=16_000, kind="FLAC"),
        "WAV 16 kHz, 1 s": encode(samples, seconds=1, rate=16_000, kind="WAV"),
    }
    decoder = Decoder()
    table = Table("recordings", "", "µs of wall a second", "µs of CPU a second", title="loading")
    results: dict[str, object] = {}
    for corpus, recordings in corpora.items():
        audio_s = sum(len(load_waveform(r).samples) for r in recordings) / SAMPLE_RATE
        found = compare(recordings, decoder, rounds, round_s)
        here, child = found["here"], found["child"]
        for name, taken in found.items():
            walls = [second / audio_s * 1e6 for second in taken.wall]
            cpus = [second / audio_s * 1e6 for second in taken.cpu]
            micro = "{:.0f}".format
            table.add_row(corpus, name, spread(walls, micro), spread(cpus, micro))
        wall = [b / a for a, b in zip(here.wall, child.wall, strict=True)]
        cpu = [b / a for a, b in zip(here.cpu, child.cpu, strict=True)]
        table.add_row(corpus, "ratio", spread(wall, "{:.3f}".format), spread(cpu, "{:.3f}".format))
        results[corpus] = {"audio_s": audio_s, "wall_ratio": wall, "cpu_ratio": cpu} | {
            name: vars(taken) for name, taken in found.items()
        }
    starts = respawn_s(corpora["FLAC 16 kHz, 1 s"][0], decoder, rounds)
    Console(width=120).print(
        table, "new child and first recording, s:", spread(starts, "{:.2f}".format)
    )
    results["respawn_s"] = starts
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    cyclopts.run(load)
