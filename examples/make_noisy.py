"""Speech in many conditions, to measure how far confidence can be trusted.

    python examples/make_noisy.py runs/trust/speech

Two halves, `calibration/` and `test/`, that share no speaker and no sentence. The voices, and the
speeds and pitches at the ends, are not those of the bundled model's training speech.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from multiprocessing import Pool
from pathlib import Path

import cyclopts
import numpy as np
from make_speech import (
    NUM_PROCESSES,
    SAMPLE_RATE,
    Speaker,
    Waveform,
    active,
    dump_json,
    encode,
    level,
    noise,
    resample,
    silence,
    speak,
    write_tar,
)
from numpy.typing import NDArray
from sentences import sentences

HALVES = ("calibration", "test")
_VARIANTS = ["m2", "m4", "m5", "m6", "m8", "f1", "f4", "f5", "adam", "Alex", "Annie", "aunty"]
_VARIANTS += ["boris", "caleb", "Denis", "ed", "gene", "grandma", "grandpa", "john", "marco", "max"]
_VARIANTS += ["michel", "mike", "pablo", "paul", "pedro", "quincy", "rob", "robert"]
"""Of espeak-ng, and none of the training's. Others than these are robots, whispers and effects, or
leave the model above 50 % CER without any noise."""
_CONDITIONS = {
    "clean": 30,
    "white": 7,
    "pink": 7,
    "brown": 6,
    "babble": 10,
    "music": 5,
    "reverb": 10,
    "clipped": 5,
    "telephone": 10,
    "nothing": 10,
}
"""Share of each in percent. In `nothing` nobody speaks: silence, noise, tones, music, clicks."""
_NOTHINGS = ("silence", "white", "pink", "brown", "tones", "music", "clicks")
_SNR_DB = (-5.0, 30.0)
_COLOURS = {"white": 0.0, "pink": 1.0, "brown": 2.0}


@dataclass(frozen=True)
class Recipe:
    """What one recording is made of. Its key seeds all that is random about it."""

    key: str
    condition: str
    texts: tuple[str, ...]
    speaker_id: str
    speaker: Speaker
    snr_db: float
    dbfs: float


def _draw_speaker(rng: random.Random) -> Speaker:
    return Speaker(f"ko+{rng.choice(_VARIANTS)}", rng.randint(105, 205), rng.randint(20, 80))


def plan(half: str, speakers: int, each: int, seed: int) -> list[Recipe]:
    """Recipes of one half: so many speakers, so many recordings of each."""
    rng = random.Random(f"{half} {seed}")
    both = sentences(3 * speakers * each, 7000 + seed, "bundled")
    texts = iter(both[HALVES.index(half) :: len(HALVES)])
    recipes = []
    for index in range(speakers * each):
        if index % each == 0:
            speaker = _draw_speaker(rng)
        condition = rng.choices(list(_CONDITIONS), list(_CONDITIONS.values()))[0]
        count = 0 if condition == "nothing" else rng.choices([1, 2, 3], [85, 10, 5])[0]
        recipes.append(
            Recipe(
                key=f"{half}{seed}_{index:05d}",
                condition=condition,
                texts=tuple(next(texts) for _ in range(count)),
                speaker_id=f"{half}{seed}_s{index // each:03d}",
                speaker=speaker,
                snr_db=rng.uniform(*_SNR_DB),
                dbfs=rng.uniform(-38, -14),
            )
        )
    return recipes


def chords(num_samples: int, rng: np.random.Generator) -> Waveform:
    """Music-like: chords of decaying harmonics that change every 0.2 to 0.6 s; RMS about one."""
    music = np.zeros(num_samples)
    start = 0
    while start < num_samples:
        length = int(rng.uniform(0.2, 0.6) * SAMPLE_RATE)
        time_s = np.arange(min(length, num_samples - start)) / SAMPLE_RATE
        root_hz = 110 * 2 ** (rng.integers(24) / 12)
        for semitones in (0, rng.choice([3, 4]), 7, 12):
            for harmonic in range(1, 6):
                hz = harmonic * root_hz * 2 ** (semitones / 12)
                wave = np.sin(2 * np.pi * (hz * time_s + rng.random()))
                music[start : start + len(time_s)] += wave / harmonic * np.exp(-3 * time_s)
        start += length
    return np.asarray(music / np.sqrt(np.mean(music**2)), np.float32)


@cache
def _crowd() -> Waveform:
    """A minute of six speakers at once, for babble to be cut from."""
    rng = random.Random("crowd")
    texts = iter(sentences(240, 9000, "dev"))
    mix = np.zeros(60 * SAMPLE_RATE, np.float32)
    for _ in range(6):
        speaker, parts = _draw_speaker(rng), [silence(rng.random())]
        while sum(map(len, parts)) < len(mix):
            parts.append(level(speak(next(texts), speaker), -26))
        mix += np.concatenate(parts)[: len(mix)]
    return mix / np.float32(np.sqrt(np.mean(mix**2)))


def _noise(kind: str, num_samples: int, rng: np.random.Generator) -> Waveform:
    """Noise of about unit RMS: a colour, music or babble."""
    if kind == "babble":
        return np.roll(_crowd(), int(rng.integers(len(_crowd()))))[:num_samples]
    return chords(num_samples, rng) if kind == "music" else noise(num_samples, _COLOURS[kind], rng)


def _add_noise(speech: Waveform, kind: str, snr_db: float, rng: np.random.Generator) -> Waveform:
    """Noise `snr_db` below the mean power of the speech where it is active."""
    added = _noise(kind, len(speech), rng)
    marks = np.repeat(active(speech, SAMPLE_RATE), SAMPLE_RATE // 100)
    speech_power = np.mean(np.square(speech[: len(marks)][marks]))
    gain = np.sqrt(speech_power / 10 ** (snr_db / 10) / np.mean(np.square(added)))
    return np.asarray(speech + gain * added, np.float32)


def _reverberate(speech: Waveform, rng: np.random.Generator) -> Waveform:
    """A room whose sound has fallen by 60 dB after 0.2 to 1.2 s."""
    decay_s = rng.uniform(0.2, 1.2)
    time_s = np.arange(int(decay_s * SAMPLE_RATE)) / SAMPLE_RATE
    room = rng.standard_normal(len(time_s)) * 10 ** (-3 * time_s / decay_s)
    room *= rng.uniform(0.3, 1.5) / np.sqrt(np.sum(room**2))
    room[0] = 1.0
    length = len(speech) + len(room)
    wet = np.fft.irfft(np.fft.rfft(speech, length) * np.fft.rfft(room, length), length)
    return np.asarray(wet[: len(speech) + SAMPLE_RATE // 4], np.float32)


def _telephone(speech: Waveform) -> Waveform:
    """300 to 3,400 Hz at 8 kHz through 8-bit mu-law."""
    narrow = resample(speech, SAMPLE_RATE, 8000)
    spectrum = np.fft.rfft(narrow)
    hz = np.fft.rfftfreq(len(narrow), 1 / 8000)
    band = (hz > 300) & (hz < 3400)
    narrow = np.asarray(np.fft.irfft(spectrum * band, len(narrow)), np.float32)
    squeezed = np.sign(narrow) * np.log1p(255 * np.minimum(np.abs(narrow), 1)) / np.log(256)
    steps = np.round(squeezed * 127) / 127
    heard = np.sign(steps) * (256 ** np.abs(steps) - 1) / 255
    return resample(np.asarray(heard, np.float32), 8000, SAMPLE_RATE)


def _tones(num_samples: int, rng: np.random.Generator) -> Waveform:
    """Dial tones and a hum."""
    time_s = np.arange(num_samples) / SAMPLE_RATE
    wave = sum(np.sin(2 * np.pi * hz * time_s) for hz in rng.uniform(50, 3000, 3))
    return np.asarray(wave * (np.sin(2 * np.pi * rng.uniform(0, 3) * time_s) > -0.9), np.float32)


def _clicks(num_samples: int, rng: np.random.Generator) -> Waveform:
    wave = rng.standard_normal(num_samples) * 1e-3
    for at in rng.integers(num_samples, size=num_samples // 4000):
        wave[at : at + 80] += rng.uniform(0.2, 1) * np.exp(-np.arange(80) / 15)[: num_samples - at]
    return np.asarray(wave, np.float32)


_QUIET: dict[str, Callable[[int, np.random.Generator], Waveform]] = {
    "silence": lambda num, rng: noise(num, 0.0, rng) * np.float32(10 ** rng.uniform(-5, -3.5)),
    "tones": _tones,
    "clicks": _clicks,
}


def _nothing(recipe: Recipe, rng: np.random.Generator) -> tuple[str, Waveform]:
    """A kind of non-speech of 1 to 8 s."""
    kind = _NOTHINGS[int(rng.integers(len(_NOTHINGS)))]
    num_samples = int(rng.uniform(1, 8) * SAMPLE_RATE)
    waveform = (_QUIET.get(kind) or partial(_noise, kind))(num_samples, rng)
    return kind, waveform if kind == "silence" else level(waveform, recipe.dbfs)


def _speech(recipe: Recipe, rng: np.random.Generator) -> Waveform:
    parts = [silence(rng.uniform(0.05, 0.5))]
    for text in recipe.texts:
        parts += [speak(text, recipe.speaker), silence(rng.uniform(0.1, 0.6))]
    clean = np.concatenate(parts)
    match recipe.condition:
        case "clean":
            heard = clean
        case "reverb":
            heard = _reverberate(clean, rng)
        case "clipped":
            loud = level(clean, -20) * rng.uniform(3, 30)
            heard = np.asarray(np.clip(loud, -0.9, 0.9), np.float32)
        case "telephone":
            heard = _telephone(level(clean, -20))
        case kind:
            heard = _add_noise(clean, kind, recipe.snr_db, rng)
    return level(heard, recipe.dbfs)


def render(recipe: Recipe) -> list[tuple[str, bytes]]:
    """The members `key.flac`, `key.json` and `key.txt` of one recording."""
    rng = np.random.default_rng(zlib.crc32(recipe.key.encode()))
    kind, waveform = recipe.condition, silence(0)
    if recipe.texts:
        waveform = _speech(recipe, rng)
    else:
        kind, waveform = _nothing(recipe, rng)
    has_snr = recipe.condition in {*_COLOURS, "babble", "music"}
    info = {
        **asdict(recipe.speaker),
        "speaker": recipe.speaker_id,
        "condition": recipe.condition,
        "kind": kind,
        "snr_db": round(recipe.snr_db, 1) if has_snr else None,
    }
    samples: NDArray[np.float32] = np.asarray(np.clip(waveform, -1, 1), np.float32)
    return [
        (recipe.key + ".flac", encode(samples, SAMPLE_RATE)),
        (recipe.key + ".json", dump_json(info)),
        (recipe.key + ".txt", " ".join(recipe.texts).encode()),
    ]


def main(
    out: Path, *, speakers: int = 200, each: int = 25, seed: int = 0, shard: int = 500
) -> None:
    """Write both halves as tars of 16 kHz FLAC with `condition`, `speaker` and text.

    Args:
        out: Folder, made if need be.
        speakers: In each half.
        each: Recordings of each speaker.
        seed: Same seed, same samples.
        shard: Recordings in a tar.
    """
    _crowd()
    for half in HALVES:
        recipes = plan(half, speakers, each, seed)
        (out / half).mkdir(parents=True, exist_ok=True)
        with Pool(NUM_PROCESSES) as pool:
            for start in range(0, len(recipes), shard):
                path = out / half / f"{half}-{start // shard:03d}.tar"
                rendered = pool.imap(render, recipes[start : start + shard], chunksize=20)
                write_tar(path, (member for members in rendered for member in members))
                print(path, flush=True)


if __name__ == "__main__":
    cyclopts.run(main)
