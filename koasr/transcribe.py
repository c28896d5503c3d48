"""One call of the job: check, plan, run, account."""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rich.console import Console

from koasr import segments
from koasr.beacon import shining
from koasr.calibration import (
    Calibration,
    check_fingerprint,
    keep_calibration,
    read_calibration,
)
from koasr.checkpoint import Checkpoint, open_checkpoint
from koasr.dates import check_date, today
from koasr.ending import EXIT_DONE, EXIT_TOO_MANY_REJECTS, Ending, ending_of
from koasr.errors import JobError
from koasr.figures import Tally
from koasr.inventory import open_output
from koasr.lease import Lease
from koasr.ledger import Ledger, open_ledger
from koasr.limits import Limits
from koasr.options import Options
from koasr.planning import Todo, begin, find_todo
from koasr.precision import Device, FloatType, Precision
from koasr.progress import showing
from koasr.retry import check_reasons, held_reasons, plan_retries
from koasr.rows import SAMPLE_RATE, SCHEMA_VERSION
from koasr.runs import (
    Run,
    check_output,
    fingerprint_of,
    has_ended_well,
    list_committed,
    new_run_id,
    read_plan,
    unfinished_runs,
)
from koasr.settling import settle
from koasr.sources import Listing, list_inputs
from koasr.stages import Compute, Receipt, Work, guard_own_cluster, is_elsewhere
from koasr.stock import Stock, find_superseded, take_stock
from koasr.stopping import seconds_left, stop, stoppable
from koasr.storage import absolute, check_reachable, impatient, job_errors, join, write_bytes
from koasr.summary import Summary, duration_text, print_summary, summarize
from koasr.vanished import prune

_THREADS_PER_CPU_ACTOR = 4
_MODELS_PER_GPU = 2
"""While one is at what only a CPU can do, the other has the GPU (bench/NOTES.md)."""


def _say(console: Console, line: str) -> None:
    console.print(f"koasr: {line}", highlight=False)


def _settle_device(device: Device, say: Callable[[str], None]) -> str:
    """`cuda` where the cluster has GPUs. Starting one only to look would take seconds."""
    if device != "auto":
        return device
    if is_elsewhere():
        from koasr import job

        job.connect(say)
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


@dataclass(frozen=True)
class _Job:
    """What all runs of one call share; each leaves its summary."""

    checkpoint: Checkpoint
    options: Options
    limits: Limits
    device: str
    console: Console
    calibration: Calibration | None
    summaries: list[Summary]

    @property
    def parts(self) -> dict[str, str]:
        """What the fingerprint of its transcripts is made of."""
        precision = _settle_precision(self.options.precision, self.device)
        return fingerprint_parts(self.checkpoint, precision)

    def say(self, line: str) -> None:
        """A line for the user."""
        _say(self.console, line)


def _open_job(
    checkpoint: Checkpoint,
    options: Options,
    limits: Limits,
    console: Console,
    summaries: list[Summary] | None,
) -> _Job:
    made = read_calibration(options.calibration) if options.calibration is not None else None
    device = _settle_device(options.device, partial(_say, console))
    told = [] if summaries is None else summaries
    job_ = _Job(checkpoint, options, limits, device, console, made, told)
    if made:
        check_fingerprint(made, fingerprint_of(job_.parts))
    return job_


def _connect(job_: _Job) -> Compute:
    """Join the cluster, wait for its GPUs, and fit the job to it."""
    guard_own_cluster()
    from koasr import job

    job.connect(job_.say)
    options = job_.options
    if job_.device == "cuda":
        job.wait_for_gpu(options.wait_for_gpu, options.num_actors or 1, job_.console)
    return settle_compute(options, job_.device, job.cluster_resources())


@dataclass
class _Session:
    """One driver's work on a run, as far as it has come."""

    job_: _Job
    compute: Compute
    ledger: Ledger
    num_planned: int
    tally: Tally

    def work(self) -> None:
        """Do what is left of the run."""
        from koasr import job

        job_, options = self.job_, self.job_.options
        samples_per_frame = job_.checkpoint.samples_per_frame
        work = Work(samples_per_frame, options.pack_seconds, job_.limits, job_.calibration)
        watch = job.watch_gpus(options.wait_for_gpu) if job_.device == "cuda" else nullcontext()
        read = self.tally.read
        with watch, job.monitored(read), showing(job_.console, read):
            for event in job.execute(self.ledger, work, job_.checkpoint, self.compute):
                if isinstance(event, Receipt):
                    self.tally.add_pack(event)
                else:
                    self.tally.add_shard(event)

    def sum_up(self, ending: Ending) -> Summary:
        """What it has come to, by what is committed."""
        job_, run, figures = self.job_, self.ledger.run, self.tally.read()
        return summarize(
            self.ledger.records.values(),
            names={
                "run_id": run.run_id,
                "date": run.date,
                "output": run.output,
                "model": job_.checkpoint.model,
                "fingerprint": run.fingerprint,
            },
            session_audio_s=figures.audio_s,
            wall_s=figures.elapsed_s,
            ending=ending,
            num_planned=self.num_planned,
            num_gone=len(self.ledger.gone),
            float32_retries=figures.float32_retries,
            feeding=self.tally.feeding(),
            calibration=job_.calibration,
        )


