"""Decoding in a real child process, which crashes, hangs, lies and runs out of memory."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sound import encode, recording, tone, wav

from koasr.audio import AudioInfo, Samples, load_waveform
from koasr.decoder import Decoder
from koasr.errors import RecordingError, TransientError
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.packs import load_pack, plan_packs
from koasr.rows import Recording, Shard

FLAC = encode(tone(2.0))
LONG = np.tile(tone(10.0), 30)
"""300 s, which come in five frames."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(Limits(decode_timeout_s=2.0), module="crashing_decoder")
    yield decoder
    decoder.close()


def load(decoder: Decoder, item: Recording) -> tuple[AudioInfo, Samples]:
    info, blocks = decoder.stream(item)
    return info, np.concatenate([*blocks, np.zeros(0, np.int16)])


def failure(decoder: Decoder, audio: bytes) -> RecordingError:
    """What loading these bytes raises; whatever it is, the next recording is sound."""
    with pytest.raises(RecordingError) as caught:
        load(decoder, recording(audio))
    assert len(load(decoder, recording(FLAC))[1]) == 32_000
    return caught.value


@pytest.mark.parametrize(
    "item",
    [
        recording(FLAC),
        recording(encode(LONG)),
        recording(encode(LONG, kind="WAV", subtype="PCM_24"), offset_s=100.5, duration_s=90.25),
        recording(encode(tone(3.0, 44_100), 44_100, "MP3")),
        recording(encode(tone(3.0), kind="OGG"), offset_s=1.0),
        recording(encode(np.zeros((48_000, 2), np.int16), 48_000)),
    ],
)
def test_the_child_gives_what_this_process_gives(item: Recording) -> None:
    decoder = Decoder()
    info, samples = load(decoder, item)
    here = load_waveform(item)
    assert np.array_equal(samples, here.samples)
    assert info == here.info
    decoder.close()


@pytest.mark.parametrize("is_wav", [False, True])
def test_plain_samples_need_no_child(is_wav: bool) -> None:
    decoder = Decoder()
    audio = wav(tone(1.0).tobytes()) if is_wav else tone(1.0).tobytes()
    _, samples = load(decoder, recording(audio, raw_pcm=not is_wav))
    assert np.array_equal(samples, tone(1.0))
    assert decoder.pid is None


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        (b"this is text", "unsupported_format"),
        (b"", "empty"),
        (FLAC[: len(FLAC) // 2], "truncated"),
        (wav(tone(1.0).tobytes(), rate=1), "bad_sample_rate"),
        (b"raise:", "unreadable"),
    ],
)
def test_the_reason_comes_from_the_child(decoder: Decoder, audio: bytes, reason: str) -> None:
    assert failure(decoder, audio).reason == reason


def test_a_crash_says_how_and_one_recording_pays(decoder: Decoder) -> None:
    error = failure(decoder, b"crash:")
    assert (error.reason, error.message) == ("crashed", "the decoder ended by signal 11")


def test_a_hang_ends_in_time(decoder: Decoder) -> None:
    start_s = time.monotonic()
    assert failure(decoder, b"hang:").reason == "timeout"
    assert time.monotonic() - start_s < 20


def test_want_of_memory_is_too_large(decoder: Decoder) -> None:
    assert failure(decoder, b"eat:").reason == "too_large"


