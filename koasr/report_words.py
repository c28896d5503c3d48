"""Figures of a run → what they say, in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from koasr.calibration import Floats
from koasr.drift import DRIFT_PSI, MIN_DRIFT_SEGMENTS, Drift, stability_index
from koasr.report_errors import Rates
from koasr.report_run import Segments
from koasr.summary import drift_text, duration_text, rate_text

_SLIGHT_PSI = 0.1
_MANY_REJECTS = 3
"""Exit code of a run that is done, but rejected more than it may."""
_STATES = {
    "done": ("Done", "good"),
    "stopped": ("Stopped", "warn"),
    "failed": ("Failed", "bad"),
}


@dataclass(frozen=True)
class State:
    """How a run ended: a word, how bad that is, and a sentence where it needs one."""

    word: str
    tone: str
    sentence: str


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


def say_state(summary: Mapping[str, Any]) -> State:
    """How the run ended."""
    word, tone = _STATES.get(str(summary["state"]), (str(summary["state"]), "warn"))
    reason = f" ({summary['reason']})" if summary["reason"] else ""
    if summary["state"] == "done" and summary["exit_code"] == _MANY_REJECTS:
        sentence = f"It came to its end, but more was rejected than is allowed{reason}."
        return State("Too many rejects", "warn", sentence)
    if summary["state"] == "done":
        return State(word, tone, "")
    shards = f"{summary.get('shards', 0):,} of {summary['planned']:,} shards are committed"
    verb = "was stopped before its end" if summary["state"] == "stopped" else "failed"
    sentence = f"This run {verb}{reason}. {shards}; the same command goes on from there."
    return State(word, tone, sentence)


def say_date(text: str) -> str:
    """A date as people say it.

    Example:
        >>> say_date("2026-11-28"), say_date("today")
        ('Saturday, 28 November 2026', 'today')
    """
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return text
    return f"{day:%A}, {day.day} {day:%B %Y}"


def say_start(run_id: str) -> str:
    """When a run was begun, by its name; empty for a name of another form.

    Example:
        >>> say_start("20261128T030241Z-0f3651"), say_start("mine")
        ('03:02 UTC', '')
    """
    try:
        return f"{datetime.strptime(run_id[:16], '%Y%m%dT%H%M%SZ'):%H:%M} UTC"
    except ValueError:
        return ""


def say_lead(summary: Mapping[str, Any]) -> str:
    """What the run did, in a sentence."""
    if not summary["recordings"]:
        return "No recording was transcribed or rejected."
    speech = duration_text(summary["audio_s"])
    count = f"{summary['recordings']:,} recording{'s' * (summary['recordings'] != 1)}"
    if not summary["segments"]:
        return f"Nothing of {count} could be transcribed."
    lead = f"{speech} of speech from {count}"
    session_s = summary.get("session_audio_s", summary["audio_s"])
    if not session_s or not summary["wall_s"]:
        return f"{lead}."
    speed = rate_text(session_s / summary["wall_s"]).removesuffix("x")
    is_part = session_s < 0.99 * summary["audio_s"]
    part = f"; the last session did {duration_text(session_s)} of it" if is_part else ""
    return f"{lead}{part}, in {duration_text(summary['wall_s'])}: {speed} times real time."


def say_rejects(summary: Mapping[str, Any]) -> str:
    """How much was rejected and why.

    Example:
        >>> counts = {"recordings": 124, "rejected": 12}
        >>> say_rejects(counts | {"reasons": {"truncated": 9, "empty": 3}})
        '12 of 124 recordings were rejected (9.7%), mostly truncated.'
        >>> say_rejects({"recordings": 3, "rejected": 0, "reasons": {}})
        'No recording was rejected.'
    """
    rejected, reasons = summary["rejected"], summary["reasons"]
    if not rejected:
        return "No recording was rejected."
    share = f"{rejected / max(summary['recordings'], 1):.1%}"
    verb = "was" if rejected == 1 else "were"
    start = f"{rejected:,} of {summary['recordings']:,} recordings {verb} rejected ({share})"
    most, count = max(reasons.items(), key=lambda found: found[1], default=("", 0))
    word = most.replace("_", " ")
    if len(reasons) == 1:
        return f"{start}: {word}."
    if count > rejected / 2:
        return f"{start}, mostly {word}."
    return f"{start}, most often {word} ({count:,})." if count > 1 else f"{start}."


def say_bound(summary: Mapping[str, Any]) -> str:
    """What held the run back."""
    if not summary["feeding"]:
        return "Not known: the last session loaded nothing, it only committed what was there."
    return f"Bound by {summary['bound_by']}: {summary['advice']}."


def split_time(summary: Mapping[str, Any]) -> list[Stretch]:
    """Where the time of the last session went, as the average actor saw it; empty if unknown."""
    feeding = summary["feeding"]
    if not feeding or not summary["wall_s"]:
        return []
    times, actors = feeding["times"], max(feeding["num_actors"], 1)
    name = "GPU" if feeding["device"] == "cuda" else "model"
    seconds = {
        "start-up, before the first pack": feeding["start_s"],
        f"{name} at work": times["model_s"] / actors,
        f"{name} waiting for audio": times["wait_s"] / actors,
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


def comparable(
    summary: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Earlier runs whose confidence means the same: made by the same calibration, or by none."""

    def label(held: Mapping[str, Any]) -> str | None:
        return held["drift"]["calibration"] if held["drift"] else None

    return [one for one in earlier if label(one) == label(summary) and one["confidence_counts"]]


def add_histograms(summaries: Sequence[Mapping[str, Any]]) -> list[int]:
    """Their confidence together, as of `count_confidence`; empty without any."""
    counts = [one["confidence_counts"] for one in summaries]
    return [sum(column) for column in zip(*counts, strict=True)]


def say_drift(summary: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> str:
    """Whether this night's speech is like that of the nights before, and like the calibration's."""
    found = []
    if before:
        found.append(_against(summary["confidence_counts"], before))
    else:
        found.append("There is no earlier night to compare with.")
    if drift := summary["drift"]:
        found.append(f"Drift from the calibration: {drift_text(Drift(**drift))}.")
    return " ".join(found)


def _against(counts: Sequence[int], before: Sequence[Mapping[str, Any]]) -> str:
    expected = add_histograms(before)
    nights = f"the {len(before)} runs before" if len(before) > 1 else "the run before"
    if min(sum(counts), sum(expected)) < MIN_DRIFT_SEGMENTS:
        return (
            f"Fewer than {MIN_DRIFT_SEGMENTS} segments here or in {nights}: too few to tell whether"
            " the speech has changed."
        )
    psi = stability_index(expected, counts)
    now, then = _mean(counts), _mean(expected)
    means = f"mean confidence {now:.2f} here, {then:.2f} there, PSI {psi:.2f}"
    if psi <= _SLIGHT_PSI:
        return f"Confidence is as in {nights} ({means})."
    turn = "lower" if now < then else "higher"
    if psi <= DRIFT_PSI:
        return f"Confidence is a little {turn} than in {nights} ({means}): worth an eye."
    return (
        f"The speech has changed: confidence is {turn} than in {nights} ({means}). Listen below,"
        " and do not trust old thresholds before you have."
    )


def _mean(counts: Sequence[int]) -> float:
    spoken = np.array(counts[:-1], float)
    middles = (np.arange(len(spoken)) + 0.5) / len(spoken)
    return float((spoken * middles).sum() / max(spoken.sum(), 1.0))


def say_confidence(segments: Segments) -> str:
    """How sure the model was."""
    spoken = segments.confidence[~np.isnan(segments.confidence)]
    if not len(spoken):
        return "Nothing was said in any segment, so that none has a confidence."
    low = float((spoken < 0.5).mean())
    share = "none is" if not low else f"{low:.1%} are"
    return f"Half of the segments have {np.median(spoken):.2f} or more; {share} below 0.50."


def say_durations(segments: Segments) -> str:
    """How long segments are."""
    if not len(segments):
        return "There are no segments."
    middle, longest = np.median(segments.duration_s), segments.duration_s.max()
    return f"Half of the segments are shorter than {middle:.1f} s; the longest has {longest:.1f} s."


def say_yield(hours: Floats, cer: Floats | None, confidence: Floats) -> str:
    """How much is left when only the surest is kept.

    Args:
        hours: Of the surest one, two, … segments together.
        cer: Expected of the same; None without a calibration.
        confidence: Of each, falling.
    """
    if not len(hours):
        return "There is nothing to keep."
    found = []
    if cer is None:
        for bound in (0.9, 0.7):
            count = int((confidence >= bound).sum())
            share = hours[count - 1] / hours[-1] if count else 0.0
            found.append(f"{share:.0%} of the speech has a confidence of {bound:.2f} or more")
        return f"{'; '.join(found)}. koasr calibrate turns that into expected errors."
    for target in (0.05, 0.1):
        fits = np.flatnonzero(cer <= target)
        share = hours[fits[-1]] / hours[-1] if len(fits) else 0.0
        found.append(f"{share:.0%} of the speech at an expected CER of {target:.0%}")
    return f"The surest {' and '.join(found)}."


def say_errors(rates: Rates, summary: Mapping[str, Any]) -> str:
    """Errors against references, where there are some."""
    if "cer" in rates.rates:
        cer, wer = rates.rates["cer"], rates.rates.get("wer")
        text = f"CER {cer['value']:.2%} without spaces"
        if cer.get("low") is not None:
            text += f" (95% interval {cer['low']:.1%} to {cer['high']:.1%})"
        if wer:
            text += f", WER {wer['value']:.2%}"
        return f"{text}, {rates.said}, over {cer['length']:,} characters."
    found = []
    if summary.get("cer") is not None:
        chars = summary["errors"]["ref_chars"]
        found.append(
            f"CER {summary['cer']:.2%} without spaces, WER {summary['wer']:.2%}, texts compared as"
            f" they stand, over {chars:,} characters."
        )
    if rates.said:
        found.append(f"Not compared by subset: {rates.said}.")
    return " ".join(found)
