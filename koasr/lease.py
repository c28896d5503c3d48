"""One driver at a time on an output, to save work. What is committed never depends on it.

No clocks are compared: a lease is alive while its counter moves, by the watch of who looks at it.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

from koasr.errors import JobError
from koasr.storage import impatient, join, open_fs, read_bytes, remove, write_bytes

BEAT_S = 15.0
TTL_S = 3 * BEAT_S

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. `counter` grows with each heartbeat.

    `machine` names the machine since it was started, and the container in it, and `started` the
    process's start: process ids are used again.
    """

    owner: str
    host: str
    machine: str
    pid: int
    started: str
    counter: int = 0

    @property
    def is_dead(self) -> bool:
        """Whether it ran on this machine, where its process is gone."""
        return self.machine == _machine() and _started(self.pid) != self.started


def _machine() -> str:
    boot, container = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        container = os.readlink("/proc/self/ns/pid")
    return f"{socket.gethostname()} {boot} {container}"


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine was; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return _started_without_proc(pid)
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _started_without_proc(pid: int) -> str:
    if Path("/proc/self").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"


def read_holder(output: str) -> Holder | None:
    """Who holds the lease of an output, if anyone does; it may be dead."""
    try:
        return Holder(**json.loads(read_bytes(join(output, "_koasr", "lease.json"))))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def describe_lease(output: str) -> tuple[str, bool]:
    """Who holds the lease of an output, in words, and whether they are at work.

    Of another machine only the last heartbeat is known, by the store's clock and this one's.
    """
    held = read_holder(output)
    if held is None:
        return "free", False
    # Another machine wrote this, and it goes to a terminal.
    who = "".join(c for c in f"{held.host} pid {held.pid}" if c.isprintable())
    if held.is_dead:
        return f"left by {who}, which is gone", False
    if held.host == socket.gethostname():
        return f"held by {who}, which is running", True
    try:
        age_s = time.time() - _modified_s(join(output, "_koasr", "lease.json"))
    except FileNotFoundError:
        return "free", False
    return f"held by {who}, last heard of {age_s:.0f} s ago", age_s < TTL_S


def _modified_s(uri: str) -> float:
    fs, path = open_fs(uri)
    return float(fs.modified(path).timestamp())


class Lease:
    """Holds the lease of an output for as long as the block runs.

    A lease whose process is gone from this machine is taken at once; of any other it is watched
    for `ttl_s` whether its counter moves.

    Args:
        output: URI of the output.
        on_lost: Called once, in another thread, when someone else has taken the lease.
        say: Gets a line for the user when there is something to wait for.
        ttl_s: How long a counter must stand still.
        beat_s: Seconds between heartbeats.

    Raises:
        JobError: Someone else holds it, alive.
    """

    def __init__(
        self,
        output: str,
        on_lost: Callable[[], None] = lambda: None,
        *,
        say: Callable[[str], None] = _log.warning,
        ttl_s: float = TTL_S,
        beat_s: float = BEAT_S,
    ) -> None:
        self._output = output
        self._on_lost = on_lost
        self._say = say
        self._ttl_s, self._beat_s = ttl_s, beat_s
        pid = os.getpid()
        place = (socket.gethostname(), _machine(), pid, _started(pid))
        self._holder = Holder(uuid.uuid4().hex, *place)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="koasr-lease", daemon=True)

    def __enter__(self) -> "Lease":
        held = read_holder(self._output)
        if held and not held.is_dead:
            self._watch(held)
        self._write()
        if not self._is_ours():
            raise _in_use(self._output, read_holder(self._output))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        with suppress(Exception), impatient():
            if self._is_ours():
                remove(join(self._output, "_koasr", "lease.json"))

    def _watch(self, held: Holder) -> None:
        """Wait until the lease is free, or has not moved for `ttl_s`."""
        who = f"{held.host} pid {held.pid}"
        self._say(f"watching {self._ttl_s:.0f} s whether {who} still works on {self._output}")
        start_s = time.monotonic()
        while time.monotonic() - start_s < self._ttl_s:
            time.sleep(min(1.0, self._ttl_s / 10))
            now = read_holder(self._output)
            if now is None:
                return
            if (now.owner, now.counter) != (held.owner, held.counter):
                raise _in_use(self._output, now)

    def _write(self) -> None:
        document = json.dumps(asdict(self._holder))
        write_bytes(join(self._output, "_koasr", "lease.json"), document.encode())

    def _is_ours(self) -> bool:
        held = read_holder(self._output)
        return held is not None and held.owner == self._holder.owner

    def _beat(self) -> None:
        while not self._is_over.wait(self._beat_s):
            try:
                with impatient():
                    held = read_holder(self._output)
                    if held and held.owner != self._holder.owner:
                        self._on_lost()
                        return
                    self._holder = replace(self._holder, counter=self._holder.counter + 1)
                    self._write()
            # The lease only saves work: a store that fails now is for the work itself to report.
            except Exception as error:
                _log.warning("the lease could not be kept: %s", type(error).__name__)


def _in_use(output: str, held: Holder | None) -> JobError:
    who = f"{held.host} pid {held.pid}" if held else "another driver"
    return JobError(f"{output} is being done by {who}: wait for it or stop it")
