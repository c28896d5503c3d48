"""Help of a command → a page that fits a screen: a line for each flag, the important ones first."""

import re
import textwrap
from dataclasses import dataclass
from typing import Any

from cyclopts import Group
from cyclopts.help import HelpEntry, HelpPanel
from rich.console import Console, ConsoleOptions
from rich.text import Text

_MAX_WIDTH = 100
"""Longer lines are hard to read, however wide the terminal."""
_MAX_LABEL = 30
_MAX_CHOICES = 20
_HIDDEN = (None, "None", "False", "()")
_EXAMPLE = "Example: "


@dataclass(frozen=True)
class HelpPage:
    """How cyclopts is to print a help page: without boxes, and without the flags' negatives.

    Args:
        command: What its texts call the command.
        called: What they are to call it.
    """

    command: str = "koasr"
    called: str = "koasr"

    def render_usage(self, console: Console, options: ConsoleOptions, usage: Any) -> None:
        """Print how the command is called."""
        self._print(console, "Usage: " + self._named(str(usage)))

    def render_description(self, console: Console, options: ConsoleOptions, text: Any) -> None:
        """Print what it does. An example stays on one line, so that it can be copied."""
        for paragraph in text.primary_renderable.plain.strip().split("\n\n"):
            line = self._named(" ".join(paragraph.split()))
            lines = [line] if line.startswith(_EXAMPLE) else _wrap(line, _width(console))
            self._print(console, "\n" + "\n".join(lines))

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of flags or commands."""
        if not panel.entries:
            return
        self._print(console, f"\n{panel.title}:", style="bold")
        ours = [entry for entry in panel.entries if not _is_of_section(entry)]
        self._print_told(console, ours)
        self._print_names(console, [entry for entry in panel.entries if entry not in ours])

    def _print_told(self, console: Console, entries: list[HelpEntry]) -> None:
        labels = [_label(entry) for entry in entries]
        column = 4 + max((len(label) for label in labels if len(label) <= _MAX_LABEL), default=0)
        for label, entry in zip(labels, entries, strict=True):
            first, *others = _wrap(_told(entry), _width(console) - column) or [""]
            if len(label) + 4 > column:
                others, first = [first, *others], ""
            line = Text.assemble((f"  {label}".ljust(column), "cyan"), first)
            lines = [line, *(Text(" " * column + other) for other in others)]
            console.print(*lines, sep="\n", soft_wrap=True)

    def _print_names(self, console: Console, entries: list[HelpEntry]) -> None:
        defaults = [f" [{_default(entry)}]" if _default(entry) else "" for entry in entries]
        flags = [_label(e) + default for e, default in zip(entries, defaults, strict=True)]
        text = ", ".join(flag.replace(" ", "\xa0") for flag in flags)
        for line in _wrap(text, _width(console) - 2):
            self._print(console, "  " + line.replace("\xa0", " "), style="cyan")

    def _named(self, text: str) -> str:
        return text.strip().replace(self.command, self.called)

    def _print(self, console: Console, text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)


class NamesAlone(HelpPage):
    """For flags that are known elsewhere: names and defaults, as many to a line as it holds."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a group of flags."""
        self._print(console, f"\n{panel.title}:", style="bold")
        self._print_names(console, panel.entries)


def _width(console: Console) -> int:
    return min(console.width, _MAX_WIDTH)


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _label(entry: HelpEntry) -> str:
    """A flag with what it takes; a switch that is on unless told otherwise as --[no-]switch."""
    if entry.positional_label:
        return entry.positional_label
    names = [*entry.positive_shorts, *entry.positive_names]
    if entry.negative_names and entry.default != "False":
        names = [f"--[no-]{name.removeprefix('--')}" for name in entry.positive_names]
    takes = "|".join(entry.choices or ())
    if not takes or len(takes) > _MAX_CHOICES:
        takes = re.sub("INT|FLOAT", "N", entry.metavar or "")
    return f"{', '.join(names)} {takes}".rstrip()


def _is_of_section(entry: HelpEntry) -> bool:
    """Whether it is a key in a section of a job file: a flag that another command's help tells."""
    return any("." in name for name in entry.positive_names)


def _told(entry: HelpEntry) -> str:
    """What a flag means, what else it takes, and what it is if not given."""
    told = [entry.description.primary_renderable.plain] if entry.description else []
    choices = ", ".join(entry.choices or ())
    if len(choices.replace(", ", "|")) > _MAX_CHOICES:
        told.append(f"[{choices}]")
    if default := _default(entry):
        told.append(f"[default: {default}]")
    return " ".join(" ".join(told).split())


def _default(entry: HelpEntry) -> str:
    if entry.default == "True":
        return "on"
    return "" if entry.default in _HIDDEN else str(entry.default).removesuffix(".0")


ARGUMENTS = Group("Arguments", sort_key=0)
AMOUNT = Group("How much (one of these)", sort_key=1)
OPTIONS = Group("Options", sort_key=2)
TRAINING = Group("Training", sort_key=3)
COMPUTE = Group("How it runs", sort_key=3)
ENDING = Group("When it ends", sort_key=4)
FILTERS = Group("What is left out", sort_key=5)
TEXTS = Group("How texts are compared", sort_key=6)
LIMITS = Group("Limits of untrusted input", sort_key=7)
LIMITS_AGAIN = Group(
    "Limits of untrusted input, as of koasr transcribe",
    sort_key=7,
    help_formatter=NamesAlone(),
)
ELSEWHERE = Group(
    "Of transformers' TrainingArguments and Wav2Vec2Config",
    sort_key=8,
    help_formatter=NamesAlone(),
)
"""Groups of flags in the order of their importance, which cyclopts would have by the alphabet."""
