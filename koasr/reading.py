"""An output, or Parquet files of its schema → its transcripts as one table."""

import io
from collections.abc import Sequence
from functools import partial

import pyarrow as pa

from koasr.errors import JobError
from koasr.runs import is_of_date, list_committed, open_parquet, read_sound
from koasr.storage import absolute, check_reachable, job_errors, join, list_files, read_bytes
from koasr.threads import concurrently
from koasr.transcripts import REJECTS, TRANSCRIPTS

_PLAIN = {field.name: field.type for field in TRANSCRIPTS if not pa.types.is_nested(field.type)}
"""Columns that another writer may have given a wider type: large strings, 64-bit floats."""


def read_transcripts(
    output: str, columns: Sequence[str] | None = None, date: str | None = None
) -> pa.Table:
    """Every transcript of an output, in the order of its objects' names and of the rows in them.

    Args:
        output: Folder or URI of an output; or a Parquet file, a folder or a pattern of some.
        columns: What to read, in this order; all if not given.
        date: Of the nights, the one whose rows are read; all if not given.

    Returns:
        Columns as `TRANSCRIPTS` declares them, those that a newer koasr added as they are.

    Raises:
        JobError: Nothing is there, it cannot be read, is damaged, or lacks a column.
    """
    check_reachable(output)
    with job_errors(output):
        uris = _list_transcripts(absolute(output), date)
        read = partial(_read_columns, columns=columns)
        tables = concurrently(read, uris, "objects with transcripts read")
    names = tables[0].column_names
    declared = pa.schema([TRANSCRIPTS.field(name) for name in names if name in TRANSCRIPTS.names])
    # Objects of an older schema version lack fields of `evidence`: there they are null.
    try:
        table = pa.concat_tables([declared.empty_table(), *tables], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        found = " ".join(str(error).split())[:200]
        raise JobError(f"{output} has columns of other types than transcripts: {found}") from error
    return table.unify_dictionaries()


def read_rejects(output: str, date: str | None = None) -> pa.Table:
    """The recordings an output rejected: their `recording_id`, `source_uri` and `source_key`.

    Empty for Parquet files that are no output. `date` is as of `read_transcripts`.
    """
    columns = ["recording_id", "source_uri", "source_key"]
    with job_errors(output):
        files = list_files(join(absolute(output), "rejects"))
        uris = [file.uri for file in files if file.uri.endswith(".parquet")]
        uris = [uri for uri in uris if is_of_date(uri, date)]
        read = partial(_read_columns, columns=columns)
        tables = concurrently(read, uris, "objects with rejects read")
    fields = pa.schema([REJECTS.field(name) for name in columns])
    return pa.concat_tables([fields.empty_table(), *tables])


def _list_transcripts(output: str, date: str | None) -> list[str]:
    """URIs of the objects that hold transcripts, in order; of a shard committed twice the first.

    Raises:
        JobError: There is none.
    """
    uris = sorted(list_committed(output).values())
    if not uris:
        files = list_files(output, expand=True)
        uris = [file.uri for file in files if file.uri.endswith(".parquet")]
    if not uris:
        raise JobError(
            f"{output} holds no transcripts: wanted an output of koasr transcribe, or Parquet files"
        )
    chosen = [uri for uri in uris if is_of_date(uri, date)]
    if not chosen:
        dates = sorted({uri.split("/")[-2].removeprefix("date=") for uri in uris})
        raise JobError(f"{output} has no transcripts of {date}: it has {', '.join(dates)[-200:]}")
    return chosen


def _read_columns(uri: str, columns: Sequence[str] | None) -> pa.Table:
    def read() -> pa.Table:
        file = open_parquet(io.BytesIO(read_bytes(uri)))
        names = file.schema_arrow.names if columns is None else list(columns)
        missing = [name for name in names if name not in file.schema_arrow.names]
        if missing:
            wanted = f"wanted a file of transcripts with {', '.join(missing)}"
            raise JobError(f"{uri} has {', '.join(file.schema_arrow.names)[:200]}; {wanted}")
        table = file.read(names).select(names)
        for name in _PLAIN.keys() & set(names):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, table[name].cast(_PLAIN[name]))
        return table

    return read_sound(uri, read)
