"""Failures that may pass are waited out, others told at once; a file is whole or not there."""

import errno
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tenacity
from stores import FakeFileSystem, Store, fake_stores

from koasr import storage
from koasr.errors import JobError, TransientError
from koasr.storage import (
    exists,
    impatient,
    job_errors,
    list_files,
    list_names,
    open_fs,
    read_bytes,
    remove,
    remove_tree,
    transient_errors,
    version_of,
    write_bytes,
    write_new,
)
from koasr.threads import concurrently

PLACE = "fake://bucket/a"


@pytest.fixture
def store() -> Iterator[Store]:
    with fake_stores():
        FakeFileSystem.store = Store()
        yield FakeFileSystem.store


def failing(*errors: Exception) -> tuple[Callable[[], str], list[int]]:
    """A piece of work that fails in these ways, one after the other, and then is done."""
    calls: list[int] = []

    def work() -> str:
        calls.append(1)
        if len(calls) <= len(errors):
            raise errors[len(calls) - 1]
        return "done"

    return work, calls


@pytest.fixture
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_WAIT", tenacity.wait_none())


@pytest.mark.usefixtures("_no_waits")
@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("s3://bucket/a", OSError(errno.EBUSY, "SlowDown")),
        ("s3://bucket/a", OSError(errno.EREMOTEIO, "InternalError")),
        ("s3://bucket/a", ConnectionResetError()),
        ("s3://bucket/a", TimeoutError()),
        ("/data/a", OSError(errno.EIO, "Input/output error")),
    ],
)
def test_what_may_pass_is_tried_again(uri: str, error: Exception) -> None:
    work, calls = failing(error, error, error)
    assert storage.patiently(uri, work) == "done"
    assert len(calls) == 4


@pytest.mark.usefixtures("_no_waits")
@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("s3://bucket/a", FileNotFoundError("NoSuchKey")),
        ("s3://bucket/a", PermissionError("ExpiredToken")),
        ("/data/a", PermissionError(errno.EACCES, "Permission denied")),
        ("/data/a", OSError(errno.ENOTDIR, "Not a directory")),
        ("/data/a", OSError(errno.ENOSPC, "No space left on device")),
        ("s3://bucket/a", ZeroDivisionError()),
    ],
)
def test_what_will_not_pass_is_told_at_once(uri: str, error: Exception) -> None:
    work, calls = failing(error)
    with pytest.raises(type(error)):
        storage.patiently(uri, work)
    assert len(calls) == 1


def test_at_the_start_nothing_is_waited_for() -> None:
    work, calls = failing(TimeoutError(), TimeoutError())
    start_s = time.monotonic()
    with impatient(), pytest.raises(TimeoutError):
        storage.patiently("s3://bucket/a", work)
    assert len(calls) == 1
    assert time.monotonic() - start_s < 1


@pytest.mark.usefixtures("_no_waits")
def test_impatience_reaches_the_threads_that_work_for_it() -> None:
    def fail(_: int) -> None:
        raise TimeoutError

    began_s = time.monotonic()
    with impatient(), pytest.raises(TimeoutError):
        concurrently(lambda item: storage.patiently(PLACE, fail, item), [1, 2], "asked")
    assert time.monotonic() - began_s < 1


def test_a_retry_is_logged_without_what_the_store_said(caplog: pytest.LogCaptureFixture) -> None:
    work, _ = failing(OSError(errno.EBUSY, "token=hush"))
    with caplog.at_level(logging.DEBUG, logger="koasr"):
        storage.patiently("s3://bucket/a", work)
    assert "s3://bucket/a: OSError, trying again" in caplog.text
    assert "hush" not in caplog.text


def test_waits_grow_and_differ() -> None:
    waits = [
        storage._WAIT(tenacity.RetryCallState(None, None, (), {}))  # type: ignore[arg-type]
        for _ in range(20)
    ]
    assert len(set(waits)) > 10
    late = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    late.attempt_number = 30
    assert max(storage._WAIT(late) for _ in range(50)) > max(waits)
    assert max(storage._WAIT(late) for _ in range(50)) <= 20


