"""The encoder and the whole job on one GPU, with the seed's shape and random weights.

    bench/slim_ray.sh wheels     # where there is a network; then carry the repository and wheels/
    pip install --no-index --no-deps --target site wheels/*.whl
    PYTHONPATH=site:. python bench/gpu.py

Needs torch and transformers beside the wheels, and no network. `--shape tiny --device cpu` goes the
same way anywhere, to see that it would run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cyclopts
import torch
from corpora import Samples, cut, log_normal, write_tars
from figures import Figure, figure, show, take_turns
from forward import against_pipeline, pipelines
from job import read_summary, run
from shapes import write_identity, write_xlsr_1b

from koasr.checkpoint import open_checkpoint
from koasr.model import AcousticModel
from koasr.precision import FloatType
from koasr.recognize import plan_micro_batches, recognize
from koasr.rows import SAMPLE_RATE

ROOT = Path(__file__).parent.parent
_PIPELINE_BATCHES = (8, 16, 32, 64)


def _agreement(model: Path, device: str, precision: FloatType) -> Figure:
    """Frames with the same best token as transformers' module in float32, row by row."""
    from transformers import Wav2Vec2ForCTC

    ours = AcousticModel(open_checkpoint(str(model)), model, device=device, precision=precision)
    batch = cut(log_normal(60))
    found = [row.argmax(-1).cpu() for row in ours.log_probs(batch)]
    del ours
    # Its convolutions would be in TF32 otherwise.
    torch.backends.cudnn.allow_tf32 = False
    reference = Wav2Vec2ForCTC.from_pretrained(model, dtype=torch.float32).eval().to(device)
    same = total = 0
    for samples, row in zip(batch, found, strict=True):
        waveform = torch.tensor(samples, device=device, dtype=torch.float64)
        waveform = (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-3).sqrt()
        with torch.inference_mode():
            expected = reference(waveform.float()[None]).logits[0].argmax(-1).cpu()
        same += int((row == expected).sum())
        total += len(row)
    return figure("agreement", precision, [100 * same / total], "%", wanted="≥ 99.9 %")


def _ours(
    model: Path, device: str, waveforms: list[Samples], rounds: int, precisions: list[FloatType]
) -> tuple[list[Figure], dict[str, Callable[[], object]]]:
    """The forward pass alone by precision and size of micro-batch, and what to compare it by."""
    audio_s = sum(map(len, waveforms)) / SAMPLE_RATE
    lengths = [len(samples) for samples in waveforms]
    found: list[Figure] = []
    compared: dict[str, Callable[[], object]] = {}
    for precision in precisions:
        ours = AcousticModel(open_checkpoint(str(model)), model, device=device, precision=precision)
        systems: dict[str, Callable[[], object]] = {}
        for seconds in (60, 120, 240, 480):
            batches = list(plan_micro_batches(lengths, seconds * SAMPLE_RATE))

            def once(batches: list[list[int]] = batches, ours: AcousticModel = ours) -> None:
                for batch in batches:
                    ours.log_probs([waveforms[i] for i in batch])
                if device == "cuda":
                    torch.cuda.synchronize()

            systems[f"{precision}, {seconds} s"] = once
        for name, taken in take_turns(systems, rounds).items():
            speeds = [audio_s / second for second in taken]
            found.append(figure("forward alone", name, speeds, "x", wanted="≥ 4,500"))
        fits = ours.measure_batch_seconds()
        found.append(figure("micro-batch", f"{precision}: fits", [fits], "s"))
        if precision == "float16":
            compared["koasr, with evidence"] = partial(
                recognize, ours, waveforms, batch_seconds=fits
            )
    return found, compared


def _profile(call: Callable[[], object], out: Path) -> None:
    """The kernels and the lines of Python that take longest, as text."""
    import cProfile
    import pstats

    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        call()
    table = profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=40)
    out.write_text(table)
    with out.with_suffix(".host.txt").open("w") as file:
        host = cProfile.Profile()
        host.runcall(call)
        pstats.Stats(host, stream=file).sort_stats("tottime").print_stats(40)


@contextmanager
def _utilization(device: str) -> Iterator[list[tuple[float, float]]]:
    """(seconds, share of them in which a kernel ran) as nvidia-smi says, several times a second."""
    samples: list[tuple[float, float]] = []
    if device != "cuda":
        yield samples
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    process = subprocess.Popen([*query, "-lms", "200"], stdout=subprocess.PIPE, text=True)
    stdout = process.stdout
    assert stdout is not None
    start_s = time.monotonic()

    def collect() -> None:
        samples.extend((time.monotonic() - start_s, float(line)) for line in stdout)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        yield samples
    finally:
        process.terminate()
        thread.join()


