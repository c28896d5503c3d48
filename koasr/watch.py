"""A run that another machine does, watched through its output alone."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from koasr.beacon import INTERVAL_S, Beacon, find_beacon, read_beacon
from koasr.ending import EXIT_DONE, EXIT_INTERRUPTED
from koasr.errors import JobError
from koasr.lease import describe_lease, read_holder
from koasr.progress import log_line, view
from koasr.runs import Run
from koasr.storage import impatient, job_errors, join, read_bytes
from koasr.summary import duration_text

_SILENT_S = 4 * INTERVAL_S
"""A driver that has not written for so long may be gone."""


@dataclass(frozen=True)
class Sight:
    """What was seen at the last look.

    Attributes:
        lease: Who is at work, in words.
        is_over: Whether nobody can be: the lease is free, or its process is gone.
        beacon: The figures; None when there are none yet.
        changed_s: When they were written, on this machine's monotonic clock.
    """

    lease: str
    is_over: bool
    beacon: Beacon | None
    changed_s: float

    @property
    def age_s(self) -> float:
        """Of the figures."""
        return max(time.monotonic() - self.changed_s, 0.0)

    @property
    def headline(self) -> str:
        """Which run, who does it, and how old the figures are."""
        if self.beacon is None:
            return f"{self.lease}; no figures yet"
        age = f"{duration_text(self.age_s)} ago"
        if self.age_s > _SILENT_S:
            age = f"silent for {duration_text(self.age_s)}"
        return f"run {self.beacon.figures.run_id}, {age}: {self.lease}"

    def to_line(self) -> str:
        """For a log."""
        return self.headline + (f"; {log_line(self.beacon.figures)}" if self.beacon else "")

    def __rich__(self) -> Group:
        """For a terminal."""
        head = Text(self.headline, no_wrap=False, overflow="fold")
        return Group(head, *([view(self.beacon.figures)] if self.beacon else []))


def look(output: str, before: Sight | None) -> Sight:
    """Look at the lease and the figures; at nothing else while one run goes on.

    Args:
        output: URI.
        before: What was seen before. Once the figures have changed between two looks, their age is
            by this machine's clock alone: whose clock is wrong does not matter then.
    """
    lease, is_alive = describe_lease(output)
    known = before.beacon if before else None
    beacon = read_beacon(Run(output, known.figures.run_id, "", "")) if known else None
    # A silent one may be what a killed driver left, while another does a newer run.
    if beacon is None or (before and before.age_s > _SILENT_S):
        beacon = find_beacon(output)
    now_s = time.monotonic()
    if beacon is None:
        changed_s = now_s
    elif before is None or known is None:
        changed_s = now_s - max(time.time() - beacon.written_s, 0.0)
    else:
        changed_s = before.changed_s if beacon == known else now_s
    held = None if is_alive else read_holder(output)
    is_over = not is_alive and (held is None or held.is_dead)
    return Sight(lease, is_over, beacon, changed_s)


def watch(output: str, interval_s: float, console: Console) -> int:
    """Show how far the run of an output is, until nobody works on it.

    Args:
        output: URI.
        interval_s: Seconds between two looks.
        console: A terminal gets a live view, anything else a line at each look.

    Returns:
        The exit code: 0, or 130 when it was interrupted.
    """
    sight: Sight | None = None
    last_id = ""
    try:
        with _shown(console) as show:
            while not (sight and sight.is_over):
                if sight:
                    time.sleep(interval_s)
                sight = _look_again(output, sight, console)
                last_id = sight.beacon.figures.run_id if sight.beacon else last_id
                if not sight.is_over:
                    show(sight)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    console.print(f"koasr: {_last_words(output, last_id, sight)}", highlight=False, markup=False)
    return EXIT_DONE


def _look_again(output: str, before: Sight | None, console: Console) -> Sight:
    """What is to be seen; what was seen last, where the store does not answer."""
    try:
        with job_errors(output), impatient():
            return look(output, before)
    except JobError as error:
        if before is None:
            raise
        console.print(f"koasr: {error}", highlight=False, markup=False)
        return before


@contextmanager
def _shown(console: Console) -> Iterator[Callable[[Sight], None]]:
    """Gives what shows a sight: a view that is kept up, or a line each time."""
    if not console.is_terminal:
        yield lambda sight: console.print(
            f"koasr: {sight.to_line()}", highlight=False, markup=False
        )
        return
    shown: RenderableType = ""

    def show(sight: Sight) -> None:
        nonlocal shown
        shown = sight
        live.refresh()

    live = Live(get_renderable=lambda: shown, console=console, refresh_per_second=1, transient=True)
    with live:
        yield show


def _last_words(output: str, run_id: str, sight: Sight) -> str:
    """What became of the run that was watched."""
    if not run_id:
        return f"nobody is at work on {output}: the lease is {sight.lease}"
    try:
        told = json.loads(read_bytes(join(Run(output, run_id, "", "").folder, "summary.json")))
        rejects = f"{told['rejected']:,} of {told['recordings']:,} recordings rejected"
        done = f"{duration_text(told['audio_s'])} of audio, {told['shards']:,} shards, {rejects}"
        if told["state"] == "done":
            return f"run {run_id} is done: {done}"
    except FileNotFoundError:
        done = sight.lease
    except (ValueError, KeyError, TypeError):
        done = "its summary cannot be read"
    return f"run {run_id} is unfinished ({done}): the same command goes on from here"
