"""One call of the job: check, plan, run, account."""

import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from koasr import segments
from koasr.checkpoint import Checkpoint, open_checkpoint
from koasr.errors import JobError
from koasr.options import Device, FloatType, Options, Precision
from koasr.progress import RunProgress
from koasr.rows import SAMPLE_RATE, Shard
from koasr.runs import (
    Run,
    check_output,
    committed_files,
    fingerprint_of,
    list_committed,
    read_plan,
    shard_name,
    unfinished_runs,
    write_format,
    write_plan,
)
from koasr.sources import group_files, list_inputs
from koasr.storage import absolute, check_reachable, job_errors, join, write_bytes
from koasr.summary import Summary, print_summary, summarize

if TYPE_CHECKING:
    from koasr.job import Compute

EXIT_DONE, EXIT_TOO_MANY_REJECTS = 0, 3
_CPU_BATCH_SECONDS, _GPU_BATCH_SECONDS = 40.0, 240.0
_THREADS_PER_CPU_ACTOR = 4


def _settle_device(device: Device) -> str:
    """`cuda` where the cluster has GPUs. Starting one only to look would take seconds."""
    if device != "auto":
        return device
    if os.environ.get("RAY_ADDRESS"):
        from koasr import job

        job.connect()
        return "cuda" if job.cluster_resources().get("GPU") else "cpu"
    return "cuda" if any(Path("/dev").glob("nvidia[0-9]*")) else "cpu"


def _settle_precision(precision: Precision, device: str) -> FloatType:
    if precision != "auto":
        return precision
    return "float16" if device == "cuda" else "float32"


