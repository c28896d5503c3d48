"""The torture program: its proxy, its oracle, its corpus, and a short run of it."""

import importlib
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from s3 import find_data_dir

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "bench"))
fault_proxy: Any = importlib.import_module("fault_proxy")
oracle: Any = importlib.import_module("torture_oracle")
corpus: Any = importlib.import_module("torture_corpus")
schedule: Any = importlib.import_module("torture").schedule


class Store(BaseHTTPRequestHandler):
    """Keeps what is put, and lists it."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes]

    def _send(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, b"")

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            keys = "".join(f"<Key>{name}</Key>" for name in sorted(self.objects))
            self._send(200, keys.encode())
        elif self.path in self.objects:
            self._send(200, self.objects[self.path])
        else:
            self._send(404, b"")

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing: pytest shows enough."""


@pytest.fixture
def store() -> dict[str, bytes]:
    """Objects of the store behind `proxy`."""
    Store.objects = {"/b/a": bytes(range(200))}
    return Store.objects


@pytest.fixture
def proxy(store: dict[str, bytes]) -> Iterator[Any]:
    """A proxy before a store that runs in this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    # Its end is waited for as long as it sleeps.
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with fault_proxy.FaultProxy(("127.0.0.1", server.server_port)).running() as running:
        yield running
    server.shutdown()
    server.server_close()


def ask(proxy: Any, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of one request through the proxy."""
    connection = HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_without_faults_everything_passes(proxy: Any, store: dict[str, bytes]) -> None:
    assert ask(proxy, "GET", "/b/a") == (200, store["/b/a"])
    assert ask(proxy, "HEAD", "/b/a") == (200, b"")
    assert ask(proxy, "GET", "/b/none")[0] == 404
    assert ask(proxy, "PUT", "/b/new", b"x" * 100_000) == (200, b"")
    assert store["/b/new"] == b"x" * 100_000
    assert proxy.count("PUT", "/b/") == 1


@pytest.mark.parametrize("kind", ["500", "503"])
def test_an_error_is_answered_and_the_store_is_not_asked(
    proxy: Any, store: dict[str, bytes], kind: str
) -> None:
    proxy.faults = [fault_proxy.Fault(kind, "PUT", "/b/")]
    assert ask(proxy, "PUT", "/b/new", b"x")[0] == int(kind)
    assert "/b/new" not in store
    assert ask(proxy, "PUT", "/b/new", b"x")[0] == 200


def test_a_reset_comes_before_the_store_and_a_lost_acknowledgement_after_it(
    proxy: Any, store: dict[str, bytes]
) -> None:
    proxy.faults = [fault_proxy.Fault("reset", "PUT", "/b/reset")]
    proxy.faults += [fault_proxy.Fault("lost_ack", "PUT", "/b/lost")]
    for name in ("reset", "lost"):
        with pytest.raises((ConnectionError, HTTPException)):
            ask(proxy, "PUT", f"/b/{name}", b"x")
    assert "/b/reset" not in store
    assert store["/b/lost"] == b"x"


def test_half_a_body_and_a_flipped_byte(proxy: Any, store: dict[str, bytes]) -> None:
    proxy.faults = [fault_proxy.Fault("truncate", "GET")]
    with pytest.raises((ConnectionError, HTTPException)):
        ask(proxy, "GET", "/b/a")
    proxy.faults = [fault_proxy.Fault("flip", "GET")]
    _, body = ask(proxy, "GET", "/b/a")
    assert sum(ours != theirs for ours, theirs in zip(body, store["/b/a"], strict=True)) == 1


def test_a_slow_answer_is_slow(proxy: Any) -> None:
    proxy.faults = [fault_proxy.Fault("slow", "GET", seconds=0.3)]
    start_s = time.monotonic()
    assert ask(proxy, "GET", "/b/a")[0] == 200
    assert time.monotonic() - start_s >= 0.3


