"""Help that fits a screen, and mistakes that say where to look."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_cli import call

from koasr.cli import app

ROOT = Path(__file__).parent.parent
COMMANDS = [name for name in app if not name.startswith("-")]


def read_help(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, *command: str
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    capsys.readouterr()
    assert call(*command, "--help") == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_screen_and_shows_an_example(
    command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = read_help(capsys, monkeypatch, width, command)
    assert len(lines) <= 50
    assert max(map(len, lines)) <= width
    assert all(line.isprintable() and line == line.rstrip() for line in lines)
    assert lines[0].startswith(f"Usage: koasr {command} ")
    assert any(line.startswith(f"Example: koasr {command} ") for line in lines)


@pytest.mark.parametrize("width", [80, 120])
def test_the_commands_fit_a_screen_a_line_each(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = read_help(capsys, monkeypatch, width)
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
    listed = [found[1] for line in lines if (found := re.match(r"  (\w+)  +[A-Z].*\.$", line))]
    assert listed[0] == "transcribe"
    assert sorted(listed) == sorted(COMMANDS)


def test_every_flag_is_shown_with_its_default_and_no_negative(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = "\n".join(read_help(capsys, monkeypatch, 80, "transcribe"))
    flags = app["transcribe"].assemble_argument_collection().filter_by(show=True)
    names = [flag.name for flag in flags if flag.name.startswith("--")]
    assert len(names) > 20
    assert not [name for name in names if f"  {name}" not in shown]
    assert "--no-" not in shown
    assert "allowed" not in shown
    assert "--device auto|cpu|cuda  auto: GPUs where the cluster has some. [default: auto]" in shown
    assert "[default: 14400]" in shown
    order = [
        "Arguments:",
        "Options:",
        "How it runs:",
        "When it ends:",
        "Limits of untrusted input:",
    ]
    assert [line for line in shown.splitlines() if line.endswith(":")] == order


def test_what_is_known_elsewhere_is_named_with_its_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = "\n".join(read_help(capsys, monkeypatch, 80, "finetune"))
    assert "--adam-beta1 N [0.9]," in shown
    assert "--[no-]fp16 [on]" in shown
    assert "--[no-]resume " in shown


def test_in_a_terminal_the_flags_stand_out(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, color_system="standard", width=80)
    app.help_print(["gc"], console=console)
    assert "\x1b[36m  --dry-run  \x1b[0mSay what would be removed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["trascribe"], 'Did you mean "transcribe"?'),
        (["trascribe"], "See koasr --help."),
        (["gc", "--dry-rn", "x"], "Did you mean --dry-run? See koasr gc --help."),
        (["gc", "x", "y", "z"], "Found y, z, wanted nothing more. See koasr gc --help."),
        (["gc"], "OUTPUT requires an argument. See koasr gc --help."),
        (["select", "x", "--to", "lotse"], 'Did you mean "lhotse"? See koasr select --help.'),
        (["status", "x", "--json=perhaps"], "See koasr status --help."),
    ],
)
def test_a_mistake_says_what_was_meant_and_where_to_look(
    arguments: list[str], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert found in line


def test_a_script_is_called_as_it_was_called() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "pipelines/pseudo_label.py", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    shown = run("--help").stdout
    assert shown.startswith("Usage: python pipelines/pseudo_label.py [OPTIONS] OUTPUT\n")
    assert "\nExample: python pipelines/pseudo_label.py OUT --max-expected-cer" in shown
    assert "koasr select" not in shown
    wrong = run("x", "--huors", "5")
    assert wrong.returncode == 2
    assert wrong.stderr.endswith("--hours? See python pipelines/pseudo_label.py --help.\n")
