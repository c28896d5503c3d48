"""The loop closes: a model learns from the part of its own transcripts that can be trusted.

    python examples/loop.py --out runs/loop

Twelve speakers are transcribed that nobody has labelled. Twelve others, who are labelled, say which
of these transcripts hold a CER; the model is fine-tuned on them, and asked again: about other
recordings of the same twelve (`familiar`), and about speakers that were in neither (`strangers`).
Every step is a command, printed before it runs. The recipe was chosen on the labelled speakers.
12 minutes on two cores. Needs espeak-ng.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cyclopts
import numpy as np
from rich.console import Console
from rich.table import Table

from koasr.bootstrap import draw_sums, ratio_interval
from koasr.normalize import Normalizer
from koasr.reading import read_transcripts
from koasr.scoring import score_segments

_RECIPE = (
    "--no-freeze-feature-encoder --learning-rate 3e-4 --warmup-steps 30 --adam-beta2 0.98"
    " --weight-decay 1e-3 --per-device-train-batch-size 64 --max-batch-s 16"
    " --gradient-accumulation-steps 1 --noise-share 0.8 --noise-snr-db -5 25"
    " --mask-time-prob 0.05 --mask-feature-prob 0.02 --seed 5"
)
"""Labels made of easy speech teach only what is harder than that: so more noise and more masks
than in the bundled model's own training."""


def _run(command: str) -> None:
    """A command as a user types it, with this Python's programs found first."""
    print(f"\n$ {command}", flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(shlex.split(command), env=os.environ | {"PATH": path})
    if done.returncode:
        sys.exit(done.returncode)


def _evaluate(name: str, speech: str, model: str, out: Path) -> dict[str, float]:
    """CER without spaces of a model on speech, with its interval."""
    _run(f"koasr transcribe {speech} --output {out}/{name} --model {model}")
    _run(f"koasr evaluate {out}/{name} --by condition --json {out}/{name}.json")
    found: dict[str, float] = json.loads((out / f"{name}.json").read_text())["rates"]["cer"]
    return found


def loop(
    *,
    out: Path = Path("runs/loop"),
    model: str = "examples/model",
    speakers: int = 12,
    each: int = 100,
    steps: int = 400,
    max_expected_cer: float = 0.1,
) -> None:
    """Transcribe, calibrate, select, fine-tune, and print the CER before and after.

    Args:
        out: Folder for everything, new.
        model: Where the loop starts.
        speakers: Of each kind.
        each: Recordings of each speaker: half to learn from, half to evaluate.
        steps: Of the fine-tuning.
        max_expected_cer: That the pseudo-labels hold.
    """
    start_s, make, speech = time.monotonic(), "python examples/make_noisy.py", f"{out}/speech"
    # A speaker is two shards: the model learns from the even one, and is asked about the odd.
    _run(f"{make} {speech} --speakers {speakers} --each {each} --shard {each // 2} --seed 5")
    _run(f"{make} {out}/strangers --speakers {speakers} --each {each // 4} --seed 6")
    labelled = f"'{speech}/calibration/*[02468].tar'"
    sets = {"familiar": f"'{speech}/test/*[13579].tar'", "strangers": f"{out}/strangers"}
    _run(f"koasr transcribe {labelled} --output {out}/labelled --model {model}")
    _run(f"koasr calibrate {out}/labelled --out {out}/loop.json --name loop")
    _run(
        f"koasr transcribe '{speech}/test/*[02468].tar' --output {out}/unlabelled --model {model}"
        f" --calibration {out}/loop.json"
    )
    chosen = f"--max-expected-cer {max_expected_cer} --to webdataset --out {out}/selected"
    _run(f"koasr select {out}/unlabelled {chosen}")
    _run(
        f"python pipelines/finetune.py {out}/selected --eval {labelled} --model {model}"
        f" --output {out}/model --max-steps {steps} --eval-steps {steps} {_RECIPE}"
    )
    table = Table("CER, 95 %", "before", "after", "change")
    for name, place in sets.items():
        before = _evaluate(f"{name}-before", place, model, out)
        after = _evaluate(f"{name}-after", place, f"{out}/model", out)
        change = _change(f"{out}/{name}-before", f"{out}/{name}-after")
        table.add_row(name, _cell(before), _cell(after), change)
    Console().print(table)
    print(f"{(time.monotonic() - start_s) / 60:.1f} minutes")


def _change(before: str, after: str) -> str:
    """Of the CER, drawn by speakers: both models heard the same, so most of the chance is gone."""
    old, new = (score_segments(read_transcripts(at), None, Normalizer()) for at in (before, after))
    counts = [(-e, r) for e, r in zip(old.errors, old.ref_chars, strict=True)]
    counts += [(e, 0) for e in new.errors]
    sums = draw_sums(np.append(old.clusters, new.clusters), np.array(counts), seed=0)
    low, high = ratio_interval(sums, 0, 1, 0.95) or (np.nan, np.nan)
    change = (new.errors.sum() - old.errors.sum()) / old.ref_chars.sum()
    return f"{change:+.2%} [{low * 100:+.1f}, {high * 100:+.1f}]"


def _cell(cer: dict[str, float]) -> str:
    return f"{cer['value']:.2%} [{cer['low'] * 100:.1f}, {cer['high'] * 100:.1f}]"


if __name__ == "__main__":
    cyclopts.run(loop)
