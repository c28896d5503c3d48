"""How far confidence can be trusted: measured on speech in many conditions, speakers held apart.

    .venv/bin/python bench/trust.py

Makes the speech (`examples/make_noisy.py`: 10,000 recordings of 400 speakers in two halves),
transcribes both halves with the bundled model and prints what the README's table has. About 20
minutes on 2 cores; what is there already is not made again.
"""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cyclopts
import numpy as np
import pyarrow as pa
from figures import Figure, figure, show
from numpy.typing import NDArray
from peer_scores import score_speech

from koasr.calibrate import label, make_calibration
from koasr.calibration import Calibration, Floats
from koasr.curve import Labelled, find_thresholds, fit_curve
from koasr.drift import Drift, count_confidence, find_drift
from koasr.normalize import Normalizer
from koasr.orders import Order, choose
from koasr.reading import read_transcripts
from koasr.reliability import detect_wrong, reliability_bins
from koasr.scoring import SCORED_COLUMNS, ScoredSegments, score_segments
from koasr.selection import Candidates, values_of

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "examples" / "model"
HALVES = ("calibration", "test")
NOISES = ("white", "pink", "brown", "babble", "music", "reverb", "clipped", "telephone")
TARGETS = (0.02, 0.05, 0.1)
ROUNDS = 200
NO_DRIFT = Drift("bench", 0.0, False)
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Half:
    """One half's segments with what they got wrong, and each one's condition."""

    scored: ScoredSegments
    condition: NDArray[np.str_]

    def only(self, kept: Mask) -> ScoredSegments:
        """Those segments alone. Words are left behind: nothing here needs them."""
        scored = self.scored
        return dataclasses.replace(
            scored,
            table=scored.table.filter(pa.array(kept)),
            errors=scored.errors[kept],
            ref_chars=scored.ref_chars[kept],
            hyp_chars=scored.hyp_chars[kept],
            clusters=scored.clusters[kept],
        )


def make_halves(folder: Path, speakers: int, each: int) -> None:
    """Speech and transcripts of both halves, made where they are missing."""
    speech = folder / "speech"
    if not (speech / "READY").exists():
        command = [sys.executable, str(ROOT / "examples" / "make_noisy.py"), str(speech)]
        subprocess.run([*command, f"--speakers={speakers}", f"--each={each}"], check=True)
        (speech / "READY").touch()
    for half in HALVES:
        command = [sys.executable, str(ROOT / "pipelines" / "transcribe.py"), str(speech / half)]
        subprocess.run([*command, f"--output={folder / half}", f"--model={MODEL}"], check=True)


def read_half(output: Path) -> Half:
    """A half, scored against the references that came along."""
    columns = [*SCORED_COLUMNS, "evidence", "duration_s", "fingerprint", "model"]
    scored = score_segments(read_transcripts(str(output), columns), None, Normalizer())
    return Half(scored, np.array(values_of(scored.table, "condition")))


def detection(test: Half, calibration: Calibration, speech: Path) -> Iterator[Figure]:
    """AUROC of koasr's confidence and of others' for segments above 10 % CER; same logits."""
    labelled, is_empty = label(test.scored, "raw_confidence")
    wrong = labelled.errors > 0.1 * labelled.ref_chars
    ids = np.array(test.scored.table["segment_id"].to_pylist())[~is_empty]
    peers = score_speech(speech, MODEL)
    scores = {
        "koasr's confidence, calibrated": calibration.confidence_of(labelled.scores),
        "koasr's raw confidence": labelled.scores,
        "least sure word": label(test.scored, "min_word_confidence")[0].scores,
    }
    scores |= {name: np.array([peers[i][name] for i in ids]) for name in peers[ids[0]]}
    for name, trust in scores.items():
        wanted = "≥ 0.95, the best" if "calibrated" in name else ""
        found = detect_wrong(trust, wrong).auroc
        yield figure("AUROC of CER > 10 %", name, [found], "", wanted=wanted)


