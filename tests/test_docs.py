"""The documentation: its snippets run, its links lead somewhere, its commands and flags exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outputs import night

from koasr.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SECTION = re.compile(r"^### (.+?)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"```python\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"```(?:console|sh)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")


def snippets() -> dict[str, str]:
    """Heading → Python code, of the page about reading an output."""
    text = (ROOT / "docs" / "reading.md").read_text()
    return {name: found[1] for name, body in SECTION.findall(text) if (found := CODE.search(body))}


NUM_READ = {
    "pandas": ("rows", 24),
    "Polars": ("hours", 4),
    "DuckDB": ("words", 20),
    "Hugging Face datasets": ("segments", 24),
    "PyArrow, a batch at a time": ("count", 24),
}
"""Of an output of 24 segments from four sources, two words each: what a snippet finds."""


@pytest.mark.parametrize("name", snippets())
def test_an_output_is_read_as_the_page_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night(str(tmp_path / "runs" / "demo"))
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(snippets()[name], found)
    variable, count = NUM_READ[name]
    value = found[variable]
    assert (value if isinstance(value, int) else len(value)) == count


def test_every_snippet_is_run() -> None:
    assert set(snippets()) == set(NUM_READ)


def anchors(page: Path) -> set[str]:
    """As they are made of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def commands(page: Path) -> Iterator[list[str]]:
    """Words of each koasr or pipelines command of a page, without comments."""
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if "--" in words and words[:3] == ["ray", "job", "submit"]:
                words = words[words.index("--") + 1 :]
            if words[:1] == ["python"] and words[1:2] and words[1].startswith("pipelines/"):
                name = Path(words[1]).stem.replace("pseudo_label", "select")
                words = ["koasr", name, *words[2:]]
            if words[:1] == ["koasr"]:
                yield words[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_flag_of_a_page_is_there(page: Path) -> None:
    for words in commands(page):
        if words[0].startswith("-"):
            continue
        arguments = app[words[0]].assemble_argument_collection(parse_docstring=False)
        known = {name for argument in arguments for name in argument.names} | {"--help"}
        for word in words[1:]:
            flag = word.partition("=")[0]
            name = flag if flag in known else flag.split(".")[0]
            assert not flag.startswith("--") or name in known, f"{flag} of koasr {words[0]}"
