"""A store in memory that counts its operations, fails at any of them, and lists what is old."""

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

import fsspec
import pyarrow as pa
import pytest
import tenacity
from fsspec import AbstractFileSystem

from koasr import storage, threads

T = TypeVar("T")


class Crash(BaseException):
    """The process dies here. Nothing may catch it and go on."""


class Store:
    """What the bucket holds, and how it misbehaves.

    Attributes:
        crash_at: Number of the operation before which the driver dies; it does nothing more.
        lose_at: Number of the operation that is done and then reported as failed.
        lag: How many changes the listings are behind.
        is_atomic: Whether it refuses to create what is there.
        num_operations: So far.
        changes: Numbers of those that changed something.
        gate: Called before each operation, to let another driver go first.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, int]] = {}
        self.history: list[dict[str, tuple[bytes, int]]] = []
        self.crash_at = self.lose_at = -1
        self.lag = 0
        self.is_atomic = True
        self.num_operations = 0
        self.changes: list[int] = []
        self.gate: Callable[[], None] = lambda: None

    def calm(self) -> None:
        """Behave from now on."""
        self.crash_at = self.lose_at = -1
        self.lag = self.num_operations = 0
        self.gate = lambda: None

    def copy(self) -> "Store":
        """The same files in a store that behaves."""
        made = Store()
        made.files = dict(self.files)
        return made

    def operate(self, work: Callable[[], T]) -> T:
        """One operation, whole or not at all."""
        self.gate()
        number = self.num_operations
        self.num_operations += 1
        if 0 <= self.crash_at <= number:
            raise Crash
        before = self.files
        self.files = dict(before)
        result = work()
        if self.files != before:
            self.history.append(before)
            self.changes.append(number)
            if number == self.lose_at:
                raise ConnectionResetError("the acknowledgement was lost")
        return result

    def listed(self) -> dict[str, tuple[bytes, int]]:
        """The files as listings show them."""
        return self.history[-self.lag] if 0 < self.lag <= len(self.history) else self.files


class FakeFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """`fake://`: one bucket, as an object store behaves."""

    protocol = "fake"
    store = Store()
    _version = 0

    def _info(self, path: str, files: dict[str, tuple[bytes, int]]) -> dict[str, Any]:
        data, version = files[path]
        return {"name": path, "size": len(data), "type": "file", "ETag": f"etag{version}"}

    def find(self, path: str, detail: bool = False, **_: Any) -> Any:
        return self.store.operate(lambda: self._find(path))

    def _find(self, path: str) -> dict[str, dict[str, Any]]:
        files = self.store.listed()
        below = [key for key in sorted(files) if key == path or key.startswith(f"{path}/")]
        return {key: self._info(key, files) for key in below}

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        found = self.store.operate(lambda: self._find(path))
        return sorted({"/".join([path, key[len(path) + 1 :].split("/")[0]]) for key in found})

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return self.store.operate(lambda: self._look(path))

    def _look(self, path: str) -> dict[str, Any]:
        if path not in self.store.files:
            raise FileNotFoundError(path)
        return self._info(path, self.store.files)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        def read() -> bytes:
            self._look(path)
            return self.store.files[path][0][start:end]

        return self.store.operate(read)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        assert mode == "rb"
        return io.BytesIO(self.cat_file(path))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        def write() -> None:
            if mode == "create" and self.store.is_atomic and path in self.store.files:
                raise OSError(22, "At least one of the pre-conditions did not hold")
            FakeFileSystem._version += 1
            self.store.files[path] = (bytes(value), self._version)

        self.store.operate(write)

    def rm_file(self, path: str) -> None:
        self.store.operate(lambda: self.store.files.pop(path, None))

    def rm(self, path: str, recursive: bool = False, **_: Any) -> None:
        # As on S3: list, then remove one by one.
        for key in self.find(path):
            self.rm_file(key)


class SerialPool:
    """A thread pool of the thread that asks, so that operations come in one order."""

    def __init__(self, _: int) -> None: ...

    def __enter__(self) -> "SerialPool":
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, work: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
        """Each in turn, at once."""
        return iter([work(item) for item in items])


@contextmanager
def fake_stores() -> Iterator[None]:
    """In here `fake://` is known, nothing waits, and pools work in one thread."""
    fsspec.register_implementation("fake", FakeFileSystem, clobber=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_WAIT", tenacity.wait_none())
        num_threads = pa.cpu_count()
        pa.set_cpu_count(1)
        patch.setattr(threads, "ThreadPoolExecutor", SerialPool)
        try:
            yield
        finally:
            pa.set_cpu_count(num_threads)


class Turns:
    """Lets drivers in threads go one operation at a time, in an order that a seed decides."""

    def __init__(self, choose: Callable[[list[int]], int]) -> None:
        self._choose = choose
        self._condition = threading.Condition()
        self._waiting: set[int] = set()
        self._alive: set[int] = set()
        self._turn = -1
        self._local = threading.local()

    def gate(self) -> None:
        """Wait for the turn of this thread's driver."""
        me = getattr(self._local, "driver", None)
        if me is None:
            return
        with self._condition:
            self._waiting.add(me)
            self._next()
            self._condition.wait_for(lambda: self._turn == me)
            self._turn = -1
            self._waiting.discard(me)

    def _next(self) -> None:
        if self._turn == -1 and self._waiting and self._waiting == self._alive:
            self._turn = self._choose(sorted(self._waiting))
            self._condition.notify_all()

    def run(self, drivers: list[Callable[[], None]]) -> list[BaseException | None]:
        """Run all to their ends; what each raised."""
        errors: list[BaseException | None] = [None] * len(drivers)
        self._alive = set(range(len(drivers)))

        def drive(number: int) -> None:
            self._local.driver = number
            try:
                drivers[number]()
            except BaseException as error:
                errors[number] = error
            with self._condition:
                self._alive.discard(number)
                self._next()

        threads = [threading.Thread(target=drive, args=(n,)) for n in range(len(drivers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors


def at_random(random: Random, stickiness: float = 0.5) -> Callable[[list[int]], int]:
    """Picks a driver; mostly the one before, so that runs of many operations occur too."""
    last = [0]

    def choose(waiting: list[int]) -> int:
        if last[0] not in waiting or random.random() > stickiness:
            last[0] = random.choice(waiting)
        return last[0]

    return choose
