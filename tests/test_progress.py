"""What a person sees while a run goes on."""

import pytest
from rich.console import Console

from koasr.progress import RunProgress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, to be set."""
    now = [1_000.0]
    monkeypatch.setattr("koasr.progress.time.monotonic", lambda: now[0])
    return now


def last_line(console: Console) -> str:
    return console.export_text().strip().splitlines()[-1]


def test_time_left_is_by_the_pace_since_the_first_pack(clock: list[float]) -> None:
    console = Console(record=True, width=200, force_terminal=False, quiet=False)
    with RunProgress(console, total_bytes=1_000, num_shards=2) as shown:
        # Ray starts and the model loads for a minute: that comes once.
        clock[0] += 60
        shown.add_pack(10.0, 100, 0)
        assert "10%, unknown time left" in last_line(console)
        clock[0] += 40
        shown.add_pack(30.0, 300, 1)
        assert "40 s of audio" in (line := last_line(console))
        assert "1 rejects, 40%, 80 s left" in line


def test_a_log_gets_a_line_now_and_then(clock: list[float]) -> None:
    console = Console(record=True, width=200, force_terminal=False)
    with RunProgress(console, total_bytes=100, num_shards=1) as shown:
        for _ in range(100):
            clock[0] += 1
            shown.add_pack(1.0, 1, 0)
    assert len(console.export_text().strip().splitlines()) == 3
