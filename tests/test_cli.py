"""What a user types, and what a mistake looks like: one line and an exit code, no traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import edit_json, tiny

from koasr import __version__
from koasr.cli import main

ROOT = Path(__file__).parent.parent
SPEECH = str(ROOT / "examples" / "speech" / "zeroth")


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.strip() == __version__
    assert call("transcribe", "--help") == 0
    found = capsys.readouterr().out
    for option in ("--output", "--model", "--max-reject-rate", "--device", "--num-actors"):
        assert option in found


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--bogus", "1"], "--bogus. See koasr transcribe --help."),
        (["--max-reject-rat", "1"], "did you mean --max-reject-rate?"),
        (["--max-byte", "1"], "did you mean --max-bytes?"),
        (["--device", "tpu"], "--device: found 'tpu', wanted auto, cpu, cuda"),
        (["--max-reject-rate", "2"], '"2.0" for --max-reject-rate. Must be <= 1.'),
        (["--num-actors", "0"], "--num-actors. Must be >= 1."),
        (["--num-actors", "many"], 'unable to convert "many" into int'),
        (["--date", "yesterday"], "YYYY-MM-DD"),
        (["--stop-at", "6 pm"], "HH:MM"),
        (["--max-hours", "0"], "--max-hours"),
        (["--max-bytes", "-1"], "--max-bytes"),
        (["--max-duration-s", "nan"], "--max-duration-s"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(tiny(tmp_path / "model"))
    capsys.readouterr()
    places = [SPEECH, "--output", str(tmp_path / "out"), "--model", model]
    assert call("transcribe", *places, *arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("koasr: ")
    assert found in line


def test_a_missing_argument_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("transcribe", SPEECH, "--model", "x") == 2
    assert "--output is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inputs", "model", "found"),
    [
        (SPEECH, "/no/such/model", "does not exist"),
        ("/no/such/speech", "", "holds no files"),
        (str(ROOT / "tests"), "", "holds no speech"),
    ],
)
def test_a_job_that_cannot_be_done_is_one_line_and_exit_code_1(
    inputs: str, model: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model or str(tiny(tmp_path / "model"))
    capsys.readouterr()
    assert call("transcribe", inputs, "--output", str(tmp_path / "out"), "--model", model) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert found in line


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"intermediate_size": 65}, "weights do not fit their config"),
        ({"num_attention_heads": 5}, "wanted a divisor"),
        ({"hidden_act": "snake"}, "not known to transformers"),
    ],
)
def test_a_model_that_cannot_run_is_refused_before_anything_is_written(
    fields: dict[str, object], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = tiny(tmp_path / "model"), tmp_path / "out"
    edit_json(model / "config.json", **fields)
    capsys.readouterr()
    assert call("transcribe", SPEECH, "--output", str(output), "--model", str(model)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert found in line
    assert not output.exists()


def test_a_refusal_takes_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from koasr.cli import main\n"
        "try: main(['transcribe', '/no/such', '--output', '/tmp', '--model', '/no/such'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("koasr.transcribe.check_stores", interrupt)
    assert call("transcribe", SPEECH, "--output", str(tmp_path), "--model", "x") == 130
    assert "goes on from here" in capsys.readouterr().err


def test_the_pipeline_script_is_the_same_command() -> None:
    script = ROOT / "pipelines" / "transcribe.py"
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "Transcribe everything" in done.stdout
