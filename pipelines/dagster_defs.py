"""koasr every night by Dagster: a date is a partition, a partition a Ray job, with checks on it.

Needs Dagster and Ray's client alone, in an environment of their own; docs/schedulers.md says how.
Settings are environment variables:

    RAY_API_SERVER_ADDRESS  job server of the cluster; http://127.0.0.1:8265
    RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH  Ray's own: `token`, and the file that holds it
    KOASR_START_DATE        first partition, as in 2026-11-22; required
    KOASR_COMMAND           the job, {date} in it; python pipelines/nightly.py --date {date}
    KOASR_WORKING_DIR       sent along, a checkout of koasr; none where the image has it
    KOASR_NAME              of this night among others: begins ids and asset; koasr
    KOASR_HOUR              of the schedule, 0 to 23, of the day after the date; 1
    KOASR_TIMEZONE          that dates and hour are of; UTC
    KOASR_RETRIES           of a job that failed or was stopped; 3
    KOASR_RETRY_DELAY_S     seconds before each; 300
    KOASR_POLL_S            seconds between two looks at a running job; 5
    KOASR_MAX_REJECT_RATE   that the check allows, of recordings; 0.05
    KOASR_MAX_EMPTY_RATE    that the check allows, of segments; 0.5
"""

import json
import os
import re
import time
from collections.abc import Callable
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

LINE_MARK, LINE_VERSION = "KOASR_SUMMARY", 1
EXIT_USAGE, EXIT_TOO_MANY_REJECTS = 2, 3
LOST_S = 300
"""Seconds without an answer of the job server after which an attempt is given up."""
STOP_S = 90
"""Seconds that a stopped job has: the driver's own 60, and what Ray takes."""
ENVIRONMENT = {
    "excludes": ["/tests", "/bench", "/examples", "/docs", "/runs"],
    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"},
}
"""As docs/jobs.md has it; whoever may ask for the job's status reads it."""


def setting(name: str, default: Any, read: Callable[[Any], Any], wanted: str) -> Any:
    """A variable of the environment; of a bad one, one line and the end.

    Not an error: it would be lost among those that Dagster makes of it.
    """
    found = os.environ.get(name, default)
    try:
        value = read(found)
    except (ValueError, OSError):
        value = None
    if value is None:
        raise SystemExit(f"koasr: {name}: found {found!r}, wanted {wanted}")
    return value


def number(name: str, default: float, low: float, high: float) -> Any:
    """A setting of the type of its default, and within bounds."""

    def read(found: Any) -> Any:
        value = type(default)(found)
        return value if low <= value <= high else None

    return setting(name, default, read, f"{low} to {high}")


def like(pattern: str) -> Callable[[str], str | None]:
    """Reads text that a pattern fits as a whole."""
    return lambda found: found if re.fullmatch(pattern, found, re.DOTALL) else None


def folder(found: str) -> str | None:
    """Reads the path of a folder, or nothing."""
    return found if not found or os.path.isdir(found) else None


_LOCAL, _NIGHTLY = "http://127.0.0.1:8265", "python pipelines/nightly.py --date {date}"
ADDRESS = setting("RAY_API_SERVER_ADDRESS", _LOCAL, like("https?://.+"), "http://HOST:PORT")
COMMAND = setting("KOASR_COMMAND", _NIGHTLY, like(r".*\{date\}.*"), "one with {date} in it")
WORKING_DIR = setting("KOASR_WORKING_DIR", "", folder, "a folder")
NAME = setting("KOASR_NAME", "koasr", like("[a-z][a-z0-9_]*"), "a-z, 0-9 and _")
START = setting("KOASR_START_DATE", "", date.fromisoformat, "the first date, as in 2026-11-22")
TIMEZONE = setting("KOASR_TIMEZONE", "UTC", ZoneInfo, "a time zone, as in Asia/Seoul").key
HOUR = number("KOASR_HOUR", 1, 0, 23)
RETRIES = number("KOASR_RETRIES", 3, 0, 100)
RETRY_DELAY_S = number("KOASR_RETRY_DELAY_S", 300.0, 0, 86_400)
POLL_S = number("KOASR_POLL_S", 5.0, 0.1, 600)
MAX_REJECT_RATE = number("KOASR_MAX_REJECT_RATE", 0.05, 0, 1)
MAX_EMPTY_RATE = number("KOASR_MAX_EMPTY_RATE", 0.5, 0, 1)
KEY = dg.AssetKey([NAME, "transcripts"])
CHECKS = {
    "reject_rate": dg.AssetCheckSeverity.ERROR,
    "empty_rate": dg.AssetCheckSeverity.WARN,
    "drift": dg.AssetCheckSeverity.WARN,
}


