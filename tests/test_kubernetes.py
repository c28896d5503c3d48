"""deploy/k8s is what Kubernetes, KubeRay, Ray's autoscaler and we ask of it."""

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import (
    _derive_autoscaling_config_from_ray_cr as autoscaling_config,
)
from rayjob_schema import RAYJOB

from koasr.cli import app

FOLDER = Path(__file__).parent.parent / "deploy" / "k8s"
KUBERNETES = "1.34"
DATE = "2026-11-24"


def rayjob() -> Any:
    """The RayJob as the script creates it, no part shared with another."""
    document = yaml.safe_load((FOLDER / "rayjob.yaml").read_text().replace("YYYY-MM-DD", DATE))
    return json.loads(json.dumps(document))


def plain() -> list[Any]:
    """The manifests of kinds that are Kubernetes' own."""
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [d for name in names for d in yaml.safe_load_all((FOLDER / name).read_text())]


def kubernetes_problems(manifest: Any) -> Iterator[str]:
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except jsonschema.ValidationError as error:
        yield f"{'/'.join(map(str, error.path))}: {error.message}"


def templates(job: Any) -> dict[str, Any]:
    """Every pod template of a RayJob."""
    cluster = job["spec"]["rayClusterSpec"]
    workers = {g["groupName"]: g["template"] for g in cluster["workerGroupSpecs"]}
    head = {"head": cluster["headGroupSpec"]["template"]}
    return {"submitter": job["spec"]["submitterPodTemplate"]} | head | workers


def schema_problems(job: Any) -> Iterator[str]:
    """What KubeRay or Kubernetes would refuse of a RayJob."""
    for error in jsonschema.Draft202012Validator(RAYJOB).iter_errors(job):
        yield f"{'/'.join(map(str, error.path))}: {error.message}"
        return
    autoscaler = job["spec"]["rayClusterSpec"]["autoscalerOptions"]
    container = {
        k: v for k, v in autoscaler.items() if k in ("resources", "securityContext", "env")
    }
    pod = {"spec": {"containers": [{"name": "autoscaler", "image": "ray", **container}]}}
    found = templates(job) | {"autoscaler": pod}
    items = [{"metadata": {"name": name}, "template": t} for name, t in found.items()]
    kind = {"apiVersion": "v1", "kind": "PodTemplateList", "metadata": {}}
    for problem in kubernetes_problems(kind | {"items": items}):
        number, place = problem.removeprefix("items/").split("/", 1)
        yield f"{list(found)[int(number)]}: {place}"


def pod_problems(name: str, spec: Any) -> Iterator[str]:
    """What we hold of a pod."""
    pod = spec.get("securityContext", {})
    if pod.get("runAsNonRoot") is not True or not pod.get("runAsUser"):
        yield f"{name}: may be root"
    if pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"{name}: all system calls"
    for container in spec["containers"]:
        held = container.get("securityContext", {})
        if held.get("allowPrivilegeEscalation") is not False or "ALL" not in held.get(
            "capabilities", {}
        ).get("drop", []):
            yield f"{name}: may become root"
        asked = container.get("resources", {})
        requests, limits = asked.get("requests", {}), asked.get("limits", {})
        if not {"cpu", "memory"} <= requests.keys() or limits.get("memory") != requests["memory"]:
            yield f"{name}: takes CPU or memory it has not asked for"


def night_problems(job: Any) -> Iterator[str]:
    """What we hold of a night, and how Ray's autoscaler reads it."""
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    for name, template in templates(job).items():
        yield from pod_problems(name, template["spec"])
        wants_spot = "spot" in template["spec"].get("nodeSelector", {}).values()
        if wants_spot != name.endswith("-spot"):
            yield f"{name}: {'spot' if wants_spot else 'on demand'}, against its name"
        opens_audio = name not in ("submitter", "head")
        if opens_audio and template["spec"].get("automountServiceAccountToken") is not False:
            yield f"{name}: opens audio with a token of the cluster's"
    if cluster.get("authOptions") != {"mode": "token"}:
        yield "Ray without token mode"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "the cluster stays"
    if not spec.get("backoffLimit"):
        yield "a lost head ends the night"
    seen = autoscaling_config({"metadata": job["metadata"], "spec": cluster})
    types = seen["available_node_types"]
    if types.pop("headgroup")["resources"].get("CPU"):
        yield "the head takes tasks"
    if any(node_type["min_workers"] for node_type in types.values()):
        yield "workers without work"
    gpus = sum(t["max_workers"] * t["resources"].get("GPU", 0) for t in types.values())
    if f"--transcribe.num-actors {gpus} " not in spec["entrypoint"]:
        yield f"--transcribe.num-actors is not the {gpus} GPUs there may be"
    if f"--date {job['metadata']['name'].removeprefix('koasr-')} " not in spec["entrypoint"]:
        yield "a retry after midnight has another date"


def problems(job: Any) -> list[str]:
    # The rest reads what the schemas have accepted.
    return list(schema_problems(job)) or list(night_problems(job))


def test_the_rayjob_is_as_it_should_be() -> None:
    assert problems(rayjob()) == []


def test_without_a_date_it_is_refused() -> None:
    job = yaml.safe_load((FOLDER / "rayjob.yaml").read_text())
    assert "metadata/name: 'koasr-YYYY-MM-DD' does not match" in problems(job)[0]