def _open_session(
    job_: _Job, run: Run, committed: Mapping[str, str], stock: Stock | None, started_s: float
) -> _Session:
    """Join the cluster, and see what is left of a run.

    Args:
        job_: How.
        run: Has a plan.
        committed: `list_committed` of its output.
        stock: What is under the inputs, to take the place of what is superseded; None in a retry.
        started_s: When work on it began, on the monotonic clock.
    """
    compute = _connect(job_)
    with job_errors(run.output):
        if job_.calibration:
            keep_calibration(run.output, job_.calibration)
        plan = read_plan(run)
        ledger = open_ledger(run, plan, committed, find_superseded(stock, plan) if stock else {})
    job_.say(
        f"{compute.num_actors} actor(s) on {job_.device} in {compute.precision};"
        f" run {run.run_id}, date {run.date}"
    )
    tally = Tally(
        run.run_id,
        job_.device,
        compute.num_actors,
        sizes={name: shard.size_bytes for name, shard in ledger.left.items()},
        planned=len(plan) - len(ledger.gone),
        committed=len(ledger.records),
        started_s=started_s,
        models_per_actor=compute.models_per_actor,
    )
    return _Session(job_, compute, ledger, len(plan), tally)


def _execute(session: _Session) -> None:
    """Do what is left of a run, and sum it up, however that ends."""
    with shining(session.ledger.run, session.tally.read):
        summary = _work(session)
    print_summary(summary, session.job_.console)
    if summary.reason:
        session.job_.say(f"{summary.reason}: see rejects/, and koasr retry --help")


def _work(session: _Session) -> Summary:
    job_, run = session.job_, session.ledger.run
    place = join(run.folder, "summary.json")
    try:
        session.work()
        summary = session.sum_up(Ending())
        summary = replace(summary, **asdict(_ending_at(job_, summary.reject_rate)))
        with job_errors(run.output):
            write_bytes(place, summary.to_bytes())
    except BaseException as error:
        summary = session.sum_up(ending_of(error))
        # What went wrong is to be told, not that this could not be written as well; and who took
        # the output over may have finished the run.
        with suppress(Exception), impatient():
            if not has_ended_well(place):
                write_bytes(place, summary.to_bytes())
        raise
    finally:
        job_.summaries.append(summary)
    return summary


def _ending_at(job_: _Job, reject_rate: float) -> Ending:
    limit = job_.options.max_reject_rate
    if reject_rate <= limit:
        return Ending()
    reason = f"{reject_rate:.1%} rejected, more than --max-reject-rate {limit:g}"
    return Ending("done", EXIT_TOO_MANY_REJECTS, reason)


def settle_compute(options: Options, device: str, resources: dict[str, float]) -> Compute:
    """Fit the job to the cluster.

    Half of the CPUs feed the other half, however many actors share it: actors that held every
    CPU would wait for ever for tasks that cannot start.

    Args:
        options: What the user asked for.
        device: `cpu` or `cuda`.
        resources: What the cluster has, by Ray's names.
    """
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
    return Compute(
        device=device,
        precision=_settle_precision(options.precision, device),
        num_actors=num_actors,
        models_per_actor=_MODELS_PER_GPU if device == "cuda" else 1,
        threads=threads,
        batch_seconds=options.batch_seconds,
        actor_cpus=actor_cpus,
        load_cpus=load_cpus * (0.9 if load_cpus == actor_cpus else 1.0),
    )


