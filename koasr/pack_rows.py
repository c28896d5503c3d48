"""Packs ↔ Arrow rows: a pack is one row, and one row is what Ray hands on."""

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from koasr.audio import AudioInfo
from koasr.packs import Header, LoadedPack, Pack
from koasr.rows import Recording, Reject
from koasr.segments import Segment

_RECORDING = {
    "recording_id": pa.string(),
    "source_uri": pa.string(),
    "source_key": pa.string(),
    "source_version": pa.string(),
    "reference": pa.string(),
    "metadata": pa.map_(pa.string(), pa.string()),
    "raw_pcm": pa.bool_(),
    "offset_s": pa.float64(),
    "duration_s": pa.float64(),
}
_REJECT = {field.name: pa.string() for field in dataclasses.fields(Reject)} | {
    "size_bytes": pa.int64()
}
_SEGMENT = {"recording": pa.int32(), "start": pa.int64(), "num_samples": pa.int64()}
_HEADER: dict[str, pa.DataType] = {
    "shard": pa.string(),
    "uri": pa.string(),
    "version": pa.string(),
    "members": pa.string(),
    "index": pa.int32(),
    "is_last": pa.bool_(),
    "piece": pa.int32(),
    "is_last_piece": pa.bool_(),
    "cut": pa.string(),
    "num_recordings": pa.int64(),
    "size_bytes": pa.int64(),
}
HEADER = pa.schema(_HEADER.items())
PACK = pa.schema(
    [
        *HEADER,
        ("recordings", pa.list_(pa.struct(_RECORDING.items()))),
        ("audio", pa.list_(pa.large_binary())),
        ("audio_of", pa.list_(pa.int32())),
        ("rejects", pa.list_(pa.struct(_REJECT.items()))),
    ]
)
LOADED = pa.schema(
    [
        *HEADER,
        ("recordings", pa.list_(pa.struct(_RECORDING.items()))),
        ("infos", pa.list_(pa.struct([("sample_rate_hz", pa.int32()), ("channels", pa.int32())]))),
        ("rejects", pa.list_(pa.struct(_REJECT.items()))),
        ("segments", pa.list_(pa.struct(_SEGMENT.items()))),
        ("samples", pa.large_binary()),
    ]
)


def header_of(row: dict[str, Any]) -> Header:
    """The header columns of a row."""
    return Header(**{name: row[name] for name in _HEADER})


def _recording_rows(recordings: list[Recording]) -> list[dict[str, Any]]:
    rows = []
    for recording in recordings:
        row = {name: getattr(recording, name) for name in _RECORDING}
        row["metadata"] = list(recording.metadata.items())
        rows.append(row)
    return rows


def _one_row(schema: pa.Schema, header: Header, **columns: Any) -> pa.Table:
    values = {name: getattr(header, name) for name in _HEADER} | columns
    return pa.table({f.name: pa.array([values[f.name]], f.type) for f in schema}, schema=schema)


def _read_recordings(rows: list[dict[str, Any]], audio: list[bytes]) -> list[Recording]:
    return [
        Recording(**{**row, "metadata": dict(row["metadata"])}, audio=data)
        for row, data in zip(rows, audio, strict=True)
    ]


def pack_to_table(pack: Pack) -> pa.Table:
    """A pack as one Arrow row of schema `PACK`; bytes that recordings share are in it once."""
    audio: list[bytes] = []
    for recording in pack.recordings:
        if not audio or audio[-1] is not recording.audio:
            audio.append(recording.audio)
    places = {id(data): index for index, data in enumerate(audio)}
    return _one_row(
        PACK,
        pack.header,
        recordings=_recording_rows(pack.recordings),
        audio=audio,
        audio_of=[places[id(recording.audio)] for recording in pack.recordings],
        rejects=[dataclasses.asdict(row) for row in pack.rejects],
    )


def table_to_pack(table: pa.Table) -> Pack:
    """The pack of the one row."""
    row = table.to_pylist()[0]
    rejects = [Reject(**columns) for columns in row["rejects"]]
    audio = [row["audio"][index] for index in row["audio_of"]]
    return Pack(header_of(row), _read_recordings(row["recordings"], audio), rejects)


def loaded_to_table(pack: LoadedPack) -> pa.Table:
    """A loaded pack as one Arrow row of schema `LOADED`; its samples lie in one buffer."""
    samples = np.concatenate([*(s.samples for s in pack.segments), np.zeros(0, np.int16)])
    return _one_row(
        LOADED,
        pack.header,
        recordings=_recording_rows(pack.recordings),
        infos=[dataclasses.asdict(info) for info in pack.infos],
        rejects=[dataclasses.asdict(row) for row in pack.rejects],
        segments=[
            {"recording": owner, "start": segment.start, "num_samples": len(segment.samples)}
            for owner, segment in zip(pack.owners, pack.segments, strict=True)
        ],
        samples=samples.tobytes(),
    )


def table_to_loaded(table: pa.Table) -> LoadedPack:
    """The loaded pack of the one row. Samples are views of the table's memory, read-only."""
    buffer = table["samples"][0].as_buffer()
    samples: NDArray[np.int16] = np.frombuffer(buffer, np.int16)
    row = table.drop_columns(["samples"]).to_pylist()[0]
    ends = np.cumsum([segment["num_samples"] for segment in row["segments"]], dtype=np.int64)
    segments = [
        Segment(segment["start"], samples[end - segment["num_samples"] : end])
        for segment, end in zip(row["segments"], ends.tolist(), strict=True)
    ]
    return LoadedPack(
        header_of(row),
        _read_recordings(row["recordings"], [b""] * len(row["recordings"])),
        [AudioInfo(**info) for info in row["infos"]],
        [Reject(**columns) for columns in row["rejects"]],
        [segment["recording"] for segment in row["segments"]],
        segments,
    )
