"""A folder in, an S3 endpoint on loopback out: one-node OpenStack Swift with its s3api middleware.

Run it with the Python of a virtual environment that holds `swift-requirements.txt`:

    .swift/venv/bin/python tests/servers/swift_s3.py ROOT

It prints one JSON line (endpoint, access_key, secret_key, region) when the store answers, and
stops when its standard input closes, so it never outlives whoever started it. ROOT must lie on a
file system with extended attributes; the logs of the four servers lie in it.
"""

import json
import os
import pwd
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from swift.common.ring import RingBuilder  # type: ignore[import-not-found, unused-ignore]

BIN = Path(sys.executable).parent
REGION = "us-east-1"
ACCESS_KEY = "test:tester"
START_TIMEOUT_S = 60.0

# No `cache` and no `ratelimit`: both want a memcached.
MIDDLEWARE = (
    "catch_errors gatekeeper healthcheck listing_formats bulk s3api tempauth "
    "copy slo dlo versioned_writes symlink"
)


def find_free_ports(count: int) -> list[int]:
    """Free TCP ports on loopback, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


def write_server(root: Path, kind: str, port: int, body: str) -> None:
    """Write the configuration of one server. `user` is ours: Swift changes to it, root or not."""
    user = pwd.getpwuid(os.getuid()).pw_name
    (root / f"{kind}-server.conf").write_text(
        f"""[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {root}
user = {user}
log_level = WARNING
log_address = /nonexistent
{body}"""
    )


def write_storage(root: Path, kind: str, port: int) -> None:
    """Write the configuration and the ring (one device, one replica) of a storage server."""
    write_server(
        root,
        kind,
        port,
        f"""devices = {root}/node
mount_check = false
disable_fallocate = true
fallocate_reserve = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
""",
    )
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=1)
    where = {"ip": "127.0.0.1", "port": port, "device": "d1"}
    builder.add_dev({"region": 1, "zone": 1, "weight": 1.0} | where)
    builder.rebalance()
    builder.get_ring().save(str(root / f"{kind}.ring.gz"))


def write_proxy(root: Path, port: int, secret_key: str) -> None:
    """Write the configuration of the server that speaks S3."""
    account, user = ACCESS_KEY.split(":")
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in MIDDLEWARE.split())
    filters = filters.replace(
        "egg:swift#tempauth", f"egg:swift#tempauth\nuser_{account}_{user} = {secret_key} .admin"
    ).replace("egg:swift#s3api", f"egg:swift#s3api\nlocation = {REGION}")
    write_server(
        root,
        "proxy",
        port,
        f"""[pipeline:main]
pipeline = {MIDDLEWARE} proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
{filters}""",
    )


def start(root: Path, kind: str) -> subprocess.Popen[bytes]:
    """Start one server as a single process that logs into `root`."""
    log = (root / f"{kind}.log").open("ab")
    command = [str(BIN / f"swift-{kind}-server"), str(root / f"{kind}-server.conf"), "verbose"]
    # Its own session: Ctrl-C in the terminal reaches us, and we stop them in order.
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def wait_until_ready(port: int, servers: list[subprocess.Popen[bytes]]) -> bool:
    """Whether the proxy answered in time, with every server still alive."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and all(server.poll() is None for server in servers):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=1).read()
            return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    return False


def wait_for_our_starter(ended: threading.Event) -> None:
    """Set `ended` once standard input closes, which it does even if its writer is killed."""
    sys.stdin.read()
    ended.set()


def stop(servers: list[subprocess.Popen[bytes]]) -> None:
    """End the servers, politely first."""
    for server in servers:
        server.terminate()
    for server in servers:
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def main() -> int:
    root = Path(sys.argv[1]).absolute()
    (root / "node" / "d1").mkdir(parents=True)
    secret_key = secrets.token_hex(16)
    suffix = secrets.token_hex(8)
    # The largest single PUT of S3 itself, so that a test cannot pass here and fail there.
    (root / "swift.conf").write_text(
        f"[swift-hash]\nswift_hash_path_suffix = {suffix}\n"
        "[storage-policy:0]\nname = one\ndefault = yes\n"
        "[swift-constraints]\nmax_file_size = 5368709122\n"
    )
    storage = ("account", "container", "object")
    proxy_port, *ports = find_free_ports(4)
    for kind, port in zip(storage, ports, strict=True):
        write_storage(root, kind, port)
    write_proxy(root, proxy_port, secret_key)

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=wait_for_our_starter, args=[ended], daemon=True).start()
    servers = [start(root, kind) for kind in (*storage, "proxy")]
    try:
        if not wait_until_ready(proxy_port, servers):
            print(f"Swift did not start: see the logs in {root}", file=sys.stderr)
            return 1
        ready = {
            "endpoint": f"http://127.0.0.1:{proxy_port}",
            "access_key": ACCESS_KEY,
            "secret_key": secret_key,
            "region": REGION,
        }
        print(json.dumps(ready), flush=True)
        while not ended.wait(0.5) and all(server.poll() is None for server in servers):
            pass
        return 0 if ended.is_set() else 1
    finally:
        stop(servers)


if __name__ == "__main__":
    sys.exit(main())
