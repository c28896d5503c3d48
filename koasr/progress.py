"""Receipts of a run → a live line in a terminal, a line now and then in a log."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from koasr.summary import duration_text, rate_text

LOG_INTERVAL_S = 30.0


class RunProgress:
    """Counts receipts and shows them: hours of audio, RTFx, rejects, time left.

    The share done is that of encoded bytes, the one size known before anything is read.
    """

    def __init__(self, console: Console, total_bytes: int, num_shards: int) -> None:
        self.audio_s = 0.0
        self._console = console
        self._total_bytes, self._num_shards = max(total_bytes, 1), num_shards
        self._bytes = self._rejects = self._shards = 0
        self._start_s = self._spoken_s = time.monotonic()
        self._first: tuple[float, int] | None = None
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        self._live = Progress(*columns, console=console, transient=True)
        self._task = self._live.add_task("starting", total=self._total_bytes)

    def __enter__(self) -> "RunProgress":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    @property
    def wall_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start_s

    def add_pack(self, audio_s: float, size_bytes: int, num_rejects: int) -> None:
        """Count a finished pack."""
        self.audio_s += audio_s
        self._bytes += size_bytes
        self._first = self._first or (time.monotonic(), self._bytes)
        self._rejects += num_rejects
        self._show()

    def add_shards(self, count: int) -> None:
        """Count committed shards."""
        self._shards += count
        self._show()

    def _left_s(self) -> float | None:
        """By the pace since the first pack: what was before it, comes once."""
        first_s, first_bytes = self._first or (0.0, 0)
        done = self._bytes - first_bytes
        if not self._first or not done:
            return None
        pace = (time.monotonic() - first_s) / done
        return max(self._total_bytes - self._bytes, 0) * pace

    def _line(self) -> str:
        share = min(self._bytes / self._total_bytes, 1.0)
        left_s = self._left_s()
        left = "unknown time" if left_s is None else duration_text(left_s)
        return (
            f"{duration_text(self.audio_s)} of audio, "
            f"{rate_text(self.audio_s / self.wall_s)} real time, "
            f"{self._shards}/{self._num_shards} shards, {self._rejects} rejects, {share:.0%}, "
            f"{left} left"
        )

    def _show(self) -> None:
        if self._console.is_terminal:
            self._live.update(self._task, completed=self._bytes, description=self._line())
        elif time.monotonic() - self._spoken_s >= LOG_INTERVAL_S:
            self._spoken_s = time.monotonic()
            self._console.print(f"koasr: {self._line()}", highlight=False)
