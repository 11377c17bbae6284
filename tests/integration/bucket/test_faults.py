"""What goes wrong with a lake in a bucket: each is told in a sentence, nothing published is lost, and the next run ends
in the same tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.spark.server import free_port
from lake import bucket, delta, release, settings, storage
from lake.bucket import StorageError
from lake.delta import LakeError
from millrace import pipeline
from millrace.pipeline import RunError
from tests.carrying import FIRST, THEN, carry, differing, land, land_more
from tests.cinema import Cinema
from tests.gateway import BUCKET, KEYS, Gateway
from tests.integration.bucket.conftest import served, use
from tests.landing import versions
from tests.refusing_proxy import EVERY, RefusingProxy


@pytest.fixture
def refusing_proxy(store: Gateway, monkeypatch: pytest.MonkeyPatch) -> Iterator[RefusingProxy]:
    """The way to the store leads through it."""
    running = RefusingProxy(store.port)
    use(monkeypatch, store.environment(running.port), str(settings.lake()))
    yield running
    running.stop()


@pytest.mark.slow
def test_a_store_that_refuses_writes_half_way_costs_the_run_and_nothing_else(
    cinema: Cinema, home: Path, store: Gateway, refusing_proxy: RefusingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "LEASE_SECONDS", 2)  # a lock that cannot be given back runs out
    lake, folder = str(settings.lake()), served(store)
    land(cinema)
    carry(monkeypatch, "sail", lake, FIRST)
    needed, kept = EVERY - refusing_proxy.writes, release.read().number
    land_more(cinema)
    carry(monkeypatch, "sail", home / "whole", FIRST)
    carry(monkeypatch, "sail", home / "whole", THEN)
    stopped = set()
    for writes in (0, 1, 3, 8, needed // 8, needed // 8):
        monkeypatch.setenv("MILLRACE_LAKE", str(folder))
        before = versions()
        refusing_proxy.writes = writes
        told = (
            r"^(\w+\.\w+): the run failed \(The quota of the bucket is used up \(QuotaExceeded\)\)\. Published tables"
            r" are intact\. Check that the store has room"
        )
        with pytest.raises(RunError, match=told) as failure:
            carry(monkeypatch, "sail", lake, THEN)
        stopped.add(re.match(told, str(failure.value))[1])
        refusing_proxy.writes = EVERY
        monkeypatch.setenv("MILLRACE_LAKE", str(folder))
        assert all(versions()[name] >= version for name, version in before.items())
        assert release.read().number == kept
    assert len(stopped) > 2
    carry(monkeypatch, "sail", lake, THEN)
    assert differing(home / "whole", folder) == []
    assert release.read().number == kept + 1


def test_a_bucket_that_is_missing_is_named(cinema: Cinema, store: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, store.environment(), "s3://never-made/lake")
    with pytest.raises(
        StorageError,
        match=(
            r"^s3://never-made/lake/\S+ cannot be used: .*NoSuchBucket.*Create the bucket, or point MILLRACE_LAKE to"
            r" another one$"
        ),
    ):
        pipeline.check_interval(*FIRST)


def test_wrong_credentials_are_named(cinema: Cinema, store: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, {**store.environment(), "AWS_SECRET_ACCESS_KEY": "another"}, f"s3://{BUCKET}/x")
    with pytest.raises(
        StorageError, match=r"SignatureDoesNotMatch.*Check that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are right"
    ):
        pipeline.check_interval(*FIRST)


def test_an_endpoint_where_nobody_listens_is_named(cinema: Cinema, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    use(monkeypatch, {**KEYS, "AWS_ENDPOINT_URL": endpoint}, f"s3://{BUCKET}/x")
    with pytest.raises(StorageError, match=rf"{endpoint} does not answer\. Check that AWS_ENDPOINT_URL is right"):
        pipeline.check_interval(*FIRST)


def test_the_newest_commit_empty_or_torn_is_refused(
    cinema: Cinema, store: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry(monkeypatch, "sail", str(settings.lake()), FIRST)
    log = settings.lake() / "silver" / "movies" / "_delta_log" / f"{2:020}.json"
    for content, state in ((b"", "empty"), (b'{"add": {"path": "x', "cut short")):
        storage.write_whole(log, content)
        with pytest.raises(
            LakeError,
            match=(
                rf"^silver\.movies: the newest commit {2:020}\.json is {state}, as after a power cut\. Remove that"
                r" file"
            ),
        ):
            delta.open_table("silver.movies")


def test_a_lake_of_a_newer_millrace_is_refused(cinema: Cinema, store: Gateway) -> None:
    storage.write_whole(settings.lake() / "_millrace.json", b'{"format": 99}')
    with pytest.raises(LakeError, match="has format 99, and this Millrace reads up to"):
        pipeline.check_interval(*FIRST)
