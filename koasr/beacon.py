"""`_koasr/runs/<run_id>/progress.json`: the figures of a run at work, for whoever watches it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from typing import Any

from koasr.feeding import Times
from koasr.figures import Figures
from koasr.runs import Run
from koasr.storage import impatient, join, list_names, read_bytes, remove, write_bytes
from koasr.threads import every

BEACON_VERSION = 1
NAME = "progress.json"
INTERVAL_S = 15.0
_TOO_MUCH = 1e18


@dataclass(frozen=True)
class Beacon:
    """Figures as a driver wrote them down.

    Attributes:
        number: Grows each time.
        written_s: When, in Unix time by the driver's clock.
        figures: As they stood then.
    """

    number: int
    written_s: float
    figures: Figures

    def to_bytes(self) -> bytes:
        """`progress.json`."""
        return json.dumps({"version": BEACON_VERSION, **asdict(self)}, indent=2).encode()


def read_beacon(run: Run) -> Beacon | None:
    """The figures of a run; None where there are none that can be read."""
    try:
        document = json.loads(read_bytes(join(run.folder, NAME)))
        return Beacon(
            int(_number(document["number"])),
            float(_number(document["written_s"])),
            _to_figures(document["figures"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _to_figures(document: dict[str, Any]) -> Figures:
    """What another machine wrote; a later version may say more.

    Raises:
        ValueError: What is to be a number is none, or none that can be.
        KeyError: Something is missing.
        TypeError: The same.
    """
    values = {field.name: document[field.name] for field in fields(Figures)}
    values["times"] = Times(**{f.name: _number(values["times"][f.name]) for f in fields(Times)})
    for field in fields(Figures):
        value = values[field.name]
        if field.type is str:
            values[field.name] = "".join(c for c in str(value)[:100] if c.isprintable())
        elif field.type is not Times and not (value is None and field.type == float | None):
            values[field.name] = _number(value)
    return Figures(**values)


def _number(value: Any) -> int | float:
    if not isinstance(value, (int, float)) or not 0 <= value < _TOO_MUCH:
        raise ValueError("no number of a run")
    return value


def find_beacon(output: str) -> Beacon | None:
    """The figures that were written last in an output; of the newest run that has some."""
    for run_id in reversed(list_names(join(output, "_koasr", "runs"))):
        if found := read_beacon(Run(output, run_id, "", "")):
            return found
    return None


@contextmanager
def shining(run: Run, read: Callable[[], Figures]) -> Iterator[None]:
    """Write the figures down while the block runs; its end takes them away.

    What is left of a run is its summary, to be written before the end of the block.
    """
    place, number = join(run.folder, NAME), 0

    def write() -> None:
        nonlocal number
        number += 1
        with impatient():
            write_bytes(place, Beacon(number, time.time(), read()).to_bytes())

    try:
        with every(INTERVAL_S, write, f"{NAME} could not be written", at_once=True):
            yield
    finally:
        with suppress(Exception), impatient():
            remove(place)
