"""Figures of an evaluation → tables for people, at most 100 columns wide, without any text."""

import math
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from koasr.confidence_quality import ORACLE, WORDS
from koasr.curve import MIN_CLUSTERS
from koasr.summary import duration_text

_RATES = {
    "cer": ("CER without spaces", "characters"),
    "raw_cer": ("CER with spaces", "characters"),
    "wer": ("WER", "words"),
    "swer": ("WER, spaced as the reference", "words"),
    "jamo_cer": ("CER of jamo", "letters"),
    "unknown_share": ("not in the vocabulary", "characters"),
}
_MAX_VALUES = 20
_MAX_CHARS = 30
_NUM_CONFUSIONS, _CONFUSIONS_A_ROW = 16, 8
_NOTHING = "∅"


def print_evaluation(document: dict[str, Any], console: Console) -> None:
    """Print what was compared, error rates, parts, confusions and the worth of each score.

    Args:
        document: As `evaluation.evaluate_transcripts` gives it, with `transcripts` and
            `references`.
        console: Where to.
    """
    against = document["references"] or "the references that came along"
    console.print(Text(f"\n{document['transcripts']} against {against}"), soft_wrap=True)
    tables = [_compared(document), _rates(document)]
    tables += [_subsets(document, name) for name in document["subsets"]]
    tables += [_confusions(document)] if document["confusions"] else []
    confidence = document["confidence"]
    if "left_out" in confidence:
        console.print(f"confidence not assessed: {confidence['left_out']}", highlight=False)
    else:
        tables += [_finding(confidence), _meaning(confidence)]
    for table in tables:
        console.print(table)


