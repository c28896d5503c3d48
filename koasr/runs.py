"""Where an output keeps what: its format, the plans of its runs, and what is committed in it."""

import dataclasses
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from koasr.errors import JobError
from koasr.rows import Shard, StoredFile, short_hash
from koasr.storage import (
    job_errors,
    join,
    list_files,
    open_fs,
    read_bytes,
    remove_tree,
    write_bytes,
)

RECORD_KEY = b"koasr"
_FORMAT = "format.json"
_FILE = pa.struct(
    [
        ("uri", pa.string()),
        ("version", pa.string()),
        ("size_bytes", pa.int64()),
        ("reference_uri", pa.string()),
    ]
)
PLAN = pa.schema(
    [
        ("name", pa.string()),
        ("uri", pa.string()),
        ("version", pa.string()),
        ("size_bytes", pa.int64()),
        ("kind", pa.string()),
        ("audio_root", pa.string()),
        ("files", pa.list_(_FILE)),
    ]
)


@dataclass(frozen=True)
class Run:
    """One run's place in an output. `date` (YYYY-MM-DD) names the partition of its rows."""

    output: str
    run_id: str
    date: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """Where the run keeps its plan, its staged packs and its summary."""
        return join(self.output, "_koasr", "runs", self.run_id)

    def transcripts(self, name: str) -> str:
        """The object that commits the shard of this name."""
        return join(self.output, "transcripts", f"date={self.date}", f"{name}.parquet")

    def rejects(self, name: str) -> str:
        """The dead letters of the shard of this name."""
        return join(self.output, "rejects", f"date={self.date}", f"{name}.parquet")

    def staged(self, name: str, key: str = "") -> str:
        """The staged pack `key` of a shard, or the folder of all of them."""
        folder = join(self.folder, "staged", name)
        return join(folder, f"{key}.arrows") if key else folder


def shard_name(shard: Shard, fingerprint: str) -> str:
    """Name of a shard's output: readable, then its URI's hash, then its version's."""
    version = short_hash(shard.version, fingerprint)
    return f"{shard.slug}.{short_hash(shard.uri)}.{version}"


def check_output(output: str, parts: dict[str, str]) -> None:
    """Refuse an output that holds transcripts made another way, or that cannot be written.

    Args:
        output: URI of the output.
        parts: What the fingerprint is made of, by name. A part left out is not compared.

    Raises:
        JobError: The differing parts side by side, or why the output cannot be written.
    """
    place = join(output, "_koasr", _FORMAT)
    with job_errors(output):
        try:
            held = json.loads(read_bytes(place))["parts"]
        except FileNotFoundError:
            held = {}
        differing = [k for k in parts if k in held and held[k] != parts[k]]
        if differing:
            pairs = "; ".join(f"{k}: {held[k]} there, {parts[k]} here" for k in differing)
            message = f"{output} was begun another way ({pairs}): use a new --output"
            raise JobError(message)
    probe = join(output, "_koasr", "probe")
    try:
        with job_errors(output):
            write_bytes(probe, b"")
            remove_tree(probe)
    except JobError as error:
        raise JobError(f"the output cannot be written: {error}") from error


def write_format(output: str, parts: dict[str, str]) -> None:
    """Say once in the output how its transcripts are made."""
    place = join(output, "_koasr", _FORMAT)
    document = {"format": 1, "fingerprint": fingerprint_of(parts), "parts": parts}
    write_bytes(place, json.dumps(document, indent=2).encode())


def fingerprint_of(parts: dict[str, str]) -> str:
    """Hash of everything that shapes a transcript; batch size and cluster are not among it."""
    return short_hash(json.dumps(parts, sort_keys=True))


def list_committed(output: str) -> dict[str, str]:
    """Shard name → URI of every committed object, over all dates."""
    files = list_files(join(output, "transcripts"))
    names = ((file.uri.rsplit("/", 1)[-1], file.uri) for file in files)
    return {name.removesuffix(".parquet"): uri for name, uri in names if name.endswith(".parquet")}


def read_record(uri: str) -> dict[str, Any]:
    """The commit record in a Parquet footer."""
    fs, path = open_fs(uri)
    with fs.open(path, "rb") as file:
        metadata = pq.read_schema(file).metadata or {}
    if RECORD_KEY not in metadata:
        raise JobError(f"{uri} has no commit record: it was not written by koasr; move it away")
    record: dict[str, Any] = json.loads(metadata[RECORD_KEY])
    return record


def committed_files(committed: dict[str, str]) -> set[tuple[str, str]]:
    """(source_uri, source_version) of every loose file in the transcripts or the rejects."""
    found: set[tuple[str, str]] = set()
    for name, uri in committed.items():
        if not name.startswith("files-"):
            continue
        root, _, below = uri.rpartition("/transcripts/")
        for place in (uri, join(root, "rejects", below)):
            fs, path = open_fs(place)
            with fs.open(path, "rb") as file:
                table = pq.read_table(file, columns=["source_uri", "source_version"])
            columns = (table[name].to_pylist() for name in ("source_uri", "source_version"))
            found.update(zip(*columns, strict=True))
    return found


def write_plan(run: Run, shards: Iterable[Shard]) -> None:
    """Fix what the run will do, before its first pack."""
    rows = [{"name": shard_name(s, run.fingerprint), **dataclasses.asdict(s)} for s in shards]
    table = pa.Table.from_pylist(rows, schema=PLAN)
    document = json.dumps(dataclasses.asdict(run) | {"output": ""})
    table = table.replace_schema_metadata({RECORD_KEY: document})
    write_bytes(join(run.folder, "plan.parquet"), to_parquet(table))


def read_plan(run: Run) -> dict[str, Shard]:
    """Shard name → shard, as planned."""
    rows = pq.read_table(io.BytesIO(read_bytes(join(run.folder, "plan.parquet")))).to_pylist()
    plan = {}
    for row in rows:
        name = row.pop("name")
        plan[name] = Shard(**{**row, "files": tuple(StoredFile(**f) for f in row["files"])})
    return plan


def unfinished_runs(output: str) -> list[Run]:
    """Runs with a plan and no summary, oldest first."""
    files = {file.uri for file in list_files(join(output, "_koasr", "runs"))}
    runs = []
    for uri in sorted(uri for uri in files if uri.endswith("/plan.parquet")):
        if uri.replace("/plan.parquet", "/summary.json") not in files:
            metadata = pq.read_schema(io.BytesIO(read_bytes(uri))).metadata
            runs.append(Run(**json.loads(metadata[RECORD_KEY]) | {"output": output}))
    return runs


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of one Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table.unify_dictionaries(), sink, compression="zstd")
    return sink.getvalue()
