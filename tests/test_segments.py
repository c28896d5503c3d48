"""Segments cover a recording exactly once, end at pauses, and do not depend on block sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from koasr.rows import SAMPLE_RATE
from koasr.segments import (
    MAX_SEGMENT,
    MAX_UNBROKEN,
    MIN_SEGMENT,
    Segment,
    cut_segments,
    plan_windows,
)

SAMPLES_PER_FRAME = 320


def speech(seconds: float, *, seed: int = 0) -> NDArray[np.int16]:
    """Noise at speech level: loud everywhere, so there is no pause in it."""
    noise = np.random.default_rng(seed).normal(0, 3000, round(seconds * SAMPLE_RATE))
    return noise.astype(np.int16)


def silence(seconds: float) -> NDArray[np.int16]:
    return np.zeros(round(seconds * SAMPLE_RATE), np.int16)


def cut(samples: NDArray[np.int16], block: int = 5000) -> list[Segment]:
    blocks = (samples[i : i + block] for i in range(0, len(samples), block))
    return list(cut_segments(blocks, SAMPLES_PER_FRAME))


def test_a_short_recording_is_one_segment() -> None:
    samples = speech(20.0)
    (segment,) = cut(samples)
    assert segment.start == 0
    assert np.array_equal(segment.samples, samples)


def test_an_empty_recording_has_no_segment() -> None:
    assert cut(np.zeros(0, np.int16)) == []


def test_segments_end_in_pauses() -> None:
    parts, pauses, at = [], [], 0.0
    for index in range(20):
        parts += [speech(5.0, seed=index), silence(0.6)]
        pauses.append((at + 5.0, at + 5.6))
        at += 5.6
    segments = cut(np.concatenate(parts))
    for segment in segments[1:]:
        start_s = segment.start / SAMPLE_RATE
        assert any(a < start_s < b for a, b in pauses)
    assert all(MIN_SEGMENT <= len(s.samples) <= MAX_SEGMENT for s in segments[:-1])


def test_speech_without_a_pause_stays_whole_up_to_two_minutes() -> None:
    (segment,) = cut(speech(65.0))
    assert len(segment.samples) == 65 * SAMPLE_RATE
    segments = cut(speech(300.0))
    assert len(segments) > 1
    assert max(len(s.samples) for s in segments) <= MAX_UNBROKEN


def test_digital_silence_is_cut_like_a_pause() -> None:
    assert max(len(s.samples) for s in cut(silence(100.0))) <= MAX_SEGMENT


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.05, 30), st.floats(0, 2)), min_size=1, max_size=6),
    st.integers(1000, 400_000),
)
def test_every_sample_is_in_one_segment_whatever_the_blocks(
    runs: list[tuple[float, float]], block: int
) -> None:
    parts = [part for a, b in runs for part in (speech(a), silence(b))]
    samples = np.concatenate(parts)
    segments = cut(samples, block)
    assert np.array_equal(np.concatenate([s.samples for s in segments]), samples)
    assert [s.start for s in segments] == [s.start for s in cut(samples, 77_777)]
    assert all(s.start % SAMPLES_PER_FRAME == 0 for s in segments)


@pytest.mark.parametrize("samples_per_frame", [320, 300, 640])
@pytest.mark.parametrize("seconds", [1, 19.99, 20, 20.01, 36, 36.01, 40, 75.3, 120])
def test_kept_frames_of_windows_follow_each_other(seconds: float, samples_per_frame: int) -> None:
    num_samples = round(seconds * SAMPLE_RATE)
    next_frame = 0
    windows = plan_windows(num_samples, samples_per_frame)
    for window in windows:
        assert window.start % samples_per_frame == 0
        assert window.end - window.start <= MAX_SEGMENT
        assert window.start // samples_per_frame + window.left == next_frame
        if window.right is not None:
            next_frame = window.start // samples_per_frame + window.right
    assert windows[-1].right is None
    assert windows[-1].end == num_samples
