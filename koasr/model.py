"""Segments' samples → log-probabilities of every frame: the checkpoint's own forward pass."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.nn.utils import parametrize
from transformers import Wav2Vec2ForCTC

from koasr.checkpoint import Checkpoint
from koasr.errors import JobError
from koasr.options import FloatType

Samples = NDArray[np.int16]

VARIANCE_EPSILON = 1e-7
"""As in transformers' Wav2Vec2FeatureExtractor."""
VARIANCE_FLOOR = 10.0 ** (-60.0 / 10.0)
"""Full scale squared: segments below -60 dBFS are not amplified to speech level, which makes
syllables out of noise (a room at -70 dBFS would be raised 2,200-fold)."""

logger = logging.getLogger(__name__)


def normalize(
    waveforms: torch.Tensor, lengths: torch.Tensor, *, enabled: bool = True
) -> torch.Tensor:
    """Zero mean and unit variance over each row's valid samples; zeros after them.

    Args:
        waveforms: In [-1, 1], float32, padded. Shape (batch, num_samples).
        lengths: Valid samples of each row. Shape (batch,).
        enabled: False for checkpoints trained on plain waveforms (`do_normalize`).
    """
    valid = torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None]
    if not enabled:
        return waveforms * valid
    mean = (waveforms * valid).sum(1, keepdim=True) / lengths[:, None]
    centred = (waveforms - mean) * valid
    variance = (centred**2).sum(1, keepdim=True) / lengths[:, None]
    scale = torch.sqrt((variance + VARIANCE_EPSILON).clamp_min(VARIANCE_FLOOR))
    return centred / scale


def _load(directory: Path) -> Any:
    model, report = Wav2Vec2ForCTC.from_pretrained(
        directory,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    # Only training masks frames, so its embedding may be absent.
    missing = sorted(k for k in report["missing_keys"] if not k.endswith("masked_spec_embed"))
    unexpected = sorted(report["unexpected_keys"])
    if missing or unexpected or report["mismatched_keys"]:
        found = f"missing {missing[:3]}, left over {unexpected[:3]}"
        raise JobError(f"{directory}: weights do not fit their config: {found}")
    return model.eval()


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
        self.num_float32_retries = 0
        model = _load(directory)
        convolution = model.wav2vec2.encoder.pos_conv_embed.conv
        if parametrize.is_parametrized(convolution, "weight"):
            # Computed anew in every forward otherwise; in float32, so before any cast.
            parametrize.remove_parametrizations(convolution, "weight")
        # The head stays float32: half-precision logits of 16 to 32 are 0.016 apart, which makes
        # ties of different tokens.
        self._head = model.lm_head.to(self.device)
        self._body = model.wav2vec2.to(self.device, self.dtype)

    @torch.inference_mode()
    def log_probs(self, batch: Sequence[Samples]) -> list[torch.Tensor]:
        """Log-probabilities (nats, float32) of one micro-batch, on the device.

        Rows that are not finite are computed again in float32 when the body is not.

        Args:
            batch: Mono int16 at 16 kHz, each at least one receptive field long.

        Returns:
            One tensor a row, without its padding. Shapes (num_frames, vocab_size).
        """
        rows = self._forward(batch)
        if self.dtype == torch.float32 or all(bool(row.isfinite().all()) for row in rows):
            return rows
        self.num_float32_retries += 1
        logger.warning("logits were not finite in %s: this micro-batch in float32", self.dtype)
        half, self.dtype = self.dtype, torch.float32
        try:
            self._body.to(self.dtype)
            return self._forward(batch)
        finally:
            self.dtype = half
            self._body.to(half)

    def _forward(self, batch: Sequence[Samples]) -> list[torch.Tensor]:
        lengths = torch.tensor([len(samples) for samples in batch])
        longest = int(lengths.max())
        if not self.checkpoint.uses_mask and int(lengths.min()) != longest:
            raise ValueError("this checkpoint cannot be padded: found rows of different lengths")
        padded = np.zeros((len(batch), longest), np.int16)
        for row, samples in zip(padded, batch, strict=True):
            row[: len(samples)] = samples
        waveforms = torch.from_numpy(padded).to(self.device).float() / 32_768.0
        device_lengths = lengths.to(self.device)
        waveforms = normalize(waveforms, device_lengths, enabled=self.checkpoint.do_normalize)
        mask = None
        if int(lengths.min()) != longest:
            steps = torch.arange(longest, device=self.device)
            mask = (steps < device_lengths[:, None]).long()
        hidden = self._body(waveforms.to(self.dtype), attention_mask=mask).last_hidden_state
        logits = F.linear(hidden.float(), self._head.weight, self._head.bias)
        log_probs = logits.log_softmax(dim=-1)
        counts = [self.checkpoint.num_frames(int(length)) for length in lengths]
        return [row[:count] for row, count in zip(log_probs, counts, strict=True)]
