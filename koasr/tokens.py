"""Tokenizer files of a checkpoint → the token of each row of its CTC head, without transformers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from koasr.errors import JobError

TOKENIZER_FILES = (
    "vocab.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
)

_DEFAULTS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "word_delimiter_token": "|",
}
"""What Wav2Vec2CTCTokenizer takes where its files are silent."""

_NEVER_TEXT = frozenset({"<pad>", "<unk>", "<s>", "</s>", "[PAD]", "[UNK]"})
"""Not text in any vocabulary, also where the tokenizer's files do not declare them."""


@dataclass(frozen=True)
class HeadTokens:
    """The rows of a CTC head, as a checkpoint's tokenizer files name them."""

    tokens: tuple[str, ...]
    blank_id: int
    delimiter_id: int | None
    unk_id: int | None
    special_ids: frozenset[int]


def read_head_tokens(
    files: Mapping[str, Mapping[str, Any]], *, num_rows: int, config_pad_id: int | None, where: str
) -> HeadTokens:
    """Name each row of a head.

    Special tokens are found by name only: `bos_token_id` and `eos_token_id` of config.json are
    often the defaults 1 and 2, which in a syllable vocabulary are two syllables.

    Args:
        files: Contents of those of `TOKENIZER_FILES` that exist; `vocab.json` must.
        num_rows: Rows of the head.
        config_pad_id: `pad_token_id` of config.json, None where it has none.
        where: The checkpoint, for messages.

    Raises:
        JobError: The vocabulary does not fit the head, or nothing says which row is the blank.
    """
    refuse_nested(files["vocab.json"], where)
    tokens = _name_rows(files, num_rows, where)
    ids = {token: row for row, token in enumerate(tokens)}
    names = {kind: declared(files, kind) for kind in _DEFAULTS}
    specials = {name for kind, name in names.items() if kind != "word_delimiter_token" and name}
    specials |= set(_additional_specials(files)) - {names["word_delimiter_token"]} | _NEVER_TEXT
    blank_id = _find_blank(tokens, ids.get(names["pad_token"] or ""), config_pad_id, where)
    return HeadTokens(
        tokens=tokens,
        blank_id=blank_id,
        delimiter_id=ids.get(names["word_delimiter_token"] or ""),
        unk_id=ids.get(names["unk_token"] or ""),
        special_ids=frozenset(ids[name] for name in specials if name in ids) | {blank_id},
    )


def refuse_nested(vocabulary: Mapping[str, Any], where: str) -> None:
    """Refuse a `vocab.json` of several languages (MMS).

    Raises:
        JobError: It holds a vocabulary for each language.
    """
    languages = sorted(name for name, value in vocabulary.items() if isinstance(value, dict))
    if languages:
        example = "kor" if "kor" in languages else languages[0]
        raise JobError(
            f"{where}: vocab.json holds {len(languages)} languages: make a model of one of them "
            f"with `koasr convert {where} --out DIR --target-lang {example}`"
        )


def _content(value: Any) -> str | None:
    """A special token's text: files say it plainly or as an object."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def declared(files: Mapping[str, Mapping[str, Any]], kind: str) -> str | None:
    """The name of a special token, such as "pad_token"; None where a file says there is none."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if kind in files.get(name, {}):
            return _content(files[name][kind])
    return _DEFAULTS[kind]


def _additional_specials(files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for kind in ("additional_special_tokens", "extra_special_tokens"):
            found = files.get(name, {}).get(kind)
            if isinstance(found, list):
                yield from filter(None, map(_content, found))


def _name_rows(
    files: Mapping[str, Mapping[str, Any]], num_rows: int, where: str
) -> tuple[str, ...]:
    rows: dict[int, str] = {}
    for token, token_id in files["vocab.json"].items():
        if not isinstance(token_id, int) or token_id < 0 or token_id in rows:
            raise JobError(
                f"{where}: vocab.json gives {token!r} the id {token_id!r}: ids are "
                "whole numbers from 0, each for one token; mend it"
            )
        rows[token_id] = token
    beyond = sorted(token_id for token_id in rows if token_id >= num_rows)
    if beyond:
        raise JobError(
            f"{where}: vocab.json reaches id {beyond[-1]} but the head has only {num_rows} rows: "
            "take the vocab.json this model was trained with"
        )
    for token_id, token in _added_tokens(files):
        rows.setdefault(token_id, token)
    unnamed = [row for row in range(num_rows) if row not in rows]
    if unnamed:
        raise JobError(
            f"{where}: the head has {num_rows} rows but vocab.json and added_tokens.json name no "
            f"token for {len(unnamed)} of them (first: {unnamed[0]}): take the files this model "
            "was trained with"
        )
    return tuple(rows[row] for row in range(num_rows))


def _added_tokens(files: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[int, str]]:
    """Tokens beside vocab.json, in the old file's form and in the new one's."""
    for token, token_id in files.get("added_tokens.json", {}).items():
        if isinstance(token_id, int):
            yield token_id, token
    decoder = files.get("tokenizer_config.json", {}).get("added_tokens_decoder")
    for token_id, token in decoder.items() if isinstance(decoder, dict) else ():
        text = _content(token)
        if str(token_id).isdecimal() and text is not None:
            yield int(token_id), text


def _find_blank(
    tokens: tuple[str, ...], tokenizer_id: int | None, config_id: int | None, where: str
) -> int:
    if config_id is None and tokenizer_id is None:
        raise JobError(
            f"{where}: no pad token, which is the CTC blank: set pad_token_id in config.json"
        )
    if config_id is not None and not 0 <= config_id < len(tokens):
        raise JobError(
            f"{where}: pad_token_id (the CTC blank) is {config_id} in config.json but the head has "
            f"{len(tokens)} rows: set it to the row the model was trained with"
        )
    if config_id is not None and tokenizer_id is not None and config_id != tokenizer_id:
        raise JobError(
            f"{where}: the CTC blank is id {config_id} ({tokens[config_id]!r}) in config.json but "
            f"{tokenizer_id} ({tokens[tokenizer_id]!r}) in the tokenizer's files: make them agree"
        )
    blank_id = tokenizer_id if config_id is None else config_id
    assert blank_id is not None
    return blank_id
