"""Any fsspec URI → open files and fresh listings; failures told apart by who can mend them.

Operations on whole objects (list, read, write, look, remove) are tried again for minutes, with
backoff and jitter, where their failure may pass. Files that are read in parts are not: their
task is done again.
"""

import errno
import logging
import os
import posixpath
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import fsspec
import tenacity
from fsspec import AbstractFileSystem

from koasr.errors import JobError, TransientError
from koasr.rows import StoredFile

_S3_CONFIG = {"connect_timeout": 5, "retries": {"mode": "standard", "max_attempts": 3}}
"""A store that does not answer is told within seconds; tasks are retried by Ray on top."""

_NO_SUCH_FILE = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors of a local path that no retry mends. s3fs uses EINVAL and EBUSY for other things."""

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_MAY_PASS_ON_DISK = {errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ESTALE}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}
_DISK_FULL_HINT = "the disk is full: make room and run it again"

_CREDENTIAL_ERRORS = {"NoCredentialsError", "PartialCredentialsError", "PermissionError"}
_WRONG_CALLS = {"ParamValidationError", "ProfileNotFound", "InvalidConfigError"}
_CONNECTION_ERRORS = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError"}

_patience_s = ContextVar("_patience_s", default=300.0)
_WAIT: tenacity.wait.wait_base = tenacity.wait_random_exponential(multiplier=0.5, max=20)

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")


def absolute(uri: str) -> str:
    """The same place named in full: local paths absolute, URIs without a trailing slash.

    Raises:
        JobError: An empty one, which would be the current folder; a chained URI (`a::b`), which
            could reach past the store it starts with; or one that carries credentials.

    Example:
        >>> absolute("s3://bucket/prefix/")
        's3://bucket/prefix'
        >>> absolute("file:///data/speech")
        '/data/speech'
    """
    if not uri:
        raise JobError("found an empty path: name a file, a folder or a URI, . for this folder", 2)
    if "::" in uri:
        raise JobError(f"chained URI {uri!r} is not accepted: name the store itself", 2)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        if "@" in rest.partition("/")[0]:
            raise JobError(f"{scheme}:// URI carries credentials: put them in the environment", 2)
        return uri.rstrip("/")
    return os.path.abspath(rest if separator else uri)


def open_fs(uri: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URI and the path in it. Listings are never cached.

    s3fs keeps listings for the life of a process, so an object written by another one stays
    unseen; a job that resumes cannot live with that.

    Raises:
        JobError: No file system for this scheme, or its driver is not installed.
    """
    options: dict[str, Any] = {"use_listings_cache": False} if "://" in uri else {}
    if uri.startswith(("s3://", "s3a://")):
        options["config_kwargs"] = _S3_CONFIG
    try:
        fs, path = fsspec.core.url_to_fs(absolute(uri), **options)
    except (ValueError, ImportError) as error:
        scheme = uri.partition("://")[0]
        raise JobError(f"cannot open {scheme}:// URIs: {error}", 2) from error
    return fs, path


def check_reachable(uri: str) -> None:
    """Ask an S3 store one small question with a short limit: a job's patience is for later.

    With the limits a job runs under, a store that takes connections and never answers would be
    noticed after a minute.

    Raises:
        JobError: No answer within 4 s, no such bucket, or no right to list it.
    """
    if not uri.startswith(("s3://", "s3a://")):
        return
    absolute(uri)
    limits = {"connect_timeout": 4, "read_timeout": 4, "retries": {"max_attempts": 0}}
    fs = fsspec.filesystem("s3", config_kwargs=limits, skip_instance_cache=True)
    fs.retries = 1
    bucket, _, prefix = uri.partition("://")[2].partition("/")
    with job_errors(uri):
        fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix.split("*")[0], MaxKeys=1)


@contextmanager
def job_errors(uri: str) -> Iterator[None]:
    """Turn a storage failure on `uri` into one line for the user."""
    try:
        yield
    except JobError:
        raise
    except FileNotFoundError as error:
        raise JobError(f"{uri} does not exist: check the path or the bucket's name") from error
    except Exception as error:
        kind = type(error).__name__
        if kind in _CREDENTIAL_ERRORS:
            hint = "access denied or no credentials: check AWS_ACCESS_KEY_ID or the instance role"
        elif kind in _CONNECTION_ERRORS or isinstance(error, (TimeoutError, ConnectionError)):
            hint = "no answer from the store: check AWS_ENDPOINT_URL and the network"
        elif isinstance(error, OSError) and error.errno in _DISK_FULL:
            hint = _DISK_FULL_HINT
        elif isinstance(error, OSError):
            hint = f"{error.strerror or error}"
        elif _is_of_the_store(error) or isinstance(error, ValueError):
            hint = " ".join(str(error).split())[:200]
        else:
            raise
        raise JobError(f"cannot use {uri}: {hint} ({kind})") from error


