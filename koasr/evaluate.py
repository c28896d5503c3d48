"""Transcripts and references → error rates and what each confidence is worth: the command."""

import csv
import io
import json as json_format
import math
from dataclasses import replace
from typing import Annotated, Any

from cyclopts import Parameter, validators
from rich.console import Console
from rich.text import Text

from koasr.accuracy import show_alignment, worst_pairs
from koasr.dates import check_date
from koasr.evaluation import EVALUATED_COLUMNS, Evaluation, evaluate_transcripts
from koasr.evaluation_plots import draw_plots
from koasr.evaluation_tables import print_evaluation, printable
from koasr.help import TEXTS
from koasr.model_files import find_model
from koasr.normalize import Normalizer
from koasr.reading import read_rejects, read_transcripts
from koasr.reference_files import read_references
from koasr.storage import join, write_result
from koasr.tokens import refuse_nested
from koasr.transcripts import TRANSCRIPTS
from koasr.writable import check_file, check_folder

NUM_WORST = 50
_level = Parameter(validator=validators.Number(gt=0, lt=1))
_from_0 = Parameter(validator=validators.Number(gte=0))


def evaluate(
    transcripts: str,
    references: str | None = None,
    /,
    *,
    date: str | None = None,
    by: tuple[str, ...] = (),
    model: str | None = None,
    confidence_level: Annotated[float, _level] = 0.95,
    wrong_above: Annotated[float, _from_0] = 0.1,
    json: str | None = None,
    worst: str | None = None,
    show: Annotated[int, _from_0] = 0,
    plots: str | None = None,
    normalizer: Annotated[Normalizer | None, Parameter(name="*", group=TEXTS)] = None,
) -> None:
    """Compare transcripts with references: error rates, and what each confidence is worth.

    Rates are of all errors over all characters, never means of rates, with intervals from a
    bootstrap that draws whole speakers (metadata speaker, speaker_id or client_id), else
    recordings. Texts are printed only if asked for.

    Args:
        transcripts: Output of koasr transcribe, or Parquet files of its schema.
        references: JSONL manifest, .trn, .tsv, .csv, Parquet, .trans.txt or a folder of those, in
            UTF-8 or cp949; else what came along with the speech.
        date: Only the rows of this date, YYYY-MM-DD.
        by: Column, or key of the metadata, for whose values to give rates too; may be repeated.
        model: The checkpoint, to say how many characters its vocabulary lacks.
        confidence_level: Share of the bootstrap's draws inside an interval.
        wrong_above: CER above which a segment is wrong.
        json: File for all figures.
        worst: File (TSV) for the 50 worst recordings with alignments.
        show: How many of them to print.
        plots: Folder for reliability.svg and risk_coverage.svg.
        normalizer: How texts are made comparable.

    Raises:
        JobError: Nothing to compare, or something that was named cannot be read or written.
    """
    date = date and check_date(date)
    for uri in filter(None, (json, worst)):
        check_file(uri)
    if plots is not None:
        check_folder(plots)
    found = measure(
        transcripts,
        references,
        normalizer or Normalizer(),
        date=date,
        by=by,
        vocabulary=None if model is None else _read_vocabulary(model),
        confidence_level=confidence_level,
        wrong_above=wrong_above,
    )
    document = found.document
    console = Console(width=100)
    print_evaluation(document, console)
    listed = [_worst_row(found, index) for index in worst_pairs(found.counted, NUM_WORST)]
    for row in listed[:show]:
        name, cer, errors, *_, alignment = map(printable, row)
        rate = f"CER {cer}" if cer != _NO_RATE else f"{errors} characters, the reference is empty"
        console.print(Text(f"\n{name}  {rate}\n{alignment}"), soft_wrap=True)
    if json is not None:
        write_result(json, to_json(document))
    if worst is not None:
        write_result(worst, _to_tsv(listed))
    if plots is not None:
        for name, image in draw_plots(document).items():
            write_result(join(plots, name), image)


def measure(
    transcripts: str,
    references: str | None,
    normalizer: Normalizer,
    *,
    date: str | None = None,
    by: tuple[str, ...] = (),
    **options: Any,
) -> Evaluation:
    """Read transcripts and references, and hold them against each other.

    Args:
        transcripts: As of `evaluate`, as are those below.
        references: None for what came along with the speech.
        normalizer: Applied to both sides.
        date: Only its rows.
        by: For whose values rates are given too.
        options: Of `evaluate_transcripts`.

    Raises:
        JobError: Nothing to compare, or something cannot be read.
    """
    columns = [*EVALUATED_COLUMNS, *(n for n in by if n in TRANSCRIPTS.names)]
    found = evaluate_transcripts(
        read_transcripts(transcripts, list(dict.fromkeys(columns)), date),
        None if references is None else read_references(references),
        read_rejects(transcripts, date),
        normalizer,
        by=by,
        **options,
    )
    place = {"transcripts": transcripts, "references": references, "date": date}
    return replace(found, document=place | found.document)


def to_json(document: dict[str, Any]) -> bytes:
    """All figures of an evaluation, as `koasr evaluate --json` writes them."""
    return json_format.dumps(_without_nan(document), ensure_ascii=False, indent=2).encode()


def _read_vocabulary(model: str) -> frozenset[str]:
    """Tokens of a checkpoint, in lower case as the texts that are compared."""
    folder, _ = find_model(model, None, ["vocab.json"])
    vocabulary = folder.read_json("vocab.json")
    refuse_nested(vocabulary, model)
    return frozenset(vocabulary) | {token.lower() for token in vocabulary}


_NO_RATE = "inf"
_WORST_COLUMNS = (
    "recording_id",
    "cer",
    "errors",
    "ref_chars",
    "reference",
    "hypothesis",
    "alignment",
)


def _worst_row(found: Evaluation, index: int) -> tuple[str, ...]:
    """A pair as `_WORST_COLUMNS` name it."""
    pair = found.pairs[index]
    errors, ref_chars = found.counted.counts[index, :2].tolist()
    cer = f"{errors / ref_chars:.3f}" if ref_chars else _NO_RATE
    texts = (pair.reference, pair.hypothesis, show_alignment(pair))
    return (" ".join(pair.name.split()), cer, str(errors), str(ref_chars), *texts)


def _to_tsv(rows: list[tuple[str, ...]]) -> bytes:
    sink = io.StringIO()
    # Neither texts nor names hold a tab or a newline here, so nothing needs quotes.
    writer = csv.writer(sink, "excel-tab", quoting=csv.QUOTE_NONE, quotechar=None)
    writer.writerows([_WORST_COLUMNS, *rows])
    return sink.getvalue().encode()


def _without_nan(value: Any) -> Any:
    """The same document with null for what has no value: JSON knows no NaN."""
    if isinstance(value, dict):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
