"""Sources → the examples of a training run: speech with references, noise, and batches of it."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Wav2Vec2FeatureExtractor

from koasr.audio import load_waveform
from koasr.errors import JobError, RecordingError
from koasr.readers import read_recordings
from koasr.rows import SAMPLE_RATE, Reject
from koasr.sources import list_shards
from koasr.vocabulary import Vocabulary, normalize_reference

logger = logging.getLogger(__name__)

_NOISE_EXPONENTS = {"white": 0.0, "pink": 1.0, "brown": 2.0}
_BABBLE_VOICES = 5
_NOISE_BLOCK = 1 << 12
_LENGTH_JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Example:
    """Speech and what is said in it. `samples` is int16, mono, 16 kHz; reference "" is silence."""

    samples: NDArray[np.int16]
    reference: str


def read_examples(uris: Sequence[str], *, max_duration_s: float) -> list[Example]:
    """Every recording that has a reference, by length; the rest is counted in the log.

    Holds all of it in memory as int16: 115 MB an hour.

    Raises:
        JobError: Nothing under the inputs has a reference.
    """
    examples: list[Example] = []
    left_out: Counter[str] = Counter()
    for shard in list_shards(uris):
        for recording in read_recordings(shard):
            if isinstance(recording, Reject):
                left_out[recording.reason] += 1
            elif recording.reference is None:
                left_out["no reference"] += 1
            else:
                try:
                    samples = load_waveform(recording).samples
                except RecordingError as error:
                    left_out[error.reason] += 1
                    continue
                if len(samples) > max_duration_s * SAMPLE_RATE:
                    left_out[f"longer than {max_duration_s:g} s"] += 1
                else:
                    examples.append(Example(samples, normalize_reference(recording.reference)))
    hours = sum(len(example.samples) for example in examples) / SAMPLE_RATE / 3600
    logger.info("%d recordings, %.2f h; left out: %s", len(examples), hours, dict(left_out) or 0)
    if not examples:
        raise JobError(
            f"{', '.join(uris)}: no recording with a reference (left out: {dict(left_out)})"
        )
    return sorted(examples, key=lambda example: len(example.samples))


def make_noise(
    kind: str, num_samples: int, rng: np.random.Generator, voices: Sequence[Example] = ()
) -> NDArray[np.float32]:
    """Noise of unit power: white, pink, brown, or babble (other recordings at once)."""
    if kind == "babble":
        noise = np.zeros(num_samples, np.float32)
        for index in rng.integers(len(voices), size=_BABBLE_VOICES):
            voice = voices[index].samples.astype(np.float32)
            voice /= np.sqrt(np.mean(voice**2)) + 1.0
            noise += np.resize(np.roll(voice, rng.integers(len(voice))), num_samples)
    else:
        # A length without large prime factors: else the transform takes ten times as long.
        length = -(-num_samples // _NOISE_BLOCK) * _NOISE_BLOCK
        spectrum = np.fft.rfft(rng.standard_normal(length, dtype=np.float32))
        frequency_hz = np.maximum(np.arange(len(spectrum)) * SAMPLE_RATE / length, 50.0)
        spectrum *= frequency_hz.astype(np.float32) ** (-_NOISE_EXPONENTS[kind] / 2)
        noise = np.fft.irfft(spectrum, length)[:num_samples].astype(np.float32)
    power = float(np.sqrt(np.mean(noise**2)))
    return noise / np.float32(power) if power else noise


class SpeechDataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Examples as float32 waveforms with token ids, some with noise that differs each epoch.

    Args:
        examples: What to learn from.
        vocabulary: Turns references into token ids.
        jamo: A second vocabulary, for a second head; its token ids come as `jamo_labels`.
        seed: With the epoch and the index, decides all that is random about an item.
        noise_share: Share of the items that get noise.
        noise_snr_db: Lowest and highest ratio of speech to noise, drawn evenly.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        vocabulary: Vocabulary,
        *,
        jamo: Vocabulary | None = None,
        seed: int = 0,
        noise_share: float = 0.0,
        noise_snr_db: tuple[float, float] = (3.0, 30.0),
    ) -> None:
        self.examples = examples
        self.labels = [vocabulary.encode(example.reference) for example in examples]
        self._jamo_labels = (
            [jamo.encode(example.reference) for example in examples] if jamo else None
        )
        self.epoch = 0
        self.seed = seed
        self._noise_share = noise_share
        self._noise_snr_db = noise_snr_db

    def __len__(self) -> int:
        return len(self.examples)

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader before each pass."""
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        waveform = self.examples[index].samples.astype(np.float32) / np.float32(32_768)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        if rng.random() < self._noise_share:
            waveform = self._with_noise(waveform, rng, is_speech=bool(self.labels[index]))
        item = {"waveform": waveform, "labels": self.labels[index]}
        if self._jamo_labels is not None:
            item["jamo_labels"] = self._jamo_labels[index]
        return item

    def _with_noise(
        self, waveform: NDArray[np.float32], rng: np.random.Generator, *, is_speech: bool
    ) -> NDArray[np.float32]:
        # Voices over silence would be speech without a reference.
        kind = rng.choice([*_NOISE_EXPONENTS, *(["babble"] if is_speech else [])])
        noise = make_noise(str(kind), len(waveform), rng, self.examples)
        power = np.sqrt(np.mean(waveform**2)) * 10 ** (-rng.uniform(*self._noise_snr_db) / 20)
        return waveform + noise * np.float32(power)


