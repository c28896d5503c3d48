"""The model's process may die: whoever kills it is found, and nobody else is lost."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from checkpoints import tiny
from dying_recognizer import KILLS, KILLS_ONCE, RAISES
from numpy.typing import NDArray
from sound import encode, tone, write_tar

from koasr.checkpoint import open_checkpoint
from koasr.ctc import BestPath
from koasr.errors import JobError
from koasr.model import AcousticModel
from koasr.recognize import recognize
from koasr.recognizer import Recognizer

ROOT = Path(__file__).parent.parent
Samples = NDArray[np.int16]
Make = Callable[..., Recognizer]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def make(directory: Path) -> Iterator[Make]:
    made = []

    def make(module: str = "dying_recognizer", batch_seconds: float = 2.0) -> Recognizer:
        checkpoint = open_checkpoint(str(directory))
        recognizer = Recognizer(
            checkpoint,
            directory,
            device="cpu",
            precision="float32",
            threads=1,
            batch_seconds=batch_seconds,
            module=module,
        )
        made.append(recognizer)
        return recognizer

    yield make
    for recognizer in made:
        recognizer.close()


def segments(count: int = 8) -> list[Samples]:
    rng = np.random.default_rng(0)
    found = [rng.integers(100, 9_000, 8_000 + 400 * i).astype(np.int16) for i in range(count)]
    return found


def test_paths_are_those_of_the_model_in_this_process(make: Make, directory: Path) -> None:
    checkpoint = open_checkpoint(str(directory))
    expected = recognize(AcousticModel(checkpoint, directory), segments(), batch_seconds=4.0)
    found = make("koasr.recognizer").recognize(segments())
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, BestPath)
        assert theirs is not None
        assert ours.spans == theirs.spans
        assert ours.seq_logprob == pytest.approx(theirs.seq_logprob, abs=1e-3)


def test_what_kills_the_model_is_found_and_the_rest_is_recognized(make: Make) -> None:
    rows = segments(8)
    rows[1][0], rows[6][0] = KILLS, RAISES
    found = make().recognize(rows)
    assert [i for i, outcome in enumerate(found) if outcome == "crashed"] == [1, 6]
    assert all(isinstance(found[i], BestPath) for i in range(len(rows)) if i not in {1, 6})


def test_a_death_that_was_not_the_segments_fault_costs_no_segment(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOASR_TEST_MARK", str(tmp_path / "died"))
    rows = segments()
    rows[5][0] = KILLS_ONCE
    assert all(isinstance(outcome, BestPath) for outcome in make().recognize(rows))
    assert (tmp_path / "died").exists()


def test_a_model_that_dies_on_everything_stops_the_job(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each death costs the start of a process.
    monkeypatch.setattr("koasr.recognizer.MAX_CRASHES_IN_A_ROW", 2)
    (row,) = segments(1)
    row[0] = KILLS
    recognizer = make()
    assert recognizer.recognize([row]) == ["crashed"]
    with pytest.raises(JobError, match="died on 2 segments in a row"):
        recognizer.recognize([row])


def test_a_model_that_dies_once_while_it_loads_is_loaded_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KOASR_TEST_LOAD_MARK", str(tmp_path / "died"))
    assert isinstance(make().recognize(segments(1))[0], BestPath)
    assert (tmp_path / "died").exists()


def test_a_model_that_does_not_load_stops_the_job(make: Make, directory: Path) -> None:
    recognizer = make()
    with pytest.raises(JobError, match="does not load"):
        make("no_such_module")
    assert isinstance(recognizer.recognize(segments(1))[0], BestPath)
    assert recognizer.recognize([]) == []


@pytest.mark.timeout(250)
def test_a_recording_that_kills_the_model_is_one_reject_of_the_job(
    directory: Path, tmp_path: Path
) -> None:
    members = []
    for i in range(3):
        samples = tone(1.0 + i / 10)
        # The last, since each death costs the start of a process; the test above has two inside.
        samples[0] = KILLS if i == 2 else 0
        members.append((f"{i}.wav", encode(samples, kind="WAV")))
    write_tar(tmp_path / "in.tar", members)
    command = [sys.executable, str(ROOT / "pipelines" / "transcribe.py"), str(tmp_path / "in.tar")]
    command += ["--output", str(tmp_path / "out"), "--model", str(directory)]
    path = os.pathsep.join([str(ROOT / "tests" / "dying"), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"RAY_ADDRESS": "", "PYTHONPATH": path}
    done = subprocess.run(
        [*command, "--max-reject-rate", "0.5"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "3 = 2 transcribed + 1 rejected" in done.stdout
    (reject,) = ds.dataset(str(tmp_path / "out" / "rejects")).to_table().to_pylist()
    assert (reject["source_key"], reject["reason"], reject["stage"]) == (
        "2.wav",
        "crashed",
        "transcribe",
    )
