"""The model in a process of its own: a segment that kills it is found by bisection, not retried.

Ray would give a pack that kills its actor to the next actor, for ever.
"""

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from koasr.channel import Channel
from koasr.checkpoint import Checkpoint
from koasr.child import Child, ChildError, serve
from koasr.ctc import BestPath, TokenSpan
from koasr.errors import JobError, Reason

Samples = NDArray[np.int16]
Outcome = BestPath | Reason
"""A segment's best path, or why it has none."""

MAX_CRASHES_IN_A_ROW = 3
_LOAD_ATTEMPTS = 3
_MAX_MESSAGE = 200
_SILENCE_S = 3600.0
"""No micro-batch takes that long; a 1B model on one CPU core needs minutes."""


class Recognizer:
    """Holds the child that holds the model. Loads it at once, and again after a death.

    Args:
        checkpoint: The model's description.
        directory: Its files on this machine.
        device: `cpu` or `cuda`.
        precision: Of the model's body.
        threads: Of the child on a CPU.
        batch_seconds: Audio of a micro-batch; None for what fits the device.
        num_sharing: Recognizers that share the device's memory.
        module: What the child runs.

    Raises:
        JobError: The model does not load, three times in a row.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        directory: Path,
        *,
        device: str,
        precision: str,
        threads: int,
        batch_seconds: float | None,
        num_sharing: int = 1,
        module: str = "koasr.recognizer",
    ) -> None:
        # The files are here; transformers would otherwise ask the hub about them.
        offline = {"HF_HUB_OFFLINE": "1", "DISABLE_SAFETENSORS_CONVERSION": "1"}
        # Threads that wait for one another by spinning take the CPU from the loaders.
        quiet = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ
        self._child = Child(module, environment=quiet | offline)
        self._setup = pickle.dumps(
            (checkpoint, directory, device, precision, threads, batch_seconds, num_sharing)
        )
        self._crashes_in_a_row = 0
        self.num_float32_retries = 0
        self._load()

    def _load(self) -> None:
        for _ in range(_LOAD_ATTEMPTS):
            try:
                self._child.send(self._setup)
                found = self._answer().get("error")
            except (ChildError, TimeoutError) as error:
                found = str(error)
            if found is None:
                return
            self._child.kill()
        raise JobError(f"the model does not load, tried {_LOAD_ATTEMPTS} times: {found}")

    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._child.receive(_SILENCE_S))
        if "job_error" in answer:
            raise JobError(answer["job_error"])
        return answer

    def close(self) -> None:
        """End the child."""
        self._child.kill()

    def recognize(self, segments: Sequence[Samples]) -> list[Outcome]:
        """Best path of each segment, in order; `crashed` or `timeout` for one that kills the model.

        Args:
            segments: Mono int16 at 16 kHz, each at least 0.1 s.

        Raises:
            JobError: The model dies on one segment after the other, or lacks memory for one.
        """
        outcomes: dict[int, Outcome] = {}
        if segments:
            self._settle(segments, list(range(len(segments))), outcomes)
        return [outcomes[index] for index in range(len(segments))]

    def _settle(
        self, segments: Sequence[Samples], wanted: list[int], outcomes: dict[int, Outcome]
    ) -> None:
        """Find the outcome of each wanted segment, halving what was in hand at a death."""
        in_hand, reason = self._try(segments, wanted, outcomes)
        left = [index for index in wanted if index not in outcomes]
        if not reason or not left:
            return
        suspects = [index for index in in_hand if index in left] or left
        if suspects == wanted and len(wanted) == 1:
            # Alone in a fresh process: once more, since the machine may be to blame.
            _, again = self._try(segments, wanted, outcomes)
            if again:
                outcomes[wanted[0]] = again
                self._count_crash()
            return
        half = (len(suspects) + 1) // 2
        others = [index for index in left if index not in set(suspects)]
        for group in (suspects[:half], suspects[half:], others):
            if group:
                self._settle(segments, group, outcomes)

    def _count_crash(self) -> None:
        self._crashes_in_a_row += 1
        if self._crashes_in_a_row == MAX_CRASHES_IN_A_ROW:
            found = f"the model's process died on {MAX_CRASHES_IN_A_ROW} segments in a row"
            raise JobError(f"{found}: check the driver, the memory of the machine and the model")

    def _try(
        self, segments: Sequence[Samples], wanted: list[int], outcomes: dict[int, Outcome]
    ) -> tuple[list[int], Reason | None]:
        """One request: fills in outcomes; what was in hand at a death, and its reason."""
        in_hand: list[int] = []
        if self._child.pid is None:
            self._load()
        try:
            rows = [segments[index] for index in wanted]
            self._child.send(json.dumps([len(row) for row in rows]).encode())
            self._child.send(np.concatenate(rows).data.cast("B"))
            while True:
                answer = self._answer()
                if "error" in answer:
                    # A CUDA error spoils every call after it, so the process ends with it.
                    self._child.kill()
                    return in_hand, "crashed"
                if "float32_retries" in answer:
                    self.num_float32_retries += answer["float32_retries"]
                    return [], None
                in_hand = [wanted[place] for place in answer["in_hand"]]
                for place, path in answer["done"]:
                    outcomes[wanted[place]] = _path(path) if path else "non_finite"
                    self._crashes_in_a_row = 0
        except ChildError:
            return in_hand, "crashed"
        except TimeoutError:
            return in_hand, "timeout"


def _path(columns: dict[str, Any]) -> BestPath:
    return BestPath(**columns | {"spans": [TokenSpan(*span) for span in columns["spans"]]})


def _columns(path: BestPath) -> dict[str, Any]:
    # dataclasses.asdict copies each value deeply, which takes as long as a GPU does for a pack.
    spans = [(span.token_id, span.start, span.end) for span in path.spans]
    return vars(path) | {"spans": spans}


class _Server:
    """The child's side: loads the model on the first request, then answers the others."""

    def __init__(self) -> None:
        self._model: Any = None
        self._batch_seconds = 0.0

    def handle(self, pipe: Channel) -> None:
        """Receive a request and send its answers."""
        import torch

        from koasr.recognize import recognize_batches

        request = pipe.recv_bytes()
        try:
            if self._model is None:
                self._set_up(request)
                pipe.send_bytes(b"{}")
                return
            lengths = json.loads(request)
            samples: Samples = np.frombuffer(pipe.recv_bytes(), np.int16)
            segments = np.split(samples, np.cumsum(lengths)[:-1])
            retries = 0
            batches = recognize_batches(self._model, segments, batch_seconds=self._batch_seconds)
            for step in batches:
                rows = [(index, path and _columns(path)) for index, path in step.done.items()]
                pipe.send_bytes(json.dumps({"in_hand": step.in_hand, "done": rows}).encode())
                retries = step.num_float32_retries
            pipe.send_bytes(json.dumps({"float32_retries": retries}).encode())
        except JobError as error:
            pipe.send_bytes(json.dumps({"job_error": str(error)}).encode())
        except torch.OutOfMemoryError:
            message = "the device has too little memory for one segment: use one with more"
            pipe.send_bytes(json.dumps({"job_error": message}).encode())
        except Exception as error:
            found = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_MESSAGE]
            pipe.send_bytes(json.dumps({"error": found}).encode())

    def _set_up(self, request: bytes) -> None:
        import torch

        from koasr.model import AcousticModel

        # From the process that started this one, and nobody else.
        checkpoint, directory, device, precision, threads, seconds, sharing = pickle.loads(request)
        if device == "cpu":
            torch.set_num_threads(threads)
        model = AcousticModel(checkpoint, directory, device=device, precision=precision)
        self._batch_seconds = seconds or model.measure_batch_seconds(sharing)
        self._model = model


if __name__ == "__main__":
    serve(_Server().handle)
