"""The child's side of the decoder: run with `python -m`, it gives up all it can and decodes.

Request: a head and the encoded bytes, one frame each; the first of all holds the limits. Answers:
frames of int16 samples, each with a tail that says what the source was and whether more follows,
or a typed error.
"""

import json
import math
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

from koasr.audio import stream_audio
from koasr.channel import Channel
from koasr.child import serve
from koasr.errors import Reason, RecordingError
from koasr.limits import Limits
from koasr.rows import Recording

HEAD = struct.Struct("<ddQ")
"""Of a request: offset and duration in seconds (NaN: to the end), and encoded bytes."""
TAIL = struct.Struct("<IIB")
"""Of an answer: the source's sample rate in Hz and channels, and what kind of answer it is."""
MORE, LAST, ERROR, NO_MEMORY = range(4)
FRAME_SAMPLES = 1 << 20

_MEMORY_PER_ENCODED_BYTE = 4
"""A recording is held twice while it arrives, and again where tags or links are cut off."""
_SMALL_BYTES = 16 << 20
_STATM = Path("/proc/self/statm")
_MAX_OPEN_FILES = 32


class _Server:
    """The child's side. The first request holds the limits, every other two frames of audio."""

    def __init__(self) -> None:
        self._limits: Limits | None = None
        self._floor_bytes = self._memory_bytes = 0

    def handle(self, pipe: Channel) -> None:
        """Receive a request and send its answers."""
        if self._limits is None:
            self._limits = Limits(**json.loads(pipe.recv_bytes()))
            self._confine(self._limits)
            pipe.send_bytes(b"")
            return
        offset_s, seconds, num_bytes = HEAD.unpack(pipe.recv_bytes())
        duration_s = None if math.isnan(seconds) else seconds
        self._limit_memory(self._limits, num_bytes)
        try:
            audio = pipe.recv_bytes()
            recording = Recording("", "", "", "", audio, offset_s=offset_s, duration_s=duration_s)
            for frame in _frames(recording, self._limits):
                pipe.send_bytes(frame)
        except RecordingError as error:
            pipe.send_bytes(_error(error.reason, error.message))
        except MemoryError:
            pipe.send_bytes(TAIL.pack(0, 0, NO_MEMORY))
        # As in `load_pack`: untrusted bytes fail in more ways than can be named.
        except Exception as error:
            pipe.send_bytes(_error("unreadable", f"{type(error).__name__}: {error}"))

    def _confine(self, limits: Limits) -> None:
        """Give up what decoding does not need, for good."""
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            resource.setrlimit(kind, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))
        # Only Linux says how much address space is taken already, and only there it is limited.
        if _STATM.exists():
            self._floor_bytes = int(_STATM.read_text().split()[0]) * resource.getpagesize()
            self._limit_memory(limits, limits.max_bytes, for_good=True)

    def _limit_memory(self, limits: Limits, num_bytes: int, *, for_good: bool = False) -> None:
        needed = self._floor_bytes + limits.decode_memory_bytes
        needed += _MEMORY_PER_ENCODED_BYTE * max(num_bytes, _SMALL_BYTES)
        if not self._floor_bytes or needed == self._memory_bytes:
            return
        self._memory_bytes = needed
        _, ceiling = resource.getrlimit(resource.RLIMIT_AS)
        if ceiling != resource.RLIM_INFINITY:
            needed = min(needed, ceiling)
        resource.setrlimit(resource.RLIMIT_AS, (needed, needed if for_good else ceiling))


def _error(reason: Reason, message: str) -> bytes:
    return json.dumps([reason, message]).encode() + TAIL.pack(0, 0, ERROR)


def _frames(recording: Recording, limits: Limits) -> Iterator[bytes]:
    """A recording's samples as few frames of bounded size; a short one is one frame."""
    info, blocks = stream_audio(recording, limits)
    held: list[memoryview] = []
    num_samples = 0
    for block in blocks:
        for start in range(0, len(block), FRAME_SAMPLES):
            piece = block[start : start + FRAME_SAMPLES]
            if num_samples + len(piece) > FRAME_SAMPLES:
                yield b"".join([*held, TAIL.pack(info.sample_rate_hz, info.channels, MORE)])
                held, num_samples = [], 0
            held.append(piece.data)
            num_samples += len(piece)
    yield b"".join([*held, TAIL.pack(info.sample_rate_hz, info.channels, LAST)])


def main() -> None:
    """Serve decoding requests until the parent is gone."""
    serve(_Server().handle)


if __name__ == "__main__":
    main()
