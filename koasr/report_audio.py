"""Segments on the page → the sound of each: a short MP3 and its outline, or why there is none."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import get_args

import numpy as np
import pyarrow as pa
import soundfile

from koasr.audio import Samples
from koasr.clips import COLUMNS, Clip, WhySkipped, cut_clips
from koasr.decoder import Decoder
from koasr.errors import JobError, Reason, TransientError
from koasr.limits import Limits
from koasr.report_run import ReportedRun
from koasr.report_samples import MAX_SHARDS, Sample
from koasr.rows import SAMPLE_RATE, Shard
from koasr.runs import read_plan
from koasr.storage import impatient
from koasr.transcripts import TRANSCRIPTS

MAX_CLIP_S = 20.0
_PATIENCE_S = 5.0
"""With a store that fails: a page without sound is better than none in the morning."""
NUM_PEAKS = 150
_LEVEL = 0.85
"""Of LAME by libsndfile: at 16 kHz, mono, about 32 kbit/s, constant, so that seeking is exact."""
_WHY: dict[WhySkipped, str] = {
    "changed": "its source has changed since it was transcribed",
    "vanished": "its source is no longer there",
    "unplanned": "the run's plan does not name its source",
}
_DENIED = "the store denies access to its source"
_COLUMNS = pa.schema([TRANSCRIPTS.field(name) for name in COLUMNS])


@dataclass(frozen=True)
class Sound:
    """The sound of a segment.

    Attributes:
        mp3: Mono, 16 kHz; empty where there is none.
        peaks: Loudest sample of each of `NUM_PEAKS` stretches, of the loudest of all, in [0, 1].
        duration_s: Of the MP3.
        why: Why there is none.
    """

    mp3: bytes = b""
    peaks: tuple[float, ...] = ()
    duration_s: float = 0.0
    why: str = ""

    @property
    def uri(self) -> str:
        """It as a `data:` URI."""
        return f"data:audio/mpeg;base64,{base64.b64encode(self.mp3).decode()}"


def cut_sounds(
    reported: ReportedRun, samples: Sequence[Sample], max_bytes: int, limits: Limits
) -> dict[str, Sound]:
    """The sound of each sample by its `segment_id`, as many as fit.

    Args:
        reported: Knows where they came from.
        samples: The most important first: what no longer fits is left out from the end.
        max_bytes: Of all of them as base64.
        limits: Of a recording.
    """
    names = list(dict.fromkeys(sample.shard for sample in samples))
    found: dict[str, Sound] = {}
    try:
        plan = read_plan(reported.run, frozenset(names)) if names else {}
    except FileNotFoundError:
        plan = {}
    decoder = Decoder(limits)
    try:
        for number, name in enumerate(names):
            ours = [sample for sample in samples if sample.shard == name]
            if name not in plan:
                found |= _without(ours, _WHY["unplanned"])
            elif number >= MAX_SHARDS:
                why = f"{MAX_SHARDS} source shards are opened for a page, no more"
                found |= _without(ours, why)
            else:
                with impatient(_PATIENCE_S):
                    found |= _cut_shard(plan[name], ours, decoder, limits)
    finally:
        decoder.close()
    return _fit(found, samples, max_bytes)


def _without(samples: Sequence[Sample], why: str) -> dict[str, Sound]:
    return {sample.row["segment_id"]: Sound(why=why) for sample in samples}


def _cut_shard(
    shard: Shard, samples: Sequence[Sample], decoder: Decoder, limits: Limits
) -> dict[str, Sound]:
    """The sounds of one shard; a store that fails costs them, never the page."""
    rows = pa.Table.from_pylist([sample.row for sample in samples], schema=_COLUMNS)
    found = _without(samples, "its source cannot be read now")
    try:
        for clip in cut_clips(shard, rows, decoder.stream, limits=limits):
            found[clip.segment_id] = (
                _encode(clip) if isinstance(clip, Clip) else Sound(why=_told(clip.why))
            )
    except TransientError:
        pass
    except JobError:
        found |= _without([s for s in samples if not found[s.row["segment_id"]].mp3], _DENIED)
    return found


def _told(why: WhySkipped) -> str:
    if why in get_args(Reason):
        return f"its source cannot be decoded any more ({why.replace('_', ' ')})"
    return _WHY[why]


def _encode(clip: Clip) -> Sound:
    samples, _ = soundfile.read(io.BytesIO(clip.audio), dtype="int16")
    samples = samples[: round(MAX_CLIP_S * SAMPLE_RATE)]
    sink = io.BytesIO()
    soundfile.write(
        sink,
        samples,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=_LEVEL,
        bitrate_mode="CONSTANT",
    )
    return Sound(sink.getvalue(), find_peaks(samples), len(samples) / SAMPLE_RATE)


def find_peaks(samples: Samples, num: int = NUM_PEAKS) -> tuple[float, ...]:
    """Outline of a wave: the loudest of each stretch, of the loudest of all.

    Example:
        >>> find_peaks(np.array([0, 1, -2, 0, 4, 0], np.int16), 3)
        (0.25, 0.5, 1.0)
        >>> find_peaks(np.zeros(9, np.int16), 2)
        (0.0, 0.0)
    """
    loud = np.abs(samples.astype(np.int32))
    edges = np.linspace(0, len(loud), num + 1).astype(int)
    peaks = [int(loud[a:b].max(initial=0)) for a, b in pairwise(edges)]
    loudest = max(peaks, default=0) or 1
    return tuple(round(peak / loudest, 3) for peak in peaks)


def _fit(found: dict[str, Sound], samples: Sequence[Sample], max_bytes: int) -> dict[str, Sound]:
    left = max_bytes
    kept = {}
    for sample in samples:
        name = sample.row["segment_id"]
        sound = found[name]
        size = 4 * len(sound.mp3) // 3 + 4
        if sound.mp3 and size > left:
            sound = Sound(why="the page would be larger than --max-audio-mb allows")
        else:
            left -= size
        kept[name] = sound
    return kept
