"""Real encoded files, sound and broken, through the loader."""

import io

import numpy as np
import pytest
import soundfile
from sound import encode, recording, tone, wav

from koasr.audio import load_waveform, probe_duration_s, stream_audio
from koasr.errors import RecordingError


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


def test_probe_says_the_length_without_decoding() -> None:
    assert probe_duration_s(recording(encode(tone(3.0)))) == pytest.approx(3.0)
    assert probe_duration_s(recording(tone(3.0).tobytes(), raw_pcm=True)) == pytest.approx(3.0)
    cut = recording(encode(tone(3.0)), offset_s=1.0, duration_s=9.0)
    assert probe_duration_s(cut) == pytest.approx(2.0)
    assert probe_duration_s(recording(b"no audio")) == 0.0


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
