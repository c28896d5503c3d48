"""Samples of a recording, streaming → segments cut at pauses; long segments → windows."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from koasr.rows import SAMPLE_RATE

Samples = NDArray[np.int16]

MIN_SEGMENT = 3 * SAMPLE_RATE
"""Samples. Measured on the bundled long recording with the bundled model, 2026-11-23: cut at 12, 8,
4 and 3 s at the earliest its CER is 2.7, 2.3, 2.1 and 1.7 %, and 1.7 % by the sentence."""
MAX_SEGMENT = 20 * SAMPLE_RATE
"""Samples. XLS-R was pre-trained on crops of at most 20 s; longer ones are new to it."""
MAX_UNBROKEN = 120 * SAMPLE_RATE
"""Samples. Without any pause the segment is cut here all the same, so that memory stays bounded."""
LOOK_AHEAD = 8 * SAMPLE_RATE
"""Samples. By so much a segment without a pause grows before the next look."""
MIN_TAIL = SAMPLE_RATE // 2
"""Samples. What is left after a cut must still hold a word."""

WINDOW = MAX_SEGMENT
STRIDE = 2 * SAMPLE_RATE
"""Samples of context at a window's inner edges whose frames are thrown away: more than the
1.28 s that the positional convolution of wav2vec 2.0 reaches."""

_HOP = SAMPLE_RATE // 100
_PAUSE_HOPS = 20
"""A pause lasts 0.2 s: stop closures inside words are shorter."""
_PAUSE_BELOW_SPEECH_DB = 12.0
_SILENCE_DBFS = -60.0


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording. `start` counts samples from the recording's start."""

    start: int
    samples: Samples


@dataclass(frozen=True)
class Window:
    """A part of a segment for one forward pass: samples [start, end), kept frames [left, right).

    Frames are counted from the window's own start; `right` None keeps all to the end.
    """

    start: int
    end: int
    left: int = 0
    right: int | None = None


def level_db(samples: Samples) -> NDArray[np.float64]:
    """Mean level of each 0.2 s, every 10 ms, in dB of full scale.

    Returns:
        Shape (num_hops - 19,); element i covers samples [160 i, 160 i + 3200).
    """
    num_hops = len(samples) // _HOP
    hops = samples[: num_hops * _HOP].astype(np.float64).reshape(num_hops, _HOP)
    total = np.concatenate([[0.0], np.cumsum((hops**2).mean(axis=1))])
    power = (total[_PAUSE_HOPS:] - total[:-_PAUSE_HOPS]) / _PAUSE_HOPS
    # The floor is a square wave of 1/3 bit, below any dither.
    return np.asarray(10.0 * np.log10(np.maximum(power, 0.1) / 32_768.0**2))


def _quietest(samples: Samples, low: int, high: int) -> tuple[int, bool]:
    """Middle of the quietest 0.2 s of [low, high), in samples, and whether it is a pause."""
    levels = level_db(samples[:high])
    speech_db = float(np.percentile(levels, 75))
    first = low // _HOP
    index = first + int(np.argmin(levels[first:]))
    quiet_db = float(levels[index])
    is_pause = quiet_db <= max(speech_db - _PAUSE_BELOW_SPEECH_DB, _SILENCE_DBFS)
    return index * _HOP + _PAUSE_HOPS * _HOP // 2, is_pause


class _Cutter:
    """Looks for the end of the segment at the front: in [3 s, 20 s], then in 8 s steps beyond.

    A step is judged only when all of it has been heard, so cuts do not depend on how the audio was
    sliced on its way here; and once only, so speech without a pause costs no more than other.
    """

    def __init__(self) -> None:
        self._low, self._high = MIN_SEGMENT, MAX_SEGMENT

    def find(self, samples: Samples, ended: bool) -> int | None:
        """Where the segment ends, in samples; None to wait for more audio."""
        while True:
            low, high = self._low, self._high
            is_rest = len(samples) < high + MIN_TAIL
            if is_rest:
                if not ended:
                    return None
                if len(samples) <= max(MAX_SEGMENT, low + MIN_TAIL + _PAUSE_HOPS * _HOP):
                    return len(samples)
                high = len(samples) - MIN_TAIL
            cut, is_pause = _quietest(samples, low, high)
            if is_pause or high >= MAX_UNBROKEN:
                return cut
            if is_rest:
                return len(samples)
            self._low = high - _PAUSE_HOPS * _HOP
            self._high = min(high + LOOK_AHEAD, MAX_UNBROKEN)


def cut_segments(blocks: Iterable[Samples], samples_per_frame: int) -> Iterator[Segment]:
    """Cut a recording at its quietest pauses into segments of 3 to 20 s.

    Where there is no pause a segment grows, to 120 s at most. Memory is that of one segment,
    however long the recording. Every sample is in exactly one segment.

    Args:
        blocks: Mono samples at 16 kHz in blocks of any size.
        samples_per_frame: Cuts lie on multiples of it, so that frames keep one grid.
    """
    held = np.zeros(0, np.int16)
    start = 0
    stream = iter(blocks)
    ended = False
    cutter = _Cutter()
    while not ended or len(held):
        cut = cutter.find(held, ended) if len(held) else None
        if cut is None:
            parts = [held]
            # Gathered by the second, since joining costs the length of what is held.
            while sum(map(len, parts[1:])) < SAMPLE_RATE and not ended:
                block = next(stream, None)
                ended = block is None
                parts += [] if block is None else [block]
            held = np.concatenate(parts)
            continue
        if cut < len(held):
            cut -= cut % samples_per_frame
        yield Segment(start, held[:cut])
        held, start = held[cut:], start + cut
        cutter = _Cutter()


def plan_windows(num_samples: int, samples_per_frame: int) -> list[Window]:
    """Windows of one segment: itself if it is at most 20 s, else 20 s every 16 s.

    The kept frames of consecutive windows follow each other without gap or overlap.

    Example:
        >>> plan_windows(16000 * 30, 320)
        [Window(start=0, end=320000, left=0, right=900), \
Window(start=256000, end=480000, left=100, right=None)]
    """
    stride = STRIDE - STRIDE % samples_per_frame
    window = WINDOW - WINDOW % samples_per_frame
    step = window - 2 * stride
    windows = []
    start = 0
    while num_samples > MAX_SEGMENT and start + window < num_samples:
        left = stride // samples_per_frame if start else 0
        windows.append(Window(start, start + window, left, (window - stride) // samples_per_frame))
        start += step
    left = stride // samples_per_frame if start else 0
    return [*windows, Window(start, num_samples, left)]
