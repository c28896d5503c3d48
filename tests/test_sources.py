"""Every layout of a corpus is told apart by what it is, and read recording by recording."""

import json
import math
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sound import encode, tone, write_tar

from koasr.audio import load_waveform
from koasr.errors import JobError
from koasr.pack_rows import pack_to_table
from koasr.packs import plan_packs
from koasr.readers import read_recordings
from koasr.rows import Recording, Reject
from koasr.sources import group_files, list_inputs, list_shards

SPEECH = Path(__file__).parent.parent / "examples" / "speech"
FLAC = encode(tone(0.5))


def read(folder: Path | str) -> list[Recording | Reject]:
    return [item for shard in list_shards([str(folder)]) for item in read_recordings(shard)]


def recordings(folder: Path | str) -> list[Recording]:
    items = read(folder)
    assert not [item for item in items if isinstance(item, Reject)]
    return [item for item in items if isinstance(item, Recording)]


@pytest.mark.parametrize(
    ("folder", "kind", "count"),
    [
        ("webdataset", "tar", 64),
        ("parquet", "parquet", 16),
        ("manifest", "manifest", 8),
        ("kspon", "trn", 6),
        ("zeroth", "files", 12),
        ("folder", "files", 10),
    ],
)
def test_bundled_layouts_are_recognized_and_read_whole(folder: str, kind: str, count: int) -> None:
    (shard,) = list_shards([str(SPEECH / folder)])
    assert shard.kind == kind
    found = recordings(SPEECH / folder)
    assert len(found) == count
    assert len({recording.recording_id for recording in found}) == count
    assert all(recording.reference for recording in found)
    assert all(len(load_waveform(recording).samples) > 8_000 for recording in found)


def test_the_whole_bundle_is_listed_once() -> None:
    listing = list_inputs([str(SPEECH), str(SPEECH / "webdataset")])
    assert sorted(shard.kind for shard in listing.shards) == ["manifest", "parquet", "tar", "trn"]
    assert len(listing.files) == 12 + 10 + 2 + 1 + 5


def test_metadata_comes_along() -> None:
    first = recordings(SPEECH / "webdataset")[0]
    assert {"snr", "voice", "speaker"} <= first.metadata.keys()
    assert "speaker_id" in recordings(SPEECH / "parquet")[0].metadata


def test_one_file_can_be_named_and_finds_its_reference() -> None:
    path = next((SPEECH / "zeroth").rglob("*.flac"))
    (recording,) = recordings(path)
    assert recording.reference
    assert recording.source_uri == str(path)


def test_a_glob_names_several(tmp_path: Path) -> None:
    for name in ("a1.flac", "a2.flac", "b.flac"):
        (tmp_path / name).write_bytes(FLAC)
    assert len(recordings(f"{tmp_path}/a*.flac")) == 2


def test_a_tar_without_sidecars_and_with_folders(tmp_path: Path) -> None:
    members = [("x/1.flac", FLAC), ("x/2.flac", FLAC), ("notes.md", b"no"), ("y/1.flac", FLAC)]
    write_tar(tmp_path / "s.tar", members)
    assert [r.source_key for r in recordings(tmp_path)] == ["x/1.flac", "x/2.flac", "y/1.flac"]


def test_more_members_of_one_name_are_rejected_each(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "s.tar", [(name, FLAC) for name in ("a.flac", "b.flac", "a.flac", "a.flac")]
    )
    items = read(tmp_path)
    assert [type(item) for item in items] == [Recording, Recording, Reject, Reject]
    assert [item.reason for item in items if isinstance(item, Reject)] == ["duplicate_key"] * 2
    assert len({item.recording_id for item in items}) == 4


def test_dotted_names_keep_their_own_references(tmp_path: Path) -> None:
    members = [
        (f"k.{i}.{end}", data) for i in (1, 2) for end, data in (("flac", FLAC), ("txt", b"%d" % i))
    ]
    write_tar(tmp_path / "s.tar", members)
    assert [r.reference for r in recordings(tmp_path)] == ["1", "2"]


def test_names_that_are_not_utf8_are_escaped(tmp_path: Path) -> None:
    name = "한국.flac".encode("euc-kr").decode("utf-8", "surrogateescape")
    write_tar(tmp_path / "s.tar", [(name, FLAC)])
    (recording,) = recordings(tmp_path)
    assert recording.source_key.encode().decode() == recording.source_key


