"""The actor: several models in it, several packs at once, and the same rows."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from sound import encode, tone, write_tar

from koasr.checkpoint import open_checkpoint
from koasr.limits import DEFAULT_LIMITS
from koasr.pack_rows import pack_to_table
from koasr.packs import plan_packs
from koasr.readers import read_recordings
from koasr.sources import list_shards
from koasr.stages import Compute, Transcribe, Work, load_audio
from koasr.transcripts import Provenance

MODEL = Path(__file__).parent.parent / "examples" / "model"
NUM_PACKS = 6


@pytest.fixture
def packs(tmp_path: Path) -> list[pa.Table]:
    """Loaded, a recording each."""
    members = [(f"{n}.wav", encode(tone(1.0 + n / 4), kind="WAV")) for n in range(NUM_PACKS)]
    write_tar(tmp_path / "a.tar", members)
    (shard,) = list_shards([str(tmp_path)])
    work = Work(320, 1.0, DEFAULT_LIMITS)
    found: list[pa.Table] = []
    for pack in plan_packs(read_recordings(shard, work.limits), shard, "a", work.pack_seconds):
        table = pack_to_table(pack).append_column("read_s", pa.array([0.0]))
        found += load_audio(table, work)
    assert len(found) == NUM_PACKS
    return found


def actor(models_per_actor: int) -> Transcribe:
    compute = Compute("cpu", "float32", 1, models_per_actor, 1, 40.0, 1.0, 0.5)
    return Transcribe(open_checkpoint(str(MODEL)), compute, Provenance("m", "r", "f", "run"))


def recognizers() -> set[int]:
    """Ids of the processes that hold a model for this one."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if "koasr.recognizer" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def test_two_models_in_an_actor_make_the_rows_of_one(packs: list[pa.Table]) -> None:
    before = recognizers()
    alone = actor(1)
    expected = [alone(pack)["tables"].to_pylist() for pack in packs]
    both = actor(2)
    assert len(recognizers() - before) == 3
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(both, packs))
    assert [table["tables"].to_pylist() for table in found] == expected
    # The second pack of each model waited for no first: it has nothing to have waited since.
    waits_s = [table["times"][0]["wait_s"].as_py() for table in found]
    assert sum(wait_s == 0.0 for wait_s in waits_s) == 2
