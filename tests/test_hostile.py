"""Whatever is fed to a run comes out once: transcribed, or rejected for the right reason."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checkpoints import tiny
from hostile import CASES, Case
from test_transcribe import rows, run

from koasr.audio import AudioInfo, Samples, stream_audio
from koasr.decoder import Decoder
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.packs import load_pack, plan_packs
from koasr.readers import read_recordings
from koasr.rows import Recording, Reject
from koasr.sources import list_shards

Decode = Callable[[Recording], tuple[AudioInfo, Iterator[Samples]]]
SAMPLES_PER_FRAME = 320


def outcome(folder: Path, limits: Limits, decode: Decode) -> tuple[int, list[Reject]]:
    """How many recordings can be transcribed, and the rejects: each recording once, in one."""
    listed: list[str] = []
    loaded: set[str] = set()
    rejects: list[Reject] = []
    for shard in list_shards([str(folder)], limits):
        items = list(read_recordings(shard, limits))
        listed += [item.recording_id for item in items]
        for pack in plan_packs(items, shard, "name"):
            for piece in load_pack(pack, SAMPLES_PER_FRAME, decode):
                rejects += piece.rejects
                loaded |= {recording.recording_id for recording in piece.recordings}
    rejected = [reject.recording_id for reject in rejects]
    loaded -= set(rejected)
    assert len(set(listed)) == len(listed)
    assert sorted([*loaded, *rejected]) == sorted(listed)
    assert all(reject.message for reject in rejects)
    return len(loaded), rejects


def check(case: Case, folder: Path, decode: Decode) -> None:
    (folder / "in").mkdir()
    case.write(folder / "in")
    num_loaded, rejects = outcome(folder / "in", case.limits, decode)
    found = sorted(reject.reason for reject in rejects)
    assert (num_loaded, found) == (case.num_loaded, sorted(case.reasons)), rejects


def test_there_are_at_least_sixty_kinds_and_each_has_a_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_source_has_its_outcome(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path, lambda recording: stream_audio(recording, case.limits))


@pytest.fixture(scope="module")
def decoders() -> Iterator[dict[Limits, Decoder]]:
    """One decoder for each set of limits, as a worker has it."""
    found: dict[Limits, Decoder] = {}
    yield found
    for decoder in found.values():
        decoder.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_has_the_same_outcome_in_the_decoding_child(
    case: Case, tmp_path: Path, decoders: dict[Limits, Decoder]
) -> None:
    decoder = decoders.setdefault(case.limits, Decoder(case.limits))
    check(case, tmp_path, decoder.stream)


@pytest.mark.usefixtures("ray_cluster")
def test_the_job_accounts_for_all_of_it_in_one_run(tmp_path: Path) -> None:
    cases = [case for case in CASES if case.limits == DEFAULT_LIMITS]
    for number, case in enumerate(cases):
        (tmp_path / "in" / f"{number:03d}").mkdir(parents=True)
        case.write(tmp_path / "in" / f"{number:03d}")
    model = str(tiny(tmp_path / "model"))
    code, _ = run([str(tmp_path / "in")], tmp_path / "out", model=model, max_reject_rate=1.0)
    assert code == 0
    place = len(f"{tmp_path}/in/")
    loaded: dict[int, set[str]] = {}
    for row in rows(tmp_path / "out"):
        number = int(row["source_uri"][place : place + 3])
        loaded.setdefault(number, set()).add(row["recording_id"])
    rejected: dict[int, list[str]] = {}
    for row in rows(tmp_path / "out", "rejects"):
        number = int(row["source_uri"][place : place + 3])
        rejected.setdefault(number, []).append(row["reason"])
    for number, case in enumerate(cases):
        found = len(loaded.get(number, ())), sorted(rejected.get(number, ()))
        assert found == (case.num_loaded, sorted(case.reasons)), case.name
