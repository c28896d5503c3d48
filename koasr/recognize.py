"""A pack's segments → best paths, in micro-batches of padded seconds."""

import logging
from collections.abc import Iterator, Sequence
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


def plan_micro_batches(
    lengths: Sequence[int], batch_samples: int, *, may_pad: bool = True
) -> Iterator[list[int]]:
    """Indices of each micro-batch: longest first, so many that padded samples stay in the budget.

    Args:
        lengths: Samples of each row.
        batch_samples: Budget of one micro-batch, padding included. One row may exceed it.
        may_pad: False to put only rows of equal length together.

    Example:
        >>> list(plan_micro_batches([5, 20, 6, 19], 40))
        [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batch: list[int] = []
    for index in order:
        longest = lengths[batch[0]] if batch else 0
        is_full = (len(batch) + 1) * longest > batch_samples
        if batch and (is_full or (not may_pad and lengths[index] != longest)):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _log_probs(model: AcousticModel, batch: list[Samples]) -> list[torch.Tensor]:
    """The forward pass; a micro-batch that runs out of memory is halved and tried again."""
    try:
        return model.log_probs(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
        torch.cuda.empty_cache()
        logger.warning("out of memory with %d rows: halving the micro-batch", len(batch))
    half = len(batch) // 2
    return _log_probs(model, batch[:half]) + _log_probs(model, batch[half:])


def recognize_batches(
    model: AcousticModel, segments: Sequence[Samples], *, batch_seconds: float
) -> Iterator[tuple[list[int], dict[int, BestPath | None]]]:
    """Micro-batch by micro-batch: which segments are in it, then which are done with it.

    Each is yielded twice: before its forward pass with nothing done, so that a caller who keeps
    books knows what was in hand when the process died, and after it.

    Args:
        model: Loaded once by the caller.
        segments: Mono int16 at 16 kHz, each at least 0.1 s.
        batch_seconds: Padded seconds of one micro-batch.
    """
    checkpoint = model.checkpoint
    parts: list[_Part] = []
    for index, samples in enumerate(segments):
        for window in plan_windows(len(samples), checkpoint.samples_per_frame):
            parts.append(_Part(index, window, samples[window.start : window.end]))
    waiting: list[list[Window]] = [[] for _ in segments]
    for part in parts:
        waiting[part.segment].append(part.window)
    frames: list[dict[int, torch.Tensor]] = [{} for _ in segments]
    lengths = [len(part.samples) for part in parts]
    budget = int(batch_seconds * SAMPLE_RATE)
    for batch in plan_micro_batches(lengths, budget, may_pad=checkpoint.uses_mask):
        in_hand = sorted({parts[i].segment for i in batch})
        yield in_hand, {}
        rows = _log_probs(model, [parts[i].samples for i in batch])
        for i, row in zip(batch, rows, strict=True):
            window = parts[i].window
            frames[parts[i].segment][window.start] = row[window.left : window.right]
        complete = [s for s in in_hand if len(frames[s]) == len(waiting[s])]
        joined = [torch.cat([frames[s].pop(w.start) for w in waiting[s]]) for s in complete]
        done: dict[int, BestPath | None] = dict.fromkeys(complete)
        finite = [(s, row) for s, row in zip(complete, joined, strict=True) if row.isfinite().all()]
        if finite:
            found = best_paths([row for _, row in finite], checkpoint.blank_id)
            done |= {s: path for (s, _), path in zip(finite, found, strict=True)}
        yield in_hand, done


def recognize(
    model: AcousticModel, segments: Sequence[Samples], *, batch_seconds: float
) -> list[BestPath | None]:
    """Best path of each segment, in order. Long segments go window by window, joined on frames.

    Neither the order nor what shares a micro-batch changes a path; times and tokens are equal and
    log-probabilities agree to rounding.

    Args:
        model: Loaded once by the caller.
        segments: Mono int16 at 16 kHz, each at least 0.1 s.
        batch_seconds: Padded seconds of one micro-batch.

    Returns:
        None for a segment whose log-probabilities are not finite even in float32.
    """
    paths: list[BestPath | None] = [None] * len(segments)
    for _, done in recognize_batches(model, segments, batch_seconds=batch_seconds):
        for index, path in done.items():
            paths[index] = path
    return paths
