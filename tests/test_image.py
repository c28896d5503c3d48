"""deploy/Dockerfile can be built of what is here, and is the image that the clusters name."""

import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from koasr import __version__

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def pins(name: str) -> dict[str, str]:
    """Version of each package of a lock."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if "==" in line]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    return {name.lower(): version for name, version in (line.split("==") for line in lines)}


def lint(dockerfile: str) -> str:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run(
        [hadolint, "--no-color", "-"], input=dockerfile, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ""),
        (r"python:3\.11\S+", "python", "DL3006"),
        ("FROM", "FORM", "unexpected"),
        (r"\[\"bash\"\]", "bash", "DL3025"),
        ("WORKDIR /app", "WORKDIR app", "DL3000"),
    ],
)
def test_the_linter_finds_nothing_but_what_we_spoil(old: str, new: str, said: str) -> None:
    found = lint(re.sub(old, new, DOCKERFILE, count=1) if old else DOCKERFILE)
    assert said in found
    assert bool(said) == bool(found)


def test_all_that_it_copies_is_there_and_sent() -> None:
    lines = re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {Path(source) for line in lines for source in line.split()}
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {Path(line[1:]) for line in ignore if line.startswith("!")}
    assert "*" in ignore
    assert not [source for source in sources if not (ROOT / source).exists()]
    assert not [source for source in sources if not {source, *source.parents} & sent]
    assert not [path for path in sent if path not in sources]


def test_its_locks_complete_each_other() -> None:
    ours, images = pins("requirements.lock"), pins("deploy/image.lock")
    assert not ours.keys() & images.keys()
    assert images["boto3"] == ours["botocore"]
    # What image.lock has of CUDA is what this torch asks for.
    assert ours["torch"] == "2.13.0"
    assert images["cuda-toolkit"].startswith("13.0.")
    assert set(re.findall(r"-c (\S+)", DOCKERFILE)) == {"requirements.lock", "image.lock"}


def test_it_is_not_root_and_has_no_model() -> None:
    assert re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE) == ["1000:1000"]
    assert not re.search(r"safetensors|huggingface|koasr (convert|transcribe)", DOCKERFILE)


def test_all_clusters_run_the_same_image_python_and_ray() -> None:
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    image = cluster["docker"]["image"]
    rayjob = (ROOT / "deploy" / "k8s" / "rayjob.yaml").read_text()
    assert image.endswith(f"/koasr:{__version__}")
    assert set(re.findall(r"image: &image (\S+)", rayjob)) == {image}
    # The login is to the image's own registry.
    (login,) = cluster["initialization_commands"]
    assert login.split()[-1] == image.partition("/")[0]
    ray = yaml.safe_load(rayjob)["spec"]["rayClusterSpec"]["rayVersion"]
    assert ray == pins("requirements.lock")["ray"]
    (base,) = re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE)
    cronjob = (ROOT / "deploy" / "k8s" / "cronjob.yaml").read_text()
    assert re.findall(r"image: (\S+)", cronjob) == [base]
    head = (ROOT / "requirements.lock").read_text().splitlines()[0]
    assert f"Python {base.split(':')[1].rsplit('.', 1)[0]}" in head
