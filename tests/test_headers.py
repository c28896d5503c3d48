"""What the headers say, also when they lie: never an exception, always a finite length."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sound import encode, recording, tone, wav

from koasr.headers import MAX_PROBED_S, inspect, probe_duration_s
from koasr.rows import Recording

STEREO = np.stack([tone(3.0), tone(3.0)], 1)
SOUND = {
    "WAV": encode(tone(3.0), kind="WAV"),
    "24 bit": encode(STEREO, kind="WAV", subtype="PCM_24"),
    "float": encode(STEREO, 44_100, "WAV", "FLOAT"),
    "extensible": encode(STEREO, 48_000, "WAVEX", "PCM_16"),
    "RF64": encode(tone(3.0), kind="RF64"),
    "FLAC": encode(STEREO, 22_050),
    "Vorbis": encode(tone(3.0), kind="OGG", subtype="VORBIS"),
    "Opus": encode(tone(3.0), kind="OGG", subtype="OPUS"),
    "MP3": encode(tone(3.0), kind="MP3"),
    "MP3 44.1": encode(STEREO, 44_100, "MP3"),
}
LENGTHS_S = {"24 bit": 3.0, "float": 48_000 / 44_100, "extensible": 1.0, "FLAC": 48_000 / 22_050}


def id3(num_bytes: int) -> bytes:
    """An ID3v2 tag of so many bytes behind its header."""
    sizes = bytes(num_bytes >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\0\0" + sizes + bytes(num_bytes)


@pytest.mark.parametrize("name", SOUND)
def test_the_length_is_known_without_decoding(name: str) -> None:
    expected_s = 48_000 / 44_100 if name == "MP3 44.1" else LENGTHS_S.get(name, 3.0)
    found = inspect(SOUND[name])
    assert found.duration_s == pytest.approx(expected_s, abs=0.1)
    assert (found.refused, found.missing_bytes) == ("", 0)


@pytest.mark.parametrize("tags", [id3(0), id3(5_000_000), id3(70) + id3(200_000)])
@pytest.mark.parametrize("name", ["MP3", "FLAC"])
def test_tags_in_front_are_left_out(name: str, tags: bytes) -> None:
    found = inspect(tags + SOUND[name])
    assert found.duration_s == inspect(SOUND[name]).duration_s
    assert found.parts == ((len(tags), len(tags + SOUND[name])),)


def test_padding_behind_a_tag_is_left_out() -> None:
    data = id3(100) + bytes(500) + SOUND["MP3"]
    assert inspect(data).parts == ((610, len(data)),)


def test_a_tag_that_is_longer_than_the_file_is_truncated() -> None:
    assert inspect(id3(1_000)[:500]).missing_bytes == 510


def test_a_chained_ogg_is_the_sum_of_its_links() -> None:
    data = SOUND["Vorbis"] + SOUND["Opus"]
    found = inspect(data)
    assert found.duration_s == pytest.approx(6.0, abs=0.1)
    size = len(SOUND["Vorbis"])
    assert found.parts == ((0, size), (size, len(data)))


@pytest.mark.parametrize("num_bytes", [1, 10, 30, 500])
def test_an_ogg_cut_within_a_page_lacks_bytes(num_bytes: int) -> None:
    assert inspect(SOUND["Vorbis"][:-num_bytes]).missing_bytes > 0


def test_an_ogg_cut_between_pages_is_taken_as_it_is() -> None:
    data = encode(tone(60.0), kind="OGG")
    last = data.rfind(b"OggS")
    found = inspect(data[:last])
    assert found.missing_bytes == 0
    assert 0 < found.duration_s < 60.0
    # Unless nothing but headers is left.
    second = data.find(b"OggS", 4)
    assert inspect(data[:second]).missing_bytes == 1


def test_an_mp3_header_that_promises_more_lacks_bytes() -> None:
    assert inspect(SOUND["MP3"][:-300]).missing_bytes == 0
    data = encode(tone(30.0), kind="MP3")
    assert inspect(data[: len(data) // 2]).missing_bytes > len(data) // 3


def test_an_mp3_lasts_no_longer_than_its_bytes_allow() -> None:
    data = bytearray(SOUND["MP3"])
    at = data.find(b"Xing") if b"Xing" in data else data.find(b"Info")
    data[at + 8 : at + 12] = b"\xff" * 4
    assert inspect(bytes(data)).duration_s <= len(data) * 8 / 8_000


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFF])
def test_a_wav_from_a_pipe_is_as_long_as_its_bytes(size: int) -> None:
    found = inspect(wav(tone(2.0).tobytes(), size=size))
    assert (found.duration_s, found.missing_bytes) == (2.0, 0)


def _wav_of_codec(codec: int, tail: bytes = b"") -> bytes:
    body = struct.pack("<HHIIHH", codec, 1, 16_000, 32_000, 2, 16) + tail
    head = b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<I", len(body)) + body
    return head + b"data" + struct.pack("<I", 4) + bytes(4)


GUID = bytes.fromhex("000000001000800000aa00389b71")


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (_wav_of_codec(1), ""),
        (_wav_of_codec(3), ""),
        (_wav_of_codec(2), "WAV codec 0x0002"),
        (_wav_of_codec(0x11), "WAV codec 0x0011"),
        (_wav_of_codec(0xFFFE, bytes(8) + b"\1\0" + GUID), ""),
        (_wav_of_codec(0xFFFE, bytes(8) + b"\x11\0" + GUID), "WAV codec 0x0011"),
        (_wav_of_codec(0xFFFE, bytes(8) + b"\1\0" + GUID[::-1]), "WAV sub-format 0100719b"),
        (id3(20) + _wav_of_codec(0x11), "WAV codec 0x0011"),
        (b"OggS\0\2" + bytes(20) + b"\1\7Speex  ", "Ogg codec 53 70 65 65 78 20 20"),
        (b"\xff\xf1\x50\x80" + bytes(100), "bytes ff f1 50 80 at the start"),
        (b"FORM\0\0\0\0AIFF", "bytes 46 4f 52 4d at the start"),
    ],
)
def test_what_should_not_reach_a_decoder_is_named(data: bytes, refused: str) -> None:
    assert inspect(data).refused[: len(refused) or None] == refused


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(sorted(SOUND)),
    st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=8)), max_size=8),
    st.integers(0, 3_000),
    st.binary(max_size=40),
)
def test_no_bytes_make_it_raise(
    name: str, changes: list[tuple[int, bytes]], length: int, before: bytes
) -> None:
    data = bytearray(SOUND[name][:length])
    for at, put in changes:
        data[at : at + len(put)] = put
    for audio in (bytes(data), before + bytes(data), id3(len(before)) + bytes(data)):
        found = inspect(audio)
        assert 0.0 <= found.duration_s <= MAX_PROBED_S
        assert found == inspect(audio)
        assert found.missing_bytes >= 0
        assert all(0 <= start <= end <= len(audio) for start, end in found.parts)


@settings(deadline=None)
@given(st.floats(), st.none() | st.floats(), st.booleans())
def test_no_cut_makes_a_length_that_is_none(
    offset_s: float, duration_s: float | None, raw_pcm: bool
) -> None:
    item: Recording = recording(
        SOUND["WAV"], offset_s=offset_s, duration_s=duration_s, raw_pcm=raw_pcm
    )
    found = probe_duration_s(item)
    assert math.isfinite(found)
    assert 0.0 <= found <= MAX_PROBED_S
