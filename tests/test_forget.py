"""`koasr forget`: what it takes out, what it remembers, and that dying half way loses nothing."""

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import outputs
import pyarrow.parquet as pq
import pytest
from outputs import group, ids, night, place, tar
from stores import Crash, FakeFileSystem, Store, fake_stores

from koasr.errors import JobError
from koasr.forget import forget
from koasr.inventory import open_output, read_ids
from koasr.items import identify
from koasr.planning import find_todo
from koasr.rows import Shard, StoredFile
from koasr.runs import Run, is_forgotten_key, read_forgotten, shard_name
from koasr.shard_objects import read_object, rejects_uri
from koasr.sources import Listing, group_files
from koasr.staging import list_staged
from koasr.stock import Stock
from koasr.storage import join, list_files, open_fs, read_bytes, remove, write_bytes
from koasr.verify import find_differences, verify

GROUP = group(1, 2, 3)


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Where an output is to be."""
    return str(tmp_path / "out")


def decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


def write_ids(folder: Path, *lines: str) -> Path:
    path = folder / "ids.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def held(output: str) -> set[str]:
    """Every recording_id that any Parquet file of an output holds."""
    found = set()
    for file in list_files(output):
        if "/transcripts/" in file.uri:
            found |= read_ids(file.uri)
        if "/rejects/" in file.uri:
            fs, path = open_fs(file.uri)
            with fs.open(path, "rb") as stream:
                found |= set(pq.read_table(stream)["recording_id"].to_pylist())
    return found


def test_names_from_macos_are_forgotten_too(output: str, tmp_path: Path) -> None:
    """Listed in jamo, named in ids in NFC, and written in either form by whoever asks."""
    files = [StoredFile("s3://in/" + decomposed("한국.wav"), "v", 9), *GROUP.files]
    shards = [Shard("s3://in/" + decomposed("말뭉치.tar"), "v", 9, "tar"), group_files(files)[0]]
    run = outputs.begin(output, "20261122T000000Z-aaaaaa", *shards)
    outputs.stage(run, shards[0])
    lost = [identify(shards[0].uri, "u2.flac"), decomposed(identify(files[0].uri))]
    forget(output, ids=write_ids(tmp_path, *lost))
    assert list_staged(run) == {}
    todo = find_todo(Stock(output, Listing((), tuple(files)), {}, {}), ["s3://in"], run)
    (left,) = todo.shards.values()
    assert left.files == tuple(sorted(GROUP.files, key=lambda file: file.uri))


def test_a_forgotten_recording_is_in_no_object_and_on_the_deny_list(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = night(output)
    transcribed, rejected, loose = ids(tar(1))[2], ids(tar(2))[0], ids(GROUP)[0]
    before = held(output)
    lines = (f"{transcribed}#3000", rejected, loose, "nobody.wav-000000000000")
    forget(output, ids=write_ids(tmp_path, *lines))
    assert held(output) == before - {transcribed, rejected, loose}
    assert read_forgotten(output) == {is_forgotten_key(name) for name in (transcribed, *lines)}
    assert read_object(place(run, tar(1))).record["removed"] == {"forgotten": 1}
    assert verify(output) == 0
    shown = capsys.readouterr().out
    assert "3 recordings found, 3 taken out of 3 objects" in shown
    assert "1 are nowhere, and will not be transcribed: nobody.wav-000000000000" in shown
    assert "noncurrent" in shown or "old versions" in shown
    assert transcribed not in shown
    assert not any(transcribed.encode() in read_bytes(file.uri) for file in list_files(output))


def test_forgetting_again_changes_nothing(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night(output)
    names = write_ids(tmp_path, ids(tar(1))[0], f"{ids(tar(2))[1]}#0")
    forget(output, ids=names)
    before = list_files(output)
    capsys.readouterr()
    forget(output, ids=names)
    assert list_files(output) == before
    shown = capsys.readouterr().out
    assert "0 recordings found" in shown
    assert "2 were forgotten before" in shown
    assert "nowhere" not in shown


def test_staged_packs_of_a_forgotten_recording_are_removed_whole(
    output: str, tmp_path: Path
) -> None:
    night(output)
    run = outputs.begin(output, "20261123T000000Z-bbbbbb", tar(4), tar(5), group(7, 8))
    for shard in (tar(4), tar(5), group(7, 8)):
        outputs.stage(run, shard)
    no_plan = Run(output, "20261120T000000Z-cccccc", "2026-11-20", outputs.FINGERPRINT)
    outputs.stage(no_plan, tar(9))
    forget(output, ids=write_ids(tmp_path, f"{ids(tar(4))[0]}#0", ids(group(7, 8))[1]))
    assert set(list_staged(run)) == {shard_name(tar(5), run.fingerprint)}
    assert not list_staged(no_plan)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_number_sign_in_a_name_is_a_segments_only_where_no_recording_has_it(
    tmp_path: Path, is_there: bool
) -> None:
    output = str(tmp_path / "out")
    run = outputs.begin(output, "20261122T000000Z-aaaaaa", tar(1))
    outputs.finish(run, [outputs.commit(run, tar(1))])
    whole = ids(tar(1))[0]
    numbered = f"{whole}#5"
    if is_there:
        data = read_object(place(run, tar(1)))
        assert data.record["recordings"] == 6
        rename(run, ids(tar(1))[1], numbered)
    forget(output, ids=write_ids(tmp_path, numbered))
    assert (whole in held(output)) == is_there
    assert numbered not in held(output)
    assert (is_forgotten_key(whole) in read_forgotten(output)) == (not is_there)


def rename(run: Run, old: str, new: str) -> None:
    """Give a recording of the first tar another id."""
    import pyarrow as pa

    from koasr.shard_objects import make_copy, make_object

    uri = place(run, tar(1))
    found = read_object(uri)
    table = found.transcripts
    for column in ("recording_id", "segment_id"):
        values = [value.replace(old, new) for value in table[column].to_pylist()]
        table = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
    made, data = make_object(found.record, table, found.rejects)
    write_bytes(uri, data)
    write_bytes(rejects_uri(uri), make_copy(made))


def test_an_orphan_copy_of_rejects_that_holds_one_is_removed(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    run = night(output)
    orphan = run.rejects("lost.y.z")
    write_bytes(orphan, read_bytes(rejects_uri(place(run, tar(2)))))
    forget(output, ids=write_ids(tmp_path, ids(tar(2))[0]))
    assert ids(tar(2))[0] not in held(output)


def test_a_damaged_object_stops_nothing_else_and_is_named(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    run = night(output)
    write_bytes(place(run, tar(1)), b"x" * 100)
    with pytest.raises(JobError, match="1 objects cannot be read") as failure:
        forget(output, ids=write_ids(tmp_path, ids(tar(2))[1]))
    assert place(run, tar(1)) in str(failure.value)
    assert ids(tar(2))[1] not in read_ids(place(run, tar(2)))


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00", None])
def test_a_file_without_ids_is_wrong_usage(tmp_path: Path, content: bytes | None) -> None:
    night(str(tmp_path / "out"))
    path = tmp_path / "ids.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JobError, match="--ids") as failure:
        forget(str(tmp_path / "out"), ids=path)
    assert failure.value.exit_code == 2
    assert "\n" not in str(failure.value)


def test_lines_that_are_no_ids_are_refused_before_anything_is_written(
    output: str, tmp_path: Path
) -> None:
    """A file's name that were remembered would take nothing out, and say nothing."""
    night(output)
    path = write_ids(tmp_path, ids(tar(1))[2], "utt2.flac")
    with pytest.raises(JobError, match=r"1 lines .* are no ids, such as 'utt2.flac'") as failure:
        forget(output, ids=path)
    assert failure.value.exit_code == 2
    assert ids(tar(1))[2] in held(output)
    assert read_forgotten(output) == frozenset()


