"""Figures of a run → a live view in a terminal, a line at an interval in a log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from koasr.figures import Figures
from koasr.summary import duration_text, rate_text
from koasr.threads import every

LOG_INTERVAL_S = 30.0
_IDLE_S = 60.0
"""Without a pack for so long it is worth saying."""


def phrases(figures: Figures) -> list[str]:
    """What there is to say: the lines of a view; joined, they make a line of a log."""
    size = f"{figures.size_bytes / 1e6:,.1f} MB"
    elapsed = duration_text(figures.elapsed_s)
    shards = f"{figures.shards:,} of {figures.planned:,} shards"
    if figures.staged_packs:
        shards += f", {figures.staged_packs:,} packs staged"
    if not figures.packs:
        what = "the actors start, load the model and wait for the first audio"
        done = f"{figures.done_share:.0%} of {size} in {elapsed}"
        return [done, f"no pack yet: {what}", shards]
    done = f"{figures.done_share:.0%}, {_hours(figures)} in {elapsed}"
    if figures.left_s is not None:
        done += f", about {duration_text(figures.left_s)} left"
    speed = f"{rate_text(figures.rtfx)} real time overall"
    if figures.rtfx_now is not None:
        speed = f"{rate_text(figures.rtfx_now)} real time now, {rate_text(figures.rtfx)} overall"
    found = [
        done,
        speed,
        shards,
        f"{figures.rejects:,} of {figures.recordings:,} recordings rejected",
        *_feeding(figures),
    ]
    if figures.idle_s > _IDLE_S:
        found.append(f"no pack for {duration_text(figures.idle_s)}")
    return found


def _hours(figures: Figures) -> str:
    done = duration_text(figures.audio_s)
    listed_s = figures.listed_s
    return f"{done} of ≈{duration_text(listed_s)} of audio" if listed_s else f"{done} of audio"


def _feeding(figures: Figures) -> list[str]:
    if figures.busy_share is None or figures.queue_depth is None:
        return []
    name = "GPU" if figures.device == "cuda" else "model"
    busy = f"{name} {figures.busy_share:.0%} busy, {figures.queue_depth:.1f} packs ready"
    return [busy, f"bound by {figures.bound_by}"]


def log_line(figures: Figures) -> str:
    """The figures as one line."""
    return "; ".join(phrases(figures))


def view(figures: Figures) -> Table:
    """The figures as a few lines that fold in a narrow terminal, under a bar."""
    table = Table.grid(expand=True)
    table.add_column(overflow="fold")
    table.add_row(ProgressBar(total=1.0, completed=figures.done_share))
    for phrase in phrases(figures):
        table.add_row(Text(phrase))
    return table


@contextmanager
def showing(console: Console, read: Callable[[], Figures]) -> Iterator[None]:
    """Show the figures while the block runs, whether a pack ends or not."""
    if console.is_terminal:
        live = Live(
            get_renderable=lambda: view(read()),
            console=console,
            refresh_per_second=1,
            transient=True,
        )
        with live:
            live.refresh()
            yield
        return

    def say() -> None:
        console.print(f"koasr: {log_line(read())}", highlight=False, markup=False)

    with every(LOG_INTERVAL_S, say, "progress could not be told"):
        yield
