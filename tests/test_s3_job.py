"""The whole job from s3:// to s3://, against a real S3 server, through the command line."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import s3fs
from s3 import S3Server

from koasr.cli import main

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "model"
SPEECH = ROOT / "examples" / "speech"


def koasr(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`koasr transcribe` in a process of its own, as a user runs it."""
    command = [sys.executable, str(ROOT / "pipelines" / "transcribe.py"), *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=240
    )


@dataclass(frozen=True)
class Night:
    """One run from bucket to bucket that rejects what is over three seconds."""

    bucket: str
    arguments: tuple[str, ...]
    cache: Path
    ray_folder: Path
    done: subprocess.CompletedProcess[str]

    @property
    def output(self) -> str:
        return f"{self.bucket}/out"

    def start(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return koasr(*self.arguments, *arguments, **self.environment)

    @property
    def environment(self) -> dict[str, str]:
        return {"KOASR_CACHE": str(self.cache), "RAY_TMPDIR": str(self.ray_folder)}

    def find(self) -> dict[str, Any]:
        """Everything in the output."""
        fs = s3fs.S3FileSystem(use_listings_cache=False)
        found: dict[str, Any] = fs.find(self.output.removeprefix("s3://"), detail=True)
        return found

    def table(self) -> pa.Table:
        """Every transcript."""
        fs = s3fs.S3FileSystem(use_listings_cache=False)
        place = self.output.removeprefix("s3://")
        return ds.dataset(f"{place}/transcripts", filesystem=fs, format="parquet").to_table()


@pytest.fixture(scope="module")
def night(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """A bucket that holds a tar, a manifest with its audio, loose files, the model and an output.

    Ray keeps its logs in a folder of their own; its path is short, as the names of sockets must be.
    """
    bucket = "s3://night"
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    fs.mkdir("night")
    for folder in ("webdataset", "manifest", "folder", "bad"):
        fs.put(f"{SPEECH / folder}/", f"{bucket}/in/{folder}/", recursive=True)
    fs.put(f"{MODEL}/", f"{bucket}/model/", recursive=True)
    places = (f"{bucket}/in", "--output", f"{bucket}/out", "--model", f"{bucket}/model")
    arguments = (*places, "--max-duration-s", "3", "--max-reject-rate", "0.2")
    ray_folder = Path(tempfile.mkdtemp(prefix="koasr-", dir="/tmp"))
    cache = tmp_path_factory.mktemp("cache")
    done = koasr(*arguments, KOASR_CACHE=str(cache), RAY_TMPDIR=str(ray_folder), RAY_ADDRESS="")
    assert done.returncode == 0, done.stderr
    yield Night(bucket, arguments, cache, ray_folder, done)
    shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.mark.timeout(280)
def test_the_job_runs_from_bucket_to_bucket(night: Night) -> None:
    assert "87 = 72 transcribed + 15 rejected" in night.done.stdout
    table = night.table()
    assert len(set(table["recording_id"].to_pylist())) == 72
    assert len(set(table["segment_id"].to_pylist())) == table.num_rows
    assert all(uri.startswith(f"{night.bucket}/in/") for uri in table["source_uri"].to_pylist())
    before = night.find()
    assert not [name for name in before if name.endswith(".arrows")]
    again = night.start()
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert night.find() == before


def test_neither_credentials_nor_transcripts_reach_a_log(night: Night) -> None:
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    table = night.table()
    assert secret not in str(table.to_pylist())
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    written = {name: fs.cat_file(name) for name in night.find()}
    words = {word for text in table["text"].to_pylist() for word in text.split() if len(word) > 2}
    assert len(words) > 20
    logs = {str(path): path.read_bytes() for path in night.ray_folder.rglob("*") if path.is_file()}
    assert any(name.endswith("raylet.out") for name in logs)
    told = {"stdout": night.done.stdout.encode(), "stderr": night.done.stderr.encode()} | logs
    told |= {name: data for name, data in written.items() if name.endswith(".json")}
    assert not [name for name, data in (told | written).items() if secret.encode() in data]
    spoken = [word.encode() for word in words]
    spoken += [word.encode("unicode_escape") for word in words]
    assert not [name for name, data in told.items() if any(word in data for word in spoken)]


@pytest.mark.timeout(280)
def test_rejects_in_a_bucket_are_retried_and_all_commands_agree(
    night: Night, capsys: pytest.CaptureFixture[str]
) -> None:
    def upkeep(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        printed = capsys.readouterr().out
        assert ended.value.code == 0, printed
        return printed

    assert "10 too_long" in upkeep("status", night.output)
    retry = [str(Path(sys.executable).with_name("koasr")), "retry", night.output]
    retry += ["--model", f"{night.bucket}/model", "--max-reject-rate", "0.25"]
    done = subprocess.run(
        [*retry, "--reason", "too_long"],
        env=os.environ | night.environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "+ 5 rejected" in done.stdout
    found = json.loads(upkeep("status", night.output, "--json"))
    assert (found["recordings"], found["transcribed"], found["rejected"]) == (87, 82, 5)
    assert [run["state"] for run in found["runs"]] == ["finished", "finished"]
    upkeep("gc", night.output)
    upkeep("verify", night.output)
    table = night.table()
    assert len(set(table["recording_id"].to_pylist())) == 82
    assert len(set(table["segment_id"].to_pylist())) == table.num_rows


@pytest.fixture
def mute_server() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        ({"input": "s3://no-such-bucket/in"}, {}, "does not exist|holds no files"),
        ({"input": "{bucket}/empty/"}, {}, "holds no files"),
        ({"input": "{bucket}/in"}, {"AWS_SECRET_ACCESS_KEY": "wrong"}, "access denied"),
        ({"input": "{bucket}/in"}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "no answer"),
        ({"input": "{bucket}/in"}, {"AWS_ENDPOINT_URL": "{mute}"}, "no answer"),
        ({"output": "s3://no-such-bucket/out"}, {}, "no-such-bucket"),
        ({"model": "s3://no-such-bucket/model"}, {}, "no-such-bucket"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_within_ten_seconds(
    s3: str,
    mute_server: str,
    tmp_path: Path,
    arguments: dict[str, str],
    environment: dict[str, str],
    message: str,
) -> None:
    s3fs.S3FileSystem().pipe_file(f"{s3}/in/a.flac", b"x")
    places = {"input": f"{s3}/in", "output": str(tmp_path / "out"), "model": str(MODEL)}
    places |= {name: value.replace("{bucket}", s3) for name, value in arguments.items()}
    environment = {k: v.replace("{mute}", mute_server) for k, v in environment.items()}
    start_s = time.monotonic()
    done = koasr(
        places["input"],
        *("--output", places["output"], "--model", places["model"]),
        **environment,
    )
    assert time.monotonic() - start_s < 10
    assert done.returncode in (1, 2)
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("koasr: ")
    assert any(part in line for part in message.split("|"))
