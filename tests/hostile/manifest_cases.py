"""Manifests and scripts: paths that lead out, cuts that are none, and lines of every kind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.cases import ACCENTED, COMPOSED, DECOMPOSED, ELSEWHERE, FLAC, PCM, Case
from koasr.limits import Limits

GOOD = json.dumps({"audio_filepath": "a.flac", "text": "가"}).encode()


def lines(*found: bytes, beside: str = "a.flac") -> Callable[[Path], None]:
    """A writer of a manifest beside `a.flac` and another file."""

    def write(folder: Path) -> None:
        for name in ("a.flac", beside):
            (folder / name).write_bytes(FLAC)
        (folder / "m.jsonl").write_bytes(b"\n".join(found))

    return write


def cut(name: str, **columns: Any) -> Case:
    """A line that cuts nonsense, behind one that is sound."""
    line = json.dumps({"audio_filepath": "a.flac"} | columns).encode()
    return Case(name, lines(GOOD, line), 1, ("unreadable",))


def path(name: str, reason: str, **limits: Any) -> Case:
    """A line with a path that is refused."""
    shown = name if len(name) < 60 else name[:30] + "…"
    line = json.dumps({"audio_filepath": name}).encode()
    return Case(f"the path {shown!a}", lines(GOOD, line), 1, (reason,), Limits(**limits))


def line(name: str, found: bytes, *reasons: str) -> Case:
    """A line of another kind, between two that are sound."""
    return Case(name, lines(GOOD, found, GOOD), 3 - len(reasons), reasons)


def _linked(folder: Path) -> None:
    lines(GOOD, GOOD.replace(b"a.flac", b"link.flac"))(folder)
    (folder / "link.flac").symlink_to(ELSEWHERE)


def _script(folder: Path) -> None:
    (folder / "a.pcm").write_bytes(PCM)
    text = "a.pcm :: 안녕\nno path\ngone.pcm :: 없다\n../a.pcm :: 밖\n"
    (folder / "s.trn").write_bytes(text.encode("cp949"))


def _spelled(listed: str, stored: str) -> Callable[[Path], None]:
    entry = json.dumps({"audio_filepath": listed}, ensure_ascii=False).encode("utf-8", "replace")
    return lines(GOOD, entry, beside=stored)


_CUTS = [
    cut("an offset below 0", offset=-0.5),
    cut("an offset of NaN", offset=float("nan")),
    cut("an offset of 10^400", offset=10**400),
    cut("an offset of 10^300", offset=1e300),
    cut("an offset of text", offset="1.5"),
    cut("an offset that is true", offset=True),
    cut("a list of offsets", offset=[0]),
    cut("a duration below 0", duration=-1),
    cut("an infinite duration", duration=float("inf")),
    Case("an offset past the end", lines(GOOD, GOOD[:-1] + b', "offset": 99}'), 1, ("empty",)),
    Case("a duration of 0", lines(GOOD, GOOD[:-1] + b', "duration": 0}'), 1, ("empty",)),
    Case("a duration past the end", lines(GOOD[:-1] + b', "duration": 99}'), 1),
]
_PATHS = [
    path(name, "bad_name")
    for name in (
        "../secret.flac",
        "/etc/passwd",
        "file:///etc/passwd",
        "http://127.0.0.1/a.flac",
        "s3://other/a.flac",
        "s3://key:secret@other/a.flac",
        "simplecache::http://127.0.0.1/a.flac",
        "a.flac::s3://other/a.flac",
        "a\0.flac",
        "\ud800.flac",
        "",
    )
] + [
    path("가" * 400 + ".flac", "bad_name"),
    path("gone.flac", "unreadable"),
    path(".", "bad_name"),
    path("a.flac/b.flac", "unreadable"),
    path("x" * 300 + ".flac", "unreadable"),
    Case("a link in a manifest that leads out", _linked, 1, ("unreadable",)),
    Case("a composed path to a decomposed name", _spelled(COMPOSED, DECOMPOSED), 2),
    Case("a decomposed path to a composed name", _spelled(DECOMPOSED, COMPOSED), 2),
    Case(
        "a path that is not UTF-8",
        lines(GOOD, json.dumps({"audio_filepath": ACCENTED}).encode(), beside=ACCENTED),
        2,
    ),
]
_LINES = [
    line("a line that is no JSON", b"audio_filepath: a.flac", "unreadable"),
    line("a line that is a list", b"[1]", "unreadable"),
    line("a line without a path", b'{"text": "x"}', "unreadable"),
    line("a line with a list of paths", b'{"audio_filepath": ["a.flac"]}', "unreadable"),
    line("a line of zeros", bytes(300), "unreadable"),
    line("a line nested 100,000 deep", b'{"a":' * 100_000, "unreadable"),
    line("a line of 2 MB", b'{"a": "' + b"x" * (2 << 20) + b'"}', "too_large"),
    line("a line of 0.9 MB", GOOD[:-1] + b', "b": "' + b"x" * 900_000 + b'"}'),
    line("a line of half a pair", GOOD[:-1] + b', "speaker": "\\ud800"}'),
    line("a line of neither UTF-8 nor cp949", GOOD[:-2] + b'\xff\xff"}', "unreadable"),
    Case("a blank line", lines(GOOD, b"  ", b"", GOOD), 2),
    Case("a manifest with a mark of its byte order", lines(b"\xef\xbb\xbf" + GOOD, GOOD), 2),
    Case("a manifest with line ends of Windows", lines(GOOD + b"\r", GOOD + b"\r"), 2),
    Case("a manifest whose first line is no JSON", lines(b"# list", GOOD), 1, ("unreadable",)),
    Case(
        "a manifest in cp949",
        lines(GOOD, '{"audio_filepath": "a.flac", "text": "천"}'.encode("cp949")),
        2,
    ),
    Case("more lines than the limit", lines(*[GOOD] * 9), 5, ("too_large",), Limits(max_members=5)),
    Case("a script in cp949", _script, 1, ("bad_name", "unreadable", "unreadable")),
]
MANIFESTS = (*_CUTS, *_PATHS, *_LINES)
