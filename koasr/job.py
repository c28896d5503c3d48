"""The job on Ray Data: plan → packs → segments → transcripts → commits. Ray is used only here."""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.autoscaler.sdk import request_resources
from ray.data import ActorPoolStrategy, DataContext
from ray.util.metrics import Counter, Gauge
from rich.console import Console

from koasr.checkpoint import Checkpoint
from koasr.commit import commit_shard
from koasr.errors import JobError, TransientError
from koasr.feeding import Times
from koasr.figures import Figures
from koasr.ledger import Ledger
from koasr.monitoring import INTERVAL_S, Monitor
from koasr.pack_rows import header_of
from koasr.rows import SAMPLE_RATE
from koasr.runs import Run
from koasr.stages import (
    SHARD,
    Compute,
    Receipt,
    Transcribe,
    Work,
    is_elsewhere,
    load_audio,
    read_packs,
    stage,
)
from koasr.staging import clear_staged, read_staged
from koasr.stopping import Stopped, check_stop, stop, taking_sigterm_back
from koasr.threads import every
from koasr.transcripts import Provenance

COMMIT_CPUS = 0.05
_BYTES_PER_SECOND = 2 * SAMPLE_RATE
_MAX_BLOCK_BYTES = 64 << 20
LOG_INTERVAL_S = 30.0
_GPU_POLL_S = 15.0
_LAST_COMMITS_S = 15.0
_START_ATTEMPTS = 3


def connect(say: Callable[[str], None] = lambda line: None) -> None:
    """Join the cluster this runs in, or start one on this machine.

    Args:
        say: Gets a line for the user where that takes time.
    """
    # Ray's core says at every start of an actor pool that its arguments could be lost, as an error
    # (ray-project/ray#53727).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not ray.is_initialized():
        say("joining the Ray cluster" if is_elsewhere() else "starting Ray on this machine")
        _start()
    # What goes wrong is raised as well; logged, it would stand on the screen twice.
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.retried_map_errors = ["TransientError"]
    context.max_map_retries = 5
    context.actor_init_retry_on_errors = True
    # A pack of the 1B model takes longer on a CPU than the half hour Ray would wait for progress.
    context.execution_no_progress_timeout_s = -1


def _start() -> None:
    problem: Exception | None = None
    for _ in range(_START_ATTEMPTS):
        try:
            with taking_sigterm_back():
                ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
            return
        except ConnectionError as error:
            address = os.environ.get("RAY_ADDRESS", "this machine")
            raise JobError(f"no Ray cluster answers at {address}: check RAY_ADDRESS") from error
        # Ray gives a busy machine 30 s, and then raises what has no class of its own.
        except Exception as error:
            problem = error
    found = f"Ray did not start on this machine, tried {_START_ATTEMPTS} times"
    raise JobError(f"{found}: {problem}") from problem


def look_at_cluster() -> dict[str, float]:
    """Join the cluster there is: its `nodes` that live, and what they have in all.

    Raises:
        Exception: It does not answer, has another Ray or Python, or wants another token.
    """
    ray.init("auto", logging_level=logging.CRITICAL, log_to_driver=False)
    return cluster_resources() | {"nodes": float(sum(node["Alive"] for node in ray.nodes()))}


def cluster_resources() -> dict[str, float]:
    """What the cluster has in all: `CPU`, `GPU`."""
    return dict(ray.cluster_resources())


def _num_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def wait_for_gpu(patience_s: float, num_wanted: int, console: Console) -> None:
    """Ask the cluster's autoscaler for GPUs, and wait until the first is there.

    Raises:
        JobError: None came; or this is a cluster of our own, to which none will.
    """
    if _num_gpus():
        return
    if not is_elsewhere():
        raise JobError("this machine has no GPU: add one, or pass --device cpu")
    request_resources(bundles=[{"GPU": 1}] * num_wanted)
    start_s = spoken_s = time.monotonic()
    try:
        while not _num_gpus():
            now_s = time.monotonic()
            if now_s - start_s > patience_s:
                found = f"no GPU came to the cluster in {patience_s:.0f} s"
                raise JobError(f"{found}: add one, raise --wait-for-gpu, or pass --device cpu")
            if now_s - spoken_s >= LOG_INTERVAL_S or spoken_s == start_s:
                spoken_s = now_s
                waited = f"{now_s - start_s:.0f} of {patience_s:.0f} s"
                console.print(f"koasr: waiting for a GPU ({waited})", highlight=False)
            time.sleep(1)
    finally:
        request_resources(bundles=[])


@contextmanager
def watch_gpus(patience_s: float) -> Iterator[None]:
    """Stop the job when the cluster has had no GPU for so long; Ray would wait without a word."""
    is_over = threading.Event()

    def watch() -> None:
        seen_s = time.monotonic()
        while not is_over.wait(min(_GPU_POLL_S, patience_s)):
            if _num_gpus():
                seen_s = time.monotonic()
            elif time.monotonic() - seen_s > patience_s:
                stop(f"the cluster has had no GPU for {patience_s:.0f} s")
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


