"""A whole night as one command: list, transcribe, verify, evaluate, select, report, notify."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from koasr.checkpoint import Checkpoint
from koasr.dates import check_date, dates_between, today
from koasr.ending import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TOO_MANY_REJECTS, Ending
from koasr.errors import JobError
from koasr.estimate import read_summaries
from koasr.job_file import USUAL
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.night import (
    Night,
    found_text,
    held_ending,
    note_runs,
    open_dates,
    run_step,
    unknown_runs,
)
from koasr.night_job import (
    DEFAULT_EVALUATE,
    DEFAULT_NOTIFY,
    DEFAULT_OPTIONS,
    DEFAULT_REPORT,
    EVALUATING,
    SELECTING,
    TELLING,
    Evaluate,
    Job,
    Notify,
    Report,
    Select,
    check_job,
)
from koasr.night_plan import print_plan
from koasr.night_record import STEPS, StepName, open_night
from koasr.night_steps import (
    evaluate_rows,
    list_new,
    notify_of,
    select_rows,
    transcribe_new,
    verify_rows,
    write_page,
)
from koasr.options import Options
from koasr.rows import short_hash
from koasr.stopping import EXIT_STOPPED, Stopped, seconds_left, stoppable
from koasr.storage import absolute, list_files
from koasr.summary import Summary, duration_text
from koasr.telling import Call, telling
from koasr.transcribe import open_model

_SEVERITY = (EXIT_DONE, EXIT_TOO_MANY_REJECTS, 2, 1, EXIT_STOPPED, EXIT_INTERRUPTED)
_MIN_LEFT_S = 60.0
"""With less than that before the deadline no night is begun."""


def nightly(
    inputs: Annotated[tuple[str, ...], Parameter(consume_multiple=True)],
    *,
    output: str,
    model: str,
    revision: str | None = None,
    date: str | None = None,
    dates: str | None = None,
    job: str | None = None,
    dry_run: bool = False,
    prune: bool = False,
    transcribe: Options = DEFAULT_OPTIONS,
    limits: Annotated[Limits, Parameter(show=False)] = DEFAULT_LIMITS,
    evaluate: Annotated[Evaluate, Parameter(group=EVALUATING)] = DEFAULT_EVALUATE,
    select: Annotated[Select | None, Parameter(group=SELECTING)] = None,
    report: Annotated[Report, Parameter(group=TELLING)] = DEFAULT_REPORT,
    notify: Annotated[Notify, Parameter(group=TELLING)] = DEFAULT_NOTIFY,
) -> int:
    """Do a whole night, or what is left of it.

    Args:
        inputs: As of koasr transcribe; {date} in one is the night's date.
        output: Folder or URI for transcripts/ and rejects/.
        model: Folder, URI or hub id of a Wav2Vec2ForCTC in safetensors.
        revision: Commit of a hub model, 40 hex digits.
        date: Of the night, YYYY-MM-DD; else today in UTC.
        dates: One night after another: 2026-11-01..2026-11-07.
        job: TOML file of these flags; else koasr.toml, if it is here.
        dry_run: Say what would be done, and how long it may take; write nothing.
        prune: Take out what has vanished from the inputs.
        transcribe: How it runs.
        limits: What untrusted input may ask.
        evaluate: References to compare with.
        select: Pseudo-labels to write.
        report: The morning page.
        notify: Who is told.
    """
    console = Console(soft_wrap=True)
    asked = Job(
        inputs=inputs,
        output=output,
        model=model,
        revision=revision,
        prune=prune,
        transcribe=transcribe,
        limits=limits,
        evaluate=evaluate,
        select=select,
        report=report,
        notify=notify,
    )
    if dry_run:
        for name in _dates(asked, date, dates):
            print_plan(asked.on(name), name, console)
        return EXIT_DONE
    with telling(output) as call:
        nights = _dates(asked, date, dates)
        named = job or (USUAL if Path(USUAL).is_file() else "its flags")
        which = nights[0] if len(nights) == 1 else f"{nights[0]} to {nights[-1]}"
        console.print(f"koasr: night {which}, into {absolute(output)}, by {named}", highlight=False)
        with stoppable(None):
            _do_nights(asked, nights, console, call)
    return call.ending.exit_code


def _dates(job: Job, date: str | None, dates: str | None) -> list[str]:
    if date and dates:
        raise JobError("--date and --dates: wanted one of them", 2)
    found = dates_between(dates) if dates else [check_date(date) if date else today()]
    check_job(job, found)
    return found


def _do_nights(job: Job, dates: Sequence[str], console: Console, call: Call) -> None:
    """One night after another, until one stops or leaves a run that the next would begin with."""
    options, started_s = job.transcribe, time.monotonic()
    limit_s = seconds_left(options.stop_at, options.max_hours, datetime.now())
    opened = lru_cache(maxsize=1)(partial(open_model, job.model, job.revision))
    endings: list[Ending] = []
    left = list(dates)
    while left:
        if limit_s is not None:
            left_s = limit_s - (time.monotonic() - started_s)
            if call.nights and left_s < _MIN_LEFT_S:
                endings.append(Ending("stopped", EXIT_STOPPED, "the deadline"))
                break
            hours = max(left_s, 1.0) / 3600
            job = replace(job, transcribe=replace(options, stop_at=None, max_hours=hours))
        date = left.pop(0)
        night = _do_night(job, date, console, opened, call)
        if night.ending.state != "done" and "list" not in night.failed:
            break
    endings += [Ending(told["state"], told["exit_code"], told["reason"]) for told in call.nights]
    worst = max(endings, key=lambda ending: _SEVERITY.index(ending.exit_code))
    if worst.exit_code:
        call.failure = worst
        print(f"koasr: {_hint(worst, left)}", file=sys.stderr)


def _hint(worst: Ending, left: Sequence[str]) -> str:
    """How it ended, and what that means for the next start."""
    if worst.state == "done":
        return f"done, but {worst.reason}: see rejects/, and koasr retry --help"
    nights = f"; not begun: {left[0]} to {left[-1]}" if left else ""
    return f"{worst.state}: {worst.reason}{nights}; the same command goes on from here"


def _do_night(
    job: Job, date: str, console: Console, opened: Callable[[], Checkpoint], call: Call
) -> Night:
    night, started_s = Night(job.on(date), open_night(job.output, date), console), time.monotonic()
    summaries: list[Summary] = []
    try:
        if run_step(night, "list", list_new):
            transcribe_new(night, opened, summaries)
        elif night.ending.state != "stopped":
            failed = night.failed["list"]
            night.ending = replace(failed, reason=f"list: {failed.reason}")
        if not night.is_cut:
            _end_others(job, night, summaries, started_s, call)
    except (Stopped, KeyboardInterrupt) as error:
        # Between two steps.
        night.stop(error)
    call.runs += summaries
    _wrap_up(night, started_s, call)
    return night


def _end_others(
    asked: Job, night: Night, summaries: list[Summary], started_s: float, call: Call
) -> None:
    """Earlier nights that were cut off have come to their end: their pages are to be read too."""
    date, console = night.record.date, night.console
    others = {run.date for run in summaries if run.state == "done"} - {date}
    told = read_summaries(night.record.output)
    others |= open_dates(night.record.output, told) - {date}
    for other in sorted(others):
        job = asked.on(other)
        earlier = Night(job, open_night(job.output, other), console)
        earlier.runs = [run for run in summaries if run.date == other]
        earlier.record.end("transcribe", "done")
        note_runs(earlier, unknown_runs(earlier.record, told))
        earlier.ending = held_ending(earlier)
        console.print(f"koasr: night {other} has come to its end with this one", highlight=False)
        _wrap_up(earlier, started_s, call)
        if earlier.is_cut:
            night.ending, night.is_cut = earlier.ending, True
            return


def _wrap_up(night: Night, started_s: float, call: Call) -> None:
    """What follows the transcripts, however they ended."""
    try:
        _later_steps(night, started_s)
    except (Stopped, KeyboardInterrupt) as error:
        # Between two steps: what is left of them is left out, and the news still come.
        night.stop(error)
        _later_steps(night, started_s)
    night.record.close(night.whole_ending())
    call.nights.append(night.told())
    _print_night(night, time.monotonic() - started_s)


def _later_steps(night: Night, started_s: float) -> None:
    job, record = night.job, night.record
    is_done = night.ending.state == "done"
    committed = night.committed() if is_done else ""
    rows: dict[StepName, tuple[Callable[[Night], dict[str, object]], str]] = {
        "verify": (verify_rows, committed),
        "evaluate": (evaluate_rows, short_hash(committed, repr(job.evaluate))),
        "select": (select_rows, short_hash(committed, repr(job.select))),
    }
    for name, (work, of) in rows.items():
        if night.ending.state == "done":
            run_step(night, name, work, of)
        else:
            night.leave_out(name)
    if night.is_cut:
        night.leave_out("report")
    else:
        evaluated = record.steps["evaluate"]
        if not record.report or not list_files(record.report):
            record.steps.pop("report", None)
        page_of = (committed, repr(job.report), evaluated.state, evaluated.of)
        run_step(night, "report", write_page, short_hash(*page_of) if is_done else "")
    if (held := record.steps.get("notify")) and held.state == "failed":
        # That an earlier attempt told nobody is no news.
        record.steps["notify"] = replace(held, state="running")
    whole = night.whole_ending()
    told_of = (committed, repr(whole), repr(job.notify), record.report or "")
    if whole.exit_code != EXIT_INTERRUPTED:
        wall_s = time.monotonic() - started_s
        run_step(night, "notify", partial(notify_of, wall_s=wall_s), short_hash(*told_of))


def _print_night(night: Night, wall_s: float) -> None:
    whole, record = night.whole_ending(), night.record
    why = f": {whole.reason}" if whole.state == "done" and whole.reason else ""
    night.say(f"night {record.date}: {whole.state} after {duration_text(wall_s)}{why}")
    for name in STEPS:
        if step := record.steps.get(name):
            told = step.reason or found_text(name, step.found)
            # No table: it would fold a URI, which is to be copied.
            night.console.print(Text(f"  {name:<12}{step.state:<9}{told}".rstrip()))
