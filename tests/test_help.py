"""Help that fits a screen, and mistakes that say where to look."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from test_cli import call

from koasr.cli import app, main

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
    # Of a small terminal's first screen: how it is called, what it is for, an example.
    assert any(line.startswith(f"Example: koasr {command} ") for line in lines[:24])
    told = "Arguments:" in lines[:24] or any(line.startswith("  INPUTS ") for line in lines[:24])
    assert told or "INPUT" not in lines[0]


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
        (["trascribe"], "unknown command trascribe: did you mean transcribe? See koasr --help."),
        (["zzz"], "unknown command zzz. See koasr --help."),
        (["--versoin"], "unknown flag --versoin: did you mean --version? See koasr --help."),
        (["--model", "x"], "unknown flag --model: a command comes first. See koasr --help."),
        (["gc", "--dry-rn", "x"], "unknown flag --dry-rn: did you mean --dry-run? See koasr gc -"),
        (["transcribe", "--ouput=x", "y"], "unknown flag --ouput: did you mean --output? See"),
        (["transcribe", "-o", "x", "y"], "unknown flag -o: did you mean --output?"),
        (["gc", "x", "y", "z"], "found y, z, wanted nothing more. See koasr gc --help."),
        (["gc"], "OUTPUT is missing. See koasr gc --help."),
        (["transcribe", "x", "--output"], "--output wants a value. See koasr transcribe --help."),
        (["select", "x", "--to", "lotse"], "lhotse, csv: did you mean lhotse? See koasr select -"),
        (["retry", "x", "--model=y", "--reason=timout"], "found 'timout': did you mean timeout?"),
        (["status", "x", "--json=perhaps"], "See koasr status --help."),
    ],
)
def test_a_mistake_says_what_was_meant_and_where_to_look(
    arguments: list[str], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert found in line


def test_a_script_is_called_as_it_was_called(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "pipelines/pseudo_label.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    shown = done.stdout
    assert shown.startswith("Usage: python pipelines/pseudo_label.py [OPTIONS] OUTPUT\n")
    assert "\nExample: python pipelines/pseudo_label.py OUT --max-expected-cer" in shown
    assert "koasr select" not in shown
    page = app.help_formatter
    try:
        with pytest.raises(SystemExit, match="2"):
            main(["select", "x", "--huors", "5"], "pipelines/pseudo_label.py")
    finally:
        app.help_formatter = page
    wrong = capsys.readouterr().err
    assert wrong.endswith("--hours? See python pipelines/pseudo_label.py --help.\n")
