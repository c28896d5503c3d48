"""Times of a run → where they went, what held it back, and what its GPUs cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from koasr.summary import duration_text


@dataclass(frozen=True)
class Stretch:
    """A part of the time a run took: its share, and the share of what came before it."""

    name: str
    seconds: float
    share: float
    past: float


@dataclass(frozen=True)
class Cost:
    """GPU-hours of a run's last session; 0 on CPUs, None where that is not known."""

    gpu_hours: float | None
    money: str
    note: str


def say_bound(summary: Mapping[str, Any]) -> str:
    """What held the run back."""
    if not summary["feeding"]:
        return "What held it back is not known: its last session loaded no audio."
    return f"Bound by {summary['bound_by']}: {summary['advice']}."


def split_time(summary: Mapping[str, Any]) -> list[Stretch]:
    """Where the time of the last session went, as the average model saw it; empty if unknown."""
    feeding = summary["feeding"]
    if not feeding or not summary["wall_s"]:
        return []
    times = feeding["times"]
    # Not there in summaries of before a GPU had two.
    models = max(feeding["num_actors"] * feeding.get("models_per_actor", 1), 1)
    name = "GPU" if feeding["device"] == "cuda" else "model"
    seconds = {
        "start-up, before the first pack": feeding["start_s"],
        f"{name} at work": times["model_s"] / models,
        f"{name} waiting for audio": times["wait_s"] / models,
    }
    rest_s = summary["wall_s"] - sum(seconds.values())
    seconds["the rest: committing and counting"] = max(rest_s, 0.0)
    total_s, past, found = sum(seconds.values()), 0.0, []
    for what, length_s in seconds.items():
        found.append(Stretch(what, length_s, length_s / total_s, past))
        past += length_s / total_s
    return found


def find_cost(summary: Mapping[str, Any], price: float | None, currency: str) -> Cost:
    """What the GPUs cost.

    Args:
        summary: Of the run.
        price: Of an hour of one GPU.
        currency: Stands before the price.
    """
    feeding = summary["feeding"]
    if not feeding:
        return Cost(None, "", "not known for this session")
    if feeding["device"] != "cuda":
        return Cost(0.0, "", "no GPU was used")
    hours = feeding["num_actors"] * summary["wall_s"] / 3600
    count = f"{feeding['num_actors']:,} GPU{'s' * (feeding['num_actors'] != 1)}"
    note = f"{count} for {duration_text(summary['wall_s'])}"
    if price is None:
        return Cost(hours, "", note)
    money, speech_h = price * hours, summary.get("session_audio_s", 0.0) / 3600
    if speech_h:
        note += f"; {currency}{1000 * money / speech_h:,.2f} for 1,000 h of speech"
    return Cost(hours, f"{currency}{money:,.2f}", note)
