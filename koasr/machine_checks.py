"""This machine → findings: packages, processor, memory, disks, GPUs, and audio it can decode."""

import io
import os
import platform
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from koasr.decoder import Decoder
from koasr.errors import RecordingError, TransientError
from koasr.findings import Finding, failed, line_of, size_text, warning
from koasr.rows import SAMPLE_RATE, Recording

_TOLD = ("ray", "torch", "transformers", "pyarrow", "soundfile")
"""Packages whose versions a bug report wants."""
_MIN_MEMORY_BYTES = 4e9
_MIN_TEMP_BYTES = 10e9
"""Ray spills to the temporary folder, and stops giving out work where 5 % are free."""
_STORE_SHARE, _SHARE_OF_SHM, _SMALL_STORE_BYTES = 0.3, 0.95, 10e9
"""Ray's object store takes that share of memory; more than 10 GB only where /dev/shm has it."""
FLASH_CAPABILITY = (8, 0)
_NUM_SECONDS = 0.5
_FORMATS = {
    "WAV": ("WAV", "PCM_24", 44_100),
    "FLAC": ("FLAC", "PCM_16", 44_100),
    "Ogg Vorbis": ("OGG", "VORBIS", 44_100),
    "Opus": ("OGG", "OPUS", 48_000),
    "MP3": ("MP3", "MPEG_LAYER_III", 44_100),
}
_NOT_READ = "m4a, aac, webm and video are not read (no PyAV, no ffmpeg): convert them to FLAC"


def check_packages(distribution: str = "koasr") -> Finding:
    """Python and what koasr needs, against the ranges that its own metadata declares."""
    try:
        about = metadata.metadata(distribution)
        needs = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        found = f"Python {platform.python_version()}; {distribution} is not installed here"
        return warning("packages", found, "its versions cannot be checked: pip install it")
    wrong, versions = [], {}
    wanted = about["Requires-Python"] or ""
    if not SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        wrong.append(f"Python {platform.python_version()} (wanted {wanted})")
    for need in map(Requirement, needs):
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            versions[need.name] = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing (wanted {need.specifier})")
            continue
        if not need.specifier.contains(versions[need.name], prereleases=True):
            wrong.append(f"{need.name} {versions[need.name]} (wanted {need.specifier})")
    if wrong:
        return failed("packages", "; ".join(wrong), "pip install -r requirements.lock")
    told = ", ".join(f"{name} {versions[name]}" for name in _TOLD if name in versions)
    return Finding("packages", f"Python {platform.python_version()}, {told}")


def check_processor() -> Finding:
    """Threads that this process may use; those of Ray's workers are the same."""
    allowed, there = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    found = f"{allowed} of {there} threads, {platform.machine()}, {platform.system()}"
    if allowed < 2:
        return warning("CPU", found, "half load audio and half run the model: take 2 or more")
    return Finding("CPU", found)


def memory_bytes() -> tuple[int, int]:
    """Memory in all, and what is free: of the machine, or of the container where that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    held = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    total, free = held["MemTotal"], held["MemAvailable"]
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most = int((Path(folder) / limit).read_text())
            left = most - int((Path(folder) / used).read_text())
        except (OSError, ValueError):
            continue
        total, free = min(total, most), min(free, left)
    return total, free


def check_memory() -> Finding:
    """Memory of the machine or the container."""
    total, free = memory_bytes()
    found = f"{size_text(free)} of {size_text(total)} free"
    if free < _MIN_MEMORY_BYTES:
        return warning("memory", found, "a small model needs 4 GB: end what else runs here")
    return Finding("memory", found)


def check_shared_memory(total_bytes: int, free_bytes: int) -> Finding:
    """What Ray's object store takes, against what /dev/shm holds.

    Args:
        total_bytes: Memory of the machine or the container.
        free_bytes: Of /dev/shm.
    """
    most = max(_SMALL_STORE_BYTES, _SHARE_OF_SHM * free_bytes)
    store = min(_STORE_SHARE * total_bytes, most)
    found = f"{size_text(free_bytes)} in /dev/shm for Ray's object store of {size_text(store)}"
    if store <= free_bytes:
        return Finding("shared memory", found)
    wanted = f"--shm-size={_STORE_SHARE * total_bytes * 1.1 / 2**30:.1f}gb"
    return warning("shared memory", f"{found}, which goes to the disk", f"start with {wanted}")


def free_shared_memory() -> int:
    """Free bytes of /dev/shm; 0 without one."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0


