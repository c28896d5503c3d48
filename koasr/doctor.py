"""Can a night run here? The machine, its stores, its cluster and a model, each tried for real."""

import json as json_module
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from koasr import __version__
from koasr.findings import Finding, State, failed, worst_of
from koasr.machine_checks import (
    Gpu,
    check_audio,
    check_gpus,
    check_memory,
    check_packages,
    check_processor,
    check_shared_memory,
    check_temporary,
    find_gpus,
    free_shared_memory,
    memory_bytes,
)
from koasr.model_checks import check_model
from koasr.reach_checks import check_input, check_ray, check_target

EXIT_FIT, EXIT_UNFIT = 0, 1
REPORT_VERSION = 1
_STYLES: dict[State, str] = {"ok": "green", "warning": "yellow", "failed": "bold red"}
_COLUMN = 10


def doctor(
    *,
    model: str | None = None,
    output: str | None = None,
    input: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    json: bool = False,
) -> int:
    """Check that a night can run on this machine, and say what to do.

    Exit code: 0 when nothing failed, 1 when something did.

    Args:
        model: Checkpoint to load and try; else the bundled one.
        output: Folder or URI to try to write to.
        input: Files, folders or URIs to list and to read from.
        json: Print JSON instead.
    """
    console = Console(soft_wrap=True, highlight=False)
    findings = []
    for finding in examine(model, output, input):
        findings.append(finding)
        if not json:
            console.print(_line(finding))
    state = worst_of(findings)
    if json:
        console.out(_document(findings, state))
    else:
        console.print(_summary(findings))
    return EXIT_UNFIT if state == "failed" else EXIT_FIT


def examine(model: str | None, output: str | None, inputs: tuple[str, ...]) -> Iterator[Finding]:
    """What each check found, as it is done.

    Args:
        model: A checkpoint; None for the bundled one.
        output: URI of an output.
        inputs: URIs of inputs.
    """
    gpus: list[Gpu] = []

    def look_for_gpus() -> Finding:
        found, problem = find_gpus()
        gpus.extend(found)
        return check_gpus(found, problem)

    def look_at_shared_memory() -> Finding:
        return check_shared_memory(memory_bytes()[0], free_shared_memory())

    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("packages", check_packages),
        ("CPU", check_processor),
        ("memory", check_memory),
        ("shared memory", look_at_shared_memory),
        ("temporary folder", check_temporary),
        ("GPU", look_for_gpus),
        ("audio", check_audio),
        *(("input", partial(check_input, uri)) for uri in inputs),
        *(("output", partial(check_target, uri)) for uri in [output] if uri is not None),
        ("Ray", check_ray),
        ("model", partial(check_model, model, gpus)),
    ]
    for name, check in checks:
        try:
            yield check()
        # A check that cannot be done has failed, and the next is done all the same.
        except Exception as error:
            yield failed(name, f"{type(error).__name__}: {error}")


def _line(finding: Finding) -> Text:
    advice = f" -> {finding.advice}" if finding.advice else ""
    state = (finding.state.ljust(_COLUMN), _STYLES[finding.state])
    return Text.assemble(state, (f"{finding.name}: ", "bold"), finding.found, advice)


def _summary(findings: list[Finding]) -> str:
    counts = Counter(finding.state for finding in findings)
    told = ", ".join(f"{counts[state]} {state}" for state in _STYLES if counts[state])
    verdict = "mend what failed first" if counts["failed"] else "a night can run here"
    return f"koasr {__version__}: {told}: {verdict}"


def _document(findings: list[Finding], state: State) -> str:
    document = {"version": REPORT_VERSION, "koasr": __version__, "state": state}
    checks = [asdict(finding) for finding in findings]
    return json_module.dumps({**document, "checks": checks}, indent=2, ensure_ascii=False)
