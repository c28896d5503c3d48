"""Encoded bytes → mono int16 at 16 kHz, block by block; what cannot be loaded says why."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from koasr.errors import RecordingError
from koasr.rows import SAMPLE_RATE, Recording

MIN_SAMPLES = SAMPLE_RATE // 10
"""Shorter than 0.1 s holds no word, and under 400 samples a wav2vec 2.0 model has no frame."""
MAX_DURATION_S = 4 * 3600.0
MAX_CHANNELS = 32
SAMPLE_RATES = (4_000, 384_000)
"""Hz. libsndfile takes 1 Hz too, and resampling that would make 16,000 samples of each."""

_TOO_LONG = f"wanted at most {MAX_DURATION_S:.0f} s"
_BLOCK_FRAMES = 1 << 16
_WAV_CODECS = {1: "PCM", 3: "float", 0xFFFE: "extensible"}
_STREAMED_WAV_SIZES = (0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFF, 0x7FFFFFF0)
"""Sizes that a writer to a pipe leaves in the header: it could not go back to fill them in."""

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


def _wav_missing_bytes(data: bytes) -> int:
    """How many bytes of samples a WAV header promises and the file lacks.

    Raises:
        RecordingError: A codec other than PCM or float. libsndfile's ADPCM reader has known holes
            (CVE-2022-33065 and its follow-up), so such files stay away from it.
    """
    position = 12
    while position + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if name == b"fmt " and len(data) >= position + 2:
            codec = struct.unpack_from("<H", data, position)[0]
            if codec not in _WAV_CODECS:
                message = f"found WAV codec {codec:#06x}, wanted PCM or float"
                raise RecordingError("unsupported_format", message)
        if name == b"data":
            return 0 if size in _STREAMED_WAV_SIZES else max(0, position + size - len(data))
        position += size + size % 2
    return 0


def _check_container(data: bytes) -> None:
    """Let only WAV, FLAC, Ogg and MP3 reach the decoder."""
    if not data:
        raise RecordingError("empty", "the file has 0 bytes")
    if data[:4] in (b"RIFF", b"RF64") and data[8:12] == b"WAVE":
        missing = _wav_missing_bytes(data)
        if missing:
            message = f"the header promises {missing} bytes more than the {len(data)} there are"
            raise RecordingError("truncated", message)
        return
    is_mp3 = data[:3] == b"ID3" or (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0)
    if not is_mp3 and data[:4] not in (b"fLaC", b"OggS"):
        found = data[:4].hex(" ")
        message = f"found bytes {found} at the start, wanted WAV, FLAC, Ogg, Opus or MP3"
        raise RecordingError("unsupported_format", message)


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is only read forward.

    soundfile seeks to where it stands after every read of a seekable file. In MP3 that resets the
    decoder, so that a file read in blocks comes out damaged at every join (found with 0.14.0: up
    to half of full scale); in a FLAC of unknown length it fails and loses the last block.
    """

    def seekable(self) -> bool:
        """Never, as far as reading is concerned."""
        return False


def _open(data: io.BytesIO) -> soundfile.SoundFile:
    _check_container(data.getvalue())
    try:
        file = _Stream(data)
    except soundfile.LibsndfileError as error:
        raise RecordingError("unreadable", f"libsndfile: {error.error_string}") from error
    low, high = SAMPLE_RATES
    if not low <= file.samplerate <= high:
        message = f"found {file.samplerate} Hz, wanted {low} to {high}"
        raise RecordingError("bad_sample_rate", message)
    if file.channels > MAX_CHANNELS:
        message = f"found {file.channels} channels, wanted at most {MAX_CHANNELS}"
        raise RecordingError("too_many_channels", message)
    return file


def _check_duration(recording: Recording, file: soundfile.SoundFile) -> None:
    """Refuse what its header says is too long, before hours of it are decoded."""
    if file.format in ("WAV", "WAVEX") or _knows_length(file):
        seconds = file.frames / file.samplerate - recording.offset_s
        if min(seconds, recording.duration_s or seconds) > MAX_DURATION_S:
            raise RecordingError("too_long", f"found {seconds:.0f} s, {_TOO_LONG}")


def _knows_length(file: soundfile.SoundFile) -> bool:
    """Whether the header counts the frames. FLAC from a pipe says 0, MP3 and Ogg are estimates."""
    return bool(file.format == "FLAC" and 0 < file.frames < 1 << 36)