def test_a_stale_listing_is_the_one_before_and_counts_only_where_it_differs(proxy: Any) -> None:
    listing = "/b?list-type=2"
    before = ask(proxy, "GET", listing)
    proxy.faults = [stale := fault_proxy.Fault("stale", "GET", "list-type=2", count=100)]
    assert ask(proxy, "GET", listing) == before
    assert stale.hits == 0
    ask(proxy, "PUT", "/b/new", b"x")
    assert ask(proxy, "GET", listing) == before
    assert stale.hits == 1
    proxy.release()
    assert b"/b/new" in ask(proxy, "GET", listing)[1]


@pytest.mark.parametrize(("kind", "is_there"), [("hold_request", False), ("hold_answer", True)])
def test_a_held_request_waits_before_or_after_the_store(
    proxy: Any, store: dict[str, bytes], kind: str, is_there: bool
) -> None:
    proxy.faults = [held := fault_proxy.Fault(kind, "PUT", skip=1)]
    ask(proxy, "PUT", "/b/first", b"x")

    def second() -> None:
        with pytest.raises((ConnectionError, HTTPException)):
            ask(proxy, "PUT", "/b/second", b"x")

    thread = threading.Thread(target=second)
    thread.start()
    deadline = time.monotonic() + 5
    while ("/b/second" in store) != is_there or not held.hits:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert thread.is_alive()
    proxy.release()
    thread.join(5)
    assert ("/b/second" in store) == is_there


def test_the_oracle_sees_what_is_lost_twice_and_different() -> None:
    rows = [("r1", "r1#0", "가", 0.0, 1.0), ("r2", "r2#0", "나", 0.0, 1.0)]
    expected = oracle.Rows(Counter(rows), Counter([("r3", "empty")]))

    def difference(transcripts: list[Any], rejects: list[Any]) -> tuple[int, int, int]:
        found = oracle.compare(oracle.Rows(Counter(transcripts), Counter(rejects)), expected)
        return found.lost, found.twice, found.different

    rejects = [("r3", "empty")]
    assert difference(rows, rejects) == (0, 0, 0)
    assert difference(rows[:1], rejects) == (1, 0, 0)
    assert difference([*rows, rows[0]], rejects) == (0, 1, 0)
    assert difference([*rows[:1], ("r2", "r2#0", "다", 0.0, 1.0)], rejects) == (0, 0, 1)
    assert difference(rows, []) == (1, 0, 0)
    assert difference(rows, [("r3", "crashed")]) == (0, 0, 1)
    assert difference([*rows, ("r4", "r4#0", "", 0.0, 1.0)], rejects) == (0, 0, 1)


def test_the_corpus_is_the_same_every_time_and_one_in_fifty_is_bad(tmp_path: Path) -> None:
    written = []
    for name, wait_s in (("one", 0.0), ("two", 1.1)):
        time.sleep(wait_s)  # A file that holds the time of day would differ.
        corpus.write_corpus(tmp_path / name, 200)
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        written.append({path.name: path.read_bytes() for path in files})
    assert len(written[0]) > 20
    assert written[0] == written[1]
    bad = [corpus.recording(number)[1] for number in range(7, 307, 50)]
    assert len(set(bad)) == len(bad) == 6


def test_a_schedule_plays_every_kind_before_any_again() -> None:
    order = schedule(["a", "b", "c"], 7, seed=3)
    assert order == schedule(["a", "b", "c"], 7, seed=3)
    assert [set(order[:3]), set(order[3:6])] == [{"a", "b", "c"}] * 2


@pytest.mark.timeout(600)
def test_nothing_is_lost_or_twice_when_the_job_is_tortured(tmp_path: Path) -> None:
    if (folder := find_data_dir()) is None:
        pytest.skip("no folder with extended attributes for Swift: set TMPDIR to one (ext4, xfs)")
    folder.rmdir()
    # A killed driver is in test_transcribe.py, a killed node in test_nightly.py.
    kinds = ["s3 lost ack"]
    command = [sys.executable, str(ROOT / "bench" / "torture.py"), "--out", str(tmp_path)]
    command += ["--rounds", str(len(kinds)), "--recordings", "100", "--only", *kinds]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = tmp_path.rglob("report.json")
    results = json.loads(report.read_text())["results"]
    assert {result["fault"] for result in results if result["fired"]} == set(kinds)
