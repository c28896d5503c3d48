"""The callables Ray runs: each unpacks one Ray row, calls plain functions, packs one row."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa

from koasr.checkpoint import Checkpoint, stage_checkpoint
from koasr.commit import ShardPacks, commit_shard, encode_tables, stage_pack
from koasr.options import FloatType
from koasr.pack_rows import (
    HEADER,
    header_of,
    loaded_to_table,
    pack_to_table,
    table_to_loaded,
    table_to_pack,
)
from koasr.packs import load_pack, plan_packs
from koasr.readers import read_recordings
from koasr.rows import Shard, StoredFile
from koasr.runs import PLAN, Run
from koasr.transcripts import Provenance, to_tables

SHARD = pa.schema([*PLAN, ("staged", pa.list_(pa.string()))])
_COUNTS = {
    "audio_s": pa.float64(),
    "num_rejects": pa.int64(),
    "num_float32_retries": pa.int64(),
}
TRANSCRIBED = pa.schema([*HEADER, *_COUNTS.items(), ("tables", pa.large_binary())])
RECEIPT = pa.schema([*HEADER, *_COUNTS.items(), ("record", pa.string())])


@dataclass(frozen=True)
class Compute:
    """How the model runs: on how many actors, with what each, and in what precision.

    `batch_seconds` is the padded seconds of a micro-batch, `threads` an actor's on a CPU. The
    CPUs are what an actor and a loading task ask Ray for.
    """

    device: str
    precision: FloatType
    num_actors: int
    threads: int
    batch_seconds: float
    actor_cpus: float
    load_cpus: float

    @property
    def read_cpus(self) -> float:
        """What a reading task asks for; it mostly waits for the store.

        Not what loading asks for: stages with equal resources are fused by Ray.
        """
        return self.load_cpus / 4

    @property
    def stage_cpus(self) -> float:
        """What a staging task asks for."""
        return self.load_cpus / 5


@dataclass(frozen=True)
class Receipt:
    """What the driver hears of a finished pack. `size_bytes` is encoded, as listed.

    `num_float32_retries` counts micro-batches that were not finite in half precision.
    """

    audio_s: float
    size_bytes: int
    num_recordings: int
    num_rejects: int
    num_float32_retries: int


def read_packs(table: pa.Table) -> Iterator[pa.Table]:
    """Columns in: `SHARD`. Columns out: `PACK`, one row a pack that is not staged yet."""
    for row in table.to_pylist():
        name, staged = row.pop("name"), ShardPacks(row.pop("staged")).complete()
        shard = Shard(**{**row, "files": tuple(StoredFile(**file) for file in row["files"])})
        for pack in plan_packs(read_recordings(shard), shard, name):
            if staged.get(pack.header.index) != pack.header.members:
                yield pack_to_table(pack)


def load_audio(table: pa.Table, samples_per_frame: int) -> Iterator[pa.Table]:
    """Columns in: `PACK`. Columns out: `LOADED`, one row a piece of at most 20 minutes."""
    for pack in load_pack(table_to_pack(table), samples_per_frame):
        yield loaded_to_table(pack)


class Transcribe:
    """Holds the model on its device. Columns in: `LOADED`. Columns out: `TRANSCRIBED`."""

    def __init__(self, checkpoint: Checkpoint, compute: Compute, provenance: Provenance) -> None:
        # Not at the top: the driver, which imports this file too, has no use for torch.
        import torch

        from koasr.model import AcousticModel

        if compute.device == "cpu":
            torch.set_num_threads(compute.threads)
        self._checkpoint, self._provenance = checkpoint, provenance
        self._batch_seconds = compute.batch_seconds
        directory = stage_checkpoint(checkpoint)
        self._model = AcousticModel(
            checkpoint, directory, device=compute.device, precision=compute.precision
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Transcribe the one pack of a batch."""
        from koasr.recognize import recognize

        pack = table_to_loaded(table)
        retries = self._model.num_float32_retries
        waveforms = [segment.samples for segment in pack.segments]
        paths = recognize(self._model, waveforms, batch_seconds=self._batch_seconds)
        transcripts, rejects = to_tables(pack, paths, self._checkpoint, self._provenance)
        columns = asdict(pack.header) | {
            "audio_s": sum(transcripts["duration_s"].to_pylist()),
            "num_rejects": rejects.num_rows,
            "num_float32_retries": self._model.num_float32_retries - retries,
            "tables": encode_tables(pack.header, transcripts, rejects),
        }
        return pa.Table.from_pylist([columns], schema=TRANSCRIBED)


def stage(table: pa.Table, run: Run) -> pa.Table:
    """Columns in: `TRANSCRIBED`. Columns out: `RECEIPT`.

    A pack that is its whole shard is committed at once; any other is staged.
    """
    receipts = []
    for row in table.to_pylist():
        header, tables = header_of(row), row.pop("tables")
        record = None
        if header.is_whole_shard:
            record = commit_shard(run, header.shard, [tables])
        else:
            stage_pack(run, header, tables)
        receipts.append(row | {"record": json.dumps(record) if record else ""})
    return pa.Table.from_pylist(receipts, schema=RECEIPT)
