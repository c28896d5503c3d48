"""Side by side: recordings loaded by soundfile alone, in this process, and in the decoder's child.

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
from corpora import ROOT, SPEECH, encode_at, load_speech
from figures import Figure, figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from koasr.audio import load_waveform, stream_audio
from koasr.decoder import Decoder
from koasr.packs import Decode
from koasr.rows import SAMPLE_RATE, Recording

FOLDER = SPEECH / "webdataset"


@dataclass
class Seconds:
    """Of wall clock and of CPU, one of each a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def encode(speech: NDArray[np.int16], *, seconds: int, rate: int, kind: str) -> list[Recording]:
    """The speech cut into files of this kind."""
    size = seconds * SAMPLE_RATE
    starts = range(0, len(speech) - size + 1, size)
    return [
        Recording(str(n), "", "", "", encode_at(speech[n : n + size], rate, kind)) for n in starts
    ]


def cpu_s(pid: int | None) -> float:
    """Seconds of CPU that this process and that one have taken."""
    child = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9 if pid else 0.0
    return time.process_time() + child


def alone(recording: Recording) -> None:
    """What soundfile and soxr take by themselves for the same samples."""
    waveform, rate = soundfile.read(io.BytesIO(recording.audio), dtype="float32", always_2d=True)
    mono = soxr.resample(waveform.mean(axis=1), rate, SAMPLE_RATE)
    np.clip(np.rint(mono * 32_768.0), -32_768, 32_767).astype(np.int16)


def through(decode: Decode) -> Callable[[Recording], None]:
    """Load a recording this way, block by block."""

    def load_one(recording: Recording) -> None:
        for _ in decode(recording)[1]:
            pass

    return load_one


def load_all(recordings: list[Recording], load_one: Callable[[Recording], None], n: int) -> None:
    for _ in range(n):
        for recording in recordings:
            load_one(recording)


def compare(
    recordings: list[Recording], decoder: Decoder, rounds: int, round_s: float
) -> dict[str, Seconds]:
    """The ways in turn, each for about `round_s` a round; a first round is not counted."""
    ways = [("alone", alone), ("here", through(stream_audio)), ("child", through(decoder.stream))]
    start_s = time.perf_counter()
    load_all(recordings, alone, 1)
    repeat = max(1, round(round_s / (time.perf_counter() - start_s)))
    found = {name: Seconds() for name, _ in ways}
    for index in range(rounds + 1):
        for name, load_one in ways[index % len(ways) :] + ways[: index % len(ways)]:
            start_s, start_cpu_s = time.perf_counter(), cpu_s(decoder.pid)
            load_all(recordings, load_one, repeat)
            if index:
                found[name].wall.append((time.perf_counter() - start_s) / repeat)
                found[name].cpu.append((cpu_s(decoder.pid) - start_cpu_s) / repeat)
    return found


def corpora(samples: NDArray[np.int16]) -> dict[str, list[Recording]]:
    """The speech as files of several kinds and lengths."""
    return {
        "FLAC 16 kHz, 15 s": encode(samples, seconds=15, rate=16_000, kind="FLAC"),
        "MP3 44.1 kHz, 15 s": encode(samples, seconds=15, rate=44_100, kind="MP3"),
        "FLAC 16 kHz, 1 s": encode(samples, seconds=1, rate=16_000, kind="FLAC"),
        "WAV 16 kHz, 1 s": encode(samples, seconds=1, rate=16_000, kind="WAV"),
    }


def loading(rounds: int, round_s: float = 0.5) -> list[Figure]:
    """Seconds of audio a second of one core: soundfile and soxr alone, and koasr's loading."""
    decoder, found = Decoder(), []
    for corpus, recordings in corpora(load_speech([FOLDER])[: 150 * SAMPLE_RATE]).items():
        audio_s = sum(len(load_waveform(r).samples) for r in recordings) / SAMPLE_RATE
        taken = compare(recordings, decoder, rounds, round_s)
        ratios = [a / b for a, b in zip(taken["alone"].cpu, taken["child"].cpu, strict=True)]
        for name, system in (("alone", "soundfile + soxr alone"), ("child", "koasr, isolated")):
            speeds = [audio_s / second for second in taken[name].cpu]
            ratio = statistics.median(ratios) if name == "child" else 1.0
            wanted = "≥ 0.8" if name == "child" else ""
            section = f"load, {corpus}"
            found.append(figure(section, system, speeds, "x a core", ratio, wanted))
    decoder.close()
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
        load_all([recording], through(decoder.stream), 1)
        found.append(time.perf_counter() - start_s)
    return found


def load(
    *,
    speech: Path = FOLDER,
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
    samples = load_speech([speech])[: 150 * SAMPLE_RATE]
    kinds = corpora(samples)
    decoder = Decoder()
    table = Table("recordings", "", "µs of wall a second", "µs of CPU a second", title="loading")
    results: dict[str, object] = {}
    for corpus, recordings in kinds.items():
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
    starts = respawn_s(kinds["FLAC 16 kHz, 1 s"][0], decoder, rounds)
    Console(width=120).print(
        table, "new child and first recording, s:", spread(starts, "{:.2f}".format)
    )
    results["respawn_s"] = starts
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    cyclopts.run(load)
