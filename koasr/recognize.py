"""A pack's segments → best paths, in micro-batches of so many seconds."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from koasr.confidence import best_paths
from koasr.ctc import BestPath
from koasr.model import AcousticModel
from koasr.rows import SAMPLE_RATE
from koasr.segments import Window, plan_windows

Samples = NDArray[np.int16]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Part:
    """One window of one segment, ready for the model."""

    segment: int
    window: Window
    samples: Samples


def plan_micro_batches(lengths: Sequence[int], batch_samples: int) -> Iterator[list[int]]:
    """Indices of each micro-batch: in order, as many as the budget holds; one row may exceed it.

    Nothing is padded, so there is nothing to gain from sorting by length.

    Args:
        lengths: Samples of each row.
        batch_samples: Budget of one micro-batch.

    Example:
        >>> list(plan_micro_batches([5, 20, 6, 19], 31))
        [[0, 1, 2], [3]]
    """
    batch: list[int] = []
    num_samples = 0
    for index, length in enumerate(lengths):
        if batch and num_samples + length > batch_samples:
            yield batch
            batch, num_samples = [], 0
        batch.append(index)
        num_samples += length
    if batch:
        yield batch


_Forward = Callable[[Sequence[Samples]], list[torch.Tensor]]


def _halving(forward: _Forward, batch: list[Samples]) -> list[torch.Tensor]:
    """A forward pass; a micro-batch that runs out of memory is halved and tried again."""
    try:
        return forward(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
        torch.cuda.empty_cache()
        logger.warning("out of memory with %d rows: halving the micro-batch", len(batch))
    half = len(batch) // 2
    return _halving(forward, batch[:half]) + _halving(forward, batch[half:])


def _finite(rows: Sequence[torch.Tensor]) -> list[bool]:
    """Whether all of each row is."""
    return torch.stack([row.sum() for row in rows]).isfinite().tolist()


class _Pack:
    """A pack's segments on their way through the model, window by window."""

    def __init__(self, model: AcousticModel, segments: Sequence[Samples]) -> None:
        self._model = model
        self.num_float32_retries = 0
        self.parts: list[_Part] = []
        for index, samples in enumerate(segments):
            for window in plan_windows(len(samples), model.checkpoint.samples_per_frame):
                self.parts.append(_Part(index, window, samples[window.start : window.end]))
        self._windows: list[list[Window]] = [[] for _ in segments]
        for part in self.parts:
            self._windows[part.segment].append(part.window)
        self._frames: list[dict[int, torch.Tensor]] = [{} for _ in segments]
        self._spoiled: set[int] = set()

    def segments_of(self, batch: Sequence[int]) -> list[int]:
        """The segments whose windows these are."""
        return sorted({self.parts[i].segment for i in batch})

    def samples_of(self, batch: Sequence[int]) -> list[Samples]:
        """The samples of these windows."""
        return [self.parts[i].samples for i in batch]

    def finish(
        self, batch: Sequence[int], rows: Sequence[torch.Tensor]
    ) -> dict[int, BestPath | None]:
        """The paths of the segments that these windows complete."""
        is_finite = _finite(rows)
        if not all(is_finite) and self._model.dtype != torch.float32:
            self.num_float32_retries += 1
            logger.warning("not finite in %s: this micro-batch in float32", self._model.dtype)
            rows = _halving(self._model.log_probs_in_float32, self.samples_of(batch))
            is_finite = _finite(rows)
        if not all(is_finite) and len(batch) > 1:
            # Zeros times infinity: where rows share a product, one spoils its neighbours.
            forward = self._model.log_probs_in_float32
            rows = [row for samples in self.samples_of(batch) for row in forward([samples])]
            is_finite = _finite(rows)
        for i, row, fine in zip(batch, rows, is_finite, strict=True):
            window, segment = self.parts[i].window, self.parts[i].segment
            self._frames[segment][window.start] = row[window.left : window.right]
            if not fine:
                self._spoiled.add(segment)
        complete = {}
        for segment in self.segments_of(batch):
            frames, windows = self._frames[segment], self._windows[segment]
            if len(frames) == len(windows):
                complete[segment] = torch.cat([frames.pop(window.start) for window in windows])
        done: dict[int, BestPath | None] = dict.fromkeys(complete)
        sound = {s: frames for s, frames in complete.items() if s not in self._spoiled}
        if sound:
            found = best_paths(list(sound.values()), self._model.checkpoint.blank_id)
            done |= dict(zip(sound, found, strict=True))
        return done


@dataclass(frozen=True)
class Step:
    """The segments a micro-batch has in hand, or those that are done with it; counts so far.

    `done` has None for a segment whose log-probabilities are not finite even in float32.
    """

    in_hand: list[int]
    done: dict[int, BestPath | None]
    num_float32_retries: int


def recognize_batches(
    model: AcousticModel, segments: Sequence[Samples], *, batch_seconds: float
) -> Iterator[Step]:
    """Micro-batch by micro-batch: which segments are in hand, then which are done.

    A caller who keeps books knows so what was in hand when the process died. The paths of a
    micro-batch are found while a GPU is at the next one, so up to two are in hand.

    Args:
        model: Loaded once by the caller.
        segments: Mono int16 at 16 kHz, each at least 0.1 s.
        batch_seconds: Seconds of one micro-batch.
    """
    pack = _Pack(model, segments)
    before: tuple[list[int], list[torch.Tensor], torch.cuda.Event | None] = ([], [], None)
    lengths = [len(part.samples) for part in pack.parts]
    for batch in [*plan_micro_batches(lengths, int(batch_seconds * SAMPLE_RATE)), []]:
        in_hand = pack.segments_of([*before[0], *batch])
        yield Step(in_hand, {}, pack.num_float32_retries)
        rows = _halving(model.log_probs, pack.samples_of(batch)) if batch else []
        event = model.mark()
        if before[0]:
            with model.beside(before[2]):
                done = pack.finish(*before[:2])
            yield Step(in_hand, done, pack.num_float32_retries)
        before = (batch, rows, event)


def recognize(
    model: AcousticModel, segments: Sequence[Samples], *, batch_seconds: float
) -> list[BestPath | None]:
    """Best path of each segment, in order. Long segments go window by window, joined on frames.

    Neither the order nor what shares a micro-batch changes a path; times and tokens are equal and
    log-probabilities agree to rounding.

    Args:
        model: Loaded once by the caller.
        segments: Mono int16 at 16 kHz, each at least 0.1 s.
        batch_seconds: Seconds of one micro-batch.

    Returns:
        None for a segment whose log-probabilities are not finite even in float32.
    """
    paths: list[BestPath | None] = [None] * len(segments)
    for step in recognize_batches(model, segments, batch_seconds=batch_seconds):
        for index, path in step.done.items():
            paths[index] = path
    return paths
