"""A training set cut on Ray Data: a task a shard, whose clips go straight to where they belong."""

import dataclasses
from collections.abc import Iterator, Mapping

import pyarrow as pa
import ray.data

from koasr.job import connect, task_errors
from koasr.rows import Shard, StoredFile
from koasr.runs import PLAN
from koasr.shard_sets import Exported, Target, export_shard

_TASK = pa.schema([*PLAN, ("rows", pa.large_binary())])
_DONE = pa.schema(
    [
        ("name", pa.string()),
        ("num_clips", pa.int64()),
        ("audio_s", pa.float64()),
        ("skipped", pa.map_(pa.string(), pa.int64())),
        ("lines", pa.large_binary()),
    ]
)


def export_shards(
    selected: Mapping[str, tuple[Shard, pa.Table]], target: Target
) -> Iterator[Exported]:
    """Cut and write the clips of each shard, in parallel; in the order in which they are done.

    Args:
        selected: Name → shard, and the rows of it that are wanted.
        target: What to make of them.

    Raises:
        JobError: The sources or the target deny access or fail again and again.
    """
    connect()
    tasks = [
        dataclasses.asdict(shard) | {"name": name, "rows": _to_ipc(rows)}
        for name, (shard, rows) in selected.items()
    ]
    dataset = (
        ray.data.from_arrow(pa.Table.from_pylist(tasks, schema=_TASK))
        .repartition(target_num_rows_per_block=1)
        .map_batches(_run, fn_args=[target], batch_size=1, batch_format="pyarrow", num_cpus=1)
    )
    with task_errors():
        for table in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in table.to_pylist():
                yield Exported(**row | {"skipped": dict(row["skipped"])})


def _run(table: pa.Table, target: Target) -> pa.Table:
    """Columns in: `_TASK`. Columns out: `_DONE`."""
    done = []
    for row in table.to_pylist():
        name, rows = row.pop("name"), pa.ipc.open_stream(row.pop("rows")).read_all()
        shard = Shard(**{**row, "files": tuple(StoredFile(**file) for file in row["files"])})
        done.append(dataclasses.asdict(export_shard(shard, name, rows, target)))
    return pa.Table.from_pylist(done, schema=_DONE)


def _to_ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.unify_dictionaries())
    return bytes(sink.getvalue())
