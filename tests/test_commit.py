"""What a commit writes, and what it refuses to write; no cluster needed."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from koasr.commit import (
    ShardPacks,
    commit_shard,
    decode_tables,
    encode_tables,
    list_staged,
    read_staged,
    stage_pack,
)
from koasr.errors import JobError
from koasr.packs import Header
from koasr.rows import Shard, StoredFile
from koasr.runs import (
    Run,
    check_output,
    committed_files,
    fingerprint_of,
    list_committed,
    read_plan,
    read_record,
    shard_name,
    unfinished_runs,
    write_format,
    write_plan,
)
from koasr.transcripts import REJECTS, TRANSCRIPTS

NAME = "shard.x.y"


def transcripts(*ids: str, start_s: float = 0.0, text: str = "가 나", **extra: Any) -> pa.Table:
    rows = [
        {
            "segment_id": f"{name}#{start_s * 1000:.0f}",
            "recording_id": name,
            "source_uri": f"/in/{name}",
            "source_version": "v",
            "start_s": start_s,
            "text": text,
            "is_empty": False,
            "confidence": 0.5,
            "duration_s": 2.0,
            "reference": "가 나",
        }
        | extra
        for name in ids
    ]
    return pa.Table.from_pylist(rows, schema=TRANSCRIPTS)


def rejects(*ids: str) -> pa.Table:
    rows = [{"recording_id": i, "source_uri": f"/in/{i}", "source_version": "v"} for i in ids]
    return pa.Table.from_pylist([row | {"reason": "truncated"} for row in rows], schema=REJECTS)


def header(index: int = 0, *, last: bool = True, count: int = 1, **changes: Any) -> Header:
    made = Header(NAME, "s3://in/shard.tar", "etag", f"m{index}", index, last, count, 10)
    return dataclasses.replace(made, **changes)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "out"), "run1", "2026-11-22", "f" * 12)


def test_tables_survive_staging(run: Run) -> None:
    head = header(3, last=False, count=2)
    stage_pack(run, head, encode_tables(head, transcripts("a"), rejects("b")))
    assert list_staged(run) == {NAME: {"000003-0000-more-end-m3"}}
    (data,) = read_staged(run, NAME, ["000003-0000-more-end-m3"])
    assert decode_tables(data) == (head, transcripts("a"), rejects("b"))


def test_a_commit_counts_what_it_writes(run: Run) -> None:
    packs = [
        encode_tables(header(0, last=False, count=2), transcripts("a"), rejects("b")),
        encode_tables(header(1, count=1), transcripts("c", text="가 다"), rejects()),
    ]
    record = commit_shard(run, NAME, packs)
    (uri,) = list_committed(run.output).values()
    assert read_record(uri) == record
    assert (record["recordings"], record["transcribed"], record["rejected"]) == (3, 2, 1)
    assert record["reasons"] == {"truncated": 1}
    assert record["audio_s"] == 4.0
    assert (record["errors"]["char_errors"], record["errors"]["ref_chars"]) == (1, 4)
    assert pq.read_table(uri)["recording_id"].to_pylist() == ["a", "c"]
    assert pq.read_table(run.rejects(NAME))["recording_id"].to_pylist() == ["b"]


def test_a_recording_whose_later_piece_failed_is_only_rejected(run: Run) -> None:
    first, second = header(is_last_piece=False, count=2), header(count=0, piece=1)
    packs = [
        encode_tables(first, transcripts("a", "b"), rejects()),
        encode_tables(second, transcripts("b", start_s=60.0), rejects("a")),
    ]
    record = commit_shard(run, NAME, packs)
    table = pq.read_table(run.transcripts(NAME))
    assert table["segment_id"].to_pylist() == ["b#0", "b#60000"]
    assert (record["transcribed"], record["rejected"]) == (1, 1)


def test_errors_are_counted_over_a_recordings_segments_joined(run: Run) -> None:
    packs = [
        encode_tables(header(is_last_piece=False), transcripts("a", text="가"), rejects()),
        encode_tables(
            header(count=0, piece=1), transcripts("a", start_s=9.0, text="나"), rejects()
        ),
    ]
    assert commit_shard(run, NAME, packs)["errors"]["word_errors"] == 0


def test_counts_that_do_not_add_up_write_nothing(run: Run) -> None:
    with pytest.raises(JobError, match="3 recordings read, 2 in the output"):
        commit_shard(run, NAME, [encode_tables(header(count=3), transcripts("a"), rejects("b"))])
    assert list_committed(run.output) == {}


def test_a_segment_id_twice_writes_nothing(run: Run) -> None:
    with pytest.raises(JobError, match="a segment_id twice"):
        commit_shard(run, NAME, [encode_tables(header(), transcripts("a", "a"), rejects())])
    assert list_committed(run.output) == {}


def test_a_commit_with_a_pack_missing_writes_nothing(run: Run) -> None:
    first = encode_tables(header(0, last=False), transcripts("a"), rejects())
    last = encode_tables(header(1), transcripts("b"), rejects())
    for packs in ([], [first], [last], [last, first]):
        with pytest.raises(JobError, match="packs are missing"):
            commit_shard(run, NAME, packs)
    assert list_committed(run.output) == {}


def test_a_committed_shard_is_adopted_not_overwritten(run: Run) -> None:
    first = encode_tables(header(0, last=False), transcripts("a"), rejects())
    last = encode_tables(header(1), transcripts("b"), rejects())
    record = commit_shard(run, NAME, [first, last])
    assert commit_shard(run, NAME, [last]) == record
    assert commit_shard(run, NAME, []) == record
    assert pq.read_table(run.transcripts(NAME)).num_rows == 2


def keys(*packs: tuple[int, int, str, str, str]) -> list[str]:
    return [f"{i:06d}-{piece:04d}-{last}-{end}-{members}" for i, piece, last, end, members in packs]


def test_a_shard_is_complete_with_every_piece_of_every_pack() -> None:
    whole = keys(
        (0, 0, "more", "end", "a"),
        (1, 0, "last", "piece", "b"),
        (1, 1, "last", "end", "b"),
    )
    for order in itertools.permutations(whole):
        packs = ShardPacks()
        for key in order[:-1]:
            packs.add(key)
            assert packs.all_keys() is None
        packs.add(order[-1])
        assert packs.all_keys() == whole


def test_pieces_of_an_unfinished_pack_do_not_count_on_resume() -> None:
    staged = keys((0, 0, "last", "piece", "a"), (0, 1, "last", "piece", "a"))
    packs = ShardPacks(staged).without_partial()
    packs.add(*keys((0, 2, "last", "end", "a")))
    assert packs.all_keys() is None


def test_a_pack_that_holds_other_recordings_takes_the_place_of_the_old() -> None:
    packs = ShardPacks(keys((0, 0, "more", "end", "a"), (1, 0, "last", "end", "b")))
    packs.add(*keys((0, 0, "last", "end", "x")))
    assert packs.all_keys() == keys((0, 0, "last", "end", "x"))


def test_a_plan_is_read_back_and_its_run_is_unfinished_until_it_has_a_summary(run: Run) -> None:
    files = (StoredFile("/in/1.wav", "v1", 5, "/in/1.txt"), StoredFile("/in/2.wav", "v2", 6))
    shards = [
        Shard("s3://in/a.tar", "etag", 7, "tar"),
        Shard("/in/files-x", "v", 11, "files", files=files),
    ]
    write_plan(run, shards)
    assert read_plan(run) == {shard_name(s, run.fingerprint): s for s in shards}
    assert unfinished_runs(run.output) == [run]
    Path(run.folder, "summary.json").write_text("{}")
    assert unfinished_runs(run.output) == []


def test_names_follow_uri_version_and_fingerprint() -> None:
    shard = Shard("s3://in/train 000.tar", "etag", 7, "tar")
    names = {
        shard_name(shard, "f"),
        shard_name(shard, "g"),
        shard_name(dataclasses.replace(shard, version="other"), "f"),
        shard_name(dataclasses.replace(shard, uri="s3://other/train 000.tar"), "f"),
    }
    assert len(names) == 4
    assert all(name.startswith("train-000.") and name.count(".") == 2 for name in names)


def test_loose_files_are_known_by_uri_and_version(run: Run) -> None:
    head = header(shard="files-1.x.y", count=2)
    commit_shard(run, head.shard, [encode_tables(head, transcripts("a"), rejects("b"))])
    assert committed_files(list_committed(run.output)) == {("/in/a", "v"), ("/in/b", "v")}


def test_an_output_remembers_how_it_was_made(tmp_path: Path) -> None:
    output, parts = str(tmp_path / "out"), {"model": "a", "precision": "float32"}
    check_output(output, parts)
    write_format(output, parts)
    check_output(output, parts)
    with pytest.raises(JobError, match="model: a there, b here") as failure:
        check_output(output, parts | {"model": "b"})
    assert "\n" not in str(failure.value)
    assert fingerprint_of(parts) == fingerprint_of(dict(reversed(parts.items())))


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(JobError, match="Not a directory"):
        check_output(str(tmp_path / "file" / "out"), {"model": "a"})
