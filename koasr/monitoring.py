"""Figures of a run → metrics, for whatever scrapes the cluster."""

from collections.abc import Callable
from typing import Any

from koasr.figures import Figures

INTERVAL_S = 5.0
COUNTERS: dict[str, tuple[str, Callable[[Figures], float]]] = {
    "koasr_audio_seconds_total": ("Audio transcribed, in seconds.", lambda f: f.audio_s),
    "koasr_recordings_total": ("Recordings done.", lambda f: f.recordings),
    "koasr_rejects_total": ("Recordings rejected.", lambda f: f.rejects),
    "koasr_packs_total": ("Packs done.", lambda f: f.packs),
    "koasr_shards_committed_total": ("Shards committed.", lambda f: f.session_shards),
    "koasr_float32_retries_total": (
        "Micro-batches that were not finite in half precision.",
        lambda f: f.float32_retries,
    ),
}
STAGE_SECONDS = (
    "koasr_stage_seconds_total",
    "Seconds that packs took, added up over workers and actors, by stage.",
)
STAGES = ("read", "load", "queue", "wait", "model")
GAUGES: dict[str, tuple[str, Callable[[Figures], float | None]]] = {
    "koasr_run_bytes": ("Encoded bytes that the session found to do.", lambda f: f.size_bytes),
    "koasr_run_bytes_done": ("Of those, done.", lambda f: f.done_bytes),
    "koasr_run_shards": ("Shards of the plan.", lambda f: f.planned),
    "koasr_run_shards_left": ("Of those, not committed yet.", lambda f: f.planned - f.shards),
    "koasr_run_left_seconds": ("Seconds to the end at the pace so far.", lambda f: f.left_s),
    "koasr_actors": ("Actors that hold the model.", lambda f: f.num_actors),
    "koasr_busy_ratio": ("Share of the last minute that actors worked.", lambda f: f.busy_share),
}
LABELS = ("run_id", "device")


class Monitor:
    """Metrics of one session.

    Args:
        make_counter: Makes one of a name, a description and the names of its labels, with
            `inc(value, labels)`.
        make_gauge: The same with `set(value, labels)`.
    """

    def __init__(self, make_counter: Callable[..., Any], make_gauge: Callable[..., Any]) -> None:
        self._told: dict[tuple[str, str], float] = {}
        self._metrics = {
            name: make_counter(name, text, LABELS) for name, (text, _) in COUNTERS.items()
        }
        name, text = STAGE_SECONDS
        self._metrics[name] = make_counter(name, text, (*LABELS, "stage"))
        self._gauges = {name: make_gauge(name, text, LABELS) for name, (text, _) in GAUGES.items()}

    def show(self, figures: Figures) -> None:
        """Bring the metrics up to these figures, which are later ones of the same session."""
        labels = {"run_id": figures.run_id, "device": figures.device}
        for name, (_, count) in COUNTERS.items():
            self._raise_to(name, count(figures), labels)
        for stage in STAGES:
            value = getattr(figures.times, f"{stage}_s")
            self._raise_to(STAGE_SECONDS[0], value, {**labels, "stage": stage})
        for name, (_, read) in GAUGES.items():
            found = read(figures)
            if found is not None:
                self._gauges[name].set(found, labels)

    def _raise_to(self, name: str, value: float, labels: dict[str, str]) -> None:
        key = (name, labels.get("stage", ""))
        more = value - self._told.get(key, 0.0)
        if more > 0:
            self._metrics[name].inc(more, labels)
            self._told[key] = value
