"""The path from samples to best paths, against transformers' own forward and against itself."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import tiny, tiny_group_norm, tiny_jamo
from numpy.typing import NDArray
from transformers import AutoFeatureExtractor, Wav2Vec2ForCTC

from koasr.audio import load_waveform
from koasr.checkpoint import open_checkpoint
from koasr.ctc import BestPath, collapse, split_words
from koasr.model import AcousticModel
from koasr.packs import load_pack, plan_packs
from koasr.readers import read_recordings
from koasr.recognize import plan_micro_batches, recognize, recognize_batches
from koasr.rows import Recording
from koasr.segments import plan_windows
from koasr.sources import list_shards

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "model"
SPEECH = ROOT / "examples" / "speech"


def clean_recordings() -> Iterator[Recording]:
    """Every clean bundled recording of one segment."""
    for folder in ("webdataset", "parquet", "zeroth", "folder", "manifest", "kspon"):
        for shard in list_shards([str(SPEECH / folder)]):
            for item in read_recordings(shard):
                assert isinstance(item, Recording)
                if item.metadata.get("snr", "clean") == "clean":
                    yield item


@pytest.fixture(scope="module")
def model() -> AcousticModel:
    return AcousticModel(open_checkpoint(str(MODEL)), MODEL)


@pytest.fixture(scope="module")
def waveforms() -> list[NDArray[np.int16]]:
    return [load_waveform(recording).samples for recording in clean_recordings()]


def texts(model: AcousticModel, paths: list[BestPath | None]) -> list[str]:
    found = []
    for path in paths:
        assert path is not None
        words = split_words(path.spans, model.checkpoint)
        found.append(" ".join(word.text for word in words))
    return found


def test_every_clean_recording_equals_transformers_alone(
    model: AcousticModel, waveforms: list[NDArray[np.int16]]
) -> None:
    extractor = AutoFeatureExtractor.from_pretrained(MODEL)
    reference = Wav2Vec2ForCTC.from_pretrained(MODEL, dtype=torch.float32).eval()
    paths = recognize(model, waveforms, batch_seconds=60)
    assert len(paths) >= 60
    for samples, path in zip(waveforms, paths, strict=True):
        assert path is not None
        waveform = samples.astype(np.float32) / 32_768
        features = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            logits = reference(features.input_values).logits[0]
        spans = collapse(logits.argmax(-1).numpy(), model.checkpoint.blank_id)
        assert path.spans == spans
        log_probs = logits.log_softmax(-1)
        best = log_probs.max(-1).values.sum().item()
        assert path.seq_logprob >= best - 1e-3


def agree(one: list[BestPath | None], other: list[BestPath | None]) -> None:
    """Same tokens at the same frames; confidence to 1e-4."""
    for a, b in zip(one, other, strict=True):
        assert a is not None
        assert b is not None
        assert a.spans == b.spans
        assert np.allclose(a.token_confidence, b.token_confidence, atol=1e-4)
        if a.spans:
            assert abs(a.raw_confidence - b.raw_confidence) <= 1e-4


def test_batch_mates_do_not_change_a_path(
    model: AcousticModel, waveforms: list[NDArray[np.int16]]
) -> None:
    few = waveforms[::3]
    alone = [path for w in few for path in recognize(model, [w], batch_seconds=0.1)]
    for batch_seconds in (0.1, 15, 200):
        agree(alone, recognize(model, few, batch_seconds=batch_seconds))


@pytest.mark.parametrize("write", [tiny, tiny_jamo, tiny_group_norm])
def test_any_kind_of_checkpoint_is_the_same_alone_and_in_a_batch(
    write: Callable[[Path], Path], waveforms: list[NDArray[np.int16]], tmp_path: Path
) -> None:
    directory = write(tmp_path / "model")
    other = AcousticModel(open_checkpoint(str(directory)), directory)
    few = [*waveforms[:6], waveforms[0].copy()]
    alone = [path for w in few for path in recognize(other, [w], batch_seconds=0.1)]
    agree(alone, recognize(other, few, batch_seconds=60))
    reference = Wav2Vec2ForCTC.from_pretrained(directory, dtype=torch.float32).eval()
    extractor = AutoFeatureExtractor.from_pretrained(directory)
    for samples, path in zip(few, alone, strict=True):
        assert path is not None
        waveform = samples.astype(np.float32) / 32_768
        features = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            logits = reference(features.input_values).logits[0]
        assert path.spans == collapse(logits.argmax(-1).numpy(), other.checkpoint.blank_id)


def test_order_does_not_change_a_path(
    model: AcousticModel, waveforms: list[NDArray[np.int16]]
) -> None:
    few = waveforms[::3]
    order = np.random.default_rng(0).permutation(len(few)).tolist()
    shuffled = recognize(model, [few[i] for i in order], batch_seconds=30)
    straight = recognize(model, few, batch_seconds=30)
    agree([straight[i] for i in order], shuffled)


def lines_of(model: AcousticModel, pack_seconds: float) -> dict[tuple[str, int], str]:
    """(recording_id, start) → text of every segment, out of packs of so many seconds."""
    found = {}
    samples_per_frame = model.checkpoint.samples_per_frame
    (shard,) = list_shards([str(SPEECH / "long")])
    for pack in plan_packs(read_recordings(shard), shard, "name", pack_seconds):
        for piece in load_pack(pack, samples_per_frame, pack_seconds=pack_seconds):
            segments = [segment.samples for segment in piece.segments]
            lines = texts(model, recognize(model, segments, batch_seconds=60))
            for owner, segment, line in zip(piece.owners, piece.segments, lines, strict=True):
                found[piece.recordings[owner].recording_id, segment.start] = line
    return found


def test_pack_size_does_not_change_a_transcript(model: AcousticModel) -> None:
    expected = lines_of(model, 100_000)
    assert len(expected) > 60
    assert lines_of(model, 5) == lines_of(model, 40) == expected


def test_windows_of_a_long_segment_are_joined_on_frames(model: AcousticModel) -> None:
    samples, _ = soundfile.read(SPEECH / "long" / "no_pause.flac", dtype="int16")
    (path,) = recognize(model, [samples], batch_seconds=60)
    assert path is not None
    kept = []
    for window in plan_windows(len(samples), model.checkpoint.samples_per_frame):
        (log_probs,) = model.log_probs([samples[window.start : window.end]])
        kept.append(log_probs.argmax(-1)[window.left : window.right])
    joined = torch.cat(kept).numpy()
    assert len(kept) == 4
    assert len(joined) == model.checkpoint.num_frames(len(samples))
    assert path.spans == collapse(joined, model.checkpoint.blank_id)


def test_what_is_not_finite_in_half_precision_runs_again_in_float32(
    model: AcousticModel, waveforms: list[NDArray[np.int16]], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = AcousticModel(open_checkpoint(str(MODEL)), MODEL, precision="bfloat16")
    forward = half.log_probs

    def overflowing(batch: list[NDArray[np.int16]]) -> list[torch.Tensor]:
        rows = forward(batch)
        return [row * float("nan") for row in rows] if half.dtype == torch.bfloat16 else rows

    monkeypatch.setattr(half, "log_probs", overflowing)
    steps = list(recognize_batches(half, waveforms[:4], batch_seconds=4))
    assert steps[-1].num_float32_retries >= 2
    found = {index: path for step in steps for index, path in step.done.items()}
    assert all(path is not None for path in found.values())
    assert half.dtype == torch.bfloat16
    assert next(half._body.parameters()).dtype == torch.bfloat16


def test_a_segment_that_is_not_finite_does_not_spoil_its_neighbours(
    waveforms: list[NDArray[np.int16]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AcousticModel(open_checkpoint(str(MODEL)), MODEL)
    lay_out = model._lay_out
    bad = waveforms[1]

    def spoiled(batch: list[NDArray[np.int16]]) -> Any:
        waveform, rows = lay_out(batch)
        for start, samples in zip(rows.starts, batch, strict=True):
            if np.shares_memory(samples, bad):
                waveform[start * rows.samples_per_frame + 4_000] = torch.nan
        return waveform, rows

    monkeypatch.setattr(model, "_lay_out", spoiled)
    together = model.log_probs(waveforms[:3])
    # A product of the positional convolution holds frames of all three.
    assert not all(bool(row.isfinite().all()) for row in (together[0], together[2]))
    paths = recognize(model, waveforms[:3], batch_seconds=60)
    assert [path is None for path in paths] == [False, True, False]


def test_a_float32_retry_that_runs_out_of_memory_is_halved(
    waveforms: list[NDArray[np.int16]], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = AcousticModel(open_checkpoint(str(MODEL)), MODEL, precision="bfloat16")
    forward, retried = half.log_probs, half.log_probs_in_float32

    def overflowing(batch: list[NDArray[np.int16]]) -> list[torch.Tensor]:
        rows = forward(batch)
        return [row * float("nan") for row in rows] if half.dtype == torch.bfloat16 else rows

    def small(batch: list[NDArray[np.int16]]) -> list[torch.Tensor]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return retried(batch)

    monkeypatch.setattr(half, "log_probs", overflowing)
    monkeypatch.setattr(half, "log_probs_in_float32", small)
    assert all(path is not None for path in recognize(half, waveforms[:5], batch_seconds=60))


def test_micro_batches_keep_to_their_budget_and_lose_nothing() -> None:
    lengths = np.random.default_rng(0).integers(1, 100, 200).tolist()
    batches = list(plan_micro_batches(lengths, 300))
    assert [i for batch in batches for i in batch] == list(range(200))
    sizes = [sum(lengths[i] for i in batch) for batch in batches]
    assert max(sizes) <= 300
    assert sum(sizes[:-1]) / (len(sizes) - 1) > 230
    assert list(plan_micro_batches([500, 1, 1], 300)) == [[0], [1, 2]]


def test_books_are_kept_on_every_segment_in_hand(
    model: AcousticModel, waveforms: list[NDArray[np.int16]]
) -> None:
    in_hand: list[int] = []
    done: dict[int, BestPath | None] = {}
    for step in recognize_batches(model, waveforms[:12], batch_seconds=5):
        assert set(step.done) <= set(step.in_hand)
        if not step.done:
            assert set(in_hand) - set(step.in_hand) <= set(done)
        in_hand = step.in_hand
        done |= step.done
    assert sorted(done) == list(range(12))


def test_silence_has_no_words(model: AcousticModel) -> None:
    data = (SPEECH / "silence" / "silence.wav").read_bytes()
    samples, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    assert texts(model, recognize(model, [samples], batch_seconds=30)) == [""]


def test_a_segment_that_is_not_finite_is_told_apart(
    waveforms: list[NDArray[np.int16]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AcousticModel(open_checkpoint(str(MODEL)), MODEL)
    forward = model.log_probs

    def spoiled(batch: list[NDArray[np.int16]]) -> list[torch.Tensor]:
        rows = forward(batch)
        return [
            torch.full_like(row, torch.nan) if len(samples) == len(waveforms[1]) else row
            for samples, row in zip(batch, rows, strict=True)
        ]

    monkeypatch.setattr(model, "log_probs", spoiled)
    paths = recognize(model, waveforms[:3], batch_seconds=60)
    assert [path is None for path in paths] == [False, True, False]


def test_a_micro_batch_out_of_memory_is_halved(
    model: AcousticModel, waveforms: list[NDArray[np.int16]], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = waveforms[:6]
    expected = recognize(model, few, batch_seconds=100)
    whole = model.log_probs

    def small(batch: list[NDArray[np.int16]]) -> list[torch.Tensor]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError
        return whole(batch)

    monkeypatch.setattr(model, "log_probs", small)
    agree(expected, recognize(model, few, batch_seconds=100))
