"""Untrusted bytes are decoded in a child process: what kills it or hangs costs one recording."""

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from typing import get_args

import numpy as np

from koasr.audio import AudioInfo, Samples, check_size, needs_decoder, stream_audio
from koasr.child import Child, ChildError
from koasr.decoder_child import ERROR, FRAME_SAMPLES, HEAD, LAST, MORE, NO_MEMORY, TAIL
from koasr.errors import Reason, RecordingError, TransientError
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.rows import SAMPLE_RATE, Recording

_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "LANG", "HOME", "TMPDIR")
"""All that the child gets to see of ours. Credentials lie in the other variables."""
_OWN_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    # Kept memory costs nothing here, and asking for it anew is a sixth of the time of a FLAC.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
}
_START_TIMEOUT_S = 120.0
_TIMEOUT_S_PER_DECODED_S = 0.05
_ATTEMPTS = 2

_MAX_FRAME_BYTES = 2 * FRAME_SAMPLES + TAIL.size
_SLACK_S = 1.0
"""More than rounding, so that the child is the one to say `too_long`."""


class _Died(Exception):
    """The child is gone, or is not to be trusted any more. May be the machine's fault."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class _Wait:
    """Time spent waiting for the child, and how much of it is allowed. For `with`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s, self._waited_s, self._since_s = timeout_s, 0.0, 0.0
        self.decoded_s = 0.0

    @property
    def limit_s(self) -> float:
        """In all, by what has been decoded so far."""
        return self._timeout_s + _TIMEOUT_S_PER_DECODED_S * self.decoded_s

    @property
    def left_s(self) -> float:
        """Never 0, which would be no wait at all."""
        return max(self.limit_s - self._waited_s, 0.001)

    def __enter__(self) -> None:
        self._since_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._waited_s += time.monotonic() - self._since_s


class Decoder:
    """Decodes as `stream_audio` does, in a child process that is started when first needed.

    A child that dies is tried once more, fresh, before the recording is blamed: the machine may
    have run out of memory for another's sake.

    Args:
        limits: Of a recording, and of the time and memory that decoding it may take.
        module: What the child runs.
    """

    def __init__(
        self, limits: Limits = DEFAULT_LIMITS, module: str = "koasr.decoder_child"
    ) -> None:
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._child = Child(module, environment=environment | _OWN_ENVIRONMENT)
        self._limits = limits
        self._turn = 0
        self._is_busy = False

    @property
    def pid(self) -> int | None:
        """Of the child that runs now."""
        return self._child.pid

    def close(self) -> None:
        """End the child. The next recording starts another."""
        self._child.kill()
        self._turn += 1

    def stream(self, recording: Recording) -> tuple[AudioInfo, Iterator[Samples]]:
        """Load a recording block by block; the contract of `stream_audio`.

        An iterator that is left unfinished is void when the next recording starts.

        Raises:
            RecordingError: At once or while iterating; also `crashed`, `timeout`, and `too_large`
                for want of memory.
            TransientError: No child can be started.
        """
        if not needs_decoder(recording):
            return stream_audio(recording, self._limits)
        check_size(recording, self._limits)
        if self._is_busy:
            # What it still has to say is about a recording that nobody waits for.
            self._child.kill()
        self._turn += 1
        answers = self._answers(recording, self._turn)
        info, first = next(answers)
        return info, chain([first], (samples for _, samples in answers))

    def _answers(self, recording: Recording, turn: int) -> Iterator[tuple[AudioInfo, Samples]]:
        """The blocks. If the child dies a second one goes on where the first stopped."""
        num_given = 0
        for attempt in range(_ATTEMPTS):
            num_seen = 0
            try:
                for info, samples in self._ask(recording):
                    yield info, samples[max(0, num_given - num_seen) :]
                    if self._turn != turn:
                        raise RuntimeError("the decoder has gone on to another recording")
                    num_seen += len(samples)
                    num_given = max(num_given, num_seen)
                return
            except _Died as error:
                self._child.kill()
                if attempt == _ATTEMPTS - 1:
                    raise RecordingError(error.reason, str(error)) from error

    def _ask(self, recording: Recording) -> Iterator[tuple[AudioInfo, Samples]]:
        """One attempt, in the child that runs or in a new one."""
        if self._child.pid is None:
            self._start()
        wait = _Wait(self._limits.decode_timeout_s)
        num_samples, is_last = 0, False
        self._is_busy = True
        try:
            with wait:
                self._child.send(_head(recording), recording.audio, timeout_s=wait.left_s)
            while not is_last:
                with wait:
                    frame = self._child.receive(wait.left_s, _MAX_FRAME_BYTES)
                info, samples, is_last = self._parse(frame)
                self._is_busy = not is_last
                num_samples += len(samples)
                wait.decoded_s = num_samples / SAMPLE_RATE
                if wait.decoded_s > self._limits.max_duration_s + _SLACK_S:
                    raise _Died("crashed", "the decoder sent more than it may")
                yield info, samples
        except ChildError as error:
            raise _Died("crashed", f"the decoder {error}") from error
        except TimeoutError as error:
            message = f"decoding takes over {wait.limit_s:.0f} s"
            raise RecordingError("timeout", message) from error

    def _start(self) -> None:
        # What a manifest may name is not the child's business.
        limits = {**asdict(self._limits), "allow": ()}
        try:
            self._child.send(json.dumps(limits).encode(), timeout_s=_START_TIMEOUT_S)
            self._child.receive(_START_TIMEOUT_S, max_bytes=0)
        except (ChildError, TimeoutError) as error:
            self._child.kill()
            raise TransientError(f"the decoder's process does not start: {error}") from error

    def _parse(self, frame: bytes) -> tuple[AudioInfo, Samples, bool]:
        """Source, samples and whether they are the last, checked: the child may be anybody's."""
        body, tail = len(frame) - TAIL.size, frame[-TAIL.size :]
        rate, channels, kind = TAIL.unpack(tail) if body >= 0 else (0, 0, -1)
        if kind == ERROR:
            self._is_busy = False
            raise _error_of(frame[:body])
        if kind == NO_MEMORY:
            found = f"needs more than {self._limits.decode_memory_bytes / 1e9:.1f} GB to decode"
            raise _Died("too_large", found)
        is_sound = self._limits.min_sample_rate_hz <= rate <= self._limits.max_sample_rate_hz
        is_sound = is_sound and 1 <= channels <= self._limits.max_channels
        if kind not in (MORE, LAST) or body % 2 or not is_sound:
            raise _Died("crashed", "the decoder sent what is no answer")
        samples = np.frombuffer(frame, np.int16, body // 2)
        return AudioInfo(rate, channels), samples, kind == LAST


def _head(recording: Recording) -> bytes:
    duration_s = math.nan if recording.duration_s is None else recording.duration_s
    return HEAD.pack(recording.offset_s, duration_s, len(recording.audio))


def _error_of(payload: bytes) -> Exception:
    try:
        reason, message = json.loads(payload)
    except ValueError:
        reason, message = None, None
    if reason not in get_args(Reason) or not isinstance(message, str):
        return _Died("crashed", "the decoder sent what is no error")
    # Surrogates, for one, would fail far from here.
    return RecordingError(reason, message[:500].encode("ascii", "backslashreplace").decode())
