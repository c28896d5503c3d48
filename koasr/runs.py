"""Where an output keeps what: its format, the plans of its runs, and what is committed in it."""

import dataclasses
import io
import json
import posixpath
import re
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from koasr.errors import JobError
from koasr.rows import Shard, StoredFile, short_hash
from koasr.storage import (
    impatient,
    job_errors,
    join,
    list_files,
    list_names,
    read_bytes,
    remove,
    write_bytes,
)
from koasr.threads import concurrently

RECORD_KEY = b"koasr"
_TAIL_BYTES = 1 << 16
"""Of a Parquet file: its footer, with few rejects."""
_NUM_READS = 3
_MAX_FOOTER_BYTES = (1 << 31) - 1
"""Parquet's own default is 100 MB, which the rejects of one hostile tar can fill."""
T = TypeVar("T")

_FORMAT = "format.json"
PAGE = "report.html"
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
    """One run's place in an output. `date` (YYYY-MM-DD) names the partition of its rows.

    `retry` holds the reasons (or "all") of a run that tries rejected recordings again: its plan
    names objects that are committed under this date, and it merges into them.
    """

    output: str
    run_id: str
    date: str
    fingerprint: str
    retry: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Where the run keeps its plan, its staged packs and its summary."""
        return join(self.output, "_koasr", "runs", self.run_id)

    @property
    def page(self) -> str:
        """The page of it, if koasr report made one: with speech and texts."""
        return join(self.folder, PAGE)

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


def new_run_id() -> str:
    """Name of a new run: its second in UTC, so that names sort by age, and a random end."""
    return f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{uuid.uuid4().hex[:6]}"


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
    with job_errors(output), impatient():
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
        with job_errors(output), impatient():
            write_bytes(probe, b"")
            remove(probe)
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


def list_objects(output: str) -> dict[str, list[str]]:
    """Shard name → URIs of its committed objects, the earliest date first.

    There is one, unless two drivers committed the shard under two dates at once.
    """
    return by_shard(list_files(join(output, "transcripts")))


def by_shard(files: Iterable[StoredFile]) -> dict[str, list[str]]:
    """Shard name → URIs of the objects of that name, in the order of the files."""
    found: dict[str, list[str]] = {}
    for file in files:
        if file.uri.endswith(".parquet"):
            found.setdefault(object_name(file.uri), []).append(file.uri)
    return found


def object_name(uri: str) -> str:
    """The shard's name in the URI of its object."""
    return posixpath.basename(uri).removesuffix(".parquet")


def list_committed(output: str) -> dict[str, str]:
    """Shard name → URI of its committed object, over all dates; the earliest where there are two.

    All drivers agree on the earliest, so it is the one that stays.
    """
    return {name: uris[0] for name, uris in list_objects(output).items()}


def read_sound(uri: str, work: Callable[[], T]) -> T:
    """What `work` reads of a Parquet file; read again where it is damaged, maybe on the way.

    Args:
        uri: The file.
        work: Reads and parses it.

    Raises:
        JobError: It stays damaged.
    """
    problem: Exception | None = None
    for _ in range(_NUM_READS):
        try:
            return work()
        except (pa.ArrowException, ValueError, KeyError, TypeError) as error:
            problem = error
        except OSError as error:
            # What Parquet finds has no number; what the store says has, or a class of its own.
            if type(error) is not OSError or error.errno is not None:
                raise
            problem = error
    found = " ".join(f"{problem}".split())[:200]
    raise JobError(f"{uri} is damaged or no Parquet file: {found}") from problem


