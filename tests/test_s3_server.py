"""The S3 store of the tests is a real one: it keeps objects, and refuses strangers."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.fs
import pytest
import s3fs
from s3 import LAUNCHER, S3Server, find_data_dir, make_environment


def open_store() -> s3fs.S3FileSystem:
    return s3fs.S3FileSystem(use_listings_cache=False)


def test_objects_written_by_s3fs_are_read_by_pyarrow(s3: str) -> None:
    body = os.urandom(12 << 20)
    store = open_store()
    store.pipe_file(f"{s3}/folder/한국어 a+b%25.bin", body)
    filesystem, path = pyarrow.fs.FileSystem.from_uri(s3)
    with filesystem.open_input_file(f"{path}/folder/한국어 a+b%25.bin") as stream:
        assert stream.read() == body
    part = store.cat_file(f"{s3}/folder/한국어 a+b%25.bin", start=5 << 20, end=(5 << 20) + 7)
    assert part == body[5 << 20 :][:7]


def test_objects_written_by_pyarrow_are_listed_by_s3fs(s3: str) -> None:
    filesystem, path = pyarrow.fs.FileSystem.from_uri(s3)
    with filesystem.open_output_stream(f"{path}/part.parquet") as stream:
        stream.write(b"rows")
    assert open_store().find(s3) == [f"{path}/part.parquet"]


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_gets_a_bucket_of_its_own(s3: str, turn: int) -> None:
    assert open_store().find(s3) == []
    open_store().pipe_file(f"{s3}/mine", b"")


def test_wrong_secret_and_unknown_user_are_refused_with_403(s3: str, s3_server: S3Server) -> None:
    open_store().pipe_file(f"{s3}/object", b"private")
    for key in (s3_server.access_key, "nobody"):
        stranger = s3fs.S3FileSystem(key=key, secret="wrong", skip_instance_cache=True)
        attempts: list[Callable[[], object]] = [
            partial(stranger.ls, s3),
            partial(stranger.cat_file, f"{s3}/object"),
            partial(stranger.pipe_file, f"{s3}/other", b"x"),
        ]
        for attempt in attempts:
            with pytest.raises(PermissionError) as refusal:
                attempt()
            answer = getattr(refusal.value.__cause__, "response", {})
            assert answer["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_missing_bucket_and_object_are_not_found(s3: str) -> None:
    for path in ("s3://no-such-bucket/object", f"{s3}/object"):
        with pytest.raises(FileNotFoundError):
            open_store().cat_file(path)


def test_put_if_absent_refuses_a_second_writer(s3: str) -> None:
    store = open_store()
    store.pipe_file(f"{s3}/once", b"first", mode="create")
    with pytest.raises(OSError, match=r"exists|\[Errno 22\]"):
        store.pipe_file(f"{s3}/once", b"second", mode="create")
    assert store.cat_file(f"{s3}/once") == b"first"


def test_making_the_environment_again_takes_no_time(s3_server: S3Server) -> None:
    start = time.monotonic()
    make_environment()
    assert time.monotonic() - start < 1


def test_the_servers_end_when_the_tests_are_killed(s3_server: S3Server) -> None:
    folder = find_data_dir()
    assert folder is not None
    command = [str(make_environment()), str(LAUNCHER), str(folder / "store")]
    script = f"""if True:
        import os, subprocess
        pipe = subprocess.PIPE
        launcher = subprocess.Popen({command!r}, stdin=pipe, stdout=pipe)
        launcher.stdout.readline()
        print(launcher.pid, flush=True)
        os.kill(os.getpid(), 9)
    """
    killed = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    launcher = Path("/proc") / killed.stdout.decode().strip()
    deadline = time.monotonic() + 10
    while launcher.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not launcher.exists()
    shutil.rmtree(folder)
