"""Stopping before the end on purpose: a signal, a deadline, or GPUs that are gone."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from types import FrameType

from koasr.errors import JobError

EXIT_STOPPED = 4


class Stopped(BaseException):
    """The job was asked to stop; what is staged stays, and the next start goes on.

    Not an Exception, so that nothing on the way takes it for a failure of its own.
    """


_SIGTERM = "SIGTERM"
_reason = _SIGTERM
_is_asked = False


def stop(reason: str) -> None:
    """Stop the job from any thread: `Stopped` is raised in the main one."""
    global _reason
    _reason = reason
    os.kill(os.getpid(), signal.SIGTERM)


def seconds_left(stop_at: str | None, max_hours: float | None, now: datetime) -> float | None:
    """Seconds from now to the earlier of two deadlines; None without any.

    Args:
        stop_at: Time of day, HH:MM; the next time it comes.
        max_hours: Hours from now.
        now: In the time zone that `stop_at` is of.

    Raises:
        JobError: `stop_at` is not a time.

    Example:
        >>> seconds_left("06:00", 9, datetime(2026, 11, 22, 22, 0))
        28800.0
    """
    limits = [] if max_hours is None else [max_hours * 3600]
    if stop_at is not None:
        try:
            clock = datetime.strptime(stop_at, "%H:%M")
        except ValueError as error:
            raise JobError(f"--stop-at: found {stop_at!r}, wanted HH:MM as in 06:00", 2) from error
        then = now.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
        then += timedelta(days=then <= now)
        limits.append((then - now).total_seconds())
    return min(limits, default=None)


def check_stop() -> None:
    """Raise `Stopped` if it was raised before and got lost: code in C may swallow it."""
    if _is_asked:
        raise Stopped(_reason)


@contextmanager
def taking_sigterm_back() -> Iterator[None]:
    """Keep SIGTERM ours while a library starts that takes it, and would leave without a word."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as exit_:
        raise Stopped(_reason) from exit_
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def stoppable(deadline_s: float | None) -> Iterator[None]:
    """Raise `Stopped` in here on SIGTERM, after `deadline_s` seconds, and on `stop`.

    Only the first: what follows it must not be cut short. Where it went through code in C it may
    come out as something else (SystemError), and is `Stopped` again here.
    """
    global _reason, _is_asked

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        global _is_asked
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _is_asked = True
        raise Stopped(_reason)

    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals reach the main thread alone")
    _reason, _is_asked = _SIGTERM, False
    before = signal.signal(signal.SIGTERM, on_signal)
    timer = None
    if deadline_s is not None:
        timer = threading.Timer(deadline_s, stop, ["the deadline"])
        timer.daemon = True
        timer.start()
    try:
        yield
    except Exception as error:
        if _is_asked:
            raise Stopped(_reason) from error
        raise
    finally:
        if timer is not None:
            timer.cancel()
        signal.signal(signal.SIGTERM, before)
        # What runs in this process afterwards was not asked to stop.
        _is_asked = False
