"""A real S3 store for tests: OpenStack Swift in a virtual environment of its own, on loopback."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from environments import make_venv

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".swift"
LAUNCHER = ROOT / "tests" / "servers" / "swift_s3.py"
REQUIREMENTS = ROOT / "tests" / "servers" / "swift-requirements.txt"


@dataclass(frozen=True)
class S3Server:
    """Where the store answers, and the one user it knows."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str

    def environment(self) -> dict[str, str]:
        """Variables that lead s3fs and pyarrow to the store, and to nothing of the developer's."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            # Else a client without credentials asks a cloud's metadata service, for seconds.
            "AWS_EC2_METADATA_DISABLED": "true",
        }


def make_environment() -> Path:
    """The Python of Swift's virtual environment, made once for a set of requirements."""
    return make_venv(HOME, REQUIREMENTS)


def find_data_dir() -> Path | None:
    """A new folder on a file system with extended attributes, which Swift needs, or None."""
    for parent in (tempfile.gettempdir(), str(HOME), "/var/tmp"):
        try:
            folder = Path(tempfile.mkdtemp(prefix="koasr-swift-", dir=parent))
        except OSError:
            continue
        try:
            os.setxattr(folder, "user.koasr", b"1" * 1024)
            return folder
        except OSError:
            folder.rmdir()
    return None


@contextmanager
def run_server(python: Path, folder: Path) -> Iterator[S3Server]:
    """Swift over `folder` (which it makes), stopped at the end.

    Raises:
        RuntimeError: A server ended or did not answer within a minute; says where to look.
    """
    command = [str(python), str(LAUNCHER), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        if not ready:
            raise RuntimeError(f"Swift did not start (its message is above, its logs in {folder})")
        yield S3Server(**json.loads(ready))
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()
