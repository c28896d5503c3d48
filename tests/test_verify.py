"""`koasr verify` finds whatever is put wrong in a good output, and nothing in a good one."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import outputs
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from outputs import group, night, place, tar

from koasr import checks
from koasr.errors import JobError
from koasr.inventory import open_output
from koasr.rows import recording_id
from koasr.runs import RECORD_KEY, Run, is_forgotten_key, read_footer, to_parquet
from koasr.shard_objects import (
    REJECTS_KEY,
    ensure_rejects,
    make_copy,
    make_object,
    mark_removed,
    read_object,
    rejects_uri,
    remove_object,
    rewrite,
)
from koasr.storage import join, list_files, read_bytes, remove, write_bytes
from koasr.verify import find_differences, verify

GROUP = group(1, 2, 3)


def whats(output: str) -> set[str]:
    return {found.what for found in find_differences(open_output(output)).differences}


def copy(uri: str, target: str) -> None:
    write_bytes(target, read_bytes(uri))
    write_bytes(rejects_uri(target), read_bytes(rejects_uri(uri)))


def change_record(uri: str, **changes: Any) -> None:
    """Make an object and its copy say what its rows do not."""
    held, footer = read_object(uri), read_footer(uri)
    record = {RECORD_KEY: json.dumps(held.record | changes).encode()}
    cell = {REJECTS_KEY: footer[REJECTS_KEY]}
    write_bytes(uri, to_parquet(held.transcripts, record | cell))
    write_bytes(rejects_uri(uri), to_parquet(held.rejects, record))


def change_rows(
    uri: str,
    transcripts: Callable[[pa.Table], pa.Table] = lambda table: table,
    rejects: Callable[[pa.Table], pa.Table] = lambda table: table,
) -> None:
    """Give an object other rows, counted as a commit would."""
    held = read_object(uri)
    made, data = make_object(held.record, transcripts(held.transcripts), rejects(held.rejects))
    write_bytes(uri, data)
    write_bytes(rejects_uri(uri), make_copy(made))


def twice(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def without_first(table: pa.Table) -> pa.Table:
    return table.filter(pc.not_equal(table["recording_id"], table["recording_id"][0]))


def of_another_source(table: pa.Table) -> pa.Table:
    column = table.schema.get_field_index("source_uri")
    return table.set_column(column, "source_uri", pa.array(["s3://in/x.wav"] * len(table)))


def remove_shard(run: Run) -> None:
    remove_object(place(run, tar(1)))


def repeat_under_another_date(run: Run) -> None:
    uri = place(run, tar(1))
    copy(uri, uri.replace(run.date, "2026-11-23"))


def leave_an_old_version(run: Run) -> None:
    outputs.commit(run, tar(1, "v0"))


def commit_another_fingerprint(run: Run) -> None:
    outputs.commit(Run(run.output, run.run_id, run.date, "f" * 12), tar(9))


def rename(run: Run) -> None:
    uri = place(run, tar(1))
    copy(uri, uri.replace("/1.", "/1.0"))
    remove_object(uri)


def drop_copy(run: Run) -> None:
    remove(rejects_uri(place(run, tar(2))))


def keep_an_older_copy(run: Run) -> None:
    uri = place(run, tar(2))
    held = read_object(uri)
    made, _ = make_object(held.record, held.transcripts, held.rejects)
    write_bytes(rejects_uri(uri), make_copy(made))


def empty_the_copy(run: Run) -> None:
    uri = place(run, tar(2))
    record = {RECORD_KEY: read_footer(uri)[RECORD_KEY]}
    write_bytes(rejects_uri(uri), to_parquet(read_object(uri).rejects.slice(0, 0), record))


def leave_a_copy_alone(run: Run) -> None:
    write_bytes(run.rejects("x.y.z"), read_bytes(rejects_uri(place(run, tar(2)))))


def put_back_what_was_forgotten(run: Run) -> None:
    keys = [is_forgotten_key(name) for name in outputs.ids(tar(2))[:2]]
    write_bytes(join(run.output, "_koasr/forgotten/1.txt"), "\n".join(keys).encode())


def reject_what_is_transcribed(run: Run) -> None:
    def add(rejects: pa.Table) -> pa.Table:
        row = {"recording_id": outputs.ids(tar(1))[0], "source_uri": tar(1).uri}
        row |= {"source_version": "v1", "reason": "timeout"}
        return pa.concat_tables([rejects, pa.Table.from_pylist([row], schema=rejects.schema)])

    change_rows(place(run, tar(1)), rejects=add)


def drop_a_column(run: Run) -> None:
    change_rows(place(run, tar(1)), lambda table: table.drop_columns(["words"]))


def change_the_summary(run: Run) -> None:
    uri = join(run.folder, "summary.json")
    write_bytes(uri, read_bytes(uri).replace(b'"transcribed": 12', b'"transcribed": 13'))


def damage_the_summary(run: Run) -> None:
    write_bytes(join(run.folder, "summary.json"), b"{")


def add_a_stranger(run: Run) -> None:
    uri = join(run.output, "transcripts", "date=2026-11-22", "a.parquet")
    write_bytes(uri, to_parquet(pa.table({"a": [1]})))


REPEATED = {"segment_ids twice", "recordings in two objects"}
SUMS = {"recordings", "transcribed", "rejected", "reasons", "segments", "empty_segments", "audio_s"}
FAULTS: dict[str, tuple[Callable[[Run], None], set[str]]] = {
    "an object lost": (remove_shard, {"planned shard"}),
    "a shard under two dates": (repeat_under_another_date, REPEATED | {"a shard under two dates"}),
    "an old version left": (leave_an_old_version, REPEATED | {"two versions of a shard"}),
    "made another way": (commit_another_fingerprint, {"fingerprint"}),
    "a name that is not its own": (rename, {"name", "planned shard"}),
    "no copy of the rejects": (drop_copy, {"copy of the rejects"}),
    "a copy of an older write": (keep_an_older_copy, {"record of the copy"}),
    "a copy of other rejects": (empty_the_copy, {"rows of the copy"}),
    "a copy of no shard": (leave_a_copy_alone, {"rejects without a shard"}),
    "forgotten, and back": (put_back_what_was_forgotten, {"forgotten recordings"}),
    "transcribed and rejected": (
        reject_what_is_transcribed,
        {"recordings transcribed and rejected", "recordings", "rejected", "reasons"},
    ),
    "rejected twice": (
        lambda run: change_rows(place(run, tar(2)), rejects=twice),
        {"recordings rejected twice", "recordings", "rejected", "reasons"},
    ),
    "a segment twice": (
        lambda run: change_rows(place(run, tar(1)), twice),
        {"segment_ids twice", "segments", "audio_s"},
    ),
    "a listed file without a row": (
        lambda run: change_rows(place(run, GROUP), without_first),
        {"listed files", "recordings", "transcribed", "segments", "audio_s"},
    ),
    "files that nobody listed": (
        lambda run: change_rows(place(run, GROUP), of_another_source),
        {"listed files", "files not listed"},
    ),
    "rows of another source": (
        lambda run: change_rows(place(run, tar(1)), of_another_source),
        {"source"},
    ),
    "another schema": (drop_a_column, {"object"}),
    "rejects of another schema": (
        lambda run: change_rows(place(run, tar(2)), rejects=lambda t: t.drop_columns(["stage"])),
        {"columns of the rejects"},
    ),
    "rows that are not those of the record": (
        lambda run: change_record(place(run, tar(1)), rows=13),
        {"object"},
    ),
    "a summary that does not add up": (change_the_summary, {"transcribed"}),
    "a damaged summary": (damage_the_summary, SUMS | {"shards of the summary"}),
    "no object of ours": (add_a_stranger, {"object"}),
}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return night(str(tmp_path / "out"))


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_difference_is_found_and_nothing_else(run: Run, fault: str) -> None:
    assert whats(run.output) == set()
    change, wanted = FAULTS[fault]
    change(run)
    assert whats(run.output) == wanted


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("transcribed", 7),
        ("rejected", 9),
        ("recordings", 7),
        ("reasons", {"timeout": 2}),
        ("empty", 1),
        ("audio_s", 99.0),
        ("confidence_sum", 4.1),
        ("confidence_count", 3),
        ("confidence_counts", [1] * 101),
    ],
)
def test_every_number_of_a_record_is_counted_again(run: Run, key: str, value: Any) -> None:
    change_record(place(run, tar(2)), **{key: value})
    found = find_differences(open_output(run.output)).differences
    assert (place(run, tar(2)), key) in {(one.place, one.what) for one in found}


def test_an_older_record_without_a_histogram_is_no_difference(run: Run) -> None:
    uri = place(run, tar(2))
    held, footer = read_object(uri), read_footer(uri)
    older = {name: value for name, value in held.record.items() if name != "confidence_counts"}
    assert older != held.record
    record = {RECORD_KEY: json.dumps(older).encode()}
    write_bytes(uri, to_parquet(held.transcripts, record | {REJECTS_KEY: footer[REJECTS_KEY]}))
    write_bytes(rejects_uri(uri), to_parquet(held.rejects, record))
    assert whats(run.output) == set()


def test_what_was_taken_out_on_purpose_is_no_difference(run: Run) -> None:
    gone = recording_id(GROUP.files[0].uri)
    rewrite(place(run, GROUP), lambda t: pc.equal(t["recording_id"], gone), "superseded")
    mark_removed(place(run, tar(1)), "pruned", run.run_id)
    remove_object(place(run, tar(1)))
    assert whats(run.output) == set()


def test_what_was_taken_out_and_is_planned_again_is_no_difference(run: Run) -> None:
    """Planning it takes the mark away; then the driver died."""
    remove_object(place(run, tar(1)))
    outputs.begin(run.output, "20261123T000000Z-bbbbbb", tar(1))
    assert whats(run.output) == set()


def test_a_shard_that_another_driver_took_out_is_not_missed(run: Run) -> None:
    adopted = outputs.begin(run.output, "20261123T000000Z-bbbbbb", tar(3), tar(4))
    mark_removed(place(adopted, tar(3)), "superseded", run.run_id)
    outputs.finish(adopted, [outputs.commit(adopted, tar(4))], num_gone=1)
    assert whats(run.output) == set()


def test_an_unfinished_run_is_told_and_no_difference(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    later = outputs.begin(run.output, "20261123T000000Z-bbbbbb", tar(3), tar(4))
    outputs.commit(later, tar(3))
    # Rejects are written before the object that commits them.
    write_bytes(rejects_uri(place(later, tar(4))), read_bytes(rejects_uri(place(run, tar(2)))))
    assert verify(run.output) == 0
    found = capsys.readouterr().out
    assert f"run {later.run_id} is unfinished" in found
    assert "4 shards" in found


def test_hashes_that_collide_are_told_apart_by_name(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koasr.cross_checks.hash", lambda _: 7, raising=False)
    monkeypatch.setattr(checks, "hashes", lambda values: np.full(len(list(values)), 7))
    monkeypatch.setattr("koasr.verify.check_group", lambda *_: [])
    assert whats(run.output) == set()


@pytest.mark.parametrize("part", ["transcripts", "rejects"])
def test_a_flipped_byte_is_found_or_changes_nothing(run: Run, part: str) -> None:
    uri = place(run, tar(2))
    place_of = uri if part == "transcripts" else rejects_uri(uri)
    held, data = read_object(uri), read_bytes(place_of)
    chance = random.Random(1)
    found = 0
    for at in chance.sample(range(len(data)), 100):
        flipped = bytearray(data)
        flipped[at] ^= 1 << chance.randrange(8)
        write_bytes(place_of, bytes(flipped))
        differences = find_differences(open_output(run.output)).differences
        found += bool(differences)
        if not differences:
            now = read_object(uri)
            assert (now.record, now.transcripts, now.rejects) == (
                held.record,
                held.transcripts,
                held.rejects,
            )
    assert found > 50


def test_a_cut_or_empty_object_is_found(run: Run) -> None:
    uri = place(run, tar(1))
    data = read_bytes(uri)
    for size in (0, 4, len(data) // 2, len(data) - 1):
        write_bytes(uri, data[:size])
        assert "object" in whats(run.output)


@pytest.mark.parametrize("break_copy", [drop_copy, keep_an_older_copy, empty_the_copy])
def test_repair_makes_copies_of_rejects_anew(run: Run, break_copy: Callable[[Run], None]) -> None:
    break_copy(run)
    assert verify(run.output) == 1
    assert verify(run.output, repair=True) == 0
    assert verify(run.output) == 0


def test_repair_touches_nothing_but_copies(run: Run) -> None:
    remove_shard(run)
    leave_a_copy_alone(run)
    before = list_files(run.output)
    assert verify(run.output, repair=True) == 1
    assert list_files(run.output) == before


def test_what_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is not an output of koasr"):
        verify(str(tmp_path))


def test_verify_reads_a_store(s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = night(f"{s3}/out")
    assert verify(run.output) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert "3 shards, 15 recordings = 12 transcribed + 3 rejected, 24 segments" in last
    drop_copy(run)
    remove_shard(run)
    assert whats(run.output) == {"copy of the rejects", "planned shard"}
    ensure_rejects(place(run, tar(2)))
    assert whats(run.output) == {"planned shard"}


def test_one_date_is_verified_alone(tmp_path: Path) -> None:
    first = night(str(tmp_path))
    run = outputs.begin(str(tmp_path), "20261123T000000Z-bbbbbb", tar(3), date="2026-11-23")
    outputs.finish(run, [outputs.commit(run, tar(3))])
    change_record(place(first, tar(1)), rows=7)
    assert verify(str(tmp_path)) == 1
    assert verify(str(tmp_path), date="2026-11-23") == 0
    change_record(place(run, tar(3)), rows=7)
    assert verify(str(tmp_path), date="2026-11-23") == 1
