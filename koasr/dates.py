"""The dates that nights are called by."""

from datetime import UTC, date, datetime, timedelta

from koasr.errors import JobError

MARK = "{date}"
"""In a path: the night's date goes here."""
_MAX_NIGHTS = 366


def today() -> str:
    """In UTC, so that every machine calls a night the same."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def check_date(text: str, flag: str = "--date") -> str:
    """A date as YYYY-MM-DD.

    Raises:
        JobError: Not a date of that form.
    """
    return _read(text, flag).isoformat()


def _read(text: str, flag: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise JobError(f"{flag}: found {text!r}, wanted a date as YYYY-MM-DD", 2) from error


def dates_between(text: str) -> list[str]:
    """Every date of a range, both ends included.

    Raises:
        JobError: Not a range, or one of more than a year.

    Example:
        >>> dates_between("2026-02-27..2026-03-01")
        ['2026-02-27', '2026-02-28', '2026-03-01']
    """
    ends = text.split("..")
    if len(ends) != 2:
        raise JobError(f"--dates: found {text!r}, wanted a range as 2026-11-01..2026-11-07", 2)
    first, last = (_read(end, "--dates") for end in ends)
    num_nights = (last - first).days + 1
    if not 1 <= num_nights <= _MAX_NIGHTS:
        raise JobError(f"--dates: found {num_nights} nights, wanted 1 to {_MAX_NIGHTS}", 2)
    return [(first + timedelta(days)).isoformat() for days in range(num_nights)]
