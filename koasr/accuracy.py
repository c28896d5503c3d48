"""References beside hypotheses → error rates of a corpus and of its parts, and where they lie."""

import unicodedata
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from koasr.bootstrap import draw_sums, ratio_interval
from koasr.errors import JobError
from koasr.metrics import count_errors, count_jamo_errors, count_spaced_word_errors
from koasr.scoring import Pair, clusters_of

_COUNTS = (
    "char_errors",
    "ref_chars",
    "raw_char_errors",
    "raw_ref_chars",
    "word_errors",
    "ref_words",
    "spaced_word_errors",
    "jamo_errors",
    "ref_jamo",
    "unknown_chars",
)
_RATES = {
    "cer": ("char_errors", "ref_chars"),
    "raw_cer": ("raw_char_errors", "raw_ref_chars"),
    "wer": ("word_errors", "ref_words"),
    "swer": ("spaced_word_errors", "ref_words"),
    "jamo_cer": ("jamo_errors", "ref_jamo"),
    "unknown_share": ("unknown_chars", "ref_chars"),
}
SEED = 0
MIN_CLUSTERS = 5
"""Of fewer speakers nothing can be drawn that tells how they differ."""


@dataclass(frozen=True)
class Rate:
    """Summed errors over a summed length, and the interval of its clustered bootstrap.

    `value` and the bounds are None where there is no length, the bounds too where there are fewer
    than `MIN_CLUSTERS`: then nothing says how far another one would differ.
    """

    value: float | None
    low: float | None
    high: float | None
    errors: int
    length: int


@dataclass(frozen=True)
class Counted:
    """Counts of every pair, and what of it is drawn together.

    Attributes:
        counts: Shape (num_pairs, num_counts).
        clusters: Speaker or recording of each pair.
        seconds: Of audio, each pair.
        has_vocabulary: Whether characters were looked up in a model's vocabulary.
    """

    counts: NDArray[np.int64]
    clusters: NDArray[np.str_]
    seconds: NDArray[np.float64]
    has_vocabulary: bool


def count_pairs(
    pairs: Sequence[Pair], transcripts: pa.Table, vocabulary: Container[str] | None = None
) -> Counted:
    """Every count that a rate is made of, pair by pair.

    Args:
        pairs: With rows in the transcripts.
        transcripts: With `recording_id`, `metadata` and `duration_s`.
        vocabulary: Tokens of the model, if it is known.
    """
    letters = {letter for pair in pairs for letter in pair.reference} - {" "}
    unknown = {x for x in letters if vocabulary is not None and not _is_known(x, vocabulary)}
    counts = [_count(pair, unknown) for pair in pairs]
    seconds = transcripts["duration_s"].to_numpy()
    firsts = transcripts.take(pa.array([pair.rows[0] for pair in pairs], pa.int64()))
    return Counted(
        np.array(counts, np.int64).reshape(-1, len(_COUNTS)),
        clusters_of(firsts),
        np.array([seconds[pair.rows].sum() for pair in pairs], np.float64),
        vocabulary is not None,
    )


def _count(pair: Pair, unknown: Container[str]) -> tuple[int, ...]:
    found = count_errors(pair.reference, pair.hypothesis)
    return (
        found.char_errors,
        found.ref_chars,
        found.raw_char_errors,
        found.raw_ref_chars,
        found.word_errors,
        found.ref_words,
        count_spaced_word_errors(pair.reference, pair.hypothesis),
        *count_jamo_errors(pair.reference, pair.hypothesis),
        sum(letter in unknown for letter in pair.reference),
    )


def _is_known(char: str, vocabulary: Container[str]) -> bool:
    """Whether a model can write a character: as one token, or letter by letter."""
    return char in vocabulary or all(
        letter in vocabulary for letter in unicodedata.normalize("NFD", char)
    )