def _blocks(
    data: io.BytesIO, file: soundfile.SoundFile, num_frames: int | None
) -> Iterator[NDArray[np.float32]]:
    """Up to `num_frames` frames from where the file stands. Shapes (num_frames, channels)."""
    start, expected = file.tell(), file.frames
    done = 0
    while num_frames is None or done < num_frames:
        wanted = _BLOCK_FRAMES if num_frames is None else min(_BLOCK_FRAMES, num_frames - done)
        try:
            block = file.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            at = (start + done) / file.samplerate
            message = f"libsndfile after {at:.2f} s: {error.error_string}"
            ran_out = data.tell() >= len(data.getbuffer())
            raise RecordingError("truncated" if ran_out else "unreadable", message) from error
        if len(block) == 0:
            break
        done += len(block)
        yield block
    if num_frames is None and _knows_length(file) and start + done < expected:
        message = f"found {start + done} of the {expected} frames that the header promises"
        raise RecordingError("truncated", message)


def _skip(data: io.BytesIO, file: soundfile.SoundFile, num_frames: int) -> None:
    """Move on by `num_frames`; seeking is exact in WAV and FLAC, elsewhere frames are read."""
    if file.format in ("WAV", "WAVEX", "FLAC"):
        file.seek(min(num_frames, file.frames))
        return
    for _ in _blocks(data, file, num_frames):
        pass


def _to_int16(waveform: NDArray[Any]) -> Samples:
    """Full scale is 32,768, as in libsndfile, so 16-bit sources pass unchanged."""
    return np.clip(np.rint(waveform * 32_768.0), -32_768, 32_767).astype(np.int16)


def _decode(recording: Recording, data: io.BytesIO, file: soundfile.SoundFile) -> Iterator[Samples]:
    rate = file.samplerate
    _skip(data, file, round(recording.offset_s * rate))
    wanted = None if recording.duration_s is None else round(recording.duration_s * rate)
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    done = 0
    with file:
        for block in _blocks(data, file, wanted):
            done += len(block)
            if done > MAX_DURATION_S * rate:
                raise RecordingError("too_long", _TOO_LONG)
            waveform = block.mean(axis=1, dtype=np.float32)
            if not np.isfinite(waveform).all():
                at = (done - len(block) + int(np.argmin(np.isfinite(waveform)))) / rate
                raise RecordingError("non_finite", f"NaN or infinity at {at:.2f} s")
            if rate == SAMPLE_RATE:
                yield _to_int16(waveform)
            else:
                yield _to_int16(resampler.resample_chunk(waveform))
    if rate != SAMPLE_RATE:
        yield _to_int16(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _decode_pcm(recording: Recording) -> Iterator[Samples]:
    if not recording.audio:
        raise RecordingError("empty", "the file has 0 bytes")
    # An odd last byte is half a sample.
    samples = np.frombuffer(recording.audio, "<i2", count=len(recording.audio) // 2)
    start = round(recording.offset_s * SAMPLE_RATE)
    length = len(samples)
    if recording.duration_s is not None:
        length = round(recording.duration_s * SAMPLE_RATE)
    if min(length, len(samples) - start) > MAX_DURATION_S * SAMPLE_RATE:
        raise RecordingError("too_long", _TOO_LONG)
    yield samples[start : start + length].astype(np.int16)


def stream_audio(recording: Recording) -> tuple[AudioInfo, Iterator[Samples]]:
    """Load a recording block by block, so that memory does not grow with its length.

    Returns:
        What the source was, and its samples: mono, 16 kHz, int16, in blocks of any size.

    Raises:
        RecordingError: At once or while iterating; blocks that came before it were sound.
    """
    if recording.raw_pcm:
        return AudioInfo(SAMPLE_RATE, 1), _decode_pcm(recording)
    data = io.BytesIO(recording.audio)
    file = _open(data)
    _check_duration(recording, file)
    return AudioInfo(file.samplerate, file.channels), _decode(recording, data, file)


def load_waveform(recording: Recording) -> Audio:
    """Load a whole recording.

    Raises:
        RecordingError: It cannot be read, or is shorter than 0.1 s.
    """
    info, blocks = stream_audio(recording)
    samples = np.concatenate([*blocks, np.zeros(0, np.int16)])
    check_length(len(samples))
    return Audio(samples, info)


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


def probe_duration_s(recording: Recording) -> float:
    """Length in seconds as the header has it, to plan packs with: a guess where it does not say.

    Depends on the bytes alone, so that packs are the same at every attempt.
    """
    total = len(recording.audio) / (2 * SAMPLE_RATE)
    if not recording.raw_pcm:
        try:
            with _open(io.BytesIO(recording.audio)) as file:
                total = min(file.frames / file.samplerate, MAX_DURATION_S)
        except RecordingError:
            return 0.0
    total = max(0.0, total - recording.offset_s)
    return total if recording.duration_s is None else min(total, recording.duration_s)
