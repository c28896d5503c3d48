"""A stored file opened to be read; its own failures are told from those found in its bytes."""

import io

from koasr.items import unescape_name
from koasr.storage import open_fs, transient_errors

_BLOCK_BYTES = 8 << 20
_BUFFER_BYTES = 1 << 20


class _Stored(io.RawIOBase):
    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        fs, path = open_fs(unescape_name(uri))
        with transient_errors(uri):
            self._file = fs.open(path, "rb", block_size=_BLOCK_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with transient_errors(self._uri):
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        with transient_errors(self._uri):
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()


def open_stored(uri: str) -> io.BufferedReader:
    """Open a file, in the form its name has in a listing (`escape_name`).

    Raises:
        FileNotFoundError: It is not there, or its name cannot be. Here and while reading.
        TransientError: The store failed in a way that may pass. Here and while reading.
        JobError: A store denied access. Here and while reading.
    """
    return io.BufferedReader(_Stored(uri), _BUFFER_BYTES)


def read_at_most(uri: str, max_bytes: int) -> bytes:
    """The bytes of one file, or the first of them if there are more than `max_bytes`.

    Raises:
        FileNotFoundError: See `open_stored`, as for the others.
    """
    with open_stored(uri) as file:
        return file.read(max_bytes)
