"""Kill, drain, disturb and deceive the job, round after round, and count what it got wrong.

Each round starts the job on a real Ray cluster and a real S3 store, does it one harm at a seeded
moment, starts it again until it ends well, and compares every row with an undisturbed run.
"""

import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from torture_faults import FAULTS, NotHere, unmount
from torture_oracle import NOTHING, Difference, Rows, compare, read_rows, verify
from torture_report import Result, line_of, report
from torture_world import BUCKET, ROOT, Round, World, has_verify, running_world

MAX_TRIES = 3
"""Of one round whose fault did not fire: the process had ended, say."""


class Torture:
    """Plays rounds in a world, and knows what an undisturbed run gives."""

    def __init__(self, world: World, folder: Path, seed: int, console: Console) -> None:
        self._world, self._folder, self.seed, self._console = world, folder, seed, console
        self._expected, self._computed_s = self._undisturbed()

    def _round(self, name: str, output: str = "") -> Round:
        output = output or f"s3://{BUCKET}/{name}"
        rng = random.Random(f"{self.seed}-{name}")
        return Round(self._world, name, output, rng, self._folder)

    def _undisturbed(self) -> tuple[Rows, float]:
        """Rows and computed seconds of a run that nobody disturbs; its operations are counted."""
        world, started_s = self._world, time.monotonic()
        calm = self._round("undisturbed")
        driver = calm.start()
        calm.wait_for(driver, world.cluster.actors)
        busy_from_s = time.monotonic()
        if driver.end() != 0:
            raise SystemExit(f"the undisturbed run failed:\n{driver.text()[-4_000:]}")
        world.busy_s = time.monotonic() - busy_from_s
        world.num_operations = world.proxy.count("PUT|POST|DELETE", calm.key)
        objects = world.store.find(calm.output, detail=True).values()
        world.num_bytes = sum(int(found["size"]) for found in objects)
        rows = read_rows(world, calm.output)
        self._console.print(
            f"undisturbed: {sum(rows.transcripts.values()):,} rows and"
            f" {sum(rows.rejects.values()):,} rejects, {world.computed_s():,.0f} s of audio,"
            f" {world.num_operations} writes, {time.monotonic() - started_s:.0f} s",
            highlight=False,
        )
        calm.discard()
        return rows, world.computed_s()

    def play(self, fault: str, number: int, attempt: int) -> Result:
        """Play one round once."""
        world, started_s = self._world, time.monotonic()
        before_s = world.computed_s()
        name = f"round-{number:03d}-{attempt}-{fault.replace(' ', '-')}"
        round_ = self._round(name)
        try:
            outcome = FAULTS[fault](round_)
        finally:
            world.proxy.release()
            round_.kill_all()
        difference, problem = self._judge(round_) if outcome.finished else (NOTHING, "unfinished")
        result = Result(
            fault=fault,
            number=number,
            fired=outcome.fired,
            restarts=len(round_.drivers) - 1,
            difference=difference,
            redone_s=max(0.0, world.computed_s() - before_s - self._computed_s),
            wall_s=time.monotonic() - started_s,
            problem="; ".join(part for part in (outcome.problem, problem) if part),
            hung=round_.hung,
            notes=round_.notes,
        )
        self._clear(round_, result)
        return result

    def _judge(self, round_: Round) -> tuple[Difference, str]:
        """What is wrong with the output of a finished round; the text is empty if it is whole."""
        world = self._world
        try:
            difference = compare(read_rows(world, round_.output), self._expected)
            problem = verify(round_.output, world.server.endpoint) if world.can_verify else ""
        # Whatever cannot be read is a finding, and the rounds after it are still worth playing.
        except Exception as error:
            return NOTHING, f"{type(error).__name__}: {error}"
        return difference, problem

    def _clear(self, round_: Round, result: Result) -> None:
        """Remove what a good round made; keep what a bad one made."""
        kept = self._folder / round_.name
        if not result.is_good and round_.is_remote:
            self._world.store.get(f"{round_.output}/", f"{kept}/", recursive=True)
        elif not result.is_good:
            shutil.copytree(round_.output, kept)
        if result.is_good:
            for driver in round_.drivers:
                driver.log.unlink()
        round_.discard()
        unmount(round_)

    def play_until_fired(self, fault: str, number: int) -> list[Result]:
        """Play one round until its fault fires, at most some times; every try."""
        results: list[Result] = []
        while len(results) < MAX_TRIES and not (results and results[-1].fired):
            results.append(self.play(fault, number, len(results)))
            if not results[-1].is_good:
                break
        return results


