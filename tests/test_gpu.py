"""What only a GPU can show: `python -m pytest -m gpu`."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import tiny

from koasr.checkpoint import open_checkpoint
from koasr.model import GPU_BATCH_SECONDS, AcousticModel
from koasr.precision import FloatType
from koasr.recognize import recognize, recognize_batches

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

from corpora import MODEL, Samples, cut, log_normal

pytestmark = pytest.mark.gpu


def load(directory: Path, device: str, precision: FloatType) -> AcousticModel:
    checkpoint = open_checkpoint(str(directory))
    return AcousticModel(checkpoint, directory, device=device, precision=precision)


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("heads", [2, 8])
def test_it_is_the_cpus_forward_pass(heads: int, precision: FloatType, tmp_path: Path) -> None:
    # 16 channels a head go through the kernel for all rows, 4 through SDPA row by row.
    directory = tiny(tmp_path / "model", num_attention_heads=heads)
    batch = cut(log_normal(60))
    expected = torch.cat(load(directory, "cpu", "float32").log_probs(batch))
    found = torch.cat(load(directory, "cuda", precision).log_probs(batch)).cpu()
    same = (found.argmax(-1) == expected.argmax(-1)).float().mean()
    assert same >= (0.999 if precision == "float32" else 0.99)


def test_texts_do_not_depend_on_the_device_or_on_what_runs_beside() -> None:
    batch = cut(log_normal(300))
    expected = recognize(load(MODEL, "cpu", "float32"), batch, batch_seconds=40)
    model = load(MODEL, "cuda", "float16")
    for seconds in (10.0, 60.0, 400.0):
        found = recognize(model, batch, batch_seconds=seconds)
        pairs = [(a, b) for a, b in zip(expected, found, strict=True) if a and b]
        assert len(pairs) == len(batch)
        same = [[s.token_id for s in a.spans] == [s.token_id for s in b.spans] for a, b in pairs]
        assert np.mean(same) >= 0.95


def test_a_retry_in_float32_disturbs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = load(MODEL, "cuda", "float16"), cut(log_normal(120))
    expected = recognize(model, batch, batch_seconds=20)
    forward, calls = model.log_probs, 0

    def spoiled(rows: list[Samples]) -> list[torch.Tensor]:
        nonlocal calls
        calls += 1
        found = forward(rows)
        is_spoiled = model.dtype == torch.float16 and calls % 3 == 0
        return [row * torch.nan for row in found] if is_spoiled else found

    monkeypatch.setattr(model, "log_probs", spoiled)
    steps = list(recognize_batches(model, batch, batch_seconds=20))
    assert steps[-1].num_float32_retries > 1
    found = {index: path for step in steps for index, path in step.done.items()}
    for index, path in enumerate(expected):
        other = found[index]
        assert path is not None
        assert other is not None
        assert abs(path.seq_logprob - other.seq_logprob) < 0.5


def test_the_micro_batch_fits_the_memory() -> None:
    model = load(MODEL, "cuda", "float16")
    assert model.measure_batch_seconds() == GPU_BATCH_SECONDS
