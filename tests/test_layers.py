"""Data flows one way: a module imports only from those before it, and Ray stays at the rim."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FLOW = [
    "errors",
    "dates",
    "help",
    "mistakes",
    "limits",
    "stopping",
    "channel",
    "child",
    "precision",
    "options",
    "rows",
    "items",
    "storage",
    "writable",
    "job_file",
    "threads",
    "stored",
    "manifests",
    "sources",
    "tar_stream",
    "tars",
    "parquet_child",
    "parquets",
    "readers",
    "mp3",
    "headers",
    "sndfile",
    "audio",
    "decoder_child",
    "decoder",
    "segments",
    "packs",
    "pack_rows",
    "tokens",
    "model_files",
    "shape",
    "model_description",
    "checkpoint",
    "weights",
    "layout",
    "convolutions",
    "encoder",
    "model",
    "ctc",
    "confidence",
    "recognize",
    "recognizer",
    "transcripts",
    "calibration",
    "drift",
    "runs",
    "metrics",
    "staging",
    "shard_objects",
    "commit",
    "ledger",
    "stock",
    "settling",
    "vanished",
    "planning",
    "lease",
    "inventory",
    "reading",
    "normalize",
    "reference_files",
    "references",
    "scoring",
    "curve",
    "calibrate",
    "bootstrap",
    "accuracy",
    "reliability",
    "confidence_quality",
    "evaluation",
    "retry",
    "feeding",
    "stages",
    "figures",
    "monitoring",
    "job",
    "ending",
    "summary",
    "telling",
    "progress",
    "beacon",
    "transcribe",
    "checks",
    "cross_checks",
    "watch",
    "status",
    "verify",
    "gc",
    "forget",
    "evaluation_tables",
    "evaluation_plots",
    "evaluate",
    "subtitles",
    "export",
    "clips",
    "datasets",
    "shard_sets",
    "export_job",
    "training_sets",
    "selection",
    "orders",
    "select",
    "report_run",
    "report_segments",
    "report_samples",
    "report_audio",
    "report_errors",
    "report_time",
    "report_nights",
    "report_words",
    "report_charts",
    "report_page",
    "report",
    "estimate",
    "notify",
    "night_job",
    "night_record",
    "night_plan",
    "night",
    "night_steps",
    "nightly",
    "findings",
    "machine_checks",
    "reach_checks",
    "model_checks",
    "doctor",
]
PACKAGE = Path(__file__).parent.parent / "koasr"


def imports(module: str) -> set[str]:
    """Names of everything a module of koasr imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "koasr":
            found |= {f"koasr.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("module", FLOW)
def test_a_module_imports_only_what_lies_before_it(module: str) -> None:
    ours = {name.removeprefix("koasr.") for name in imports(module) if name.startswith("koasr.")}
    before = set(FLOW[: FLOW.index(module)]) | {"__version__"}
    assert ours <= before


def test_only_the_jobs_import_ray() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    found = {m for m in modules if any(n.split(".")[0] == "ray" for n in imports(m))}
    assert found == {"job", "export_job"}


def test_every_module_of_the_flow_is_listed() -> None:
    beside = {"__init__", "cli", "convert", "rewrite", "finetune", "vocabulary"}
    beside |= {"training_data", "ctc_trainer", "model_card", "recipe"}
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*FLOW, *beside}


def test_the_model_starts_without_transformers() -> None:
    code = "import sys, koasr.recognize; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "False", done.stderr


def test_the_job_and_the_loaders_start_without_torch_and_the_command_line() -> None:
    code = (
        "import sys, koasr.job, koasr.stages\n"
        "print([name for name in ('torch', 'cyclopts') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