def read_table(uri: str, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file of ours, or some columns of it; see `read_sound`."""
    return read_sound(uri, lambda: pq.read_table(io.BytesIO(read_bytes(uri)), columns=columns))


def open_parquet(file: BinaryIO) -> pq.ParquetFile:
    """A file of ours: checksums compared, a footer of any size."""
    return pq.ParquetFile(
        file, page_checksum_verification=True, thrift_string_size_limit=_MAX_FOOTER_BYTES
    )


def read_footer(uri: str) -> dict[bytes, bytes]:
    """The key-value metadata of a Parquet file, from its last bytes alone; see `read_sound`.

    Raises:
        FileNotFoundError: There is no such file.
        pyarrow.ArrowException: It is damaged, or no Parquet file.
    """
    tail = read_bytes(uri, start=-_TAIL_BYTES)
    size_bytes = int.from_bytes(tail[-8:-4], "little") + 8
    if size_bytes > len(tail):
        tail = read_bytes(uri, start=-size_bytes)
    return dict(open_parquet(io.BytesIO(tail)).metadata.metadata or {})


def read_record(uri: str) -> dict[str, Any]:
    """The commit record in a Parquet footer."""
    return read_sound(uri, lambda: open_record(uri, read_footer(uri)))


def open_record(uri: str, footer: dict[bytes, bytes]) -> dict[str, Any]:
    """The commit record in a footer that was read.

    Raises:
        JobError: There is none.
        ValueError: It is damaged.
    """
    if RECORD_KEY not in footer:
        raise JobError(f"{uri} has no commit record: it was not written by koasr; move it away")
    record: dict[str, Any] = json.loads(footer[RECORD_KEY])
    return record


def is_of_date(uri: str, date: str | None) -> bool:
    """Whether an object lies in the partition of a date; None is every date.

    Example:
        >>> is_of_date("out/transcripts/date=2026-11-22/a.parquet", "2026-11-22")
        True
    """
    return date is None or posixpath.basename(posixpath.dirname(uri)) == f"date={date}"


def is_group(name: str) -> bool:
    """Whether this is the name of a group of loose files.

    Example:
        >>> is_group("files-42d19ac1934f.37d94b0a987a.34a8971cf9fb"), is_group("files-1.a.b")
        (True, False)
    """
    return re.match(r"files-[0-9a-f]{12}\.", name) is not None


def read_forgotten(output: str) -> frozenset[str]:
    """Keys of the recordings that were forgotten and must not come back; see `is_forgotten_key`."""
    files = list_files(join(output, "_koasr", "forgotten"))
    lines = (line for file in files for line in read_bytes(file.uri).decode().splitlines())
    return frozenset(line for line in lines if line)


def is_forgotten_key(recording_id: str) -> str:
    """What the deny list keeps of a recording: a hash, since its id may name a person."""
    return short_hash(recording_id, length=32)


def write_plan(run: Run, shards: Iterable[Shard]) -> None:
    """Fix what the run will do, before its first pack."""
    rows = [{"name": shard_name(s, run.fingerprint), **dataclasses.asdict(s)} for s in shards]
    table = pa.Table.from_pylist(rows, schema=PLAN)
    document = json.dumps(dataclasses.asdict(run) | {"output": ""})
    table = table.replace_schema_metadata({RECORD_KEY: document})
    write_bytes(join(run.folder, "plan.parquet"), to_parquet(table))


def read_plan(run: Run, names: Collection[str] | None = None) -> dict[str, Shard]:
    """Shard name → shard, as planned; of all, or of those of the given names."""
    plan = {}
    table = read_table(join(run.folder, "plan.parquet"))
    if names is not None:
        table = table.filter(
            pc.is_in(table["name"], value_set=pa.array(sorted(names), pa.string()))
        )
    for row in table.to_pylist():
        name = row.pop("name")
        plan[name] = Shard(**{**row, "files": tuple(StoredFile(**f) for f in row["files"])})
    return plan


def has_ended_well(summary_uri: str) -> bool:
    """Whether a run is finished, by its summary: a stopped or failed one has a summary too.

    A damaged one counts as that of a finished run, which koasr verify will tell.
    """
    try:
        return str(json.loads(read_bytes(summary_uri)).get("state", "done")) == "done"
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError):
        return True


def unfinished_runs(output: str) -> list[Run]:
    """Runs with a plan that have not come to its end, oldest first.

    Folder by folder: below them lie staged packs, of which there may be a million.
    """
    folder = join(output, "_koasr", "runs")
    folders = [join(folder, run_id) for run_id in list_names(folder)]
    listed = zip(folders, concurrently(list_names, folders, "runs listed"), strict=True)
    planned = [(place, names) for place, names in listed if "plan.parquet" in names]
    told = [join(place, "summary.json") for place, names in planned if "summary.json" in names]
    ended = concurrently(has_ended_well, told, "summaries read")
    over = {uri for uri, is_over in zip(told, ended, strict=True) if is_over}
    plans = [
        join(place, "plan.parquet")
        for place, _ in planned
        if join(place, "summary.json") not in over
    ]
    return [run for run, _ in concurrently(partial(open_plan, output), plans, "plans read")]


def open_plan(output: str, uri: str) -> tuple[Run, tuple[str, ...]]:
    """The run that a plan is of, and the names of its shards.

    Raises:
        JobError: The plan is damaged.
    """

    def read() -> tuple[Run, tuple[str, ...]]:
        table = pq.read_table(io.BytesIO(read_bytes(uri)), columns=["name"])
        fields = json.loads(table.schema.metadata[RECORD_KEY])
        run = Run(**fields | {"output": output, "retry": tuple(fields.get("retry", ()))})
        # It names the folder that is written to.
        if "/" in run.run_id or run.run_id in ("", ".", ".."):
            raise ValueError(f"run_id {run.run_id!r} is no name")
        return run, tuple(table["name"].to_pylist())

    return read_sound(uri, read)


def to_parquet(table: pa.Table, metadata: dict[bytes, bytes] | None = None) -> bytes:
    """A table as the bytes of one Parquet file whose pages carry checksums.

    Args:
        table: The rows.
        metadata: Goes into the footer. In the table's own schema it would be written twice.
    """
    sink = io.BytesIO()
    options = {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(sink, table.schema, **options) as writer:
        writer.write_table(table.unify_dictionaries())
        writer.add_key_value_metadata(metadata or {})
    return sink.getvalue()
