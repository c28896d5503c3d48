"""Faults of the cluster: its processes and its nodes die under the job."""

import time
from collections.abc import Callable

import psutil
from torture_cluster import kill
from torture_world import Outcome, Round

_DRAIN_DEADLINE_S = 5.0


def _kill_process(round_: Round, find: Callable[[], list[psutil.Process]]) -> Outcome:
    """SIGKILL a process of the cluster some time after there is one."""
    driver = round_.start()
    fired = False
    if round_.wait_for(driver, find):
        time.sleep(round_.rng.uniform(0, 0.7 * round_.world.busy_s))
        # A decoder may rest between two packs: wait for the next.
        if driver.is_alive and round_.wait_for(driver, find):
            processes = find()
            fired = bool(processes) and kill(round_.rng.choice(processes))
    return Outcome(fired, round_.finish(driver))


def kill_actor(round_: Round) -> Outcome:
    """SIGKILL the actor that transcribes."""
    return _kill_process(round_, round_.world.cluster.actors)


def kill_model(round_: Round) -> Outcome:
    """SIGKILL the child process that holds the model."""
    return _kill_process(round_, lambda: round_.world.cluster.children(of_actors=True))


def kill_decoder(round_: Round) -> Outcome:
    """SIGKILL a child process that decodes."""
    return _kill_process(round_, lambda: round_.world.cluster.children(of_actors=False))


def kill_node(round_: Round) -> Outcome:
    """SIGKILL the raylet of a node, and with it the actor or those who feed it; another comes."""
    cluster = round_.world.cluster
    driver = round_.start()
    fired = False
    if round_.wait_for(driver, cluster.actors):
        time.sleep(round_.rng.uniform(0, 0.7 * round_.world.busy_s))
        fired = driver.is_alive
        cluster.kill_node(cluster.nodes[-1])
        cluster.add_node()
    return Outcome(fired, round_.finish(driver))


def drain_node(round_: Round) -> Outcome:
    """Announce the preemption of a node, add another, and then kill the first."""
    cluster = round_.world.cluster
    driver = round_.start()
    fired = False
    if round_.wait_for(driver, cluster.actors):
        time.sleep(round_.rng.uniform(0, 0.7 * round_.world.busy_s))
        node = cluster.nodes[-1]
        fired = driver.is_alive and cluster.drain_node(node, _DRAIN_DEADLINE_S)
        cluster.add_node()
        time.sleep(_DRAIN_DEADLINE_S)
        cluster.kill_node(node)
    return Outcome(fired, round_.finish(driver))