def newest_job(client: JobSubmissionClient, day: str) -> tuple[int, JobDetails | None]:
    """How many jobs the cluster has seen of a date, and the last of them."""
    pattern = re.compile(rf"{NAME}-{day}(?:-(\d+))?")
    found = {}
    for job in client.list_jobs():
        if match := pattern.fullmatch(job.submission_id or ""):
            found[int(match[1] or 1)] = job
    number = max(found, default=0)
    return number, found.get(number)


def is_done(job: JobDetails) -> bool:
    """Whether it came to its end: too many rejects are a matter of the checks."""
    return job.status == JobStatus.SUCCEEDED or job.driver_exit_code == EXIT_TOO_MANY_REJECTS


def open_job(client: JobSubmissionClient, day: str, noted: str | None, log: Any) -> str:
    """Id of the job to follow: the last one of the date, else a new one.

    Args:
        client: Of the cluster.
        day: Date of the partition.
        noted: Id of the job that the partition's last materialisation is of. A job that ended
            well while nobody looked is none of them, and is taken up, not done again.
        log: Dagster's.
    """
    number, job = newest_job(client, day)
    if job and (not job.status.is_terminal() or (is_done(job) and job.submission_id != noted)):
        log.info(f"{job.submission_id} is there ({job.status}): following it")
        return str(job.submission_id)
    submission_id = f"{NAME}-{day}" if number == 0 else f"{NAME}-{day}-{number + 1}"
    place = {"working_dir": WORKING_DIR} if WORKING_DIR else {}
    command = COMMAND.replace("{date}", day)
    try:
        client.submit_job(
            entrypoint=command, submission_id=submission_id, runtime_env=ENVIRONMENT | place
        )
        log.info(f"submitted {submission_id}: {command}")
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise
        log.info(f"{submission_id} was submitted by another a moment ago: following it")
    return submission_id


def follow(client: JobSubmissionClient, submission_id: str, log: Any) -> tuple[JobDetails, str]:
    """The job when it is over, and its logs, which are Dagster's too, a line at a time."""
    num_shown, answered_s = 0, time.monotonic()
    while True:
        try:
            job = client.get_job_info(submission_id)
            logs = client.get_job_logs(submission_id)
            answered_s = time.monotonic()
        except (OSError, RuntimeError) as error:
            if time.monotonic() - answered_s > LOST_S:
                raise
            log.warning(f"{ADDRESS} does not answer, asking again: {error}")
        else:
            is_over = job.status.is_terminal()
            end = len(logs) if is_over else logs.rfind("\n") + 1
            for line in logs[num_shown:end].splitlines():
                if line.strip() and not line.startswith(LINE_MARK):
                    log.info(line)
            num_shown = max(num_shown, end)
            if is_over:
                return job, logs
        time.sleep(POLL_S)


def stop(client: JobSubmissionClient, submission_id: str, log: Any) -> None:
    """Stop a job, and wait until it has put away what it was at."""
    log.info(f"stopping {submission_id}")
    try:
        client.stop_job(submission_id)
        deadline_s = time.monotonic() + STOP_S
        while not (status := client.get_job_status(submission_id)).is_terminal():
            if time.monotonic() > deadline_s:
                break
            time.sleep(0.5)
        log.info(f"{submission_id} is {status}; the next one goes on from there")
    except (OSError, RuntimeError) as error:
        log.error(f"{submission_id} goes on: {ADDRESS} did not take the stop: {error}")


