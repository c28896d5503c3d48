"""The job as Ray Data's own documentation has it, for comparison: nothing in it is koasr's.

Read, decode and resample by row, then batches of a fixed number of rows through transformers'
processor and model in an actor, then Parquet. What it lacks: rejects, resume, confidence, times.
"""

import io
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
import ray
import ray.data
import soundfile
import soxr
import torch
from ray.data import ActorPoolStrategy
from transformers import AutoProcessor, Wav2Vec2ForCTC

RATE = 16_000


def decode(row: dict[str, Any]) -> dict[str, Any]:
    """One member of a tar → its waveform."""
    key = next(name for name in ("flac", "mp3") if name in row)
    waveform, rate = soundfile.read(io.BytesIO(row[key]), dtype="float32")
    return {"key": row["__key__"], "waveform": soxr.resample(waveform, rate, RATE)}


class Transcribe:
    """Holds the model."""

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._processor = AutoProcessor.from_pretrained(model)
        self._model = Wav2Vec2ForCTC.from_pretrained(model).eval()

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of rows → their texts."""
        inputs = self._processor(
            list(batch["waveform"]), sampling_rate=RATE, padding=True, return_tensors="pt"
        )
        ids = self._model(**inputs).logits.argmax(-1)
        return {"key": batch["key"], "text": np.array(self._processor.batch_decode(ids))}


def main(inputs: str, output: str, *, model: str, batch_size: int = 16, threads: int = 2) -> None:
    """Transcribe the tars of a folder.

    Args:
        inputs: The folder.
        output: Where the Parquet goes.
        model: Directory of the checkpoint.
        batch_size: Rows of a batch.
        threads: Of the actor.
    """
    tars = sorted(str(path) for path in Path(inputs).glob("*.tar"))
    (
        ray.data.read_webdataset(tars, decoder=False)
        .map(decode)
        .map_batches(
            Transcribe,
            fn_constructor_args=(model, threads),
            batch_size=batch_size,
            compute=ActorPoolStrategy(size=1),
        )
        .write_parquet(output)
    )


if __name__ == "__main__":
    cyclopts.run(main)