def calibration_error(scored: ScoredSegments, calibration: Calibration) -> float:
    """ECE of the expected CER, as the probability that a character is wrong; 15 bins."""
    labelled, _ = label(scored, calibration.score)
    expected = calibration.expected_cer(labelled.scores)
    observed = labelled.errors / labelled.hyp_chars
    bins = reliability_bins(expected, observed, labelled.hyp_chars.astype(np.float64))
    return bins.error


def honesty(train: Half, test: Half, calibration: Calibration) -> Iterator[Figure]:
    """ECE in condition; and of each condition by a calibration that has not heard it."""
    section = "ECE of expected_cer"
    found = calibration_error(test.scored, calibration)
    yield figure(section, "in condition", [found], "", wanted="≤ 0.02")
    for noise in NOISES:
        blind = make_calibration(train.only(train.condition != noise), name="blind")
        heard = test.only(test.condition == noise)
        scores = blind.scores_of(heard.table["evidence"].combine_chunks())
        confidence = pa.chunked_array([pa.array(blind.confidence_of(scores), from_pandas=True)])
        drift = find_drift(blind, count_confidence(confidence))
        told = "told as drift" if drift.has_drifted else "not told as drift"
        what = f"{noise} alone, left out of calibration; PSI {drift.psi:.2f}, {told}"
        yield figure(section, what, [calibration_error(heard, blind)], "")


def part(labelled: Labelled, rows: NDArray[np.int64], clusters: NDArray[np.int64]) -> Labelled:
    """Some rows, with these numbers of their clusters."""
    columns = {f.name: getattr(labelled, f.name)[rows] for f in dataclasses.fields(labelled)}
    return Labelled(**columns | {"clusters": clusters})


def _draw(labelled: Labelled, speakers: NDArray[np.int64]) -> Labelled:
    """All segments of these speakers; one drawn twice counts as two."""
    order = np.argsort(labelled.clusters, kind="stable")
    edges = np.searchsorted(labelled.clusters[order], np.arange(labelled.clusters.max() + 2))
    rows = [order[edges[s] : edges[s + 1]] for s in speakers]
    numbers = np.repeat(np.arange(len(rows)), [len(found) for found in rows])
    return part(labelled, np.concatenate(rows), numbers)


def ranked(labelled: Labelled, calibration: Calibration) -> Candidates:
    """Segments as `koasr select` ranks them."""
    order = np.argsort(-labelled.scores, kind="stable")
    scores, hours = labelled.scores[order], labelled.duration_s[order] / 3600
    chars, expected = labelled.hyp_chars[order], calibration.expected_cer(scores)
    return Candidates(order, scores, hours, chars.astype(np.float64), expected)


def kept_cer(labelled: Labelled, found: Candidates) -> Floats:
    """CER of the surest one, two, … together."""
    errors, chars = labelled.errors[found.rows], labelled.ref_chars[found.rows]
    return np.asarray(errors.cumsum() / np.maximum(chars.cumsum(), 1))


def longest(cer: Floats, target: float) -> int:
    """How many of the surest meet a target, going by these very segments."""
    return int(np.flatnonzero(cer <= target)[-1]) + 1


def promises(
    section: str, draws: Iterator[tuple[Labelled, Labelled]], wanted: str
) -> Iterator[Figure]:
    """How often a promised CER is exceeded, and what share of an oracle's hours is kept."""
    broken: dict[float, list[bool]] = {target: [] for target in TARGETS}
    naive: dict[float, list[bool]] = {target: [] for target in TARGETS}
    shares: dict[float, list[float]] = {target: [] for target in TARGETS}
    for seen, unseen in draws:
        made = calibration_of(seen)
        found = ranked(unseen, made)
        cer, hours = kept_cer(unseen, found), found.hours.cumsum()
        own = ranked(seen, made)
        for target in TARGETS:
            chosen = choose(found, Order(max_expected_cer=target), None, made, NO_DRIFT)
            count = chosen.count
            broken[target].append(count > 0 and bool(cer[count - 1] > target))
            shares[target].append(
                (hours[count - 1] if count else 0.0) / hours[longest(cer, target) - 1]
            )
            lowest = own.scores[longest(kept_cer(seen, own), target) - 1]
            naive[target].append(bool(cer[np.sum(found.scores >= lowest) - 1] > target))
    for target in TARGETS:
        ours, others = (100 * float(np.mean(found[target])) for found in (broken, naive))
        yield figure(section, f"CER ≤ {target:.0%}: exceeded", [ours], "%", wanted=wanted)
        yield figure(section, "… by the naive threshold", [others], "%")
        goal = "≥ 0.9" if target == 0.05 else ""
        yield figure(section, "… hours kept, of an oracle's", shares[target], "", wanted=goal)


