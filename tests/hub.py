"""A directory → as much of the Hugging Face hub on loopback as `snapshot_download` needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    """Knows one model, one branch (`main`) and one commit."""

    model: str
    root: Path
    requests: list[str]

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _answer(self, *, has_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.requests.append(f"{self.command} {path}")
        known = {f"/api/models/{self.model}{end}" for end in ("", "/revision/main")}
        if path in known | {f"/api/models/{self.model}/revision/{COMMIT}"}:
            content = {"id": self.model, "sha": COMMIT, "siblings": [], "private": False}
            self._send(200, json.dumps(content).encode(), has_body)
        elif path == f"/api/models/{self.model}/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                for file in sorted(self.root.iterdir())
            ]
            self._send(200, json.dumps(tree).encode(), has_body)
        elif path.startswith(f"/{self.model}/resolve/{COMMIT}/"):
            self._send(200, (self.root / path.rpartition("/")[2]).read_bytes(), has_body)
        elif path.startswith(f"/api/models/{self.model}/revision/"):
            self._send(404, b"{}", has_body, code="RevisionNotFound")
        else:
            self._send(404, b"{}", has_body, code="RepoNotFound")

    def _send(self, status: int, body: bytes, has_body: bool, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if has_body:
            self.wfile.write(body)


@contextmanager
def run_hub(model: str, root: Path) -> Iterator[tuple[str, list[str]]]:
    """A hub on loopback with one model: its endpoint, and the requests it has seen."""
    requests: list[str] = []
    handler = type("Handler", (_Handler,), {"model": model, "root": root, "requests": requests})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