def _is_of_the_store(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in {"aiohttp", "aiobotocore", "botocore"}


@contextmanager
def transient_errors(uri: str) -> Iterator[None]:
    """Inside a task: what is gone for good passes as FileNotFoundError, what may pass is retried.

    A transient failure must never become a row: Ray replays generators and refuses a different
    count of blocks, and a recording is not bad because the network was. Nor is it because a token
    expired: a store that denies access stops the job.

    Raises:
        FileNotFoundError: It is not there, or its name cannot be.
        PermissionError: A local file that this user may not read.
        JobError: A store denied access, or the disk is full.
        TransientError: Anything else that storage raises.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as error:
        if "://" not in uri:
            raise
        message = f"{uri}: access denied: check that the credentials are valid and last"
        raise JobError(message) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_SUCH_FILE:
            raise FileNotFoundError(f"{uri}: {error.strerror}") from error
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            raise JobError(f"{uri}: {_DISK_FULL_HINT}") from error
        if isinstance(error, OSError) or _is_of_the_store(error):
            raise TransientError(f"{uri}: {type(error).__name__}: {error}") from error
        raise


def _may_pass(uri: str, error: BaseException) -> bool:
    """Whether a failure is worth another try: never a denial, an absence or a wrong call."""
    if isinstance(error, FileNotFoundError | FileExistsError | PermissionError):
        return False
    if "://" not in uri:
        return isinstance(error, OSError) and error.errno in _MAY_PASS_ON_DISK
    if type(error).__name__ in _CREDENTIAL_ERRORS | _WRONG_CALLS:
        return False
    return isinstance(error, OSError) or (isinstance(error, Exception) and _is_of_the_store(error))


@contextmanager
def impatient(seconds: float = 0.0) -> Iterator[None]:
    """In here a failure is told at once, or soon: for what a person waits for."""
    token = _patience_s.set(seconds)
    try:
        yield
    finally:
        _patience_s.reset(token)


def patiently(uri: str, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """The result of `work`, tried again for five minutes where its failure on `uri` may pass.

    Raises:
        Exception: What `work` raised last.
    """

    def say(state: tenacity.RetryCallState) -> None:
        kind = type(state.outcome.exception() if state.outcome else None).__name__
        _log.warning("%s: %s, trying again (attempt %d)", uri, kind, state.attempt_number + 1)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: _may_pass(uri, error)),
        wait=_WAIT,
        stop=tenacity.stop_after_delay(_patience_s.get()),
        before_sleep=say,
        reraise=True,
    )
    return retrying(work, *args, **kwargs)


def join(base: str, *names: str) -> str:
    """A URI below `base`."""
    return posixpath.join(base, *names)


def _stored_file(fs: AbstractFileSystem, info: dict[str, Any]) -> StoredFile:
    uri = info["name"] if "file" in fs.protocol else fs.unstrip_protocol(info["name"])
    if info.get("islink") and os.path.exists(info["name"]):
        # fsspec lists a link with its own time, and asked for it alone gives its target's.
        info = info | {"mtime": os.stat(info["name"]).st_mtime}
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    version = str(etag).strip('"') if etag else f"{info.get('mtime', '')}-{info['size']}"
    return StoredFile(uri, version, int(info["size"]))


def list_files(uri: str, *, expand: bool = False) -> list[StoredFile]:
    """Every file at or below `uri`, in the order of their names.

    Args:
        uri: A file or a prefix.
        expand: Take `*`, `?` and `[` for a pattern where no such path exists.

    Returns:
        Empty when there is nothing. Hidden files (a path part that starts with `.` below the
        prefix) are left out.

    Raises:
        OSError: A folder that cannot be read: its recordings must not vanish without a word.
    """
    return patiently(uri, _list_files, uri, expand)


def _list_files(uri: str, expand: bool) -> list[StoredFile]:
    fs, path = open_fs(uri)
    fs.invalidate_cache()
    is_local = "file" in fs.protocol
    if expand and any(character in path for character in "*?[") and not fs.exists(path):
        infos = [i for i in fs.glob(path, detail=True).values() if i["type"] == "file"]
        root = posixpath.dirname(path.partition("*")[0].partition("?")[0].partition("[")[0])
    elif is_local and not os.path.exists(path):
        return []
    else:
        infos = list(
            fs.find(path, detail=True, **({"on_error": "raise"} if is_local else {})).values()
        )
        root = path
    visible = [info for info in infos if "/." not in info["name"][len(root.rstrip("/")) :]]
    return sorted((_stored_file(fs, info) for info in visible), key=lambda file: file.uri)


def is_folder(uri: str) -> bool:
    """Whether a folder is there; an object store has none without anything in it."""
    fs, path = open_fs(uri)
    return bool(fs.isdir(path))


def list_names(uri: str) -> list[str]:
    """Names of the files and folders right below a folder; empty when there is none."""
    fs, path = open_fs(uri)
    fs.invalidate_cache()
    try:
        if "file" in fs.protocol:
            return sorted(os.listdir(path))
        found = patiently(uri, fs.ls, path, detail=False)
    except FileNotFoundError:
        return []
    names = {name.rstrip("/").rsplit("/", 1)[-1] for name in found if name.rstrip("/") != path}
    return sorted(names)


def version_of(uri: str) -> str:
    """What `list_files` would say of this file's version now."""
    fs, path = open_fs(uri)
    return _stored_file(fs, patiently(uri, fs.info, path)).version


def read_bytes(uri: str, *, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of one file, or the range [start, end) of them; `start` below 0 is from its end."""
    fs, path = open_fs(uri)
    return bytes(patiently(uri, fs.cat_file, path, start=start, end=end))


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file so that it is there whole or not at all, and lasts.

    One PutObject on an object store (s3fs sends up to 100 MB in one); on a disk a temporary file,
    fsync and rename. What was there is replaced.
    """
    patiently(uri, _write_bytes, uri, data)


def _write_bytes(uri: str, data: bytes) -> None:
    fs, path = open_fs(uri)
    if "file" not in fs.protocol:
        fs.pipe_file(path, data)
        return
    with _temporary(path, data) as temporary:
        os.replace(temporary, path)


def write_result(uri: str, data: bytes) -> None:
    """Write the file that a user named for a result; through a link, what it points to.

    Raises:
        JobError: It cannot be written there.
    """
    with job_errors(uri):
        try:
            write_bytes(result_place(uri), data)
        except (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            reason = (error.strerror or "no such place").lower()
            raise JobError(f"{uri} cannot be written: {reason}") from error


def result_place(uri: str) -> str:
    """Where a result that a user named is to be written: in full, links followed.

    Raises:
        JobError: A pipe, a device or a loop of links is there: the rename would replace it.
    """
    path = absolute(uri)
    if "://" in path:
        return path
    place = os.path.realpath(path)
    is_other = os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    if is_other or os.path.islink(place):
        raise JobError(f"{uri} cannot be written: it is no regular file")
    return place


def write_new(uri: str, data: bytes) -> bool:
    """Write one file unless there is one, as far as the store can tell.

    Stores differ in what they refuse and how: some let several writers win. So this saves work
    and decides nothing: whoever needs to know reads back what is there.

    Returns:
        False when a file was there, which may be this very one if its acknowledgement was lost.
    """
    return patiently(uri, _write_new, uri, data)


def _write_new(uri: str, data: bytes) -> bool:
    fs, path = open_fs(uri)
    if "file" in fs.protocol:
        with _temporary(path, data) as temporary:
            return _link_or_replace(temporary, path)
    if _is_file(uri):
        return False
    try:
        fs.pipe_file(path, data, mode="create")
    except (TypeError, NotImplementedError):
        fs.pipe_file(path, data)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        if error.errno == errno.ENOSYS:
            fs.pipe_file(path, data)
            return True
        # A refusal is FileExistsError, EINVAL or EBUSY, by the store; a lost acknowledgement is
        # anything. All that matters is whether there is something to look at.
        if _is_file(uri):
            return False
        raise
    return True


def _link_or_replace(temporary: str, path: str) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.exists(path):
            return False
        os.replace(temporary, path)
    return True


@contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """A file beside `path` that holds `data`, gone afterwards; then the folder is made to last.

    Its name starts with `.`, so that no listing shows what a killed process left.
    """
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name[:150]}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    # The new name itself lasts only when the folder is written.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_file(uri: str) -> bool:
    # fsspec's own `exists` takes any failure for an absence.
    fs, path = open_fs(uri)
    try:
        return bool(fs.info(path)["type"] == "file")
    except FileNotFoundError:
        return False


def exists(uri: str) -> bool:
    """Whether a file is there."""
    return patiently(uri, _is_file, uri)


def remove(uri: str) -> None:
    """Remove one file; nothing happens when there is none."""
    fs, path = open_fs(uri)
    with suppress(FileNotFoundError):
        patiently(uri, fs.rm_file, path)


def remove_tree(uri: str) -> None:
    """Remove everything below `uri`; nothing happens when there is nothing."""
    fs, path = open_fs(uri)
    with suppress(FileNotFoundError):
        patiently(uri, fs.rm, path, recursive=True)
