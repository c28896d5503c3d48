"""Selected rows of one shard → its part of a training set, cut and written."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from koasr.clips import Clip, cut_clips
from koasr.datasets import Format, split_parts, write_part
from koasr.decoder import Decoder
from koasr.errors import JobError
from koasr.limits import Limits
from koasr.rows import Shard
from koasr.storage import transient_errors


@dataclass(frozen=True)
class Target:
    """The training set to make: where, as what, of what, and how its clips are cut."""

    out: str
    to: Format
    selection: str
    trim: bool
    limits: Limits


@dataclass(frozen=True)
class Exported:
    """What a shard gave: clips, rows without one by why, and lines of the set's index."""

    name: str
    num_clips: int
    audio_s: float
    skipped: dict[str, int]
    lines: bytes


def export_shard(shard: Shard, name: str, rows: pa.Table, target: Target) -> Exported:
    """Cut and write the clips of one shard.

    Args:
        shard: As it was planned.
        name: Of its files in the set.
        rows: Its transcripts that are wanted.
        target: What to make of them.

    Raises:
        TransientError: The store failed in a way that may pass, or nothing can be decoded now.
        JobError: A store denied access.
    """
    skipped: Counter[str] = Counter()
    num_clips, audio_s, lines = 0, 0.0, b""
    decoder = Decoder(target.limits)

    def clips() -> Iterator[Clip]:
        for found in cut_clips(shard, rows, decoder.stream, trim=target.trim, limits=target.limits):
            if isinstance(found, Clip):
                yield found
            else:
                skipped[found.why] += 1

    try:
        for number, part in enumerate(split_parts(clips())):
            lines += _write(part, f"{name}-{number:05d}", target)
            num_clips += len(part)
            audio_s += sum(clip.duration_s for clip in part)
    finally:
        decoder.close()
    return Exported(name, num_clips, audio_s, dict(skipped), lines)


def _write(part: Sequence[Clip], name: str, target: Target) -> bytes:
    try:
        with transient_errors(target.out):
            return write_part(part, name, target.to, target.out, target.selection)
    except (FileNotFoundError, PermissionError) as error:
        message = f"{target.out} cannot be written: {type(error).__name__}"
        raise JobError(f"{message}: a cluster needs a folder that all its machines see") from error
