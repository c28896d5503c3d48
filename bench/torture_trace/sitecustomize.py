"""Counts what the transcribing actors compute: every Python below a torture cluster imports this.

The job knows what its receipts say; what an actor computed before somebody died shows nowhere in
it, and that is what a torture run must count. Each pack appends its seconds to KOASR_TRACE.
"""

import functools
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

_TRACED = "koasr.stages"


def _trace(module: Any) -> None:
    call = module.Transcribe.__call__

    @functools.wraps(call)
    def traced(self: Any, table: Any) -> Any:
        answer = call(self, table)
        line = "".join(f"{audio_s}\n" for audio_s in answer["audio_s"].to_pylist())
        # One write to a file opened for appending is not mixed with another process's.
        descriptor = os.open(os.environ["KOASR_TRACE"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        return answer

    module.Transcribe.__call__ = traced


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _TRACED:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then_trace(spec.loader)  # type: ignore[method-assign]
        return spec


def _then_trace(loader: Loader) -> Any:
    execute = loader.exec_module

    def execute_and_trace(module: Any) -> None:
        execute(module)
        _trace(module)

    return execute_and_trace


if "KOASR_TRACE" in os.environ:
    sys.meta_path.insert(0, _Finder())
