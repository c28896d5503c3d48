"""A run of an output → the page that is read in the morning: one file, readable without network."""

from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console

from koasr.help import LIMITS
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.report_audio import Sound, cut_sounds
from koasr.report_errors import find_parts, read_rates, subset_keys
from koasr.report_page import list_sample, render, tell
from koasr.report_run import open_run, read_examples
from koasr.report_samples import choose_samples, read_samples
from koasr.report_segments import scan_segments
from koasr.report_time import find_cost
from koasr.report_words import say_errors
from koasr.storage import absolute, job_errors, write_result
from koasr.writable import check_file

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
        keys = subset_keys(segments)
        rates = read_rates(reported, segments, keys)
        page = tell(reported, segments) | {
            "cost": find_cost(reported.summary, gpu_hour_price, currency),
            "rates": rates,
            "errors_said": say_errors(rates, reported.summary),
            "parts": find_parts(reported, segments, keys, rates),
            "examples": read_examples(reported),
            "samples": [list_sample(s, sounds.get(s.row["segment_id"], Sound())) for s in listed],
            "with_audio": max_audio_mb is not None,
        }
    uri = absolute(out) if out is not None else reported.run.page
    write_result(uri, render(page).encode("utf-8", "replace"))
    return uri
