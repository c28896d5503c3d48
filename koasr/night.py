"""One night as it goes on: its steps, what they came to, and how that is told."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from koasr.ending import EXIT_TOO_MANY_REJECTS, Ending, ending_of
from koasr.errors import JobError
from koasr.night_job import Job
from koasr.night_record import NightRecord, StepName, is_run_id, open_night
from koasr.rows import short_hash
from koasr.runs import open_plan
from koasr.stopping import Stopped
from koasr.storage import job_errors, join, list_files, list_names, read_bytes
from koasr.summary import Summary, duration_text

_log = logging.getLogger(__name__)


class Skipped(Exception):
    """There is nothing to do in a step, and this is why."""


@dataclass
class Night:
    """One night as it goes on.

    Attributes:
        job: Of its date.
        record: Of its date.
        console: For the user.
        runs: Summaries of what this call worked on, of this date.
        ending: How its transcripts came to their end.
        is_cut: Whether it was told to end at once.
        failed: How each step ended that failed in this call.
    """

    job: Job
    record: NightRecord
    console: Console
    runs: list[Summary] = field(default_factory=list)
    ending: Ending = field(default_factory=Ending)
    is_cut: bool = False
    failed: dict[StepName, Ending] = field(default_factory=dict)

    def say(self, line: str) -> None:
        """A line for the user."""
        self.console.print(f"koasr: {line}", highlight=False)

    def committed(self) -> str:
        """A hash of the objects of its date: what the later steps are done for."""
        folder = join(self.record.output, "transcripts", f"date={self.record.date}")
        with job_errors(folder):
            return short_hash(*(f"{file.uri} {file.version}" for file in list_files(folder)))

    def stop(self, error: BaseException) -> None:
        """Note that it was told to end: `Stopped`, or an interrupt from the keyboard."""
        self.ending, self.is_cut = ending_of(error), _is_signal(error)

    def leave_out(self, name: StepName) -> None:
        """Note that a step is not done now; what was done before stays done."""
        held = self.record.steps.get(name)
        if held is None or held.state != "done":
            ended = f"the night {self.ending.state}"
            self.record.end(name, "skipped", "the night was told to end" if self.is_cut else ended)

    def whole_ending(self) -> Ending:
        """How it ended, with the steps that failed: that of the transcripts passes through."""
        failed = [f"{n}: {s.reason}" for n, s in self.record.steps.items() if s.state == "failed"]
        reason = "; ".join(dict.fromkeys([self.ending.reason, *failed])).removeprefix("; ")
        if self.ending.state != "done" or not failed:
            return Ending(self.ending.state, self.ending.exit_code, reason)
        return Ending("failed", 1, reason)

    def told(self) -> dict[str, Any]:
        """As the line for schedulers has it."""
        whole = self.whole_ending()
        place = {"date": self.record.date, "state": whole.state, "exit_code": whole.exit_code}
        steps = {"steps": self.record.states(), "report": self.record.report}
        return {**place, "reason": whole.reason, **steps}


def run_step(
    night: Night, name: StepName, work: Callable[[Night], dict[str, Any]], of: str = ""
) -> bool:
    """Do a step and note how it ended; a failure ends the step, not the night.

    Args:
        night: Of which it is a step.
        name: Of the step.
        work: Does it; gives what came out.
        of: What it is done for; where that was done, nothing is.

    Returns:
        Whether it did not fail.
    """
    record = night.record
    if record.is_done(name, of):
        night.say(f"{name}: done before")
        return True
    record.begin(name, of)
    try:
        record.end(name, "done", found=work(night))
    except Skipped as skipped:
        record.end(name, "skipped", str(skipped))
        night.say(f"{name}: skipped, {skipped}")
    except (Stopped, KeyboardInterrupt) as error:
        night.stop(error)
        record.end(name, "stopped", night.ending.reason)
        return False
    except Exception as error:
        if not isinstance(error, JobError):
            _log.exception("%s failed", name)
        night.failed[name] = ending_of(error)
        record.end(name, "failed", night.failed[name].reason)
        night.say(f"{name}: failed: {night.failed[name].reason}")
        return False
    return True


def _is_signal(error: BaseException) -> bool:
    """Whether whoever asks wants it over; a deadline leaves time for the page."""
    return isinstance(error, KeyboardInterrupt) or str(error) == "SIGTERM"


def unknown_runs(record: NightRecord, told: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runs of a night that have come to their end, and that its record does not know.

    Its driver was killed between the end of the run and its note, or told to stop, or the run was
    done without a night. A retry makes no night's rows.

    Args:
        record: Of the night.
        told: Summaries of the output's runs.
    """
    found = []
    for summary in told:
        run_id = summary.get("run_id")
        is_ours = (summary.get("date"), summary.get("state")) == (record.date, "done")
        if is_ours and is_run_id(run_id) and run_id not in record.run_ids:
            plan = join(record.output, "_koasr", "runs", run_id, "plan.parquet")
            with suppress(FileNotFoundError, JobError):
                run, _ = open_plan(record.output, plan)
                found += [] if run.retry or run.run_id != run_id else [run_id]
    return sorted(found)


