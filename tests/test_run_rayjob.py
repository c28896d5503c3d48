"""The CronJob's script, against a stand-in for Kubernetes."""

import importlib.util
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml

FOLDER = Path(__file__).parent.parent / "deploy" / "k8s"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("run_rayjob", FOLDER / "run_rayjob.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def api(answers: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """A stand-in for Kubernetes: its URL, and what it was asked. Takes a name once."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            is_new = not any(method == "POST" for method, *_ in asked)
            asked.append(("POST", self.path, self.headers["Authorization"], body))
            self.answer(201 if is_new else 409, {})

        def do_GET(self) -> None:
            asked.append(("GET", self.path, self.headers["Authorization"], ""))
            found = answers.pop(0)
            self.answer(*((found, {}) if isinstance(found, int) else (200, {"status": found})))

        def answer(self, code: int, body: Any) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_a_night_is_created_once_and_followed_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running, done = (
        {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"},
        {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"},
    )
    failed = {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed"}
    (tmp_path / "token").write_text("secret")
    (tmp_path / "namespace").write_text("koasr")
    one, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----\n")
    (tmp_path / "ca.crt").write_text(one + end)
    # 01:00 in Seoul, which is the day before in UTC.
    monkeypatch.setenv("JOB_NAME", "koasr-nightly-29924160")
    monkeypatch.setenv("TZ", "Asia/Seoul")
    answers = [{}, running, 500, running, done, running, failed, 404]
    with api(answers) as (url, asked):
        run = script()
        for name, value in (("API", url), ("ACCOUNT", tmp_path), ("POLL_S", 0)):
            monkeypatch.setattr(run, name, value)
        # A second try finds it there; a third finds it deleted.
        codes = [run.main(str(FOLDER / "rayjob.yaml")) for _ in range(3)]
    assert codes == [0, run.EXIT_FAILED, run.EXIT_FAILED]
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if "there" in line or "creat" in line] == [
        "created",
        "already there",
        "already there",
    ]
    assert "Failed FAILED AppFailed" in said
    assert {path for method, path, *_ in asked if method == "POST"} == {"/koasr/rayjobs"}
    assert {path for method, path, *_ in asked if method == "GET"} == {
        "/koasr/rayjobs/koasr-2026-11-24"
    }
    assert {token for _, _, token, _ in asked} == {"Bearer secret"}
    assert yaml.safe_load(asked[0][3])["metadata"]["name"] == "koasr-2026-11-24"


@pytest.mark.parametrize(
    ("job", "zone", "date"),
    [
        ("koasr-nightly-29924160", "Asia/Seoul", "2026-11-24"),
        ("koasr-nightly-29924160", "UTC", "2026-11-23"),
    ],
)
def test_a_nights_date_is_when_it_was_due(job: str, zone: str, date: str) -> None:
    assert script().due_date(job, zone) == date


def test_a_night_started_by_hand_is_todays() -> None:
    assert script().due_date("koasr-now-1", "UTC") > "2026-11-23"
