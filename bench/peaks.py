"""Peaks of memory of a job's processes: the greatest one of each kind, seen twice a second."""

import threading
from contextlib import suppress
from types import TracebackType

import psutil

_INTERVAL_S = 0.5


class Peaks:
    """Watches a process and all below it, for `with`.

    Args:
        pid: Of the driver.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.megabytes: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peaks":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(_INTERVAL_S):
            with suppress(psutil.Error):
                self._look()

    def _look(self) -> None:
        driver = psutil.Process(self._pid)
        for process in [driver, *driver.children(recursive=True)]:
            with suppress(psutil.Error):
                memory = process.memory_info()
                name = _kind(process, is_driver=process.pid == self._pid)
                # What is shared is the object store, counted where it is held.
                used = memory.shared if name == "object store" else memory.rss - memory.shared
                if name:
                    self.megabytes[name] = max(self.megabytes.get(name, 0.0), used / 1e6)


def _kind(process: psutil.Process, *, is_driver: bool) -> str:
    """What a process is in the job; "" for one of Ray's own."""
    if is_driver:
        return "driver"
    line = " ".join(process.cmdline())
    if "koasr.recognizer" in line:
        return "model process"
    if "koasr.decoder_child" in line or "koasr.parquet_child" in line:
        return "decoding child"
    if "MapWorker" in line:
        return "actor"
    if line.startswith("ray::Map"):
        return "loading worker"
    return "object store" if "raylet/raylet" in line else ""
