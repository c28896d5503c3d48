"""Recordings of a shard → packs of about 20 minutes → the same packs as segments.

A pack's bounds come from the recordings alone, so that every attempt makes the same packs: Ray
replays generators and refuses a different count.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from koasr.audio import AudioInfo, Samples, check_length, stream_audio
from koasr.errors import RecordingError, TransientError
from koasr.headers import probe_duration_s
from koasr.rows import SAMPLE_RATE, Recording, Reject, Shard, reject, short_hash
from koasr.segments import Segment, cut_segments

PACK_SECONDS = 20 * 60
MAX_PACK_BYTES = 128 << 20
"""Encoded bytes. 20 minutes of 44.1 kHz stereo WAV are 212 MB, more than a block should hold."""

MAX_PACK_RECORDINGS = 8192
"""With the rejects. 20 minutes of half seconds are 2,400; each has its rows to hold."""

Decode = Callable[[Recording], tuple[AudioInfo, Iterator[Samples]]]
"""What `stream_audio` and `Decoder.stream` are."""


@dataclass(frozen=True)
class Header:
    """Which pack of its shard this is.

    `shard` is the name of the shard's output, `uri` and `version` the shard itself. `members` is
    `before.own`: a hash of the recordings up to this pack, and of those up to its end, so that a
    staged pack is known by what it holds and by the pack it follows. A long recording's pack comes
    out of loading in several pieces; `cut` is `from.to`, a hash of where in which recording a piece
    begins and ends, empty at the ends of the pack. `num_recordings` and `size_bytes` (encoded) are
    counted in piece 0 only, so that they can be summed.
    """

    shard: str
    uri: str
    version: str
    members: str
    index: int
    is_last: bool
    num_recordings: int
    size_bytes: int
    piece: int = 0
    is_last_piece: bool = True
    cut: str = "."

    @property
    def is_whole_shard(self) -> bool:
        """Whether this one pack is all of its shard, so that nothing needs staging."""
        return self.index == 0 and self.is_last and self.piece == 0 and self.is_last_piece

    @property
    def pack_id(self) -> str:
        """Stable name: the shard's name holds its uri, etag and fingerprint."""
        return short_hash(self.shard, self.members, str(self.index), str(self.piece))


@dataclass(frozen=True)
class Pack:
    """Encoded recordings, and those that could not even be read."""

    header: Header
    recordings: list[Recording]
    rejects: list[Reject]


@dataclass(frozen=True)
class LoadedPack:
    """Segments of a pack: `segments[i]` belongs to `recordings[owners[i]]`, which hold no audio."""

    header: Header
    recordings: list[Recording]
    infos: list[AudioInfo]
    rejects: list[Reject]
    owners: list[int]
    segments: list[Segment]


@dataclass
class _Open:
    """The pack being filled."""

    recordings: list[Recording] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    seconds: float = 0.0
    size_bytes: int = 0


def plan_packs(
    items: Iterable[Recording | Reject],
    shard: Shard,
    name: str,
    pack_seconds: float = PACK_SECONDS,
) -> Iterator[Pack]:
    """Recordings in order as packs of at most 20 minutes, 128 MiB and 8,192 recordings.

    At least one pack; a recording longer than that is one of its own.

    Args:
        items: What `read_recordings` gives.
        shard: Where they lie.
        name: Name of the shard's output.
        pack_seconds: Seconds of a pack. Another value makes other packs.
    """
    held = _Open()
    index, before = 0, ""
    for item in items:
        seconds, size = _cost(item, held)
        is_full = (
            held.seconds + seconds > pack_seconds or held.size_bytes + size > MAX_PACK_BYTES
        ) and bool(held.recordings)
        if is_full or len(held.recordings) + len(held.rejects) == MAX_PACK_RECORDINGS:
            pack = _close(held, shard, name, index, before, is_last=False)
            yield pack
            held, index, before = _Open(), index + 1, pack.header.members.partition(".")[2]
            _, size = _cost(item, held)
        if isinstance(item, Reject):
            held.rejects.append(item)
        else:
            held.recordings.append(item)
        held.seconds += seconds
        held.size_bytes += size
    yield _close(held, shard, name, index, before, is_last=True)


