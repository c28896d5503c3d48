"""The job on Ray Data: plan → packs → segments → transcripts → commits. Ray is used only here."""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from koasr.checkpoint import Checkpoint
from koasr.commit import (
    ShardPacks,
    clear_staged,
    commit_shard,
    list_staged,
    read_staged,
    staged_key,
)
from koasr.errors import JobError, TransientError
from koasr.pack_rows import header_of
from koasr.rows import Shard
from koasr.runs import Run, read_record
from koasr.stages import SHARD, Compute, Receipt, Transcribe, load_audio, read_packs, stage
from koasr.transcripts import Provenance

COMMIT_CPUS = 0.05


def connect() -> None:
    """Join the cluster this runs in, or start one on this machine."""
    # Ray's core says at every start of an actor pool that its arguments could be lost, as an error
    # (ray-project/ray#53727).
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError as error:
            address = os.environ.get("RAY_ADDRESS", "this machine")
            raise JobError(f"no Ray cluster answers at {address}: check RAY_ADDRESS") from error
    # What goes wrong is raised as well; logged, it would stand on the screen twice.
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 64 << 20
    context.retried_map_errors = ["TransientError"]
    context.max_map_retries = 5
    context.actor_init_retry_on_errors = True
    # A pack of the 1B model takes longer on a CPU than the half hour Ray would wait for progress.
    context.execution_no_progress_timeout_s = -1


def cluster_resources() -> dict[str, float]:
    """What the cluster has in all: `CPU`, `GPU`."""
    return dict(ray.cluster_resources())


@ray.remote(num_cpus=COMMIT_CPUS, retry_exceptions=[TransientError])  # type: ignore[call-overload, untyped-decorator]
def commit(run: Run, name: str, keys: list[str]) -> dict[str, Any]:
    """Commit a shard whose packs are all staged under these keys."""
    record = commit_shard(run, name, read_staged(run, name, keys))
    clear_staged(run, name)
    return record


def transcribe_shards(
    run: Run,
    todo: dict[str, Shard],
    staged: dict[str, list[str]],
    checkpoint: Checkpoint,
    compute: Compute,
) -> ray.data.Dataset:
    """The job as one chain: shards in, receipts out."""
    provenance = Provenance(checkpoint.model, checkpoint.revision, run.fingerprint, run.run_id)
    rows = [asdict(s) | {"name": n, "staged": staged.get(n, [])} for n, s in todo.items()]
    return (
        ray.data.from_arrow(pa.Table.from_pylist(rows, schema=SHARD))
        .repartition(target_num_rows_per_block=1)
        .map_batches(read_packs, batch_size=1, batch_format="pyarrow", num_cpus=compute.read_cpus)
        .map_batches(
            load_audio,
            fn_args=[checkpoint.samples_per_frame],
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=compute.load_cpus,
        )
        .map_batches(
            Transcribe,
            fn_constructor_args=[checkpoint, compute, provenance],
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=compute.actor_cpus,
            num_gpus=1 if compute.device == "cuda" else 0,
            compute=ActorPoolStrategy(size=compute.num_actors),
        )
        .map_batches(
            stage,
            fn_args=[run],
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
    run: Run,
    plan: dict[str, Shard],
    committed: dict[str, str],
    checkpoint: Checkpoint,
    compute: Compute,
) -> Iterator[Receipt | dict[str, Any]]:
    """Do what is left of a run's plan.

    Args:
        run: Names the objects.
        plan: `read_plan` of the run.
        committed: `list_committed` of its output.
        checkpoint: The model.
        compute: How it runs.

    Yields:
        A receipt for each pack as it is done, and a record for each shard as it is committed, those
        committed before included: at the end one record for each shard of the plan.
    """
    with task_errors():
        yield from _execute(run, plan, committed, checkpoint, compute)


def _execute(
    run: Run,
    plan: dict[str, Shard],
    committed: dict[str, str],
    checkpoint: Checkpoint,
    compute: Compute,
) -> Iterator[Receipt | dict[str, Any]]:
    yield from (read_record(committed[name]) for name in plan if name in committed)
    staged = list_staged(run)
    todo = {name: shard for name, shard in plan.items() if name not in committed}
    packs = {name: ShardPacks(staged.get(name, ())).without_partial() for name in todo}
    commits = []
    for name in todo:
        if keys := packs[name].all_keys():
            commits.append(commit.remote(run, name, keys))
            packs.pop(name)
    left = {name: todo[name] for name in packs}
    if left:
        held = {name: sorted(staged.get(name, ())) for name in left}
        dataset = transcribe_shards(run, left, held, checkpoint, compute)
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in table.to_pylist():
                header = header_of(row)
                yield Receipt(**{f.name: row[f.name] for f in fields(Receipt)})
                if header.shard not in packs:
                    continue
                packs[header.shard].add(staged_key(header))
                if row["record"]:
                    packs.pop(header.shard)
                    yield json.loads(row["record"])
                elif keys := packs[header.shard].all_keys():
                    packs.pop(header.shard)
                    commits.append(commit.remote(run, header.shard, keys))
            if commits:
                done, commits = ray.wait(commits, num_returns=len(commits), timeout=0)
                yield from ray.get(done)
    yield from ray.get(commits)
