"""What a commit writes, and what it refuses to write; no cluster needed."""

import dataclasses
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from koasr import commit, shard_objects, staging
from koasr.commit import commit_shard
from koasr.errors import JobError
from koasr.ledger import read_removed
from koasr.packs import Header
from koasr.rows import Shard, StoredFile
from koasr.runs import (
    Run,
    check_output,
    fingerprint_of,
    list_committed,
    read_footer,
    read_plan,
    read_record,
    shard_name,
    to_parquet,
    unfinished_runs,
    write_format,
    write_plan,
)
from koasr.shard_objects import ensure_rejects, read_object, read_rejects, rejects_uri, rewrite
from koasr.staging import (
    ShardPacks,
    clear_staged,
    decode_tables,
    encode_tables,
    list_staged,
    read_staged,
    stage_pack,
    staged_key,
)
from koasr.storage import exists, read_bytes, remove, write_bytes
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


def rejects(*ids: str, **extra: Any) -> pa.Table:
    rows = [
        {"recording_id": i, "source_uri": f"/in/{i}", "source_version": "v", "reason": "truncated"}
        for i in ids
    ]
    return pa.Table.from_pylist([row | extra for row in rows], schema=REJECTS)


def header(index: int = 0, *, last: bool = True, count: int = 1, **changes: Any) -> Header:
    made = Header(NAME, "s3://in/shard.tar", "etag", f"m{index}", index, last, count, 10)
    return dataclasses.replace(made, **changes)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(str(tmp_path / "out"), "run1", "2026-11-22", "f" * 12)


def test_tables_survive_staging(run: Run) -> None:
    head = header(3, last=False, count=2)
    stage_pack(run, head, encode_tables(head, transcripts("a"), rejects("b")))
    assert list_staged(run) == {NAME: {"000003-000000..-more-end-m3"}}
    (data,) = read_staged(run, NAME, ["000003-000000..-more-end-m3"])
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


def flip(path: str, position: int) -> None:
    data = bytearray(Path(path).read_bytes())
    data[position] ^= 1
    Path(path).write_bytes(data)


def test_a_damaged_staged_pack_is_removed_and_its_shard_not_committed(run: Run) -> None:
    head = header()
    place = run.staged(NAME, staged_key(head))
    for position in (0, 300, -1):
        stage_pack(run, head, encode_tables(head, transcripts("a"), rejects()))
        flip(place, position)
        with pytest.raises(JobError, match="damaged"):
            read_staged(run, NAME, [staged_key(head)])
        assert not Path(place).exists()