def _cost(item: Recording | Reject, held: _Open) -> tuple[float, int]:
    """Seconds and encoded bytes that one more would add; unknown seconds count as none."""
    if isinstance(item, Reject):
        return 0.0, 0
    # Lines of a manifest that cut one file share its bytes.
    is_shared = bool(held.recordings) and held.recordings[-1].audio is item.audio
    return probe_duration_s(item), 0 if is_shared else len(item.audio)


def _close(held: _Open, shard: Shard, name: str, index: int, before: str, *, is_last: bool) -> Pack:
    num_recordings = len(held.recordings) + len(held.rejects)
    ids = [item.recording_id for item in held.recordings]
    ids += [item.recording_id for item in held.rejects]
    own = short_hash("last" if is_last else "more", before, *ids)
    place = (name, shard.uri, shard.version, f"{before}.{own}")
    header = Header(*place, index, is_last, num_recordings, held.size_bytes)
    return Pack(header, held.recordings, held.rejects)


def _segments(
    recording: Recording, samples_per_frame: int, decode: Decode
) -> Iterator[tuple[AudioInfo, Segment]]:
    info, blocks = decode(recording)
    num_samples = 0
    for segment in cut_segments(blocks, samples_per_frame):
        num_samples = segment.start + len(segment.samples)
        check_length(num_samples)
        yield info, segment
    check_length(num_samples)


class _Piece:
    """The loaded pack being filled."""

    def __init__(self) -> None:
        self.recordings: list[Recording] = []
        self.infos: list[AudioInfo] = []
        self.rejects: list[Reject] = []
        self.owners: list[int] = []
        self.segments: list[Segment] = []
        self.num_samples = self._end = 0

    def add(self, recording: Recording, info: AudioInfo, segment: Segment) -> None:
        bare = dataclasses.replace(recording, audio=b"")
        if not self.recordings or self.recordings[-1].recording_id != bare.recording_id:
            self.recordings.append(bare)
            self.infos.append(info)
        self.owners.append(len(self.recordings) - 1)
        self.segments.append(segment)
        self.num_samples += len(segment.samples)
        self._end = segment.start + len(segment.samples)

    def close(self, header: Header, before: Header | None, *, is_last: bool) -> LoadedPack:
        """End the piece that follows another one."""
        number, begin = (before.piece + 1, before.cut.partition(".")[2]) if before else (0, "")
        end = "" if is_last else short_hash(self.recordings[-1].recording_id, str(self._end))
        header = dataclasses.replace(
            header, piece=number, is_last_piece=is_last, cut=f"{begin}.{end}"
        )
        if number:
            header = dataclasses.replace(header, num_recordings=0, size_bytes=0)
        return LoadedPack(
            header, self.recordings, self.infos, self.rejects, self.owners, self.segments
        )


def load_pack(
    pack: Pack,
    samples_per_frame: int,
    decode: Decode = stream_audio,
    pack_seconds: float = PACK_SECONDS,
) -> Iterator[LoadedPack]:
    """Load a pack's recordings and cut them; one pack, or pieces of at most 20 minutes.

    A recording that fails is a reject, also when earlier pieces hold segments of it: the commit
    drops those.

    Args:
        pack: What `plan_packs` gives.
        samples_per_frame: Cuts lie on multiples of it.
        decode: How a recording becomes samples.
        pack_seconds: Seconds of a piece.

    Raises:
        TransientError: From `decode`: this machine cannot decode anything now.
    """
    piece, before = _Piece(), None
    piece.rejects += pack.rejects
    for recording in pack.recordings:
        try:
            for info, segment in _segments(recording, samples_per_frame, decode):
                num_samples = piece.num_samples + len(segment.samples)
                if piece.recordings and num_samples > pack_seconds * SAMPLE_RATE:
                    loaded = piece.close(pack.header, before, is_last=False)
                    yield loaded
                    piece, before = _Piece(), loaded.header
                piece.add(recording, info, segment)
        except RecordingError as error:
            piece.rejects.append(reject(recording, "load", error.reason, error.message))
        except TransientError:
            raise
        # Untrusted bytes fail in more ways than can be named, and one must not stop the run.
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            piece.rejects.append(reject(recording, "load", "unreadable", message))
    yield piece.close(pack.header, before, is_last=True)
