"""Fixtures that several test files share."""

import itertools
import os
import shutil
from collections.abc import Iterator

import pytest
import s3fs
from browser import NO_BROWSER
from prometheus import NONE as NO_PROMETHEUS
from s3 import S3Server, find_data_dir, make_environment, run_server

# Run with another Python than ours, which cannot import it.
collect_ignore = ["servers"]

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes whose threads wait by spinning take the cores from each other.
    os.environ["OMP_NUM_THREADS"] = "1"

_LONG = [
    f"test_{name}.py"
    for name in (
        *("dagster", "three_nodes", "transcribe", "hostile", "torture", "nightly", "recognizer"),
        *("s3_job", "stopping", "submit", "protocol", "encoder", "recognize", "night"),
        *("training_sets", "datasets", "select", "report"),
    )
]
"""Files that take half a minute and more, the longest first, so that no process is left alone
with one."""

_NO_STORE = "no folder with extended attributes for Swift: set TMPDIR to one (ext4, xfs)"
_bucket_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """OpenStack Swift on loopback, and the AWS variables of this process pointing at it."""
    python = make_environment()
    folder = find_data_dir()
    if folder is None:
        pytest.skip(_NO_STORE)
    try:
        with run_server(python, folder / "store") as server, pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment().items():
                patch.setenv(name, value)
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
                patch.delenv(name, raising=False)
            # s3fs keeps instances by their arguments, not by the variables they were made under.
            s3fs.S3FileSystem.clear_instance_cache()
            yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def s3(s3_server: S3Server) -> str:
    """URI of a bucket that nobody has used: `s3://test-<n>`."""
    # A test before may have left an instance with credentials that were meant to be wrong.
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"test-{next(_bucket_numbers)}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(bucket)
    return f"s3://{bucket}"


def pytest_configure(config: pytest.Config) -> None:
    """Markers that the fixtures here put on tests."""
    config.addinivalue_line("markers", "s3: needs the Swift server of tests/servers")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses the store carries its marker; what takes long comes first."""
    order = {name: place for place, name in enumerate(_LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if "s3_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.s3)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call() -> None:
    """Let tests share the processes that read Parquet, which are kept by their environment.

    Pytest has the test's name in it, so each test would start one of its own: half a second.
    """
    os.environ.pop("PYTEST_CURRENT_TEST", None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud which tests did not run for want of a program: a line of dots hides it."""
    skipped = terminalreporter.stats.get("skipped", ())
    if any(NO_BROWSER in str(report.longrepr) for report in skipped):
        terminalreporter.section("BROWSER TESTS DID NOT RUN", sep="!", red=True)
        terminalreporter.line(NO_BROWSER)
    if any(_NO_STORE in str(report.longrepr) for report in skipped):
        terminalreporter.section("S3 TESTS DID NOT RUN", sep="!", red=True)
        terminalreporter.line("No folder with extended attributes for Swift; set TMPDIR to one.")
    if any(NO_PROMETHEUS in str(report.longrepr) for report in skipped):
        terminalreporter.section("METRICS WERE NOT SCRAPED", sep="!", red=True)
        terminalreporter.line(NO_PROMETHEUS)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for all tests that run the job in this process."""
    from koasr.stages import guard_own_cluster

    guard_own_cluster()
    import ray

    from koasr.job import connect

    connect()
    yield
    ray.shutdown()
