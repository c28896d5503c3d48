"""Clips → the files of a training set, as a library reads them; the same clips, the same bytes."""

import csv
import gzip
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from koasr.clips import Clip
from koasr.rows import SAMPLE_RATE, short_hash
from koasr.storage import join, write_bytes
from koasr.threads import concurrently

Format = Literal["nemo", "hf", "webdataset", "lhotse", "csv"]

FOLDERS = ("audio", "data", "shards")
"""One of them is in a set, besides its index."""

_PART_BYTES = 64 << 20
"""Of FLAC, about an hour. What a Parquet file or a tar holds."""
_ROW_GROUP = 100
"""Clips. What a reader that streams must take at once."""
_PROVENANCE = {
    "segment_id": pa.string(),
    "source_uri": pa.string(),
    "source_key": pa.string(),
    "source_version": pa.string(),
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "confidence": pa.float32(),
    "calibration": pa.string(),
    "expected_cer": pa.float32(),
    "model": pa.string(),
    "model_revision": pa.string(),
    "fingerprint": pa.string(),
    "selection": pa.string(),
}
_AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_COLUMNS = {"audio": _AUDIO, "text": pa.string(), "duration": pa.float64()} | _PROVENANCE
_CSV = ["path", "text", "duration", "confidence", "expected_cer"]
_CSV += [name for name in _PROVENANCE if name not in _CSV]
# Without it the names of shards would say which are for training: `test-01.tar` would not.
_CARD = """\
---
language: ko
task_categories:
- automatic-speech-recognition
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

Speech with the transcripts of a model, selected by `{selection}`.
"""


def split_parts(clips: Iterable[Clip]) -> Iterator[list[Clip]]:
    """Clips in order, as many at once as one file should hold."""
    part: list[Clip] = []
    size_bytes = 0
    for clip in clips:
        if part and size_bytes + len(clip.audio) > _PART_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(clip)
        size_bytes += len(clip.audio)
    if part:
        yield part


def write_part(clips: Sequence[Clip], name: str, to: Format, out: str, selection: str) -> bytes:
    """Write clips to a training set, all but its index.

    Args:
        clips: As many as `split_parts` gives.
        name: Of this part, and of no other part of the set.
        to: The layout.
        out: Where the set is.
        selection: How they were selected. It is noted with each.

    Returns:
        Their lines of the index, for `write_index`; empty in a layout that has none.
    """
    match to:
        case "hf":
            write_bytes(join(out, "data", f"{name}.parquet"), _parquet(clips, selection))
            return b""
        case "webdataset":
            write_bytes(join(out, "shards", f"{name}.tar"), _tar(clips, selection))
            return b""
        case "nemo":
            line = _nemo_line
        case "lhotse":
            line = _lhotse_line
        case "csv":
            line = _csv_line
    paths = [join(out, "audio", name, f"{key_of(clip)}.flac") for clip in clips]
    files = zip(paths, clips, strict=True)
    concurrently(lambda file: write_bytes(file[0], file[1].audio), list(files), "clips written")
    lines = [
        line(clip, path if to == "lhotse" else path.removeprefix(f"{out}/"), selection)
        for clip, path in zip(clips, paths, strict=True)
    ]
    return "".join(lines).encode()


def write_index(lines: Iterable[bytes], to: Format, out: str, selection: str) -> None:
    """Write what leads a library to all parts of a training set.

    Args:
        lines: What `write_part` gave for each, in the order of the set.
        to: The layout.
        out: Where the set is.
        selection: How its clips were selected.
    """
    match to:
        case "hf":
            write_bytes(join(out, "README.md"), _CARD.format(selection=selection).encode())
        case "nemo":
            write_bytes(join(out, "manifest.jsonl"), b"".join(lines))
        case "lhotse":
            write_bytes(join(out, "cuts.jsonl.gz"), gzip.compress(b"".join(lines), mtime=0))
        case "csv":
            write_bytes(join(out, "clips.csv"), b"".join([_csv(_CSV).encode(), *lines]))
        case "webdataset":
            pass


def key_of(clip: Clip) -> str:
    """Name of a clip's files: without dots, which WebDataset would take for its end."""
    return short_hash(clip.segment_id, length=16)


def _provenance(clip: Clip, selection: str) -> dict[str, Any]:
    found = {name: getattr(clip, name) for name in _PROVENANCE if name != "selection"}
    return found | {"selection": selection}


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False) + "\n"


def _nemo_line(clip: Clip, path: str, selection: str) -> str:
    entry = {"audio_filepath": path, "duration": clip.duration_s, "text": clip.text}
    return _json(entry | _provenance(clip, selection))


def _csv(values: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(values)
    return line.getvalue()


def _csv_line(clip: Clip, path: str, selection: str) -> str:
    row = {"path": path, "text": clip.text, "duration": clip.duration_s}
    row |= _provenance(clip, selection)
    return _csv(row[name] for name in _CSV)


def _lhotse_line(clip: Clip, path: str, selection: str) -> str:
    """A cut that is all of its recording, with a full path: Lhotse starts from where it is run."""
    whole = {"id": clip.segment_id, "duration": clip.duration_s}
    place = {"start": 0.0, "channel": 0}
    source = {"type": "url" if "://" in path else "file", "channels": [0], "source": path}
    size = {"sampling_rate": SAMPLE_RATE, "num_samples": clip.num_samples, "channel_ids": [0]}
    supervision = whole | place | {"recording_id": clip.segment_id, "text": clip.text}
    supervision |= {"language": "Korean", "custom": _provenance(clip, selection)}
    recording = whole | size | {"sources": [source]}
    cut = whole | place | {"supervisions": [supervision], "recording": recording}
    return _json(cut | {"type": "MonoCut"})


def _parquet(clips: Sequence[Clip], selection: str) -> bytes:
    rows = [
        {
            "audio": {"bytes": clip.audio, "path": f"{key_of(clip)}.flac"},
            "text": clip.text,
            "duration": clip.duration_s,
        }
        | _provenance(clip, selection)
        for clip in clips
    ]
    # What makes `datasets` decode the column: without it these are bytes and a name.
    features: dict[str, Any] = {"audio": {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}}
    for name in ("text", "duration", *_PROVENANCE):
        dtype = {"float": "float32", "double": "float64"}.get(str(_COLUMNS[name]), "string")
        features[name] = {"dtype": dtype, "_type": "Value"}
    info = json.dumps({"info": {"features": features}})
    schema = pa.schema(list(_COLUMNS.items()), metadata={"huggingface": info})
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=schema)
    pq.write_table(table, sink, row_group_size=_ROW_GROUP, write_page_checksum=True)
    return sink.getvalue()


def _tar(clips: Sequence[Clip], selection: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for clip in clips:
            facts = _json({"duration": clip.duration_s} | _provenance(clip, selection))
            members = {"flac": clip.audio, "txt": clip.text.encode(), "json": facts.encode()}
            for ending, data in members.items():
                member = tarfile.TarInfo(f"{key_of(clip)}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return sink.getvalue()
