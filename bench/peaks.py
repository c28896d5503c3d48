"""Peaks of memory of a job's processes: the greatest one of each kind, seen twice a second."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

_INTERVAL_S = 0.5


@contextmanager
def watch_peaks(pid: int) -> Iterator[dict[str, float]]:
    """The peaks in MB of a process and of all below it, by kind, as they grow.

    Args:
        pid: Of the driver.
    """
    megabytes: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_INTERVAL_S):
            with suppress(psutil.Error):
                _look(psutil.Process(pid), megabytes)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield megabytes
    finally:
        over.set()
        thread.join()


def _look(driver: psutil.Process, megabytes: dict[str, float]) -> None:
    for process in [driver, *driver.children(recursive=True)]:
        with suppress(psutil.Error):
            memory = process.memory_info()
            name = _kind(process, is_driver=process.pid == driver.pid)
            # What is shared is the object store, counted where it is held.
            used = memory.shared if name == "object store" else memory.rss - memory.shared
            if name:
                megabytes[name] = max(megabytes.get(name, 0.0), used / 1e6)


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
