"""Two kinds of failure: a bad job stops the run, a bad recording becomes a row in the rejects."""

from typing import Literal

Reason = Literal[
    "unreadable",
    "unsupported_format",
    "empty",
    "too_short",
    "too_long",
    "too_large",
    "too_many_channels",
    "bad_sample_rate",
    "non_finite",
    "truncated",
    "duplicate_key",
    "bad_name",
    "timeout",
    "crashed",
]
"""Why a recording was rejected: a closed list, so that rejects can be counted and retried by it."""


class JobError(Exception):
    """The job cannot be done. The message is one line: what was found, and what to do.

    Args:
        message: The line shown to the user.
        exit_code: 1 for a job that cannot be done, 2 for wrong usage.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class RecordingError(Exception):
    """This recording cannot be transcribed; the run goes on without it.

    Args:
        reason: One of `REASONS`.
        message: What was found, without any text of the recording.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason: Reason = reason
        self.message = message


class TransientError(Exception):
    """Storage failed in a way that may pass. Never becomes a row: Ray Data retries the task."""
