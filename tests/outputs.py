"""Outputs as the job leaves them, made by its own plain functions: no cluster, no model."""

import json
from typing import Any

import pyarrow as pa

from koasr.commit import commit_shard
from koasr.packs import Header
from koasr.rows import Shard, StoredFile, recording_id, short_hash
from koasr.runs import Run, fingerprint_of, shard_name, write_format, write_plan
from koasr.staging import encode_tables, stage_pack
from koasr.storage import join, write_bytes
from koasr.summary import summarize
from koasr.transcripts import REJECTS, TRANSCRIPTS

PARTS = {"model": "m", "precision": "float32"}
FINGERPRINT = fingerprint_of(PARTS)
DATE = "2026-11-22"


def tar(number: int, version: str = "v1") -> Shard:
    return Shard(f"s3://in/{number}.tar", version, 1000, "tar")


def group(*numbers: int, version: str = "v1") -> Shard:
    files = tuple(StoredFile(f"s3://in/{n}.wav", version, 10) for n in numbers)
    uri = f"s3://in/files-{short_hash(*map(str, numbers))}"
    return Shard(uri, version, 10 * len(files), "files", files=files)


def members(shard: Shard) -> list[tuple[str, str, str]]:
    """(source_uri, source_key, source_version) of what a shard holds: six members of a tar."""
    if shard.kind == "files":
        return [(file.uri, "", file.version) for file in shard.files]
    return [(shard.uri, f"{n}.flac", shard.version) for n in range(6)]


def ids(shard: Shard) -> list[str]:
    return [recording_id(uri, key) for uri, key, _ in members(shard)]


def tables(shard: Shard, run: Run, reasons: dict[int, str]) -> tuple[pa.Table, pa.Table]:
    """Two segments of every member, or its reject where `reasons` has its number."""
    rows: list[dict[str, Any]] = []
    rejects: list[dict[str, Any]] = []
    for number, (uri, key, version) in enumerate(members(shard)):
        row = {
            "recording_id": recording_id(uri, key),
            "source_uri": uri,
            "source_key": key,
            "source_version": version,
            "run_id": run.run_id,
        }
        if number in reasons:
            rejects.append(row | {"reason": reasons[number], "stage": "load", "message": "why"})
            continue
        for start_s in (0.0, 3.0):
            times = {"start_s": start_s, "end_s": start_s + 0.5, "confidence": 0.5}
            rows.append(
                row
                | {
                    "segment_id": f"{row['recording_id']}#{start_s * 1000:.0f}",
                    "start_s": start_s,
                    "duration_s": 3.0,
                    "text": "가 나",
                    "words": [{"text": letter} | times for letter in "가나"],
                    "is_empty": False,
                    "confidence": 0.5,
                    "fingerprint": run.fingerprint,
                }
            )
    transcripts = pa.Table.from_pylist(rows, schema=TRANSCRIPTS)
    return transcripts, pa.Table.from_pylist(rejects, schema=REJECTS)


def pack(shard: Shard, run: Run, reasons: dict[int, str]) -> tuple[Header, bytes]:
    """A whole shard as its one pack."""
    name = shard_name(shard, run.fingerprint)
    header = Header(name, shard.uri, shard.version, "all", 0, True, len(members(shard)), 10)
    return header, encode_tables(header, *tables(shard, run, reasons))


def commit(run: Run, shard: Shard, reasons: dict[int, str] | None = None) -> dict[str, Any]:
    _, data = pack(shard, run, reasons or {})
    return commit_shard(run, shard_name(shard, run.fingerprint), [data])


def stage(run: Run, shard: Shard) -> None:
    stage_pack(run, *pack(shard, run, {}))


def begin(output: str, run_id: str, *shards: Shard, date: str = DATE) -> Run:
    """A run with a plan: unfinished until it has a summary."""
    run = Run(output, run_id, date, FINGERPRINT)
    write_format(output, PARTS)
    write_plan(run, shards)
    return run


def finish(run: Run, records: list[dict[str, Any]], num_gone: int = 0) -> None:
    names = {"run_id": run.run_id, "date": run.date, "output": run.output, "model": "m"}
    names["fingerprint"] = run.fingerprint
    summary = summarize(records, names=names, session_audio_s=1.0, wall_s=1.0, num_gone=num_gone)
    write_bytes(join(run.folder, "summary.json"), json.dumps(summary.to_json()).encode())


def night(output: str) -> Run:
    """A finished run: two tars, the second with two rejects, and a group of three files."""
    run = begin(output, "20261122T000000Z-aaaaaa", tar(1), tar(2), group(1, 2, 3))
    records = [
        commit(run, tar(1)),
        commit(run, tar(2), {0: "timeout", 5: "truncated"}),
        commit(run, group(1, 2, 3), {1: "crashed"}),
    ]
    finish(run, records)
    return run


def place(run: Run, shard: Shard) -> str:
    """URI of a shard's object."""
    return run.transcripts(shard_name(shard, run.fingerprint))
