"""What rounds of torture came to: a line each, and the table."""

from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.table import Table
from torture_oracle import NOTHING, Difference


@dataclass
class Result:
    """One try of one round."""

    fault: str
    number: int
    fired: bool
    restarts: int
    difference: Difference
    redone_s: float
    wall_s: float
    problem: str
    hung: int
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether the job kept its promise."""
        return not self.hung and not self.problem and self.difference == NOTHING


def report(results: list[Result], not_here: dict[str, str], console: Console) -> None:
    """The table: one line a fault."""
    names = ("rounds", "fired", "restarts", "rows lost", "rows twice", "rows different")
    table = Table("fault", *names, "bad rounds", "seconds redone", title="torture")
    by_fault: dict[str, list[Result]] = {}
    for result in results:
        by_fault.setdefault(result.fault, []).append(result)
    for fault, found in [*sorted(by_fault.items()), ("all", results)]:
        counts = (
            len({result.number for result in found}),
            sum(result.fired for result in found),
            sum(result.restarts for result in found),
            sum(result.difference.lost for result in found),
            sum(result.difference.twice for result in found),
            sum(result.difference.different for result in found),
            sum(not result.is_good for result in found),
        )
        redone_s = sum(result.redone_s for result in found)
        table.add_row(fault, *map(str, counts), f"{redone_s:,.0f}")
    console.print(table)
    console.print(
        "seconds redone: audio that left the transcribing actors beyond what an undisturbed run"
        " computes",
        highlight=False,
    )
    for fault, why in not_here.items():
        console.print(f"{fault}: not tried: {why}", highlight=False)


def line_of(result: Result, seed: int) -> str:
    """What one try came to, and how to see it again."""
    found = asdict(result.difference)
    state = "ok" if result.is_good else "BAD"
    if result.is_good and not result.fired:
        state = "did not fire"
    line = f"{state}: {result.restarts} restarts, {result.redone_s:.0f} s redone"
    line += f", {result.wall_s:.0f} s; {'; '.join(result.notes)}"
    if not result.is_good:
        line += f"\n  {found} {result.problem}"
        line += f"\n  again: --seed {seed} --only '{result.fault}' --round {result.number}"
    return line
