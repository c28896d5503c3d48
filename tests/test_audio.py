"""Real encoded files, sound and broken, through the loader."""

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from sound import encode, recording, tone, wav

from koasr.audio import load_waveform, stream_audio
from koasr.errors import RecordingError
from koasr.headers import probe_duration_s
from koasr.limits import Limits
from koasr.mp3 import Frame


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", ""), ("WAV", "PCM_16")])
def test_16_bit_at_16_khz_passes_unchanged(kind: str, subtype: str) -> None:
    samples = tone(1.5)
    audio = load_waveform(recording(encode(samples, kind=kind, subtype=subtype)))
    assert np.array_equal(audio.samples, samples)
    assert (audio.info.sample_rate_hz, audio.info.channels) == (16_000, 1)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_keep_length_and_place(rate: int) -> None:
    audio = load_waveform(recording(encode(tone(2.0, rate), rate)))
    assert abs(len(audio.samples) - 32_000) <= 1
    expected = tone(2.0)[400:-400].astype(float)
    found = audio.samples[400 : len(expected) + 400].astype(float)
    assert np.corrcoef(expected, found)[0, 1] > 0.999


@pytest.mark.parametrize(
    ("kind", "subtype"), [("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
)
def test_lossy_kinds_load(kind: str, subtype: str) -> None:
    audio = load_waveform(recording(encode(tone(2.0), kind=kind, subtype=subtype)))
    assert abs(audio.duration_s - 2.0) < 0.1


def test_stereo_is_the_mean_of_its_channels() -> None:
    left = tone(1.0)
    audio = load_waveform(recording(encode(np.stack([left, np.zeros_like(left)], 1))))
    assert np.abs(audio.samples - left / 2).max() <= 1
    assert audio.info.channels == 2


def test_raw_pcm_drops_half_a_sample() -> None:
    samples = tone(1.0)
    audio = load_waveform(recording(samples.tobytes() + b"\x01", raw_pcm=True))
    assert np.array_equal(audio.samples, samples)


@pytest.mark.parametrize("kind", ["FLAC", "WAV", "MP3"])
def test_a_cut_starts_and_ends_where_it_says(kind: str) -> None:
    data = encode(tone(4.0), kind=kind)
    whole = load_waveform(recording(data)).samples
    cut = load_waveform(recording(data, offset_s=1.0, duration_s=0.5)).samples
    assert np.array_equal(cut, whole[16_000:24_000])


@pytest.mark.parametrize("kind", ["FLAC", "MP3", "OGG"])
def test_blocks_join_without_a_seam(kind: str) -> None:
    data = encode(tone(20.0), kind=kind)
    whole, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    _, blocks = stream_audio(recording(data))
    loaded = np.concatenate(list(blocks))
    assert np.abs(loaded - whole * 32_768).max() <= 1


def test_a_cut_knows_its_length_without_decoding() -> None:
    assert probe_duration_s(recording(tone(3.0).tobytes(), raw_pcm=True)) == pytest.approx(3.0)
    cut = recording(encode(tone(3.0)), offset_s=1.0, duration_s=9.0)
    assert probe_duration_s(cut) == pytest.approx(2.0)
    assert probe_duration_s(recording(b"no audio")) == 0.0


ID3 = b"ID3\x04\0\0\0\0\0\x64" + bytes(100)


def _non_finite() -> bytes:
    waveform = np.zeros(16_000, np.float32)
    waveform[8_000] = np.nan
    return encode(waveform, kind="WAV", subtype="FLOAT")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (wav(b""), "empty"),
        (wav(b"\0" * 400), "too_short"),
        (b"this is text", "unsupported_format"),
        (wav(tone(1.0).tobytes(), codec=2), "unsupported_format"),
        (wav(tone(1.0).tobytes(), size=64_000), "truncated"),
        (encode(tone(3.0))[:9_000], "truncated"),
        (wav(tone(1.0).tobytes(), rate=1), "bad_sample_rate"),
        (encode(np.zeros((2_000, 40), np.int16), kind="WAV"), "too_many_channels"),
        (_non_finite(), "non_finite"),
        (b"fLaC" + b"\0" * 100, "unreadable"),
        (encode(tone(1.0), kind="WAV", subtype="IMA_ADPCM"), "unsupported_format"),
        (encode(tone(1.0), kind="WAV", subtype="ULAW"), "unsupported_format"),
        (ID3 + encode(tone(1.0), kind="WAV", subtype="IMA_ADPCM"), "unsupported_format"),
        (encode(tone(1.0), kind="AIFF"), "unsupported_format"),
        (encode(tone(9.0), kind="OGG")[:-1], "truncated"),
        (encode(tone(9.0), kind="OGG")[:200], "truncated"),
        (encode(tone(9.0), kind="OGG", subtype="OPUS")[:-1], "truncated"),
        (encode(tone(9.0), kind="MP3")[:9_000], "truncated"),
        (encode(np.zeros(0, np.int16), kind="OGG"), "empty"),
    ],
)
def test_what_cannot_be_loaded_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(RecordingError) as failure:
        load_waveform(recording(data))
    assert failure.value.reason == reason


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFFFFF0])
def test_a_wav_from_a_pipe_has_no_size_and_is_sound(size: int) -> None:
    audio = load_waveform(recording(wav(tone(1.0).tobytes(), size=size)))
    assert len(audio.samples) == 16_000


