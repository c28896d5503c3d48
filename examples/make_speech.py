"""Synthetic Korean speech with references: sentences in, corpora on disk out.

    python examples/make_speech.py bundled examples/speech
    python examples/make_speech.py train runs/train --num 3600 --seed 0

`espeak-ng` (which must be on the PATH) speaks the sentences of `sentences.py`. One seed
and one espeak-ng version give the same bytes every time; another version of espeak-ng
gives other samples, another libsndfile other compressed bytes.
"""

import io
import json
import random
import struct
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import soxr
from cyclopts import App
from numpy.typing import NDArray
from sentences import sentences

Waveform = NDArray[np.float32]

ESPEAK_RATE = 22050
SAMPLE_RATE = 16000
VOICES = ("ko", "ko+m1", "ko+m3", "ko+m7", "ko+f2", "ko+f3")
ACTIVE_DB = -45.0  # below the loudest 10 ms; espeak-ng's own pauses are digital silence
NUM_PROCESSES = 2
JOIN_LIMIT_S = 16.0

app = App(help=__doc__)


@dataclass(frozen=True)
class Speaker:
    """How espeak-ng speaks: voice with variant, speed (words per minute), pitch (0 to 99)."""

    voice: str = "ko"
    speed: int = 150
    pitch: int = 50

    @classmethod
    def draw(cls, rng: random.Random) -> "Speaker":
        """Draw any voice, speed and pitch of the training corpus."""
        return cls(rng.choice(VOICES), rng.randint(120, 185), rng.randint(30, 70))


