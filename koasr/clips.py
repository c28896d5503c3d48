"""Rows of transcripts → the audio of each, cut out of its recording again."""

import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import soundfile

from koasr.audio import Samples
from koasr.errors import Reason, RecordingError, TransientError
from koasr.items import unescape_name
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.packs import Decode
from koasr.readers import group_folder, read_recordings
from koasr.rows import SAMPLE_RATE, Recording, Reject, Shard, StoredFile
from koasr.storage import transient_errors, version_of
from koasr.threads import concurrently

Row = dict[str, Any]
"""A row of the transcripts."""

WhySkipped = Reason | Literal["changed", "vanished", "unplanned"]
"""Why a row has no clip: its source is another by now, is gone, or stands in no plan; or why its
recording cannot be read any more. `truncated`: the recording ends before the segment does."""

COLUMNS = ["segment_id", "recording_id", "source_uri", "source_key", "source_version", "start_s"]
COLUMNS += ["end_s", "text", "confidence", "calibration", "expected_cer", "words"]
COLUMNS += ["model", "model_revision", "fingerprint"]
"""Of a row of the transcripts, what cutting its clip takes."""

_LEAD_S = 0.2
_TAIL_S = 0.5
"""The model puts the end of a word where it is sure of it, which is before the sound is over."""


@dataclass(frozen=True)
class Clip:
    """A segment as a recording of its own: `audio` is FLAC, mono, 16 kHz, 16 bit.

    `start_s` and `end_s` say where it was cut out of its recording; the rest is its transcript's.
    """

    segment_id: str
    recording_id: str
    source_uri: str
    source_key: str
    source_version: str
    start_s: float
    end_s: float
    audio: bytes = field(repr=False)
    num_samples: int
    text: str = field(repr=False)
    confidence: float | None
    calibration: str
    expected_cer: float | None
    model: str
    model_revision: str
    fingerprint: str

    @property
    def duration_s(self) -> float:
        """Its length in seconds."""
        return self.num_samples / SAMPLE_RATE


@dataclass(frozen=True)
class Skipped:
    """A row that has no clip, and why."""

    segment_id: str
    why: WhySkipped


