"""cluster.yaml is what Ray, EC2 and we ask of it. Nothing is launched, and no one is asked."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated import autoscaler_pb2

ROOT = Path(__file__).parent.parent
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
_EC2 = botocore.session.get_session().get_service_model("ec2")
_RUN_INSTANCES = _EC2.operation_model("RunInstances").input_shape
_INSTANCE_TYPES = set(_EC2.shape_for("InstanceType").enum)
_SECRETS = re.compile(r"AKIA\w+|aws_credentials|aws_secret\w+|ssh_private_key|KeyName", re.I)


def ray_problems(config: dict[str, Any]) -> Iterator[str]:
    """What Ray's launcher refuses; its own order: defaults first, then the schema."""
    try:
        validate_config(prepare_config(deepcopy(config)))
    except (jsonschema.ValidationError, ValueError, AssertionError) as error:
        yield str(error).splitlines()[0]


def ec2_problems(config: dict[str, Any]) -> Iterator[str]:
    """What EC2 would not take of the nodes; Ray's schema lets anything through there."""
    for name, node_type in config["available_node_types"].items():
        # Ray chooses one of SubnetIds, and sets the counts.
        node = {k: v for k, v in node_type["node_config"].items() if k != "SubnetIds"}
        asked = {"MinCount": 1, "MaxCount": 1} | node
        report = ParamValidator().validate(asked, _RUN_INSTANCES)
        if report.has_errors():
            yield f"{name}: {report.generate_report()}"
        if node.get("InstanceType") not in _INSTANCE_TYPES:
            yield f"{name}: EC2 has no {node.get('InstanceType')}"


