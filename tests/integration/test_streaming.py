"""A training set larger than its share of memory goes to a file piece by piece: many labels need little more than few
did in the same process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from features import registry
from lake import settings
from tests.unit.features.conftest import Lake, activity, profile

STREAMED = """
import resource, sys, warnings
warnings.simplefilter("ignore")
from features import registry
path, kind = sys.argv[1:]
store = registry.open_store()
store.config.offline_store.join = "duckdb"
for labels in (100_000, 1_000_000):
    at = "TIMESTAMPTZ '2017-01-02' + INTERVAL (i % 30) DAY"
    sql = f"SELECT 1 + i % 2 AS guest_id, {at} AS event_timestamp, i AS n FROM range({labels}) r(i)"
    job = store.get_historical_features(sql, store.get_feature_service("guest_value_v1"))
    getattr(job, f"to_{kind}")(f"{path}/{labels}.{kind}", rows=20_000)
    print(labels, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_a_training_set_is_never_in_memory_as_a_whole(home: Path, tmp_path: Path, kind: str) -> None:
    """Ten times as many labels must not need more than a fraction of the memory that their training set would take."""

    lake = Lake()
    lake.write("guest_activity", [activity(1, "2017-01-02"), activity(1, "2017-01-09"), activity(2, "2017-01-05")])
    lake.write("guest_profile", [profile(1, "2017-01-01", "25-34")])
    lake.release("guest_activity", "guest_profile")
    registry.apply()
    store = registry.open_store()

    command = [sys.executable, "-c", STREAMED, str(tmp_path), kind]
    done = subprocess.run(
        command,
        cwd=settings.CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(settings.CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (few, low), (many, high) = [map(int, line.split()) for line in done.stdout.splitlines()]
    assert many == 10 * few
    growth = high - low
    row = store.get_historical_features(
        "SELECT 1 AS guest_id, TIMESTAMPTZ '2017-01-05' AS event_timestamp, 1 AS n",
        store.get_feature_service("guest_value_v1"),
    ).to_arrow()
    assert growth < row.nbytes * many / 3
