"""Headers of MP3 frames: MPEG 1, 2 and 2.5, layer III."""

import struct
from dataclasses import dataclass

_KBIT_PER_S = {
    1: (64, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (64, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""By MPEG version (2.5 counts as 2) and index. Index 0 leaves the rate open; 64 is a guess."""
_RATES = (44_100, 48_000, 32_000)
_RATE_DIVISORS = {3: 1, 2: 2, 0: 4}
_SIDE_BYTES = {(1, False): 32, (1, True): 17, (2, False): 17, (2, True): 9}
"""Between a frame's header and its samples, by version and whether it is mono."""
_SEARCH_BYTES = 1 << 16
_MAX_LOSSES = 10_000
"""Of the thread from frame to frame, by tags and junk between them."""


@dataclass(frozen=True)
class Frame:
    """A frame as its header describes it. `start` is its place in the file, `rate` in Hz."""

    start: int
    version: int
    rate: int
    kbit_per_s: int
    is_padded: bool
    is_mono: bool

    @classmethod
    def read(cls, data: bytes, start: int) -> "Frame | None":
        """The frame at this place, None if there is none."""
        if start + 4 > len(data) or data[start] != 0xFF or data[start + 1] & 0xE6 != 0xE2:
            return None
        version_bits, bits = data[start + 1] >> 3 & 3, data[start + 2]
        if version_bits == 1 or bits >> 4 == 15 or bits >> 2 & 3 == 3:
            return None
        version = 1 if version_bits == 3 else 2
        rate = _RATES[bits >> 2 & 3] // _RATE_DIVISORS[version_bits]
        kbit_per_s = _KBIT_PER_S[version][bits >> 4]
        return cls(start, version, rate, kbit_per_s, bool(bits & 2), data[start + 3] >> 6 == 3)

    @property
    def num_samples(self) -> int:
        """Of each channel."""
        return 1_152 if self.version == 1 else 576

    @property
    def size_bytes(self) -> int:
        """With its header."""
        return self.num_samples * self.kbit_per_s * 125 // self.rate + self.is_padded

    @property
    def max_size_bytes(self) -> int:
        """Of any frame of this version and rate."""
        return self.num_samples * _KBIT_PER_S[self.version][-1] * 125 // self.rate + 1

    def promised(self, data: bytes) -> tuple[int, int]:
        """Frames and bytes that the Xing, Info or VBRI header in it counts; 0 for not said."""
        xing = self.start + 4 + _SIDE_BYTES[self.version, self.is_mono]
        if data[xing : xing + 4] in (b"Xing", b"Info") and len(data) >= xing + 16:
            flags, *counts = struct.unpack_from(">III", data, xing + 4)
            num_frames = counts.pop(0) if flags & 1 else 0
            return num_frames, counts.pop(0) if flags & 2 else 0
        vbri = self.start + 36
        if data[vbri : vbri + 4] == b"VBRI" and len(data) >= vbri + 18:
            num_bytes, num_frames = struct.unpack_from(">II", data, vbri + 10)
            return num_frames, num_bytes
        return 0, 0


def find_frame(data: bytes, start: int) -> Frame | None:
    """The first frame: at `start`, or behind tags within 64 KiB, where a second one follows."""
    found = Frame.read(data, start)
    if found is not None or start == 0:
        return found
    for at in range(start, min(start + _SEARCH_BYTES, len(data))):
        frame = Frame.read(data, at)
        if frame is not None and Frame.read(data, at + frame.size_bytes) is not None:
            return frame
    return None


def count_frames(data: bytes, first: Frame) -> int:
    """Frames from the first to the end of the file; 0 where they do not follow each other."""
    sizes: dict[bytes, int] = {}
    count = losses = 0
    at = first.start
    while at + 4 <= len(data):
        head = data[at : at + 3]
        size = sizes.get(head, -1)
        if size < 0:
            frame = Frame.read(data, at)
            size = sizes[head] = frame.size_bytes if frame else 0
        if size:
            count += 1
            at += size
            continue
        losses += 1
        at = data.find(b"\xff", at + 1)
        if at < 0 or losses > _MAX_LOSSES:
            break
    return 0 if losses > _MAX_LOSSES else count


def info_frame(data: bytes, first: Frame, num_frames: int) -> bytes:
    """A frame to put in front of a file that does not count its frames, or not rightly.

    libsndfile reads no further than it believes a file to be long, and without a count it takes
    the bitrate of the first frame for that of all.
    """
    sync, version, rate, mode = data[first.start : first.start + 4]
    # Without a checksum, and of the highest bitrate, so that there is room.
    head = bytes([sync, version | 1, rate & 0x0C | 0xE0, mode])
    side = bytes(_SIDE_BYTES[first.version, first.is_mono])
    frame = head + side + b"Xing" + struct.pack(">II", 1, num_frames)
    return frame.ljust(first.max_size_bytes - 1, b"\0")
