"""Virtual environments beside our own, for servers and tools that must not share it."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

from filelock import FileLock


def make_venv(home: Path, requirements: Path) -> Path:
    """The Python of an environment, made once for a set of requirements.

    Args:
        home: Folder that holds it from run to run; git ignores it.
        requirements: Every package of it, exact.

    Raises:
        subprocess.CalledProcessError: pip could not install them.
    """
    wanted = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()
    python = home / "venv" / "bin" / "python"
    stamp = home / "venv" / "koasr-requirements.sha256"
    home.mkdir(exist_ok=True)
    with FileLock(home / "lock"):
        if stamp.is_file() and stamp.read_text() == wanted:
            return python
        venv.create(home / "venv", clear=True, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        options = ["--no-deps", "--only-binary=:all:", "-r", str(requirements)]
        subprocess.run([*pip, *options], check=True)
        stamp.write_text(wanted)
    return python
