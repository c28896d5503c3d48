"""What is known of a run → the page: figures, sentences, charts and rows in one HTML file."""

import base64
import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from koasr import __version__
from koasr.report_audio import MAX_CLIP_S, Sound
from koasr.report_charts import draw_confidence, draw_durations, draw_yield
from koasr.report_nights import add_histograms, comparable, say_drift
from koasr.report_run import ReportedRun
from koasr.report_samples import Sample
from koasr.report_segments import Segments
from koasr.report_time import say_bound, split_time
from koasr.report_words import (
    say_confidence,
    say_date,
    say_durations,
    say_lead,
    say_rejects,
    say_start,
    say_state,
    say_yield,
)
from koasr.summary import duration_text, rate_text

_NUM_NIGHTS = 7
_MAX_FIND = 2_000
"""Characters of a row that are searched."""


@dataclass(frozen=True)
class Chart:
    """A diagram, and what it says."""

    title: str
    svg: Markup
    said: str


def tell(reported: ReportedRun, segments: Segments) -> dict[str, Any]:
    """What is said and drawn of a run as a whole."""
    summary = reported.summary
    before = comparable(summary, reported.earlier)
    return {
        "summary": summary,
        "state": say_state(summary),
        "date": say_date(reported.run.date),
        "start": say_start(reported.run.run_id),
        "lead": say_lead(summary),
        "rejects_said": say_rejects(summary),
        "bound": say_bound(summary),
        "times": split_time(summary),
        "drift": say_drift(summary, before),
        "nights": [*reported.earlier[-_NUM_NIGHTS:], summary],
        "output": reported.run.output,
        "charts": _draw(segments, summary["confidence_counts"], add_histograms(before)),
    }


def _draw(segments: Segments, counts: Sequence[int], before: Sequence[int]) -> list[Chart]:
    """The charts that there is something for."""
    charts = []
    spoken = np.flatnonzero(~np.isnan(segments.confidence))
    if len(spoken):
        told = say_confidence(segments)
        svg = draw_confidence(counts or _count(segments), before, told)
        charts.append(Chart("How sure the model was", svg, told))
        order = spoken[np.argsort(-segments.confidence[spoken], kind="stable")]
        hours = segments.duration_s[order].astype(float).cumsum() / 3600
        confidence, cer = segments.confidence[order], segments.expected_cer[order].astype(float)
        chars = np.maximum(segments.num_chars[order], 1)
        forecast = None if np.isnan(cer).any() else np.cumsum(cer * chars) / np.cumsum(chars)
        told = say_yield(hours, forecast, confidence)
        charts.append(
            Chart("Yield, the surest first", draw_yield(hours, confidence, forecast, told), told)
        )
    if len(segments):
        told = say_durations(segments)
        charts.append(
            Chart("How long segments are", draw_durations(segments.duration_s, told), told)
        )
    return charts


def _count(segments: Segments) -> list[int]:
    counts, _ = np.histogram(segments.confidence, 100, (0.0, 1.0))
    return [*counts.tolist(), int(np.isnan(segments.confidence).sum())]


def list_sample(sample: Sample, sound: Sound) -> dict[str, Any]:
    """A row of the listening table."""
    row = sample.row
    words = [
        {
            "text": word["text"] or "",
            "confidence": word["confidence"],
            "start_s": max((word["start_s"] or 0.0) - row["start_s"], 0.0),
            "level": _level(word["confidence"]),
        }
        for word in row["words"] or ()
    ]
    sought = [row["text"], row["reference"], row["source_key"], row["source_uri"]]
    sought += sample.metadata.values()
    return {
        "kinds": sample.kinds,
        "row": row,
        "sound": sound,
        "wave": _outline(sound.peaks),
        "is_cut": row["end_s"] - row["start_s"] > MAX_CLIP_S,
        "words": words,
        "name": row["source_key"] or row["source_uri"].rsplit("/", 1)[-1],
        "find": " ".join(filter(None, sought))[:_MAX_FIND],
        "diff": sample.diff,
        "cer": sample.errors / sample.ref_chars if sample.ref_chars else None,
        "metadata": sample.metadata,
    }


def _level(confidence: float | None) -> int:
    """How sure a word is: 3 for sure, 0 for not at all."""
    return sum((confidence or 0.0) >= bound for bound in (0.5, 0.7, 0.9))


def _outline(peaks: tuple[float, ...]) -> str:
    """Path of a wave, a line a peak, in a box of a unit a peak and 40 high."""
    return "".join(f"M{x}.5 {20 - 18 * p:.1f}v{36 * p + 0.4:.1f}" for x, p in enumerate(peaks))


def shown(value: object) -> str:
    r"""Text from data as a page can show it: what would steer the text around it is spelled out.

    Example:
        >>> shown("5 dB\x1b \u202egnp"), shown("가\u0000")
        ('5 dB\\x1b \\u202egnp', '가\\x00')
    """
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else char
        for char in str(value)
    )


def render(page: dict[str, Any]) -> str:
    """The page: template, style, script and data in one."""
    files = resources.files("koasr")
    css, js, source = (
        (files / f"report.{kind}").read_text("utf-8") for kind in ("css", "js", "html.j2")
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "shown": shown,
        "percent": _percent,
        "count": _say_count,
        "duration": duration_text,
        "rate": rate_text,
        "reason": lambda name: str(name).replace("_", " "),
    }
    return environment.from_string(source).render(
        page,
        css=Markup(css),
        js=Markup(js),
        policy=_policy(css, js),
        version=__version__,
    )


def _percent(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}%}"


def _say_count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _policy(css: str, js: str) -> str:
    """What the page may do: run its own script, show its own style, play what lies in it."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {digest(css)}; script-src {digest(js)}; "
        "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )
