"""Transcripts and references → the errors of each segment and whether each word is wrong."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from koasr.errors import JobError
from koasr.normalize import Normalizer

SCORED_COLUMNS = ("segment_id", "recording_id", "start_s", "text", "words", "reference", "metadata")
"""What is read of the transcripts to score them."""

_SPEAKER_KEYS = ("speaker", "speaker_id", "client_id")


@dataclass(frozen=True)
class Pair:
    """A normalized reference, and the segments that together are its hypothesis.

    Attributes:
        name: The recording_id; the segment_id where the segment has a reference of its own.
        reference: Normalized.
        rows: The segments' rows in the transcripts, in time order.
        words: Each segment's words, normalized: "" is one of which nothing is left.
    """

    name: str
    reference: str
    rows: list[int]
    words: list[list[str]]

    @cached_property
    def hypothesis(self) -> str:
        """The words of all segments, between single spaces."""
        return " ".join(" ".join(word for words in self.words for word in words if word).split())


@dataclass(frozen=True)
class Pairs:
    """What can be compared, and how many recordings cannot: their reference masks something."""

    pairs: list[Pair]
    num_masked: int = 0


@dataclass(frozen=True)
class ScoredSegments:
    """Segments that have a reference, in the order of the transcripts, as columns of equal length.

    Attributes:
        table: Their rows in the transcripts.
        errors: Character errors, spaces left out, that fall to each segment.
        ref_chars: Characters of the reference that fall to it, spaces left out.
        hyp_chars: Characters of its hypothesis, spaces left out.
        clusters: What a bootstrap draws together: its speaker, or its recording.
        word_segment: Of each word of the hypotheses, the index of its segment.
        word_confidence: Of each word.
        word_is_wrong: Whether any of its characters is substituted or inserted, or one is missing
            inside it.
    """

    table: pa.Table
    errors: NDArray[np.int64]
    ref_chars: NDArray[np.int64]
    hyp_chars: NDArray[np.int64]
    clusters: NDArray[np.str_]
    word_segment: NDArray[np.int64]
    word_confidence: NDArray[np.float64]
    word_is_wrong: NDArray[np.bool_]


def pair_up(
    transcripts: pa.Table, references: Mapping[str, str] | None, normalizer: Normalizer
) -> Pairs:
    """References beside the hypotheses of their segments, in the order of the transcripts.

    A recording may be several segments with one reference: they are taken together, in time order.

    Args:
        transcripts: With `SCORED_COLUMNS`.
        references: By recording_id, or by segment_id where segments have their own; None takes
            the column `reference`.
        normalizer: Applied to both sides; references that mask something are left out.
    """
    ids = transcripts["recording_id"].to_pylist()
    texts = transcripts["text"].fill_null("").to_pylist()
    if references is None:
        given = transcripts["reference"].to_pylist()
        references = {name: text for name, text in zip(ids, given, strict=True) if text is not None}
    else:
        segments = transcripts["segment_id"].to_pylist()
        ids = [own if own in references else name for own, name in zip(segments, ids, strict=True)]
    rows_of: dict[str, list[int]] = {}
    for row in np.argsort(transcripts["start_s"].to_numpy(), kind="stable").tolist():
        if ids[row] in references:
            rows_of.setdefault(ids[row], []).append(row)
    masked = {name for name in rows_of if normalizer.is_masked(references[name])}
    normalized = {word: normalizer.normalize_hypothesis(word) for word in _distinct_words(texts)}
    pairs = [
        Pair(
            name,
            normalizer.normalize_reference(references[name]),
            rows,
            [[normalized[word] for word in texts[row].split()] for row in rows],
        )
        for name, rows in sorted(rows_of.items(), key=lambda found: min(found[1]))
        if name not in masked
    ]
    return Pairs(pairs, len(masked))


def _distinct_words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in text.split()}


def score_segments(
    transcripts: pa.Table, references: Mapping[str, str] | None, normalizer: Normalizer
) -> ScoredSegments:
    """Errors of every segment that has a reference, each where it happened.

    The characters of a recording's hypothesis are aligned with those of its reference, without
    spaces. A substitution or insertion falls to the segment of its character; a deletion to that
    of the hypothesis character before it, or of the first; to the first segment where there is
    none.

    Args:
        transcripts: With `SCORED_COLUMNS`.
        references: By recording_id or segment_id; None takes the column `reference`.
        normalizer: Applied to both sides; references that mask something are left out.

    Raises:
        JobError: `words` are not those of `text`, or a reference needs a side to be chosen.
    """
    return score_pairs(transcripts, pair_up(transcripts, references, normalizer).pairs)


def score_pairs(transcripts: pa.Table, pairs: Sequence[Pair]) -> ScoredSegments:
    """`score_segments` of pairs that are at hand."""
    rows = np.array(sorted(row for pair in pairs for row in pair.rows), dtype=np.int64)
    table = transcripts.take(pa.array(rows))
    confidence, num_words = _word_confidence(table)
    tally = _Tally(len(rows), len(confidence))
    first_word = (np.cumsum(num_words) - num_words).tolist()
    segment_of = dict(zip(rows.tolist(), range(len(rows)), strict=True))
    for pair in pairs:
        tally.add(pair, [(segment_of[row], first_word[segment_of[row]]) for row in pair.rows])
    is_counted = tally.has_letters & ~np.isnan(confidence)
    return ScoredSegments(
        table,
        tally.errors,
        tally.hyp_chars + tally.deletions - tally.insertions,
        tally.hyp_chars,
        clusters_of(table),
        np.repeat(np.arange(len(rows)), num_words)[is_counted],
        confidence[is_counted],
        tally.is_wrong[is_counted],
    )


class _Tally:
    """Errors by segment and by word, added up pair by pair."""

    def __init__(self, num_segments: int, num_words: int) -> None:
        self.errors, self.insertions, self.deletions, self.hyp_chars = (
            np.zeros(num_segments, np.int64) for _ in range(4)
        )
        self.is_wrong, self.has_letters = (np.zeros(num_words, np.bool_) for _ in range(2))

    def add(self, pair: Pair, places: Sequence[tuple[int, int]]) -> None:
        """Align one pair; `places` are each of its segments and that segment's first word."""
        owners: list[tuple[int, int]] = []  # segment and word of each character
        chars = ""
        for (segment, first_word), words in zip(places, pair.words, strict=True):
            for word, letters in enumerate(words, start=first_word):
                letters = letters.replace(" ", "")
                chars += letters
                owners += [(segment, word)] * len(letters)
                self.has_letters[word] = bool(letters)
                self.hyp_chars[segment] += len(letters)
        for edit in Levenshtein.editops(pair.reference.replace(" ", ""), chars):
            place = edit.dest_pos
            if edit.tag == "delete":
                segment, word = owners[max(place - 1, 0)] if owners else (places[0][0], -1)
                self.deletions[segment] += 1
                is_inside = 0 < place < len(owners) and owners[place][1] == word
            else:
                segment, word = owners[place]
                self.insertions[segment] += edit.tag == "insert"
                is_inside = True
            self.errors[segment] += 1
            if is_inside:
                self.is_wrong[word] = True