def check_temporary() -> Finding:
    """The temporary folder: Ray's logs, its sockets, and what does not fit its object store."""
    try:
        folder = tempfile.gettempdir()
        usage = shutil.disk_usage(folder)
    except OSError as error:
        return failed("temporary folder", error, "make /tmp writable, or set TMPDIR")
    found = f"{size_text(usage.free)} of {size_text(usage.total)} free in {folder}"
    if usage.free < max(_MIN_TEMP_BYTES, 0.05 * usage.total):
        return warning("temporary folder", found, "make room: Ray keeps logs and spills there")
    return Finding("temporary folder", found)


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it."""

    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int


def find_gpus() -> tuple[list[Gpu], str]:
    """The GPUs that torch can use, and why there are none where the machine has some."""
    import torch

    if torch.version.cuda is None:
        return [], "torch is built without CUDA"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.init()  # type: ignore[no-untyped-call]
            count = torch.cuda.device_count()
            seen = [torch.cuda.get_device_properties(index) for index in range(count)]
            memory = [torch.cuda.mem_get_info(index) for index in range(count)]
    except Exception as error:
        return [], line_of(error)
    return [
        Gpu(one.name, (one.major, one.minor), *held) for one, held in zip(seen, memory, strict=True)
    ], ""


def judge_gpus(gpus: list[Gpu], problem: str, torch_text: str, num_devices: int) -> Finding:
    """What the job makes of the GPUs.

    Args:
        gpus: That torch can use.
        problem: Why there are none.
        torch_text: Torch, and the CUDA that it was built with.
        num_devices: That the kernel has.
    """
    if not gpus and not num_devices:
        return Finding("GPU", f"none; {torch_text}: the job runs on CPUs")
    if not gpus:
        found = f"{num_devices} here, of which torch can use none: {problem} ({torch_text})"
        old = "too old" in problem
        advice = "update the NVIDIA driver, or " if old else "install torch with CUDA, or "
        return failed("GPU", found, advice + "pass --device cpu")
    told = [
        f"{gpu.name} ({size_text(gpu.free_bytes)} of {size_text(gpu.total_bytes)} free, "
        f"capability {gpu.capability[0]}.{gpu.capability[1]})"
        for gpu in gpus
    ]
    found = f"{len(gpus)}: {'; '.join(told)}; {torch_text}"
    if any(gpu.capability < FLASH_CAPABILITY for gpu in gpus):
        return warning("GPU", found, "below 8.0 attention is slower: no flash kernel")
    if num_devices > len(gpus):
        found += f"; torch sees {len(gpus)} of {num_devices}"
        return warning("GPU", found, "look at CUDA_VISIBLE_DEVICES")
    return Finding("GPU", found)


def check_gpus(gpus: list[Gpu], problem: str) -> Finding:
    """`judge_gpus` on this machine."""
    version = metadata.version("torch")
    import torch

    cuda = torch.version.cuda
    torch_text = f"torch {version} " + (f"for CUDA {cuda}" if cuda else "without CUDA")
    return judge_gpus(gpus, problem, torch_text, len(list(Path("/dev").glob("nvidia[0-9]*"))))


def check_audio() -> Finding:
    """Half a second of each format, written here and read as the job does: in a process apart."""
    tone = np.sin(np.arange(48_000) * 0.05).astype(np.float32) * 0.1
    decoder, broken = Decoder(), []
    try:
        for name, (container, subtype, rate) in _FORMATS.items():
            problem = _read_back(
                decoder, tone[: int(_NUM_SECONDS * rate)], container, subtype, rate
            )
            if problem:
                broken.append(f"{name} ({problem})")
    finally:
        decoder.close()
    libraries = f"libsndfile {soundfile.__libsndfile_version__}, soxr {metadata.version('soxr')}"
    if broken:
        found = f"cannot read {', '.join(broken)}; {libraries}"
        return failed("audio", found, "pip install -r requirements.lock (soundfile, soxr)")
    return Finding("audio", f"{', '.join(_FORMATS)} are read ({libraries}); {_NOT_READ}")


def _read_back(
    decoder: Decoder, tone: NDArray[np.float32], container: str, subtype: str, rate: int
) -> str | None:
    """What is wrong with a format; None if nothing."""
    file = io.BytesIO()
    try:
        soundfile.write(file, tone, rate, format=container, subtype=subtype)
        recording = Recording("doctor", "", "", "", file.getvalue())
        _, blocks = decoder.stream(recording)
        num_samples = sum(len(block) for block in blocks)
    except (soundfile.LibsndfileError, RecordingError, TransientError, ValueError) as error:
        return line_of(error)
    wanted = int(_NUM_SECONDS * SAMPLE_RATE)
    # MP3 and Opus pad to whole frames.
    return None if abs(num_samples - wanted) <= wanted // 5 else f"{num_samples} samples"
