"""What a person sees while a run goes on."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from koasr.feeding import Times
from koasr.figures import Figures, Tally
from koasr.progress import log_line, showing, view
from koasr.stages import Receipt

TIMES = Times(read_s=1.0, load_s=8.0, queue_s=2.0, wait_s=6.0, model_s=4.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The monotonic clock, to be set."""
    now = [1_000.0]
    with monkeypatch.context() as patch:
        patch.setattr("koasr.figures.time.monotonic", lambda: now[0])
        yield now


def tally(sizes: dict[str, int], committed: int = 0) -> Tally:
    planned = len(sizes) + committed
    return Tally("20261122T000000Z-b2c4d6", "cuda", 1, sizes, planned, committed, 1_000.0)


def receipt(shard: str, audio_s: float, size_bytes: int, num_rejects: int = 0) -> Receipt:
    return Receipt(shard, audio_s, size_bytes, 10, num_rejects, 0, TIMES)


def test_time_left_is_by_the_pace_since_the_first_pack(clock: list[float]) -> None:
    counted = tally({"a": 600, "b": 400})
    # Ray starts and the model loads for a minute: that comes once.
    clock[0] += 60
    assert "0% of 0.0 MB in 60 s; no pack yet" in log_line(counted.read())
    counted.add_pack(receipt("a", 10.0, 100))
    found = counted.read()
    assert (found.left_s, found.rtfx_now, found.bound_by) == (None, None, "")
    clock[0] += 40
    counted.add_pack(receipt("a", 30.0, 300, num_rejects=1))
    found = counted.read()
    assert (found.left_s, found.rtfx_now, found.rtfx) == (80.0, 0.75, 0.4)
    assert (found.busy_share, found.bound_by) == (0.4, "load")
    assert log_line(found) == (
        "40%, 40 s of ≈100 s of audio in 100 s, about 80 s left; 0.8x real time now, 0.4x overall;"
        " 0 of 2 shards, 2 packs staged; 1 of 20 recordings rejected;"
        " GPU 40% busy, 0.2 packs ready; bound by load"
    )


def test_a_shard_counts_whole_with_what_an_earlier_session_staged(clock: list[float]) -> None:
    counted = tally({"a": 600, "b": 400}, committed=3)
    clock[0] += 10
    counted.add_pack(receipt("a", 10.0, 100))
    counted.add_pack(receipt("b", 10.0, 100))
    counted.add_shard("a")
    # Its packs had all been staged before: none of it was left.
    counted.add_shard("c")
    found = counted.read()
    assert (found.done_bytes, found.staged_packs) == (700, 1)
    assert (found.planned, found.shards, found.session_shards) == (5, 5, 2)


def test_now_is_the_last_minute_and_a_stall_shows(clock: list[float]) -> None:
    counted = tally({"a": 10_000})
    for second in range(300):
        clock[0] += 1
        counted.add_pack(receipt("a", 100.0 if second < 200 else 10.0, 10))
    assert counted.read().rtfx_now == pytest.approx(10.0)
    clock[0] += 300
    found = counted.read()
    assert found.rtfx_now is not None
    assert found.rtfx_now < 2
    assert log_line(found).endswith("no pack for 5.0 min")


def large() -> Figures:
    """Of a night of 10,000 hours and millions of recordings."""
    counted = tally({"a": 1_150_000_000_000})
    counted.add_pack(receipt("a", 1.0, 1))
    counted.add_pack(receipt("a", 13_723_200.0, 437_000_000_000, 1_234))
    found = replace(counted.read(), elapsed_s=4_320.0, rtfx=3_176.0, rtfx_now=4_271.0)
    found = replace(found, left_s=6_900.0, recordings=4_104_210, idle_s=0.0)
    return replace(found, shards=4_512, planned=12_000, staged_packs=112)


@pytest.mark.parametrize("width", [20, 40, 50, 60, 100, 200])
def test_the_view_fits_any_terminal(width: int) -> None:
    console = Console(record=True, width=width, force_terminal=True, soft_wrap=True)
    console.print(view(large()))
    lines = console.export_text().rstrip().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= {20: 20, 40: 12, 50: 9, 60: 8}.get(width, 7)
    shown = " ".join(" ".join(lines[1:]).split())
    if width >= 40:
        assert "38%, 3,812.0 h of ≈10,031.6 h of audio in 72.0 min, about 115.0 min left" in shown
    for part in ("4,271x real", "4,512 of", "112 packs", "1,234 of"):
        assert part in shown


def test_a_live_view_moves_though_no_pack_ends(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=60)
    counted = Tally("run", "cpu", 1, {"a": 100}, 1, 0, time.monotonic())
    with showing(console, counted.read):
        time.sleep(2.3)
    shown = capsys.readouterr().out
    assert {"in 0 s", "in 1 s", "in 2 s"} <= set(re.findall(r"in \d s", shown))
    assert shown.count("\n") > 4


def test_a_log_gets_a_line_at_an_interval_without_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("koasr.progress.LOG_INTERVAL_S", 0.2)
    console = Console(soft_wrap=True)
    with showing(console, large):
        time.sleep(0.9)
    lines = capsys.readouterr().out.splitlines()
    assert 3 <= len(lines) <= 5
    assert all(line.isprintable() and line.startswith("koasr: 38%, ") for line in lines)
