"""What a child process can do wrong, for `run_apart`. Light: the child imports this file."""

import os
import signal
import time
from multiprocessing.connection import Connection


def crash(pipe: Connection) -> None:
    """Die as a process with a memory fault does."""
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(pipe: Connection) -> None:
    """End without an answer."""
    os._exit(3)


def hang(pipe: Connection) -> None:
    """Never answer."""
    time.sleep(600)


def refuse(pipe: Connection) -> None:
    """Answer with a line."""
    pipe.send("not good enough")


def count(pipe: Connection, number: int) -> None:
    """Answer with counts."""
    pipe.send({"number": number})
