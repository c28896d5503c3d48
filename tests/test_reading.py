"""Transcripts of an output, and of plain Parquet files of its schema, as one table."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outputs import begin, commit, finish, ids, night, place, tar

from koasr.errors import JobError
from koasr.reading import read_rejects, read_transcripts
from koasr.transcripts import TRANSCRIPTS


def test_an_output_is_read_whole_in_the_order_of_its_objects(tmp_path: Path) -> None:
    run = night(str(tmp_path))
    table = read_transcripts(str(tmp_path))
    assert table.schema.equals(TRANSCRIPTS)
    assert table.num_rows == 2 * (6 + 4 + 2)
    assert table.equals(read_transcripts(str(tmp_path)))
    first = pq.read_table(place(run, tar(1)))["segment_id"].to_pylist()
    assert read_transcripts(str(tmp_path))["segment_id"].to_pylist()[:12] == first


def test_a_shard_under_two_dates_is_read_once(tmp_path: Path) -> None:
    run = night(str(tmp_path))
    later = Path(place(run, tar(1)).replace("2026-11-22", "2026-11-23"))
    later.parent.mkdir()
    later.write_bytes(Path(place(run, tar(1))).read_bytes())
    found = read_transcripts(str(tmp_path), ["recording_id"])["recording_id"].to_pylist()
    assert [found.count(name) for name in ids(tar(1))] == [2] * 6


def test_one_date_is_read_alone(tmp_path: Path) -> None:
    night(str(tmp_path))
    run = begin(str(tmp_path), "20261123T000000Z-bbbbbb", tar(3), date="2026-11-23")
    finish(run, [commit(run, tar(3), {0: "timeout"})])
    found = read_transcripts(str(tmp_path), ["recording_id"], "2026-11-23")
    assert set(found["recording_id"].to_pylist()) == set(ids(tar(3))[1:])
    assert read_rejects(str(tmp_path), "2026-11-23").num_rows == 1
    with pytest.raises(JobError, match="no transcripts of 2026-11-24: it has 2026-11-22, 2026"):
        read_transcripts(str(tmp_path), date="2026-11-24")


@pytest.mark.parametrize("what", ["{}/a.parquet", "{}/*.parquet", "{}"])
def test_plain_files_are_read_like_an_output(tmp_path: Path, what: str) -> None:
    row = {"segment_id": "a#0", "text": "가", "confidence": 0.5}
    schema = pa.schema([("segment_id", pa.large_string()), ("confidence", pa.float64())])
    pq.write_table(pa.Table.from_pylist([row], schema), tmp_path / "a.parquet")
    found = read_transcripts(what.format(tmp_path), ["confidence", "segment_id"])
    assert found.schema == pa.schema([("confidence", pa.float32()), ("segment_id", pa.string())])


def test_evidence_of_an_older_version_is_null(tmp_path: Path) -> None:
    for name, evidence in {"a": {"x": 1.0}, "b": {"x": 1.0, "y": 2.0}}.items():
        pq.write_table(pa.Table.from_pylist([{"evidence": evidence}]), tmp_path / f"{name}.parquet")
    found = read_transcripts(str(tmp_path), ["evidence"])["evidence"].to_pylist()
    assert [(row["x"], row["y"]) for row in found] == [(1.0, None), (1.0, 2.0)]
    # Fields that this version declares are there, and null.
    assert [row["raw_confidence"] for row in found] == [None, None]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "holds no transcripts"), (b"PAR1 no more", "is damaged"), ("rows", "wanted a file of")],
)
def test_what_is_no_transcripts_is_one_line(
    tmp_path: Path, content: bytes | str | None, problem: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / "a.parquet").write_bytes(content)
    elif content:
        pq.write_table(pa.table({"other": [1]}), tmp_path / "a.parquet")
    with pytest.raises(JobError, match=problem) as raised:
        read_transcripts(str(tmp_path), ["text"])
    assert "\n" not in str(raised.value)