def node_problems(name: str, node: dict[str, Any]) -> Iterator[str]:
    """What we hold of any node."""
    if node.get("MetadataOptions", {}).get("HttpTokens") != "required":
        yield f"{name}: whatever fetches a URL there gets the role's credentials (IMDSv1)"
    disks = [disk["Ebs"] for disk in node.get("BlockDeviceMappings", [])]
    wanted = {"VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    if not disks or not all(wanted.items() <= disk.items() for disk in disks):
        yield f"{name}: speech on a disk that is not encrypted, not gp3, or stays"
    if not node.get("SecurityGroupIds"):
        yield f"{name}: Ray would make a security group with SSH open to the world"
    if len(set(node.get("SubnetIds", []))) < 2:
        yield f"{name}: one zone"
    if "NetworkInterfaces" in node:
        yield f"{name}: network interfaces may have public addresses"
    if "Name" not in node.get("IamInstanceProfile", {}):
        yield f"{name}: no role for the buckets"


def type_problems(config: dict[str, Any]) -> Iterator[str]:
    """What we hold of the head and of workers."""
    types, head = config["available_node_types"], config["head_node_type"]
    head_role = types[head]["node_config"].get("IamInstanceProfile")
    if types[head]["resources"] != {"CPU": 0, "GPU": 0}:
        yield "the head takes tasks"
    for name, node_type in types.items():
        node = node_type["node_config"]
        yield from node_problems(name, node)
        is_spot = node.get("InstanceMarketOptions", {}).get("MarketType") == "spot"
        if name == head and is_spot:
            yield "the head is on spot"
        if name.endswith("_spot") != is_spot:
            yield f"{name}: {'spot' if is_spot else 'on demand'}, against its name"
        if name != head and node_type.get("min_workers"):
            yield f"{name}: costs money without work"
        if name != head and node.get("IamInstanceProfile") == head_role:
            yield f"{name}: may start machines"
    maxima = sum(node_type.get("max_workers", 0) for node_type in types.values())
    if maxima != config["max_workers"]:
        yield f"max_workers {config['max_workers']}, but the workers' maxima make {maxima}"


def cluster_problems(config: dict[str, Any]) -> Iterator[str]:
    """What we hold of the cluster as a whole."""
    if not 0 < config.get("idle_timeout_minutes", 0) <= 15:
        yield "idle workers stay"
    provider = config["provider"]
    if provider.get("use_internal_ips") is not True:
        yield "public addresses"
    if provider.get("cache_stopped_nodes") is not False:
        yield "disks of stopped nodes stay"
    if "~/.ray/auth_token" not in config["file_mounts"]:
        yield "nodes without the token"
    for secret in _SECRETS.findall(yaml.safe_dump(config)):
        yield f"a key: {secret}"
    for side in ("head", "worker"):
        commands = [c for c in config[f"{side}_start_ray_commands"] if "ray start" in c]
        if not commands or not all(c.startswith("RAY_AUTH_MODE=token ") for c in commands):
            yield f"{side}: Ray starts without token mode"
        if side == "head" and not all("--dashboard-host=127.0.0.1" in c for c in commands):
            yield "the dashboard is not on loopback"


def problems(config: dict[str, Any]) -> list[str]:
    rules = (ec2_problems, type_problems, cluster_problems)
    # They read what Ray has accepted.
    return list(ray_problems(config)) or [found for rule in rules for found in rule(config)]


def test_cluster_yaml_is_as_it_should_be() -> None:
    assert problems(CLUSTER) == []


_NODES = "available_node_types"
_HEAD, _CPU, _GPU = (f"{_NODES}/{name}/node_config" for name in ("head", "cpu_spot", "gpu_spot"))
_SPOT = {"MarketType": "spot"}
_HEAD_START = "RAY_AUTH_MODE=token ray start --head"
MUTATIONS: list[tuple[str, Any, str]] = [
    # A path, what is put there (None: it is taken away), and what is said.
    ("idle_timeout_minute", 5, "idle_timeout_minute"),
    ("head_node_type", "hed", "must be one of `available_node_types`"),
    (f"{_NODES}/gpu_spot/max_worker", 6, "max_worker"),
    (f"{_NODES}/gpu_spot/min_workers", 13, "smaller than the sum of `min_workers`"),
    ("docker/container_name", None, "Must provide a container"),
    (f"{_CPU}/InstanceMarketOption", _SPOT, 'cpu_spot: Unknown parameter in input: "InstanceMark'),
    (f"{_GPU}/MetadataOptions/HttpPutResponseHopLimit", "1", "gpu_spot: Invalid type"),
    (f"{_GPU}/InstanceType", "g6e.2xlrage", "gpu_spot: EC2 has no g6e.2xlrage"),
    (f"{_HEAD}/InstanceMarketOptions", _SPOT, "the head is on spot"),
    (f"{_NODES}/head/resources", {}, "the head takes tasks"),
    (f"{_GPU}/InstanceMarketOptions", None, "gpu_spot: on demand, against its name"),
    (f"{_NODES}/gpu_spot/min_workers", 1, "gpu_spot: costs money without work"),
    (f"{_NODES}/gpu_spot/max_workers", 7, "max_workers 12, but the workers' maxima make 13"),
    (f"{_CPU}/IamInstanceProfile", {"Name": "koasr-head"}, "cpu_spot: may start machines"),
    (f"{_CPU}/IamInstanceProfile", None, "cpu_spot: no role for the buckets"),
    (f"{_HEAD}/MetadataOptions/HttpTokens", "optional", "head: whatever fetches a URL"),
    (f"{_HEAD}/BlockDeviceMappings/0/Ebs/Encrypted", None, "head: speech on a disk"),
    (f"{_GPU}/BlockDeviceMappings", None, "gpu_spot: speech on a disk"),
    (f"{_GPU}/SecurityGroupIds", None, "gpu_spot: Ray would make a security group"),
    (f"{_GPU}/SubnetIds", ["subnet-1"], "gpu_spot: one zone"),
    (f"{_GPU}/NetworkInterfaces", [{"AssociatePublicIpAddress": True}], "public addresses"),
    (f"{_GPU}/KeyName", "mine", "a key: KeyName"),
    ("auth/ssh_private_key", "~/.ssh/id", "a key: ssh_private_key"),
    ("provider/aws_credentials", {"aws_access_key_id": "AKIA1"}, "a key: AKIA1"),
    ("provider/use_internal_ips", False, "public addresses"),
    ("provider/cache_stopped_nodes", None, "disks of stopped nodes stay"),
    ("idle_timeout_minutes", 600, "idle workers stay"),
    ("file_mounts", {}, "nodes without the token"),
    ("head_start_ray_commands", ["ray start --head"], "head: Ray starts without token mode"),
    ("worker_start_ray_commands/1", "ray start", "worker: Ray starts without token mode"),
    ("head_start_ray_commands", [f"{_HEAD_START} --dashboard-host=0.0.0.0"], "not on loopback"),
    ("head_start_ray_commands", [_HEAD_START], "not on loopback"),
]


def put(config: Any, path: str, value: Any) -> None:
    *parents, last = (int(key) if key.isdecimal() else key for key in path.split("/"))
    for key in parents:
        config = config[key]
    if value is None:
        del config[last]
    else:
        config[last] = value


@pytest.mark.parametrize(("path", "value", "said"), MUTATIONS)
def test_what_is_wrong_in_it_is_said(path: str, value: Any, said: str) -> None:
    # Written out and read again, so that nodes share no part of what is changed.
    config = json.loads(json.dumps(CLUSTER))
    put(config, path, value)
    found = problems(config)
    assert any(said in problem for problem in found), found


def test_the_stages_ask_for_nothing_that_nodes_are_not_said_to_have() -> None:
    labelled = re.compile(r"accelerator_type|label_selector|\bresources=\{")
    assert not labelled.findall((ROOT / "koasr" / "job.py").read_text())
    types = CLUSTER["available_node_types"].values()
    assert not any(node_type.get("labels") for node_type in types)
    assert all(node_type["resources"] == {} for node_type in types if node_type["max_workers"])


@pytest.mark.parametrize(
    ("num_actors", "launched"),
    [(1, {"gpu_spot": 1}), (6, {"gpu_spot": 6}), (8, {"gpu_spot": 6, "gpu_on_demand": 2})],
)
def test_rays_scheduler_starts_spot_before_what_is_on_demand(
    num_actors: int, launched: dict[str, int]
) -> None:
    gpu = {"CPU": 8.0, "GPU": 1.0}
    has = {"head": {}, "cpu_spot": {"CPU": 16.0}, "gpu_spot": gpu, "gpu_on_demand": gpu}
    types = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=0,
            max_worker_nodes=node_type["max_workers"],
            resources=has[name],
            priority=node_type.get("priority", 0),
            launch_config_hash="",
        )
        for name, node_type in CLUSTER["available_node_types"].items()
    }
    # As koasr.job.wait_for_gpu asks.
    gpus = ResourceRequestUtil.group_by_count([ResourceRequestUtil.make({"GPU": 1})] * num_actors)
    wanted = autoscaler_pb2.ClusterResourceConstraint(resource_requests=gpus)  # type: ignore[attr-defined]
    asked = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=types,
        max_num_nodes=CLUSTER["max_workers"] + 1,
        cluster_resource_constraints=[wanted],
    )
    reply = ResourceDemandScheduler(Mock()).schedule(asked)
    assert {node.instance_type: node.count for node in reply.to_launch} == launched