def test_the_child_may_write_no_file(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "written"
    assert failure(decoder, b"write:" + bytes(path)).message.startswith("OSError")
    assert not path.exists() or path.stat().st_size == 0


@pytest.mark.parametrize("lie", ["short", "odd", "rate", "kind", "reason", "json", "big"])
def test_an_answer_that_is_none_is_a_crash(decoder: Decoder, lie: str) -> None:
    assert failure(decoder, f"lie:{lie}".encode()).reason == "crashed"


def test_a_child_that_sends_without_end_is_stopped() -> None:
    decoder = Decoder(Limits(max_duration_s=300.0), module="crashing_decoder")
    error = failure(decoder, b"lie:endless")
    assert (error.reason, error.message) == ("crashed", "the decoder sent more than it may")
    decoder.close()


@pytest.mark.parametrize("when", ["once", "late"])
def test_a_crash_is_tried_again_before_it_counts(
    decoder: Decoder, tmp_path: Path, when: str
) -> None:
    mark = tmp_path / "mark"
    audio = b":".join([when.encode(), bytes(mark), encode(LONG)])
    _, blocks = decoder.stream(recording(audio))
    first = next(blocks)
    mark.mkdir(exist_ok=True)
    assert np.array_equal(np.concatenate([first, *blocks]), LONG)


def test_what_came_before_a_late_crash_was_sound(decoder: Decoder, tmp_path: Path) -> None:
    audio = b":".join([b"late", bytes(tmp_path / "never made"), encode(LONG)])
    _, blocks = decoder.stream(recording(audio))
    found: list[Samples] = []
    with pytest.raises(RecordingError, match="signal 11"):
        found.extend(blocks)
    assert sum(map(len, found)) > 2 << 20
    assert np.array_equal(np.concatenate(found), LONG[: sum(map(len, found))])


def test_a_slow_reader_is_not_a_slow_decoder(decoder: Decoder) -> None:
    _, blocks = decoder.stream(recording(encode(LONG)))
    found = [next(blocks)]
    time.sleep(2.5)
    assert np.array_equal(np.concatenate([*found, *blocks]), LONG)


def test_a_stream_that_is_left_does_not_reach_the_next(decoder: Decoder) -> None:
    _, left = decoder.stream(recording(encode(LONG)))
    next(left)
    _, samples = load(decoder, recording(FLAC))
    assert np.array_equal(samples, tone(2.0))
    with pytest.raises(RuntimeError, match="another recording"):
        list(left)


def test_the_neighbours_of_a_crash_and_a_hang_are_loaded(decoder: Decoder) -> None:
    audio = [FLAC, b"crash:", FLAC, b"hang:", FLAC]
    items = [replace(recording(a), recording_id=f"id{i}") for i, a in enumerate(audio)]
    (pack,) = plan_packs(items, Shard("uri", "etag", 1, "tar"), "name")
    (loaded,) = load_pack(pack, 320, decode=decoder.stream)
    assert [r.recording_id for r in loaded.recordings] == ["id0", "id2", "id4"]
    assert [(r.recording_id, r.reason) for r in loaded.rejects] == [
        ("id1", "crashed"),
        ("id3", "timeout"),
    ]


def test_a_machine_that_starts_no_child_rejects_nothing() -> None:
    decoder = Decoder(module="no_such_module")
    (pack,) = plan_packs([recording(FLAC)], Shard("uri", "etag", 1, "tar"), "name")
    with pytest.raises(TransientError, match="does not start"):
        list(load_pack(pack, 320, decode=decoder.stream))


def test_the_child_knows_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a canary")
    decoder = Decoder()
    load(decoder, recording(FLAC))
    names = {
        line.partition(b"=")[0]
        for line in Path(f"/proc/{decoder.pid}/environ").read_bytes().split(b"\0")
    }
    assert b"AWS_SECRET_ACCESS_KEY" not in names
    allowed = {b"PATH", b"LD_LIBRARY_PATH", b"LANG", b"HOME", b"TMPDIR", b"PYTHONPATH"}
    assert {n for n in names if not n.startswith((b"MALLOC_", b"OMP_"))} <= allowed | {b""}
    decoder.close()


def test_the_child_is_confined(decoder: Decoder) -> None:
    load(decoder, recording(FLAC))
    lines = Path(f"/proc/{decoder.pid}/limits").read_text().splitlines()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines[1:]}
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == ["0", "0"]
    assert int(limits["Max open files"][1]) <= 64
    soft, hard = map(int, limits["Max address space"])
    assert soft < hard < DEFAULT_LIMITS.decode_memory_bytes + 5 * DEFAULT_LIMITS.max_bytes
    descriptors = os.listdir(f"/proc/{decoder.pid}/fd")
    # Standard streams, the pipe and its memory: none of ours.
    assert len(descriptors) <= 5


def test_a_bomb_is_decoded_in_little_memory_and_stopped_by_its_length() -> None:
    silence = np.zeros((192_000 * 60, 8), np.int16)
    bomb = encode(silence, 192_000)
    assert silence.nbytes > 1_000 * len(bomb)
    decoder = Decoder(Limits(decode_memory_bytes=64 << 20))
    assert len(load(decoder, recording(bomb))[1]) == 60 * 16_000
    lying = bytearray(bomb)
    lying[21] |= 0x0F
    lying[22:26] = b"\xff" * 4
    with pytest.raises(RecordingError) as caught:
        load(decoder, recording(bytes(lying)))
    assert caught.value.reason in ("too_long", "truncated")
    decoder.close()
    unsaid = bytearray(bomb)
    unsaid[21] &= 0xF0
    unsaid[22:26] = b"\0" * 4
    decoder = Decoder(Limits(max_duration_s=30.0))
    with pytest.raises(RecordingError) as caught:
        load(decoder, recording(bytes(unsaid)))
    assert caught.value.reason == "too_long"
    decoder.close()
