"""A place for a result: refused before the work, and nothing left there."""

from pathlib import Path

import pytest

from koasr.errors import JobError
from koasr.writable import check_file, check_folder


@pytest.mark.parametrize("name", ["x.json", "old.json", "deep/er/x.json"])
def test_a_place_that_can_be_written_is_left_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    check_file(str(tmp_path / name))
    check_folder(str(tmp_path / "deep" / "er"))
    check_folder(str(tmp_path))
    assert [path.name for path in tmp_path.rglob("*")] == ["old.json"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is a folder: wanted a file"),
        ("new/", "is a folder: wanted a file"),
        ("old.json/x.json", "old.json is no folder"),
        ("loop/x.json", "loop is no folder"),
    ],
)
def test_where_no_file_can_be(name: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("old")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(JobError, match=problem):
        check_file(f"{tmp_path}/{name}")
    for folder in ("old.json", "old.json/x", "loop"):
        with pytest.raises(JobError, match="is no folder"):
            check_folder(f"{tmp_path}/{folder}")


def test_what_the_system_refuses_is_told_as_it_says_it() -> None:
    with pytest.raises(JobError, match="cannot be written: /proc: no such file or directory"):
        check_file("/proc/none/x.json")


def test_a_bucket_is_no_file(s3: str) -> None:
    for uri in (s3, f"{s3}/folder/"):
        with pytest.raises(JobError, match="names a folder: wanted a file in it"):
            check_file(uri)
    check_file(f"{s3}/x.json")
    check_folder(s3)
    with pytest.raises(JobError, match="does not exist"):
        check_folder("s3://no-such-bucket-here/x")
