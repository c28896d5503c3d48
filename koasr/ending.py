"""How the job ended: done, stopped or failed, with which exit code, and why."""

from dataclasses import dataclass
from typing import Literal

from koasr.errors import JobError
from koasr.stopping import EXIT_STOPPED, Stopped

State = Literal["done", "stopped", "failed"]
EXIT_DONE, EXIT_FAILED, EXIT_TOO_MANY_REJECTS, EXIT_INTERRUPTED = 0, 1, 3, 130
_MAX_REASON = 500
"""Characters: a reason is a line, however long the names in it are."""


@dataclass(frozen=True)
class Ending:
    """How a run or a whole call ended.

    Attributes:
        state: Done is whatever came to its end, with too many rejects too.
        exit_code: 0 done; 1 the job could not be done; 2 wrong usage; 3 done, but more was
            rejected than allowed; 4 stopped; 130 interrupted.
        reason: One line; empty where there is nothing to say. Without any text of a transcript.
    """

    state: State = "done"
    exit_code: int = EXIT_DONE
    reason: str = ""


def ending_of(error: BaseException) -> Ending:
    """How a call ends that raises this.

    What a defect says may quote anything, so that only its kind is told; the log has the rest.

    Example:
        >>> ending_of(JobError("the cluster has no GPU"))
        Ending(state='failed', exit_code=1, reason='the cluster has no GPU')
        >>> ending_of(Stopped("SIGTERM"))
        Ending(state='stopped', exit_code=4, reason='SIGTERM')
        >>> ending_of(ValueError("a text")).reason
        'ValueError: see the log'
    """
    if isinstance(error, JobError):
        return Ending("failed", error.exit_code, " ".join(str(error).split())[:_MAX_REASON])
    if isinstance(error, Stopped):
        return Ending("stopped", EXIT_STOPPED, str(error))
    if isinstance(error, KeyboardInterrupt):
        return Ending("stopped", EXIT_INTERRUPTED, "interrupted")
    return Ending("failed", EXIT_FAILED, f"{type(error).__name__}: see the log")
