"""Print some lines of an output: reference, hypothesis, confidence."""

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
    columns = ["segment_id", "reference", "text", "confidence", "is_empty", "duration_s"]
    rows = ds.dataset(f"{output}/transcripts", format="parquet").to_table(columns=columns)
    # Longer recordings have several rows for one reference.
    known = [row for row in rows.to_pylist() if row["reference"] and row["duration_s"] < 12]
    known.sort(key=lambda row: row["segment_id"])
    table = Table("confidence", "reference / hypothesis", title=output, title_justify="left")
    for row in known[:: max(1, len(known) // lines)][:lines]:
        confidence = "-" if row["is_empty"] else f"{row['confidence']:.3f}"
        table.add_row(confidence, f"{row['reference']}\n{row['text']}", end_section=True)
    Console().print(table)


if __name__ == "__main__":
    cyclopts.run(show)
