"""A run of an output → the page that is read in the morning: one file, readable without network."""

import base64
import hashlib
import unicodedata
from importlib import resources
from typing import Annotated, Any

import jinja2
import numpy as np
from cyclopts import Parameter, validators
from markupsafe import Markup
from rich.console import Console

from koasr import __version__
from koasr.help import LIMITS
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.report_audio import MAX_CLIP_S, Sound, cut_sounds
from koasr.report_charts import draw_confidence, draw_durations, draw_yield
from koasr.report_errors import find_parts, read_rates, subset_keys
from koasr.report_run import ReportedRun, Segments, open_run, read_examples, scan_segments
from koasr.report_samples import Sample, choose_samples, read_samples
from koasr.report_words import (
    add_histograms,
    comparable,
    find_cost,
    say_bound,
    say_confidence,
    say_date,
    say_drift,
    say_durations,
    say_errors,
    say_lead,
    say_rejects,
    say_start,
    say_state,
    say_yield,
    split_time,
)
from koasr.storage import absolute, job_errors, write_result
from koasr.summary import duration_text, rate_text
from koasr.writable import check_file

_NUM_NIGHTS = 7
_MAX_FIND = 2_000
"""Characters of a row that are searched."""
_from_0 = Parameter(validator=validators.Number(gte=0))


def report(
    output: str,
    /,
    *,
    run: str | None = None,
    out: str | None = None,
    gpu_hour_price: Annotated[float | None, _from_0] = None,
    currency: str = "$",
    samples: Annotated[int, _from_0] = 12,
    max_audio_mb: Annotated[float, _from_0] = 6.0,
    audio: bool = True,
    limits: Annotated[Limits, Parameter(name="*", group=LIMITS)] = DEFAULT_LIMITS,
) -> None:
    """Write the page of a run: what happened, and what to listen to.

    Args:
        output: Folder or URI of an earlier koasr transcribe.
        run: Which one; else the newest that has a summary.
        out: File or URI for the page; else report.html beside the run's summary.
        gpu_hour_price: What an hour of one GPU costs.
        currency: Stands before the price.
        samples: Segments of each kind to listen to: least confident, typical, at random.
        max_audio_mb: Megabytes of sound in the page, as it lies there.
        audio: Put their sound into the page.
        limits: What untrusted input may ask.

    Raises:
        JobError: There is no such run, it has no summary, or the page cannot be written.
    """
    uri = write_report(
        output,
        run,
        out=out,
        gpu_hour_price=gpu_hour_price,
        currency=currency,
        samples=samples,
        max_audio_mb=max_audio_mb if audio else None,
        limits=limits,
    )
    Console(soft_wrap=True, markup=False, highlight=False).print(f"koasr: the page is at {uri}")


def write_report(
    output: str,
    run_id: str | None = None,
    *,
    out: str | None = None,
    gpu_hour_price: float | None = None,
    currency: str = "$",
    samples: int = 12,
    max_audio_mb: float | None = 6.0,
    limits: Limits = DEFAULT_LIMITS,
) -> str:
    """Write the page of a run.

    Args:
        output: Folder or URI of an output.
        run_id: None for the newest that has a summary.
        out: File or URI for the page; None for `_koasr/runs/<run_id>/report.html` of the output.
        gpu_hour_price: What an hour of one GPU costs.
        currency: Stands before the price.
        samples: Segments of each kind to listen to.
        max_audio_mb: Megabytes of sound in the page; None for none at all.
        limits: What untrusted input may ask.

    Returns:
        URI of the page.

    Raises:
        JobError: There is no such run, it has no summary, or the page cannot be written.
    """
    if out is not None:
        check_file(out)
    reported = open_run(output, run_id)
    with job_errors(reported.run.output):
        segments = scan_segments(reported)
        chosen = choose_samples(segments, samples, reported.run.run_id)
        listed = read_samples(reported, segments, chosen)
        sounds: dict[str, Sound] = {}
        if max_audio_mb is not None:
            sounds = cut_sounds(reported, listed, int(max_audio_mb * 1e6), limits)
        page = {
            "summary": reported.summary,
            "cost": find_cost(reported.summary, gpu_hour_price, currency),
            **_figures(reported, segments),
            **_parts(reported, segments),
            "samples": [_listed(sample, sounds) for sample in listed],
            "with_audio": max_audio_mb is not None,
        }
    uri = absolute(out) if out is not None else reported.run.page
    write_result(uri, render(page).encode("utf-8", "replace"))
    return uri


def _figures(reported: ReportedRun, segments: Segments) -> dict[str, Any]:
    """What is said and drawn of the run as a whole."""
    summary = reported.summary
    before = comparable(summary, reported.earlier)
    told = say_confidence(segments)
    spoken = np.flatnonzero(~np.isnan(segments.confidence))
    order = spoken[np.argsort(-segments.confidence[spoken], kind="stable")]
    hours = segments.duration_s[order].astype(float).cumsum() / 3600
    confidence, cer = segments.confidence[order], segments.expected_cer[order].astype(float)
    chars = np.maximum(segments.num_chars[order], 1)
    is_calibrated = bool(len(order)) and not np.isnan(cer).any()
    forecast = np.cumsum(cer * chars) / np.cumsum(chars)
    kept = say_yield(hours, forecast if is_calibrated else None, confidence)
    values = forecast if is_calibrated else confidence
    charts = {}
    if len(order):
        counts = summary["confidence_counts"] or _count(segments)
        charts["confidence"] = draw_confidence(counts, add_histograms(before), told)
        charts["yield"] = draw_yield(hours, values, is_calibrated, kept)
    if len(segments):
        lengths = say_durations(segments)
        charts["durations"] = draw_durations(segments.duration_s, lengths)
    return {
        "charts": charts,
        "state": say_state(summary),
        "date": say_date(reported.run.date),
        "start": say_start(reported.run.run_id),
        "lead": say_lead(summary),
        "rejects_said": say_rejects(summary),
        "bound": say_bound(summary),
        "times": split_time(summary),
        "drift": say_drift(summary, before),
        "confidence_said": told,
        "durations_said": say_durations(segments),
        "yield_said": kept,
        "nights": [*reported.earlier[-_NUM_NIGHTS:], summary],
        "output": reported.run.output,
    }


def _count(segments: Segments) -> list[int]:
    counts, _ = np.histogram(segments.confidence, 100, (0.0, 1.0))
    return [*counts.tolist(), int(np.isnan(segments.confidence).sum())]


def _parts(reported: ReportedRun, segments: Segments) -> dict[str, Any]:
    """What is said of its parts: subsets, references, rejects."""
    keys = subset_keys(segments)
    rates = read_rates(reported, segments, keys)
    return {
        "rates": rates,
        "errors_said": say_errors(rates, reported.summary),
        "parts": find_parts(reported, segments, keys, rates),
        "examples": read_examples(reported),
    }


def _listed(sample: Sample, sounds: dict[str, Sound]) -> dict[str, Any]:
    """A row of the listening table."""
    row, sound = sample.row, sounds.get(sample.row["segment_id"], Sound())
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


def _policy(css: str, js: str) -> str:
    """What the page may do: run its own script, show its own style, play what lies in it."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; style-src {digest(css)}; script-src {digest(js)}; "
        "img-src data:; media-src data:; base-uri 'none'; form-action 'none'"
    )
