"""Figures of a run → what they say, in sentences."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from koasr.calibration import Floats
from koasr.report_errors import Rates
from koasr.report_segments import Segments
from koasr.summary import duration_text, rate_text

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
    lead = f"{speech} of speech from {summary['transcribed']:,} of {count}"
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
        return f"{text}, {rates.said}, over {cer['length']:,.0f} characters."
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