def transcribe(
    inputs: list[str],
    output: str,
    checkpoint: Checkpoint,
    options: Options,
    limits: Limits,
    console: Console,
    summaries: list[Summary] | None = None,
) -> int:
    """Transcribe what the inputs hold and the output lacks.

    Args:
        inputs: URIs and patterns.
        output: URI.
        checkpoint: The model.
        options: How it runs.
        limits: What untrusted input may ask.
        console: For the user.
        summaries: Gets the summary of each run that was worked on, however it ended.

    Returns:
        The exit code: 0 when all is done, 3 when more than `max_reject_rate` was rejected.

    Raises:
        JobError: The job cannot be done.
        Stopped: It was asked to stop before the end.
    """
    output, started_s = absolute(output), time.monotonic()
    date = check_date(options.date) if options.date else today()
    job_ = _open_job(checkpoint, options, limits, console, summaries)
    fresh = Run(output, new_run_id(), date, fingerprint_of(job_.parts))
    ours = [join(output, folder) for folder in ("transcripts", "rejects", "_koasr")]
    list_afresh = partial(list_inputs, inputs, without=ours, limits=limits)
    check_output(output, job_.parts)
    with _driving(job_, output):
        with job_errors(output):
            stock = settle(take_stock(output, list_afresh), fresh)
            unfinished = unfinished_runs(output)
        for run in unfinished:
            if run.fingerprint != fresh.fingerprint:
                message = f"the unfinished run {run.run_id} was made another way"
                raise JobError(f"{message}: use a new --output")
            job_.say(f"going on with the unfinished run {run.run_id}")
            _execute(_open_session(job_, run, stock.committed, stock, started_s))
            started_s = time.monotonic()
        with job_errors(output):
            if unfinished:
                stock = settle(take_stock(output, list_afresh), fresh)
            todo = find_todo(stock, inputs, fresh)
            _say_todo(job_, stock.listing, todo)
            if options.prune and todo.vanished.uris:
                job_.say(f"took {prune(fresh, todo.vanished)} vanished shards and files out")
            if todo.shards:
                # What is planned must be done as it was planned, so the GPUs must be there first.
                _connect(job_)
                begin(fresh, stock, todo, job_.parts)
        if todo.shards:
            _execute(_open_session(job_, fresh, stock.committed, stock, started_s))
        else:
            job_.say(f"nothing {'else ' if job_.summaries else ''}to do: {output} is complete")
    return max((summary.exit_code for summary in job_.summaries), default=EXIT_DONE)


def retry(
    output: str,
    reasons: Sequence[str],
    checkpoint: Checkpoint,
    options: Options,
    limits: Limits,
    console: Console,
    summaries: list[Summary] | None = None,
) -> int:
    """Try again what an output's rejects hold for one of these reasons.

    Args:
        output: URI.
        reasons: Of rejects; those of `retry.DEFAULT_REASONS` if none is given.
        checkpoint: The model that made the output.
        options: How it runs.
        limits: What untrusted input may ask.
        console: For the user.
        summaries: As of `transcribe`.

    Returns:
        The exit code, as of `transcribe`.

    Raises:
        JobError: The job cannot be done.
        Stopped: It was asked to stop before the end.
    """
    wanted = check_reasons(reasons)
    inventory = open_output(absolute(output))
    job_ = _open_job(checkpoint, options, limits, console, summaries)
    check_output(inventory.output, job_.parts)
    with _driving(job_, inventory.output):
        with job_errors(inventory.output):
            plan_retries(inventory, wanted)
            runs = [run for run in unfinished_runs(inventory.output) if run.retry]
            left = held_reasons(inventory) if not runs else {}
        if runs:
            dates = ", ".join(run.date for run in runs)
            job_.say(f"retrying what was rejected as {', '.join(wanted)} on {dates}")
        for run in runs:
            committed, started_s = list_committed(inventory.output), time.monotonic()
            _execute(_open_session(job_, run, committed, None, started_s))
        if not job_.summaries:
            others = ", ".join(f"{count:,} {reason}" for reason, count in left.items())
            hint = f"; it has {others}: name them with --reason" if others else ""
            job_.say(f"{inventory.output} has no rejects of {', '.join(wanted)}{hint}")
    return max((summary.exit_code for summary in job_.summaries), default=EXIT_DONE)


@contextmanager
def _driving(job_: _Job, output: str) -> Iterator[None]:
    """Be the one driver of an output, until it is done or told to stop."""
    options = job_.options
    deadline_s = seconds_left(options.stop_at, options.max_hours, datetime.now())
    if deadline_s is not None:
        job_.say(f"stops in {duration_text(deadline_s)}, done or not")
    lost = partial(stop, "another driver has taken the output over")
    with ExitStack() as stack:
        stack.enter_context(stoppable(deadline_s))
        with job_errors(output):
            stack.enter_context(Lease(output, lost, say=job_.say))
        yield


def _say_todo(job_: _Job, listing: Listing, todo: Todo) -> None:
    size_mb = sum(shard.size_bytes for shard in todo.shards.values()) / 1e6
    files = sum(len(shard.files) for shard in todo.shards.values())
    single = sum(shard.kind != "files" for shard in todo.shards.values())
    job_.say(
        f"found {len(listing.shards)} shards and {len(listing.files)} loose files;"
        f" to do: {single} and {files} ({size_mb:,.1f} MB);"
        f" {len(listing.ignored)} other files are references or no speech"
    )
    gone = todo.vanished.uris
    if gone and not job_.options.prune:
        job_.say(f"{len(gone)} shards or files vanished, such as {gone[0]}: see --prune")


def check_stores(uris: list[str]) -> None:
    """Refuse stores that do not answer, before anything is read."""
    for uri in uris:
        check_reachable(uri)


def open_model(model: str, revision: str | None) -> Checkpoint:
    """The checkpoint, checked."""
    if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise JobError(f"--revision: found {revision!r}, wanted a commit of 40 hex digits", 2)
    return open_checkpoint(model, revision)
