"""What an untrusted source may ask of us: every limit, each with a sane default."""

from dataclasses import dataclass, fields

from koasr.errors import JobError


@dataclass(frozen=True)
class Limits:
    """Limits of one recording and of one shard. What exceeds one is rejected, and says so.

    They decide what is rejected and never how the rest is transcribed, so they are no part of the
    fingerprint: `koasr retry` may raise one. Seconds are counted while a recording is decoded, its
    name is the one inside its shard, memory is besides the recording itself, and what of a shard
    is over `max_members` is one reject. Without `any_format` PCM and float WAV, FLAC, Ogg and MP3
    alone reach libsndfile.

    Args:
        max_duration_s: Seconds of a recording.
        max_bytes: Encoded bytes of a recording.
        max_channels: Channels of a recording.
        min_sample_rate_hz: Lowest sample rate of a recording.
        max_sample_rate_hz: Highest sample rate of a recording.
        max_members: Recordings of a shard.
        max_name_bytes: Bytes of a recording's name.
        decode_timeout_s: Seconds of decoding, +5% of its length.
        decode_memory_bytes: Memory to decode with.
        any_format: Let all of libsndfile's formats in: known holes.
        allow: Folders and URIs that manifests may name besides.
    """

    max_duration_s: float = 4 * 3600.0
    max_bytes: int = 1 << 30
    max_channels: int = 32
    min_sample_rate_hz: int = 4_000
    max_sample_rate_hz: int = 384_000
    max_members: int = 1_000_000
    max_name_bytes: int = 1_024
    decode_timeout_s: float = 60.0
    decode_memory_bytes: int = 2 << 30
    any_format: bool = False
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a limit that nothing could keep.

        Raises:
            JobError: One is not more than 0.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in (int, float) and not value > 0:
                flag = "--" + field.name.replace("_", "-")
                raise JobError(f"{flag}: found {value}, wanted more than 0", 2)


DEFAULT_LIMITS = Limits()