def _word_confidence(table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of each word of each text, NaN where there is none; and how many words each text has."""
    words = table["words"].combine_chunks()
    num_words = np.array(
        [len(text.split()) for text in table["text"].fill_null("").to_pylist()], np.int64
    )
    has_words = words.is_valid().to_numpy(zero_copy_only=False)
    num_given = pc.list_value_length(words).fill_null(0).to_numpy(zero_copy_only=False)
    differs = has_words & (num_given != num_words)
    if differs.any():
        raise JobError(
            f"{int(differs.sum())} rows have other `words` than their `text`: "
            "wanted transcripts as koasr wrote them"
        )
    confidence = np.full(int(num_words.sum()), np.nan)
    given = pc.struct_field(words.flatten(), "confidence")
    confidence[np.repeat(has_words, num_words)] = given.to_numpy(zero_copy_only=False)
    return confidence, num_words


def clusters_of(table: pa.Table) -> NDArray[np.str_]:
    """What a bootstrap draws each row with: the speaker its metadata name, or its recording."""
    found = [pc.map_lookup(table["metadata"], key, "first") for key in _SPEAKER_KEYS]
    named = [pc.if_else(pc.equal(values, ""), None, values) for values in found]
    return np.array(pc.coalesce(*named, table["recording_id"]).to_pylist(), dtype=np.str_)