@pytest.mark.parametrize("into", [0, 300, 512 + 100])
def test_a_tar_cut_short_keeps_what_came_before(tmp_path: Path, into: int) -> None:
    """Cut at, within and after the header of the third of five members."""
    write_tar(tmp_path / "s.tar", [(f"{i}.flac", FLAC) for i in range(5)])
    whole = (tmp_path / "s.tar").read_bytes()
    member = 512 + 512 * math.ceil(len(FLAC) / 512)
    (tmp_path / "s.tar").write_bytes(whole[: 2 * member + into])
    items = read(tmp_path)
    assert [item.source_key for item in items] == ["0.flac", "1.flac", ""]
    assert isinstance(items[-1], Reject)
    assert items[-1].reason == "truncated"


def test_a_damaged_header_in_a_tar_is_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [(f"{i}.flac", FLAC) for i in range(5)])
    whole = bytearray((tmp_path / "s.tar").read_bytes())
    member = 512 + 512 * math.ceil(len(FLAC) / 512)
    whole[2 * member : 2 * member + 512] = b"x" * 512
    (tmp_path / "s.tar").write_bytes(whole)
    assert [item.source_key for item in read(tmp_path)] == ["0.flac", "1.flac", ""]


def test_a_link_in_a_tar_is_rejected_not_followed(tmp_path: Path) -> None:
    link = tarfile.TarInfo("link.wav")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.addfile(link)
    (item,) = read(tmp_path)
    assert isinstance(item, Reject)
    assert (item.source_key, item.reason) == ("link.wav", "unreadable")
    assert "symbolic link" in item.message


def test_a_parquet_row_without_bytes_is_rejected(tmp_path: Path) -> None:
    audio = [{"bytes": FLAC, "path": "1.flac"}, {"bytes": None, "path": "2.flac"}]
    pq.write_table(pa.table({"audio": audio, "text": ["가", "나"]}), tmp_path / "a.parquet")
    first, second = read(tmp_path)
    assert isinstance(first, Recording)
    assert (first.reference, first.metadata["path"]) == ("가", "1.flac")
    assert isinstance(second, Reject)
    assert second.reason == "unreadable"


def test_a_parquet_without_audio_is_one_reject(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["가"]}), tmp_path / "a.parquet")
    (item,) = read(tmp_path)
    assert isinstance(item, Reject)
    assert item.reason == "unsupported_format"
    assert "text" in item.message


