"""A Parquet shard's rows, sent to the process that asked: run apart, since Arrow may crash on one.

Frames to the parent are one byte that says what, then JSON; the audio of rows follows them, a
frame each, but for one that is too large. Whether the store or Arrow is at work is said as well: a
slow store is not a file that hangs.
"""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from koasr.channel import Channel
from koasr.child import serve
from koasr.errors import JobError, RecordingError, TransientError
from koasr.items import split_columns
from koasr.stored import open_stored

ROWS, END, FAILED, WAITS, WORKS = b"R", b"E", b"F", b"w", b"W"

_BATCH_BYTES = 16 << 20
_MAX_BATCH_ROWS = 4_096
_PAGE_BUFFER_BYTES = 4 << 20


class _Reported:
    """A stored file that tells the parent when it waits for the store."""

    closed = False

    def __init__(self, uri: str, pipe: Channel) -> None:
        self._pipe = pipe
        pipe.send_bytes(WAITS)
        self._file = open_stored(uri)
        pipe.send_bytes(WORKS)

    def read(self, size: int = -1) -> bytes:
        self._pipe.send_bytes(WAITS)
        data = self._file.read(size)
        self._pipe.send_bytes(WORKS)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        self.closed = True


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _audio_column(schema: pa.Schema) -> str:
    """The column that holds audio: struct<bytes, path>, or bytes by the name of `audio`."""
    for column in schema:
        if pa.types.is_struct(column.type):
            index = column.type.get_field_index("bytes")
            if index >= 0 and _is_bytes(column.type.field(index).type):
                return str(column.name)
        elif column.name == "audio" and _is_bytes(column.type):
            return "audio"
    found = ", ".join(f"{column.name}: {column.type}" for column in schema)[:300]
    raise RecordingError("unsupported_format", f"found {found}; wanted one of struct<bytes, path>")


def _is_plain(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
    return any(test(kind) for test in (*tests, pa.types.is_floating, pa.types.is_boolean))


def _batch_rows(file: pq.ParquetFile, group: int) -> int:
    """How many rows of a row group are about `_BATCH_BYTES`."""
    described = file.metadata.row_group(group)
    row_bytes = max(1, described.total_byte_size // max(1, described.num_rows))
    return int(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // row_bytes)))


def _batches(file: pq.ParquetFile, audio: str) -> Iterator[pa.RecordBatch]:
    columns = [column.name for column in file.schema_arrow if _is_plain(column.type)]
    for group in range(file.metadata.num_row_groups):
        rows = _batch_rows(file, group)
        # Threads would talk over each other on the pipe.
        yield from file.iter_batches(rows, [group], [*columns, audio], use_threads=False)


def _rows(batch: pa.RecordBatch, audio: str) -> tuple[list[dict[str, Any]], list[memoryview]]:
    """Sizes and descriptions of a batch's rows, and their bytes end to end, not copied."""
    column = batch.column(audio)
    paths: list[Any] = [None] * len(column)
    if pa.types.is_struct(column.type):
        # `flatten` knows of rows that are null as a whole, `field` does not.
        children = dict(zip((f.name for f in column.type), column.flatten(), strict=True))
        if "path" in children and pa.types.is_string(children["path"].type):
            paths = children["path"].to_pylist()
        column = children["bytes"]
    others = batch.drop_columns([audio]).to_pylist() or [{} for _ in paths]
    sizes = pc.binary_length(column).to_pylist()
    rows = []
    for size, path, columns in zip(sizes, paths, others, strict=True):
        reference, metadata = split_columns(columns | ({"path": path} if path else {}))
        rows.append({"size": size, "reference": reference, "metadata": metadata})
    return rows, [memoryview(value.as_buffer()) for value in column if value.is_valid]


def _send(pipe: Channel, uri: str, max_bytes: int) -> None:
    source = pa.PythonFile(_Reported(uri, pipe), mode="r")
    file = pq.ParquetFile(source, buffer_size=_PAGE_BUFFER_BYTES, pre_buffer=False)
    audio = _audio_column(file.schema_arrow)
    for batch in _batches(file, audio):
        rows, values = _rows(batch, audio)
        pipe.send_bytes(ROWS + json.dumps(rows).encode())
        for value in values:
            if 0 < len(value) <= max_bytes:
                pipe.send_bytes(value)


def _bound_memory(num_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _handle(pipe: Channel) -> None:
    uri, max_bytes = json.loads(pipe.recv_bytes())
    try:
        _send(pipe, uri, max_bytes)
        pipe.send_bytes(END)
        return
    except RecordingError as error:
        failure = {"kind": error.reason, "message": error.message}
    except (JobError, TransientError, FileNotFoundError, PermissionError) as error:
        failure = {"kind": type(error).__name__, "message": str(error)}
    except MemoryError as error:
        failure = {"kind": "too_large", "message": f"no memory for it: {error}"}
    # Untrusted bytes fail in more ways than can be named.
    except Exception as error:
        failure = {"kind": "unreadable", "message": f"{type(error).__name__}: {error}"}
    pipe.send_bytes(FAILED + json.dumps(failure).encode())


if __name__ == "__main__":
    _bound_memory(int(sys.argv[2]))
    serve(_handle)
