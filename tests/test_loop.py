"""The example that learns from its own transcripts, made tiny."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_the_loop_closes(tmp_path: Path) -> None:
    tiny = ["--each", "24", "--steps", "2", "--max-expected-cer", "0.3"]
    command = [sys.executable, "examples/loop.py", "--out", str(tmp_path / "loop"), *tiny]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    steps = [line.split()[1:3] for line in printed if line.startswith("$ ")]
    assert ["koasr", "select"] in steps
    assert ["python", "pipelines/finetune.py"] in steps
    for name in ("familiar", "strangers"):
        (line,) = (line for line in printed if line.startswith(f"│ {name}"))
        assert line.count("%") == 3
    assert (tmp_path / "loop" / "model" / "model.safetensors").exists()
