"""Loose files: links, pipes, folders and names that other systems make."""

import os
from pathlib import Path

from hostile.cases import ACCENTED, COMPOSED, DECOMPOSED, ELSEWHERE, FLAC, Case, file_of


def _links(folder: Path) -> None:
    """One that leads out, one to nowhere, one to itself, and one that stays inside."""
    (folder / "out.flac").symlink_to(ELSEWHERE)
    (folder / "nowhere.flac").symlink_to(folder / "gone.flac")
    (folder / "loop.flac").symlink_to(folder / "loop.flac")
    (folder / "sound.flac").write_bytes(FLAC)
    (folder / "inside.flac").symlink_to(folder / "sound.flac")


def _no_files(folder: Path) -> None:
    os.mkfifo(folder / "pipe.wav")
    os.mkfifo(folder / "pipe.tar")
    (folder / "folder.wav").mkdir()
    (folder / "link.wav").symlink_to(folder / "folder.wav")
    (folder / "a.flac").write_bytes(FLAC)


def _names(folder: Path) -> None:
    for name in (ACCENTED, "a\nb.flac", "\\udce9.flac", COMPOSED, DECOMPOSED, "#?%41 .flac"):
        (folder / name).write_bytes(FLAC)


def _reference(folder: Path) -> None:
    (folder / DECOMPOSED).write_bytes(FLAC)
    (folder / COMPOSED.replace("flac", "txt")).write_bytes("가나".encode("cp949"))


FILES = (
    Case("links among files", _links, 2, ("unreadable",) * 3),
    Case("a pipe and folders by the names of audio", _no_files, 1, ("unreadable",) * 2),
    Case("names of every kind", _names, 6),
    Case("a decomposed name and a composed reference", _reference, 1),
    Case("an upper-case ending", file_of("A.FLAC", FLAC), 1),
)
