"""A mistake in a command line → one line: what was found, what was meant, where to look."""

import difflib
from collections.abc import Iterable
from typing import Literal, get_args, get_origin

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Token,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

_CUTOFF = 0.6
"""Of difflib's ratio: two letters swapped, one missing or one too many."""
_MAX_CHOICES = 5
"""More are not listed where one of them is near."""


def mistake_text(error: CycloptsError, script: str | None = None) -> str:
    """What is wrong with the usage, and the page that says what is right.

    Args:
        error: What cyclopts found.
        script: What was called, if it is not koasr itself.
    """
    command = " ".join(["koasr", *(error.command_chain or [])])
    page = f"See {f'python {script}' if script else command} --help."
    found = _found(error)
    return f"{found} {page}" if found.endswith("?") else f"{found}. {page}"


def near(word: str, names: Iterable[str]) -> str | None:
    """The name that was meant: one like it, else the only one that begins so.

    Example:
        >>> near("--ouput", ["--input", "--output"]), near("--rev", ["--revision", "--model"])
        ('--output', '--revision')
        >>> near("--lr", ["--eval", "--learning-rate"]) is None
        True
    """
    bare = {name.lstrip("-"): name for name in names}
    typed = word.lstrip("-")
    alike = difflib.get_close_matches(typed, bare, n=1, cutoff=_CUTOFF)
    begun = alike or [name for name in bare if name.startswith(typed)]
    return bare[begun[0]] if len(begun) == 1 else None


def _found(error: CycloptsError) -> str:
    argument = getattr(error, "argument", None)
    if argument is not None and "webhook" in argument.name:
        return f"{argument.name.removeprefix('--')}: wanted one https:// URL"  # A secret.
    if isinstance(error, UnknownOptionError):
        flag = (error.token.keyword or error.token.value).partition("=")[0]
        flags = [name for argument in error.argument_collection for name in argument.names]
        flags = [name for name in flags if name.startswith("--")]
        if flag.startswith("["):
            # A key of a job file: [select][hours].
            key = flag.strip("[]").replace("][", ".")
            found = _unknown("key", key, [name.removeprefix("--") for name in flags])
            return f"{error.token.source}: {found}"
        return _unknown("flag", flag, flags)
    if isinstance(error, UnknownCommandError):
        return _unknown_command((error.unused_tokens or [""])[0], error.app)
    if isinstance(error, UnusedCliTokensError):
        return f"found {', '.join(error.unused_tokens or [])}, wanted nothing more"
    if type(error) is MissingArgumentError and error.argument and not error.tokens_so_far:
        name = error.argument.name
        return f"{name} wants a value" if error.keyword else f"{name} is missing"
    if (
        isinstance(error, CoercionError)
        and error.token
        and get_origin(error.target_type) is Literal
    ):
        return _no_choice(error.token, list(map(str, get_args(error.target_type))))
    return " ".join(str(error).split()).rstrip(".")


def _no_choice(token: Token, choices: list[str]) -> str:
    meant = near(token.value, choices)
    found = f"{token.keyword}: found {token.value!r}"
    if not meant or len(choices) <= _MAX_CHOICES:
        found += f", wanted {', '.join(choices)}"
    return f"{found}: did you mean {meant}?" if meant else found


def _unknown_command(token: str, app: App | None) -> str:
    names = list(app or [])
    if not token.startswith("-"):
        return _unknown("command", token, [name for name in names if not name.startswith("-")])
    found = _unknown("flag", token, [name for name in names if name.startswith("-")])
    return found if found.endswith("?") else f"{found}: a command comes first"


def _unknown(kind: str, word: str, names: Iterable[str]) -> str:
    meant = near(word, names)
    return f"unknown {kind} {word}" + (f": did you mean {meant}?" if meant else "")
