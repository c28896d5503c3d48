"""Feeds spoiled sources to the readers and the decoder, and counts what comes of each.

    python bench/fuzz.py --inputs 100000 --seed 1 --json runs/fuzz.json

Every input is a folder with one spoiled file in it: listed, read, planned and decoded as a run
would, in a decoding child. It fails, with exit code 1, if a recording is not accounted for exactly
once, an exception escapes, a second reading differs, or an input takes longer than the limit.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))
from mutations import Seed, mutate, seeds

from koasr.decoder import Decoder
from koasr.errors import JobError
from koasr.limits import Limits
from koasr.packs import load_pack, plan_packs
from koasr.readers import read_recordings
from koasr.rows import Reject, Shard
from koasr.sources import list_shards

LIMITS = Limits(decode_timeout_s=5.0, max_bytes=16 << 20, max_duration_s=600.0, max_members=1_000)
LIMIT_S = 20.0
"""Of one input, in wall time: more than the decoder's own limit and its second attempt."""
SAMPLES_PER_FRAME = 320
_REPEATED = 10
"""Every tenth input is read twice."""
_CHUNK = 100


class Hang(BaseException):
    """An input took longer than the limit. No Exception, or the code under test would catch it."""


@dataclass
class Tally:
    """What came of the inputs, by kind of source."""

    inputs: Counter[str] = field(default_factory=Counter)
    transcribed: Counter[str] = field(default_factory=Counter)
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest_s: float = 0.0

    def add(self, other: "Tally") -> None:
        """Count another worker's inputs too."""
        self.inputs += other.inputs
        self.transcribed += other.transcribed
        self.rejects += other.rejects
        self.failures += other.failures
        self.slowest_s = max(self.slowest_s, other.slowest_s)


@cache
def _decoder() -> Decoder:
    """This worker's: it lives as long as the worker."""
    return Decoder(LIMITS)


@cache
def _seeds() -> list[Seed]:
    return seeds()


def _write(folder: Path, seed: Seed, data: bytes) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, sound in (*seed.beside, (seed.name, data)):
        (folder / name).write_bytes(sound)


def _outcome(folder: Path) -> tuple[int, list[str]]:
    """How many recordings are transcribed, and the reasons of the rest."""
    num_loaded = 0
    reasons: list[str] = []
    try:
        shards = list_shards([str(folder)], LIMITS)
    except JobError:
        return 0, ["no speech: the input is refused"]
    for shard in shards:
        loaded, rejects = _load(shard)
        num_loaded += loaded
        reasons += sorted(reject.reason for reject in rejects)
    return num_loaded, reasons


def _load(shard: Shard) -> tuple[int, list[Reject]]:
    """Read and decode a shard, and see that each recording in it comes out once.

    Raises:
        AssertionError: One does not.
    """
    items = list(read_recordings(shard, LIMITS))
    listed = [item.recording_id for item in items]
    loaded: set[str] = set()
    rejects: list[Reject] = []
    for pack in plan_packs(items, shard, "name"):
        for piece in load_pack(pack, SAMPLES_PER_FRAME, _decoder().stream):
            rejects += piece.rejects
            loaded |= {recording.recording_id for recording in piece.recordings}
    rejected = [reject.recording_id for reject in rejects]
    loaded -= set(rejected)
    if len(set(listed)) != len(listed):
        raise AssertionError("twice: two recordings of one id")
    if sorted([*loaded, *rejected]) != sorted(listed):
        raise AssertionError(f"unaccounted: {len(loaded)} + {len(rejected)} of {len(listed)}")
    if shard.kind == "files" and len(items) != len(shard.files):
        raise AssertionError(f"unaccounted: {len(items)} of {len(shard.files)} files")
    return len(loaded), rejects


def _alarm(*_: object) -> None:
    raise Hang


def try_one(number: int, run_seed: int, folder: Path, tally: Tally) -> None:
    """Make one input, feed it, and count."""
    chance = random.Random(f"{run_seed}:{number}")
    seed = chance.choice(_seeds())
    _write(folder, seed, mutate(seed, chance))
    tally.inputs[seed.kind] += 1
    started_s = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        num_loaded, reasons = _outcome(folder)
        if number % _REPEATED == 0 and (num_loaded, reasons) != _outcome(folder):
            raise AssertionError("differs: a second reading gives something else")
        tally.transcribed[seed.kind] += num_loaded
        tally.rejects.update((seed.kind, reason) for reason in reasons)
    except Hang:
        tally.failures.append({"number": number, "kind": seed.kind, "what": "hang"})
        _decoder().close()
    # An exception that escapes is what is looked for.
    except Exception as error:
        what = str(error) if isinstance(error, AssertionError) else f"escaped: {error!r}"
        tally.failures.append({"number": number, "kind": seed.kind, "what": what[:500]})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        tally.slowest_s = max(tally.slowest_s, time.monotonic() - started_s)


def try_many(numbers: range, run_seed: int) -> Tally:
    """The inputs of these numbers, in this process."""
    previous = signal.signal(signal.SIGALRM, _alarm)
    tally = Tally()
    try:
        with tempfile.TemporaryDirectory(prefix="koasr-fuzz-") as folder:
            for number in numbers:
                try_one(number, run_seed, Path(folder) / "in", tally)
    finally:
        signal.signal(signal.SIGALRM, previous)
    return tally


def show(tally: Tally, wall_s: float, console: Console) -> None:
    """One row a kind of source."""
    table = Table(title=f"{tally.inputs.total():,} spoiled inputs in {wall_s:.0f} s")
    for column in ("source", "inputs", "transcribed", "rejected", "for", "failures"):
        table.add_column(column, justify="left" if column in ("source", "for") else "right")
    for kind, num_inputs in sorted(tally.inputs.items()):
        reasons = Counter({r: n for (k, r), n in tally.rejects.items() if k == kind})
        shown = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
        failures = sum(failure["kind"] == kind for failure in tally.failures)
        counts = (f"{num_inputs:,}", f"{tally.transcribed[kind]:,}", f"{reasons.total():,}")
        table.add_row(kind, *counts, shown, str(failures))
    console.print(table)
    kinds = Counter(failure["what"].partition(":")[0] for failure in tally.failures)
    by_reason = Counter(reason for (_, reason), n in tally.rejects.items() for _ in range(n))
    console.print(
        f"children that crashed {by_reason['crashed']}, timed out {by_reason['timeout']};"
        f" hangs {kinds['hang']}, unaccounted {kinds['unaccounted']}, twice {kinds['twice']},"
        f" differing {kinds['differs']}, escaped {kinds['escaped']};"
        f" slowest input {tally.slowest_s:.1f} s"
    )
    for failure in tally.failures[:20]:
        console.print(failure)


def main() -> int:
    """Run the inputs, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=2_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first, to repeat one")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, tally, started_s = Console(width=140), Tally(), time.monotonic()
    end = options.first + options.inputs
    chunks = [range(n, min(n + _CHUNK, end)) for n in range(options.first, end, _CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.workers, context) as pool:
        results = pool.map(try_many, chunks, [options.seed] * len(chunks))
        for result in track(results, "inputs", len(chunks), console=console):
            tally.add(result)
    wall_s = time.monotonic() - started_s
    show(tally, wall_s, console)
    if options.json:
        found = vars(tally) | {"rejects": [[*k, n] for k, n in sorted(tally.rejects.items())]}
        found |= {"wall_s": wall_s, "seed": options.seed, "first": options.first}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2, ensure_ascii=False))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
