"""A short form of `bench/fuzz.py`: spoiled sources lose no recording, and hang or crash nothing."""

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
import fuzz

from koasr.readers import read_recordings

NUM_INPUTS = 1_000


def test_spoiled_sources_are_accounted_for() -> None:
    tally = fuzz.try_many(range(NUM_INPUTS), run_seed=3)
    assert tally.failures == []
    assert tally.inputs.total() == NUM_INPUTS
    assert len(tally.inputs) > 20
    assert tally.transcribed.total() > NUM_INPUTS / 4
    assert {"truncated", "unreadable", "unsupported_format"} <= {r for _, r in tally.rejects}


def test_an_input_is_the_same_every_time() -> None:
    one, other = (fuzz.try_many(range(20, 40), run_seed=5) for _ in range(2))
    assert (one.inputs, one.rejects) == (other.inputs, other.rejects)


def test_a_recording_that_is_lost_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "load_pack", lambda pack, *args: iter(()))
    found = fuzz.try_many(range(30), run_seed=3).failures
    assert any(failure["what"].startswith("unaccounted") for failure in found)


def test_an_exception_that_escapes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("here")

    monkeypatch.setattr(fuzz, "plan_packs", fail)
    found = fuzz.try_many(range(10), run_seed=3).failures
    assert {failure["what"] for failure in found} == {"escaped: KeyError('here')"}


def test_an_input_that_hangs_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: Any) -> Iterator[Any]:
        # As careless as a reader may be.
        with suppress(Exception):
            time.sleep(60)
        return read_recordings(*args)

    monkeypatch.setattr(fuzz, "LIMIT_S", 0.2)
    monkeypatch.setattr(fuzz, "read_recordings", hang)
    found = fuzz.try_many(range(3), run_seed=3).failures
    assert {failure["what"] for failure in found} <= {"hang"}
    assert found
