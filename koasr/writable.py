"""The place that a user named for a result → refused before the work, if it cannot be written."""

import os
import tempfile

from koasr.errors import JobError
from koasr.storage import absolute, check_reachable, is_folder, result_place


def check_file(uri: str) -> None:
    """Refuse a place where no file can be written. Nothing is left there.

    Raises:
        JobError: It is a folder, a bucket, a pipe or a device, lies below a file, or may not be
            written.
    """
    check_reachable(uri)
    path = absolute(uri)
    if "://" in path:
        if uri.endswith("/") or "/" not in path.partition("://")[2]:
            raise JobError(f"{uri} names a folder: wanted a file in it")
    elif uri.endswith("/") or is_folder(path):
        raise JobError(f"{uri} is a folder: wanted a file")
    else:
        _check_local(os.path.dirname(result_place(uri)), uri)


def check_folder(uri: str) -> None:
    """Refuse a place where no folder can be made or written to. Nothing is left there.

    Raises:
        JobError: It is a file, lies below one, or may not be written.
    """
    check_reachable(uri)
    path = absolute(uri)
    if "://" not in path:
        _check_local(path, uri)


def _check_local(folder: str, uri: str) -> None:
    """Write a file without a name to the folder, or to where it would be made."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise JobError(f"{uri} cannot be written: {folder} is no folder")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as error:
        reason = (error.strerror or "no such place").lower()
        raise JobError(f"{uri} cannot be written: {folder}: {reason}") from error
