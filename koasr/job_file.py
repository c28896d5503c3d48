"""A job file (TOML) → flags of the command, under those that were typed."""

import tomllib
from pathlib import Path

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from koasr.errors import JobError

USUAL = "koasr.toml"
"""Read if it is in the working directory and no other is named."""
_MAX_BYTES = 1 << 20


def read_job_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill in what was not typed. `[select] hours = 5` is `--select.hours 5`, and so is every key.

    Called by cyclopts, which refuses a key that is no flag and suggests the near one.

    Raises:
        JobError: The named file is not there, or no file is TOML.
    """
    named = [t.value for a in arguments if a.name == "--job" for t in a.tokens]
    uri = named[-1] if named else USUAL
    if not named and not Path(uri).is_file():
        return
    document = _read(uri)
    if "job" in document:
        raise JobError(f"{uri} names a job file itself: wanted its keys here", 2)
    for section in {name.partition(".")[0] for name in _keys(arguments) if "." in name}:
        if not isinstance(document.get(section, {}), dict):
            # Whatever it is may be a secret.
            raise JobError(f"{uri}: {section} has a value, wanted a section [{section}]", 2)
    # Keys of cyclopts' files are commands, and a section may be called as another command is.
    Dict({commands[-1]: document}, source=uri)(app, commands, arguments)


def _keys(arguments: ArgumentCollection) -> list[str]:
    return [name.removeprefix("--") for argument in arguments for name in argument.names]


def _read(uri: str) -> dict[str, object]:
    # Only for whoever has a job file: to import it takes long.
    from koasr.storage import absolute, check_reachable, impatient, job_errors, read_bytes

    check_reachable(uri)
    with job_errors(uri), impatient():
        data = read_bytes(absolute(uri), start=0, end=_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise JobError(f"{uri} is too large for a job file", 2)
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobError(f"{uri} is no TOML: {error}", 2) from error