def speak(text: str, speaker: Speaker, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Speak one sentence, without the silence that espeak-ng puts around it."""
    command = ["espeak-ng", "-v", speaker.voice, "-s", str(speaker.speed)]
    command += ["-p", str(speaker.pitch), "--stdout", text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    # espeak-ng cannot seek in a pipe, so the sizes in its header are placeholders.
    samples = np.asarray(np.frombuffer(wav[44:], dtype="<i2") / 32768, dtype=np.float32)
    return resample(trim(samples, ESPEAK_RATE), ESPEAK_RATE, sample_rate)


def resample(waveform: Waveform, from_rate: int, to_rate: int) -> Waveform:
    """Resample, never above full scale."""
    resampled = np.clip(soxr.resample(waveform, from_rate, to_rate), -1, 1)
    return np.asarray(resampled, dtype=np.float32)


def active(waveform: Waveform, sample_rate: int) -> NDArray[np.bool_]:
    """Mark the 10 ms steps that hold speech. Shape (num_steps,)."""
    step = sample_rate // 100
    power = np.square(waveform[: len(waveform) // step * step]).reshape(-1, step).mean(axis=1)
    marks: NDArray[np.bool_] = power > power.max() * 10 ** (ACTIVE_DB / 10)
    return marks


def trim(waveform: Waveform, sample_rate: int) -> Waveform:
    """Cut leading and trailing silence, to 10 ms."""
    step = sample_rate // 100
    steps = np.flatnonzero(active(waveform, sample_rate))
    return waveform[steps[0] * step : (steps[-1] + 1) * step]


def level(waveform: Waveform, dbfs: float) -> Waveform:
    """Scale to an RMS level (dB full scale), or as near as the peak allows."""
    rms = np.sqrt(np.mean(np.square(waveform)))
    gain = min(10 ** (dbfs / 20) / rms, 0.99 / np.abs(waveform).max())
    return np.asarray(waveform * gain, dtype=np.float32)


def noise(num_samples: int, exponent: float, rng: np.random.Generator) -> Waveform:
    """Make noise of unit RMS whose power falls as 1/f**exponent: 0 is white, 1 is pink."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (exponent / 2)
    spectrum[0] = 0
    samples = np.fft.irfft(spectrum, num_samples)
    return np.asarray(samples / np.sqrt(np.mean(np.square(samples))), dtype=np.float32)


def silence(seconds: float, sample_rate: int = SAMPLE_RATE) -> Waveform:
    """Digital silence."""
    return np.zeros(round(seconds * sample_rate), dtype=np.float32)


def crossfade(parts: Sequence[Waveform], seconds: float) -> Waveform:
    """Butt waveforms together so that each fades into the next over some seconds."""
    num = round(seconds * SAMPLE_RATE)
    ramp = np.linspace(0, 1, num, dtype=np.float32)
    joined = parts[0]
    for part in parts[1:]:
        overlap = joined[-num:] * (1 - ramp) + part[:num] * ramp
        joined = np.concatenate([joined[:-num], overlap, part[num:]])
    return joined


def encode(
    waveform: NDArray[np.float32] | NDArray[np.int16],
    sample_rate: int,
    kind: str = "FLAC",
    compression_level: float | None = None,
) -> bytes:
    """Encode samples as a 16-bit FLAC or WAV, or as MP3, OGG (Vorbis) or OPUS.

    Args:
        waveform: Shape (num_samples,) or (num_samples, channels).
        sample_rate: Hz.
        kind: The format.
        compression_level: 0 is the largest file, 1 the smallest; the format's own if None.
    """
    subtype = {"FLAC": "PCM_16", "WAV": "PCM_16", "OGG": "VORBIS", "OPUS": "OPUS"}.get(kind)
    out = io.BytesIO()
    with soundfile.SoundFile(
        out,
        "w",
        sample_rate,
        channels=waveform.shape[1] if waveform.ndim == 2 else 1,
        format="OGG" if kind == "OPUS" else kind,
        subtype=subtype,
        compression_level=compression_level,
    ) as file:
        # A second at a time: libsndfile's Vorbis encoder crashes on minutes in one call.
        for start in range(0, len(waveform), sample_rate):
            file.write(waveform[start : start + sample_rate])
    data = out.getvalue()
    return fix_ogg_serial(data) if data.startswith(b"OggS") else data


def fix_ogg_serial(data: bytes) -> bytes:
    """Replace the random stream number of an Ogg file by 1, so that equal input gives equal bytes.

    Source:
        RFC 3533, section 6 (the page header and its checksum).
    """
    pages = bytearray(data)
    start = 0
    while start < len(pages):
        num_segments = pages[start + 26]
        body = start + 27 + num_segments
        end = body + sum(pages[start + 27 : body])
        pages[start + 14 : start + 18] = (1).to_bytes(4, "little")
        pages[start + 22 : start + 26] = bytes(4)
        crc = 0
        for byte in pages[start:end]:
            crc = (crc << 8 & 0xFFFFFFFF) ^ OGG_CRC_TABLE[crc >> 24 ^ byte]
        pages[start + 22 : start + 26] = crc.to_bytes(4, "little")
        start = end
    return bytes(pages)


def _crc_entry(byte: int) -> int:
    crc = byte << 24
    for _ in range(8):
        crc = crc << 1 ^ (OGG_CRC if crc & 0x80000000 else 0)
    return crc & 0xFFFFFFFF


OGG_CRC = 0x04C11DB7
OGG_CRC_TABLE = [_crc_entry(byte) for byte in range(256)]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar whose bytes depend on its members only: no times, no users."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def dump_json(value: object) -> bytes:
    """Encode as one line of JSON with Hangul left readable."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode()


@dataclass(frozen=True)
class Recipe:
    """What one training recording is made of.

    Attributes:
        key: Name in the shard; it also seeds everything random about the recording.
        texts: Sentences spoken one after the other; none for a recording of noise.
        speaker: Who speaks.
        dbfs: RMS level.
        lead_s: Silence before and after (seconds).
        gap_s: Pause between sentences (seconds); 0 joins them without any.
        telephone: Whether it passes through 8 kHz.
    """

    key: str
    texts: tuple[str, ...]
    speaker: Speaker
    dbfs: float = -20.0
    lead_s: tuple[float, float] = (0.0, 0.0)
    gap_s: float = 0.0
    telephone: bool = False


def render(recipe: Recipe) -> list[tuple[str, bytes]]:
    """Speak one recipe.

    Returns:
        The shard's members `key.flac`, `key.json` and `key.txt`. Sentences that would go
        beyond 16 s are left out.
    """
    rng = np.random.default_rng(list(recipe.key.encode()))
    texts = list(recipe.texts[:1])
    if texts:
        waveform = speak(texts[0], recipe.speaker)
    else:
        waveform = noise(round(rng.uniform(0.5, 4) * SAMPLE_RATE), int(rng.integers(2)), rng)
    for text in recipe.texts[1:]:
        spoken = speak(text, recipe.speaker)
        if recipe.gap_s:
            gap = silence(recipe.gap_s * rng.uniform(0.6, 1.4))
            longer = np.concatenate([waveform, gap, spoken])
        else:
            longer = crossfade([waveform, spoken], 0.03)
        if len(longer) > JOIN_LIMIT_S * SAMPLE_RATE:
            break
        waveform = longer
        texts.append(text)
    waveform = level(waveform, recipe.dbfs)
    if recipe.telephone:
        waveform = resample(resample(waveform, SAMPLE_RATE, 8000), 8000, SAMPLE_RATE)
    lead, trail = (silence(seconds) for seconds in recipe.lead_s)
    info = {
        **asdict(recipe.speaker),
        "dbfs": round(recipe.dbfs, 1),
        "num_sentences": len(texts),
        "gap_s": round(recipe.gap_s, 2),
        "telephone": recipe.telephone,
    }
    return [
        (recipe.key + ".flac", encode(np.concatenate([lead, waveform, trail]), SAMPLE_RATE)),
        (recipe.key + ".json", dump_json(info)),
        (recipe.key + ".txt", " ".join(texts).encode()),
    ]


def plan_train(num: int, seed: int) -> list[Recipe]:
    """Plan training recordings: 1.5 % noise alone, 14 % joins, the rest single sentences."""
    rng = random.Random(seed)
    texts = iter(sentences(2 * num, seed))
    recipes = []
    for index in range(num):
        kind = rng.random()
        count = 0 if kind < 0.015 else rng.choice([2, 3, 3, 4]) if kind < 0.155 else 1
        recipes.append(
            Recipe(
                key=f"train{seed}_{index:05d}",
                texts=tuple(next(texts) for _ in range(count)),
                speaker=Speaker.draw(rng),
                dbfs=rng.uniform(-38, -14) if count else rng.uniform(-105, -30),
                lead_s=(rng.uniform(0, 0.5), rng.uniform(0, 0.5)),
                gap_s=rng.choice([0.0, 0.0, rng.uniform(0.25, 0.5), rng.uniform(0.4, 0.85)]),
                telephone=rng.random() < 0.12,
            )
        )
    return recipes


def plan_dev(num: int, seed: int) -> list[Recipe]:
    """Plan clean single sentences that neither training nor the bundled set has."""
    rng = random.Random(seed)
    speakers = [replace(Speaker.draw(rng), voice=VOICES[i % len(VOICES)]) for i in range(num)]
    return [
        Recipe(f"dev{seed}_{index:05d}", (text,), speaker, lead_s=(0.1, 0.1))
        for index, (text, speaker) in enumerate(
            zip(sentences(num, seed, "dev"), speakers, strict=True)
        )
    ]


@app.command
def train(out: Path, num: int = 3600, seed: int = 0, shard_size: int = 400) -> None:
    """Write WebDataset shards `train-000.tar` … and `dev-000.tar` of 16 kHz FLAC, and READY.

    Args:
        out: Folder, made if need be.
        num: Number of training recordings.
        seed: Same seed, same samples.
        shard_size: Recordings in a shard.
    """
    out.mkdir(parents=True, exist_ok=True)
    recipes = plan_train(num, seed)
    shards = {
        f"train-{start // shard_size:03d}.tar": recipes[start : start + shard_size]
        for start in range(0, num, shard_size)
    }
    shards["dev-000.tar"] = plan_dev(120, seed)
    with Pool(NUM_PROCESSES) as pool:
        for name, part in shards.items():
            rendered = pool.imap(render, part, chunksize=20)
            write_tar(out / name, (member for members in rendered for member in members))
            print(out / name, flush=True)
    (out / "READY").touch()


SPEAKERS = {
    "101": Speaker("ko", 160, 50),
    "102": Speaker("ko+m1", 150, 40),
    "103": Speaker("ko+f2", 170, 60),
    "104": Speaker("ko+m3", 175, 45),
    "105": Speaker("ko+f3", 160, 65),
    "106": Speaker("ko+m7", 185, 35),
    "107": Speaker("ko", 140, 62),
    "108": Speaker("ko+f2", 180, 48),
}
SNRS = ("clean", "20", "10", "0")
LEVEL_DBFS = -36.0  # quiet, because FLAC grows by 2 kB/s for each 6 dB
EDGE_S = 0.12
KNOWN = 8  # a bundled syllable occurs at least this often in the training texts
LONG_S = 363.0
NO_PAUSE_S = 60.5
FLOOR_DB = 30.0


@dataclass(frozen=True)
class Take:
    """One sentence as spoken: `waveform` has `EDGE_S` of silence before and after the speech."""

    text: str
    speaker_id: str
    sample_rate: int
    waveform: Waveform

    @property
    def duration(self) -> float:
        """Length, silence included. Seconds."""
        return len(self.waveform) / self.sample_rate


def bundled_texts(num: int) -> list[str]:
    """Draw held-out sentences made of syllables that the training texts hold often enough."""
    trained = [text for recipe in plan_train(3600, 0) for text in recipe.texts]
    joined = " # ".join(trained)
    texts = [
        text
        for text in sentences(2 * num, 0, "bundled")
        if text not in joined and all(joined.count(letter) >= KNOWN for letter in set(text))
    ]
    return texts[:num]


def take(text: str, speaker_id: str, sample_rate: int = SAMPLE_RATE) -> Take:
    """Speak one sentence at the common level with silence around it."""
    edge = silence(EDGE_S, sample_rate)
    speech = level(speak(text, SPEAKERS[speaker_id], sample_rate), LEVEL_DBFS)
    return Take(text, speaker_id, sample_rate, np.concatenate([edge, speech, edge]))


def takes(texts: Iterable[str], speaker_ids: Sequence[str] = tuple(SPEAKERS)) -> Iterator[Take]:
    """Speak sentences at 16 kHz, the speakers in turn."""
    for index, text in enumerate(texts):
        yield take(text, speaker_ids[index % len(speaker_ids)])


def write(path: Path, data: bytes | str) -> None:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def babble(num_samples: int, rng: np.random.Generator) -> Waveform:
    """Let six speakers talk at once, each a training sentence over and over."""
    mix = silence(0)
    for text, voice in zip(sentences(6, int(rng.integers(1000))), VOICES, strict=True):
        speech = level(speak(text, Speaker(voice, 150, int(rng.integers(30, 70)))), LEVEL_DBFS)
        speech = np.resize(np.roll(speech, int(rng.integers(len(speech)))), num_samples)
        mix = mix + speech if len(mix) else speech
    return mix


def add_noise(take: Take, kind: str, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Add noise; the SNR is that of the mean powers over the 10 ms steps that hold speech.

    Args:
        take: Clean speech.
        kind: "white", "pink", "white+pink" or "babble".
        snr_db: Speech over noise. dB.
        rng: Seeds the noise.
    """
    num = len(take.waveform)
    num_16k = round(num * SAMPLE_RATE / take.sample_rate) + SAMPLE_RATE
    if kind == "babble":
        added = babble(num_16k, rng)
    else:
        exponents = {"white": (0.0,), "pink": (1.0,), "white+pink": (0.0, 1.0)}[kind]
        added = np.sum([noise(num_16k, exponent, rng) for exponent in exponents], axis=0) / 50
    added = resample(added, SAMPLE_RATE, take.sample_rate)[:num]
    step = take.sample_rate // 100
    mask = np.repeat(active(take.waveform, take.sample_rate), step)
    speech_power = np.mean(np.square(take.waveform[: len(mask)][mask]))
    noise_power = np.mean(np.square(added[: len(mask)][mask]))
    gain = np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    mix = take.waveform + gain * added
    return np.asarray(mix * min(1, 0.99 / np.abs(mix).max()), dtype=np.float32)


def write_webdataset(root: Path, texts: Sequence[str]) -> None:
    """Write one shard: each sentence clean and at 20, 10 and 0 dB, at four sample rates."""
    members: list[tuple[str, bytes]] = []
    rates = (16000, 8000, 16000, 22050, 8000, 16000, 8000, 44100)
    kinds = ("white", "pink", "white+pink", "babble", "pink")
    for index, text in enumerate(texts):
        channels = 2 if index % 3 == 2 else 1
        spoken = take(text, list(SPEAKERS)[index % len(SPEAKERS)], rates[index % len(rates)])
        for snr in SNRS:
            kind = "none" if snr == "clean" else kinds[index % len(kinds)]
            rng = np.random.default_rng([index, SNRS.index(snr)])
            waveform = (
                spoken.waveform if snr == "clean" else add_noise(spoken, kind, float(snr), rng)
            )
            frames = np.stack([waveform] * channels, axis=1)
            info = {
                "snr": snr,
                "noise": kind,
                "speaker": spoken.speaker_id,
                **asdict(SPEAKERS[spoken.speaker_id]),
                "sample_rate": spoken.sample_rate,
                "channels": channels,
                "duration": round(spoken.duration, 3),
            }
            key = f"s{index:03d}_{snr if snr == 'clean' else 'snr' + snr}"
            members += [
                (key + ".flac", encode(frames, spoken.sample_rate)),
                (key + ".json", dump_json(info)),
                (key + ".txt", text.encode()),
            ]
    root.mkdir(parents=True, exist_ok=True)
    write_tar(root / "speech-000.tar", members)


def write_parquet(root: Path, texts: Sequence[str]) -> None:
    """Write one Parquet file as the Hugging Face hub has them, FLAC bytes inside."""
    columns: dict[str, list[object]] = {}
    for index, spoken in enumerate(takes(texts)):
        row = {
            "audio": {
                "bytes": encode(spoken.waveform, SAMPLE_RATE),
                "path": f"utterance_{index:04d}.flac",
            },
            "text": spoken.text,
            "speaker_id": spoken.speaker_id,
            "snr": "clean",
            "duration": spoken.duration,
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types = [audio, pa.string(), pa.string(), pa.string(), pa.float64()]
    schema = pa.schema(list(zip(columns, types, strict=True)))
    features: dict[str, dict[str, object]] = {
        name: {"dtype": str(kind).replace("double", "float64"), "_type": "Value"}
        for name, kind in zip(columns, types, strict=True)
    }
    features["audio"] = {"sampling_rate": SAMPLE_RATE, "_type": "Audio"}
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    root.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns, schema=schema)
    pq.write_table(table, root / "train-00000-of-00001.parquet", compression="none")


def write_zeroth(root: Path, texts: Sequence[str]) -> None:
    """Write a tree like Zeroth-Korean's: script, speaker, one `.trans.txt` per speaker."""
    speaker_ids = ("102", "103", "105")
    scripts = {speaker_id: f"{index + 3:03d}" for index, speaker_id in enumerate(speaker_ids)}
    lines: dict[Path, list[str]] = {}
    for index, spoken in enumerate(takes(texts, speaker_ids)):
        script = scripts[spoken.speaker_id]
        stem = f"{spoken.speaker_id}_{script}_{index // len(speaker_ids):04d}"
        folder = root / "test_data_01" / script / spoken.speaker_id
        write(folder / f"{stem}.flac", encode(spoken.waveform, SAMPLE_RATE))
        trans = folder / f"{spoken.speaker_id}_{script}.trans.txt"
        lines.setdefault(trans, []).append(f"{stem} {spoken.text}\n")
    for path, part in lines.items():
        write(path, "".join(part))


def write_folder(root: Path, texts: Sequence[str]) -> None:
    """Write loose WAV, MP3, Ogg Vorbis and Opus files, each with its text beside it."""
    kinds = [
        ("wav", 16000, 1), ("mp3", 44100, 2), ("ogg", 22050, 1), ("opus", 48000, 1),
        ("wav", 8000, 2), ("mp3", 16000, 1), ("ogg", 44100, 2), ("opus", 16000, 2),
        ("wav", 11025, 1), ("mp3", 22050, 1),
    ]  # fmt: skip
    for index, (text, (suffix, rate, channels)) in enumerate(zip(texts, kinds, strict=True)):
        spoken = take(text, list(SPEAKERS)[index % len(SPEAKERS)], rate)
        frames = np.stack([spoken.waveform] * channels, axis=1)
        stem = f"{index:02d}_{rate}hz_{'mono' if channels == 1 else 'stereo'}"
        write(root / f"{stem}.{suffix}", encode(frames, rate, suffix.upper()))
        write(root / f"{stem}.txt", text + "\n")


def write_manifest(root: Path, texts: Sequence[str]) -> None:
    """Write a JSON-lines manifest: utterances cut from one recording, the last one whole."""
    spoken = list(takes(texts, ("104", "105")))
    lines = []
    start = 0.0
    for part in spoken[:-1]:
        lines.append(_manifest_line("audio/meeting.flac", part, start))
        start += part.duration
    lines.append(_manifest_line("audio/whole.flac", spoken[-1], None))
    meeting = np.concatenate([part.waveform for part in spoken[:-1]])
    write(root / "audio" / "meeting.flac", encode(meeting, SAMPLE_RATE))
    write(root / "audio" / "whole.flac", encode(spoken[-1].waveform, SAMPLE_RATE))
    write(root / "manifest.jsonl", b"".join(dump_json(line) + b"\n" for line in lines))


def _manifest_line(path: str, part: Take, offset: float | None) -> dict[str, object]:
    return {
        "audio_filepath": path,
        "offset": None if offset is None else round(offset, 6),
        "duration": round(part.duration, 6),
        "text": part.text,
        "speaker": part.speaker_id,
    }


def write_kspon(root: Path, texts: Sequence[str]) -> None:
    """Write headerless PCM (s16le, 16 kHz, mono) and a `.trn` script, as KsponSpeech has them."""
    lines = []
    for index, spoken in enumerate(takes(texts), start=1):
        path = f"KsponSpeech_01/KsponSpeech_0001/KsponSpeech_{index:06d}.pcm"
        write(root / path, np.round(spoken.waveform * 32767).astype("<i2").tobytes())
        lines.append(f"{path} :: {spoken.text}\n")
    write(root / "scripts" / "eval.trn", "".join(lines))


def close_gaps(waveform: Waveform, keep_s: float) -> Waveform:
    """Shorten every silence inside an utterance to `keep_s` seconds."""
    marks = active(waveform, SAMPLE_RATE)
    since = np.zeros(len(marks), dtype=np.int64)
    for index in range(1, len(marks)):
        since[index] = 0 if marks[index] else since[index - 1] + 1
    keep = np.repeat(since <= round(keep_s * 100), SAMPLE_RATE // 100)
    return waveform[: len(keep)][keep]


def even_out(waveform: Waveform) -> Waveform:
    """Bring every 200 ms towards the median level, by at most 10 dB up and 3 dB down."""
    step = SAMPLE_RATE // 100
    power = np.square(waveform[: len(waveform) // step * step]).reshape(-1, step).mean(axis=1)
    power = np.convolve(np.pad(power, 10, mode="edge"), np.full(21, 1 / 21), mode="valid")
    gain = np.clip(np.sqrt(np.median(power) / power), 10 ** (-3 / 20), 10 ** (10 / 20))
    centers = (np.arange(len(power)) + 0.5) * step
    return np.asarray(
        waveform * np.interp(np.arange(len(waveform)), centers, gain), dtype=np.float32
    )


def write_pauses(root: Path, texts: Sequence[str]) -> list[dict[str, object]]:
    """Write `pauses.ogg`, sentences with pauses of 0.4 to 1.2 s between them.

    Returns:
        Text, start and end (seconds) of each sentence.
    """
    rng = np.random.default_rng(7)
    parts = [silence(0.5)]
    placements: list[dict[str, object]] = []
    now = 0.5
    for index, text in enumerate(texts):
        speaker = list(SPEAKERS.values())[index // 5 % len(SPEAKERS)]
        speech = level(speak(text, speaker), LEVEL_DBFS)
        pause = silence(rng.uniform(0.4, 1.2))
        placements.append(_placement(text, now, len(speech)))
        parts += [speech, pause]
        now += (len(speech) + len(pause)) / SAMPLE_RATE
        if now > LONG_S:
            break
    # As FLAC it would take 5 MB; Vorbis at quality 0.2 takes 1.2.
    ogg = encode(np.concatenate(parts), SAMPLE_RATE, "OGG", compression_level=0.8)
    write(root / "pauses.ogg", ogg)
    write(root / "pauses.txt", " ".join(str(place["text"]) for place in placements) + "\n")
    return placements


def write_no_pause(root: Path, texts: Sequence[str]) -> list[dict[str, object]]:
    """Write `no_pause.flac`, one speaker without a gap over a noise floor 30 dB below.

    Returns:
        Text, start and end (seconds) of each sentence; neighbours share their cross-fade.
    """
    fade_s = 0.04
    parts: list[Waveform] = []
    placements: list[dict[str, object]] = []
    now = 0.0
    for text in texts:
        speech = speak(text, SPEAKERS["101"])
        parts.append(level(close_gaps(speech, 0.05), LEVEL_DBFS))
        placements.append(_placement(text, now, len(parts[-1])))
        now += len(parts[-1]) / SAMPLE_RATE - fade_s
        if now > NO_PAUSE_S:
            break
    waveform = even_out(even_out(crossfade(parts, fade_s)))
    floor = 10 ** ((LEVEL_DBFS - FLOOR_DB) / 20)
    waveform = waveform + floor * noise(len(waveform), 1.0, np.random.default_rng(8))
    write(root / "no_pause.flac", encode(waveform, SAMPLE_RATE))
    write(root / "no_pause.txt", " ".join(str(place["text"]) for place in placements) + "\n")
    return placements


def _placement(text: str, start_s: float, num_samples: int) -> dict[str, object]:
    end_s = start_s + num_samples / SAMPLE_RATE
    return {"text": text, "start_s": round(start_s, 3), "end_s": round(end_s, 3)}


def write_bad(root: Path, text: str) -> None:
    """Write files that a reader must refuse or survive, one fault each."""
    waveform = take(text, "101").waveform[:SAMPLE_RATE]
    flac, wav = encode(waveform, SAMPLE_RATE), encode(waveform, SAMPLE_RATE, "WAV")
    write(root / "truncated.flac", flac[: len(flac) // 2])
    write(root / "text.wav", "이 파일은 소리가 아니라 글입니다\n")
    write(root / "empty.wav", b"")
    riff, data = struct.unpack("<I", wav[4:8])[0], struct.unpack("<I", wav[40:44])[0]
    sizes = struct.pack("<I", 2 * riff), struct.pack("<I", 2 * data)
    write(root / "lying_header.wav", wav[:4] + sizes[0] + wav[8:40] + sizes[1] + wav[44:])
    holed = waveform.copy()
    holed[SAMPLE_RATE // 2 : SAMPLE_RATE // 2 + 100] = np.nan
    # By hand: libsndfile stamps the time of writing into the PEAK chunk of a float WAV.
    body = holed.astype("<f4").tobytes()
    chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, SAMPLE_RATE, SAMPLE_RATE * 4, 4, 32)
    chunk += struct.pack("<4sI", b"data", len(body)) + body
    write(root / "nan.wav", struct.pack("<4sI4s", b"RIFF", 4 + len(chunk), b"WAVE") + chunk)


@app.command
def bundled(out: Path) -> None:
    """Write the bundled speech, each part laid out as a kind of real corpus is.

    Args:
        out: Folder, made if need be; files of the same names are written over.
    """
    texts = bundled_texts(1000)
    short = [text for text in texts if len(text) <= 13][:22]
    longer = iter([text for text in texts if 13 < len(text) <= 21])
    write_webdataset(out / "webdataset", short[:16])
    write_kspon(out / "kspon", short[16:])
    write_parquet(out / "parquet", list(islice(longer, 16)))
    write_zeroth(out / "zeroth", list(islice(longer, 12)))
    write_folder(out / "folder", list(islice(longer, 10)))
    write_manifest(out / "manifest", list(islice(longer, 8)))
    placements = {
        "long/no_pause.flac": write_no_pause(out / "long", texts[::-1]),
        "long/pauses.ogg": write_pauses(out / "long", texts),
    }
    lines = json.dumps(placements, ensure_ascii=False, indent=1)
    write(out / "placements.json", lines + "\n")
    dither = np.random.default_rng(9).integers(-1, 2, 3 * SAMPLE_RATE).astype(np.int16)
    write(out / "silence" / "silence.wav", encode(dither, SAMPLE_RATE, "WAV"))
    write_bad(out / "bad", texts[0])


if __name__ == "__main__":
    app()
