"""Encoded bytes → what container they are and how long, from the headers alone.

Pure Python, so that no byte can do worse than be refused, and the bytes alone decide: packs are
planned with it and must be the same at every attempt.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from koasr.mp3 import Frame, count_frames, find_frame, info_frame
from koasr.rows import SAMPLE_RATE, Recording

MAX_PROBED_S = 4 * 3600.0
"""Longest guess. Not the limit that a flag sets: a pack's bounds may not move with flags."""

_MIN_OGG_BITS_PER_S = 500
"""Opus sends a byte or two for each 60 ms of silence."""
_MAX_ID3_TAGS = 64
_MAX_CHUNKS = 10_000
_MAX_PAGES = 1_000_000
"""What a sound file stays far below; a file made of nothing else would keep a loop busy."""

_WAV_CODECS = {1: "PCM", 3: "float"}
_EXTENSIBLE = 0xFFFE
_EXTENSIBLE_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")
_STREAMED_WAV_SIZES = (0, 0x7FFFFFF0, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF, (1 << 64) - 1)
"""Sizes that a writer to a pipe leaves in the header: it could not go back to fill them in."""
_OGG_CODECS = (b"\x01vorbis", b"OpusHead")
_NO_GRANULE = (1 << 64) - 1


@dataclass(frozen=True)
class Container:
    """What a file is, as far as its headers can be believed.

    `duration_s` is a guess where they do not say, within [0, `MAX_PROBED_S`]. `refused` names a
    codec that should not reach a decoder, "" for none. `missing_bytes` counts what the headers
    promise and the file lacks, at least. `parts` are the byte ranges [start, end) to decode one
    after the other: tags in front are left out, and a chained Ogg file has several. `head` goes
    before them. `pcm` is the byte range of samples that are mono int16 at 16 kHz already.
    """

    kind: Literal["WAV", "FLAC", "Ogg", "MP3", "unknown"]
    duration_s: float
    parts: tuple[tuple[int, int], ...]
    refused: str = ""
    missing_bytes: int = 0
    head: bytes = b""
    pcm: tuple[int, int] | None = None


def inspect(data: bytes) -> Container:
    """Find out what a file is. Takes any bytes, and never raises."""
    start = _skip_id3(data)
    magic = data[start : start + 4]
    if magic in (b"RIFF", b"RF64") and data[start + 8 : start + 12] == b"WAVE":
        return _inspect_wav(data, start)
    if magic == b"fLaC":
        return _inspect_flac(data, start)
    if magic == b"OggS":
        return _inspect_ogg(data, start)
    if start > len(data):
        return Container("MP3", 0.0, ((0, len(data)),), missing_bytes=start - len(data))
    frame = find_frame(data, start)
    if frame is not None:
        return _inspect_mp3(data, frame)
    found = f"bytes {magic.hex(' ')} at the start" if magic else "no bytes behind the tags"
    return Container("unknown", 0.0, ((0, len(data)),), found)


def probe_duration_s(recording: Recording) -> float:
    """Length in seconds as the header has it, to plan packs with: a guess where it does not say."""
    if recording.raw_pcm:
        total = min(len(recording.audio) / (2 * SAMPLE_RATE), MAX_PROBED_S)
    else:
        total = inspect(recording.audio).duration_s
    cut = total if recording.duration_s is None else min(total, recording.duration_s)
    # In this order NaN becomes 0.
    return max(0.0, min(total - recording.offset_s, cut))


def _seconds(count: float, rate: float) -> float:
    return min(max(count / rate, 0.0), MAX_PROBED_S) if rate > 0 else 0.0


def _skip_id3(data: bytes) -> int:
    """Where the ID3v2 tags in front end; behind the file's end if a tag says so.

    libsndfile skips one too, and then takes whatever kind of file follows.
    """
    start = 0
    for _ in range(_MAX_ID3_TAGS):
        if data[start : start + 3] != b"ID3" or len(data) < start + 10:
            break
        flags, *sizes = data[start + 5 : start + 10]
        size = sum(
            (byte & 0x7F) << shift for byte, shift in zip(sizes, (21, 14, 7, 0), strict=True)
        )
        start += 10 + size + (10 if flags & 0x10 else 0)
    return start


def _wav_codec(data: bytes, position: int) -> str:
    """Name of a codec that is neither PCM nor float, "" for those, from a `fmt ` chunk's body."""
    codec = struct.unpack_from("<H", data, position)[0]
    if codec == _EXTENSIBLE and len(data) >= position + 40:
        tail = data[position + 26 : position + 40]
        codec = struct.unpack_from("<H", data, position + 24)[0]
        if tail != _EXTENSIBLE_GUID_TAIL:
            return f"WAV sub-format {data[position + 24 : position + 40].hex()}"
    return "" if codec in _WAV_CODECS else f"WAV codec {codec:#06x}"


