"""koasr doctor: what it says of this machine, and of things that are broken."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from checkpoints import tiny
from test_cli import SPEECH, call

from koasr.findings import Finding, line_of
from koasr.machine_checks import Gpu, check_packages, check_shared_memory, judge_gpus
from koasr.model_checks import check_model
from koasr.reach_checks import check_input, check_ray, check_target

GB = 10**9
A100 = Gpu("A100", (8, 0), 70 * GB, 80 * GB)
T4 = Gpu("T4", (7, 5), 14 * GB, 16 * GB)
TORCH = "torch 2.13.0 for CUDA 13.0"


def examined(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code, and the checks by name."""
    code = call("doctor", "--json", *arguments)
    document = json.loads(capsys.readouterr().out)
    assert document["version"] == 1
    assert (code == 1) == (document["state"] == "failed")
    return code, {check["name"]: check for check in document["checks"]}


def test_this_machine_is_fit_and_an_output_is_left_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    code, checks = examined(capsys, "--input", SPEECH, SPEECH, "--output", str(output))
    assert code == 0, checks
    assert list(checks) == [
        *("packages", "CPU", "memory", "shared memory", "temporary folder", "GPU", "audio"),
        *(f"input {SPEECH}", f"output {output}", "Ray", "model"),
    ]
    assert "Opus, MP3 are read" in checks["audio"]["found"]
    assert "m4a, aac, webm and video are not read" in checks["audio"]["found"]
    assert "1 s transcribed in" in checks["model"]["found"]
    assert "torch 2." in checks["packages"]["found"]
    assert not list(tmp_path.iterdir())


def test_what_is_broken_is_named_and_the_rest_is_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    places = ["--output", str(tmp_path / "file" / "out"), "--input", str(tmp_path / "nothing")]
    assert call("doctor", "--model", "/no/such", *places) == 1
    *lines, last = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("failed")]
    assert len(failed) == 3
    assert "holds no files -> check the path" in failed[0]
    assert "cannot be written" in failed[1]
    assert "does not exist: give a model's directory" in failed[2]
    assert last.endswith("3 failed: mend what failed first")


@pytest.mark.parametrize(
    ("gpus", "problem", "num_devices", "state", "found"),
    [
        ([], "", 0, "ok", "the job runs on CPUs"),
        ([A100] * 2, "", 2, "ok", "2: A100 (70.0 GB of 80.0 GB free, capability 8.0); A100"),
        ([A100, T4], "", 2, "warning", "below 8.0 attention is slower"),
        ([A100], "", 4, "warning", "torch sees 1 of 4 -> look at CUDA_VISIBLE_DEVICES"),
        ([], "The NVIDIA driver is too old (found 11040)", 1, "failed", "update the NVIDIA driver"),
        ([], "torch is built without CUDA", 1, "failed", "install torch with CUDA, or pass --dev"),
    ],
)
def test_gpus_are_judged_by_what_the_job_makes_of_them(
    gpus: list[Gpu], problem: str, num_devices: int, state: str, found: str
) -> None:
    finding = judge_gpus(gpus, problem, TORCH, num_devices)
    assert finding.state == state
    assert found in f"{finding.found} -> {finding.advice}"


def test_shared_memory_that_the_object_store_does_not_fit_is_told() -> None:
    small = check_shared_memory(total_bytes=32 * GB, free_bytes=64 << 20)
    assert (small.state, small.advice) == ("warning", "start with --shm-size=9.8gb")
    assert check_shared_memory(32 * GB, 10 * GB).state == "ok"
    # Ray takes no more than is there, once that is 10 GB.
    assert check_shared_memory(1000 * GB, 11 * GB).state == "ok"
    assert check_shared_memory(1000 * GB, 9 * GB).state == "warning"


def test_versions_are_held_against_what_the_package_itself_declares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "somebody-1.0.dist-info"
    about.mkdir()
    needs = ["numpy<1", "no-such-package>=3", "pyarrow>=1", 'torch<1; extra == "gpu"']
    lines = ["Metadata-Version: 2.1", "Name: somebody", "Version: 1.0", "Requires-Python: >=3.99"]
    lines += [f"Requires-Dist: {need}" for need in needs]
    (about / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = check_packages("somebody")
    assert finding.state == "failed"
    told = finding.found.split("; ")
    assert [line.split()[0] for line in told] == ["Python", "numpy", "no-such-package"]
    assert told[2] == "no-such-package is missing (wanted >=3)"
    assert check_packages("nobody-has-this").state == "warning"


def test_a_model_that_does_not_fit_is_not_loaded(tmp_path: Path) -> None:
    finding = check_model(str(tiny(tmp_path / "model")), [Gpu("tiny", (8, 0), 1_000_000, 1)])
    assert finding.state == "failed"
    assert "in float16 and 1.0 GB to work; cuda has 1 MB free" in finding.found


def test_a_cluster_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    finding = check_ray()
    assert finding.state == "failed"
    assert "127.0.0.1:1 does not answer" in finding.found


def test_credentials_in_a_uri_are_not_shown() -> None:
    finding = check_target("s3://me:hunter2@bucket/out")
    assert finding.state == "failed"
    assert "put them in the environment" in finding.found
    assert "hunter2" not in str(finding)


def test_a_bucket_is_written_to_and_wrong_credentials_are_told(
    s3: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from koasr.reach_checks import check_input
    from koasr.storage import list_files, write_bytes

    def found(finding: Finding) -> str:
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(finding)
        assert os.environ["AWS_ACCESS_KEY_ID"] not in str(finding)
        return f"{finding.state} {finding.found}"

    assert found(check_input(f"{s3}/in")) == "failed holds no files"
    write_bytes(f"{s3}/in/a.tar", b"abc")
    wanted = "credentials from environment variables; clocks agree"
    listed = "files listed: 1, the first one read"
    assert found(check_input(f"{s3}/in/*.tar")) == f"ok {listed}; {wanted}"
    assert found(check_target(f"{s3}/out")) == f"ok a probe was written and removed; {wanted}"
    assert [file.uri for file in list_files(s3)] == [f"{s3}/in/a.tar"]
    assert "does not exist: check" in found(check_input("s3://no-such-bucket/in"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    assert "access denied or no credentials" in found(check_input(f"{s3}/in"))
    assert "access denied or no credentials" in found(check_target(f"{s3}/out"))


@pytest.mark.parametrize(
    "uri",
    [
        "https://host/a.mp3?X-Amz-Signature=SECRET",
        "https://host/A?Signature=SECRET",
        "s3://b/KEY9?X-Amz-Credential=SECRET",
        "s3://KEY:SEC/RET-SECRET@bucket/a",
        f"s3://KEY:{'x' * 290}SECRET@bucket",
        f"s3://b/{'x' * 280}?Signature=SECRET",
    ],
)
def test_no_line_has_what_a_uri_carries_along(uri: str) -> None:
    line = line_of(f"{uri} cannot be read")
    assert "SECRET" not in line
    assert "KEY:" not in line


def test_an_input_may_be_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "speech-1.tar").write_bytes(b"x")
    for pattern in ("sp*", "speech-?.tar", "speech-[12].tar"):
        assert check_input(f"{tmp_path}/{pattern}").state == "ok", pattern
    assert check_input(f"{tmp_path}/other*").state == "failed"
