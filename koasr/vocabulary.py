"""References → the tokens of a CTC head, and the way between text and token ids."""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from koasr.errors import JobError

DELIMITER = "|"
_BLANKS = ("[PAD]", "<pad>")
_UNKNOWNS = ("[UNK]", "<unk>")


def normalize_reference(text: str) -> str:
    """Reference as a CTC target can say it: NFC, lower case, no punctuation, single spaces.

    Example:
        >>> normalize_reference(" 네,  그래요! ")
        '네 그래요'
    """
    composed = unicodedata.normalize("NFC", text).lower()
    kept = (" " if unicodedata.category(char)[0] in "PSCZ" else char for char in composed)
    return " ".join("".join(kept).split())


def _is_conjoining_jamo(token: str) -> bool:
    return len(token) == 1 and 0x1100 <= ord(token) <= 0x11FF


def _is_syllable(token: str) -> bool:
    return len(token) == 1 and 0xAC00 <= ord(token) <= 0xD7A3


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of a CTC head, in the order of its rows.

    Syllables, or conjoining jamo: then text is taken apart (NFD) before it is looked up and
    put together again after decoding.
    """

    ids: dict[str, int]

    @cached_property
    def blank(self) -> str:
        """The token that stands for nothing, which for wav2vec 2.0 is the padding."""
        return self._special(_BLANKS)

    @cached_property
    def unknown(self) -> str:
        """The token of a character that has none."""
        return self._special(_UNKNOWNS)

    @cached_property
    def is_jamo(self) -> bool:
        """Whether its letters are conjoining jamo, not syllables."""
        return any(map(_is_conjoining_jamo, self.ids)) and not any(map(_is_syllable, self.ids))

    @cached_property
    def _tokens(self) -> dict[int, str]:
        return {token_id: token for token, token_id in self.ids.items()}

    def _special(self, names: Sequence[str]) -> str:
        found = next((name for name in names if name in self.ids), None)
        if found is None:
            raise JobError(f"the vocabulary has none of {', '.join(names)}: add one of them")
        return found

    def encode(self, text: str) -> list[int]:
        """Token ids of a normalized reference, [] for an empty one.

        Example:
            >>> build_vocabulary(["가나 다"]).encode("나 가라")
            [1, 3, 0, 4]
        """
        form = unicodedata.normalize("NFD" if self.is_jamo else "NFC", text)
        unknown_id = self.ids[self.unknown]
        return [self.ids.get(char, unknown_id) for char in form.replace(" ", DELIMITER)]

    def decode(self, token_ids: Iterable[int]) -> str:
        """Text of one recording's most probable token per frame: collapse, then map, then NFC.

        Negative ids are padding and count as blank.

        Example:
            >>> build_vocabulary(["가나 다"]).decode([0, 0, 5, 0, 3, 3, 1, 5, -100])
            '가가 나'
        """
        blank_id = self.ids[self.blank]
        silent = {blank_id, self.ids[self.unknown]}
        last, kept = blank_id, []
        for raw_id in token_ids:
            token_id = blank_id if raw_id < 0 else int(raw_id)
            if token_id != last and token_id not in silent:
                kept.append(self._tokens.get(token_id, ""))
            last = token_id
        words = "".join(kept).replace(DELIMITER, " ").split()
        return unicodedata.normalize("NFC", " ".join(words))

    def unknown_share(self, references: Iterable[str]) -> float:
        """Share of the references' characters that have no token, 0 without references."""
        unknown_id, total, unknown = self.ids[self.unknown], 0, 0
        for reference in references:
            token_ids = self.encode(reference)
            total += len(token_ids)
            unknown += token_ids.count(unknown_id)
        return unknown / total if total else 0.0


def build_vocabulary(references: Iterable[str]) -> Vocabulary:
    """Vocabulary of normalized references: their characters in order, `|`, `[UNK]`, `[PAD]`.

    Example:
        >>> build_vocabulary(["나 가", "다"]).ids
        {'가': 0, '나': 1, '다': 2, '|': 3, '[UNK]': 4, '[PAD]': 5}
    """
    characters = sorted({char for reference in references for char in reference} - {" "})
    tokens = [*characters, DELIMITER, "[UNK]", "[PAD]"]
    return Vocabulary({token: token_id for token_id, token in enumerate(tokens)})


def load_vocabulary(path: Path) -> Vocabulary:
    """Vocabulary of a `vocab.json`.

    Raises:
        JobError: The file is missing, is no map of tokens to distinct ids from 0, or lacks the
            delimiter, the unknown token or the blank.
    """
    try:
        ids = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise JobError(f"{path} is no vocabulary: {type(error).__name__}: {error}") from error
    if not isinstance(ids, dict) or sorted(ids.values()) != list(range(len(ids))):
        raise JobError(f"{path} is no vocabulary: wanted a JSON map of tokens to ids 0, 1, 2, …")
    vocabulary = Vocabulary(ids)
    if DELIMITER not in ids or not (vocabulary.blank and vocabulary.unknown):
        raise JobError(f"{path} lacks the word delimiter {DELIMITER}: add it")
    return vocabulary
