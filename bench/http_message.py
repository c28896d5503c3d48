"""HTTP messages, whole: what the fault proxy reads and passes on."""

import asyncio
from dataclasses import dataclass

MAX_HEADER_BYTES = 1 << 20
_NO_BODY = {204, 304}


@dataclass
class Message:
    """A request or an answer. `start` is its first line."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def header(self, name: str) -> str:
        """Its first header of this name, in lower case; empty without one."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split()[1])

    def head(self) -> bytes:
        """All that comes before the body."""
        lines = [self.start, *(f"{key}: {value}" for key, value in self.headers), "", ""]
        return "\r\n".join(lines).encode("latin-1")


async def read_message(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None, asked: str = ""
) -> Message | None:
    """A request or, with `asked`, the answer to that method; None at the end of a connection."""
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    pairs = (line.partition(":") for line in lines[1:] if line)
    message = Message(lines[0], [(key, value.strip()) for key, _, value in pairs])
    if asked and message.status == 100:
        return await read_message(reader, writer, asked)
    if writer and message.header("expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if asked == "HEAD" or (asked and message.status in _NO_BODY):
        return message
    if message.header("transfer-encoding") == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            message.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    elif length := message.header("content-length"):
        message.body = await reader.readexactly(int(length))
    elif asked:
        message.body = await reader.read()
    return message
