"""An HTTP proxy that does to an S3 client what networks and stores do to it, when told to.

It reads a whole request, asks its list of faults, passes the request on, and reads the whole answer
before it sends it: the objects of a torture run are small. It also counts what passes, so that
whoever tortures knows how far a job is.
"""

import asyncio
import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from http_message import MAX_HEADER_BYTES, Message, read_message

FaultKind = Literal[
    "500",
    "503",
    "slow",
    "reset",
    "truncate",
    "flip",
    "lost_ack",
    "stale",
    "hold_request",
    "hold_answer",
]
"""`reset` acts before the store does, `lost_ack` after; `stale` repeats a listing's last answer.

`hold_request` and `hold_answer` keep a client waiting, before and after the store acts, until
`release`: whoever is killed then dies at that very operation.
"""

_CODES = {"500": "InternalError", "503": "SlowDown"}


@dataclass
class Fault:
    """What happens to which requests.

    Args:
        kind: What happens.
        method: Pattern of the methods it happens to.
        path: Pattern that is searched in path and query.
        probability: Share of the matching requests it happens to.
        count: How often at most.
        skip: Matching requests that pass before the first.
        seconds: How long `slow` takes.
        hits: How often it has happened.
    """

    kind: FaultKind
    method: str = ".*"
    path: str = ""
    probability: float = 1.0
    count: int = 1
    skip: int = 0
    seconds: float = 0.0
    hits: int = 0

    def matches(self, method: str, path: str) -> bool:
        """Whether it is for such a request, `skip` and `count` apart."""
        return bool(re.fullmatch(self.method, method) and re.search(self.path, path))


@dataclass(frozen=True)
class Seen:
    """A request that the proxy answered, or did not. `status` is the store's; 0 if not asked."""

    at_s: float
    method: str
    path: str
    status: int
    fault: str = ""


@dataclass
class FaultProxy:
    """A proxy on loopback in a thread of its own; `faults` may be changed at any time.

    Args:
        upstream: Host and port of the store.
        seed: Of the faults' probabilities.
    """

    upstream: tuple[str, int]
    seed: int = 0
    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    port: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._listings: dict[str, Message] = {}
        self._held = asyncio.Event()

    @property
    def endpoint(self) -> str:
        """Where clients find the store behind it."""
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        """Answer requests for as long as the context lasts."""
        started = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        thread.start()
        started.wait(10)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(10)

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(
            self._converse, "127.0.0.1", self.port, limit=MAX_HEADER_BYTES
        )
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await self._stop.wait()

    def release(self) -> None:
        """Forget all faults, and let go of the requests that are held."""
        self.faults = []
        held, self._held = self._held, asyncio.Event()
        self._loop.call_soon_threadsafe(held.set)

    def count(self, method: str, path: str, since_s: float = 0.0) -> int:
        """How many requests the store has carried out, of those that match."""
        return sum(
            bool(re.fullmatch(method, seen.method) and re.search(path, seen.path))
            for seen in list(self.seen)
            if seen.at_s >= since_s and 200 <= seen.status < 300
        )

    def wait(self, until: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `until` came true in time."""
        deadline = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, OSError):
            while request := await read_message(reader, writer):
                if not await self._answer(request, writer):
                    break
        writer.transport.abort()

    def _choose(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.hits >= fault.count or not fault.matches(method, path):
                continue
            if fault.skip > 0:
                fault.skip -= 1
            elif self._random.random() < fault.probability:
                # A stale answer counts where it differs from the true one.
                fault.hits += fault.kind != "stale"
                return fault
        return None

    async def _answer(self, request: Message, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False when its connection is to end."""
        method, path, _ = request.start.split()
        fault = self._choose(method, path)
        kind = fault.kind if fault else ""
        answer: Message | None = None
        if kind in _CODES:
            answer = _error(kind)
        elif kind == "hold_request":
            await self._held.wait()
        elif kind != "reset":
            answer = await self._forward(request)
        asked = kind not in _CODES and answer is not None
        status = answer.status if answer and asked else 0
        self.seen.append(Seen(time.monotonic(), method, path, status, kind))
        if kind == "hold_answer":
            await self._held.wait()
        if answer is None or kind in ("lost_ack", "hold_answer"):
            return False
        if "list-type=2" in path and answer.status == 200:
            answer = self._listing(path, answer, fault if kind == "stale" else None)
        if kind == "slow" and fault:
            await asyncio.sleep(fault.seconds)
        return await _send(answer, writer, kind, has_body=method != "HEAD")

    def _listing(self, path: str, answer: Message, stale: Fault | None) -> Message:
        """The answer to a listing: the true one, which is kept, or the one before it."""
        before = self._listings.setdefault(path, answer)
        if stale is None:
            self._listings[path] = answer
            return answer
        stale.hits += _names(before) != _names(answer)
        return before

    async def _forward(self, request: Message) -> Message:
        reader, writer = await asyncio.open_connection(*self.upstream, limit=MAX_HEADER_BYTES)
        try:
            dropped = {"expect", "connection", "transfer-encoding", "content-length"}
            kept = [pair for pair in request.headers if pair[0].lower() not in dropped]
            length = ("Content-Length", str(len(request.body)))
            asked = Message(request.start, [*kept, length, ("Connection", "close")])
            writer.write(asked.head() + request.body)
            await writer.drain()
            answer = await read_message(reader, None, asked=request.start.split()[0])
            if answer is None:
                raise ConnectionResetError("the store ended the connection")
            return answer
        finally:
            writer.close()


def _error(code: str) -> Message:
    body = f"<?xml version='1.0'?><Error><Code>{_CODES[code]}</Code><Message>x</Message></Error>"
    start = f"HTTP/1.1 {code} {_CODES[code]}"
    return Message(start, [("Content-Type", "application/xml")], body.encode())


async def _send(
    answer: Message, writer: asyncio.StreamWriter, kind: str, *, has_body: bool
) -> bool:
    """Send an answer, all of it or half; whether the connection may go on."""
    dropped = {"connection", "transfer-encoding"} | ({"content-length"} if has_body else set())
    kept = [pair for pair in answer.headers if pair[0].lower() not in dropped]
    body = answer.body if has_body else b""
    if has_body:
        kept.append(("Content-Length", str(len(body))))
    if kind == "truncate":
        body = body[: len(body) // 2]
    if kind == "flip" and body:
        middle = len(body) // 2
        body = body[:middle] + bytes([body[middle] ^ 0x10]) + body[middle + 1 :]
    writer.write(Message(answer.start, kept).head() + body)
    await writer.drain()
    return kind != "truncate"


def _names(listing: Message) -> list[bytes]:
    return re.findall(rb"<Key>(.*?)</Key>|<Prefix>(.*?)</Prefix>", listing.body)
