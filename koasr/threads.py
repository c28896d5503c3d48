"""Small work on many objects at once, since asking a store is waiting; and again and again."""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, copy_context
from functools import partial
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_NUM_THREADS = 16
"""Requests at once. They wait for the store; one interpreter answers no more than that."""

_SPEAK_EVERY_S = 5.0
_LAST_S = 5.0
"""How long the end of a block waits for work that was just begun."""

_log = logging.getLogger(__name__)


def concurrently(work: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """Results of `work` in the order of the items; stderr hears of it when it takes long."""

    def work_here(item: T, here: Context) -> R:
        return here.run(work, item)

    # A thread of the pool would not know what holds here, such as how patient to be; and no two
    # may be in one context at once.
    calls = [partial(work_here, item, copy_context()) for item in items]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        results = pool.map(lambda call: call(), calls)
        return list(_spoken(results, len(items), what))


def _spoken(results: Iterator[R], total: int, what: str) -> Iterator[R]:
    spoken_s = time.monotonic()
    for number, result in enumerate(results, 1):
        yield result
        if time.monotonic() - spoken_s > _SPEAK_EVERY_S:
            spoken_s = time.monotonic()
            print(f"koasr: {what}: {number:,} of {total:,}", file=sys.stderr, flush=True)


@contextmanager
def every(
    interval_s: float, work: Callable[[], None], failure: str, *, at_once: bool = False
) -> Iterator[None]:
    """Do a small work beside the block again and again; what fails in it disturbs nobody.

    Args:
        interval_s: Seconds between.
        work: Is done in a thread.
        failure: What the log says, once, when it fails.
        at_once: The first time now, else after one interval.
    """
    is_over = threading.Event()

    def go() -> None:
        has_failed = False
        pause_s = 0.0 if at_once else interval_s
        while not is_over.wait(pause_s):
            pause_s = interval_s
            try:
                work()
            except Exception as error:
                if not has_failed:
                    _log.warning("%s: %s", failure, type(error).__name__)
                has_failed = True

    thread = threading.Thread(target=go, name="koasr-every", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(_LAST_S)
