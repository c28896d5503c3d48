"""A run of an output → the page that is read in the morning: one file, readable without network."""

import math
from typing import Annotated, Any

from cyclopts import Parameter, validators
from rich.console import Console

from koasr.errors import JobError
from koasr.help import LIMITS
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.report_audio import Sound, cut_sounds
from koasr.report_errors import find_parts, read_rates, subset_keys
from koasr.report_page import list_sample, render, tell
from koasr.report_run import ReportedRun, open_run, read_examples
from koasr.report_samples import choose_samples, read_samples
from koasr.report_segments import scan_segments
from koasr.report_time import find_cost
from koasr.report_words import say_errors
from koasr.runs import is_forgotten_key, read_forgotten
from koasr.storage import absolute, job_errors, remove, result_place, write_result
from koasr.writable import check_file

_NUM_TRIES = 2
_from_0 = Parameter(validator=validators.Number(gte=0))


def check_megabytes(_: object, value: float) -> None:
    """Refuse what is no size: NaN passes every bound, and infinity is none.

    Raises:
        ValueError: It is no number from 0 on.
    """
    if not 0 <= value < math.inf:
        raise ValueError("Must be a number from 0 on.")


def report(
    output: str,
    /,
    *,
    run: str | None = None,
    out: str | None = None,
    gpu_hour_price: Annotated[float | None, _from_0] = None,
    currency: str = "$",
    samples: Annotated[int, _from_0] = 12,
    max_audio_mb: Annotated[float, Parameter(validator=check_megabytes)] = 6.0,
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
    for _ in range(_NUM_TRIES):
        reported = open_run(output, run_id)
        uri = absolute(out) if out is not None else reported.run.page
        with job_errors(reported.run.output):
            known = read_forgotten(reported.run.output)
            page = _tell_all(reported, samples, max_audio_mb, limits)
            page["cost"] = find_cost(reported.summary, gpu_hour_price, currency)
        write_result(uri, render(page).encode("utf-8", "replace"))
        with job_errors(uri):
            if not _shows_forgotten(page, known, read_forgotten(reported.run.output)):
                return uri
            remove(result_place(uri))
    raise JobError(
        "the page was taken away, as it showed recordings that are being forgotten: run koasr"
        " report again after koasr forget"
    )


def _tell_all(
    reported: ReportedRun, samples: int, max_audio_mb: float | None, limits: Limits
) -> dict[str, Any]:
    """Everything on the page but what the run cost."""
    segments = scan_segments(reported)
    chosen = choose_samples(segments, samples, reported.run.run_id)
    listed = read_samples(reported, segments, chosen)
    sounds: dict[str, Sound] = {}
    if max_audio_mb is not None:
        sounds = cut_sounds(reported, listed, int(max_audio_mb * 1e6), limits)
    keys = subset_keys(segments)
    rates = read_rates(reported, segments, keys)
    return tell(reported, segments) | {
        "rates": rates,
        "errors_said": say_errors(rates, reported.summary),
        "parts": find_parts(reported, segments, keys, rates),
        "examples": read_examples(reported),
        "samples": [list_sample(s, sounds.get(s.row["segment_id"], Sound())) for s in listed],
        "with_audio": max_audio_mb is not None,
    }


def _shows_forgotten(page: dict[str, Any], before: frozenset[str], after: frozenset[str]) -> bool:
    """Whether recordings were forgotten while a page was made, or it shows some that are.

    koasr forget holds a lease that a page does not wait for. It writes its hashes first and looks
    for pages last: whichever of the two comes later sees the other.

    Args:
        page: What is on it.
        before: Keys of what was forgotten before anything was read for the page.
        after: The same once it was written.
    """
    rows = [sample["row"] for sample in page["samples"]]
    rows += [reject for rejects in page["examples"].values() for reject in rejects]
    return before != after or any(is_forgotten_key(row["recording_id"]) in after for row in rows)
