"""Our forward pass against transformers' own module, each row alone."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import edit_weights, tiny, tiny_group_norm, tiny_jamo
from numpy.typing import NDArray
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC
from transformers.activations import ACT2FN

from koasr.checkpoint import open_checkpoint
from koasr.model import AcousticModel, offset_and_scale
from koasr.precision import FloatType
from koasr.shape import ACTIVATIONS, DEFAULTS

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from corpora import MODEL, cut, log_normal, long_tail
from forward import padding

Samples = NDArray[np.int16]

KINDS: dict[str, Callable[[Path], Path]] = {
    "layer norm": tiny,
    "jamo": tiny_jamo,
    "group norm": tiny_group_norm,
    "adapters": lambda directory: tiny(directory, adapter_attn_dim=4),
    "other functions": lambda directory: tiny(
        directory, hidden_act="relu", feat_extract_activation="silu"
    ),
    "tanh": lambda directory: tiny(directory, hidden_act="gelu_new"),
    "a function of transformers": lambda directory: tiny(directory, hidden_act="hardswish"),
    "odd kernel": lambda directory: tiny(
        directory, num_conv_pos_embeddings=15, do_stable_layer_norm=False
    ),
    "long kernels": lambda directory: tiny(
        directory, conv_dim=(16,) * 3, conv_kernel=(25, 9, 4), conv_stride=(10, 4, 8)
    ),
    "bundled": lambda directory: MODEL,
}


def log_probs_of_transformers(directory: Path, batch: list[Samples]) -> list[torch.Tensor]:
    reference = Wav2Vec2ForCTC.from_pretrained(directory, dtype=torch.float32).eval()
    found = []
    for samples in batch:
        waveform = samples / 32_768
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        with torch.inference_mode():
            logits = reference(torch.tensor(waveform, dtype=torch.float32)[None]).logits[0]
        found.append(logits.log_softmax(-1))
    return found


def noise(*lengths: int) -> list[Samples]:
    rng = np.random.default_rng(0)
    return [rng.normal(rng.uniform(-500, 500), 3_000, n).astype(np.int16) for n in lengths]


@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_it_is_transformers_to_rounding(kind: str, tmp_path: Path) -> None:
    directory = KINDS[kind](tmp_path / "model")
    model = AcousticModel(open_checkpoint(str(directory)), directory)
    # Whole frame strides and not, one frame only, the shortest that is not a reject.
    batch = noise(16_000, 5_000, 1_600, 33_333, 48_000, 1_601, 2_880)
    ours = model.log_probs(batch)
    for row, expected in zip(ours, log_probs_of_transformers(directory, batch), strict=True):
        assert row.shape == expected.shape
        torch.testing.assert_close(row, expected, atol=3e-4, rtol=0)
        assert torch.equal(row.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize(
    ("kind", "precision", "share"),
    [
        ("bundled", "float16", 0.999),
        ("bundled", "bfloat16", 0.995),
        # Random weights: of 5,000 frames a few dozen are ties but for rounding.
        ("layer norm", "float16", 0.995),
        ("group norm", "float16", 0.995),
    ],
)
def test_in_half_precision_only_ties_go_the_other_way(
    kind: str, precision: FloatType, share: float, tmp_path: Path
) -> None:
    directory = KINDS[kind](tmp_path / "model")
    model = AcousticModel(open_checkpoint(str(directory)), directory, precision=precision)
    batch = cut(log_normal(100))
    ours = torch.cat(model.log_probs(batch))
    expected = torch.cat(log_probs_of_transformers(directory, batch))
    differs = ours.argmax(-1) != expected.argmax(-1)
    assert differs.float().mean() <= 1 - share
    error = (ours - expected)[differs].abs().amax(-1)
    best = expected[differs].amax(-1)
    chosen = expected[differs].gather(-1, ours[differs].argmax(-1, keepdim=True))[:, 0]
    assert bool((best - chosen <= 2 * error).all())


def test_what_shares_a_micro_batch_changes_nothing_but_rounding(tmp_path: Path) -> None:
    directory = tiny(tmp_path / "model")
    model = AcousticModel(open_checkpoint(str(directory)), directory)
    batch = noise(16_000, 5_000, 1_600, 33_333)
    loud = [np.full(9_999, 32_767, np.int16), *batch, np.zeros(1_600, np.int16)]
    for row, alone in zip(model.log_probs(loud)[1:-1], batch, strict=True):
        torch.testing.assert_close(row, model.log_probs([alone])[0], atol=1e-4, rtol=0)


def test_defaults_are_those_of_transformers() -> None:
    config = Wav2Vec2Config()
    assert {name: getattr(config, name) for name in DEFAULTS} == dict(DEFAULTS)
    assert set(ACT2FN) == ACTIVATIONS


def test_old_names_of_a_folded_weight_are_read(tmp_path: Path) -> None:
    directory = tiny(tmp_path / "model")
    batch = noise(16_000)
    before = AcousticModel(open_checkpoint(str(directory)), directory).log_probs(batch)[0]

    def rename(weights: dict[str, torch.Tensor]) -> None:
        base = "wav2vec2.encoder.pos_conv_embed.conv"
        weights[f"{base}.weight_g"] = weights.pop(f"{base}.parametrizations.weight.original0")
        weights[f"{base}.weight_v"] = weights.pop(f"{base}.parametrizations.weight.original1")

    edit_weights(directory, rename)
    after = AcousticModel(open_checkpoint(str(directory)), directory).log_probs(batch)[0]
    assert torch.equal(before, after)


@pytest.mark.parametrize("draw", [log_normal, long_tail])
def test_padding_between_rows_is_at_most_three_percent(
    draw: Callable[[float], list[float]],
) -> None:
    found = padding(open_checkpoint(str(MODEL)), cut(draw(1200)), corpus=draw.__name__)
    assert 0 < found.value <= 3


def test_near_silence_is_not_raised_to_speech() -> None:
    rng = np.random.default_rng(0)
    for level, expected in ((0.3, 0.01), (3_000.0, 1.0)):
        samples = np.rint(rng.normal(100, level, 16_000)).astype(np.int16)
        offset, scale = offset_and_scale(samples)
        assert np.std((samples - offset) * scale) == pytest.approx(expected, rel=0.2)
        assert abs(np.mean((samples - offset) * scale)) < 1e-3
