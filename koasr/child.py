"""A Python process beside this one that answers requests over a pipe, and may die without harm."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

_PARENT_POLL_S = 1.0


class ChildError(Exception):
    """The child ended, or had to be ended, before it answered. The message says how."""


class Child:
    """A process that runs `python -m module`, started when first spoken to and again after a death.

    Frames are bytes: nothing is unpickled, since a child that reads untrusted bytes may be theirs.

    Args:
        module: A module that calls `serve` when it is run.
        arguments: Its command line.
        environment: All of its environment variables; None for those of this process.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._module, self._arguments = module, tuple(arguments)
        self._environment = dict(os.environ if environment is None else environment)
        # The child finds this package where this process found it.
        self._environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        command = [sys.executable, "-P", "-m", self._module, str(theirs.fileno())]
        self._process = subprocess.Popen(
            [*command, *self._arguments],
            env=self._environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Decoders complain there about every odd byte.
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe = ours
        return ours

    @property
    def pid(self) -> int | None:
        """Of the process that runs now."""
        return self._process.pid if self._process else None

    def send(self, frame: bytes | memoryview) -> None:
        """Send one frame, starting the child if none runs.

        Raises:
            ChildError: It died while the frame was sent.
        """
        pipe = self._pipe or self._start()
        try:
            pipe.send_bytes(frame)
        except OSError as error:
            raise ChildError(self._end()) from error

    def receive(self, timeout_s: float | None = None) -> bytes:
        """The next frame.

        Raises:
            ChildError: The child died.
            TimeoutError: None came in time; the child has been killed.
        """
        if self._pipe is None:
            raise ChildError("no child runs")
        try:
            if not self._pipe.poll(timeout_s):
                self.kill()
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
            return self._pipe.recv_bytes()
        except (EOFError, ConnectionError) as error:
            raise ChildError(self._end()) from error

    def _end(self) -> str:
        """Forget the process; how it ended."""
        process, code = self._process, None
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(timeout=5)
        self.kill()
        if code is None:
            return "closed its pipe"
        return f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def kill(self) -> None:
        """End the process, if one runs. The next `send` starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def serve(handle: Callable[[Connection], None]) -> None:
    """In the child: handle one request after another until the parent is gone.

    Args:
        handle: Receives a request from the pipe and sends its answers. EOFError ends the child.
    """
    parent = os.getppid()

    def watch() -> None:
        # The pipe's end tells the same, but not to a decoder that hangs.
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
    pipe = Connection(int(sys.argv[1]))
    with suppress(EOFError, ConnectionError):
        while True:
            handle(pipe)
