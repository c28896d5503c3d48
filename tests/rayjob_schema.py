"""What a RayJob may have, as a JSON schema.

KubeRay's own are on no registry that we may use, so this is written after the API reference of
KubeRay 1.7.0, as far as a night needs it: what is not listed here is refused.
"""

from typing import Any

STRING, COUNT, FLAG, MAP = (
    {"type": "string", "minLength": 1},
    {"type": "integer", "minimum": 0},
    {"type": "boolean"},
    {"type": "object", "additionalProperties": {"type": "string"}},
)


def of(*required: str, **fields: Any) -> dict[str, Any]:
    """A record with these fields and no others."""
    return {
        "type": "object",
        "properties": fields,
        "required": [*required],
        "additionalProperties": False,
    }


def one_of(*words: str) -> dict[str, Any]:
    return {"enum": [*words]}


# What lies in a pod template or a container is Kubernetes' own, and checked against its schemas.
ANY = {"type": "object"}
AUTOSCALER = of(
    version=one_of("v1", "v2"),
    idleTimeoutSeconds=COUNT,
    upscalingMode=one_of("Default", "Aggressive", "Conservative"),
    resources=ANY,
    securityContext=ANY,
    image=STRING,
    imagePullPolicy=STRING,
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
)
GROUP = {"rayStartParams": MAP, "template": ANY, "resources": MAP, "labels": MAP}
HEAD = of(
    "rayStartParams", "template", serviceType=STRING, headService=ANY, enableIngress=FLAG, **GROUP
)
WORKERS = of(
    "groupName",
    "minReplicas",
    "maxReplicas",
    "rayStartParams",
    "template",
    groupName=STRING,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    idleTimeoutSeconds=COUNT,
    priority={"type": "integer"},
    **GROUP,
)
CLUSTER = of(
    "headGroupSpec",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=of(mode=one_of("token", "disabled"), secretName=STRING),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = of(
    "entrypoint",
    "rayClusterSpec",
    entrypoint=STRING,
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    preRunningDeadlineSeconds={"type": "integer", "minimum": 1},
    ttlSecondsAfterFinished=COUNT,
    shutdownAfterJobFinishes=FLAG,
    suspend=FLAG,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "SidecarMode"),
    submitterConfig=of(backoffLimit=COUNT),
    submitterPodTemplate=ANY,
    runtimeEnvYAML=STRING,
    metadata=MAP,
    rayClusterSpec=CLUSTER,
)
# KubeRay adds to the name for its pods, so it refuses longer ones.
NAME = {"type": "string", "maxLength": 47, "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$"}
RAYJOB = of(
    *("apiVersion", "kind", "metadata", "spec"),
    apiVersion=one_of("ray.io/v1"),
    kind=one_of("RayJob"),
    metadata=of("name", "namespace", name=NAME, namespace=STRING, labels=MAP),
    spec=JOB,
)
