"""Files that hold references apart from the speech → their texts, and the names of each."""

import csv
import io
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

import pyarrow.parquet as pq

from koasr.errors import JobError, RecordingError, TransientError
from koasr.items import REFERENCE_KEYS, split_columns
from koasr.manifests import manifest_lines
from koasr.readers import read_reference_file
from koasr.rows import Kind, Shard, StoredFile
from koasr.runs import read_sound
from koasr.sources import decode
from koasr.storage import (
    absolute,
    check_reachable,
    is_folder,
    job_errors,
    list_files,
    open_fs,
    read_bytes,
)
from koasr.stored import read_at_most
from koasr.threads import concurrently

_PATH_KEYS = ("audio_filepath", "path", "file_name", "filename", "file", "audio", "id", "name")
_ID_KEYS = ("segment_id", "recording_id", "source_key")
_FLEURS = ("id", "path", "raw_transcription", "transcription", "chars", "num_samples", "gender")
"""Columns of google/fleurs' *.tsv, which have no header."""

_HEAD_BYTES = 4096
_WANTED = "a JSONL manifest, .trn, .tsv, .csv, .trans.txt or a folder of those, or Parquet"


@dataclass(frozen=True)
class Reference:
    """A text, and the names under which its recording may be known: exact ids, or a path.

    `offset` is where a manifest's line starts in its file: several lines may cut one.
    """

    ids: tuple[str, ...]
    path: str
    text: str
    offset: str = ""


def read_references(uri: str) -> list[Reference]:
    """Every reference of a file, or of the `*.trans.txt` (else `*.txt`) of a folder.

    Raises:
        JobError: Nothing is there, it cannot be read, or it is none of the formats.
    """
    check_reachable(uri)
    with job_errors(uri):
        files = list_files(absolute(uri), expand=True)
        if not files:
            problem = "is an empty folder" if is_folder(uri) else "does not exist"
            raise JobError(f"{uri} {problem}: wanted {_WANTED}")
        if len(files) > 1 or files[0].uri != absolute(uri):
            files = _texts_of_folder(uri, files)
        try:
            found = concurrently(_read_file, files, "files with references read")
        except TransientError as error:
            raise JobError(f"cannot read the references: {error}") from error
    references = [reference for part in found for reference in part]
    if not references:
        problem = "has no line with a text" if any(f.size_bytes for f in files) else "is empty"
        keys = ", ".join(REFERENCE_KEYS)
        raise JobError(f"{uri} {problem}: wanted references, in tables and manifests under {keys}")
    return references


def _texts_of_folder(uri: str, files: list[StoredFile]) -> list[StoredFile]:
    """Of a folder's files the `*.trans.txt`, else the `*.txt`."""
    for ending in (".trans.txt", ".txt"):
        if texts := [file for file in files if file.uri.endswith(ending)]:
            return texts
    found = f"no .trans.txt or .txt among {len(files):,} files"
    raise JobError(f"{uri} has {found}: wanted those in a folder, or one file: {_WANTED}")


def _read_file(file: StoredFile) -> list[Reference]:
    name = file.uri.lower()
    if not name.endswith(".parquet") and b"\0" in read_at_most(file.uri, _HEAD_BYTES):
        # In UTF-16 every Latin letter, comma or tab has one; in UTF-8 and cp949 no text does.
        raise JobError(f"{file.uri} is UTF-16 or no text: wanted UTF-8 or cp949, convert it first")
    if name.endswith(".txt"):
        return list(_read_text(file.uri))
    if name.endswith((".tsv", ".csv")):
        return list(_read_table(file.uri))
    if name.endswith(".parquet"):
        return list(_read_parquet(file.uri))
    if name.endswith((".trn", ".jsonl", ".json", ".ndjson")):
        return list(_read_manifest(file, "trn" if name.endswith(".trn") else "manifest"))
    raise JobError(f"{file.uri} is no file of references: wanted {_WANTED}")


def _read_text(uri: str) -> Iterator[Reference]:
    folder, name = posixpath.split(uri)
    for utterance, text in read_reference_file(uri).items():
        yield Reference((), posixpath.join(folder, utterance or name), text)


def _read_manifest(file: StoredFile, kind: Kind) -> Iterator[Reference]:
    shard = Shard(file.uri, file.version, file.size_bytes, kind)
    for key, entry in manifest_lines(shard):
        if isinstance(entry, RecordingError):
            raise JobError(f"{file.uri}, line {key.rstrip(':')}: {entry.message}")
        text, others = split_columns(entry)
        if text is not None:
            ids = [others[name] for name in _ID_KEYS if name in others]
            # The key that koasr gives this very line, should it have transcribed the manifest.
            own = f"{file.uri}\n{key}"
            path, offset = entry["audio_filepath"], others.get("offset", "")
            yield Reference((*ids, own), path, text, offset)


def _read_table(uri: str) -> Iterator[Reference]:
    """Rows of a TSV as Common Voice and FLEURS have it, or of a CSV with its quotes."""
    lines = io.StringIO(decode(read_bytes(uri)), newline="")
    is_tsv = uri.lower().endswith(".tsv")
    rows = csv.reader(lines, "excel-tab", quoting=csv.QUOTE_NONE) if is_tsv else csv.reader(lines)
    try:
        header = next(rows, [])
        # Where a count of samples stands there is no name of a column.
        if len(header) == len(_FLEURS) and header[5].isdecimal():
            header, first = list(_FLEURS), [header]
        else:
            first = []
        for row in chain(first, rows):
            found = _of_columns(dict(zip(header, row, strict=False)), uri) if row else None
            if found is not None:
                yield found
    except csv.Error as error:
        raise JobError(f"{uri}, line {rows.line_num}: {error}") from error


def _of_columns(columns: Mapping[str, object], uri: str, *own: str) -> Reference | None:
    """A row with a text, None for one whose text is null; `own` is what koasr would call it."""
    text, others = split_columns(dict(columns))
    path = next((others[name] for name in _PATH_KEYS if others.get(name)), "")
    ids = (*(others[name] for name in _ID_KEYS if name in others), *own)
    is_text = any(name in columns for name in REFERENCE_KEYS)
    if not (is_text and (ids or path)):
        raise JobError(
            f"{uri} has the columns {', '.join(columns)[:200]}: wanted one of "
            f"{', '.join(REFERENCE_KEYS)} and one of {', '.join((*_ID_KEYS, *_PATH_KEYS))}"
        )
    return None if text is None else Reference(ids, path, text)


def _read_parquet(uri: str) -> Iterator[Reference]:
    """Rows with a text; of a column `audio` only the path is read."""

    def read() -> list[dict[str, object]]:
        fs, path = open_fs(uri)
        with fs.open(path, "rb") as stored:
            file = pq.ParquetFile(stored)
            names = {*REFERENCE_KEYS, *_ID_KEYS, *_PATH_KEYS} - {"audio"}
            leaves = [file.schema.column(place).path for place in range(len(file.schema))]
            wanted = [leaf for leaf in leaves if leaf in names or leaf == "audio.path"]
            rows: list[dict[str, object]] = file.read(wanted).to_pylist()
            return rows

    for number, row in enumerate(read_sound(uri, read)):
        if isinstance(audio := row.pop("audio", None), dict):
            row.setdefault("path", audio["path"])
        found = _of_columns(row, uri, f"{uri}\n{number}")
        if found is not None:
            yield found
