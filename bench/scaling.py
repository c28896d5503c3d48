"""Ten times the recordings: what the driver's memory and each 10,000 recordings cost."""

from pathlib import Path

import numpy as np
from figures import Figure, figure
from job import run_koasr
from shapes import write_identity
from sound import encode, write_tar

from koasr.rows import SAMPLE_RATE

_PER_TAR = 1_000
_SECONDS = 0.15


def _write(folder: Path, count: int) -> None:
    """Tars of so many very short recordings."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3_000, int(_SECONDS * SAMPLE_RATE)).astype(np.int16)
    audio = encode(noise, kind="WAV")
    for first in range(0, count, _PER_TAR):
        numbers = range(first, min(first + _PER_TAR, count))
        write_tar(folder / f"{first:07}.tar", ((f"{number:07}.wav", audio) for number in numbers))


def scaling(folder: Path, counts: list[int]) -> list[Figure]:
    """A job of each size, with a model that costs next to nothing.

    Args:
        folder: For the corpora and what comes out.
        counts: Numbers of recordings, ascending.
    """
    model = write_identity(folder / "identity")
    found = []
    memory, taken = {}, {}
    for count in counts:
        _write(folder / f"{count}", count)
        taken[count], peaks = run_koasr(folder / f"{count}", folder / f"{count}-out", model)
        memory[count] = peaks["driver"]
        section = f"{count:,} recordings of {_SECONDS} s"
        found.append(figure(section, "whole job", [taken[count]], "s"))
        found.append(figure(section, "driver's memory", [memory[count]], "MB"))
    first, last = counts[0], counts[-1]
    section = f"from {first:,} to {last:,}"
    per_10k = (taken[last] - taken[first]) / (last - first) * 10_000
    growth = memory[last] - memory[first]
    return [
        *found,
        figure(section, "each 10,000 recordings", [per_10k], "s"),
        figure(section, "growth of the driver's memory", [growth], "MB", wanted="≤ 50 MB"),
    ]
