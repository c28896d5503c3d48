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
from pathlib import Path

import pyarrow.dataset as ds
import pytest
import s3fs

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "model"
SPEECH = ROOT / "examples" / "speech"


def koasr(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`koasr transcribe` in a process of its own, as a user runs it."""
    command = [sys.executable, str(ROOT / "pipelines" / "transcribe.py"), *arguments]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture
def corpus(s3: str) -> str:
    """A bucket that holds a tar, a manifest with its audio, loose files and the model."""
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    for folder in ("webdataset", "manifest", "folder", "bad"):
        fs.put(f"{SPEECH / folder}/", f"{s3}/in/{folder}/", recursive=True)
    fs.put(f"{MODEL}/", f"{s3}/model/", recursive=True)
    return s3


@pytest.mark.timeout(280)
def test_the_job_runs_from_bucket_to_bucket(corpus: str, tmp_path: Path) -> None:
    places = [f"{corpus}/in", "--output", f"{corpus}/out", "--model", f"{corpus}/model"]
    done = koasr(*places, "--max-reject-rate", "0.1", KOASR_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "87 = 82 transcribed + 5 rejected" in done.stdout
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    out = corpus.removeprefix("s3://") + "/out"
    table = ds.dataset(f"{out}/transcripts", filesystem=fs, format="parquet").to_table()
    assert len(set(table["recording_id"].to_pylist())) == 82
    assert len(set(table["segment_id"].to_pylist())) == table.num_rows
    assert all(uri.startswith(f"{corpus}/in/") for uri in table["source_uri"].to_pylist())
    assert not [name for name in fs.find(out) if name.endswith(".arrows")]
    before = fs.find(out, detail=True)
    again = koasr(*places, KOASR_CACHE=str(tmp_path))
    assert again.returncode == 0, again.stderr
    assert "nothing to do" in again.stdout
    assert fs.find(out, detail=True) == before


@pytest.mark.timeout(280)
def test_rejects_in_a_bucket_are_retried_and_all_commands_agree(
    corpus: str, tmp_path: Path
) -> None:
    model = ("--model", f"{corpus}/model")
    output = f"{corpus}/out"
    limits = ("--max-duration-s", "3.0", "--max-reject-rate", "1")
    first = koasr(f"{corpus}/in/folder", "--output", output, *model, *limits)
    assert "10 = 4 transcribed + 6 rejected" in first.stdout, first.stderr

    def upkeep(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("koasr")), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "too_long" in upkeep("status", output)
    retried = upkeep("retry", output, *model, "--reason", "too_long")
    assert "10 = 10 transcribed + 0 rejected" in retried
    found = json.loads(upkeep("status", output, "--json"))
    assert (found["recordings"], found["transcribed"], found["rejected"]) == (10, 10, 0)
    assert [run["state"] for run in found["runs"]] == ["finished", "finished"]
    upkeep("gc", output)
    upkeep("verify", output)
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    transcripts = f"{output.removeprefix('s3://')}/transcripts"
    table = ds.dataset(transcripts, filesystem=fs, format="parquet").to_table()
    assert len(set(table["recording_id"].to_pylist())) == 10
    assert len(set(table["segment_id"].to_pylist())) == table.num_rows


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sockets and logs; short, as the names of sockets must be."""
    folder = Path(tempfile.mkdtemp(prefix="koasr-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(280)
def test_neither_credentials_nor_transcripts_reach_a_log(
    corpus: str, tmp_path: Path, ray_folder: Path
) -> None:
    done = koasr(
        *(f"{corpus}/in/webdataset", "--output", f"{corpus}/out", "--model", f"{corpus}/model"),
        KOASR_CACHE=str(tmp_path),
        RAY_TMPDIR=str(ray_folder),
        RAY_ADDRESS="",
    )
    assert done.returncode == 0, done.stderr
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    out = corpus.removeprefix("s3://") + "/out"
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    table = ds.dataset(f"{out}/transcripts", filesystem=fs, format="parquet").to_table()
    assert secret not in str(table.to_pylist())
    written = {name: fs.cat_file(name) for name in fs.find(out)}
    words = {word for text in table["text"].to_pylist() for word in text.split() if len(word) > 2}
    assert len(words) > 20
    logs = {str(path): path.read_bytes() for path in ray_folder.rglob("*") if path.is_file()}
    assert any(name.endswith("raylet.out") for name in logs)
    told = {"stdout": done.stdout.encode(), "stderr": done.stderr.encode()} | logs
    told |= {name: data for name, data in written.items() if name.endswith(".json")}
    assert not [name for name, data in (told | written).items() if secret.encode() in data]
    spoken = [word.encode() for word in words]
    spoken += [word.encode("unicode_escape") for word in words]
    assert not [name for name, data in told.items() if any(word in data for word in spoken)]


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
