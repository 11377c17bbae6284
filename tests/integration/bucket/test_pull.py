"""A database is pulled into a landing zone in a bucket, and read from there."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from contracts.interval import Interval
from lake import bucket, settings, storage
from millrace import pipeline
from tests.gateway import BUCKET, Gateway
from tests.integration.bucket.conftest import use
from tests.landing import rows
from tests.projects import DEPOT
from tests.servers import Postgres

PROJECT = DEPOT
TABLE = """
CREATE TABLE parcels AS SELECT n::bigint AS id, 'ann' AS customer, now() AS sent_at, n::float8 AS weight, '' AS label,
now() - n * interval '1 hour' AS changed_at FROM generate_series(1, 9) n
"""


def test_a_pull_into_a_bucket(store: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    landing = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    use(monkeypatch, store.environment(), str(settings.home() / "lake"), landing)
    today = datetime.now(UTC).date()
    with Postgres() as server:
        monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", server.url)
        with psycopg.connect(server.url) as connection:
            connection.execute(TABLE)
        assert [pipeline.pull("bronze.parcels").rows for _ in range(3)] == [9, 1, 0]
    assert [path.suffix for path in storage.tree(bucket.to_path(landing), "")] == [".parquet"] * 2
    assert not [*(settings.home() / "pull").rglob("*.parquet")]
    pipeline.run_table("bronze.parcels", Interval(today, today + timedelta(days=1)), "test")
    assert sorted(row["id"] for row in rows("bronze.parcels")) == [1, *range(1, 10)]