class LengthBatches:
    """Batches of examples of similar length, in random order, the same for a seed and epoch.

    As many batches in each epoch, so that an interrupted run knows where it was.

    Args:
        dataset: Its examples are ordered by length.
        batch_size: Most examples in a batch.
        max_batch_s: Most seconds in a batch, padding included; about, and at least one example.
    """

    drop_last = False

    def __init__(self, dataset: SpeechDataset, batch_size: int, max_batch_s: float | None) -> None:
        self.batch_size = batch_size
        self._dataset = dataset
        self._lengths = np.array([len(example.samples) for example in dataset.examples])
        self._bounds = [0]
        for stop, length in enumerate(self._lengths):
            size = stop + 1 - self._bounds[-1]
            too_long = max_batch_s is not None and size * length > max_batch_s * SAMPLE_RATE
            if size > batch_size or (too_long and size > 1):
                self._bounds.append(stop)
        self._bounds.append(len(self._lengths))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self._dataset.seed, self._dataset.epoch))
        jitter = 1 + rng.uniform(-_LENGTH_JITTER, _LENGTH_JITTER, len(self._lengths))
        order = np.argsort(self._lengths * jitter)
        for batch in rng.permutation(len(self)):
            yield order[self._bounds[batch] : self._bounds[batch + 1]].tolist()


@dataclass(frozen=True)
class Collator:
    """Items → one padded batch: normalized input, labels padded with -100, attention mask.

    Group-norm checkpoints were trained without a mask; their extractor asks for none.
    """

    extractor: Wav2Vec2FeatureExtractor

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        waveforms = [item["waveform"] for item in items]
        batch = self.extractor(
            waveforms, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt"
        )
        collated = {"input_values": batch["input_values"]}
        for name in items[0].keys() - {"waveform"}:
            collated[name] = _pad_labels([item[name] for item in items])
        if self.extractor.return_attention_mask:
            collated["attention_mask"] = batch["attention_mask"].long()
        return collated


def _pad_labels(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    # Never without a column: transformers takes the maximum of the labels.
    labels = torch.full((len(rows), max(1, *map(len, rows))), -100)
    for row, token_ids in enumerate(rows):
        labels[row, : len(token_ids)] = torch.tensor(token_ids, dtype=torch.long)
    return labels