def _job(model: Path, device: str, folder: Path, hours: float, num_models: int) -> list[Figure]:
    """From FLAC tars to Parquet, with so many copies of the model on the GPU."""
    output = folder / f"out-{num_models}"
    options = ["--model", str(model), "--device", device]
    code = f"from koasr import cli, transcribe as t; t._MODELS_PER_GPU = {num_models}; cli.main()"
    with _utilization(device) as samples:
        command = [sys.executable, "-c", code, "transcribe", str(folder / "tars")]
        wall_s, _ = run([*command, "--output", str(output), *options])
    summary = read_summary(output)
    feeding, audio_s = summary["feeding"], summary["audio_s"]
    own = {"start_s": feeding["start_s"], "wall_s": summary["wall_s"]}
    models = f"{num_models} model{'s' * (num_models > 1)} on the GPU"
    times, section = feeding["times"] | own, f"job, {hours:g} h of FLAC, {models}"
    at_work_s = (times["model_s"] + times["wait_s"]) / num_models
    busy = 100 * summary["busy_share"]
    last_s = max((at_s for at_s, share in samples if share), default=0.0)
    shares = [share for at_s, share in samples if last_s - at_work_s < at_s <= last_s]
    return [
        figure(section, "start to end of the process", [audio_s / wall_s], "x"),
        figure(
            section, "once the first pack's turn came", [audio_s / at_work_s], "x", None, "≥ 4,000"
        ),
        figure(section, "kernels running since then", [mean(shares or [0])], "%", wanted="≥ 95 %"),
        figure(section, "models at a pack", [busy], "%"),
        figure(section, "packs ready", [summary["queue_depth"]], ""),
        *(figure(section, name, [seconds], "s") for name, seconds in times.items()),
    ]


def _write_corpus(folder: Path, hours: float) -> None:
    """Tars of FLAC: the same ten minutes again and again."""
    unique = cut(log_normal(600))
    write_tars(folder, unique, kind="FLAC", rate=SAMPLE_RATE, per_tar=len(unique))
    (first,) = folder.glob("*.tar")
    seconds = sum(map(len, unique)) / SAMPLE_RATE
    for index in range(1, max(1, round(hours * 3600 / seconds))):
        os.link(first, folder / f"copy-{index:05}.tar")


def main(
    *,
    shape: Literal["xlsr-1b", "tiny"] = "xlsr-1b",
    device: Literal["cuda", "cpu"] = "cuda",
    minutes: float = 20.0,
    hours: float = 16.0,
    rounds: int = 3,
    precisions: list[FloatType] = ["float16", "bfloat16"],  # noqa: B006 (cyclopts copies it)
    models_per_gpu: list[int] = [1, 2, 3],  # noqa: B006
    skip_job: bool = False,
    out: Path = ROOT / "runs" / "bench" / "gpu.json",
) -> None:
    """Measure on one GPU.

    Args:
        shape: Of the model.
        device: Where it runs.
        minutes: Audio of the forward pass, log-normal lengths.
        hours: Audio of the job.
        rounds: Of each system; one more is a warm-up.
        precisions: Of the encoder alone.
        models_per_gpu: Of each of which the job runs once.
        skip_job: The encoder alone: needs no Ray.
        out: Where the JSON goes; the profile lies beside it.
    """
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    folder = Path(tempfile.mkdtemp(prefix="koasr-gpu-"))
    found: list[Figure] = []
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        write = write_xlsr_1b if shape == "xlsr-1b" else write_identity
        model = write(folder / "model")
        for precision in precisions:
            found.append(_agreement(model, device, precision))
        waveforms = cut(log_normal(minutes * 60))
        audio_s = sum(map(len, waveforms)) / SAMPLE_RATE
        alone, compared = _ours(model, device, waveforms, rounds, precisions)
        found += alone
        theirs = pipelines(model, waveforms, device, "float16", _PIPELINE_BATCHES)
        taken = take_turns(compared | theirs, rounds)
        found += against_pipeline("with the text", taken, audio_s)
        if device == "cuda":
            _profile(compared["koasr, with evidence"], out.with_suffix(".profile.txt"))
        compared.clear()
        theirs.clear()
        if not skip_job:
            _write_corpus(folder / "tars", hours)
            for num_models in models_per_gpu:
                found += _job(model, device, folder, hours, num_models)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        date = time.strftime("%Y-%m-%d")
        show(found, f"{date}, {card}, torch {torch.__version__}, {shape}", out)


if __name__ == "__main__":
    cyclopts.run(main)
