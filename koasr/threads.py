"""The same small work on many objects at once: asking a store is waiting for it."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_NUM_THREADS = 16
"""Requests at once. They wait for the store; one interpreter answers no more than that."""

_SPEAK_EVERY_S = 5.0


def concurrently(work: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
    """Results of `work` in the order of the items; stderr hears of it when it takes long."""
    # A thread of the pool would not know what holds here, such as how patient to be.
    contexts = [copy_context() for _ in items]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        results = pool.map(lambda context, item: context.run(work, item), contexts, items)
        return list(_spoken(results, len(items), what))


def _spoken(results: Iterator[R], total: int, what: str) -> Iterator[R]:
    spoken_s = time.monotonic()
    for number, result in enumerate(results, 1):
        yield result
        if time.monotonic() - spoken_s > _SPEAK_EVERY_S:
            spoken_s = time.monotonic()
            print(f"koasr: {what}: {number:,} of {total:,}", file=sys.stderr, flush=True)
