"""The decoder's child with a decoder that fails on marked bytes: run with `python -m`.

A mark is a word, a colon, and what it needs; audio without one is decoded as ever.
"""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from koasr import decoder_child
from koasr.audio import AudioInfo, Samples, stream_audio
from koasr.limits import Limits
from koasr.rows import Recording

_frames = decoder_child._frames


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _die_after(blocks: Iterator[Samples], num_samples: int) -> Iterator[Samples]:
    done = 0
    for block in blocks:
        yield block
        done += len(block)
        if done > num_samples:
            _die()


def marked(recording: Recording, limits: Limits) -> tuple[AudioInfo, Iterator[Samples]]:
    """`stream_audio`, unless the audio is marked."""
    word, colon, rest = recording.audio.partition(b":")
    if not colon or len(word) > 10:
        return stream_audio(recording, limits)
    if word in (b"once", b"late"):
        # A folder, since the child may write no file: it dies only while there is none.
        path, _, audio = rest.partition(b":")
        info, blocks = stream_audio(replace(recording, audio=audio), limits)
        if os.path.isdir(path):
            return info, blocks
        if word == b"once":
            os.mkdir(path)
            _die()
        return info, _die_after(blocks, 3 << 20)
    if word == b"crash":
        _die()
    if word == b"hang":
        time.sleep(600)
    if word == b"raise":
        raise KeyError("something odd")
    if word == b"eat":
        np.ones(1 << 32)
    if word == b"write":
        with open(rest, "wb") as sink:
            sink.write(b"some bytes")
    raise AssertionError(word)


def lying(recording: Recording, limits: Limits) -> Iterator[bytes]:
    """`_frames`, unless the audio is marked as a lie."""
    word, _, rest = recording.audio.partition(b":")
    if word != b"lie":
        yield from _frames(recording, limits)
        return
    lies = {
        b"short": b"x",
        b"odd": b"abc" + decoder_child.TAIL.pack(16_000, 1, decoder_child.LAST),
        b"rate": b"ab" + decoder_child.TAIL.pack(0, 1, decoder_child.LAST),
        b"kind": b"ab" + decoder_child.TAIL.pack(16_000, 1, 77),
        b"reason": b'["all is well", ""]' + decoder_child.TAIL.pack(0, 0, decoder_child.ERROR),
        b"json": b"\xff" + decoder_child.TAIL.pack(0, 0, decoder_child.ERROR),
        b"big": bytes(64 << 20),
    }
    if rest in lies:
        yield lies[rest]
    while True:
        yield bytes(2 << 20) + decoder_child.TAIL.pack(16_000, 1, decoder_child.MORE)


if __name__ == "__main__":
    decoder_child.stream_audio = marked  # type: ignore[attr-defined,assignment]
    decoder_child._frames = lying
    decoder_child.main()
