"""`koasr export` on outputs as runs leave them: which files there are, and what they are called."""

import os
import re
import unicodedata
from pathlib import Path

import outputs
import pyarrow as pa
import pytest
from outputs import group, night, tar

from koasr.cli import main
from koasr.export import export, file_name, split_recordings
from koasr.storage import list_files, read_bytes
from koasr.transcripts import TRANSCRIPTS


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("to", ["srt", "vtt", "ctm", "txt", "json"])
def test_every_transcribed_recording_has_a_file(to: str, tmp_path: Path) -> None:
    night(str(tmp_path / "out"))
    assert call(str(tmp_path / "out"), "--to", to, "--out", str(tmp_path / "texts")) == 0
    found = os.listdir(tmp_path / "texts")
    assert len(found) == 6 + 4 + 2
    assert all(name.endswith(f".{to}") for name in found)
    assert {name for name in found if "~" not in name} == {
        f"{name}.{to}" for name in (outputs.ids(group(1))[0], outputs.ids(group(3))[0])
    }


def test_segments_are_in_time_order(tmp_path: Path) -> None:
    rows = [
        {"recording_id": name, "start_s": start_s, "segment_id": f"{name}{start_s}"}
        for name, start_s in [("b", 3.0), ("a", 20.0), ("b", 0.0), ("a", 3.0), ("a", 100.0)]
    ]
    table = pa.Table.from_pylist(rows, schema=TRANSCRIPTS)
    found = [part["segment_id"].to_pylist() for part in split_recordings(table)]
    assert found == [["a3.0", "a20.0", "a100.0"], ["b0.0", "b3.0"]]


def test_a_date_picks_its_shards_and_one_without_any_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    night(out)
    run = outputs.begin(out, "20261123T000000Z-bbbbbb", tar(3), date="2026-11-23")
    outputs.commit(run, tar(3))
    texts = tmp_path / "texts"
    assert call(out, "--to", "txt", "--out", str(texts), "--date", "2026-11-23") == 0
    assert {name.split("-")[0] for name in os.listdir(texts)} == {"3.tar"}
    assert call(out, "--to", "txt", "--out", str(texts), "--date", "2026-11-24") == 1
    assert "it has 2026-11-22, 2026-11-23" in capsys.readouterr().err
    assert call(out, "--to", "txt", "--out", str(texts), "--date", "today") == 2


def test_a_shard_under_two_dates_is_exported_once(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for date in ("2026-11-22", "2026-11-23"):
        outputs.commit(outputs.begin(out, f"{date}-r", tar(1), date=date), tar(1))
    export(out, to="txt", out=str(tmp_path / "texts"))
    assert len(os.listdir(tmp_path / "texts")) == 6


def test_export_to_a_store(s3: str) -> None:
    night(f"{s3}/out")
    export(f"{s3}/out", to="txt", out=f"{s3}/texts")
    files = list_files(f"{s3}/texts")
    assert len(files) == 12
    assert read_bytes(files[0].uri).decode() == "가 나\n가 나\n"


HOSTILE = [
    "a.tar-37d94b0a987a/../../etc/passwd",
    "a.tar-37d94b0a987a/..%2f",
    "/etc/passwd",
    "..",
    ".hidden-37d94b0a987a",
    "-rf-37d94b0a987a",
    "",
    "a b",
    "a_b~0123456789abcdef",
    "a\nb",
    "한국 방송.wav-37d94b0a987a",
    "a\\b",
    "a:b",
    "x" * 5000,
    "한" * 5000,
    unicodedata.normalize("NFD", "한국.wav-37d94b0a987a"),
    "각" * 100 + ".wav",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_safe_as_a_file_and_in_ctm(name: str) -> None:
    found = file_name(name)
    assert re.fullmatch(r"[\w~][\w.~-]*", found)
    assert len(f"{found}.json".encode()) < 200
    assert "~" in found


def test_names_never_collide() -> None:
    plain = ["a_b", "a.wav-37d94b0a987a", "한국.wav-37d94b0a987a", "_etc_passwd"]
    names = [file_name(name) for name in [*plain, *HOSTILE]]
    assert names[: len(plain)] == plain
    assert len(set(names)) == len(names)
    # What a safe id is called, no other id can be.
    assert file_name(names[-1]) not in names
