"""Segments' samples → log-probabilities of every frame."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from koasr.checkpoint import Checkpoint
from koasr.encoder import load_encoder
from koasr.layout import Rows, to_device
from koasr.precision import FloatType

Samples = NDArray[np.int16]

VARIANCE_EPSILON = 1e-7
"""As in transformers' Wav2Vec2FeatureExtractor."""
VARIANCE_FLOOR = 10.0 ** (-60.0 / 10.0)
"""Full scale squared: segments below -60 dBFS are not amplified to speech level, which makes
syllables out of noise (a room at -70 dBFS would be raised 2,200-fold)."""

_FULL_SCALE = 32_768.0

CPU_BATCH_SECONDS, GPU_BATCH_SECONDS = 40.0, 240.0
"""240 s are 12,000 rows of a matrix: three times what fills an H200 (bench/NOTES.md)."""
_PROBE_SECONDS = 20.0
_MEMORY_SHARE = 0.8
"""Of the free memory; the rest is for what fragments, and for evidence."""


def offset_and_scale(samples: Samples) -> tuple[float, float]:
    """What to take from each sample, and what to multiply it by, for zero mean and unit variance.

    Args:
        samples: Of one row.
    """
    waveform = samples.astype(np.float32)
    mean = float(waveform.mean(dtype=np.float64))
    waveform -= mean
    variance = float(np.dot(waveform, waveform)) / len(samples) / _FULL_SCALE**2
    return mean, 1.0 / (max(variance + VARIANCE_EPSILON, VARIANCE_FLOOR) ** 0.5 * _FULL_SCALE)


class AcousticModel:
    """A wav2vec2 checkpoint on one device. Loads once, then only computes."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        directory: Path,
        *,
        device: str = "cpu",
        precision: FloatType = "float32",
    ) -> None:
        self.checkpoint = checkpoint
        self.device = torch.device(device)
        self.dtype: torch.dtype = getattr(torch, precision)
        encoder, head = load_encoder(directory, checkpoint.shape)
        # The head stays float32: half-precision logits of 16 to 32 are 0.016 apart, which makes
        # ties of different tokens.
        self._head = head.to(self.device)
        self._body = encoder.to(self.device, self.dtype)
        is_gpu = self.device.type == "cuda"
        self._side = torch.cuda.Stream(self.device) if is_gpu else None  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def log_probs(self, batch: Sequence[Samples]) -> list[torch.Tensor]:
        """Log-probabilities (nats, float32) of one micro-batch, on the device. Waits for nothing.

        Args:
            batch: Mono int16 at 16 kHz, each at least one receptive field long.

        Returns:
            One tensor a row. Shapes (num_frames, vocab_size).
        """
        waveform, rows = self._lay_out(batch)
        hidden = self._body(waveform, rows)
        logits = F.linear(hidden.float(), self._head.weight, self._head.bias)
        return list(torch.split(logits.log_softmax(dim=-1), list(rows.num_frames)))

    def log_probs_in_float32(self, batch: Sequence[Samples]) -> list[torch.Tensor]:
        """The same with the body in float32, for a micro-batch that is not finite otherwise."""
        half, self.dtype = self.dtype, torch.float32
        # A forward pass may be under way with the weights that change here.
        self._synchronize()
        try:
            self._body.to(self.dtype)
            return self.log_probs(batch)
        finally:
            self.dtype = half
            self._body.to(half)
            self._synchronize()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def measure_batch_seconds(self, num_sharing: int = 1) -> float:
        """Audio of a micro-batch: what is best, or what fits the free memory of a GPU.

        Two probes tell what a second takes. A micro-batch that does not fit all the same is halved.

        Args:
            num_sharing: Models in processes of their own, this one included, that share the memory.
        """
        if self.device.type == "cpu":
            return CPU_BATCH_SECONDS
        probe = np.zeros(int(_PROBE_SECONDS * self.checkpoint.sample_rate_hz), np.int16)
        peaks = []
        for num_rows in (1, 2):
            torch.cuda.reset_peak_memory_stats(self.device)
            self.log_probs([probe] * num_rows)
            self._synchronize()
            peaks.append(torch.cuda.max_memory_allocated(self.device))
        per_second = max(peaks[1] - peaks[0], 1) / _PROBE_SECONDS
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        fits = _MEMORY_SHARE * free / num_sharing / per_second
        return float(np.clip(fits, _PROBE_SECONDS, GPU_BATCH_SECONDS))

    @contextmanager
    def beside(self, event: torch.cuda.Event | None) -> Iterator[None]:
        """In here a GPU works beside its main stream, on what was there at the event.

        Whoever waits for a result in here waits for no forward pass that was begun after it. On a
        CPU nothing is different.
        """
        if event is None or self._side is None:
            yield
            return
        self._side.wait_event(event)
        with torch.cuda.stream(self._side):
            yield

    def mark(self) -> torch.cuda.Event | None:
        """An event for `beside`: all that has been asked of the GPU so far."""
        if self._side is None:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _lay_out(self, batch: Sequence[Samples]) -> tuple[torch.Tensor, Rows]:
        """The rows end to end, normalized on the device: what goes there is int16."""
        checkpoint = self.checkpoint
        lengths = tuple(len(samples) for samples in batch)
        hop = checkpoint.samples_per_frame
        rows = Rows(lengths, tuple(map(checkpoint.num_frames, lengths)), hop, self.device)
        # Behind the last row, for the field of its last frame.
        tail = -(-checkpoint.receptive_field // hop)
        packed = np.zeros((sum(rows.num_strides) + tail, hop), np.int16)
        affine = np.zeros((2, len(packed), 1), np.float32)
        for start, count, samples in zip(rows.starts, rows.num_strides, batch, strict=True):
            packed.reshape(-1)[start * hop : start * hop + len(samples)] = samples
            plain = (0.0, 1.0 / _FULL_SCALE)
            offset, scale = offset_and_scale(samples) if checkpoint.do_normalize else plain
            affine[:, start : start + count, 0] = [[offset], [scale]]
        offsets, scales = to_device(torch.from_numpy(affine), self.device)
        waveform = to_device(torch.from_numpy(packed), self.device).float()
        return waveform.sub_(offsets).mul_(scales).view(-1).to(self.dtype), rows
