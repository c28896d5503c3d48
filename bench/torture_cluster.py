"""A simulated cluster of several nodes, and the processes in it that can be killed."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

HEAD_CPUS = NODE_CPUS = 1
"""The model's actor asks for half of all CPUs, so it fills a node, and those who feed it the other.

Each CPU more costs a round some processes, which take three seconds each to start.
"""

_STORE_BYTES = 150 << 20
# A dead node is noticed within two seconds, not half a minute.
_HEALTH = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 4,
}


class TortureCluster:
    """A head and worker nodes, each a raylet of its own on this machine.

    Nodes may only be added from the main thread, which Ray asks for.
    """

    def __init__(self) -> None:
        import ray
        from ray.cluster_utils import Cluster

        self._ray: Any = ray
        head: dict[str, Any] = {"num_cpus": HEAD_CPUS, "include_dashboard": False, "wait": False}
        head |= {"object_store_memory": _STORE_BYTES, "_system_config": _HEALTH}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        # Else every other `ray.init()` on this machine would join.
        with suppress(FileNotFoundError):
            os.unlink(self._ray._private.utils.get_ray_address_file(None))
        self.nodes: list[Any] = []
        self.add_node()

    @property
    def address(self) -> str:
        """For RAY_ADDRESS."""
        return str(self._cluster.address)

    def add_node(self, num_cpus: int = NODE_CPUS) -> Any:
        """A new worker node."""
        node = self._cluster.add_node(num_cpus=num_cpus, object_store_memory=_STORE_BYTES)
        self.nodes.append(node)
        return node

    def kill_node(self, node: Any) -> int:
        """SIGKILL the raylet of a worker node and forget the node; the raylet's pid."""
        pid = int(node.all_processes["raylet"][0].process.pid)
        os.kill(pid, signal.SIGKILL)
        self.remove_node(node)
        return pid

    def remove_node(self, node: Any) -> None:
        """Take a worker node away at once."""
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def drain_node(self, node: Any, deadline_s: float) -> bool:
        """Announce that a worker node will be preempted; whether Ray accepted it."""
        from ray.core.generated import autoscaler_pb2

        reasons: Any = autoscaler_pb2
        reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + deadline_s) * 1000)
        gcs = self._ray._raylet.GcsClient(address=self.address)
        accepted, _ = gcs.drain_node(node.node_id, reason, "spot", deadline_ms)
        return bool(accepted)

    def processes(self) -> Iterator[tuple[psutil.Process, list[str]]]:
        """Every process below a raylet of this cluster, with its command line."""
        for node in [self._cluster.head_node, *self.nodes]:
            raylet = node.all_processes["raylet"][0].process.pid
            with suppress(psutil.Error):
                for process in psutil.Process(raylet).children(recursive=True):
                    with suppress(psutil.Error):
                        yield process, process.cmdline()

    def actors(self) -> list[psutil.Process]:
        """The transcribing actors."""
        return [p for p, line in self.processes() if line and _is_actor(line)]

    def children(self, *, of_actors: bool) -> list[psutil.Process]:
        """Child processes that koasr started: the actors' hold the model, the others decode."""
        found = []
        for process, line in self.processes():
            is_ours = any(part.startswith("koasr.") for part in line)
            with suppress(psutil.Error):
                parent = process.parent()
                if is_ours and parent and _is_actor(parent.cmdline()) == of_actors:
                    found.append(process)
        return found

    def shutdown(self) -> None:
        """End every process of the cluster."""
        self._cluster.shutdown()


def _is_actor(command_line: list[str]) -> bool:
    title = " ".join(command_line)
    return title.startswith("ray::") and "Transcribe" in title


def kill(process: psutil.Process) -> bool:
    """SIGKILL; whether there was such a process."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return True


@contextmanager
def running_cluster() -> Iterator[TortureCluster]:
    """A cluster for as long as the context lasts; its workers inherit this environment."""
    cluster = TortureCluster()
    try:
        yield cluster
    finally:
        cluster.shutdown()
