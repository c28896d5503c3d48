"""Every benchmark in one run, in one table: `make bench`.

    python bench/bench.py --full --only forward job

Side by side in each section: same model, same audio, same threads; the order rotates.
"""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cyclopts
import torch
from corpora import MODEL, cut, log_normal, long_tail
from figures import Figure, show
from forward import forward, padding
from job import jobs, overhead
from load import loading
from scaling import scaling
from shapes import write_base

from koasr.checkpoint import open_checkpoint

ROOT = Path(__file__).parent.parent
Section = Literal["forward", "padding", "load", "job", "overhead", "scaling"]


def _forward(folder: Path, full: bool) -> list[Figure]:
    seconds = 300 if full else 120
    small = {"log-normal": cut(log_normal(seconds)), "long tail": cut(long_tail(seconds))}
    found = forward(MODEL, small, name="bundled model", rounds=9 if full else 4, wanted="≥ 3")
    base = {"log-normal": cut(log_normal(120 if full else 30))}
    model = write_base(folder / "base")
    return found + forward(
        model, base, name="wav2vec2-base shape", rounds=5 if full else 2, wanted="≥ 1.5"
    )


def _padding(folder: Path, full: bool) -> list[Figure]:
    checkpoint = open_checkpoint(str(MODEL))
    corpora = {"log-normal": log_normal(1200), "long tail": long_tail(1200)}
    return [padding(checkpoint, cut(lengths), corpus=name) for name, lengths in corpora.items()]


RUNS: dict[Section, Callable[[Path, bool], list[Figure]]] = {
    "forward": _forward,
    "padding": _padding,
    "load": lambda folder, full: loading(rounds=9 if full else 4),
    "job": lambda folder, full: jobs(folder, hours=2.0 if full else 0.7, rounds=3 if full else 1),
    "overhead": lambda folder, full: overhead(folder, rounds=5 if full else 2),
    "scaling": lambda folder, full: scaling(folder, [1_000, 10_000, *([100_000] if full else [])]),
}


def main(
    *,
    full: bool = False,
    only: list[Section] | None = None,
    out: Path = ROOT / "runs" / "bench" / "bench.json",
) -> None:
    """Run the benchmarks: ten minutes on 2 cores, longer in full.

    Args:
        full: More rounds, longer audio, and 100,000 recordings.
        only: These sections alone.
        out: Where the JSON goes.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    folder = Path(tempfile.mkdtemp(prefix="koasr-bench-"))
    found: list[Figure] = []
    try:
        for name in only or RUNS:
            start_s = time.perf_counter()
            found += RUNS[name](folder, full)
            print(f"{name}: {time.perf_counter() - start_s:.0f} s", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    title = f"{date}, {os.cpu_count()} cores ({platform.machine()}), torch {torch.__version__}"
    show(found, title, out)


if __name__ == "__main__":
    cyclopts.run(main)
