"""Print some lines of an output: reference, hypothesis, confidence."""

from collections import Counter

import cyclopts
import pyarrow.dataset as ds
from rich.console import Console
from rich.table import Table


def show(output: str, *, lines: int = 10) -> None:
    """Print lines of an output that came with a reference, spread over all of them.

    Args:
        output: What `koasr transcribe --output` named.
        lines: How many.
    """
    columns = ["recording_id", "reference", "text", "confidence", "is_empty", "duration_s"]
    table = ds.dataset(f"{output}/transcripts", format="parquet").to_table(columns=columns)
    rows = table.to_pylist()
    num_segments = Counter(row["recording_id"] for row in rows)
    # A longer recording has one reference for all of its rows.
    short = [row for row in rows if num_segments[row["recording_id"]] == 1]
    known = [row for row in short if row["reference"] and row["duration_s"] < 20]
    known.sort(key=lambda row: str(row["recording_id"]))
    lines_table = Table("confidence", "reference / hypothesis", title=output, title_justify="left")
    for row in known[:: max(1, len(known) // lines)][:lines]:
        confidence = "-" if row["is_empty"] else f"{row['confidence']:.3f}"
        lines_table.add_row(confidence, f"{row['reference']}\n{row['text']}", end_section=True)
    Console().print(lines_table)


if __name__ == "__main__":
    cyclopts.run(show)
