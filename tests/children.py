"""What a child process can do wrong. Light: the child imports this file.

The functions are for `run_apart`; `python -m children` serves the requests of tests of `Child`.
"""

import os
import signal
import sys
import time
from multiprocessing.connection import Connection

from koasr.channel import Channel
from koasr.child import serve


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


def answer(pipe: Channel) -> None:
    """Do what the request says: it is a word, and what follows it."""
    word, _, rest = pipe.recv_bytes().partition(b" ")
    if word == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif word == b"leave":
        os._exit(3)
    elif word == b"hang":
        time.sleep(600)
    elif word == b"half":
        # The length of a frame that never comes.
        os.write(int(sys.argv[1].split(",")[0]), b"\x10" + b"\0" * 7)
        time.sleep(600)
    elif word == b"deaf":
        pipe.send_bytes(b"")
        time.sleep(600)
    elif word == b"twice":
        pipe.send_bytes(rest)
        pipe.send_bytes(rest[::-1])
    elif word == b"arguments":
        pipe.send_bytes(" ".join(sys.argv[2:]).encode())
    else:
        pipe.send_bytes(rest)


if __name__ == "__main__":
    serve(answer)
