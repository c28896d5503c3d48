"""A Parquet shard → its recordings; Arrow runs in a child process: a hostile file may kill it."""

import json
import os
from collections.abc import Iterator
from typing import Any, get_args

from koasr.child import Child, ChildError
from koasr.errors import JobError, Reason, RecordingError, TransientError
from koasr.items import Item, identify, unread
from koasr.limits import Limits
from koasr.parquet_child import END, FAILED, ROWS, WAITS
from koasr.rows import Recording, Shard

_STORE_TIMEOUT_S = 600.0
"""The store's own client gives up long before."""

_idle: dict[tuple[int, frozenset[tuple[str, str]]], list[Child]] = {}
"""Children that wait for work, by the memory they may use and the environment that leads them to
the store: starting one takes half a second."""

_FAILURES = {
    "FileNotFoundError": FileNotFoundError,
    "PermissionError": PermissionError,
    "TransientError": TransientError,
    "JobError": JobError,
}


def read_parquet(shard: Shard, limits: Limits) -> Iterator[Item]:
    """Rows as the Hugging Face hub has them: a column `audio` of struct<bytes, path>."""
    num_given = 0
    for is_last in (False, True):
        try:
            for number, item in enumerate(_read_rows(shard, limits)):
                if number >= num_given:
                    yield item
                    num_given += 1
            return
        except ChildError as error:
            # Once more, afresh: the machine may have run out of memory for another's sake.
            if is_last:
                yield unread(shard, "", "crashed", f"the process that reads Parquet {error}")
        except TimeoutError as error:
            yield unread(shard, "", "timeout", f"Parquet: {error}")
            return
        except RecordingError as error:
            yield unread(shard, "", error.reason, f"the rest of it cannot be read: {error.message}")
            return


def _read_rows(shard: Shard, limits: Limits) -> Iterator[Item]:
    """One attempt, in a child that waits or in a new one."""
    memory_bytes = limits.decode_memory_bytes + 2 * limits.max_bytes
    idle = _idle.setdefault((memory_bytes, frozenset(os.environ.items())), [])
    child = idle.pop() if idle else Child("koasr.parquet_child", [str(memory_bytes)])
    is_ready = False
    try:
        child.send(json.dumps([shard.uri, limits.max_bytes]).encode())
        for number, (row, audio) in enumerate(_rows(child, limits)):
            yield _recording(shard, f"{number}", row, audio, limits)
        is_ready = True
    except RecordingError:
        is_ready = True
        raise
    finally:
        if is_ready:
            idle.append(child)
        else:
            child.kill()


def _rows(child: Child, limits: Limits) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each row's description, and its audio.

    Raises:
        TransientError: The store does not answer, or the child does not start.
    """
    timeout_s = _STORE_TIMEOUT_S
    while True:
        try:
            frame = child.receive(timeout_s)
        except TimeoutError as error:
            if timeout_s == _STORE_TIMEOUT_S:
                raise TransientError(f"reading Parquet from the store: {error}") from error
            raise
        what, text = frame[:1], frame[1:]
        timeout_s = _STORE_TIMEOUT_S if what == WAITS else limits.decode_timeout_s
        if what == ROWS:
            for row in json.loads(text):
                is_sent = 0 < (row["size"] or 0) <= limits.max_bytes
                yield row, child.receive(timeout_s, limits.max_bytes) if is_sent else b""
        elif what == FAILED:
            _fail(**json.loads(text))
        elif what == END:
            return


def _fail(kind: str, message: str) -> None:
    if kind in _FAILURES:
        raise _FAILURES[kind](message)
    known: tuple[Reason, ...] = get_args(Reason)
    raise RecordingError(next((r for r in known if r == kind), "unreadable"), message)


def _recording(shard: Shard, key: str, row: dict[str, Any], audio: bytes, limits: Limits) -> Item:
    if row["size"] is None:
        return unread(shard, key, "unreadable", "the row has no audio bytes, only a path")
    if row["size"] > limits.max_bytes:
        message = f"found {row['size']} bytes, wanted at most {limits.max_bytes}"
        return unread(shard, key, "too_large", message, row["size"])
    metadata = row["metadata"]
    raw_pcm = metadata.get("path", "").lower().endswith(".pcm")
    place = (identify(shard.uri, key), shard.uri, key, shard.version)
    return Recording(*place, audio, row["reference"], metadata, raw_pcm)