def cut_clips(
    shard: Shard,
    rows: pa.Table,
    decode: Decode,
    *,
    trim: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Iterator[Clip | Skipped]:
    """A clip for each row, or why there is none, in the order of the shard.

    Args:
        shard: Where their recordings lie, as it was when they were transcribed.
        rows: Transcripts of recordings of this shard, with the `COLUMNS` at least.
        decode: How a recording becomes samples.
        trim: Cut to the words, not to the segment: from 0.2 s before the first to 0.5 s after the
            last, and never beyond the segment.
        limits: Of a recording.

    Raises:
        TransientError: The store failed in a way that may pass, or nothing can be decoded now.
        JobError: The store denied access.
    """
    wanted: dict[str, list[Row]] = {}
    for row in rows.to_pylist():
        wanted.setdefault(row["recording_id"], []).append(row)
    files = shard.files or (StoredFile(shard.uri, shard.version, 0),)
    needed = {held[0]["source_uri"] for held in wanted.values()}
    missing = _missing([file for file in files if file.uri in needed])
    for name, held in list(wanted.items()):
        if why := missing.get(held[0]["source_uri"]):
            yield from _skip(wanted.pop(name), why)
    rest: WhySkipped = "vanished"
    for item in _read(shard, needed - missing.keys(), limits) if wanted else ():
        if isinstance(item, Reject):
            if item.source_uri == shard.uri and not item.source_key:
                rest = item.reason
            yield from _skip(wanted.pop(item.recording_id, ()), item.reason)
        elif held := wanted.pop(item.recording_id, []):
            yield from _cut_recording(item, held, decode, trim=trim)
        if not wanted:
            break
    for held in wanted.values():
        yield from _skip(held, rest)


def _skip(rows: Iterable[Row], why: WhySkipped) -> Iterator[Skipped]:
    return (Skipped(row["segment_id"], why) for row in rows)


def _missing(files: Sequence[StoredFile]) -> dict[str, WhySkipped]:
    """Which of the files are not what they were, by URI."""

    def look(file: StoredFile) -> WhySkipped | None:
        try:
            with transient_errors(file.uri):
                return None if version_of(unescape_name(file.uri)) == file.version else "changed"
        except (FileNotFoundError, PermissionError):
            return "vanished"

    found = zip(files, concurrently(look, files, "files looked at"), strict=True)
    return {file.uri: why for file, why in found if why}


def _read(shard: Shard, needed: set[str], limits: Limits) -> Iterator[Recording | Reject]:
    """The recordings of a shard; of a group of loose files those that are needed."""
    if shard.files:
        # With fewer files their common folder is another. References are not asked for.
        limits = dataclasses.replace(limits, allow=(*limits.allow, group_folder(shard)))
        files = [dataclasses.replace(f, reference_uri="") for f in shard.files if f.uri in needed]
        shard = dataclasses.replace(shard, files=tuple(files))
    return read_recordings(shard, limits)


def _cut_recording(
    recording: Recording, rows: Iterable[Row], decode: Decode, *, trim: bool
) -> Iterator[Clip | Skipped]:
    """The clips of one recording, in time order."""
    left = sorted(rows, key=lambda row: _span(row, trim=trim))
    spans = [_span(row, trim=trim) for row in left]
    try:
        _, blocks = decode(recording)
        for (start, end), samples in zip(spans, cut_spans(blocks, spans), strict=True):
            row = left.pop(0)
            is_whole = len(samples) == end - start
            yield (
                _clip(row, start, samples) if is_whole else Skipped(row["segment_id"], "truncated")
            )
    except TransientError:
        raise
    except RecordingError as error:
        yield from _skip(left, error.reason)
    # As in loading: untrusted bytes fail in more ways than can be named.
    except Exception:
        yield from _skip(left, "unreadable")


def _span(row: Row, *, trim: bool) -> tuple[int, int]:
    """First sample of a row's clip, and the one behind its last."""
    start_s, end_s = row["start_s"], row["end_s"]
    if trim and row["words"]:
        start_s = max(start_s, row["words"][0]["start_s"] - _LEAD_S)
        end_s = min(end_s, row["words"][-1]["end_s"] + _TAIL_S)
    return round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)


def cut_spans(blocks: Iterable[Samples], spans: Iterable[tuple[int, int]]) -> Iterator[Samples]:
    """The samples of each span; fewer where the blocks end before it does.

    Memory is that of one span and one block.

    Args:
        blocks: Consecutive samples, in arrays of any length.
        spans: First sample and the one behind the last, ordered by the first.

    Example:
        >>> blocks = [np.arange(4), np.arange(4, 6), np.arange(6, 9)]
        >>> [span.tolist() for span in cut_spans(blocks, [(1, 3), (3, 7), (8, 11)])]
        [[1, 2], [3, 4, 5, 6], [8]]
    """
    stream = iter(blocks)
    held, first = np.zeros(0, np.int16), 0
    for start, end in spans:
        while first + len(held) < end and (block := next(stream, None)) is not None:
            passed = min(start - first, len(held))
            held, first = np.concatenate([held[passed:], block]), first + passed
        yield held[start - first : end - first]


def _clip(row: Row, start: int, samples: Samples) -> Clip:
    audio = io.BytesIO()
    soundfile.write(audio, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    names = {field.name for field in dataclasses.fields(Clip)} & row.keys()
    place = {"start_s": start / SAMPLE_RATE, "end_s": (start + len(samples)) / SAMPLE_RATE}
    columns = {name: row[name] for name in names} | place
    return Clip(audio=audio.getvalue(), num_samples=len(samples), **columns)
