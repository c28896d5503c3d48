"""Two nights on three nodes and a real store: a node is lost, a step fails, nothing else does."""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import s3fs
from ray_nodes import Nodes, running_nodes
from test_telling import told

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "speech" / "webdataset" / "speech-000.tar"
FIRST, SECOND = "2026-11-22", "2026-11-23"
JOB = """
inputs = ["{bucket}/in"]
output = "{bucket}/out"
model = "{model}"

[transcribe]
device = "cpu"
num_actors = 2
pack_seconds = 20

[evaluate]
references = "{bucket}/references-{{date}}.jsonl"
"""


@dataclass(frozen=True)
class World:
    """A bucket, a cluster, a job file, and what the webhook was told."""

    bucket: str
    nodes: Nodes
    folder: Path
    posted: list[dict[str, Any]]
    webhook: str

    @property
    def store(self) -> Any:
        return s3fs.S3FileSystem(use_listings_cache=False)

    def put_speech(self, name: str) -> None:
        """A tar of 64 recordings."""
        self.store.put(str(SPEECH), f"{self.bucket}/in/{name}")

    def put_references(self, date: str, keys: list[str]) -> None:
        lines = [json.dumps({"audio_filepath": key, "text": "오늘"}) for key in keys]
        self.store.pipe(f"{self.bucket}/references-{date}.jsonl", "\n".join(lines).encode())

    def begin(self, date: str) -> "subprocess.Popen[str]":
        """The one command of a night."""
        command = [sys.executable, str(ROOT / "pipelines" / "nightly.py")]
        command += ["--job", str(self.folder / "koasr.toml"), "--date", date]
        environment = self.nodes.environment | {"KOASR_WEBHOOK": self.webhook}
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, env=environment, **pipes)

    def end(self, process: "subprocess.Popen[str]", code: int) -> dict[str, Any]:
        """The line for schedulers of a night that ends with this code."""
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == code, printed
        (line,) = (line for line in printed.splitlines() if line.startswith("KOASR_SUMMARY"))
        assert self.webhook not in printed
        return told(line)

    def rows(self, date: str) -> Counter[tuple[str, str]]:
        """(tar, recording) of every segment that starts a recording, and of every reject."""
        found: Counter[tuple[str, str]] = Counter()
        for kind in ("transcripts", "rejects"):
            place = f"{self.bucket}/out/{kind}/date={date}".removeprefix("s3://")
            if not self.store.exists(place):
                continue
            table = ds.dataset(place, filesystem=self.store, format="parquet").to_table()
            ids = [row["segment_id"] for row in table.to_pylist()] if kind == "transcripts" else []
            assert len(set(ids)) == len(ids)
            keys = {(row["source_uri"], row["source_key"]) for row in table.to_pylist()}
            found.update((Path(uri).name, key) for uri, key in keys)
        return found

    def find(self, pattern: str) -> list[str]:
        found: list[str] = self.store.glob(f"{self.bucket}/out/_koasr/{pattern}")
        return found

    def record(self, date: str) -> dict[str, Any]:
        place = f"{self.bucket}/out/_koasr/nights/{date}.json"
        document: dict[str, Any] = json.loads(self.store.cat(place))
        return document


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of a webhook, and what it was told."""
    posted: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: pytest shows enough."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret", posted
    server.shutdown()
    server.server_close()


@pytest.fixture
def world(s3: str, webhook: tuple[str, list[Any]], tmp_path: Path) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="koasr-", dir="/tmp"))
    job = JOB.format(bucket=s3, model=ROOT / "examples" / "model")
    (tmp_path / "koasr.toml").write_text(job)
    try:
        with running_nodes(folder) as nodes:
            yield World(s3, nodes, tmp_path, webhook[1], webhook[0])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(280)
def test_two_nights_on_three_nodes_of_which_one_is_lost(world: World) -> None:
    world.put_speech("monday.tar")
    world.put_references(FIRST, ["s000_clean.flac"])
    line = world.end(world.begin(FIRST), 0)
    assert set(line["steps"].values()) == {"done", "skipped"}
    assert [run["recordings"] for run in line["runs"]] == [64]

    for name in ("tuesday-a.tar", "tuesday-b.tar"):
        world.put_speech(name)
    second = world.begin(SECOND)
    while not world.find("runs/*/staged/*/*"):
        assert second.poll() is None
        time.sleep(0.2)
    world.nodes.lose_one()
    assert len(world.find("runs/*/summary.json")) == 1, "the night was over before the loss"
    line = world.end(second, 1)
    assert (line["steps"]["transcribe"], line["steps"]["evaluate"]) == ("done", "failed")
    assert line["reason"].startswith("evaluate: ")

    world.put_references(SECOND, ["s000_clean.flac"])
    line = world.end(world.begin(SECOND), 0)
    assert line["runs"] == []

    monday, tuesday = world.rows(FIRST), world.rows(SECOND)
    assert (len(monday), len(tuesday)) == (64, 2 * 64)
    assert {name for name, _ in monday} == {"monday.tar"}
    assert set(monday.values()) | set(tuesday.values()) == {1}
    reports = [world.record(date)["report"] for date in (FIRST, SECOND)]
    pages = [f"s3://{found}" for found in world.find("runs/*/report.html")]
    assert sorted(pages) == sorted(reports)
    record = world.record(SECOND)
    assert (record["state"], record["exit_code"]) == ("done", 0)
    attempts = {name: step["attempts"] for name, step in record["steps"].items()}
    assert (attempts["evaluate"], attempts["verify"]) == (2, 1)
    assert [post["exit_code"] for post in world.posted] == [0, 1, 0]
    assert world.posted[1]["text"].startswith(f"koasr, night {SECOND}: failed; evaluate: ")
