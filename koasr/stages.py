"""The callables Ray runs: each unpacks one Ray row, calls plain functions, packs one row."""

import functools
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pyarrow as pa

from koasr.calibration import Calibration, calibrate_rows
from koasr.checkpoint import Checkpoint, stage_checkpoint
from koasr.commit import commit_shard
from koasr.decoder import Decoder
from koasr.feeding import Times
from koasr.limits import Limits
from koasr.pack_rows import (
    HEADER,
    header_of,
    loaded_to_table,
    pack_to_table,
    table_to_loaded,
    table_to_pack,
)
from koasr.packs import load_pack, plan_packs
from koasr.precision import FloatType
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
    "times": pa.struct([(field.name, pa.float64()) for field in fields(Times)]),
}
TRANSCRIBED = pa.schema([*HEADER, *_COUNTS.items(), ("tables", pa.large_binary())])
RECEIPT = pa.schema([*HEADER, *_COUNTS.items(), ("record", pa.string())])


def is_elsewhere() -> bool:
    """Whether there is a Ray cluster to join. Starting one only to look would take seconds."""
    return bool(os.environ.get("RAY_ADDRESS")) or _RAY_ADDRESS_FILE.exists()


def cluster_address() -> str:
    """Of the Ray cluster there is to join; empty without one."""
    try:
        return os.environ.get("RAY_ADDRESS") or _RAY_ADDRESS_FILE.read_text().strip()
    except FileNotFoundError:
        return ""


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

    `batch_seconds` is the audio of a micro-batch, None for what fits; `threads` an actor's on a
    CPU. The CPUs are what an actor and a loading task ask Ray for.
    """

    device: str
    precision: FloatType
    num_actors: int
    models_per_actor: int
    threads: int
    batch_seconds: float | None
    actor_cpus: float
    load_cpus: float

    @property
    def calls_per_actor(self) -> int:
        """Packs in an actor: one in each model, as many being unpacked or written up."""
        return 2 * self.models_per_actor

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
    """What is made of recordings, and how; `calibration` None leaves confidence raw."""

    samples_per_frame: int
    pack_seconds: float
    limits: Limits
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Receipt:
    """What the driver hears of a finished pack. `size_bytes` is encoded, as listed.

    `shard` is the name of its shard; `num_float32_retries` counts micro-batches that were not
    finite in half precision.
    """

    shard: str
    audio_s: float
    size_bytes: int
    num_recordings: int
    num_rejects: int
    num_float32_retries: int
    times: Times


def _with_seconds(table: pa.Table, **seconds: float) -> pa.Table:
    for name, value in seconds.items():
        table = table.append_column(name, pa.array([value], pa.float64()))
    return table


def read_packs(table: pa.Table, run: Run, work: Work) -> Iterator[pa.Table]:
    """Columns in: `SHARD`. Columns out: `PACK` and read_s, a row a pack that is not staged yet."""
    start_s = time.monotonic()
    for row in table.to_pylist():
        name, staged = row.pop("name"), ShardPacks(row.pop("staged"))
        shard = Shard(**{**row, "files": tuple(StoredFile(**file) for file in row["files"])})
        items = filter(wanted(run, name), read_recordings(shard, work.limits))
        for pack in plan_packs(items, shard, name, work.pack_seconds):
            if not staged.holds(pack.header):
                yield _with_seconds(pack_to_table(pack), read_s=time.monotonic() - start_s)
                start_s = time.monotonic()


@functools.cache
def _decoder(limits: Limits) -> Decoder:
    """The one decoder of this worker process."""
    return Decoder(limits)


def load_audio(table: pa.Table, work: Work) -> Iterator[pa.Table]:
    """Columns in: `PACK`, read_s. Columns out: `LOADED`, read_s, load_s and ready_s (Unix time).

    One row a piece of a pack's seconds at most.
    """
    start_s = time.monotonic()
    pack, read_s = table_to_pack(table), table["read_s"][0].as_py()
    decode = _decoder(work.limits).stream
    for piece in load_pack(pack, work.samples_per_frame, decode, work.pack_seconds):
        row = loaded_to_table(piece)
        load_s = time.monotonic() - start_s
        yield _with_seconds(row, read_s=read_s, load_s=load_s, ready_s=time.time())
        start_s, read_s = time.monotonic(), 0.0


@dataclass
class _Model:
    """The model in a child of its own, and when its last pack was done (monotonic seconds)."""

    recognizer: Recognizer
    free_s: float | None = None


class Transcribe:
    """Holds the model, in children. Columns in: as of `load_audio`. Columns out: `TRANSCRIBED`.

    More calls run at once than there are models: while some have one, the others unpack or write
    up their rows.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        compute: Compute,
        provenance: Provenance,
        calibration: Calibration | None = None,
    ) -> None:
        self._checkpoint, self._provenance = checkpoint, provenance
        self._calibration = calibration
        load = partial(
            Recognizer,
            checkpoint,
            stage_checkpoint(checkpoint),
            device=compute.device,
            precision=compute.precision,
            threads=compute.threads,
            batch_seconds=compute.batch_seconds,
            num_sharing=compute.models_per_actor,
        )
        self._idle: SimpleQueue[_Model] = SimpleQueue()
        with ThreadPoolExecutor(compute.models_per_actor) as pool:
            for loaded in [pool.submit(load) for _ in range(compute.models_per_actor)]:
                self._idle.put(_Model(loaded.result()))
        self._open_s = time.time()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Transcribe the one pack of a batch."""
        pack = table_to_loaded(table)
        samples = [segment.samples for segment in pack.segments]
        read_s, load_s, ready_s = (table[n][0].as_py() for n in ("read_s", "load_s", "ready_s"))
        model = self._idle.get()
        try:
            start_s, retries = time.monotonic(), model.recognizer.num_float32_retries
            # What lay there before the model was loaded says nothing of how it is fed.
            queue_s = max(time.time() - max(ready_s, self._open_s), 0.0)
            wait_s = 0.0 if model.free_s is None else start_s - model.free_s
            paths = model.recognizer.recognize(samples)
            retries = model.recognizer.num_float32_retries - retries
            model.free_s = time.monotonic()
            model_s = model.free_s - start_s
        finally:
            self._idle.put(model)
        transcripts, rejects = to_tables(pack, paths, self._checkpoint, self._provenance)
        if self._calibration:
            transcripts = calibrate_rows(transcripts, self._calibration)
        columns = asdict(pack.header) | {
            "audio_s": sum(transcripts["duration_s"].to_pylist()),
            "num_rejects": rejects.num_rows,
            "num_float32_retries": retries,
            "times": asdict(Times(read_s, load_s, queue_s, wait_s, model_s)),
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
