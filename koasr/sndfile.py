"""libsndfile, read forward only: a file as blocks of frames, and its failures as ours."""

import io
from collections.abc import Iterator

import numpy as np
import soundfile
from numpy.typing import NDArray

from koasr.errors import Reason, RecordingError
from koasr.limits import Limits

_BLOCK_FRAMES = 1 << 16
_SEEKABLE = ("WAV", "WAVEX", "RF64", "FLAC")
"""In these a seek is exact."""
_SUBTYPES = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
_SUBTYPES_BY_FORMAT = {
    "WAV": _SUBTYPES,
    "WAVEX": _SUBTYPES,
    "RF64": _SUBTYPES,
    "FLAC": ("PCM_S8", "PCM_16", "PCM_24"),
    "OGG": ("VORBIS", "OPUS"),
    "MP3": ("MPEG_LAYER_III",),
}
_OUT_OF_MEMORY = 17
"""libsndfile's SFE_MALLOC_FAILED."""


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is only read forward.

    soundfile seeks to where it stands after every read of a seekable file. In MP3 that resets the
    decoder, so that a file read in blocks comes out damaged at every join (found with 0.14.0: up
    to half of full scale); in a FLAC of unknown length it fails and loses the last block.
    """

    def seekable(self) -> bool:
        """Never, as far as reading is concerned."""
        return False


def _failure(error: soundfile.LibsndfileError, reason: Reason, place: str = "") -> Exception:
    if error.code == _OUT_OF_MEMORY:
        return MemoryError(error.error_string)
    return RecordingError(reason, f"libsndfile{place}: {error.error_string}")


def check_rate(sample_rate_hz: int, limits: Limits) -> None:
    """Refuse a sample rate outside the limits.

    Raises:
        RecordingError: `bad_sample_rate`.
    """
    low, high = limits.min_sample_rate_hz, limits.max_sample_rate_hz
    if not low <= sample_rate_hz <= high:
        message = f"found {sample_rate_hz} Hz, wanted {low} to {high}"
        raise RecordingError("bad_sample_rate", message)


def open_file(data: io.BytesIO, limits: Limits) -> soundfile.SoundFile:
    """Open a file, if its format and its header are within the limits.

    Raises:
        RecordingError: They are not, or libsndfile cannot read it.
    """
    try:
        file = _Stream(data)
    except soundfile.LibsndfileError as error:
        raise _failure(error, "unreadable") from error
    # Its reader of the container may see more in the headers than ours did.
    if file.subtype not in _SUBTYPES_BY_FORMAT.get(file.format, ()) and not limits.any_format:
        message = f"found {file.format} with {file.subtype}, wanted PCM or float WAV"
        raise RecordingError("unsupported_format", message)
    check_rate(file.samplerate, limits)
    if file.channels > limits.max_channels:
        message = f"found {file.channels} channels, wanted at most {limits.max_channels}"
        raise RecordingError("too_many_channels", message)
    return file


def knows_length(file: soundfile.SoundFile) -> bool:
    """Whether the header counts the frames. FLAC from a pipe says 0, MP3 and Ogg are estimates."""
    return file.format in _SEEKABLE and 0 < file.frames < 1 << 36


def read_blocks(
    data: io.BytesIO, file: soundfile.SoundFile, num_frames: int | None
) -> Iterator[NDArray[np.float32]]:
    """Up to `num_frames` frames from where the file stands. Shapes (num_frames, channels).

    Args:
        data: What the file reads from.
        file: Of `open_file`.
        num_frames: None for all that are left.

    Raises:
        RecordingError: `truncated` where the bytes ran out first, else `unreadable`.
    """
    start, expected = file.tell(), file.frames
    left = expected - start if knows_length(file) else None
    if num_frames is not None:
        left = num_frames if left is None else min(num_frames, left)
    done = 0
    while left is None or done < left:
        wanted = _BLOCK_FRAMES if left is None else min(_BLOCK_FRAMES, left - done)
        try:
            block = file.read(wanted, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            ran_out = data.tell() >= len(data.getvalue())
            at = (start + done) / file.samplerate
            reason: Reason = "truncated" if ran_out else "unreadable"
            raise _failure(error, reason, f" after {at:.2f} s") from error
        if len(block) == 0:
            break
        done += len(block)
        yield block
    if knows_length(file) and left is not None and done < left:
        message = f"found {start + done} of the {expected} frames that the header promises"
        raise RecordingError("truncated", message)


def skip(data: io.BytesIO, file: soundfile.SoundFile, num_frames: int) -> None:
    """Move on by `num_frames`; where seeking is not exact, frames are read."""
    if file.format in _SEEKABLE:
        try:
            file.seek(min(num_frames, file.frames))
        except soundfile.LibsndfileError as error:
            raise _failure(error, "truncated", " while seeking") from error
        return
    for _ in read_blocks(data, file, num_frames):
        pass