def _table(title: str, *columns: str, first: int = 1) -> Table:
    """A table whose columns from the `first` on hold numbers."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        justify: JustifyMethod = "right" if place >= first else "left"
        table.add_column(column, justify=justify, no_wrap=not place)
    return table


def _compared(document: dict[str, Any]) -> Table:
    counts = document["counts"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(
        "compared",
        f"{counts['recordings']:,} recordings, {duration_text(counts['audio_s'])} in "
        f"{counts['segments']:,} segments",
    )
    for line in _left_out(counts, document["references"] is not None):
        table.add_row("not in it", line)
    table.add_row(
        "empty",
        f"{counts['empty_references']:,} references, {counts['empty_hypotheses']:,} hypotheses",
    )
    options = document["normalizer"]
    marks = f", side: {options['side']}" if options["side"] else ""
    fluent = ", without fillers and false starts" if options["fluent"] else ""
    table.add_row("texts", f"style: {options['style']}{marks}{fluent}")
    return table


def _left_out(counts: dict[str, Any], is_joined: bool) -> Iterator[str]:
    if counts["without_reference"]:
        yield f"{counts['without_reference']:,} recordings without a reference"
    if counts["unused_references"]:
        yield f"{counts['unused_references']:,} references without a transcript"
    if counts["masked"]:
        yield f"{counts['masked']:,} recordings whose reference hides what was said"
    if counts["rejected"]:
        which = "recordings with a reference were" if is_joined else "recordings were"
        yield f"{counts['rejected']:,} {which} rejected"


def _rates(document: dict[str, Any]) -> Table:
    rates = document["rates"]
    level = f"{document['confidence_level']:.0%} interval"
    num_clusters = document["counts"]["clusters"]
    drawn = f"{level}: drawn by {num_clusters:,} speakers or recordings"
    if num_clusters < MIN_CLUSTERS:
        drawn += f"\ncaution: of fewer than {MIN_CLUSTERS} an interval is too narrow to rely on"
    names = list(rates)
    if document["normalizer"]["style"] == "speech-event":
        names.sort(key=lambda name: name != "raw_cer")
    table = _table("", "errors", "rate", level, "errors", "of")
    table.caption, table.caption_justify = drawn, "left"
    for name in names:
        rate, (label, unit) = rates[name], _RATES[name]
        table.add_row(
            label,
            _percent(rate["value"]),
            _interval(rate),
            f"{rate['errors']:,}",
            f"{rate['length']:,} {unit}",
        )
    return table


def _subsets(document: dict[str, Any], name: str) -> Table:
    subsets = document["subsets"][name]
    table = _table("", escape(name), "recordings", "audio", "CER", "interval", "WER", "sWER")
    for value, found in list(subsets.items())[:_MAX_VALUES]:
        rates = found["rates"]
        table.add_row(
            Text(printable(value)[:_MAX_CHARS] or _NOTHING),
            f"{found['recordings']:,}",
            duration_text(found["audio_s"]),
            _percent(rates["cer"]["value"]),
            _interval(rates["cer"]),
            _percent(rates["wer"]["value"]),
            _percent(rates["swer"]["value"]),
        )
    if len(subsets) > _MAX_VALUES:
        table.caption = f"and {len(subsets) - _MAX_VALUES:,} more values: see --json"
    return table


def _confusions(document: dict[str, Any]) -> Table:
    table = Table(title="most common confusions (reference→hypothesis)", title_justify="left")
    table.box, table.show_header = box.SIMPLE_HEAD, False
    shown = [
        f"{one['reference'] or _NOTHING}→{one['hypothesis'] or _NOTHING} {one['count']:,}"
        for one in document["confusions"][:_NUM_CONFUSIONS]
    ]
    for start in range(0, len(shown), _CONFUSIONS_A_ROW):
        table.add_row(*(Text(printable(x)) for x in shown[start : start + _CONFUSIONS_A_ROW]))
    return table


def _finding(confidence: dict[str, Any]) -> Table:
    """How well each score finds wrong segments and words, and what keeping the best costs."""
    segments, words = confidence["segments"], confidence["words"]
    wrong = f"CER > {confidence['wrong_above']:.0%}"
    share = segments[ORACLE]["wrong"]["share"]
    title = (
        f"wrong segments ({wrong}): {_percent(share)}; "
        f"wrong words: {_percent(words[WORDS]['wrong']['share'])}"
    )
    kept = list(segments[ORACLE]["cer_kept"])
    columns = ["segment\nAUROC", "\nAUPR", "word\nAUROC", "\nAUPR", "Spear-\nman", "\nAURC"]
    table = _table(title, "score", *columns, *(f"CER at\n{float(s):.0%}" for s in kept))
    for name, found in sorted(segments.items(), key=_by_auroc):
        of_words = words.get(name, {"wrong": {"auroc": math.nan, "aupr": math.nan}})["wrong"]
        table.add_row(
            name,
            *map(_number, (found["wrong"]["auroc"], found["wrong"]["aupr"])),
            *map(_number, (of_words["auroc"], of_words["aupr"])),
            _number(found["spearman"]),
            _number(found["aurc"]),
            *(_percent(found["cer_kept"][share]) for share in kept),
        )
    own = words[WORDS]["wrong"]
    table.add_row(WORDS, "", "", _number(own["auroc"]), _number(own["aupr"]))
    without = max(found["num_without"] for found in segments.values())
    if without:
        table.caption = f"up to {without:,} segments have no score (empty) and are left out"
        table.caption_justify = "left"
    return table


def _by_auroc(entry: tuple[str, dict[str, Any]]) -> tuple[bool, float, str]:
    auroc = entry[1]["wrong"]["auroc"]
    return entry[0] == ORACLE, -auroc if math.isfinite(auroc) else 0.0, entry[0]


def _meaning(confidence: dict[str, Any]) -> Table:
    """Whether scores that claim to be probabilities are, in 15 bins."""
    table = _table("", "as a probability", "of", "ECE", "Brier", "NCE", first=2)
    rows = {name: found.get("char_error") for name, found in confidence["segments"].items()}
    for name, found in rows.items():
        if found:
            table.add_row(name, "a wrong character", *_three(found))
    if found := confidence["words"][WORDS]["word_error"]:
        table.add_row(WORDS, "a wrong word", *_three(found))
    return table


def _three(found: dict[str, Any]) -> Iterator[str]:
    return (_number(found[name]) for name in ("ece", "brier", "nce"))


def printable(text: str) -> str:
    r"""Text from data as a terminal can be given it: control characters could steer it.

    Example:
        >>> printable("5 dB\x1b[2J")
        '5 dB?[2J'
    """
    return "".join(char if char.isprintable() else "?" for char in text)


def _percent(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.2%}"


def _interval(rate: dict[str, Any]) -> str:
    return "-" if rate["low"] is None else f"{rate['low']:.2%} – {rate['high']:.2%}"


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"