def test_bytes_that_were_damaged_on_the_way_are_read_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = header()
    data = encode_tables(head, transcripts("a"), rejects("b"))
    stage_pack(run, head, data)
    numbers = itertools.count()

    def read_badly(uri: str, **limits: Any) -> bytes:
        found = bytearray(read_bytes(uri, **limits))
        found[len(found) // 3] ^= next(numbers) == 0
        return bytes(found)

    monkeypatch.setattr(staging, "read_bytes", read_badly)
    monkeypatch.setattr(shard_objects, "read_bytes", read_badly)
    assert read_staged(run, NAME, [staged_key(head)]) == [data]
    commit_shard(run, NAME, [encode_tables(header(count=2), transcripts("a"), rejects("b"))])
    numbers = itertools.count()
    assert read_object(run.transcripts(NAME)).transcripts["recording_id"].to_pylist() == ["a"]


def test_pieces_of_two_attempts_that_do_not_join_are_made_anew(run: Run) -> None:
    """One attempt gave up a recording that the other did not, so its pieces were cut elsewhere."""
    first, second = header(is_last_piece=False, count=1), header(count=0, piece=1)
    for start_s in (4.0, 1.0):
        packs = [
            encode_tables(first, transcripts("a", end_s=2.0), rejects()),
            encode_tables(second, transcripts("a", start_s=start_s, end_s=9.0), rejects()),
        ]
        stage_pack(run, first, packs[0])
        with pytest.raises(JobError, match="a piece starts at"):
            commit_shard(run, NAME, packs)
        assert list_staged(run) == {}
        assert list_committed(run.output) == {}
    packs[1] = encode_tables(second, transcripts("a", start_s=2.0, end_s=9.0), rejects())
    assert commit_shard(run, NAME, packs)["rows"] == 2


def committed(run: Run, name: str = NAME, **changes: Any) -> str:
    """A committed shard: a and b transcribed, c and d rejected; its URI."""
    head = header(shard=name, count=4, **changes)
    commit_shard(run, name, [encode_tables(head, transcripts("a", "b"), rejects("c", "d"))])
    return run.transcripts(name)


def is_any_of(*ids: str) -> Callable[[pa.Table], pa.Array]:
    return lambda table: pc.is_in(table["recording_id"], value_set=pa.array(ids, pa.string()))


def check_copy(uri: str) -> None:
    held, copy = read_object(uri), pq.ParquetFile(rejects_uri(uri))
    assert json.loads(copy.metadata.metadata[b"koasr"]) == held.record
    assert copy.read().to_pylist() == held.rejects.to_pylist()


def test_a_shard_holds_its_rejects_and_the_file_of_them_is_a_copy(run: Run) -> None:
    uri = committed(run)
    assert read_rejects(uri)["recording_id"].to_pylist() == ["c", "d"]
    check_copy(uri)


def test_the_copy_is_there_before_the_shard_counts_as_done(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(uri: str, data: bytes) -> bool:
        raise JobError("killed here")

    monkeypatch.setattr(commit, "write_new", fail)
    with pytest.raises(JobError, match="killed here"):
        committed(run)
    assert Path(run.rejects(NAME)).exists()


@pytest.mark.parametrize("same", [True, False])
def test_an_object_that_came_meanwhile_is_adopted_if_it_is_of_this_shard(
    run: Run, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    version = "etag" if same else "another"
    theirs = Path(committed(dataclasses.replace(run, output=f"{run.output}2"), version=version))

    def lose(uri: str, data: bytes) -> bool:
        write_bytes(uri, theirs.read_bytes())
        return False

    monkeypatch.setattr(commit, "write_new", lose)
    if same:
        assert read_record(committed(run)) == read_record(str(theirs))
    else:
        with pytest.raises(JobError, match="holds another shard's work"):
            committed(run)
    check_copy(run.transcripts(NAME))


@pytest.mark.parametrize("harm", ["missing", "damaged", "of another attempt"])
def test_a_copy_of_rejects_that_is_not_of_its_object_is_made_again(run: Run, harm: str) -> None:
    uri = committed(run)
    if harm == "missing":
        Path(rejects_uri(uri)).unlink()
    elif harm == "damaged":
        Path(rejects_uri(uri)).write_bytes(b"PAR1")
    else:
        other = committed(dataclasses.replace(run, output=f"{run.output}2"))
        Path(rejects_uri(uri)).write_bytes(Path(rejects_uri(other)).read_bytes())
    ensure_rejects(uri)
    check_copy(uri)


def test_rows_and_rejects_are_taken_out_and_counted(run: Run) -> None:
    uri = committed(run)
    before = read_record(uri)
    assert rewrite(uri, is_any_of("b", "c", "x"), "forgotten") == 2
    record = read_record(uri)
    assert record["removed"] == {"forgotten": 2}
    assert (record["recordings"], record["transcribed"], record["rejected"]) == (2, 1, 1)
    assert record["attempt"] != before["attempt"]
    assert (record["rows"], record["audio_s"]) == (1, 2.0)
    assert pq.read_table(uri)["recording_id"].to_pylist() == ["a"]
    check_copy(uri)
    assert rewrite(uri, is_any_of("a", "d"), "pruned") == 2
    assert read_record(uri)["removed"] == {"forgotten": 2, "pruned": 2}
    assert pq.read_table(uri).num_rows == 0
    assert list_committed(run.output) == {NAME: uri}


def test_nothing_is_written_when_nothing_is_to_be_taken_out(run: Run) -> None:
    uri = committed(run)
    before = Path(uri).stat()
    assert rewrite(uri, is_any_of("x"), "forgotten") == 0
    assert Path(uri).stat() == before


def test_a_damaged_object_is_never_rewritten(run: Run) -> None:
    uri = committed(run)
    sound = Path(uri).read_bytes()
    held = read_object(uri)
    num_found = 0
    for position in range(0, len(sound), 41):
        flip(uri, position)
        data = Path(uri).read_bytes()
        try:
            found = read_object(uri)
            assert (found.transcripts, found.rejects) == (held.transcripts, held.rejects)
        except JobError:
            num_found += 1
            with pytest.raises(JobError):
                rewrite(uri, is_any_of("a"), "forgotten")
            assert Path(uri).read_bytes() == data
        Path(uri).write_bytes(sound)
    assert num_found > 20


def test_a_shard_of_very_many_rejects_is_read_from_its_footer(run: Run) -> None:
    ids = [f"{random.random()}" for _ in range(20_000)]
    head = header(count=len(ids))
    record = commit_shard(run, NAME, [encode_tables(head, transcripts(), rejects(*ids))])
    assert read_record(run.transcripts(NAME)) == record
    assert read_rejects(run.transcripts(NAME))["recording_id"].to_pylist() == ids


def test_a_changed_shard_takes_the_place_of_its_older_version(run: Run) -> None:
    old, new = committed(run, "shard.x.1"), "shard.x.2"
    head = header(shard=new, version="etag2")
    commit_shard(run, new, [encode_tables(head, transcripts("a"), rejects())], [old])
    assert list_committed(run.output) == {new: run.transcripts(new)}
    assert not Path(rejects_uri(old)).exists()
    assert read_removed(run.output) == {"shard.x.1"}


def test_of_a_group_only_files_that_changed_are_taken_out(run: Run) -> None:
    old, new = committed(run, "files-0.x.1"), "files-1.z.1"
    changed = encode_tables(
        header(shard=new, count=2),
        transcripts("a", source_version="v2"),
        rejects("c", source_version="v2"),
    )
    commit_shard(run, new, [changed], [old])
    assert pq.read_table(old)["recording_id"].to_pylist() == ["b"]
    assert read_rejects(old)["recording_id"].to_pylist() == ["d"]
    assert read_record(old)["removed"] == {"superseded": 2}
    check_copy(old)


def retried(run: Run, *packs: bytes, reason: str = "truncated") -> dict[str, Any]:
    again = dataclasses.replace(run, run_id="run2", retry=(reason,))
    return commit_shard(again, NAME, packs)


def test_a_retry_moves_what_it_recovers_and_keeps_the_rest(run: Run) -> None:
    uri = committed(run)
    pack = encode_tables(header(count=1), transcripts("c", text="다"), rejects())
    record = retried(run, pack)
    assert (record["recordings"], record["transcribed"], record["rejected"]) == (4, 3, 1)
    assert (record["retried"], record["run_id"]) == (1, "run2")
    assert pq.read_table(uri)["recording_id"].to_pylist() == ["a", "b", "c"]
    assert read_rejects(uri)["recording_id"].to_pylist() == ["d"]
    check_copy(uri)
    assert retried(run, pack) == record
    assert pq.read_table(uri).num_rows == 3


def test_a_retry_takes_the_new_reason_of_what_fails_again(run: Run) -> None:
    uri = committed(run)
    again = encode_tables(header(), transcripts(), rejects("c", reason="timeout"))
    assert retried(run, again)["retried"] == 0
    reasons = {row["recording_id"]: row["reason"] for row in read_rejects(uri).to_pylist()}
    assert reasons == {"d": "truncated", "c": "timeout"}


def test_a_retry_does_not_touch_what_is_transcribed(run: Run) -> None:
    """Another driver's retry may have been quicker."""
    uri = committed(run)
    retried(run, encode_tables(header(count=2), transcripts("a", text="다"), rejects("b")))
    assert pq.read_table(uri)["text"].to_pylist() == ["가 나", "가 나"]
    assert read_rejects(uri)["recording_id"].to_pylist() == ["c", "d"]


REST = {"source_uri": "s3://in/shard.tar", "source_key": ""}


def test_the_rest_of_a_shard_makes_way_for_its_recordings(run: Run) -> None:
    packs = pa.concat_tables([rejects("c"), rejects("t/", **REST)])
    commit_shard(run, NAME, [encode_tables(header(count=3), transcripts("a"), packs)])
    record = retried(run, encode_tables(header(count=2), transcripts("e"), rejects("f")))
    assert (record["recordings"], record["transcribed"], record["rejected"]) == (4, 2, 2)
    assert read_rejects(run.transcripts(NAME))["recording_id"].to_pylist() == ["c", "f"]


def test_the_rest_of_a_shard_stays_while_it_cannot_be_read(run: Run) -> None:
    packs = pa.concat_tables([rejects("c"), rejects("t/", **REST)])
    commit_shard(run, NAME, [encode_tables(header(count=3), transcripts("a"), packs)])
    again = encode_tables(header(count=2), transcripts("e"), rejects("t/", **REST))
    assert retried(run, again)["recordings"] == 4
    assert read_rejects(run.transcripts(NAME))["recording_id"].to_pylist() == ["c", "t/"]


def test_a_retry_that_finds_its_shard_changed_changes_nothing(run: Run) -> None:
    uri = committed(run)
    record = retried(run, encode_tables(header(), transcripts(), rejects("t/", **REST)))
    assert record["recordings"] == 4
    assert read_rejects(uri)["recording_id"].to_pylist() == ["c", "d"]


def test_a_retry_of_a_shard_that_was_removed_commits_nothing(run: Run) -> None:
    with pytest.raises(JobError, match="removed while it was retried"):
        retried(run, encode_tables(header(), transcripts("c"), rejects()))
    assert list_committed(run.output) == {}


def test_a_real_store_is_committed_to_read_back_and_rewritten(s3: str) -> None:
    run = Run(f"{s3}/out", "run1", "2026-11-22", "f" * 12)
    head = header(0, last=False)
    stage_pack(run, head, encode_tables(head, transcripts("x"), rejects()))
    assert list_staged(run) == {NAME: {staged_key(head)}}
    old = committed(run, "shard.x.1")
    record = read_record(old)
    assert commit_shard(run, "shard.x.1", []) == record
    assert rewrite(old, is_any_of("b", "c"), "forgotten") == 2
    remove(rejects_uri(old))
    ensure_rejects(old)
    assert read_record(rejects_uri(old)) == read_record(old)
    new = header(shard="shard.x.2", version="etag2")
    commit_shard(run, "shard.x.2", [encode_tables(new, transcripts("a"), rejects())], [old])
    assert list_committed(run.output) == {"shard.x.2": run.transcripts("shard.x.2")}
    assert read_removed(run.output) == {"shard.x.1"}
    assert not exists(rejects_uri(old))
    clear_staged(run, NAME)
    clear_staged(run, NAME)
    assert list_staged(run) == {}


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


def test_the_smallest_last_pack_is_the_one_that_can_be_complete_first() -> None:
    long = keys((0, 0, "more", "end", ".a0"), (1, 0, "last", "end", "a0.a1"))
    assert ShardPacks([*keys((0, 0, "last", "end", ".b0")), long[1]]).all_keys() == keys(
        (0, 0, "last", "end", ".b0")
    )


def test_pieces_that_were_cut_in_other_ways_are_never_mixed() -> None:
    """One attempt cuts a pack in two, another in three: only pieces that join make it whole."""

    def pieces(*cuts: str) -> list[str]:
        last = len(cuts) - 1
        ends = ["end" if i == last else "piece" for i in range(len(cuts))]
        return [f"000000-{i:06d}.{cuts[i]}-last-{ends[i]}-.m" for i in range(len(cuts))]

    two, three = pieces(".x", "x."), pieces(".u", "u.v", "v.")
    assert ShardPacks(two).all_keys() == two
    assert ShardPacks(three).all_keys() == three
    assert ShardPacks([three[0], two[1]]).all_keys() is None
    assert ShardPacks([two[0], *three[1:]]).all_keys() is None
    assert ShardPacks([three[0], *two]).all_keys() == two
    assert ShardPacks([*three, two[1]]).all_keys() == three
    assert ShardPacks([three[0], *two]).without_partial().keys() == two


def test_a_pack_may_have_more_pieces_than_a_number_has_digits() -> None:
    count = 10_001
    keys = [f"000000-{i:04d}-last-{'end' if i == count - 1 else 'piece'}-m" for i in range(count)]
    assert ShardPacks(keys).all_keys() == keys


def test_packs_that_were_cut_in_other_ways_are_never_mixed() -> None:
    """1 2 | 3 4 | 5 and, with 1 forgotten, 2 3 | 4 5: each pack names the one before it."""
    old = keys(
        (0, 0, "more", "end", ".a0"), (1, 0, "more", "end", "a0.a1"), (2, 0, "last", "end", "a1.a2")
    )
    new = keys((0, 0, "more", "end", ".b0"), (1, 0, "last", "end", "b0.b1"))
    assert ShardPacks([new[0], *old[1:]]).all_keys() is None
    assert ShardPacks([old[0], new[1]]).all_keys() is None
    assert ShardPacks([new[0], *old[1:], new[1]]).all_keys() == new
    assert ShardPacks([*old, new[0]]).all_keys() == old


def test_a_pack_counts_as_held_only_with_every_piece_of_it() -> None:
    packs = ShardPacks(keys((1, 0, "last", "piece", "a.b")))
    whole = header(1, members="a.b")
    assert not packs.holds(whole)
    packs.add(*keys((1, 1, "last", "end", "a.b")))
    assert packs.holds(whole)
    assert not packs.holds(header(1, members="a.c"))
    assert not packs.holds(header(0, members="a.b"))


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


def test_a_footer_that_hostile_names_have_filled_is_read(tmp_path: Path) -> None:
    table = pa.table({"a": [1]})
    path = tmp_path / "large.parquet"
    path.write_bytes(to_parquet(table, {b"large": b"x" * 101_000_000}))
    assert len(read_footer(str(path))[b"large"]) == 101_000_000


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
