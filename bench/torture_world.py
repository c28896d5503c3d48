"""What all rounds of torture share: store, proxy, cluster, corpus; and how a session is run."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import s3fs
from fault_proxy import FaultProxy
from s3 import S3Server, find_data_dir, make_environment, run_server
from torture_cluster import TortureCluster, running_cluster
from torture_corpus import write_corpus

ROOT = Path(__file__).resolve().parent.parent
BUCKET = "torture"
SESSION_TIMEOUT_S = 240.0
MAX_SESSIONS = 8


@dataclass
class Driver:
    """One session of the job: a process of its own, in a process group of its own."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def kill(self) -> bool:
        """SIGKILL the whole group; whether the driver was alive."""
        was_alive = self.is_alive
        if was_alive:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        return was_alive

    def end(self, timeout_s: float = SESSION_TIMEOUT_S) -> int | None:
        """Its exit code; None if it had to be killed for hanging."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")


@dataclass
class World:
    """Everything that lasts over the rounds."""

    folder: Path
    server: S3Server
    proxy: FaultProxy
    cluster: TortureCluster
    options: list[str]
    can_verify: bool
    num_operations: int = 0
    busy_s: float = 0.0
    num_bytes: int = 0

    @property
    def store(self) -> s3fs.S3FileSystem:
        """The store itself, past the proxy."""
        return s3fs.S3FileSystem(
            endpoint_url=self.server.endpoint,
            key=self.server.access_key,
            secret=self.server.secret_key,
            use_listings_cache=False,
        )

    @property
    def trace(self) -> Path:
        """Where actors note the seconds they have computed."""
        return self.folder / "trace"

    def computed_s(self) -> float:
        """Audio seconds that have left actors until now."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return sum(map(float, lines))


@dataclass
class Round:
    """One round: its own output, its own seeded choices."""

    world: World
    name: str
    output: str
    rng: random.Random
    logs: Path
    drivers: list[Driver] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hung: int = 0

    @property
    def key(self) -> str:
        """Pattern of the requests that touch the output; deletions name no path."""
        return re.escape(f"/{BUCKET}/{self.name}/") + r"|\?delete"

    @property
    def is_remote(self) -> bool:
        """Whether the output lies in the store, not on a disk."""
        return self.output.startswith("s3://")

    def start(self) -> Driver:
        """Start a session of the job on this round's output."""
        log = self.logs / f"{self.name}-{len(self.drivers) + 1}.log"
        command = [sys.executable, str(ROOT / "pipelines" / "transcribe.py"), f"s3://{BUCKET}/in"]
        command += ["--output", self.output, *self.world.options]
        environment = os.environ | {"RAY_ADDRESS": self.world.cluster.address}
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdout=sink, stderr=sink, env=environment, start_new_session=True
            )
        self.drivers.append(Driver(process, log))
        return self.drivers[-1]

    def finish(self, driver: Driver | None = None) -> bool:
        """Start sessions until one ends well; whether one did.

        Args:
            driver: A session that runs already.
        """
        driver = driver or self.start()
        while (code := driver.end()) != 0:
            self.hung += code is None
            self.notes.append(f"session {len(self.drivers)}: exit {code}")
            if len(self.drivers) >= MAX_SESSIONS:
                return False
            driver = self.start()
        return True

    def kill_all(self) -> None:
        """End every session that still runs: none does, unless the round was cut short."""
        for driver in self.drivers:
            driver.kill()

    def operation(self, low: float = 0.0, high: float = 0.95) -> int:
        """Number of some operation of the protocol, of that part of an undisturbed run."""
        total = self.world.num_operations
        return self.rng.randrange(int(low * total), max(int(low * total) + 1, int(high * total)))

    def wait_for(self, driver: Driver, found: Any, timeout_s: float = 90.0) -> bool:
        """Whether `found()` came true while the driver was alive."""
        deadline = time.monotonic() + timeout_s
        while driver.is_alive and time.monotonic() < deadline:
            if found():
                return True
            time.sleep(0.1)
        return False

    def discard(self) -> None:
        """Remove the output."""
        if self.is_remote:
            with suppress(FileNotFoundError):
                self.world.store.rm(self.output, recursive=True)


@dataclass(frozen=True)
class Outcome:
    """Whether the fault fired, whether the job ended well after it, and what else was wrong."""

    fired: bool
    finished: bool
    problem: str = ""


def driver_flags() -> str:
    """Help of `koasr transcribe`, which says what this koasr can do."""
    command = [str(Path(sys.executable).parent / "koasr"), "transcribe", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def has_verify() -> bool:
    """Whether this koasr has `koasr verify`."""
    command = [str(Path(sys.executable).parent / "koasr"), "--help"]
    return " verify " in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _prepare_environment(folder: Path, server: S3Server, proxy: FaultProxy) -> None:
    """Set what drivers and, through the cluster, workers inherit from this process."""
    os.environ.update(server.environment() | {"AWS_ENDPOINT_URL": proxy.endpoint})
    trace = str(ROOT / "bench" / "torture_trace")
    path = os.pathsep.join(part for part in (trace, os.environ.get("PYTHONPATH")) if part)
    os.environ.update(
        PYTHONPATH=path,
        KOASR_TRACE=str(folder / "trace"),
        KOASR_CACHE=str(folder / "cache"),
        HF_HUB_OFFLINE="1",
        # Threads that spin while they wait take the CPUs from all the processes beside them.
        OMP_WAIT_POLICY="PASSIVE",
        RAY_AUTH_MODE="disabled",
        RAY_BACKEND_LOG_LEVEL="fatal",
        RAY_USAGE_STATS_ENABLED="0",
    )


@contextmanager
def running_world(
    *, num_recordings: int, seed: int, pack_seconds: float, verify: bool
) -> Iterator[World]:
    """Start all of it; stopped and removed at the end."""
    # Brings torch, which whoever only reads an output has no use for.
    from checkpoints import tiny
    from transformers.utils import logging

    logging.disable_progress_bar()
    data = find_data_dir()
    if data is None:
        raise SystemExit("no folder with extended attributes for the store: set TMPDIR to one")
    options = ["--model", str(data / "model"), "--max-reject-rate", "0.5", "--num-actors", "1"]
    if "--pack-seconds" in driver_flags():
        options += ["--pack-seconds", str(pack_seconds)]
    try:
        write_corpus(data / "in", num_recordings)
        tiny(data / "model", conv_dim=(8,) * 7, num_hidden_layers=1)
        with run_server(make_environment(), data / "store") as server:
            host, _, port = server.endpoint.removeprefix("http://").partition(":")
            with FaultProxy((host, int(port)), seed).running() as proxy:
                _prepare_environment(data, server, proxy)
                with running_cluster() as cluster:
                    world = World(data, server, proxy, cluster, options, verify)
                    world.store.mkdir(BUCKET)
                    world.store.put(f"{data}/in/", f"{BUCKET}/in/", recursive=True)
                    yield world
    finally:
        shutil.rmtree(data, ignore_errors=True)
