"""Any fsspec URI → open files and fresh listings; failures told apart by who can mend them."""

import errno
import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from koasr.errors import JobError, TransientError
from koasr.rows import StoredFile

_S3_CONFIG = {"connect_timeout": 5, "retries": {"mode": "standard", "max_attempts": 3}}
"""A store that does not answer is told within seconds; tasks are retried by Ray on top."""

_NO_SUCH_FILE = {errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors of a local path that no retry mends. s3fs uses EINVAL and EBUSY for other things."""

_CREDENTIAL_ERRORS = {"NoCredentialsError", "PartialCredentialsError", "PermissionError"}
_CONNECTION_ERRORS = {"EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError"}


def absolute(uri: str) -> str:
    """The same place named in full: local paths absolute, URIs without a trailing slash.

    Raises:
        JobError: A chained URI (`a::b`), which could reach past the store it starts with, or
            one that carries credentials.

    Example:
        >>> absolute("s3://bucket/prefix/")
        's3://bucket/prefix'
        >>> absolute("file:///data/speech")
        '/data/speech'
    """
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
        JobError: A store denied access.
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
        if isinstance(error, OSError) or _is_of_the_store(error):
            raise TransientError(f"{uri}: {type(error).__name__}: {error}") from error
        raise


def join(base: str, *names: str) -> str:
    """A URI below `base`."""
    return posixpath.join(base, *names)


def _stored_file(fs: AbstractFileSystem, info: dict[str, Any]) -> StoredFile:
    uri = info["name"] if "file" in fs.protocol else fs.unstrip_protocol(info["name"])
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


def version_of(uri: str) -> str:
    """What `list_files` would say of this file's version now."""
    fs, path = open_fs(uri)
    return _stored_file(fs, fs.info(path)).version


def read_bytes(uri: str, *, start: int | None = None, end: int | None = None) -> bytes:
    """The bytes of one file, or the range [start, end) of them."""
    fs, path = open_fs(uri)
    return bytes(fs.cat_file(path, start=start, end=end))


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file so that it is there whole or not at all, and lasts.

    One PutObject on an object store (s3fs sends up to 50 MB in one); on a disk a temporary file,
    fsync and rename.
    """
    fs, path = open_fs(uri)
    if "file" not in fs.protocol:
        fs.pipe_file(path, data)
        return
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    # The rename itself lasts only when the folder is written.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exists(uri: str) -> bool:
    """Whether a file is there."""
    fs, path = open_fs(uri)
    return bool(fs.exists(path))


def remove_tree(uri: str) -> None:
    """Remove everything below `uri`; nothing happens when there is nothing."""
    fs, path = open_fs(uri)
    if fs.exists(path):
        fs.rm(path, recursive=True)