def test_windows_line_ends_and_a_byte_order_mark_are_no_part_of_an_id(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    night(output)
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(ids(tar(1))[:2]).encode() + b"\r\n")
    forget(output, ids=path)
    assert not held(output) & set(ids(tar(1))[:2])


@pytest.fixture
def store() -> Iterator[Store]:
    """A store in memory that dies where it is told to."""
    with fake_stores():
        yield Store()


@pytest.mark.parametrize(("fault", "step"), [("crash_at", 1), ("lose_at", 4)])
def test_forget_that_dies_anywhere_is_finished_by_running_it_again(
    store: Store, tmp_path: Path, fault: str, step: int
) -> None:
    FakeFileSystem.store = store
    output = "fake://b/out"
    night(output)
    unfinished = outputs.begin(output, "20261123T000000Z-bbbbbb", tar(4))
    outputs.stage(unfinished, tar(4))
    gone = {ids(tar(1))[0], ids(tar(2))[0], ids(GROUP)[1], ids(tar(4))[2]}
    names = write_ids(tmp_path, *gone)
    before = held(output)
    at = 0
    while True:
        FakeFileSystem.store = store.copy()
        setattr(FakeFileSystem.store, fault, at)
        has_died = dies(lambda: forget(output, ids=names))
        is_over = not has_died and at >= FakeFileSystem.store.num_operations
        FakeFileSystem.store.calm()
        # A process that died here is known to be dead by the next.
        remove(join(output, "_koasr", "lease.json"))
        assert read_forgotten(output) or held(output) == before, "the deny list comes first"
        forget(output, ids=names)
        assert held(output) == before - gone
        assert read_forgotten(output) == {is_forgotten_key(name) for name in gone}
        assert not list_staged(unfinished)
        if is_over:
            break
        at += step
    assert at > 20
    assert not find_differences(open_output(output)).differences


def dies(work: Callable[[], None]) -> bool:
    try:
        work()
    except Crash:
        return True
    return False