def open_dates(output: str, told: Sequence[Mapping[str, Any]]) -> set[str]:
    """Dates of nights whose runs have come to their end without their record knowing.

    Args:
        output: Where it is.
        told: Summaries of its runs.
    """
    recorded = {name.removesuffix(".json") for name in list_names(join(output, "_koasr", "nights"))}
    dates = {str(one.get("date")) for one in told if one.get("state") == "done"} & recorded
    return {date for date in dates if unknown_runs(open_night(output, date), told)}


def held_ending(night: Night) -> Ending:
    """How the transcripts of a night came out that are done: by all that it holds.

    Not by the runs of this call, so that the same command, with nothing new, says the same.
    """
    told = read_summaries(night.record).values()
    recordings = sum(summary["recordings"] for summary in told)
    rate = sum(summary["rejected"] for summary in told) / recordings if recordings else 0.0
    limit = night.job.transcribe.max_reject_rate
    if rate <= limit:
        return Ending()
    reason = f"{rate:.1%} rejected, more than --max-reject-rate {limit:g}"
    return Ending("done", EXIT_TOO_MANY_REJECTS, reason)


def note_runs(night: Night, unknown: Sequence[str] = ()) -> None:
    """Keep in the record which runs made the night's rows, and what they came to.

    Args:
        night: With the runs of this call.
        unknown: Runs that an earlier call did and did not note.
    """
    record, step = night.record, night.record.steps["transcribe"]
    for run_id in [*unknown, *(run.run_id for run in night.runs)]:
        if run_id not in record.run_ids:
            record.run_ids.append(run_id)
    told = read_summaries(record) | {run.run_id: run.to_json() for run in night.runs}
    names = ("shards", "recordings", "transcribed", "rejected", "segments", "hours")
    found = {name: sum(summary[name] for summary in told.values()) for name in names}
    record.end("transcribe", step.state, step.reason, found)


def read_summaries(record: NightRecord) -> dict[str, dict[str, Any]]:
    """run_id → summary of each run of a night; of one that was killed there is none."""
    found = {}
    for run_id in record.run_ids:
        place = join(record.output, "_koasr", "runs", run_id, "summary.json")
        with suppress(FileNotFoundError, ValueError):
            found[run_id] = dict(json.loads(read_bytes(place)))
    return found


def found_text(name: StepName, found: Mapping[str, Any]) -> str:
    """What came out of a step, for a person."""
    if not found:
        return ""
    if name == "list":
        return f"{found['shards']:,} shards, {found['files']:,} loose files"
    if name == "transcribe":
        if not found["recordings"]:
            return "nothing new"
        hours = duration_text(found["hours"] * 3600)
        done, rejected = found["transcribed"], found["rejected"]
        return f"{done:,} recordings ({hours}) transcribed, {rejected:,} rejected"
    if name == "verify":
        return "no differences"
    if name == "evaluate":
        rates = [f"{n.upper()} {found[n]:.2%}" for n in ("cer", "wer") if found[n] is not None]
        return ", ".join([*rates, f"{found['recordings']:,} recordings"])
    if name == "select":
        return f"{found['segments']:,} segments, {found['hours']:,.2f} h"
    return ", ".join(str(value) for value in found.values())


def sentence(night: Night) -> str:
    """How a night went, for a person."""
    whole, record = night.whole_ending(), night.record
    parts = [f"koasr, night {record.date}: {whole.state}"]
    if whole.reason:
        parts.append(whole.reason)
    if step := record.steps.get("transcribe"):
        parts.append(found_text("transcribe", step.found))
    if record.report:
        parts.append(f"page: {record.report}")
    return "; ".join(filter(None, parts))
