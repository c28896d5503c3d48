"""A Python process beside this one that answers requests over a pipe, and may die without harm."""

import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from koasr.channel import MAX_FRAME_BYTES, Channel, make_memory, map_memory

_PARENT_POLL_S = 1.0


class ChildError(Exception):
    """The child ended, or had to be ended, before it answered. The message says how."""


class Child:
    """A process that runs `python -m module`, started when first spoken to and again after a death.

    Nothing is unpickled here, since a child that reads untrusted bytes may be theirs. It ends with
    this object, and with this process, however that ends.

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
        self._pipe: Channel | None = None

    def _start(self) -> Channel:
        ours, theirs = socket.socketpair()
        memory = make_memory()
        passed = [theirs.fileno()] + ([] if memory is None else [memory])
        command = [sys.executable, "-P", "-m", self._module, ",".join(map(str, passed))]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *self._arguments],
                env=self._environment,
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Decoders complain there about every odd byte.
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for the parent: here it would look like a crash.
                process_group=0,
            )
        # A child that hangs would outlive this object otherwise.
        self._kill = weakref.finalize(self, self._process.kill)
        self._pipe = Channel(ours, map_memory(memory), is_parent=True)
        return self._pipe

    @property
    def pid(self) -> int | None:
        """Of the process that runs now, None before the first request and after a death."""
        return self._process.pid if self._process else None

    def send(self, *frames: bytes | bytearray | memoryview, timeout_s: float | None = None) -> None:
        """Send frames, starting the child if none runs.

        Raises:
            ChildError: It died while they were sent.
            TimeoutError: It did not take them in time; it has been killed.
        """
        pipe = self._pipe or self._start()
        try:
            pipe.send_bytes(*frames, timeout_s=timeout_s)
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"did not take a request within {timeout_s:.0f} s") from error
        except OSError as error:
            raise ChildError(self._end()) from error

    def receive(self, timeout_s: float | None = None, max_bytes: int = MAX_FRAME_BYTES) -> bytes:
        """The next frame.

        Raises:
            ChildError: The child died, or sent more than `max_bytes` and has been killed.
            TimeoutError: None came in time; the child has been killed.
        """
        if self._pipe is None:
            raise ChildError("no child runs")
        try:
            return self._pipe.recv_bytes(timeout_s, max_bytes)
        except TimeoutError as error:
            self.kill()
            raise TimeoutError(f"no answer within {timeout_s:.0f} s") from error
        except ValueError as error:
            self.kill()
            raise ChildError(f"sent {error}") from error
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
            self._kill()
            self._process.wait()
        if self._pipe is not None:
            self._pipe.close()
        self._process = self._pipe = None


def serve(handle: Callable[[Channel], None]) -> None:
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
    end, *memory = map(int, sys.argv[1].split(","))
    shared = map_memory(memory[0] if memory else None)
    pipe = Channel(socket.socket(fileno=end), shared, is_parent=False)
    with suppress(EOFError, ConnectionError):
        while True:
            handle(pipe)
