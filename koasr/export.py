"""An output → a text a recording: subtitles, time-marked words, plain lines or JSON."""

import io
import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import Annotated

import pyarrow as pa
from cyclopts import Parameter, validators
from rich.console import Console
from rich.progress import track

from koasr.dates import check_date
from koasr.errors import JobError
from koasr.inventory import Inventory, open_output
from koasr.rows import short_hash
from koasr.runs import open_parquet, read_sound
from koasr.storage import absolute, job_errors, join, read_bytes, write_bytes
from koasr.subtitles import MAX_LINE_CHARS, Form, write_text
from koasr.threads import concurrently
from koasr.writable import check_folder

_COLUMNS = ["recording_id", "source_uri", "source_key", "segment_id", "start_s", "end_s", "text"]
_COLUMNS += ["is_empty", "confidence", "calibration", "expected_cer", "words"]
_COLUMNS += ["model", "fingerprint"]
_MAX_NAME_BYTES = 120


def export(
    output: str,
    /,
    *,
    to: Form,
    out: str,
    date: str | None = None,
    max_line_chars: Annotated[int, Parameter(validator=validators.Number(gte=8))] = MAX_LINE_CHARS,
) -> None:
    """Write a text for each recording: subtitles, words with their times, plain lines or JSON.

    One file a recording, named after it; what is already there under that name is replaced.
    For example: koasr export s3://transcripts/lectures --to srt --out subtitles

    Args:
        output: Folder or URI of an earlier koasr transcribe.
        to: srt or vtt (subtitles), ctm (NIST's, a word a line), txt (a segment a line), json
            (segments and words with times and confidence).
        out: Folder or URI for the files.
        date: Only what was transcribed under this date, YYYY-MM-DD.
        max_line_chars: Characters of a line of subtitles; a cue has two.

    Raises:
        JobError: It is no output of koasr, has nothing of that date, or a file cannot be written.
    """
    inventory = open_output(output)
    check_folder(out)
    out = absolute(out)
    uris = _objects(inventory, date)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    num_files = 0

    def write(rows: pa.Table) -> None:
        name = file_name(rows["recording_id"][0].as_py())
        text = write_text(rows.to_pylist(), name, to, max_line_chars)
        write_bytes(join(out, f"{name}.{to}"), text.encode())

    with job_errors(out):
        # One object at a time: what is held does not grow with the output.
        is_live = console.is_terminal
        for uri in track(uris, "exporting", console=console, transient=True, disable=not is_live):
            with job_errors(uri):
                recordings = list(split_recordings(_read(uri)))
            concurrently(write, recordings, "files written")
            num_files += len(recordings)
    console.print(f"koasr: wrote {num_files:,} .{to} files to {out}, one a recording")


def _objects(inventory: Inventory, date: str | None) -> list[str]:
    """The object of each shard; the earliest where a shard is under two dates."""
    uris = [uris[0] for uris in inventory.committed().values()]
    if date is not None:
        found = [uri for uri in uris if f"/date={check_date(date)}/" in uri]
        if not found:
            dates = sorted({uri.split("/")[-2].removeprefix("date=") for uri in uris})
            held = f"it has {', '.join(dates)}" if dates else "it has none at all"
            raise JobError(f"{inventory.output} has no transcripts of {date}: {held}")
        uris = found
    return uris


def _read(uri: str) -> pa.Table:
    return read_sound(uri, lambda: open_parquet(io.BytesIO(read_bytes(uri))).read(_COLUMNS))


def split_recordings(transcripts: pa.Table) -> Iterator[pa.Table]:
    """The rows of each recording, in time order."""
    order = [("recording_id", "ascending"), ("start_s", "ascending")]
    transcripts = transcripts.sort_by(order)
    first = 0
    for _, rows in groupby(transcripts["recording_id"].to_pylist()):
        count = sum(1 for _ in rows)
        yield transcripts.slice(first, count)
        first += count


def file_name(recording_id: str) -> str:
    """A name for the file of a recording: readable, safe in any store, and no other's.

    An id that is safe itself is the name. Of any other the name holds a hash, behind a `~`, which
    no safe one has.

    Example:
        >>> file_name("강의.mp3-34a8971cf9fb")
        '강의.mp3-34a8971cf9fb'
        >>> file_name("a.tar-37d94b0a987a/../utt 1.flac")
        'a.tar-37d94b0a987a_.._utt_1.flac~dc2ad6fe0bc1bba9'
    """
    safe = re.sub(r"[^\w.-]", "_", recording_id)
    short = safe.encode()[:_MAX_NAME_BYTES].decode(errors="ignore")
    # The parts of a composed syllable are another name, and on some disks the same file.
    is_safe = re.match(r"\w", short) and short == unicodedata.normalize("NFC", recording_id)
    return short if is_safe else f"{short.lstrip('.-')}~{short_hash(recording_id, length=16)}"
