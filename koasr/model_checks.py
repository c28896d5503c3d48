"""A checkpoint → a finding: it opens, fits this machine, loads, and transcribes a second."""

import math
import os
import time
from pathlib import Path

import numpy as np

from koasr.checkpoint import Checkpoint, open_checkpoint, stage_checkpoint
from koasr.errors import JobError
from koasr.findings import Finding, failed, line_of, size_text, warning
from koasr.machine_checks import Gpu, memory_bytes
from koasr.options import Options
from koasr.recognizer import Recognizer
from koasr.rows import SAMPLE_RATE
from koasr.stages import Compute
from koasr.storage import check_reachable, impatient, job_errors
from koasr.summary import rate_text
from koasr.transcribe import settle_compute

BUNDLED = Path(__file__).parent.parent / "examples" / "model"
_PROBE_S = 10
_SPARE_BYTES = 1e9
"""Beside the weights: torch itself, and what a micro-batch takes."""


def check_model(model: str | None, gpus: list[Gpu]) -> Finding:
    """Open, load and run a checkpoint, as the job would on this machine.

    Args:
        model: As of `koasr transcribe`; None for the bundled one.
        gpus: That the machine has.
    """
    if model is None and not BUNDLED.is_dir():
        return warning("model", "none was tried", "name yours with --model")
    name = "model" if model is None else f"model {line_of(model)}"
    device = "cuda" if gpus else "cpu"
    resources = {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(len(gpus))}
    compute = settle_compute(Options(), device, resources)
    start_s = time.monotonic()
    try:
        checkpoint = _open(model or str(BUNDLED))
        size_bytes = weight_bytes(checkpoint, compute.precision)
        free_bytes = min((gpu.free_bytes for gpu in gpus), default=memory_bytes()[1])
        size = f"{size_text(size_bytes)} in {compute.precision}"
        if size_bytes + _SPARE_BYTES > free_bytes:
            found = f"{size} and {size_text(_SPARE_BYTES)} to work; {device} has"
            advice = "free some memory, or take a larger machine"
            return failed(name, f"{found} {size_text(free_bytes)} free", advice)
        told = run_model(checkpoint, compute, start_s)
    except JobError as error:
        return failed(name, error)
    which = "the bundled one, " if model is None else ""
    return Finding(name, f"{which}{size} on {device}: {told}")


def _open(model: str) -> Checkpoint:
    check_reachable(model)
    with job_errors(model), impatient():
        return open_checkpoint(model)


def weight_bytes(checkpoint: Checkpoint, precision: str) -> int:
    """Memory of the weights; the head stays in float32, which is little."""
    num_bytes = 4 if precision == "float32" else 2
    return num_bytes * sum(math.prod(size) for _, size in checkpoint.shape.tensors())


def run_model(checkpoint: Checkpoint, compute: Compute, start_s: float) -> str:
    """Transcribe one second of noise, then ten; how long it took, in words.

    Args:
        checkpoint: The model.
        compute: How the job would run it.
        start_s: When it was begun to be opened, on the monotonic clock.

    Raises:
        JobError: It does not load, or does not run.
    """
    recognizer = Recognizer(
        checkpoint,
        stage_checkpoint(checkpoint),
        device=compute.device,
        precision=compute.precision,
        threads=compute.threads,
        batch_seconds=float(_PROBE_S),
    )
    noise = np.random.default_rng(1).normal(0.0, 300.0, _PROBE_S * SAMPLE_RATE).astype(np.int16)
    try:
        times_s = [time.monotonic()]
        for samples in (noise[:SAMPLE_RATE], noise):
            (outcome,) = recognizer.recognize([samples])
            if isinstance(outcome, str):
                raise JobError(f"{len(samples) // SAMPLE_RATE} s of noise: {outcome}")
            times_s.append(time.monotonic())
    finally:
        recognizer.close()
    loaded_s, first_s, second_s = np.diff([start_s, *times_s])
    return (
        f"loaded in {loaded_s:.1f} s, 1 s transcribed in {first_s:.2f} s,"
        f" {_PROBE_S} s at {rate_text(_PROBE_S / second_s)} real time"
    )
