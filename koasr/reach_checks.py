"""Places a job needs → findings: its inputs, its output, and the Ray cluster it would join."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime
from typing import Any

import fsspec
from fsspec import AbstractFileSystem

from koasr.errors import JobError
from koasr.findings import Finding, failed, line_of, size_text, warning
from koasr.runs import check_output
from koasr.stages import cluster_address
from koasr.storage import absolute, check_reachable, impatient, job_errors, open_fs
from koasr.writable import check_folder

_MAX_SKEW_S = 60.0
"""S3 refuses requests that are 15 minutes off, and a run's date is this machine's."""
_MAX_LISTED = 1000
_ANSWER_S, _JOIN_S = 4.0, 30.0
_ORIGINS = {
    "env": "environment variables",
    "shared-credentials-file": "a profile in the credentials file",
    "custom-process": "a process that the profile names",
    "config-file": "a profile in the config file",
    "iam-role": "the instance's role",
    "container-role": "the container's role",
}


def check_input(uri: str) -> Finding:
    """Whether an input answers, can be listed, and its first file be read."""
    name = f"input {line_of(uri)}"
    try:
        check_reachable(uri)
        with job_errors(uri), impatient():
            fs, path = open_fs(uri)
            paths, notes = _first_files(fs, path)
            if not paths:
                return failed(name, "holds no files", "check the path and its prefix")
            fs.cat_file(paths[0], start=0, end=1)
    except JobError as error:
        return failed(name, error)
    count = f"{len(paths):,} or more" if len(paths) >= _MAX_LISTED else f"{len(paths)}"
    return _place(name, f"files listed: {count}, the first one read", fs, notes)


def check_target(uri: str) -> Finding:
    """Whether an output answers and a file can be written there, and removed. None is left."""
    name = f"output {line_of(uri)}"
    notes: dict[str, Any] = {}
    try:
        check_folder(uri)
        with job_errors(uri), impatient():
            fs, path = open_fs(uri)
            if "://" not in absolute(uri):
                free = size_text(_free_bytes(path))
                return Finding(name, f"can be written; {free} free")
            check_output(absolute(uri), {})
            if "s3" in fs.protocol:
                _, notes = _first_files(fs, path)
    except JobError as error:
        return failed(name, error)
    return _place(name, "a probe was written and removed", fs, notes)


def _first_files(fs: AbstractFileSystem, path: str) -> tuple[list[str], dict[str, Any]]:
    """Files below a path or of a pattern, a page at most; headers of the store's answer.

    Of a pattern in S3, those below what comes before its first special character.
    """
    begin = re.split(r"[*?[]", path, maxsplit=1)[0]
    if "s3" in fs.protocol:
        bucket, _, prefix = (path if begin == path or fs.exists(path) else begin).partition("/")
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=_MAX_LISTED)
        names = [f"{bucket}/{one['Key']}" for one in page.get("Contents", [])]
        headers: dict[str, Any] = page["ResponseMetadata"].get("HTTPHeaders", {})
        return [name for name in names if not name.endswith("/")], headers
    if begin != path and not fs.exists(path):
        return [name for name in fs.glob(path)[:_MAX_LISTED] if fs.isfile(name)], {}
    paths: list[str] = []
    for _, _, found in fs.walk(path, detail=True) if not fs.isfile(path) else ():
        paths += [info["name"] for info in found.values()]
        if len(paths) >= _MAX_LISTED:
            break
    return (paths[:_MAX_LISTED] if not fs.isfile(path) else [path]), {}


def _free_bytes(folder: str) -> int:
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def _place(name: str, found: str, fs: AbstractFileSystem, headers: dict[str, Any]) -> Finding:
    """A place that answered: where its credentials come from, and how its clock goes."""
    if "s3" not in fs.protocol:
        return Finding(name, found)
    found += f"; credentials from {_credentials(fs)}"
    try:
        skew_s = time.time() - parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return Finding(name, found)
    if abs(skew_s) > _MAX_SKEW_S:
        found += f"; this clock is {skew_s:+.0f} s off the store's"
        return warning(name, found, "set the clock (chrony, ntpd): S3 refuses 15 minutes")
    return Finding(name, f"{found}; clocks agree")


def _credentials(fs: AbstractFileSystem) -> str:
    """Where they come from; never what they are."""
    if fs.key:
        return "fsspec's configuration"
    held = fsspec.asyn.sync(fs.loop, fs.session.get_credentials)
    if held is None:
        return "nowhere"
    return _ORIGINS.get(held.method, f"{held.method}")


def check_ray() -> Finding:
    """The cluster that a job would join, or what the one it starts here would have."""
    address = cluster_address()
    if not address:
        cpus = len(os.sched_getaffinity(0))
        return Finding("Ray", f"none to join: a job starts one here, with a token, {cpus} CPUs")
    # Ray itself waits for minutes.
    host, _, port = address.rpartition("://")[2].partition(":")
    try:
        if port.isdigit():
            socket.create_connection((host, int(port)), _ANSWER_S).close()
        found = _look_at_cluster()
    except (OSError, subprocess.TimeoutExpired) as error:
        advice = "check RAY_ADDRESS and the head, or unset RAY_ADDRESS"
        return failed("Ray", f"{address} does not answer ({type(error).__name__})", advice)
    except ValueError as error:
        advice = "the cluster needs this Ray and this Python, and RAY_AUTH_MODE its token"
        return failed("Ray", f"{address} cannot be joined: {error}", advice)
    told = f"{found['nodes']:g} nodes, {found.get('CPU', 0):g} CPUs, {found.get('GPU', 0):g} GPUs"
    text = f"joined {line_of(address)}: {told}, Ray and Python as here"
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return Finding("Ray", f"{text}; it asks for a token")
    advice = "whoever reaches its ports runs code: RAY_AUTH_MODE=token on every node"
    return warning("Ray", f"{text}; it asks for no token", advice)


def _look_at_cluster() -> dict[str, float]:
    """What a process of its own finds, since Ray logs on stderr and may wait for ever.

    Raises:
        subprocess.TimeoutExpired: Nothing came back.
        ValueError: Why it could not join.
    """
    code = (
        "import json; from koasr.job import look_at_cluster; print(json.dumps(look_at_cluster()))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_JOIN_S)
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition("\n")[2])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
