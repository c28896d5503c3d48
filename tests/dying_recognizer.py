"""The recognizer's child with a model that dies on marked segments: run with `python -m`.

A segment whose first sample is 13 kills the process, 14 raises as a CUDA error does, and 15 kills
it once: the file that `KOASR_TEST_MARK` names is made at the first death. `KOASR_TEST_LOAD_MARK`
does the same to the loading of the model.
"""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koasr.child import serve
from koasr.model import AcousticModel
from koasr.recognizer import _Server

KILLS, RAISES, KILLS_ONCE = 13, 14, 15

_forward = AcousticModel.log_probs
_load = AcousticModel.__init__


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def log_probs(self: AcousticModel, batch: Sequence[NDArray[np.int16]]) -> Any:
    """The forward pass, unless a row is marked."""
    marks = {int(samples[0]) for samples in batch}
    mark = Path(os.environ.get("KOASR_TEST_MARK", "/nonexistent"))
    if KILLS in marks:
        _die()
    if RAISES in marks:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    if KILLS_ONCE in marks and not mark.exists():
        mark.touch()
        _die()
    return _forward(self, batch)


def load(self: AcousticModel, *args: Any, **kwargs: Any) -> None:
    """The loading of the model, unless this is the first time."""
    mark = os.environ.get("KOASR_TEST_LOAD_MARK")
    if mark and not Path(mark).exists():
        Path(mark).touch()
        _die()
    _load(self, *args, **kwargs)


def install() -> None:
    """Put the dying model in the place of the real one."""
    AcousticModel.log_probs = log_probs  # type: ignore[method-assign]
    AcousticModel.__init__ = load  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    serve(_Server().handle)