def schedule(kinds: list[str], num_rounds: int, seed: int) -> list[str]:
    """One kind a round: every kind once in a seeded order, and again."""
    rng = random.Random(seed)
    order: list[str] = []
    while len(order) < num_rounds:
        order += rng.sample(kinds, len(kinds))
    return order[:num_rounds]


def torture(
    *,
    rounds: int = 100,
    recordings: int = 2_000,
    seed: int = 1,
    only: Annotated[list[str], Parameter(consume_multiple=True)] = [],  # noqa: B006
    round: int | None = None,
    verify: bool = True,
    pack_seconds: float = 20.0,
    out: Path = ROOT / "runs" / "torture",
) -> int:
    """Torture the job; exit code 1 if it lost, doubled or changed a row, hung, or did not verify.

    Args:
        rounds: How many rounds.
        recordings: Size of the corpus.
        seed: Of every choice.
        only: Kinds of fault; all if not given.
        round: Play this one round alone, of the one kind that --only names.
        verify: Let `koasr verify` look at every output as well.
        pack_seconds: Audio of a pack; small, so that there are many.
        out: Folder for the report, and for what bad rounds leave.
    """
    console = Console(soft_wrap=True, width=120)
    kinds = only or list(FAULTS)
    if unknown := set(kinds) - FAULTS.keys():
        raise SystemExit(f"no such fault: {', '.join(unknown)}; there are {', '.join(FAULTS)}")
    order = list(enumerate(schedule(kinds, rounds, seed)))
    if round is not None:
        order = [(round, kinds[0])]
    can_verify = verify and has_verify()
    if verify and not can_verify:
        console.print("koasr verify is missing: its part of every round is left out")
    started = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = out / started
    folder.mkdir(parents=True)
    document: dict[str, Any] = {"started": started, "rounds": len(order), "verify": can_verify}
    document |= {"recordings": recordings, "seed": seed, "pack_seconds": pack_seconds}
    results: list[Result] = []
    not_here: dict[str, str] = {}
    with running_world(
        num_recordings=recordings, seed=seed, pack_seconds=pack_seconds, verify=can_verify
    ) as world:
        for tries in play_all(Torture(world, folder, seed, console), order, not_here, console):
            results += tries
            document |= {"results": [asdict(result) for result in results], "not_here": not_here}
            # After every round, so that a night that ends early has not been for nothing.
            (folder / "report.json").write_text(json.dumps(document, indent=2, ensure_ascii=False))
    report(results, not_here, console)
    console.print(f"{folder / 'report.json'}", highlight=False)
    return 0 if results and all(result.is_good for result in results) else 1


def play_all(
    game: Torture, order: list[tuple[int, str]], not_here: dict[str, str], console: Console
) -> Iterator[list[Result]]:
    """Play the rounds, and say how far they are.

    Args:
        game: What plays them.
        order: Number and fault of each.
        not_here: Gets the faults that this machine cannot do, and why.
        console: Gets a line a try.

    Yields:
        Every try of a round.
    """
    started_s = time.monotonic()
    for played, (number, fault) in enumerate(order, start=1):
        if fault in not_here:
            continue
        try:
            tries = game.play_until_fired(fault, number)
        except NotHere as error:
            not_here[fault] = str(error)
            continue
        for result in tries:
            line = f"{played}/{len(order)} {fault}: {line_of(result, game.seed)}"
            console.print(line, highlight=False, markup=False)
        elapsed_min = (time.monotonic() - started_s) / 60
        left_min = elapsed_min / played * (len(order) - played)
        console.print(f"  {elapsed_min:.1f} min, {left_min:.0f} left", highlight=False)
        yield tries


if __name__ == "__main__":
    cyclopts.run(torture)