def fingerprint_parts(checkpoint: Checkpoint, precision: str) -> dict[str, str]:
    """Everything that shapes a transcript.

    The model counts by the content of its files, not by where they lie: a copy is the same model.
    """
    limits = (segments.MIN_SEGMENT, segments.MAX_SEGMENT, segments.MAX_UNBROKEN, segments.STRIDE)
    return {
        "model": checkpoint.weights_sha256[:16],
        "precision": precision,
        "segmenting": "pauses " + "/".join(str(limit // SAMPLE_RATE) for limit in limits) + " s",
        "normalizing": "per segment, floor -60 dBFS" if checkpoint.do_normalize else "none",
        "decoding": "greedy",
        "schema": "1",
    }


def _plan(inputs: list[str], run: Run, console: Console) -> dict[str, Shard]:
    """What the inputs hold and the output lacks."""
    listing = list_inputs(inputs)
    with job_errors(run.output):
        committed = list_committed(run.output)
        done = committed_files(committed) if listing.files else set()
    fresh = [file for file in listing.files if (file.uri, file.version) not in done]
    shards = [*listing.shards, *group_files(fresh)]
    names = {shard_name(shard, run.fingerprint): shard for shard in shards}
    todo = {name: shard for name, shard in names.items() if name not in committed}
    size_mb = sum(shard.size_bytes for shard in todo.values()) / 1e6
    files = sum(len(shard.files) for shard in todo.values())
    single = sum(shard.kind != "files" for shard in todo.values())
    console.print(
        f"koasr: found {len(listing.shards)} shards and {len(listing.files)} loose files;"
        f" to do: {single} and {files} ({size_mb:,.1f} MB);"
        f" {len(listing.ignored)} other files are no speech",
        highlight=False,
    )
    return todo


def _runs(inputs: list[str], fresh: Run, console: Console) -> Iterator[Run]:
    """Runs to do: the unfinished ones first, so that groups of loose files never shift."""
    for run in unfinished_runs(fresh.output):
        console.print(f"koasr: going on with the unfinished run {run.run_id}", highlight=False)
        yield run
    todo = _plan(inputs, fresh, console)
    if todo:
        write_plan(fresh, todo.values())
        yield fresh


def _execute(run: Run, checkpoint: Checkpoint, options: Options, console: Console) -> Summary:
    from koasr import job

    started_s = time.monotonic()
    job.connect()
    device = _settle_device(options.device)
    compute = settle_compute(options, device, job.cluster_resources())
    plan = read_plan(run)
    console.print(
        f"koasr: {compute.num_actors} actor(s) on {device} in {compute.precision};"
        f" run {run.run_id}, date {run.date}",
        highlight=False,
    )
    records = []
    committed = list_committed(run.output)
    total_bytes = sum(shard.size_bytes for name, shard in plan.items() if name not in committed)
    with RunProgress(console, total_bytes=total_bytes, num_shards=len(plan)) as progress:
        for event in job.execute(run, checkpoint, compute):
            if isinstance(event, job.Receipt):
                progress.add_pack(event.audio_s, event.size_bytes, event.num_rejects)
            else:
                records.append(event)
                progress.add_shard()
    if len(records) != len(plan):
        raise JobError(f"{len(records)} of {len(plan)} shards were committed: run it again")
    names = {"run_id": run.run_id, "date": run.date, "output": run.output}
    names |= {"model": checkpoint.model, "fingerprint": run.fingerprint}
    wall_s = time.monotonic() - started_s
    return summarize(records, names=names, session_audio_s=progress.audio_s, wall_s=wall_s)


def settle_compute(options: Options, device: str, resources: dict[str, float]) -> "Compute":
    """Fit the job to the cluster.

    Half of the CPUs feed the other half, however many actors share it: actors that held every
    CPU would wait for ever for tasks that cannot start.

    Args:
        options: What the user asked for.
        device: `cpu` or `cuda`.
        resources: What the cluster has, by Ray's names.
    """
    from koasr.job import Compute

    cpus = max(1.0, resources.get("CPU", 1.0))
    gpus = int(resources.get("GPU", 0))
    if device == "cuda" and not gpus and options.num_actors is None:
        raise JobError("--device cuda, but the cluster has no GPU: add one or pass --device cpu")
    threads = min(_THREADS_PER_CPU_ACTOR, int(cpus))
    fitting = gpus if device == "cuda" else int(cpus) // _THREADS_PER_CPU_ACTOR
    num_actors = options.num_actors or max(1, fitting)
    default_batch = _GPU_BATCH_SECONDS if device == "cuda" else _CPU_BATCH_SECONDS
    return Compute(
        device=device,
        precision=_settle_precision(options.precision, device),
        num_actors=num_actors,
        threads=threads,
        batch_seconds=options.batch_seconds or default_batch,
        actor_cpus=round(min(float(threads), cpus / 2 / num_actors), 4),
        load_cpus=min(1.0, cpus / 4),
    )


def check_date(date: str | None) -> str:
    """The run's date: as given, or today in UTC.

    Raises:
        JobError: Not a date of the form YYYY-MM-DD.
    """
    if date is None:
        return datetime.now(UTC).strftime("%Y-%m-%d")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise JobError(f"--date: found {date!r}, wanted YYYY-MM-DD", 2)
    return date


def transcribe(
    inputs: list[str], output: str, checkpoint: Checkpoint, options: Options, console: Console
) -> int:
    """Transcribe what the inputs hold and the output lacks.

    Returns:
        The exit code: 0 when all is done, 3 when more than `max_reject_rate` was rejected.

    Raises:
        JobError: The job cannot be done.
    """
    output = absolute(output)
    precision = _settle_precision(options.precision, _settle_device(options.device))
    parts = fingerprint_parts(checkpoint, precision)
    check_output(output, parts)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    run_id = f"{stamp}-{uuid.uuid4().hex[:6]}"
    fresh = Run(output, run_id, check_date(options.date), fingerprint_of(parts))
    worst = EXIT_DONE
    num_runs = 0
    for run in _runs(inputs, fresh, console):
        num_runs += 1
        write_format(output, parts)
        summary = _execute(run, checkpoint, options, console)
        document = json.dumps(summary.to_json(), indent=2, ensure_ascii=False)
        write_bytes(join(run.folder, "summary.json"), document.encode())
        print_summary(summary, console)
        if summary.reject_rate > options.max_reject_rate:
            worst = EXIT_TOO_MANY_REJECTS
            rate = f"{summary.reject_rate:.1%}"
            console.print(f"koasr: {rate} rejected, more than --max-reject-rate", highlight=False)
    if not num_runs:
        console.print(f"koasr: nothing to do: {output} is complete", highlight=False)
    return worst


def check_stores(uris: list[str]) -> None:
    """Refuse stores that do not answer, before anything is read."""
    for uri in uris:
        check_reachable(uri)


def open_model(model: str, revision: str | None, console: Console) -> Checkpoint:
    """The checkpoint, checked; says what is unusual about it."""
    checkpoint = open_checkpoint(model, revision)
    if not checkpoint.uses_mask:
        console.print(
            "koasr: this checkpoint has group norm in its feature encoder and cannot be padded"
            " exactly: segments of different length run one by one, which is slower",
            highlight=False,
        )
    return checkpoint
