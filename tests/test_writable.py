"""A place for a result: refused before the work, and nothing left there."""

import os
import stat
from pathlib import Path

import pytest

from koasr.errors import JobError
from koasr.storage import write_result
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


@pytest.mark.parametrize("name", ["pipe", "link_to_pipe", "loop"])
def test_what_is_no_regular_file_is_never_replaced(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link_to_pipe").symlink_to("pipe")
    (tmp_path / "loop").symlink_to("loop")
    for refuse in (check_file, lambda uri: write_result(uri, b"new")):
        with pytest.raises(JobError, match="cannot be written: it is no regular file"):
            refuse(f"{tmp_path}/{name}")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.parametrize("old", [True, False])
def test_a_result_is_written_through_a_link(old: bool, tmp_path: Path) -> None:
    if old:
        (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    check_file(f"{tmp_path}/link")
    write_result(f"{tmp_path}/link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"


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
