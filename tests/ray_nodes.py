"""A Ray cluster of three nodes in a process of its own, of which a node can be lost.

Not in the process of the tests: its Ray is another one's by then, with a token of its own.
"""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent.parent / "bench"


@dataclass(frozen=True)
class Nodes:
    """A head and two workers. `environment` is of whoever is to reach them."""

    environment: dict[str, str]
    process: "subprocess.Popen[str]"

    def lose_one(self) -> None:
        """SIGKILL the raylet of a worker, as a spot node goes; another comes."""
        self._ask("lose one")

    def _ask(self, order: str = "") -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if order:
            print(order, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        assert answer, "the cluster has ended"
        return answer


@contextmanager
def running_nodes(folder: Path) -> Iterator[Nodes]:
    """A cluster for as long as the context lasts; its workers inherit this environment.

    Args:
        folder: For its logs and sockets, of a short path.
    """
    others = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR")
    environment = {name: value for name, value in os.environ.items() if name not in others}
    environment |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with (folder / "nodes.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        nodes = Nodes(environment, process)
        environment["RAY_ADDRESS"] = nodes._ask()
        yield nodes
    finally:
        process.communicate(timeout=60)


def _serve() -> None:
    """Say the address, then obey until stdin ends."""
    sys.path.append(str(BENCH))
    torture_cluster: Any = importlib.import_module("torture_cluster")
    answers, sys.stdout = sys.stdout, sys.stderr
    with torture_cluster.running_cluster() as cluster:
        cluster.add_node()
        print(cluster.address, file=answers, flush=True)
        for _ in sys.stdin:
            cluster.kill_node(cluster.nodes[-1])
            print("lost", file=answers, flush=True)
            cluster.add_node()


if __name__ == "__main__":
    _serve()