def test_a_parquet_with_a_damaged_page_is_one_reject(tmp_path: Path) -> None:
    audio = [{"bytes": encode(tone(1.0 + i)), "path": f"{i}.flac"} for i in range(8)]
    pq.write_table(pa.table({"audio": audio}), tmp_path / "a.parquet", compression="zstd")
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[200 : len(data) // 2] = b"\xff" * (len(data) // 2 - 200)
    (tmp_path / "a.parquet").write_bytes(data)
    items = read(tmp_path)
    assert isinstance(items[-1], Reject)
    assert items[-1].reason == "unreadable"


def test_a_shard_that_changed_or_vanished_since_it_was_listed_is_one_reject(tmp_path: Path) -> None:
    for change in ("rewrite", "remove"):
        write_tar(tmp_path / "s.tar", [("a.flac", FLAC)])
        (shard,) = list_shards([str(tmp_path)])
        if change == "rewrite":
            write_tar(tmp_path / "s.tar", [("a.flac", FLAC), ("b.flac", FLAC)])
        else:
            (tmp_path / "s.tar").unlink()
        (item,) = read_recordings(shard)
        assert isinstance(item, Reject)
        assert item.reason == "unreadable"


@pytest.mark.parametrize(
    "cut", [{"offset": -0.5}, {"offset": "x"}, {"duration": float("nan")}, {"offset": 1e308}]
)
def test_a_manifest_line_that_cuts_nonsense_is_rejected(
    tmp_path: Path, cut: dict[str, Any]
) -> None:
    (tmp_path / "a.flac").write_bytes(FLAC)
    good, bad = {"audio_filepath": "a.flac"}, {"audio_filepath": "a.flac"} | cut
    (tmp_path / "m.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(bad))
    first, second = read(tmp_path)
    assert isinstance(first, Recording)
    assert isinstance(second, Reject)
    assert second.reason == "unreadable"


def test_lines_of_one_file_share_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(FLAC)
    lines = [json.dumps({"audio_filepath": "a.flac", "offset": i / 10}) for i in range(4)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    found = recordings(tmp_path)
    assert all(recording.audio is found[0].audio for recording in found)
    (shard,) = list_shards([str(tmp_path)])
    (pack,) = plan_packs(iter(found), shard, "name")
    assert pack.header.size_bytes == len(FLAC)
    assert pack_to_table(pack)["audio"][0].as_py() == [FLAC]


def test_inputs_that_overlap_are_listed_as_one(tmp_path: Path) -> None:
    shutil.copytree(SPEECH / "manifest", tmp_path / "manifest")
    both = list_inputs([str(tmp_path), str(tmp_path / "manifest" / "audio")])
    assert [shard.kind for shard in both.shards] == ["manifest"]
    assert both.files == ()


def test_a_glob_finds_the_references_beside(tmp_path: Path) -> None:
    found = recordings(f"{SPEECH / 'zeroth'}/**/*.flac")
    assert len(found) == 12
    assert all(recording.reference for recording in found)


def test_a_path_with_brackets_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "in[1]").mkdir()
    (tmp_path / "in[1]" / "a.flac").write_bytes(FLAC)
    assert len(recordings(tmp_path / "in[1]")) == 1


def test_a_trn_without_audio_paths_is_no_speech(tmp_path: Path) -> None:
    (tmp_path / "hyp.trn").write_text("hello world (utt-1)\n")
    (tmp_path / "a.flac").write_bytes(FLAC)
    listing = list_inputs([str(tmp_path)])
    assert listing.shards == ()
    assert len(listing.files) == 1


def test_a_manifest_may_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "secret.flac").write_bytes(FLAC)
    paths = ["../secret.flac", "/etc/passwd", "s3://other/a.flac", "simplecache::http://x/a.flac"]
    lines = [json.dumps({"audio_filepath": path}) for path in [*paths, "gone.flac"]]
    (tmp_path / "m" / "m.jsonl").write_text("\n".join([*lines, "not json", ""]))
    items = read(tmp_path / "m")
    reasons = [item.reason for item in items if isinstance(item, Reject)]
    assert reasons == ["bad_name"] * 4 + ["unreadable"] * 2


def test_korean_references_in_cp949_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.pcm").write_bytes(tone(0.5).tobytes())
    (tmp_path / "a.txt").write_bytes("안녕하세요".encode("cp949"))
    (recording,) = recordings(tmp_path)
    assert recording.reference == "안녕하세요"


def test_groups_of_loose_files_hold_about_eight_hours(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    (file,) = list_inputs([str(tmp_path)]).files
    hour = 3600 * 48_000
    files = [type(file)(f"/x/{i:03d}.wav", "v", hour) for i in range(20)]
    groups = group_files(reversed(files))
    assert [len(group.files) for group in groups] == [8, 8, 4]
    assert [f.uri for group in groups for f in group.files] == [f.uri for f in files]
    assert group_files(files) == groups


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("foo://bucket/x", "Protocol not known"),
        ("/no/such/folder", "holds no files"),
        ("simplecache::s3://bucket/x", "chained"),
        ("s3://key:secret@bucket/x", "credentials"),
    ],
)
def test_inputs_that_cannot_be_read_are_one_line(uri: str, found: str) -> None:
    with pytest.raises(JobError, match=found) as failure:
        list_inputs([uri])
    assert "\n" not in str(failure.value)
    assert "secret" not in str(failure.value).replace("credentials", "")


def test_what_koasr_wrote_is_no_input(tmp_path: Path) -> None:
    for place in (
        "transcripts/date=2026-11-22/a.parquet",
        "rejects/b.parquet",
        "_koasr/format.json",
    ):
        (tmp_path / "out" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / place).write_bytes(b"{}")
    (tmp_path / "out" / "transcripts.flac").write_bytes(FLAC)
    listing = list_inputs([str(tmp_path)])
    assert [file.uri for file in listing.files] == [str(tmp_path / "out" / "transcripts.flac")]
    assert listing.shards == ()


def test_a_folder_of_other_things_says_what_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"x")
    with pytest.raises(JobError, match=r"holds no speech: found .*a\.pdf, wanted tar"):
        list_inputs([str(tmp_path)])