@contextmanager
def monitored(read: Callable[[], Figures]) -> Iterator[None]:
    """Show the figures as metrics of the cluster while the block runs.

    A cluster of our own has nobody who asks for them.
    """
    monitor = Monitor(Counter, Gauge)
    try:
        with every(INTERVAL_S, lambda: monitor.show(read()), "metrics could not be shown"):
            yield
    finally:
        with suppress(Exception):
            monitor.show(read())


@ray.remote(num_cpus=COMMIT_CPUS, retry_exceptions=[TransientError])  # type: ignore[call-overload, untyped-decorator]
def commit(run: Run, name: str, keys: list[str], superseded: list[str]) -> dict[str, Any]:
    """Commit a shard whose packs are all staged under these keys."""
    record = commit_shard(run, name, read_staged(run, name, keys), superseded)
    clear_staged(run, name)
    return record | {"name": name}


def transcribe_shards(
    ledger: Ledger, work: Work, checkpoint: Checkpoint, compute: Compute
) -> ray.data.Dataset:
    """The job as one chain: the shards that are left in, receipts out."""
    run = ledger.run
    # About a pack: a larger block would hold small packs back from the model and the staging.
    block_bytes = min(_MAX_BLOCK_BYTES, int(work.pack_seconds * _BYTES_PER_SECOND))
    DataContext.get_current().target_max_block_size = block_bytes
    provenance = Provenance(checkpoint.model, checkpoint.revision, run.fingerprint, run.run_id)
    rows = [
        asdict(shard) | {"name": name, "staged": ledger.held(name)}
        for name, shard in ledger.left.items()
    ]
    superseded = {name: found for name in ledger.left if (found := ledger.superseded(name))}
    return (
        ray.data.from_arrow(pa.Table.from_pylist(rows, schema=SHARD))
        .repartition(target_num_rows_per_block=1)
        .map_batches(
            read_packs,
            fn_args=[run, work],
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=compute.read_cpus,
        )
        .map_batches(
            load_audio,
            fn_args=[work],
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=compute.load_cpus,
        )
        .map_batches(
            Transcribe,
            fn_constructor_args=[checkpoint, compute, provenance, work.calibration],
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=compute.actor_cpus,
            num_gpus=1 if compute.device == "cuda" else 0,
            # More calls than models: see Transcribe.
            compute=ActorPoolStrategy(
                size=compute.num_actors,
                max_concurrent_calls_per_actor=compute.calls_per_actor,
                enable_true_multi_threading=True,
            ),
        )
        .map_batches(
            stage,
            fn_args=[run, superseded],
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=compute.stage_cpus,
        )
    )


@contextmanager
def task_errors() -> Iterator[None]:
    """Turn what a task or an actor raised for the user's sake into that one line again.

    Ray keeps such an exception as the text of its traceback, which ends in the exception itself.
    """
    try:
        yield
    except ray.exceptions.RayError as error:
        found = re.findall(r"^koasr\.errors\.(\w+): (.*)$", str(error), re.MULTILINE)
        kind, message = found[-1] if found else ("", "")
        if kind == JobError.__name__:
            raise JobError(message) from None
        if kind == TransientError.__name__:
            message = f"the store failed again and again: {message}; run it again to go on"
            raise JobError(message) from None
        raise


def execute(
    ledger: Ledger, work: Work, checkpoint: Checkpoint, compute: Compute
) -> Iterator[Receipt | str]:
    """Do what is left of a run's plan, and enter it into its ledger.

    Args:
        ledger: Of the run.
        work: What is made of recordings, and how.
        checkpoint: The model.
        compute: How it runs.

    Yields:
        A receipt for each pack as it is done, and the name of each shard as it is committed in
        this session.
    """
    with task_errors():
        yield from _execute(ledger, work, checkpoint, compute)
    ledger.check()


def _execute(
    ledger: Ledger, work: Work, checkpoint: Checkpoint, compute: Compute
) -> Iterator[Receipt | str]:
    commits: list[Any] = []
    keys: list[str] | None

    def start_commit(name: str, keys: list[str]) -> None:
        commits.append(commit.remote(ledger.run, name, keys, ledger.superseded(name)))

    def enter(records: list[dict[str, Any]]) -> Iterator[str]:
        for record in records:
            name = record.pop("name")
            ledger.close(name, record)
            yield name

    for name, keys in ledger.ready.items():
        start_commit(name, keys)
    try:
        if ledger.left:
            dataset = transcribe_shards(ledger, work, checkpoint, compute)
            for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
                check_stop()
                for row in table.to_pylist():
                    header = header_of(row)
                    row["times"] = Times(**row["times"])
                    yield Receipt(**{f.name: row[f.name] for f in fields(Receipt)})
                    if row["record"]:
                        yield from enter([json.loads(row["record"]) | {"name": header.shard}])
                    elif keys := ledger.add(header):
                        start_commit(header.shard, keys)
                if commits:
                    done, commits = ray.wait(commits, num_returns=len(commits), timeout=0)
                    yield from enter(ray.get(done))
        yield from enter(ray.get(commits))
    except Stopped:
        # A shard whose packs are all there is seconds from done.
        if commits:
            done, _ = ray.wait(commits, num_returns=len(commits), timeout=_LAST_COMMITS_S)
            yield from enter(ray.get(done))
        raise