def _inspect_wav(data: bytes, start: int) -> Container:
    position, refused, bytes_per_s, size_64 = start + 12, "", 0, 0
    is_plain = False
    whole = ((start, len(data)),)
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            break
        name, size = struct.unpack_from("<4sI", data, position)
        position += 8
        if name == b"ds64" and position + 16 <= len(data):
            size_64 = struct.unpack_from("<Q", data, position + 8)[0]
        if name == b"fmt " and position + 16 <= len(data):
            refused = refused or _wav_codec(data, position)
            form = struct.unpack_from("<HHIIHH", data, position)
            codec, channels, rate, _, frame_bytes, bits = form
            is_plain = (codec, channels, rate, frame_bytes, bits) == (1, 1, SAMPLE_RATE, 2, 16)
            bytes_per_s = channels * rate * (-(-bits // 8))
        if name == b"data":
            size = size_64 if size == 0xFFFFFFFF and size_64 else size
            here = len(data) - position
            missing = 0 if size in _STREAMED_WAV_SIZES else max(0, size - here)
            held = here if size in _STREAMED_WAV_SIZES else min(size, here)
            pcm = (position, position + held) if is_plain else None
            seconds = _seconds(held, bytes_per_s)
            return Container("WAV", seconds, whole, refused, missing, pcm=pcm)
        position += size + size % 2
    return Container("WAV", 0.0, whole, refused)


def _inspect_flac(data: bytes, start: int) -> Container:
    whole = ((start, len(data)),)
    # The first block is STREAMINFO; its last 16 bytes are a checksum.
    if len(data) < start + 26 or data[start + 4] & 0x7F:
        return Container("FLAC", 0.0, whole)
    packed = int.from_bytes(data[start + 18 : start + 26], "big")
    rate, channels = packed >> 44, (packed >> 41 & 7) + 1
    bits, num_frames = (packed >> 36 & 31) + 1, packed & (1 << 36) - 1
    if num_frames == 0:
        # From a pipe. FLAC makes speech about half as large.
        num_frames = 2 * 8 * (len(data) - start) // (channels * bits)
    return Container("FLAC", _seconds(num_frames, rate), whole)


@dataclass
class _Link:
    """One stream of a chained Ogg file."""

    start: int
    head: bytes
    serial: int
    granule: int = 0

    def duration_s(self, end: int) -> float:
        rate, skipped = 0, 0
        if self.head.startswith(b"OpusHead"):
            rate, skipped = 48_000, int.from_bytes(self.head[10:12], "little")
        elif self.head.startswith(b"\x01vorbis"):
            rate = int.from_bytes(self.head[12:16], "little")
        # The first granule of a captured broadcast may be hours.
        longest = (end - self.start) * 8 / _MIN_OGG_BITS_PER_S
        return min(_seconds(self.granule - skipped, rate), longest)


def _pages(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Pages of an Ogg file: where each starts, and where it says to end."""
    for _ in range(_MAX_PAGES):
        start = data.find(b"OggS", start)
        if start < 0:
            return
        num_segments = data[start + 26] if start + 27 <= len(data) else 0
        table = data[start + 27 : start + 27 + num_segments]
        end = start + 27 + num_segments + sum(table)
        yield start, end
        start = end


def _inspect_ogg(data: bytes, start: int) -> Container:
    links: list[_Link] = []
    is_first = is_ended = False
    end = start
    for page, page_end in _pages(data, start):
        head = data[page : page + 18].ljust(18, b"\0")
        flags, granule, serial = struct.unpack_from("<BQI", head, 5)
        if flags & 2 and not is_first:
            links.append(_Link(page, _first_packet(data, page), serial))
        is_first, is_ended = bool(flags & 2), is_ended or bool(flags & 4)
        if links and serial == links[-1].serial and granule != _NO_GRANULE:
            links[-1].granule = granule
        end = page_end
    ends = [link.start for link in links[1:]] + [len(data)] * bool(links)
    parts = tuple((link.start, part_end) for link, part_end in zip(links, ends, strict=True))
    seconds = sum(link.duration_s(part[1]) for link, part in zip(links, parts, strict=True))
    missing = max(0, end - len(data))
    is_cut_at_page = bool(links) and not is_ended and not any(link.granule for link in links)
    if not missing and (is_cut_at_page or data[end:] in (b"O", b"Og", b"Ogg")):
        missing = 1
    bad = next((link.head[:8] for link in links if not _is_our_codec(link.head)), b"")
    refused = f"Ogg codec {bad.hex(' ')}" if bad else ""
    parts = parts or ((start, len(data)),)
    return Container("Ogg", min(seconds, MAX_PROBED_S), parts, refused, missing)


def _is_our_codec(head: bytes) -> bool:
    """Also of what is left of its name in a file cut short."""
    return any(codec.startswith(head[: len(codec)]) for codec in _OGG_CODECS)


def _first_packet(data: bytes, page: int) -> bytes:
    """The start of it; it lies behind a table of one length or more."""
    body = page + 27 + (data[page + 26] if page + 27 <= len(data) else 0)
    return data[body : body + 64]


def _inspect_mp3(data: bytes, first: Frame) -> Container:
    here = len(data) - first.start
    promised_frames, promised_bytes = first.promised(data)
    largest = first.max_size_bytes
    missing = promised_bytes - here if promised_bytes > here + largest else 0
    # The frame that holds the promise has no sound.
    num_frames = count_frames(data, first) - (promised_frames > 0)
    start, head = first.start, b""
    if num_frames > 0 and abs(num_frames - promised_frames) > 1 and not missing:
        start = min(start + (first.size_bytes if promised_frames else 0), len(data))
        head = info_frame(data, first, num_frames)
    seconds = num_frames * first.num_samples / first.rate
    if num_frames <= 0:
        seconds = here * 8 / (first.kbit_per_s * 1_000)
    return Container("MP3", _seconds(seconds, 1.0), ((start, len(data)),), "", missing, head)