def rates_of(
    counted: Counted, level: float, chosen: NDArray[np.bool_] | None = None
) -> dict[str, Rate]:
    """Error rates of all pairs, or of the chosen ones, by name; errors are summed, then divided.

    Args:
        counted: From `count_pairs`.
        level: Of the intervals, such as 0.95.
        chosen: Shape (num_pairs,).
    """
    chosen = np.ones(len(counted.counts), np.bool_) if chosen is None else chosen
    counts, clusters = counted.counts[chosen], counted.clusters[chosen]
    total = counts.sum(axis=0)
    is_told = len(set(clusters)) >= MIN_CLUSTERS
    sums = draw_sums(clusters, counts, seed=SEED) if is_told else None
    rates = {}
    for name, (errors, length) in _RATES.items():
        above, below = _COUNTS.index(errors), _COUNTS.index(length)
        found = None if sums is None else ratio_interval(sums, above, below, level)
        low, high = found or (None, None)
        value = float(total[above] / total[below]) if total[below] else None
        rates[name] = Rate(value, low, high, int(total[above]), int(total[below]))
    if not counted.has_vocabulary:
        del rates["unknown_share"]
    return rates


def values_of(pairs: Sequence[Pair], transcripts: pa.Table, name: str) -> list[str]:
    """What a column or a key of the metadata says of each pair; "" where it says nothing.

    Raises:
        JobError: No row has it.
    """
    rows = pa.array([pair.rows[0] for pair in pairs], pa.int64())
    if name in transcripts.column_names:
        found = transcripts[name].take(rows).to_pylist()
    else:
        found = pc.map_lookup(transcripts["metadata"], name, "first").take(rows).to_pylist()
        if not any(value is not None for value in found):
            keys = {key for row in transcripts["metadata"].to_pylist() for key, _ in row or ()}
            have = f"{', '.join(sorted(keys))[:200]}" if keys else "none"
            raise JobError(f"--by {name}: no column, and none of the metadata; there are: {have}")
    return ["" if value is None else str(value) for value in found]


def count_confusions(pairs: Sequence[Pair]) -> Counter[tuple[str, str]]:
    """Characters that were taken for others, spaces left out; "" stands for nothing.

    Example:
        >>> dict(count_confusions([Pair("a", "네 그래요", [0], [["내", "그래"]])]))
        {('네', '내'): 1, ('요', ''): 1}
    """
    found: Counter[tuple[str, str]] = Counter()
    for pair in pairs:
        reference, hypothesis = pair.reference.replace(" ", ""), pair.hypothesis.replace(" ", "")
        for edit in Levenshtein.editops(reference, hypothesis):
            said = "" if edit.tag == "insert" else reference[edit.src_pos]
            heard = "" if edit.tag == "delete" else hypothesis[edit.dest_pos]
            found[said, heard] += 1
    return found


def worst_pairs(counted: Counted, num: int) -> list[int]:
    """Indices of the pairs with the highest CER, those with more errors first among equals.

    What was heard where the reference is empty has no rate, and comes after those that have.
    """
    errors, lengths = counted.counts[:, 0], counted.counts[:, 1]
    cer = errors / np.maximum(lengths, 1)
    order = np.lexsort((-errors, -cer, lengths == 0))
    return [int(index) for index in order[:num] if errors[index]]


def show_alignment(pair: Pair) -> str:
    """Both texts in one line: what differs stands in brackets, as said and as heard.

    Example:
        >>> show_alignment(Pair("a", "오늘 갔다가 봐요", [0], [["오늘", "갓다가", "봐"]]))
        '오늘 [갔→갓]다가 봐[요→]'
    """
    parts = []
    for block in Levenshtein.opcodes(pair.reference, pair.hypothesis):
        said = pair.reference[block.src_start : block.src_end]
        heard = pair.hypothesis[block.dest_start : block.dest_end]
        parts.append(said if block.tag == "equal" else f"[{said}→{heard}]")
    return "".join(parts)
