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
from koasr.rows import SAMPLE_RATE, SCHEMA_VERSION, Shard
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
from koasr.sources import Listing, group_files, list_inputs
from koasr.storage import absolute, check_reachable, job_errors, join, write_bytes
from koasr.summary import Summary, print_summary, summarize

if TYPE_CHECKING:
    from koasr.stages import Compute

_RAY_ADDRESS_FILE = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` leaves the address that `ray.init` joins."""

EXIT_DONE, EXIT_TOO_MANY_REJECTS = 0, 3
_CPU_BATCH_SECONDS, _GPU_BATCH_SECONDS = 40.0, 240.0
_THREADS_PER_CPU_ACTOR = 4


def _settle_device(device: Device) -> str:
    """`cuda` where the cluster has GPUs. Starting one only to look would take seconds."""
    if device != "auto":
        return device
    if os.environ.get("RAY_ADDRESS") or _RAY_ADDRESS_FILE.exists():
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
        "schema": str(SCHEMA_VERSION),
    }


def _todo(listing: Listing, run: Run, console: Console) -> dict[str, Shard]:
    """What was listed and the output lacks."""
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


def _runs(listing: Listing, fresh: Run, parts: dict[str, str], console: Console) -> Iterator[Run]:
    """Runs to do: the unfinished ones first, so that groups of loose files never shift."""
    with job_errors(fresh.output):
        unfinished = unfinished_runs(fresh.output)
    for run in unfinished:
        if run.fingerprint != fresh.fingerprint:
            message = f"the unfinished run {run.run_id} was made another way: use a new --output"
            raise JobError(message)
        console.print(f"koasr: going on with the unfinished run {run.run_id}", highlight=False)
        yield run
    with job_errors(fresh.output):
        todo = _todo(listing, fresh, console)
        if todo:
            # Before the plan: a plan binds whoever comes next, and so must how it is carried out.
            write_format(fresh.output, parts)
            write_plan(fresh, todo.values())
    if todo:
        yield fresh


def _execute(
    run: Run, checkpoint: Checkpoint, options: Options, device: str, console: Console
) -> Summary:
    from koasr import job, stages

    started_s = time.monotonic()
    job.connect()
    compute = settle_compute(options, device, job.cluster_resources())
    with job_errors(run.output):
        plan = read_plan(run)
        committed = list_committed(run.output)
    console.print(
        f"koasr: {compute.num_actors} actor(s) on {device} in {compute.precision};"
        f" run {run.run_id}, date {run.date}",
        highlight=False,
    )
    records = []
    num_retries = 0
    total_bytes = sum(shard.size_bytes for name, shard in plan.items() if name not in committed)
    with RunProgress(console, total_bytes=total_bytes, num_shards=len(plan)) as progress:
        for event in job.execute(run, plan, committed, checkpoint, compute):
            if isinstance(event, stages.Receipt):
                progress.add_pack(event.audio_s, event.size_bytes, event.num_rejects)
                num_retries += event.num_float32_retries
            else:
                records.append(event)
                progress.add_shard()
    if len(records) != len(plan):
        raise JobError(f"{len(records)} of {len(plan)} shards were committed: run it again")
    names = {"run_id": run.run_id, "date": run.date, "output": run.output}
    names |= {"model": checkpoint.model, "fingerprint": run.fingerprint}
    wall_s = time.monotonic() - started_s
    return summarize(
        records,
        names=names,
        session_audio_s=progress.audio_s,
        wall_s=wall_s,
        float32_retries=num_retries,
    )


def settle_compute(options: Options, device: str, resources: dict[str, float]) -> "Compute":
    """Fit the job to the cluster.

    Half of the CPUs feed the other half, however many actors share it: actors that held every
    CPU would wait for ever for tasks that cannot start.

    Args:
        options: What the user asked for.
        device: `cpu` or `cuda`.
        resources: What the cluster has, by Ray's names.
    """
    from koasr.stages import Compute

    cpus = max(1.0, resources.get("CPU", 1.0))
    gpus = int(resources.get("GPU", 0))
    if device == "cuda" and not gpus and options.num_actors is None:
        raise JobError("the cluster has no GPU: add one, or pass --device cpu")
    threads = min(_THREADS_PER_CPU_ACTOR, int(cpus))
    fitting = gpus if device == "cuda" else int(cpus) // _THREADS_PER_CPU_ACTOR
    num_actors = options.num_actors or max(1, fitting)
    actor_cpus = round(min(float(threads), cpus / 2 / num_actors), 4)
    # Stages that ask for the same are fused, and loading would run in the model's process.
    load_cpus = min(1.0, cpus / 4)
    default_batch = _GPU_BATCH_SECONDS if device == "cuda" else _CPU_BATCH_SECONDS
    return Compute(
        device=device,
        precision=_settle_precision(options.precision, device),
        num_actors=num_actors,
        threads=threads,
        batch_seconds=options.batch_seconds or default_batch,
        actor_cpus=actor_cpus,
        load_cpus=load_cpus * (0.9 if load_cpus == actor_cpus else 1.0),
    )


def check_date(date: str | None) -> str:
    """The run's date: as given, or today in UTC.

    Raises:
        JobError: Not a date of the form YYYY-MM-DD.
    """
    if date is None:
        return datetime.now(UTC).strftime("%Y-%m-%d")
    try:
        return datetime.strptime(date, "%Y-%m-%d").strftime("%Y-%m-%d")
    except ValueError as error:
        raise JobError(f"--date: found {date!r}, wanted a date as YYYY-MM-DD", 2) from error


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
    date = check_date(options.date)
    device = _settle_device(options.device)
    parts = fingerprint_parts(checkpoint, _settle_precision(options.precision, device))
    check_output(output, parts)
    ours = [join(output, folder) for folder in ("transcripts", "rejects", "_koasr")]
    listing = list_inputs(inputs, without=ours)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    fresh = Run(output, f"{stamp}-{uuid.uuid4().hex[:6]}", date, fingerprint_of(parts))
    worst = EXIT_DONE
    num_runs = 0
    for run in _runs(listing, fresh, parts, console):
        num_runs += 1
        summary = _execute(run, checkpoint, options, device, console)
        document = json.dumps(summary.to_json(), indent=2, ensure_ascii=False)
        with job_errors(output):
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
    if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise JobError(f"--revision: found {revision!r}, wanted a commit of 40 hex digits", 2)
    checkpoint = open_checkpoint(model, revision)
    if not checkpoint.uses_mask:
        console.print(
            "koasr: this checkpoint has group norm in its feature encoder and cannot be padded"
            " exactly: segments of different length run one by one, which is slower",
            highlight=False,
        )
    return checkpoint
