"""Where the seconds of a run went, and so what held it back."""

import math
import time
from dataclasses import astuple, dataclass

_TELLING_S = 5.0
"""The model must have worked so long for a ratio to it to say anything."""
BUSY = 0.9
"""From this share of its time on the model is what bounds a run."""


@dataclass(frozen=True)
class Times:
    """Seconds that packs took, step by step, added up over all workers and actors.

    Attributes:
        read_s: Reading from the store.
        load_s: Decoding, resampling and cutting.
        queue_s: Loaded, and waiting for an actor that is at another pack.
        wait_s: Of an actor, between two packs, with nothing to do.
        model_s: Of an actor, at a pack.
    """

    read_s: float = 0.0
    load_s: float = 0.0
    queue_s: float = 0.0
    wait_s: float = 0.0
    model_s: float = 0.0

    def __add__(self, other: "Times") -> "Times":
        return Times(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: "Times") -> "Times":
        return Times(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Feeding:
    """How well the actors were fed.

    Attributes:
        times: Of all packs of a session.
        start_s: From the start of the session to the first pack's turn.
        num_actors: That held the model, each on a GPU of its own where there are some.
        device: `cpu` or `cuda`.
        models_per_actor: Copies of the model in each.
    """

    times: Times
    start_s: float
    num_actors: int
    device: str
    models_per_actor: int = 1

    @property
    def num_models(self) -> int:
        """Copies of the model in all; the times are sums over these."""
        return self.num_actors * self.models_per_actor

    @property
    def busy_share(self) -> float:
        """Of a model's time between its first pack and its last, the share that it worked."""
        at_it_s = self.times.model_s + self.times.wait_s
        return self.times.model_s / at_it_s if at_it_s else 0.0

    @property
    def queue_depth(self) -> float:
        """Packs that lay ready, on average: Little's law."""
        at_it_s = (self.times.model_s + self.times.wait_s) / self.num_models
        return self.times.queue_s / at_it_s if at_it_s else 0.0

    @property
    def bound_by(self) -> str:
        """What more of would have made the run faster: start-up, GPU, CPU, load or storage."""
        times = self.times
        if self.start_s > (times.model_s + times.wait_s) / self.num_models:
            return "start-up"
        if self.busy_share >= BUSY:
            return "GPU" if self.device == "cuda" else "CPU"
        return "load" if times.load_s >= times.read_s else "storage"

    @property
    def advice(self) -> str:
        """What to change."""
        name = "GPU" if self.device == "cuda" else "model"
        if self.bound_by == "start-up":
            found = f"{self.start_s:.0f} s passed before the first pack"
            return f"{found}; normal for a short run, and a longer one waits no longer"
        if self.bound_by in ("GPU", "CPU"):
            return f"more {self.bound_by}s would shorten it; audio arrives fast enough"
        if self.bound_by == "load":
            if self.times.model_s < _TELLING_S:
                return "most of the time went into decoding: more CPUs would shorten it"
            cores = math.ceil(self.times.load_s / self.times.model_s * self.num_models)
            return f"loading wants about {cores} CPUs to keep every {name} busy: add some"
        return "reading is slower than decoding: bring the store nearer, or read on more nodes"


class Meter:
    """Adds up the times of packs as they are done.

    Args:
        started_s: When the session began, on the monotonic clock.
    """

    def __init__(self, started_s: float) -> None:
        self._started_s = started_s
        self._times = Times()
        self._start_s: float | None = None

    def add(self, times: Times) -> None:
        """Count a pack that was done just now."""
        if self._start_s is None:
            # To read and load the first belongs to the feeding, however early it was.
            fed_s = times.read_s + times.load_s
            done_s = time.monotonic() - self._started_s
            self._start_s = max(done_s - times.model_s - fed_s, 0.0)
            times += Times(wait_s=fed_s)
        self._times += times

    def read(self, num_actors: int, device: str, models_per_actor: int = 1) -> Feeding | None:
        """How the actors were fed; None in a session that only committed what was staged."""
        if self._start_s is None:
            return None
        return Feeding(self._times, self._start_s, num_actors, device, models_per_actor)
