"""The steps of one night: each does its work, or says why there is none, and what came out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from koasr.checkpoint import Checkpoint
from koasr.errors import JobError
from koasr.estimate import cost_text, estimate, pace_text, work_text
from koasr.estimate import read_summaries as read_all
from koasr.evaluate import measure, to_json
from koasr.night import (
    Night,
    Skipped,
    held_ending,
    note_runs,
    read_summaries,
    run_step,
    sentence,
    unknown_runs,
)
from koasr.night_record import NightRecord
from koasr.notify import check_webhook, post, write
from koasr.report import write_report
from koasr.select import select
from koasr.storage import absolute, job_errors, join, remove, write_result
from koasr.summary import Summary
from koasr.telling import Call
from koasr.transcribe import check_stores, transcribe
from koasr.verify import verify


def list_new(night: Night) -> dict[str, Any]:
    """Say what there is to do, and how long it may take."""
    job = night.job
    found = estimate(
        job.inputs, job.output, night.record.date, job.limits, job.transcribe.num_actors
    )
    night.say(f"to do: {work_text(found)}")
    if found.shards + found.files:
        took = "" if found.wall_s is None else f"may take {cost_text(found)}; "
        night.say(f"{took}{pace_text(found)}")
    sizes = {"size_bytes": found.size_bytes, "estimated_audio_s": round(found.audio_s, 1)}
    return {"shards": found.shards, "files": found.files, **sizes}


def transcribe_new(
    night: Night, open_checkpoint: Callable[[], Checkpoint], summaries: list[Summary]
) -> None:
    """Transcribe, and note the ending.

    Args:
        night: Its ending is filled in.
        open_checkpoint: Opens the model.
        summaries: Get one of each run, of other dates too: an unfinished one is gone on with first.
    """
    job, record = night.job, night.record

    def work(_: Night) -> dict[str, Any]:
        check_stores([*job.inputs, job.output, job.model])
        options, limits = job.transcribe, job.limits
        checkpoint = open_checkpoint()
        transcribe(
            list(job.inputs), job.output, checkpoint, options, limits, night.console, summaries
        )
        return {}

    is_well = run_step(night, "transcribe", work)
    night.runs = [summary for summary in summaries if summary.date == record.date]
    if failed := night.failed.get("transcribe"):
        night.ending = replace(failed, reason=f"transcribe: {failed.reason}")
    note_runs(night, unknown_runs(record, read_all(job.output)))
    if is_well:
        night.ending = held_ending(night)


def verify_rows(night: Night) -> dict[str, Any]:
    """Count again what the objects of this date hold."""
    record = night.record
    _newest_run(record)
    if verify(record.output, date=record.date):
        command = f"koasr verify {record.output} --date {record.date}"
        raise JobError(f"what is there differs from what was noted: see {command}")
    return {"differences": 0}


def evaluate_rows(night: Night) -> dict[str, Any]:
    """Compare the rows of this date with references, for the morning page."""
    asked, record = night.job.evaluate, night.record
    if asked.references is None and not _came_with_references(record):
        raise Skipped("no references")
    place = join(_newest_run(record), "evaluation.json")
    # The page would show it as this one's, should this one fail.
    with job_errors(place):
        remove(place)
    found = measure(
        record.output, asked.references, asked.normalizer, date=record.date, by=asked.by
    )
    write_result(place, to_json(found.document))
    rates = found.document["rates"]
    figures = {name: rates[name]["value"] for name in ("cer", "wer")}
    return {"recordings": found.document["counts"]["recordings"], **figures}


def _newest_run(record: NightRecord) -> str:
    if not record.run_ids:
        raise Skipped("no run has transcribed anything on this date")
    return join(record.output, "_koasr", "runs", record.run_ids[-1])


def _came_with_references(record: NightRecord) -> bool:
    return any(found["errors"]["ref_chars"] for found in read_summaries(record).values())


def select_rows(night: Night) -> dict[str, Any]:
    """Write the night's pseudo-labels."""
    asked, record = night.job.select, night.record
    if asked is None:
        raise Skipped("not asked for")
    _newest_run(record)
    return select(
        record.output,
        date=record.date,
        order=asked.order,
        calibration=asked.calibration,
        filters=asked.filters,
        to=asked.to,
        out=asked.out,
        trim=asked.trim,
        limits=night.job.limits,
    )


def write_page(night: Night) -> dict[str, Any]:
    """Write the morning page of the night's newest run."""
    record = night.record
    run_id = _newest_run(record).rsplit("/", 1)[-1]
    asked = night.job.report
    record.report = write_report(
        record.output,
        run_id,
        gpu_hour_price=asked.gpu_hour_price,
        currency=asked.currency,
        limits=night.job.limits,
    )
    return {"report": record.report}


def notify_of(night: Night, wall_s: float) -> dict[str, Any]:
    """Tell the webhook and the file."""
    asked, record = night.job.notify, night.record
    if not asked.webhook and not asked.file:
        raise Skipped("nobody to tell")
    told = night.told()
    told["steps"].pop("notify", None)
    whole = night.whole_ending()
    call = Call(record.output, list(night.runs), whole, [told])
    document, text = call.to_json(wall_s), sentence(night)
    found = {}
    if asked.file:
        write(asked.file, document, text)
        found["file"] = absolute(asked.file)
    if asked.webhook:
        post(asked.webhook, document, text, **({"attempts": 1} if night.is_cut else {}))
        found["webhook"] = check_webhook(asked.webhook)
    return found
