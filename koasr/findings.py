"""What a check of the machine found: one line each, and what to do."""

import re
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "failed"]
_ORDER: tuple[State, ...] = ("ok", "warning", "failed")
_SECRETS = {r"(?<=://)(?:[^@\s]*:\S*|[^/\s]+)@": "***@", r"\?\S*=\S*": "?***"}
"""What a URI may carry: a user with a password, which may have a slash in it, or a signature."""
_MAX_LINE = 300


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        name: What was looked at.
        found: What is there.
        state: Whether a night can run on it.
        advice: What to do; empty where there is nothing to do.
    """

    name: str
    found: str
    state: State = "ok"
    advice: str = ""


def failed(name: str, found: object, advice: str = "") -> Finding:
    """A check that failed."""
    return Finding(name, line_of(found), "failed", advice)


def warning(name: str, found: object, advice: str = "") -> Finding:
    """A check that found what works, but not well."""
    return Finding(name, line_of(found), "warning", advice)


def line_of(message: object) -> str:
    """A message as one short line: no control characters, which it may quote, and no secrets.

    Example:
        >>> line_of("s3://KEY:SECRET@bucket is\\nrefused"), line_of("https://host/a?Signature=x y")
        ('s3://***@bucket is refused', 'https://host/a?*** y')
    """
    line = " ".join(str(message).split())
    for secret, shown in _SECRETS.items():
        line = re.sub(secret, shown, line)
    return "".join(letter if letter.isprintable() else "?" for letter in line[:_MAX_LINE])


def worst_of(findings: list[Finding]) -> State:
    """The worst state among them.

    Example:
        >>> worst_of([Finding("CPU", "2 threads"), warning("disk", "1 GB")])
        'warning'
    """
    return max((finding.state for finding in findings), key=_ORDER.index, default="ok")


def size_text(size_bytes: float) -> str:
    """Bytes as people say them.

    Example:
        >>> size_text(25_200_000), size_text(25_769_803_776), size_text(270_000_000_000)
        ('25 MB', '25.8 GB', '270 GB')
    """
    if size_bytes < 1e9:
        return f"{size_bytes / 1e6:.0f} MB"
    return f"{size_bytes / 1e9:.0f} GB" if size_bytes >= 1e11 else f"{size_bytes / 1e9:.1f} GB"
