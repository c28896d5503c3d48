"""What a benchmark found: a figure with its spread, beside what it is compared with."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        section: Which benchmark.
        what: What was measured.
        value: Median.
        low: Least.
        high: Greatest.
        unit: Of all three.
        ratio: Against the yardstick of its section; None for a figure without one.
        wanted: What it should reach, in words.
    """

    section: str
    what: str
    value: float
    low: float
    high: float
    unit: str
    ratio: float | None = None
    wanted: str = ""


def figure(
    section: str,
    what: str,
    values: Sequence[float],
    unit: str,
    ratio: float | None = None,
    wanted: str = "",
) -> Figure:
    """A figure of several measurements."""
    median = statistics.median(values)
    return Figure(section, what, median, min(values), max(values), unit, ratio, wanted)


def take_turns(systems: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each system in each round; the order rotates, a first round is not counted."""
    names = list(systems)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds + 1):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            start_s = time.perf_counter()
            systems[name]()
            if index:
                seconds[name].append(time.perf_counter() - start_s)
    return seconds


def show(figures: Sequence[Figure], title: str, out: Path) -> None:
    """Print the table, and write it as JSON."""
    table = Table("", "what", "figure", "spread", "ratio", "wanted", title=title)
    section = ""
    for found in figures:
        if section and found.section != section:
            table.add_section()
        name, section = ("" if found.section == section else found.section), found.section
        ratio = "" if found.ratio is None else f"{found.ratio:.2f}"
        spread = f"{_short(found.low)} to {_short(found.high)}" if found.low < found.high else ""
        value = f"{_short(found.value)} {found.unit}"
        table.add_row(name, found.what, value, spread, ratio, found.wanted)
    Console(width=130).print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {"title": title, "figures": [asdict(found) for found in figures]}
    out.write_text(json.dumps(document, indent=2, ensure_ascii=False))


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
