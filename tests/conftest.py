"""Fixtures shared by all tests: one small synthetic world and the dataset made of it."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from hypothesis import settings

from noetik_rllib.data.world import PRESETS, SyntheticWorld
from noetik_rllib.offline.prepare_config import PrepareConfig
from noetik_rllib.offline.writer import prepare

# Derandomised: the same examples on every machine. No deadline: CI machines are noisy.
settings.register_profile("noetik", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("noetik")


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the synthetic world 'tiny', in KuaiRand's CSV layout."""
    folder = tmp_path_factory.mktemp("world") / "tiny"
    SyntheticWorld(PRESETS["tiny"]).write(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Offline dataset of that world, with the JSON lines beside the Parquet files."""
    folder = tmp_path_factory.mktemp("dataset") / "tiny"
    prepare(tiny_world, folder, PrepareConfig(format="json"))
    return folder


@pytest.fixture(scope="session")
def mixed_dataset(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Offline dataset of that world whose training part has random exposures, too."""
    folder = tmp_path_factory.mktemp("dataset") / "mixed"
    prepare(tiny_world, folder, PrepareConfig(random_in_train=True))
    return folder


@pytest.fixture(scope="session")
def kuairand_pure() -> Path:
    """Folder of real KuaiRand-Pure rows; the test is skipped, loudly, where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "kuairand"
    folder = Path(os.environ.get("NOETIK_KUAIRAND", beside)) / "KuaiRand-Pure"
    if not folder.is_dir():
        pytest.skip(f"REAL ROWS NOT TESTED: no {folder}; set NOETIK_KUAIRAND to their folder")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need it: starting one takes seconds."""
    import ray

    ray.init(
        num_cpus=4,  # bookkeeping, not cores: room for two learners and a stock reader
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def fork_server() -> ForkServerContext:
    """Starts processes that have Ray and torch imported already: in a second each, not ten."""
    context = multiprocessing.get_context("forkserver")
    # RLlib makes torch import the last as it seeds it.
    context.set_forkserver_preload(["noetik_rllib.sweeps.trial", "torch._inductor"])
    return context


@pytest.fixture(scope="session")
def ray_address(ray_session: None) -> str:
    """Address of the tests' Ray, for processes that join it."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A URI below which there is nothing yet; the cache is empty, too."""
    monkeypatch.setenv("NOETIK_CACHE", str(tmp_path / "cache"))
    if request.param == "file":
        return f"file://{tmp_path}/store"
    import boto3

    endpoint = request.getfixturevalue("s3_server")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }.items():
        monkeypatch.setenv(name, value)
    bucket = tmp_path.name.replace("_", "-").lower()
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=bucket)
    return f"s3://{bucket}/store"


def put(source: Path, uri: str) -> None:
    """Copy a folder to a URI."""
    from noetik_rllib.remote import Folder

    folder = Folder.at(uri)
    for path in source.rglob("*"):
        if path.is_file():
            folder.upload(path, path.relative_to(source).as_posix())