def test_a_full_disk_is_one_line_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place = str(tmp_path / "a")
    write_bytes(place, b"old")
    monkeypatch.setattr(os, "fsync", fail)
    for errors in (transient_errors, job_errors):
        with impatient(), pytest.raises(JobError, match="the disk is full: make room"):  # noqa: SIM117
            with errors(place):
                write_bytes(place, b"new")
    assert Path(place).read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_new_file_is_written_once(tmp_path: Path) -> None:
    place = str(tmp_path / "folder" / "a")
    assert write_new(place, b"first")
    assert not write_new(place, b"second")
    assert Path(place).read_bytes() == b"first"
    assert os.listdir(tmp_path / "folder") == ["a"]


def test_a_link_is_listed_with_the_version_of_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"a")
    os.utime(tmp_path / "a.tar", (1, 1))
    (tmp_path / "b.tar").symlink_to("a.tar")
    (tmp_path / "c.tar").symlink_to("nowhere")
    real, link, _ = list_files(str(tmp_path))
    assert link.version == real.version == version_of(link.uri)


def test_where_links_are_not_supported_a_new_file_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: str) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    test_a_new_file_is_written_once(tmp_path)


def test_of_many_writers_of_a_new_file_one_wins(tmp_path: Path) -> None:
    place = str(tmp_path / "a")
    results: list[tuple[bool, bytes]] = []

    def write(data: bytes) -> None:
        results.append((write_new(place, data), data))

    threads = [threading.Thread(target=write, args=(b"%d" % n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [data for is_new, data in results if is_new]
    assert Path(place).read_bytes() == winner


def test_a_lost_acknowledgement_of_a_new_file_shows_as_a_file_that_was_there(store: Store) -> None:
    store.lose_at = 1
    assert not write_new(PLACE, b"mine")
    assert read_bytes(PLACE) == b"mine"


def test_a_refusal_that_comes_late_is_no_failure(store: Store) -> None:
    """Someone creates the file between the look and the write."""
    numbers = itertools.count()

    def meddle() -> None:
        if next(numbers) == 1:
            store.files["bucket/a"] = (b"theirs", 0)

    store.gate = meddle
    assert not write_new(PLACE, b"mine")
    assert read_bytes(PLACE) == b"theirs"


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    place: Any = tmp_path / "out" if request.param == "disk" else request.getfixturevalue("s3")
    return f"{place}/folder"


def test_files_are_made_found_read_and_removed(folder: str) -> None:
    place = f"{folder}/x/가 나+%25.parquet"
    assert list_files(folder) == []
    assert list_names(folder) == []
    assert not exists(place)
    assert write_new(place, b"0123456789")
    assert not write_new(place, b"other")
    assert exists(place)
    assert not exists(f"{folder}/x")
    assert read_bytes(place) == b"0123456789"
    assert read_bytes(place, start=-4) == b"6789"
    assert read_bytes(place, start=-99) == b"0123456789"
    assert read_bytes(place, start=2, end=5) == b"234"
    write_bytes(f"{folder}/x/b", b"")
    write_bytes(f"{folder}/c", b"")
    assert list_names(folder) == ["c", "x"]
    assert [file.uri for file in list_files(folder)] == [f"{folder}/c", f"{folder}/x/b", place]
    for _ in range(2):
        remove(place)
        remove_tree(f"{folder}/x")
    assert list_names(folder) == ["c"]


def test_a_store_that_denies_access_is_not_asked_again(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(f"{s3}/a", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    open_fs("s3://bucket")[0].clear_instance_cache()
    start_s = time.monotonic()
    with pytest.raises(JobError, match="access denied"), transient_errors(f"{s3}/a"):
        read_bytes(f"{s3}/a")
    assert time.monotonic() - start_s < 20


def test_a_failure_that_stays_is_a_transient_one_for_the_task() -> None:
    work, _ = failing(*[TimeoutError()] * 3)
    with impatient(), pytest.raises(TransientError), transient_errors("s3://bucket/a"):
        storage.patiently("s3://bucket/a", work)