def test_a_flac_from_a_pipe_has_no_length_and_keeps_its_tail() -> None:
    data = bytearray(encode(tone(5.0)))
    data[21] &= 0xF0
    data[22:26] = b"\0\0\0\0"
    assert np.array_equal(load_waveform(recording(bytes(data))).samples, tone(5.0))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_bytes=1_000), "too_large"),
        (Limits(max_duration_s=4.9), "too_long"),
        (Limits(max_channels=1), "too_many_channels"),
        (Limits(max_sample_rate_hz=16_000), "bad_sample_rate"),
        (Limits(min_sample_rate_hz=44_100), "bad_sample_rate"),
    ],
)
@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_every_limit_holds_for_every_kind(kind: str, limits: Limits, reason: str) -> None:
    data = encode(np.stack([tone(5.0, 22_050)] * 2, 1), 22_050, kind)
    assert load_waveform(recording(data)).duration_s == pytest.approx(5.0, abs=0.1)
    with pytest.raises(RecordingError) as failure:
        load_waveform(recording(data), limits)
    assert failure.value.reason == reason


def test_raw_pcm_has_limits_too() -> None:
    raw = recording(tone(5.0).tobytes(), raw_pcm=True)
    for limits, reason in (
        (Limits(max_bytes=9), "too_large"),
        (Limits(max_duration_s=4), "too_long"),
    ):
        with pytest.raises(RecordingError) as failure:
            load_waveform(raw, limits)
        assert failure.value.reason == reason


def test_another_format_is_read_if_the_operator_says_so() -> None:
    data = encode(tone(2.0), kind="AIFF", subtype="PCM_16")
    audio = load_waveform(recording(data), Limits(any_format=True))
    assert np.array_equal(audio.samples, tone(2.0))


def test_every_link_of_a_chained_ogg_is_heard() -> None:
    first, second = encode(tone(2.0), kind="OGG"), encode(tone(3.0, 48_000), 48_000, "OGG", "OPUS")
    alone = [load_waveform(recording(data)).samples for data in (first, second)]
    chained = recording(first + second)
    assert np.array_equal(load_waveform(chained).samples, np.concatenate(alone))
    cut = replace(chained, offset_s=1.5, duration_s=1.0)
    assert np.array_equal(load_waveform(cut).samples, np.concatenate(alone)[24_000:40_000])


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100])
def test_an_mp3_is_heard_to_its_end_whatever_its_header_counts(rate: int) -> None:
    data = encode(np.concatenate([tone(1.0, rate), np.zeros(3 * rate, np.int16)]), rate, "MP3")
    first = Frame.read(data, 0)
    assert first
    uncounted = data[first.size_bytes :]
    count = data.find(b"Xing") + 8
    lying = data[:count] + b"\0\0\0\x09" + data[count + 4 :]
    for audio, seconds in ((uncounted, 4.0), (data + data, 8.0), (lying, 4.0)):
        loaded = load_waveform(recording(audio))
        assert loaded.duration_s == pytest.approx(seconds, abs=0.5)
        assert probe_duration_s(recording(audio)) == pytest.approx(seconds, abs=0.5)


def test_a_heavy_tag_does_not_hide_an_mp3() -> None:
    data = encode(tone(3.0), kind="MP3")
    tag = b"ID3\x03\0\0\x02\0\0\0" + bytes(2 << 21)
    plain = load_waveform(recording(data)).samples
    assert np.array_equal(load_waveform(recording(tag + tag + data)).samples, plain)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
def test_every_pcm_and_float_wav_loads(kind: str, subtype: str) -> None:
    waveform = tone(1.0) / 32_768
    audio = load_waveform(recording(encode(waveform, kind=kind, subtype=subtype)))
    assert np.abs(audio.samples - tone(1.0)).max() <= (256 if subtype == "PCM_U8" else 1)


def test_a_plain_wav_is_what_libsndfile_makes_of_it() -> None:
    data = wav(tone(2.0).tobytes() + b"\1")
    data = data[:36] + b"LIST\4\0\0\0abcd" + data[36:] + b"LIST\4\0\0\0abcd"
    found, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    assert np.array_equal(load_waveform(recording(data)).samples, found)
    assert np.array_equal(found, tone(2.0))


def test_denormals_are_silence() -> None:
    data = encode(np.full(16_000, 1e-42, np.float32), kind="WAV", subtype="FLOAT")
    assert not load_waveform(recording(data)).samples.any()


def test_a_cut_that_a_cut_file_does_not_hold_is_truncated() -> None:
    data = encode(tone(10.0))
    half = data[: len(data) // 2]
    assert load_waveform(recording(half, duration_s=1.0)).duration_s == 1.0
    with pytest.raises(RecordingError) as failure:
        load_waveform(recording(half, offset_s=8.0, duration_s=1.0))
    assert failure.value.reason == "truncated"
