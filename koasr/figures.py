"""Receipts of a run → how far it is, how fast, and what holds it back."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from koasr.feeding import Feeding, Meter, Times
from koasr.stages import Receipt

_WINDOW_S = 60.0
"""What is said of now is of so long."""
_MIN_MARKS = 4
"""Packs may take longer than that: then it is of the last few."""


@dataclass(frozen=True)
class Figures:
    """A run at one moment. Holds no name of a recording and no text.

    Counts are of this session; `planned` and `shards` are of the whole run.

    Attributes:
        run_id: The run.
        device: `cpu` or `cuda`.
        num_actors: That hold the model.
        elapsed_s: Since the session began.
        idle_s: Since the last pack was done.
        size_bytes: Encoded, of the shards that were left.
        done_bytes: Of those, done.
        planned: Shards of the plan.
        shards: Of those, committed.
        session_shards: Of those, committed in this session.
        packs: Done.
        staged_packs: Of those, packs of shards that are not committed yet.
        recordings: In these packs.
        rejects: Of those, rejected.
        float32_retries: Micro-batches that were not finite in half precision.
        audio_s: Seconds of audio done.
        rtfx: Seconds of audio a second, since the session began.
        rtfx_now: The same of the last minute; None before the second pack.
        busy_share: Of an actor's time in the last minute, the share that it worked.
        queue_depth: Packs that lay ready in that time, on average.
        bound_by: What held the run back in that time; empty before the second pack.
        left_s: Seconds to the end at the pace since the first pack; None before the second.
        times: Seconds by stage, of all packs.
    """

    run_id: str
    device: str
    num_actors: int
    elapsed_s: float
    idle_s: float
    size_bytes: int
    done_bytes: int
    planned: int
    shards: int
    session_shards: int
    packs: int
    staged_packs: int
    recordings: int
    rejects: int
    float32_retries: int
    audio_s: float
    rtfx: float
    rtfx_now: float | None
    busy_share: float | None
    queue_depth: float | None
    bound_by: str
    left_s: float | None
    times: Times

    @property
    def done_share(self) -> float:
        """By bytes, the one size that is known before anything is read; else by shards."""
        if self.size_bytes:
            return min(self.done_bytes / self.size_bytes, 1.0)
        return self.shards / self.planned if self.planned else 1.0

    @property
    def listed_s(self) -> float | None:
        """About the seconds of audio in what was left, by what is done; None before that."""
        if not self.audio_s or not self.done_share:
            return None
        return self.audio_s / self.done_share


class _Mark(NamedTuple):
    """What had been done at a moment of the monotonic clock."""

    at_s: float
    audio_s: float
    times: Times


class Tally:
    """Counts what a session has done; may be read from any thread.

    Args:
        run_id: The run.
        device: `cpu` or `cuda`.
        num_actors: That hold the model.
        sizes: Bytes of each shard that is left, by name.
        planned: Shards of the plan.
        committed: Of those, committed before.
        started_s: When the session began, on the monotonic clock.
        models_per_actor: Copies of the model in each.
    """

    def __init__(
        self,
        run_id: str,
        device: str,
        num_actors: int,
        sizes: Mapping[str, int],
        planned: int,
        committed: int,
        started_s: float,
        models_per_actor: int = 1,
    ) -> None:
        self._run_id, self._device = run_id, device
        self._num_actors, self._models_per_actor = num_actors, models_per_actor
        self._sizes, self._size_bytes = sizes, sum(sizes.values())
        self._planned, self._committed = planned, committed
        self._started_s = self._heard_s = started_s
        self._lock = threading.Lock()
        self._meter = Meter(started_s)
        self._times = Times()
        self._open: dict[str, tuple[int, int]] = {}
        self._closed_bytes = self._open_bytes = self._open_packs = self._session_shards = 0
        self._packs = self._recordings = self._rejects = self._retries = 0
        self._audio_s = 0.0
        self._first: tuple[float, int] | None = None
        self._marks: deque[_Mark] = deque()

    def add_pack(self, receipt: Receipt) -> None:
        """Count a finished pack."""
        with self._lock:
            self._heard_s = now_s = time.monotonic()
            self._meter.add(receipt.times)
            self._times += receipt.times
            self._audio_s += receipt.audio_s
            self._packs += 1
            self._recordings += receipt.num_recordings
            self._rejects += receipt.num_rejects
            self._retries += receipt.num_float32_retries
            size_bytes, packs = self._open.get(receipt.shard, (0, 0))
            self._open[receipt.shard] = (size_bytes + receipt.size_bytes, packs + 1)
            self._open_bytes += receipt.size_bytes
            self._open_packs += 1
            self._first = self._first or (now_s, self._done_bytes)
            self._mark(now_s)

    def add_shard(self, name: str) -> None:
        """Count a committed shard: all of it, with packs that an earlier session staged."""
        with self._lock:
            self._session_shards += 1
            size_bytes, packs = self._open.pop(name, (0, 0))
            self._open_bytes -= size_bytes
            self._open_packs -= packs
            self._closed_bytes += self._sizes.get(name, 0)

    def feeding(self) -> Feeding | None:
        """How the actors were fed, over the whole session."""
        with self._lock:
            return self._meter.read(self._num_actors, self._device, self._models_per_actor)

    def read(self) -> Figures:
        """As things stand."""
        with self._lock:
            now_s = time.monotonic()
            rtfx_now, feeding = self._recent(now_s)
            elapsed_s = now_s - self._started_s
            return Figures(
                run_id=self._run_id,
                device=self._device,
                num_actors=self._num_actors,
                elapsed_s=elapsed_s,
                idle_s=now_s - self._heard_s,
                size_bytes=self._size_bytes,
                done_bytes=self._done_bytes,
                planned=self._planned,
                shards=self._committed + self._session_shards,
                session_shards=self._session_shards,
                packs=self._packs,
                staged_packs=self._open_packs,
                recordings=self._recordings,
                rejects=self._rejects,
                float32_retries=self._retries,
                audio_s=self._audio_s,
                rtfx=self._audio_s / elapsed_s if elapsed_s else 0.0,
                rtfx_now=rtfx_now,
                busy_share=feeding.busy_share if feeding else None,
                queue_depth=feeding.queue_depth if feeding else None,
                bound_by=feeding.bound_by if feeding else "",
                left_s=self._left_s(now_s),
                times=self._times,
            )

    @property
    def _done_bytes(self) -> int:
        return self._closed_bytes + self._open_bytes

    def _mark(self, now_s: float) -> None:
        if self._marks and now_s - self._marks[-1].at_s < 1.0:
            return
        self._marks.append(_Mark(now_s, self._audio_s, self._times))
        while len(self._marks) > _MIN_MARKS and self._marks[1].at_s <= now_s - _WINDOW_S:
            self._marks.popleft()

    def _recent(self, now_s: float) -> tuple[float | None, Feeding | None]:
        """Speed and feeding since the first mark that is kept."""
        if self._packs < 2 or now_s <= self._marks[0].at_s:
            return None, None
        start = self._marks[0]
        rtfx = (self._audio_s - start.audio_s) / (now_s - start.at_s)
        # What was before the first pack is no feeding of this minute.
        actors = (self._num_actors, self._device, self._models_per_actor)
        return rtfx, Feeding(self._times - start.times, 0.0, *actors)

    def _left_s(self, now_s: float) -> float | None:
        """By the pace since the first pack: what was before it, comes once."""
        first_s, first_bytes = self._first or (now_s, 0)
        done = self._done_bytes - first_bytes
        if done <= 0:
            return None
        pace = (now_s - first_s) / done
        return max(self._size_bytes - self._done_bytes, 0) * pace