def line_of(logs: str) -> dict[str, Any] | None:
    """What the job told of its end; None where it was killed before it could."""
    lines = [line for line in logs.splitlines() if line.startswith(LINE_MARK)]
    try:
        told = json.loads(lines[-1].removeprefix(LINE_MARK))
    except (IndexError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def check_end(job: JobDetails, told: dict[str, Any] | None) -> dict[str, Any]:
    """What the job told, if it is done; else the failure, and whether to try again.

    Not where it was used wrongly, nor where somebody or its deadline stopped it: another would go
    on into the day.
    """
    code, reason = job.driver_exit_code, str((told or {}).get("reason") or job.message)
    if job.status == JobStatus.STOPPED:
        raise dg.Failure(f"{job.submission_id} was stopped by hand", allow_retries=False)
    if not is_done(job):
        again = code != EXIT_USAGE and "deadline" not in reason
        text = f"{job.submission_id} ended with exit code {code}: {reason}"
        raise dg.Failure(text, allow_retries=again)
    if told is None or told.get("version") != LINE_VERSION:
        text = f"{job.submission_id} is done, without a {LINE_MARK} of version {LINE_VERSION}"
        raise dg.Failure(text, allow_retries=False)
    return told


def add_up(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Totals and rates of all runs that the job worked on: one, and older ones it finished."""
    names = ("recordings", "rejected", "segments", "empty_segments", "hours", "session_hours")
    total = {name: sum(run[name] for run in runs) for name in names}
    spoken = {run["run_id"]: run["segments"] - run["empty_segments"] for run in runs}
    confidence = sum((run["mean_confidence"] or 0) * spoken[run["run_id"]] for run in runs)
    drifts = [run["drift"] for run in runs if run["drift"]]
    return total | {
        "reject_rate": total["rejected"] / (total["recordings"] or 1),
        "empty_rate": total["empty_segments"] / (total["segments"] or 1),
        "rtfx": total["session_hours"] * 3600 / (sum(run["wall_s"] for run in runs) or 1),
        "mean_confidence": confidence / (sum(spoken.values()) or 1),
        "drift": max(drifts, key=lambda one: (one["has_drifted"], one["psi"] or 0), default=None),
    }


def check_results(total: dict[str, Any], exit_code: int | None) -> list[dg.AssetCheckResult]:
    """What the checks say of a night."""
    drift = total["drift"]
    has_drifted = drift is not None and drift["has_drifted"]
    few = exit_code != EXIT_TOO_MANY_REJECTS and total["reject_rate"] <= MAX_REJECT_RATE
    spoken = total["empty_rate"] <= MAX_EMPTY_RATE
    rejects = f"{total['rejected']:,} of {total['recordings']:,} recordings"
    empties = f"{total['empty_segments']:,} of {total['segments']:,} segments"
    psi = f"PSI {drift['psi']}" if drift else "no calibration to compare confidence with"
    promise = "what the calibration promises does not hold here: " if has_drifted else ""
    found = {
        "reject_rate": (few, f"{rejects} rejected; allowed are {MAX_REJECT_RATE:.1%}"),
        "empty_rate": (spoken, f"{empties} without speech; allowed are {MAX_EMPTY_RATE:.1%}"),
        "drift": (not has_drifted, promise + psi),
    }
    return [
        dg.AssetCheckResult(
            check_name=name,
            passed=passed,
            severity=CHECKS[name],
            description=description if total["recordings"] else "nothing was to do",
        )
        for name, (passed, description) in found.items()
    ]


def describe(told: dict[str, Any], total: dict[str, Any]) -> dict[str, Any]:
    """Metadata of a materialisation."""
    drift, report = total["drift"], str(told.get("report") or "")
    found = {name: total[name] for name in total if name != "drift"}
    found |= {name: told[name] for name in ("state", "exit_code", "reason", "output")}
    found["runs"] = ", ".join(run["run_id"] for run in told["runs"])
    if drift and drift["psi"] is not None:
        found["psi"] = drift["psi"]
    if report:
        is_url = report.startswith(("http://", "https://"))
        found["report"] = dg.MetadataValue.url(report) if is_url else report
    if told.get("steps"):
        found["steps"] = dg.MetadataValue.json(told["steps"])
    return found


def noted_id(context: dg.AssetExecutionContext) -> str | None:
    """Id of the job that the partition's last materialisation is of."""
    wanted = dg.AssetRecordsFilter(KEY, asset_partitions=[context.partition_key])
    for record in context.instance.fetch_materializations(wanted, limit=1).records:
        if (event := record.asset_materialization) and "submission_id" in event.metadata:
            return str(event.metadata["submission_id"].value)
    return None


def night(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """What one Ray job made of a date."""
    client, log = JobSubmissionClient(ADDRESS), context.log
    submission_id = open_job(client, context.partition_key, noted_id(context), log)
    try:
        job, logs = follow(client, submission_id, log)
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        stop(client, submission_id, log)
        raise
    told = check_end(job, line_of(logs))
    total = add_up(told["runs"])
    attempts = int(submission_id.removeprefix(f"{NAME}-{context.partition_key}")[1:] or 1)
    ids = {"submission_id": submission_id, "attempts": attempts}
    return dg.MaterializeResult(
        metadata=describe(told, total) | ids,
        check_results=check_results(total, job.driver_exit_code),
    )


def transcripts(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """What was new on a date, transcribed by one Ray job."""
    try:
        return night(context)
    except Exception as error:
        if isinstance(error, dg.Failure) and not error.allow_retries:
            raise
        # Not a RetryPolicy: that would submit the next job when somebody stops the run.
        raise dg.RetryRequested(RETRIES, RETRY_DELAY_S) from error


asset = dg.asset(
    key=KEY,
    partitions_def=dg.DailyPartitionsDefinition(START.isoformat(), timezone=TIMEZONE),
    check_specs=[dg.AssetCheckSpec(name, asset=KEY) for name in CHECKS],
    pool=NAME,  # One driver works on an output at a time, so dates take turns.
)(transcripts)
job = dg.define_asset_job(f"{NAME}_night", selection=[KEY])
schedule = dg.build_schedule_from_partitioned_job(job, hour_of_day=HOUR, minute_of_hour=0)
defs = dg.Definitions(
    assets=[asset], jobs=[job], schedules=[schedule], executor=dg.in_process_executor
)