_CLUSTER, _HEAD = "spec/rayClusterSpec", "spec/rayClusterSpec/headGroupSpec"
_GPU = f"{_CLUSTER}/workerGroupSpecs/1"
_GPU_POD = f"{_GPU}/template/spec"
MUTATIONS: list[tuple[str, Any, str]] = [
    # A path, what is put there (None: it is taken away), and what is said.
    ("spec/backofLimit", 1, "'backofLimit' was unexpected"),
    ("spec/entrypoint", None, "'entrypoint' is a required property"),
    (f"{_GPU}/priority", "high", "priority: 'high' is not of type 'integer'"),
    (f"{_HEAD}/rayStartParams/num-cpus", 0, "num-cpus: 0 is not of type 'string'"),
    (f"{_CLUSTER}/authOptions/mode", "tokens", "'tokens' is not one of"),
    (f"{_GPU_POD}/nodeSelectors", {}, "gpu-spot: template/spec"),
    (f"{_GPU_POD}/containers/0/resources/request", {}, "gpu-spot: template/spec/containers/0"),
    (f"{_CLUSTER}/autoscalerOptions/resources/limit", {}, "autoscaler: template/spec/containers/0"),
    (f"{_CLUSTER}/authOptions", None, "Ray without token mode"),
    (f"{_HEAD}/rayStartParams/num-cpus", None, "the head takes tasks"),
    (f"{_HEAD}/template/spec/nodeSelector", {"capacity": "spot"}, "head: spot, against its name"),
    (f"{_GPU_POD}/nodeSelector", None, "gpu-spot: on demand, against its name"),
    (f"{_GPU_POD}/automountServiceAccountToken", None, "gpu-spot: opens audio with a token"),
    (f"{_GPU_POD}/securityContext/runAsNonRoot", None, "gpu-spot: may be root"),
    (f"{_GPU_POD}/securityContext/seccompProfile", None, "gpu-spot: all system calls"),
    (f"{_GPU_POD}/containers/0/securityContext/capabilities", None, "gpu-spot: may become root"),
    (f"{_GPU_POD}/containers/0/resources/limits/memory", None, "gpu-spot: takes CPU or memory"),
    (f"{_GPU}/minReplicas", 1, "workers without work"),
    (f"{_GPU}/maxReplicas", 7, "--transcribe.num-actors is not the 9 GPUs there may be"),
    ("spec/shutdownAfterJobFinishes", None, "the cluster stays"),
    ("spec/backoffLimit", None, "a lost head ends the night"),
    ("metadata/name", "koasr-2026-11-25", "a retry after midnight has another date"),
]


@pytest.mark.parametrize(("path", "value", "said"), MUTATIONS)
def test_what_is_wrong_in_the_rayjob_is_said(path: str, value: Any, said: str) -> None:
    job = place = rayjob()
    *parents, last = (int(key) if key.isdecimal() else key for key in path.split("/"))
    for key in parents:
        place = place[key]
    place.pop(last, None)
    if value is not None:
        place[last] = value
    found = problems(job)
    assert any(said in problem for problem in found), found


def test_the_other_manifests_fit_kubernetes_schemas() -> None:
    for manifest in plain():
        assert list(kubernetes_problems(manifest)) == []
        spoiled = deepcopy(manifest) | {"metadata": {"nam": "x"}}
        assert any("nam" in problem for problem in kubernetes_problems(spoiled))


def test_the_cronjob_runs_one_night_at_a_time_and_may_do_nothing_else() -> None:
    kinds = {m["kind"]: m for m in plain()}
    cron = kinds["CronJob"]["spec"]
    pod = cron["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert cron["concurrencyPolicy"] == "Forbid"
    assert list(pod_problems("nightly", pod)) == []
    assert container["env"][0] == {"name": "TZ", "value": cron["timeZone"]}
    rules = cron["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    exits = re.findall(r"^EXIT_FAILED = (\d+)$", (FOLDER / "run_rayjob.py").read_text(), re.M)
    assert rules[0]["onExitCodes"]["values"] == [int(code) for code in exits]
    assert kinds["Role"]["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}
    ]
    # What is mounted is what the kustomization puts into the map.
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (made,) = kustomization["configMapGenerator"]
    assert pod["volumes"][0]["configMap"]["name"] == made["name"]
    mounted = {f"/night/{name}" for name in made["files"] if (FOLDER / name).exists()}
    assert set(container["command"][1:]) == mounted
    accounts = {m["metadata"]["name"] for m in plain() if m["kind"] == "ServiceAccount"}
    pods = [template["spec"] for template in templates(rayjob()).values()] + [pod]
    assert {p["serviceAccountName"] for p in pods if "serviceAccountName" in p} == accounts


COMMANDS = re.compile(
    r"(transcribe|nightly)\.py ((?:--inputs )?s3:.*?)\n(?=\s*(?:```|ray |backoffLimit|#))",
    re.DOTALL,
)


@pytest.mark.parametrize("path", ["deploy/k8s/rayjob.yaml", "docs/cluster.md"])
def test_koasr_knows_the_flags_it_is_called_with(path: str) -> None:
    text = (FOLDER.parent.parent / path).read_text()
    found = COMMANDS.findall(text)
    assert len(found) == len(re.findall(r"pipelines/\w+\.py (?:--inputs )?s3:", text))
    for name, command in found:
        _, bound, _ = app.parse_args(
            [name, *command.split()], exit_on_error=False, print_error=False
        )
        options = bound.arguments["options" if name == "transcribe" else "transcribe"]
        assert options.device == "cuda"
