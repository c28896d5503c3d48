"""Encoded bytes → mono int16 at 16 kHz, block by block; what cannot be loaded says why."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from koasr.errors import RecordingError
from koasr.headers import Container, inspect
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.rows import SAMPLE_RATE, Recording
from koasr.sndfile import check_rate, knows_length, open_file, read_blocks, skip

MIN_SAMPLES = SAMPLE_RATE // 10
"""Shorter than 0.1 s holds no word, and under 400 samples a wav2vec 2.0 model has no frame."""

_PCM_BLOCK = 1 << 20

Samples = NDArray[np.int16]


@dataclass(frozen=True)
class AudioInfo:
    """What the source was before loading: its sample rate in Hz and its channels."""

    sample_rate_hz: int
    channels: int


@dataclass(frozen=True)
class Audio:
    """A loaded recording. `samples` is mono 16 kHz. Shape (num_samples,)."""

    samples: Samples
    info: AudioInfo

    @property
    def duration_s(self) -> float:
        """Length after loading, in seconds."""
        return len(self.samples) / SAMPLE_RATE


def _check_container(container: Container, limits: Limits) -> None:
    """Let only PCM and float WAV, FLAC, Ogg and MP3 reach the decoder, and only whole files."""
    if container.refused and not limits.any_format:
        message = f"found {container.refused}, wanted PCM or float WAV, FLAC, Ogg, Opus or MP3"
        raise RecordingError("unsupported_format", message)
    if container.missing_bytes:
        message = f"the headers promise {container.missing_bytes} bytes or more that are missing"
        raise RecordingError("truncated", message)


def _check_duration(recording: Recording, file: soundfile.SoundFile, limits: Limits) -> None:
    """Refuse what its header says is too long, before hours of it are decoded."""
    if knows_length(file):
        seconds = file.frames / file.samplerate - recording.offset_s
        if min(seconds, recording.duration_s or seconds) > limits.max_duration_s:
            raise _too_long(limits, f"found {seconds:.0f} s, ")


def _too_long(limits: Limits, found: str = "") -> RecordingError:
    return RecordingError("too_long", f"{found}wanted at most {limits.max_duration_s:.0f} s")


def _to_int16(waveform: NDArray[Any]) -> Samples:
    """Full scale is 32,768, as in libsndfile, so 16-bit sources pass unchanged."""
    return np.clip(np.rint(waveform * 32_768.0), -32_768, 32_767).astype(np.int16)


def _mono(
    data: io.BytesIO, file: soundfile.SoundFile, num_frames: int | None
) -> Iterator[NDArray[np.float32]]:
    """Up to `num_frames` frames, each the mean of its channels. Shapes (num_frames,)."""
    start = file.tell()
    for block in read_blocks(data, file, num_frames):
        waveform = block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32)
        is_finite = np.isfinite(waveform)
        if not is_finite.all():
            at = (start + int(np.argmin(is_finite))) / file.samplerate
            raise RecordingError("non_finite", f"NaN or infinity at {at:.2f} s")
        yield waveform
        start += len(block)


def _decode(
    data: io.BytesIO, file: soundfile.SoundFile, offset_s: float, duration_s: float | None
) -> Iterator[Samples]:
    rate = file.samplerate
    with file:
        skip(data, file, round(offset_s * rate))
        waveforms = _mono(data, file, None if duration_s is None else round(duration_s * rate))
        for waveform in waveforms if rate == SAMPLE_RATE else _resample(waveforms, rate):
            yield _to_int16(waveform)


def _resample(waveforms: Iterable[NDArray[np.float32]], rate: int) -> Iterator[NDArray[np.float32]]:
    stream = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    for waveform in waveforms:
        yield stream.resample_chunk(waveform)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _decode_chain(files: Iterable[tuple[io.BytesIO, soundfile.SoundFile]]) -> Iterator[Samples]:
    """The links of a chained file, each of its own rate. libsndfile stops after the first."""
    for data, file in files:
        yield from _decode(data, file, 0.0, None)


def _cut(blocks: Iterable[Samples], offset_s: float, duration_s: float | None) -> Iterator[Samples]:
    """The samples of [offset_s, offset_s + duration_s); `duration_s` None: to the end."""
    start = round(offset_s * SAMPLE_RATE)
    end = None if duration_s is None else start + round(duration_s * SAMPLE_RATE)
    done = 0
    for block in blocks:
        if end is not None and done >= end:
            return
        yield block[max(start - done, 0) : None if end is None else end - done]
        done += len(block)


def _bound(blocks: Iterable[Samples], limits: Limits) -> Iterator[Samples]:
    """The blocks, as long as there are not too many."""
    num_samples = 0
    for block in blocks:
        num_samples += len(block)
        if num_samples > limits.max_duration_s * SAMPLE_RATE:
            raise _too_long(limits)
        yield block


def _raw_pcm(audio: bytes, start: int, end: int) -> Iterator[Samples]:
    # An odd last byte is half a sample.
    samples = np.frombuffer(audio, "<i2", count=(end - start) // 2, offset=start)
    for first in range(0, len(samples), _PCM_BLOCK):
        yield samples[first : first + _PCM_BLOCK].astype(np.int16)


def needs_decoder(recording: Recording) -> bool:
    """Whether more than copying is to be done: not for raw PCM, also behind a WAV header."""
    is_wav = recording.audio[:4] == b"RIFF"
    return not recording.raw_pcm and not (is_wav and inspect(recording.audio).pcm)


def stream_audio(
    recording: Recording, limits: Limits = DEFAULT_LIMITS
) -> tuple[AudioInfo, Iterator[Samples]]:
    """Load a recording block by block, so that memory does not grow with its length.

    Returns:
        What the source was, and its samples: mono, 16 kHz, int16, in blocks of any size.

    Raises:
        RecordingError: At once or while iterating; blocks that came before it were sound.
    """
    audio, cut = recording.audio, (recording.offset_s, recording.duration_s)
    check_size(recording, limits)
    pcm: tuple[int, int] | None = (0, len(audio))
    if not recording.raw_pcm:
        container = inspect(audio)
        _check_container(container, limits)
        pcm = container.pcm
    if pcm:
        check_rate(SAMPLE_RATE, limits)
        return AudioInfo(SAMPLE_RATE, 1), _bound(_cut(_raw_pcm(audio, *pcm), *cut), limits)
    data, *others = [
        io.BytesIO(container.head + (audio if end - start == len(audio) else audio[start:end]))
        for start, end in container.parts
    ]
    file = open_file(data, limits)
    info = AudioInfo(file.samplerate, file.channels)
    if others:
        links = ((part, open_file(part, limits)) for part in others)
        return info, _bound(_cut(_decode_chain(chain([(data, file)], links)), *cut), limits)
    _check_duration(recording, file, limits)
    return info, _bound(_decode(data, file, *cut), limits)


def load_waveform(recording: Recording, limits: Limits = DEFAULT_LIMITS) -> Audio:
    """Load a whole recording.

    Raises:
        RecordingError: It cannot be read, or is shorter than 0.1 s.
    """
    info, blocks = stream_audio(recording, limits)
    samples = np.concatenate([*blocks, np.zeros(0, np.int16)])
    check_length(len(samples))
    return Audio(samples, info)


def check_size(recording: Recording, limits: Limits) -> None:
    """Refuse a recording of no bytes, or of too many.

    Raises:
        RecordingError: `empty` or `too_large`.
    """
    if not recording.audio:
        raise RecordingError("empty", "the file has 0 bytes")
    if len(recording.audio) > limits.max_bytes:
        message = f"found {len(recording.audio)} bytes, wanted at most {limits.max_bytes}"
        raise RecordingError("too_large", message)


def check_length(num_samples: int) -> None:
    """Refuse a recording with no samples, or too few for a word.

    Raises:
        RecordingError: `empty` or `too_short`.
    """
    if num_samples == 0:
        raise RecordingError("empty", "the file has no samples")
    if num_samples < MIN_SAMPLES:
        found = num_samples / SAMPLE_RATE
        raise RecordingError("too_short", f"found {found:.3f} s, wanted at least 0.1 s")
