"""Side by side in one process: transformers' pipeline, its plain module, and koasr's forward.

Same model, same audio, same threads; the order rotates from round to round. Prints a table with
the median and the spread, and writes JSON.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cyclopts
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from transformers import AutoFeatureExtractor, AutoTokenizer, Wav2Vec2ForCTC, pipeline

from koasr.audio import load_waveform
from koasr.checkpoint import open_checkpoint
from koasr.model import AcousticModel
from koasr.readers import read_recordings
from koasr.recognize import plan_micro_batches, recognize
from koasr.rows import SAMPLE_RATE, Recording
from koasr.sources import list_shards

ROOT = Path(__file__).parent.parent
Samples = NDArray[np.int16]


def load_speech(folder: Path) -> list[Samples]:
    """Every recording of the folder that is at most 20 s long."""
    items = (item for shard in list_shards([str(folder)]) for item in read_recordings(shard))
    waveforms = [load_waveform(item).samples for item in items if isinstance(item, Recording)]
    return [samples for samples in waveforms if len(samples) <= 20 * SAMPLE_RATE]


def systems(model: str, waveforms: list[Samples]) -> dict[str, Callable[[], object]]:
    """What is compared: name → a call that transcribes all waveforms once."""
    floats = [samples.astype(np.float32) / 32_768 for samples in waveforms]
    extractor = AutoFeatureExtractor.from_pretrained(model)
    plain = Wav2Vec2ForCTC.from_pretrained(model, dtype=torch.float32).eval()
    asr = pipeline(
        "automatic-speech-recognition",
        model=plain,
        feature_extractor=extractor,
        tokenizer=AutoTokenizer.from_pretrained(model),
    )
    ours = AcousticModel(open_checkpoint(model), Path(model))

    def run_pipeline(batch_size: int) -> object:
        return list(
            asr([{"raw": x, "sampling_rate": SAMPLE_RATE} for x in floats], batch_size=batch_size)
        )

    @torch.inference_mode()
    def run_plain() -> object:
        found = []
        for batch in plan_micro_batches([len(x) for x in floats], 40 * SAMPLE_RATE):
            rows = [floats[i] for i in batch]
            features = extractor(rows, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt")
            found.append(plain(**features).logits.argmax(-1))
        return found

    named: dict[str, Callable[[], object]] = {
        f"transformers pipeline, batch {n}": lambda n=n: run_pipeline(n) for n in (1, 4, 8, 16)
    }
    named["transformers module, sorted by length"] = run_plain
    named["koasr (with evidence)"] = lambda: recognize(ours, waveforms, batch_seconds=40)
    return named


def forward(
    *,
    model: str = str(ROOT / "examples" / "model"),
    speech: Path = ROOT / "examples" / "speech" / "webdataset",
    rounds: int = 5,
    out: Path = ROOT / "runs" / "bench" / "forward.json",
) -> None:
    """Measure the forward pass of each system in turn.

    Args:
        model: Directory of the checkpoint.
        speech: Folder of recordings.
        rounds: How often each system runs; the first is a warm-up and not counted.
        out: Where the JSON goes.
    """
    waveforms = load_speech(speech)
    audio_s = sum(map(len, waveforms)) / SAMPLE_RATE
    compared = systems(model, waveforms)
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    names = list(compared)
    for index in range(rounds + 1):
        for name in names[index % len(names) :] + names[: index % len(names)]:
            start_s = time.perf_counter()
            compared[name]()
            if index:
                seconds[name].append(time.perf_counter() - start_s)
    best = min(statistics.median(v) for k, v in seconds.items() if "pipeline" in k)
    table = Table("system", "x real time", "spread", "against the best pipeline")
    results = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        low, high = audio_s / max(times), audio_s / min(times)
        results[name] = {"rtfx": audio_s / median, "low": low, "high": high, "ratio": best / median}
        table.add_row(
            name, f"{audio_s / median:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{best / median:.2f}"
        )
    title = f"{len(waveforms)} recordings, {audio_s:.0f} s, {torch.get_num_threads()} threads"
    Console().print(title, table)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"audio_s": audio_s, "systems": results}, indent=2))


if __name__ == "__main__":
    cyclopts.run(forward)
