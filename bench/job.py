"""The whole job, from tars to Parquet: koasr, and a plain Ray Data script, in turn."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from corpora import MODEL, ROOT, cut, log_normal, write_tars
from figures import Figure, figure
from peaks import watch_peaks

from koasr.rows import SAMPLE_RATE

KOASR = [sys.executable, str(ROOT / "pipelines" / "transcribe.py")]


def run_koasr(inputs: Path, output: Path, model: Path = MODEL) -> tuple[float, dict[str, float]]:
    """Seconds from start to end of the process, and its peaks of memory in MB."""
    command = [*KOASR, str(inputs), "--output", str(output), "--model", str(model)]
    command += ["--device", "cpu"]
    return run(command)


def run(command: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds from start to end of a process that must succeed, and its peaks of memory in MB."""
    path = [*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(ROOT), str(ROOT / "tests")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
    start_s = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with watch_peaks(process.pid) as peaks:
        said, _ = process.communicate()
    taken_s = time.perf_counter() - start_s
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said[-3000:]}")
    return taken_s, peaks


def read_summary(output: Path) -> dict[str, Any]:
    """What the one run of an output counted and timed."""
    (path,) = output.glob("_koasr/runs/*/summary.json")
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def jobs(folder: Path, *, hours: float, rounds: int) -> list[Figure]:
    """Both jobs on FLAC at 16 kHz and on MP3 at 44.1 kHz, with one actor of two threads each.

    Args:
        folder: For the corpora and what comes out.
        hours: Of audio in each corpus.
        rounds: How often each job runs.
    """
    found: list[Figure] = []
    peaks: dict[str, float] = {}
    for kind, rate in (("FLAC", 16_000), ("MP3", 44_100)):
        waveforms = cut(log_normal(hours * 3600))
        audio_s = sum(map(len, waveforms)) / SAMPLE_RATE
        inputs = folder / kind
        write_tars(inputs, waveforms, kind=kind, rate=rate)
        plain = [sys.executable, str(ROOT / "bench" / "plain_job.py"), str(inputs)]
        speeds: dict[str, list[float]] = {"plain Ray Data script": [], "koasr": []}
        for index in range(rounds):
            for name in list(speeds)[:: 1 if index % 2 else -1]:
                output = folder / f"{kind}-{name.split()[0]}-{index}"
                if name == "koasr":
                    taken_s, seen = run_koasr(inputs, output)
                    peaks = {k: max(v, peaks.get(k, 0.0)) for k, v in seen.items()}
                else:
                    taken_s, _ = run([*plain, str(output), "--model", str(MODEL)])
                speeds[name].append(audio_s / taken_s)
        best = sum(speeds["plain Ray Data script"])
        section = f"job, {hours:.1f} h, tars of {kind} at {rate / 1000:g} kHz"
        for name, found_speeds in speeds.items():
            target = "≥ 2" if name == "koasr" else ""
            ratio = sum(found_speeds) / best
            found.append(figure(section, name, found_speeds, "x", ratio, target))
    return found + [figure("memory", name, [peak], "MB") for name, peak in peaks.items()]


def overhead(folder: Path, *, rounds: int) -> list[Figure]:
    """A job of one recording: where its seconds go."""
    inputs = folder / "one"
    write_tars(inputs, cut([5.0]), kind="FLAC", rate=16_000)
    steps: dict[str, list[float]] = {}
    for index in range(rounds):
        output = folder / f"one-{index}"
        total_s, _ = run_koasr(inputs, output)
        summary = read_summary(output)
        feeding, times = summary["feeding"], summary["feeding"]["times"]
        start_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        import_s = time.perf_counter() - start_s
        for name, seconds in {
            "all": total_s,
            "imports before, and Ray's end": total_s - summary["wall_s"],
            "Ray's start, its workers, actor, weights": feeding["start_s"],
            "… of that to import torch": import_s,
            "reading and loading": times["read_s"] + times["load_s"],
            "the model": times["model_s"],
            "without import of torch and the model": total_s - import_s - times["model_s"],
        }.items():
            steps.setdefault(name, []).append(seconds)
    wanted = {"without import of torch and the model": "≤ 10 s"}
    return [
        figure("job of one recording", name, seconds, "s", wanted=wanted.get(name, ""))
        for name, seconds in steps.items()
    ]
