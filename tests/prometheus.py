"""A Prometheus on loopback, from its own package."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("prometheus")
NONE = "no prometheus on PATH: apt-get install prometheus"


@dataclass(frozen=True)
class Prometheus:
    """One that answers; `address` is of its HTTP API."""

    address: str

    def range(self, expression: str, start_s: float, step_s: float = 1.0) -> list[dict[str, Any]]:
        """The series of an expression since then.

        Raises:
            urllib.error.HTTPError: It does not parse.
        """
        asked = {"query": expression, "start": start_s, "end": time.time(), "step": step_s}
        url = f"{self.address}/api/v1/query_range?{urllib.parse.urlencode(asked)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found


@contextmanager
def running_prometheus(folder: Path, configuration: Path, port: int) -> Iterator[Prometheus]:
    """One for as long as the context lasts."""
    assert PROGRAM, NONE
    command = [PROGRAM, f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline_s = time.monotonic() + 30
        while True:
            with suppress(OSError):
                urllib.request.urlopen(f"{address}/-/ready", timeout=1).close()
                break
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError((folder / "prometheus.log").read_text()[-2000:])
            time.sleep(0.1)
        yield Prometheus(address)
    finally:
        process.kill()
        process.wait()
