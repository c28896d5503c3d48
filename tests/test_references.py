"""References in the files people have, and the recordings they are found for."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from koasr.errors import JobError
from koasr.reference_files import Reference, read_references
from koasr.references import Join, count_matches, join_references
from koasr.transcripts import REJECTS, TRANSCRIPTS

FLEURS_ROW = "17\t1523.wav\tA 원문\t원문\t원 문\t92160\tFEMALE"


def recording(uri: str, key: str = "", **others: Any) -> dict[str, Any]:
    name = f"{uri.rsplit('/', 1)[-1]}-0123/{key}"
    row = {"recording_id": name, "segment_id": f"{name}#0", "source_uri": uri, "source_key": key}
    return row | others


def join(found: list[Reference], *rows: dict[str, Any]) -> Join:
    return join_references(found, pa.Table.from_pylist(list(rows), schema=TRANSCRIPTS))


def texts(found: list[Reference], *rows: dict[str, Any]) -> list[str]:
    return list(join(found, *rows).references.values())


def path(name: str, text: str) -> Reference:
    return Reference((), name, text)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("m.jsonl", '{"audio_filepath": "a/b.wav", "text": "네"}\n', [("a/b.wav", "네")]),
        (
            "m.jsonl",
            '{"audio_filepath": "b"}\n{"audio_filepath": "c", "text": ""}',
            [("c", "")],
        ),
        ("e.trn", "K_01/a.pcm :: (3시)/(세 시) 봐\n", [("K_01/a.pcm", "(3시)/(세 시) 봐")]),
        ("t.tsv", 'client_id\tpath\tsentence\nc\ta.mp3\t"네" 그래\n', [("a.mp3", '"네" 그래')]),
        ("t.tsv", "path\tsentence\r\na.mp3\t네\r\n\r\n", [("a.mp3", "네")]),
        ("t.csv", 'file_name,text\na.wav,"네, 그래"\n', [("a.wav", "네, 그래")]),
        ("f.tsv", f"{FLEURS_ROW}\n{FLEURS_ROW}\n", [("1523.wav", "원문")] * 2),
        ("x.trans.txt", "a_01 네 그래\na_02 응\n", [("a_01", "네 그래"), ("a_02", "응")]),
        ("a.txt", "네 그래\n", [("a.txt", "네 그래")]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_each_format_gives_names_and_texts(
    tmp_path: Path, name: str, content: str, expected: list[tuple[str, str]], encoding: str
) -> None:
    (tmp_path / name).write_bytes(content.encode(encoding))
    found = read_references(str(tmp_path / name))
    assert [(r.path.removeprefix(f"{tmp_path}/"), r.text) for r in found] == expected


def test_a_folder_is_its_trans_txt(tmp_path: Path) -> None:
    for speaker in ("s1", "s2"):
        (tmp_path / speaker).mkdir()
        (tmp_path / speaker / f"{speaker}.trans.txt").write_text(f"{speaker}_1 네\n")
        (tmp_path / speaker / "readme.txt").write_text("not a reference")
    assert [r.path.split("/")[-2:] for r in read_references(str(tmp_path))] == [
        ["s1", "s1_1"],
        ["s2", "s2_1"],
    ]


def test_parquet_gives_texts_without_the_audio(tmp_path: Path) -> None:
    rows = [
        {"audio": {"bytes": b"RIFF", "path": "clips/a.wav"}, "sentence": "네"},
        {"audio": {"bytes": b"RIFF", "path": "clips/b.wav"}, "sentence": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    (found,) = read_references(str(tmp_path / "x.parquet"))
    assert (found.path, found.text) == ("clips/a.wav", "네")
    # Its rows by number, as koasr names them.
    assert texts([found], recording(str(tmp_path / "x.parquet"), "0")) == ["네"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.tsv", b"who\twhat\na\tb\n", "has the columns who, what: wanted one of text"),
        ("a.jsonl", b'{"text": "x"}\n', "line 1: not a JSON object with audio_filepath"),
        ("a.tsv", b"path\ttext\n", "has no line with a text: wanted references, in tables and"),
        ("a.jsonl", b'{"audio_filepath": "a.wav"}', "under text, sentence, transcript"),
        ("a.jsonl", b"", "is empty: wanted references"),
        ("a.tsv", "path\ttext\na\t네".encode("utf-16"), "is UTF-16 or no text: wanted UTF-8 or"),
        ("a.trn", "a :: 네".encode("utf-16-le"), "is UTF-16 or no text"),
        ("a.trans.txt", "a 네".encode("utf-16"), "is UTF-16 or no text"),
        ("a.parquet", b"PAR1", "is damaged"),
        ("a.docx", b"x", "is no file of references"),
        ("a.trn", b"\xff\xff :: x\n", "neither UTF-8 nor cp949"),
        (None, b"", "does not exist"),
    ],
)
def test_what_holds_no_references_is_one_line(
    tmp_path: Path, name: str | None, content: bytes, problem: str
) -> None:
    (tmp_path / (name or "other")).write_bytes(content)
    with pytest.raises(JobError, match=problem) as raised:
        read_references(str(tmp_path / (name or "a.tsv")))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("empty", "is an empty folder: wanted a JSONL"), ("", "no .trans.txt or .txt among 1 files")],
)
def test_a_folder_without_references_is_one_line(tmp_path: Path, name: str, problem: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(JobError, match=problem):
        read_references(str(tmp_path / name))


def test_the_last_text_of_a_table_may_be_empty(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("path\ttext\na.wav\t네\nb.wav\t\n")
    assert [found.text for found in read_references(str(tmp_path / "a.tsv"))] == ["네", ""]


@pytest.mark.parametrize(
    ("reference", "row"),
    [
        (Reference(("x.tar-0123/a.flac",), "", "네"), recording("s3://b/x.tar", "a.flac")),
        (Reference(("a.flac",), "", "네"), recording("s3://b/x.tar", "a.flac")),
        (path("else/a.wav", "네"), recording("s3://b/x.tar", "a.flac")),
        (path("/corpus/s1/a", "네"), recording("/data/s1/a.flac")),
        (path("a.wav", "네"), recording("s3://b/m.jsonl", "17:clips/a.wav")),
        (path("a.mp3", "네"), recording("x.parquet", "3", metadata=[("path", "c/a.mp3")])),
        (path(unicodedata.normalize("NFD", "가.wav"), "네"), recording("/data/가.wav")),
        (path("가.wav", "네"), recording(unicodedata.normalize("NFD", "/data/가.wav"))),
        (path("spk.01", "네"), recording("/data/spk.01.flac")),
    ],
)
def test_a_recording_is_known_by_id_or_by_path(reference: Reference, row: dict[str, Any]) -> None:
    found = join([reference, path("other.wav", "아니")], row)
    assert found.references == {row["recording_id"]: "네"}
    assert (found.num_references, found.num_unused, found.num_without) == (2, 1, 0)


def test_a_manifest_that_was_transcribed_names_its_own_lines(tmp_path: Path) -> None:
    lines = [
        {"audio_filepath": "long.wav", "offset": 0, "text": "하나"},
        {"audio_filepath": "long.wav", "offset": 5, "text": "둘"},
    ]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = [recording(str(manifest), f"{number}:long.wav") for number in (1, 2)]
    assert texts(read_references(str(manifest)), *rows) == ["하나", "둘"]


def test_lines_that_cut_one_file_are_told_apart_by_their_offset() -> None:
    found = [Reference((), "x/long.wav", text, at) for text, at in (("하나", "0"), ("둘", "5.0"))]
    rows = [
        recording("s3://b/m.jsonl", f"{line}:long.wav", metadata=[("offset", at)])
        for line, at in ((8, "5"), (9, "0.0"))
    ]
    assert texts(found, *rows) == ["둘", "하나"]
    with pytest.raises(JobError, match="two references of different text are named 'long'"):
        join(found, recording("s3://b/long.wav"))
    later = recording("s3://b/m.jsonl", "1:long.wav", metadata=[("offset", "9")])
    with pytest.raises(JobError, match="none of 2 references fits"):
        join(found, later)


def test_folders_tell_files_of_one_name_apart() -> None:
    found = [path("s1/001.wav", "하나"), path("s2/001.wav", "둘")]
    rows = [recording("/data/s2/001.flac"), recording("/data/s1/001.flac")]
    rows = [row | {"recording_id": row["source_uri"]} for row in rows]
    assert texts(found, *rows) == ["둘", "하나"]
    with pytest.raises(JobError, match="two references of different text are named '001'"):
        join(found, recording("/data/s3/001.flac"))


def test_the_same_text_twice_is_no_contradiction() -> None:
    found = [path("s1/001.wav", "하나"), path("s2/001.wav", "하나"), path("s1/001.wav", "하나")]
    assert texts(found, recording("/data/s3/001.flac")) == ["하나"]


def test_one_reference_may_be_of_several_recordings() -> None:
    rows = [recording("/clean/a.wav"), recording("/noisy/a.wav")]
    rows = [row | {"recording_id": row["source_uri"]} for row in rows]
    assert texts([path("a.wav", "네")], *rows) == ["네", "네"]


def test_a_segment_may_have_a_reference_of_its_own() -> None:
    row = recording("/data/a.wav")
    found = join([Reference((row["segment_id"],), "", "네"), path("a.wav", "네 그래")], row)
    assert found.references == {row["segment_id"]: "네"}
    assert (found.num_unused, found.num_without) == (1, 0)


def test_no_partner_at_all_is_one_line() -> None:
    with pytest.raises(JobError, match="none of 1 references fits one of 1 recordings") as raised:
        join([path("a.wav", "비밀")], recording("/data/b.wav"))
    assert "비밀" not in str(raised.value)


def test_recordings_without_a_reference_are_counted() -> None:
    found = join([path("a.wav", "네")], recording("/data/a.wav"), recording("/data/b.wav"))
    assert (found.num_recordings, found.num_without, found.num_unused) == (2, 1, 0)


def test_rejects_that_have_a_reference_are_counted() -> None:
    rejects = [recording("/data/a.wav"), recording("/data/b.wav")]
    for row in rejects:
        del row["segment_id"]
    table = pa.Table.from_pylist(rejects, schema=REJECTS)
    assert count_matches([path("a.wav", "네")], table) == 1
