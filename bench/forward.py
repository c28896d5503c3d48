"""The forward pass: transformers' pipeline, its plain module, and koasr's, side by side."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpora import Samples
from figures import Figure, figure, take_turns
from transformers import AutoFeatureExtractor, AutoTokenizer, Wav2Vec2ForCTC, pipeline

from koasr.checkpoint import Checkpoint, open_checkpoint
from koasr.layout import Rows
from koasr.model import CPU_BATCH_SECONDS, AcousticModel
from koasr.precision import FloatType
from koasr.recognize import plan_micro_batches, recognize
from koasr.rows import SAMPLE_RATE
from koasr.segments import plan_windows

PIPELINE_BATCHES = (1, 4, 8, 16)


def pipelines(
    model: Path,
    waveforms: list[Samples],
    device: str = "cpu",
    precision: FloatType = "float32",
    batch_sizes: Sequence[int] = PIPELINE_BATCHES,
) -> dict[str, Callable[[], object]]:
    """Transformers' own ways: name → a call that transcribes all waveforms once."""
    floats = [samples.astype(np.float32) / 32_768 for samples in waveforms]
    extractor = AutoFeatureExtractor.from_pretrained(model)
    dtype = getattr(torch, precision)
    plain = Wav2Vec2ForCTC.from_pretrained(model, dtype=dtype).eval().to(device)
    asr = pipeline(
        "automatic-speech-recognition",
        model=plain,
        feature_extractor=extractor,
        tokenizer=AutoTokenizer.from_pretrained(model),
        device=device,
        dtype=dtype,
    )

    def run_pipeline(batch_size: int) -> object:
        inputs: list[Any] = [{"raw": x, "sampling_rate": SAMPLE_RATE} for x in floats]
        return list(asr(inputs, batch_size=batch_size))

    @torch.inference_mode()
    def run_sorted() -> object:
        found = []
        order = sorted(range(len(floats)), key=lambda i: -len(floats[i]))
        lengths = [len(floats[i]) for i in order]
        for places in plan_micro_batches(lengths, int(CPU_BATCH_SECONDS * SAMPLE_RATE)):
            rows = [floats[order[place]] for place in places]
            features = extractor(rows, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
            inputs = features.input_values.to(device, dtype)
            mask = features.attention_mask.to(device) if "attention_mask" in features else None
            found.append(plain(inputs, attention_mask=mask).logits.argmax(-1).cpu())
        return found

    named: dict[str, Callable[[], object]] = {
        f"transformers pipeline, batch {n}": partial(run_pipeline, n) for n in batch_sizes
    }
    return named | {"transformers module, sorted": run_sorted}


def forward(
    model: Path, corpora: dict[str, list[Samples]], *, name: str, rounds: int, wanted: str
) -> list[Figure]:
    """Each system in turn on each corpus, on the CPU in float32.

    Args:
        model: Directory of the checkpoint.
        corpora: Waveforms by the name of their distribution.
        name: Of the model.
        rounds: How often each system runs.
        wanted: Ratio to reach.
    """
    ours = AcousticModel(open_checkpoint(str(model)), model)
    found: list[Figure] = []
    for corpus, waveforms in corpora.items():
        systems = pipelines(model, waveforms)

        def run_ours(waveforms: list[Samples] = waveforms) -> object:
            return recognize(ours, waveforms, batch_seconds=CPU_BATCH_SECONDS)

        seconds = take_turns(systems | {"koasr, with evidence": run_ours}, rounds)
        audio_s = sum(map(len, waveforms)) / SAMPLE_RATE
        found += against_pipeline(f"forward, {name}, {corpus}", seconds, audio_s, wanted)
    return found


def against_pipeline(
    section: str, seconds: Mapping[str, Sequence[float]], audio_s: float, wanted: str = ""
) -> list[Figure]:
    """How fast each system is, and how much faster than transformers' pipeline at its best.

    Args:
        section: Of the figures.
        seconds: What `take_turns` measured.
        audio_s: Seconds of audio in a round.
        wanted: Ratio that koasr should reach.
    """
    best = min(sum(taken) for system, taken in seconds.items() if "pipeline" in system)
    found = []
    for system, taken in seconds.items():
        speeds = [audio_s / second for second in taken]
        target = wanted if system.startswith("koasr") else ""
        found.append(figure(section, system, speeds, "x", best / sum(taken), target))
    return found


def padding(checkpoint: Checkpoint, waveforms: list[Samples], *, corpus: str) -> Figure:
    """Samples that go through the model per sample of speech, in micro-batches of a GPU's size."""
    parts = [
        window.end - window.start
        for samples in waveforms
        for window in plan_windows(len(samples), checkpoint.samples_per_frame)
    ]
    computed = 0
    for batch in plan_micro_batches(parts, 240 * SAMPLE_RATE):
        lengths = tuple(parts[i] for i in batch)
        frames = tuple(map(checkpoint.num_frames, lengths))
        rows = Rows(lengths, frames, checkpoint.samples_per_frame, torch.device("cpu"))
        # Behind the last row lies what its last frame's field reaches into.
        tail = -(-checkpoint.receptive_field // checkpoint.samples_per_frame)
        computed += (sum(rows.num_strides) + tail) * checkpoint.samples_per_frame
    share = computed / sum(parts) - 1
    return figure("padding", corpus, [100 * share], "%", wanted="at most 3 %")
