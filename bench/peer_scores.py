"""Confidence as others define it, from the same logits: what koasr's is compared with."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from koasr.audio import stream_audio
from koasr.checkpoint import open_checkpoint
from koasr.model import AcousticModel
from koasr.readers import read_recordings
from koasr.rows import SAMPLE_RATE, Recording
from koasr.segments import cut_segments
from koasr.sources import list_shards

_ALPHA = 0.33
_BATCH_S = 40.0
Scores = dict[str, float]


def _tsallis(log_probs: torch.Tensor) -> torch.Tensor:
    """NeMo's default: Tsallis entropy of order 0.33 over the whole vocabulary, exponential form.

    Source:
        Laptev & Ginsburg 2022, arXiv 2212.08703; NeMo's defaults in asr_confidence_utils.py.
    """
    most = (log_probs.shape[-1] ** (1 - _ALPHA) - 1) / (1 - _ALPHA)
    entropy = ((_ALPHA * log_probs).exp().sum(-1) - 1) / (1 - _ALPHA)
    floor = np.exp(-most)
    certainty: torch.Tensor = ((-entropy).exp() - floor) / (1 - floor)
    return certainty


def peer_scores(log_probs: torch.Tensor, blank_id: int) -> Scores:
    """Scores of one segment, each higher where it is surer; none where nothing was said.

    Frames of blanks are left out of max-prob and Tsallis, as NeMo does.

    Args:
        log_probs: Nats. Shape (num_frames, vocab_size).
        blank_id: Index of the CTC blank.
    """
    best, ids = log_probs.max(dim=-1)
    spoken = ids != blank_id
    if not bool(spoken.any()):
        return {}
    tsallis = _tsallis(log_probs[spoken])
    return {
        "max-prob, mean": float(best[spoken].exp().mean()),
        "max-prob, min": float(best[spoken].min().exp()),
        "mean log-prob of the best path": float(best.mean()),
        "NeMo's Tsallis, mean": float(tsallis.mean()),
        "NeMo's Tsallis, min": float(tsallis.min()),
    }


def _segments(speech: Path, samples_per_frame: int) -> Iterator[tuple[str, NDArray[np.int16]]]:
    for shard in list_shards([str(speech)]):
        for recording in read_recordings(shard):
            assert isinstance(recording, Recording)
            blocks = stream_audio(recording)[1]
            for segment in cut_segments(blocks, samples_per_frame):
                start_ms = round(segment.start * 1000 / SAMPLE_RATE)
                yield f"{recording.recording_id}#{start_ms:d}", segment.samples


def score_speech(speech: Path, model: Path) -> dict[str, Scores]:
    """Peer scores of every segment of some speech, by segment_id, cut as the job cuts it."""
    checkpoint = open_checkpoint(str(model))
    acoustic = AcousticModel(checkpoint, model, device="cpu", precision="float32")
    found: dict[str, Scores] = {}
    ids: list[str] = []
    rows: list[NDArray[np.int16]] = []
    for segment_id, samples in _segments(speech, checkpoint.samples_per_frame):
        ids.append(segment_id)
        rows.append(samples)
        if sum(map(len, rows)) > _BATCH_S * SAMPLE_RATE:
            scores = (peer_scores(p, checkpoint.blank_id) for p in acoustic.log_probs(rows))
            found |= dict(zip(ids, scores, strict=True))
            ids, rows = [], []
    if rows:
        scores = (peer_scores(p, checkpoint.blank_id) for p in acoustic.log_probs(rows))
        found |= dict(zip(ids, scores, strict=True))
    return found
