"""What a release or a training set pinned two years ago is read on each engine, whatever was committed, tidied up and
summed up since.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from etl import table_reader
from etl.commits import committer
from etl.engine import session
from features import registry, training
from features.offline import spark_join
from lake import delta, publishing, settings
from lake.commits import Committer
from lake.commits.delta_rs import DeltaRs
from lake.delta import CommitMetadata
from tests.unit.etl.visits import VISITS, staged, visit
from tests.unit.features.conftest import VIEWS, Lake, activity, at, fill

NAME = VISITS.qualified
TWO_YEARS = 2 * 366 * 86_400
ENFORCED = "spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration"
BEYOND = "DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION"


def age(lake: Path, patch: pytest.MonkeyPatch) -> None:
    """Have all that a lake holds happen two years ago: data files, commits, and what they say of their own time. It
    moves, because Spark keeps in mind what it read of a table.
    """
    then = time.time() - TWO_YEARS
    for checksum in lake.rglob("*.crc"):  # of commits that are about to change: Hadoop's, and Delta's own
        checksum.unlink()
    for log in lake.rglob("_delta_log/*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            for kind, key in (
                ("commitInfo", "timestamp"),
                ("add", "modificationTime"),
                ("remove", "deletionTimestamp"),
                ("metaData", "createdTime"),
            ):
                if kind in action and action[kind].get(key):
                    action[kind][key] = int(then * 1000)
        log.write_text("\n".join(map(json.dumps, actions)))
    for file in (path for path in lake.rglob("*") if path.is_file()):
        os.utime(file, (then, then))
    aged = lake.parent / "aged"
    lake.rename(aged)
    patch.setenv("MILLRACE_LAKE", str(aged))


def append(by: Committer, *numbers: int, whole: bool = False) -> int:
    return by.publish(
        VISITS, [staged(*map(visit, numbers))], CommitMetadata("run"), base=delta.version_of(NAME), whole=whole
    )


def ids(version: int) -> list[int]:
    return sorted(table_reader.read(NAME, version).toArrow()["visit_id"].to_pylist())


def ids_where_enforced(version: int) -> list[int]:
    """Read as a Spark that is set as it comes does."""
    session().conf.set(ENFORCED, "true")
    try:
        return ids(version)
    finally:
        session().conf.set(ENFORCED, "false")


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.slow
def test_a_pinned_version_is_read_two_years_later(engine: str, monkeypatch: pytest.MonkeyPatch, former: bool) -> None:
    """After a replacement, checkpoints, a compaction and a vacuum at once; also where former code made the table, which
    set the log's retention only.
    """
    with monkeypatch.context() as patch:
        if former:
            patch.setattr(publishing, "RETENTION", {"delta.logRetentionDuration": "interval 3650 days"})
        pinned = append(committer(), 1, 2)
    append(committer(), 3, whole=True)
    age(settings.lake(), monkeypatch)
    assert ids(pinned) == [1, 2]
    if former and engine == "spark":
        with pytest.raises(Exception, match=BEYOND):
            ids_where_enforced(pinned)
    for number in range(publishing.CHECKPOINT_EVERY):
        append(DeltaRs(), number)
    append(committer(), 99)
    assert [*(settings.table_path(NAME) / "_delta_log").glob("*.checkpoint.parquet")]
    before = delta.id_of(NAME)
    committer().optimize(VISITS)
    assert committer().vacuum(VISITS, timedelta(0), keep=[pinned]) > 0
    table = DeltaTable(str(settings.table_path(NAME)))
    assert (table.metadata().configuration, str(table.metadata().id)) == (publishing.RETENTION, before)
    assert ids_where_enforced(pinned) == [1, 2]
    assert sorted(
        DeltaTable(str(settings.table_path(NAME)), version=pinned).to_pyarrow_table()["visit_id"].to_pylist()
    ) == [1, 2]
    assert (settings.table_path(NAME) / "_delta_log" / f"{0:020}.json").exists(), (
        "a checkpoint must not take the log's beginning away"
    )


def test_versions_before_the_newest_checkpoint_are_read(engine: str) -> None:
    """Sail finds no checkpoint before the one that `_last_checkpoint` names."""
    pinned = [append(DeltaRs(), number) for number in range(2 * publishing.CHECKPOINT_EVERY)]
    assert [*(settings.table_path(NAME) / "_delta_log").glob("*.checkpoint.parquet")]
    for number, version in enumerate(pinned):
        assert ids(version) == [*range(number + 1)]
        rows = spark_join.read(session(), NAME, version)
        assert rows.count() == number + 1


def test_a_training_set_and_a_release_are_read_two_years_later(
    engine: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Joined on the engine, from tables without any setting of ours."""
    monkeypatch.setenv("MILLRACE_JOIN", "spark")
    lake = fill(Lake())
    labels = pa.table(
        {"guest_id": [1, 2, 1], "event_timestamp": [at("2017-01-10"), at("2017-01-10"), at("2017-01-05")]}
    )
    training.create(labels, "guest_value_v1", "kept")
    age(settings.lake(), monkeypatch)
    lake.write("guest_activity", [activity(1, "2017-01-02", "11.00")])
    lake.release(*VIEWS, horizon="2017-03-01")
    assert training.rebuild("kept").same_file
    frame = labels.to_pandas()
    found = registry.open_store(1).get_historical_features(frame, ["guest_activity:paid_7d"]).to_df()
    assert found["paid_7d"].tolist() == [0.05, 7.77, 10.0]