def calibration_of(labelled: Labelled) -> Calibration:
    """What `koasr calibrate` makes of these, but for what nothing here reads."""
    knots = tuple((float(at), float(cer)) for at, cer in fit_curve(labelled))
    thresholds = tuple(find_thresholds(labelled, TARGETS, delta=0.1))
    return Calibration("bench", "", "raw_confidence", knots, thresholds, (), {})


def _label_all(halves: list[Half]) -> Labelled:
    """Both halves as one; their speakers differ."""
    found = [label(half.scored, "raw_confidence")[0] for half in halves]
    first = int(found[0].clusters.max()) + 1
    joined = {
        f.name: np.concatenate([getattr(one, f.name) for one in found])
        for f in dataclasses.fields(Labelled)
    }
    num_first = len(found[0].scores)
    joined["clusters"][num_first:] += first
    return Labelled(**joined)


def splits(everything: Labelled, num_seen: int) -> Iterator[tuple[Labelled, Labelled]]:
    """Speakers to calibrate with, drawn anew each round, and all the others."""
    count = int(everything.clusters.max()) + 1
    for seed in range(ROUNDS):
        order = np.random.default_rng(seed).permutation(count)
        yield _draw(everything, order[:num_seen]), _draw(everything, order[num_seen:])


def resamples(train: Labelled, test: Labelled) -> Iterator[tuple[Labelled, Labelled]]:
    """The speakers of one half drawn with replacement, and all of the other half."""
    count = int(train.clusters.max()) + 1
    for seed in range(ROUNDS):
        yield _draw(train, np.random.default_rng(seed).integers(count, size=count)), test


def nothing_said(test: Half, calibration: Calibration) -> Iterator[Figure]:
    """Share of the non-speech that comes out empty or below the strictest threshold."""
    rows = test.scored.table.filter(pa.array(test.condition == "nothing"))
    scores = calibration.scores_of(rows["evidence"].combine_chunks())
    strictest = calibration.thresholds[0].min_score
    assert strictest is not None
    empty = 100 * float(np.isnan(scores).mean())
    out = 100 * float((np.isnan(scores) | (scores < strictest)).mean())
    section = "non-speech"
    yield figure(section, "empty", [empty], "%")
    yield figure(section, "empty or below the strictest threshold", [out], "%", wanted="≥ 99 %")


def main(folder: Path = Path("runs/trust"), *, speakers: int = 200, each: int = 25) -> None:
    """Measure all of it.

    Args:
        folder: For the speech, its transcripts, and trust.json.
        speakers: In each half.
        each: Recordings of each.
    """
    make_halves(folder, speakers, each)
    train, test = (read_half(folder / half) for half in HALVES)
    calibration = make_calibration(train.scored, name="bench")
    known = _label_all([train, test])
    ours = [label(half.scored, "raw_confidence")[0] for half in (train, test)]
    found = [
        *detection(test, calibration, folder / "speech" / "test"),
        *honesty(train, test, calibration),
        *promises(
            f"{speakers // 2} speakers to calibrate with, {speakers * 3 // 2} others",
            splits(known, speakers // 2),
            "≤ 10 %",
        ),
        *promises("calibration half resampled, test half", resamples(*ours), "≤ 10 %"),
        *nothing_said(test, calibration),
    ]
    show(found, "how far confidence can be trusted", folder / "trust.json")


if __name__ == "__main__":
    cyclopts.run(main)
