"""The callables Ray runs: each unpacks one Ray row, calls plain functions, packs one row."""

import functools
import json
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from koasr.checkpoint import Checkpoint, stage_checkpoint
from koasr.commit import commit_shard
from koasr.decoder import Decoder
from koasr.limits import Limits
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
from koasr.recognizer import Recognizer
from koasr.retry import wanted
from koasr.rows import Shard, StoredFile
from koasr.runs import PLAN, Run
from koasr.staging import ShardPacks, encode_tables, stage_pack
from koasr.transcripts import Provenance, to_tables

SHARD = pa.schema([*PLAN, ("staged", pa.list_(pa.string()))])
_RAY_ADDRESS_FILE = Path("/tmp/ray/ray_current_cluster")
"""Where `ray start` leaves the address that `ray.init` joins."""
_COUNTS = {
    "audio_s": pa.float64(),
    "num_rejects": pa.int64(),
    "num_float32_retries": pa.int64(),
}
TRANSCRIBED = pa.schema([*HEADER, *_COUNTS.items(), ("tables", pa.large_binary())])
RECEIPT = pa.schema([*HEADER, *_COUNTS.items(), ("record", pa.string())])


def is_elsewhere() -> bool:
    """Whether there is a Ray cluster to join. Starting one only to look would take seconds."""
    return bool(os.environ.get("RAY_ADDRESS")) or _RAY_ADDRESS_FILE.exists()


def guard_own_cluster() -> None:
    """Give a cluster that we start ourselves a token: who reaches Ray's ports runs code.

    Ray reads this when it is imported. Left alone it writes its token to a file that all can read;
    this one lives and dies with the cluster.
    """
    if "ray" not in sys.modules and not is_elsewhere() and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


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
class Work:
    """How recordings become segments: what reading and loading must know."""

    samples_per_frame: int
    pack_seconds: float
    limits: Limits


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


def read_packs(table: pa.Table, run: Run, work: Work) -> Iterator[pa.Table]:
    """Columns in: `SHARD`. Columns out: `PACK`, one row a pack that is not staged yet."""
    for row in table.to_pylist():
        name, staged = row.pop("name"), ShardPacks(row.pop("staged"))
        shard = Shard(**{**row, "files": tuple(StoredFile(**file) for file in row["files"])})
        items = filter(wanted(run, name), read_recordings(shard, work.limits))
        for pack in plan_packs(items, shard, name, work.pack_seconds):
            if not staged.holds(pack.header):
                yield pack_to_table(pack)


@functools.cache
def _decoder(limits: Limits) -> Decoder:
    """The one decoder of this worker process."""
    return Decoder(limits)


def load_audio(table: pa.Table, work: Work) -> Iterator[pa.Table]:
    """Columns in: `PACK`. Columns out: `LOADED`, one row a piece of a pack's seconds at most."""
    pack = table_to_pack(table)
    decode = _decoder(work.limits).stream
    for piece in load_pack(pack, work.samples_per_frame, decode, work.pack_seconds):
        yield loaded_to_table(piece)


class Transcribe:
    """Holds the model, in a child. Columns in: `LOADED`. Columns out: `TRANSCRIBED`."""

    def __init__(self, checkpoint: Checkpoint, compute: Compute, provenance: Provenance) -> None:
        self._checkpoint, self._provenance = checkpoint, provenance
        self._recognizer = Recognizer(
            checkpoint,
            stage_checkpoint(checkpoint),
            device=compute.device,
            precision=compute.precision,
            threads=compute.threads,
            batch_seconds=compute.batch_seconds,
        )

    def __call__(self, table: pa.Table) -> pa.Table:
        """Transcribe the one pack of a batch."""
        pack = table_to_loaded(table)
        retries = self._recognizer.num_float32_retries
        paths = self._recognizer.recognize([segment.samples for segment in pack.segments])
        transcripts, rejects = to_tables(pack, paths, self._checkpoint, self._provenance)
        columns = asdict(pack.header) | {
            "audio_s": sum(transcripts["duration_s"].to_pylist()),
            "num_rejects": rejects.num_rows,
            "num_float32_retries": self._recognizer.num_float32_retries - retries,
            "tables": encode_tables(pack.header, transcripts, rejects),
        }
        return pa.Table.from_pylist([columns], schema=TRANSCRIBED)


def stage(table: pa.Table, run: Run, superseded: dict[str, list[str]]) -> pa.Table:
    """Columns in: `TRANSCRIBED`. Columns out: `RECEIPT`.

    A pack that is its whole shard is committed at once, and takes the place of what it supersedes;
    any other is staged.
    """
    receipts = []
    for row in table.to_pylist():
        header, tables = header_of(row), row.pop("tables")
        record = None
        if header.is_whole_shard:
            obsolete = superseded.get(header.shard, ())
            record = commit_shard(run, header.shard, [tables], obsolete)
        else:
            stage_pack(run, header, tables)
        receipts.append(row | {"record": json.dumps(record) if record else ""})
    return pa.Table.from_pylist(receipts, schema=RECEIPT)
