"""A real S3 server, started once for all tests of lakes in a bucket."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl import engine
from lake import bucket, settings, storage
from tests.gateway import BUCKET, Gateway


@pytest.fixture(scope="package")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The server, serving a folder."""
    running = Gateway.start(tmp_path_factory.mktemp("gateway") / "buckets")
    yield running
    running.stop()


@pytest.fixture
def store(gateway: Gateway, home: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """The server, with credentials for it in the environment and a lake of the test's own as MILLRACE_LAKE."""
    use(monkeypatch, gateway.environment(), f"s3://{BUCKET}/{uuid.uuid4().hex}")
    return gateway


def use(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], lake: str, landing: str | None = None) -> None:
    """Work on this lake and landing zone with these variables and no others.

    Clients made before, which keep what they were made with, are forgotten.
    """
    from obstore.fsspec import FsspecStore

    for name in [name for name in os.environ if name.startswith(("AWS_", "SSL_CERT_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MILLRACE_LAKE", lake)
    if landing:
        monkeypatch.setenv("MILLRACE_LANDING", landing)
    bucket._store.cache_clear()
    engine._session.cache_clear()
    for filesystem in {FsspecStore, *FsspecStore.__subclasses__()}:
        filesystem.clear_instance_cache()
    for name, value in bucket.environment().items():  # what `settings.lake()` would set for good
        monkeypatch.setenv(name, value)
    settings.lake()


def mirror(zone: Path, remote: str) -> None:
    """Have the landing zone in the bucket hold what this one on the disk holds."""
    root = bucket.to_path(remote)
    for path in storage.tree(root, ""):
        if not (zone / str(path).removeprefix(f"{root}/")).exists():
            storage.remove(path)
    for path in storage.tree(zone, ""):
        target = root / str(path.relative_to(zone))
        if path.is_file() and storage.read(target) != path.read_bytes():
            storage.write_whole(target, path.read_bytes())


def served(gateway: Gateway) -> Path:
    """The lake in use, as the folder that the server keeps it in: a second way to look at it."""
    return gateway.folder / str(settings.lake()).removeprefix("s3://")
