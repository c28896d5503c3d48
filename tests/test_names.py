"""Names lead back to what they name, in whatever form they come; none leads out of the input."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
import s3fs
from hostile.cases import ACCENTED, COMPOSED, DECOMPOSED, ELSEWHERE, FLAC
from hostile.parquet_cases import parquet, rows
from hostile.tar_cases import files, member, sidecar, tar
from hypothesis import given
from hypothesis import strategies as st

from koasr.items import escape_name, nfc, unescape_name
from koasr.limits import Limits
from koasr.manifests import resolve
from koasr.readers import read_recordings
from koasr.rows import Recording, Reject
from koasr.sources import list_inputs, list_shards
from koasr.tar_stream import TarStream

NAMES = st.text(st.sampled_from("a\\u0d9cé\n\udce9\ud800가")) | st.text(st.characters())
ROOT = "s3://bucket/corpus"


def read(folder: Path, limits: Limits | None = None) -> list[Recording | Reject]:
    limits = limits or Limits()
    shards = list_shards([str(folder)], limits)
    return [item for shard in shards for item in read_recordings(shard, limits)]


def recordings(folder: Path, limits: Limits | None = None) -> list[Recording]:
    items = read(folder, limits)
    assert not [item for item in items if isinstance(item, Reject)]
    return [item for item in items if isinstance(item, Recording)]


@given(NAMES)
def test_an_escaped_name_leads_back_and_can_be_stored(name: str) -> None:
    assert unescape_name(escape_name(name)) == name
    assert escape_name(name).encode().decode().isprintable() or not name.isprintable()


@given(NAMES, NAMES)
def test_two_names_never_share_an_escaped_one(one: str, other: str) -> None:
    assert (escape_name(one) == escape_name(other)) == (one == other)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_id_is_composed_and_a_key_is_as_the_source_has_it(tmp_path: Path, form: int) -> None:
    (tmp_path / "s.tar").write_bytes(tar(member(DECOMPOSED), form=form))
    (recording,) = recordings(tmp_path)
    assert recording.source_key == DECOMPOSED
    assert recording.recording_id.endswith(f"/{COMPOSED}")


def test_a_loose_file_is_found_by_its_own_form(tmp_path: Path) -> None:
    for name in (COMPOSED, DECOMPOSED, ACCENTED):
        (tmp_path / name).write_bytes(FLAC)
    found = recordings(tmp_path)
    assert {unescape_name(recording.source_uri) for recording in found} == {
        str(tmp_path / name) for name in (COMPOSED, DECOMPOSED, ACCENTED)
    }
    assert all(r.recording_id == nfc(r.recording_id) for r in found)
    assert len({recording.recording_id for recording in found}) == 3


def test_references_are_found_across_forms(tmp_path: Path) -> None:
    stem = DECOMPOSED.removesuffix(".flac")
    (tmp_path / "s.tar").write_bytes(tar(member(COMPOSED), member(f"{stem}.txt", b"tar")))
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / COMPOSED).write_bytes(FLAC)
    (tmp_path / "loose" / f"{stem}.txt").write_bytes(b"loose")
    (tmp_path / "zeroth").mkdir()
    (tmp_path / "zeroth" / COMPOSED).write_bytes(FLAC)
    (tmp_path / "zeroth" / "1.trans.txt").write_bytes(f"{stem} trans".encode())
    assert {r.reference for r in recordings(tmp_path)} == {"tar", "loose", "trans"}


@pytest.mark.parametrize("forms", [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_a_manifest_claims_a_file_of_the_other_form(tmp_path: Path, forms: tuple[str, str]) -> None:
    listed, stored = forms
    (tmp_path / stored).write_bytes(FLAC)
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": listed}))
    assert list_inputs([str(tmp_path)]).files == ()
    assert len(recordings(tmp_path)) == 1


def test_a_long_name_is_shortened_in_its_id(tmp_path: Path) -> None:
    long = "x/" * 700 + "a.flac"
    (tmp_path / "s.tar").write_bytes(files(long, long.replace("a.", "b."), "c.flac"))
    first, second, third = read(tmp_path, Limits(max_name_bytes=500))
    assert isinstance(first, Reject)
    assert first.reason == "bad_name"
    assert len(first.recording_id) < 150
    assert first.recording_id != second.recording_id
    assert isinstance(third, Recording)


@pytest.mark.parametrize("length", [100, 2_000])
def test_an_id_does_not_depend_on_the_limit_of_names(tmp_path: Path, length: int) -> None:
    """Else a retry with a higher limit would find another recording than was rejected."""
    name = "x" * length + ".flac"
    (tmp_path / "s.tar").write_bytes(files(name))
    (tmp_path / name[-255:]).write_bytes(FLAC)
    (tmp_path / "m.jsonl").write_text(json.dumps({"audio_filepath": "./" * length + name[-255:]}))
    for source in ("s.tar", "m.jsonl"):
        (rejected,) = read(tmp_path / source, Limits(max_name_bytes=50))
        (read_now,) = read(tmp_path / source, Limits(max_name_bytes=10_000))
        assert isinstance(rejected, Reject)
        assert isinstance(read_now, Recording)
        assert rejected.recording_id == read_now.recording_id


@pytest.mark.parametrize(
    "path",
    [
        "../a.flac",
        "/etc/passwd",
        "file:///etc/passwd",
        "s3://bucket/corpus-b/a.flac",
        "s3://bucket/corpus/../a.flac",
        "s3://key:secret@bucket/corpus/a.flac",
        "s3a://bucket/corpus/a.flac",
        "simplecache::s3://bucket/corpus/a.flac",
        "a.flac::s3://bucket/corpus/a.flac",
        "a.flac?versionId=1",
        "a\0.flac",
        "\ud800.flac",
        "",
        "x/",
    ],
)
def test_a_path_in_a_store_may_not_lead_out(path: str) -> None:
    assert resolve(ROOT, path) is None
    assert resolve(ROOT, path, allow=["s3://else/where"]) is None


@pytest.mark.parametrize("path", ["%2e%2e/a.flac", "a%2Fb.flac", "a.flac#x", "a.flac?x=1"])
def test_a_path_on_the_web_is_plain(path: str) -> None:
    assert resolve("https://host/corpus", path) is None
    assert resolve("https://host/corpus", f"https://host/corpus/{path}") is None


def test_a_manifest_in_a_store_never_names_a_disk() -> None:
    assert resolve(ROOT, "/data/a.flac", allow=["/data"]) is None
    assert resolve(ROOT, "file:///data/a.flac", allow=["/data"]) is None
    assert resolve("/corpus", "/data/a.flac", allow=["/data"]) == "/data/a.flac"


def test_keys_that_only_look_odd_are_keys() -> None:
    for key in ("a#b.flac", "a//b.flac", "..a/b...flac", "a b%20c.flac", "한/국.flac"):
        assert resolve(ROOT, key) == f"{ROOT}/{key}"


def test_what_the_operator_allows_may_be_named_and_linked(tmp_path: Path) -> None:
    corpus, other = tmp_path / "corpus", tmp_path / "other"
    corpus.mkdir()
    other.mkdir()
    (other / "a.flac").write_bytes(FLAC)
    (corpus / "b.flac").write_bytes(FLAC)
    (corpus / "link.flac").symlink_to(other / "a.flac")
    paths = [f"{other}/a.flac", "b.flac"]
    (corpus / "m.jsonl").write_text("\n".join(json.dumps({"audio_filepath": p}) for p in paths))
    refused = [item.reason for item in read(corpus) if isinstance(item, Reject)]
    assert sorted(refused) == ["bad_name", "unreadable"]
    assert len(recordings(corpus, Limits(allow=(str(other),)))) == 3


def test_a_refusal_says_what_was_wanted(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(FLAC)
    paths = ["a.flac", str(ELSEWHERE)]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps({"audio_filepath": p}) for p in paths))
    _, item = read(tmp_path)
    assert isinstance(item, Reject)
    assert all(word in item.message for word in (str(tmp_path), "wanted", "--allow"))


def test_a_sidecar_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(sidecar("b.json", b'{"a": "' + b"x" * (2 << 20) + b'"}'))
    (recording,) = recordings(tmp_path)
    assert recording.metadata == {"sidecar": "too long"}


def test_metadata_without_measure_are_cut(tmp_path: Path) -> None:
    columns = json.dumps({str(i): i for i in range(50_000)}).encode()
    (tmp_path / "s.tar").write_bytes(sidecar("b.json", columns))
    (recording,) = recordings(tmp_path)
    assert sum(len(name) + len(text) for name, text in recording.metadata.items()) < 70_000
    assert "left_out" in recording.metadata


def test_a_manifest_is_in_the_encoding_of_most_of_its_lines(tmp_path: Path) -> None:
    # These two bytes are a syllable of cp949, and a letter of UTF-8.
    texts = ["안녕하세요", "반갑습니다", "천"]
    entries = [f'{{"audio_filepath": "a.flac", "text": "{text}"}}' for text in texts]
    (tmp_path / "a.flac").write_bytes(FLAC)
    (tmp_path / "m.jsonl").write_bytes("\n".join(entries).encode("cp949"))
    assert [recording.reference for recording in recordings(tmp_path)] == texts


def test_members_of_one_group_are_not_all_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koasr.tars._MAX_GROUP_BYTES", 3 * len(FLAC))
    num_read = 0
    read_data = TarStream.read

    def count(stream: TarStream, num_bytes: int) -> bytes:
        nonlocal num_read
        num_read += 1
        return read_data(stream, num_bytes)

    monkeypatch.setattr(TarStream, "read", count)
    names = [f"2026.11.{day}.flac" for day in range(10)]
    (tmp_path / "s.tar").write_bytes(files(*names))
    (shard,) = list_shards([str(tmp_path)])
    items = read_recordings(shard)
    first = next(items)
    assert num_read < 6
    assert [first.source_key, *(item.source_key for item in items)] == names


def test_a_pipe_among_the_files_keeps_nobody_waiting(tmp_path: Path) -> None:
    for name in ("a.tar", "b.jsonl", "c.wav", "d.trn", "e.parquet"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "f.flac").write_bytes(FLAC)
    items = read(tmp_path)
    assert [type(item) for item in items] == [Reject, Recording]


def test_a_tar_is_read_as_it_streams(tmp_path: Path) -> None:
    sink = io.BytesIO(files("a.flac", "b.flac"))
    (tmp_path / "s.tar").write_bytes(sink.getvalue()[: 512 + 5_120])
    (shard,) = list_shards([str(tmp_path)])
    items = read_recordings(shard)
    assert isinstance(next(items), Recording)
    assert isinstance(next(items), Reject)


def test_a_store_gives_what_a_disk_does(tmp_path: Path, s3: str) -> None:
    stem = DECOMPOSED.removesuffix(".flac")
    (tmp_path / "s.tar").write_bytes(tar(member("b.flac"), member(f"{stem}.flac")))
    (tmp_path / "p.parquet").write_bytes(parquet(rows({"bytes": FLAC}, None)))
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "a#1 %20.flac").write_bytes(FLAC)
    (tmp_path / DECOMPOSED).write_bytes(FLAC)
    (tmp_path / f"{stem}.txt").write_bytes("가".encode())
    paths = [COMPOSED, "gone.flac", "../a.flac", "empty.wav"]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps({"audio_filepath": p}) for p in paths))
    s3fs.S3FileSystem().put(f"{tmp_path}/", f"{s3}/in/", recursive=True)

    def found(folder: str) -> list[tuple[str, str, str]]:
        shards = list_shards([folder])
        items = [item for shard in shards for item in read_recordings(shard)]
        place = len(f"{folder}/")
        return sorted(
            (
                item.source_uri[place:],
                item.source_key,
                item.reason if isinstance(item, Reject) else item.audio.hex(),
            )
            for item in items
        )

    assert found(f"{s3}/in") == found(str(tmp_path))
    assert len(found(str(tmp_path))) == 9
