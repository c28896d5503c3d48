"""What held a run back, from the seconds of its packs."""

from dataclasses import asdict

import pytest

from koasr.feeding import Feeding, Meter, Times
from koasr.report_time import find_cost, split_time


def feeding(times: Times, start_s: float = 5.0, device: str = "cuda", actors: int = 2) -> Feeding:
    return Feeding(times, start_s, actors, device)


@pytest.mark.parametrize(
    ("times", "device", "bound_by", "advice"),
    [
        (Times(5, 20, 300, 1, 99), "cuda", "GPU", "more GPUs would"),
        (Times(5, 20, 300, 1, 99), "cpu", "CPU", "more CPUs would"),
        # 400 s of loading for 50 s of model on two GPUs: 16 CPUs.
        (Times(5, 400, 0, 50, 50), "cuda", "load", "about 16 CPUs to keep every GPU busy"),
        (Times(300, 20, 0, 50, 50), "cuda", "storage", "nearer"),
        # Nearly all rejects: no number of CPUs can be told from that.
        (Times(1, 30, 0, 60, 0.002), "cuda", "load", "went into decoding"),
        (Times(0.1, 0.2, 0, 0, 4), "cuda", "start-up", "5 s passed before the first pack"),
    ],
)
def test_the_verdict_and_what_to_do(times: Times, device: str, bound_by: str, advice: str) -> None:
    found = feeding(times, device=device)
    assert found.bound_by == bound_by
    assert advice in found.advice


def test_shares_are_of_the_time_between_first_and_last_pack() -> None:
    found = feeding(Times(queue_s=90.0, wait_s=15.0, model_s=45.0))
    assert found.busy_share == pytest.approx(0.75)
    # Two actors were at it for 30 s; packs lay ready for 90 s in all.
    assert found.queue_depth == pytest.approx(3.0)


def test_a_run_without_packs_divides_by_nothing() -> None:
    found = feeding(Times(), start_s=0.0)
    assert (found.busy_share, found.queue_depth) == (0.0, 0.0)
    assert found.advice


def test_times_add_up() -> None:
    assert Times(1, 2, 3, 4, 5) + Times(10, 20, 30, 40, 50) == Times(11, 22, 33, 44, 55)


def test_the_first_packs_reading_is_feeding_and_not_start_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter = Meter(started_s=100.0)
    assert meter.read(1, "cuda") is None
    # A slow store: Ray took 10 s, reading 400, the model 10.
    monkeypatch.setattr("koasr.feeding.time.monotonic", lambda: 520.0)
    meter.add(Times(read_s=400.0, model_s=10.0))
    meter.add(Times(read_s=380.0, wait_s=370.0, model_s=10.0))
    found = meter.read(1, "cuda")
    assert found is not None
    assert found.start_s == pytest.approx(10.0)
    assert found.bound_by == "storage"
    assert found.busy_share == pytest.approx(20 / 790)


def test_two_models_share_the_time_of_one_gpu_which_is_paid_once() -> None:
    times = Times(load_s=50.0, queue_s=100.0, wait_s=20.0, model_s=180.0)
    feeding = Feeding(times, 10.0, 1, "cuda", models_per_actor=2)
    assert (feeding.busy_share, feeding.queue_depth, feeding.bound_by) == (0.9, 1.0, "GPU")
    summary = {"feeding": asdict(feeding), "wall_s": 120.0}
    assert [stretch.seconds for stretch in split_time(summary)] == [10.0, 90.0, 10.0, 10.0]
    assert find_cost(summary, 3.0, "$").gpu_hours == pytest.approx(120 / 3600)
