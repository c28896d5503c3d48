"""A Ray head with its job server, as `ray start` makes it: for tests that submit jobs to one."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RAY = Path(sys.executable).with_name("ray")
_NODE_PORTS = (
    *("port", "ray-client-server-port", "dashboard-port", "dashboard-agent-listen-port"),
    *("metrics-export-port", "runtime-env-agent-port"),
)


@dataclass(frozen=True)
class Head:
    """A head on loopback that asks for a token.

    Attributes:
        address: Of its job server.
        cluster: What a driver joins, as RAY_ADDRESS.
        token: What it asks for.
        environment: Of whoever is to reach it; nothing of another Ray is in it.
        folder: Its logs and sockets.
    """

    address: str
    cluster: str
    token: str
    environment: dict[str, str]
    folder: Path

    def client(self) -> Any:
        """A `JobSubmissionClient`, whatever this process's own Ray asks for."""
        from ray.job_submission import JobSubmissionClient

        headers = {"Authorization": f"Bearer {self.token}"}
        return JobSubmissionClient(self.address, headers=headers)

    def job(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job COMMAND …`, as a user types it, with what it prints on stdout and stderr."""
        return subprocess.run(
            [str(RAY), "job", command, "--address", self.address, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
        )


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in "x" * count]
        return [server.getsockname()[1] for server in servers]


@contextmanager
def running_head(folder: Path, num_cpus: int = 2) -> Iterator[Head]:
    """A head for as long as the context lasts, ended by the ids of its own processes.

    Args:
        folder: Of its own, with a short path, as the names of sockets must be.
        num_cpus: That it takes itself to have.
    """
    ports = dict(zip(_NODE_PORTS, free_ports(len(_NODE_PORTS)), strict=True))
    token = secrets.token_hex(32)
    (folder / "token").touch(mode=0o600)
    (folder / "token").write_text(token)
    others = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Metrics every second, as a short job needs.
        "RAY_metrics_report_interval_ms": "1000",
        # A job's `python` is the head's.
        "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [str(RAY), "start", "--head", "--block", f"--temp-dir={folder}"]
    command += [f"--num-cpus={num_cpus}", "--num-gpus=0", "--disable-usage-stats"]
    command += ["--node-ip-address=127.0.0.1", f"--object-store-memory={200 << 20}"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    head = Head(address, f"127.0.0.1:{ports['port']}", token, environment, folder)
    try:
        _wait_for(head, process)
        yield head
    finally:
        _end(psutil.Process(process.pid))
        process.wait()


def _wait_for(head: Head, process: subprocess.Popen[bytes]) -> None:
    """Until it takes jobs."""
    import time

    deadline_s = time.monotonic() + 90
    while True:
        log = (head.folder / "head.log").read_text(errors="replace")
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"no Ray head: {log[-2000:]}")
        with suppress(Exception):
            head.client().list_jobs()
            return
        time.sleep(0.2)


def _end(process: psutil.Process) -> None:
    """SIGKILL a process and all below it."""
    with suppress(psutil.NoSuchProcess):
        below = process.children(recursive=True)
        for one in [process, *below]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(below, 10)
