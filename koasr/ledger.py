"""What is done of a run's plan, what can be committed at once, and what is left; without Ray."""

from collections.abc import Mapping, Sequence
from typing import Any

from koasr.errors import JobError
from koasr.packs import Header
from koasr.rows import Shard
from koasr.runs import Run
from koasr.shard_objects import ensure_rejects
from koasr.staging import ShardPacks, list_staged, staged_key
from koasr.storage import join, list_names
from koasr.threads import concurrently


class Ledger:
    """The account of one run, from its start to its last commit.

    Attributes:
        records: Shard name → the record of its commit.
        gone: Shards that have no object and need none: superseded, pruned, or to be retried and
            not there.
        ready: Shard name → keys of its staged packs, which are all there: commit them at once.
        left: Shards to read, in the order of the plan.

    Example:
        The driver, with whatever runs the work::

            ledger = open_ledger(run, plan, committed, superseded)
            for name, keys in ledger.ready.items():
                start(commit, run, name, keys, ledger.superseded(name))
            for shard, name in ledger.left:         # read_packs skips ledger.held(name)
                for header, record in results:
                    if record:                      # a pack that was its whole shard
                        ledger.close(header.shard, record)
                    elif keys := ledger.add(header):
                        start(commit, run, header.shard, keys, ledger.superseded(header.shard))
            ledger.close(name, record)              # for each commit that ends
            ledger.check()
    """

    def __init__(
        self,
        run: Run,
        plan: Mapping[str, Shard],
        records: Mapping[str, dict[str, Any]],
        gone: frozenset[str],
        staged: Mapping[str, set[str]],
        superseded: Mapping[str, Sequence[str]],
    ) -> None:
        self.run = run
        self.records = dict(records)
        self.gone = gone & plan.keys() - records.keys()
        self._plan = plan
        self._superseded = superseded
        todo = [name for name in plan if name not in self.records and name not in self.gone]
        self.ready: dict[str, list[str]] = {}
        self.left: dict[str, Shard] = {}
        # Keys alone: there may be a million. What is made of them is made for shards in work.
        self._held: dict[str, list[str]] = {}
        self._packs: dict[str, ShardPacks] = {}
        for name in todo:
            packs = ShardPacks(staged.get(name, ())).without_partial()
            if keys := packs.all_keys():
                self.ready[name] = keys
            else:
                self.left[name], self._held[name] = plan[name], packs.keys()
        self._open = set(self.left)

    def held(self, name: str) -> list[str]:
        """Keys of the staged packs of a shard that is left, which need not be made again."""
        return self._held[name]

    def superseded(self, name: str) -> list[str]:
        """Objects that the commit of this shard makes obsolete."""
        return list(self._superseded.get(name, ()))

    def add(self, header: Header) -> list[str] | None:
        """Take in a pack that was staged.

        Returns:
            The keys of the whole shard, once, when this was the last of it.
        """
        name = header.shard
        if name not in self._open:
            return None
        if name not in self._packs:
            self._packs[name] = ShardPacks(self._held[name])
        self._packs[name].add(staged_key(header))
        keys = self._packs[name].all_keys()
        if keys:
            self._end(name)
        return keys

    def close(self, name: str, record: dict[str, Any]) -> None:
        """Take in a commit."""
        self._end(name)
        self.records[name] = record

    def _end(self, name: str) -> None:
        self._open.discard(name)
        self._packs.pop(name, None)

    def check(self) -> None:
        """Compare with the plan.

        Raises:
            JobError: A shard has neither a record nor a reason to have none.
        """
        num_done = sum(name in self.records or name in self.gone for name in self._plan)
        if num_done != len(self._plan):
            raise JobError(f"{num_done} of {len(self._plan)} shards were committed: run it again")


def open_ledger(
    run: Run,
    plan: Mapping[str, Shard],
    committed: Mapping[str, str],
    superseded: Mapping[str, Sequence[str]] | None = None,
) -> Ledger:
    """The ledger of a run as the store shows it, whether it is new or goes on.

    Copies of the rejects that an earlier driver had no time for are made.

    Args:
        run: Names the objects.
        plan: `read_plan` of the run.
        committed: `list_committed` of its output.
        superseded: `find_superseded` of the plan.
    """
    there = {name: committed[name] for name in plan if name in committed}
    if run.retry:
        # A shard of another date was committed twice, and is another run's.
        there = {name: uri for name, uri in there.items() if uri == run.transcripts(name)}
    read = concurrently(_record, list(there.values()), "records read")
    found = dict(zip(there, read, strict=True))
    records = {name: record for name, record in found.items() if record}
    gone = frozenset(name for name in found if name not in records)
    if run.retry:
        gone = frozenset(name for name in plan if name not in records)
        records = {name: r for name, r in records.items() if r["run_id"] == run.run_id}
    else:
        gone |= read_removed(run.output)
    return Ledger(run, plan, records, gone, list_staged(run), superseded or {})


def _record(uri: str) -> dict[str, Any] | None:
    try:
        return ensure_rejects(uri)
    except FileNotFoundError:
        return None


def read_removed(output: str) -> frozenset[str]:
    """Names of the shards whose object was taken out: superseded or pruned."""
    names = list_names(join(output, "_koasr", "removed"))
    return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))
