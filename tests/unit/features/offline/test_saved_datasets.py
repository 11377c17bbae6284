"""Training sets that are saved: piece by piece, whole or not at all, in order, and what Feast's saved datasets give
back.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from feast import FeatureStore
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.saved_dataset import SavedDatasetStorage

from features import registry
from features.offline import saved_datasets
from features.offline.saved_datasets import LakeStorage, SavedSetError
from lake import settings
from tests.unit.features.conftest import Lake, at

SQL = """
    SELECT guest_id, CAST(3 AS BIGINT) AS movie_id, d AS event_timestamp, d AS request_time,
        guest_id * 1000 + epoch(d) // 86400 % 1000 AS n
    FROM (VALUES (2), (1), (1), (404)) c(guest_id), (SELECT unnest(range(TIMESTAMPTZ '2016-12-24',
        TIMESTAMPTZ '2017-02-02', INTERVAL 1 DAY)) AS d)
    ORDER BY d DESC, guest_id
"""


@pytest.fixture
def store(cinema: Lake) -> FeatureStore:
    registry.apply()
    return registry.open_store()


def training_set(store: FeatureStore, labels: Any = SQL) -> Any:
    return store.get_historical_features(labels, store.get_feature_service("suggestion_v1"))


@pytest.mark.parametrize("as_frame", [True, False])
def test_pieces_are_the_whole(store: FeatureStore, as_frame: bool) -> None:
    labels = (
        training_set(store).to_df()[["guest_id", "movie_id", "event_timestamp", "request_time", "n"]]
        if as_frame
        else SQL
    )
    whole = training_set(store, labels).to_arrow()
    pieces = [*training_set(store, labels).pieces(7)]
    assert {piece.num_rows for piece in pieces} == {7, 160 % 7}
    assert "days_since_last_visit" in whole.column_names
    assert pa.concat_tables(pieces).equals(whole)
    assert whole["guest_id"].to_pylist() == [1, 1, 2, 404] * 40
    assert whole["event_timestamp"].to_pylist() == [at("2017-02-01") - timedelta(days=i // 4) for i in range(160)]


def test_no_labels_are_an_empty_training_set_with_all_columns(store: FeatureStore, tmp_path: Path) -> None:
    job = training_set(store, f"SELECT * FROM ({SQL}) WHERE n < 0")
    assert job.to_arrow().num_rows == 0
    job.to_parquet(str(tmp_path / "none.parquet"))
    assert pq.read_schema(tmp_path / "none.parquet").names == training_set(store).to_arrow().column_names
    frame = training_set(store).to_df().head(0)[["guest_id", "movie_id", "event_timestamp", "request_time"]]
    assert training_set(store, frame).to_arrow().column_names == [
        *frame.columns,
        *training_set(store).to_arrow().column_names[5:],
    ]


def test_parquet_and_delta_hold_what_to_arrow_gives_and_say_of_which_release(
    store: FeatureStore, tmp_path: Path
) -> None:
    whole = training_set(store).to_arrow()
    training_set(store).to_parquet(str(tmp_path / "set.parquet"), rows=9)
    training_set(store).to_delta(str(tmp_path / "set"), rows=9)
    assert pq.read_table(tmp_path / "set.parquet").equals(whole)
    assert pq.read_metadata(tmp_path / "set.parquet").num_row_groups == 18
    assert pq.read_metadata(tmp_path / "set.parquet").metadata[saved_datasets.RELEASE.encode()] == b"1"
    table = DeltaTable(str(tmp_path / "set"))
    assert table.history(1)[0][saved_datasets.RELEASE] == "1"
    by_n = [("n", "ascending"), ("event_timestamp", "ascending")]
    assert table.to_pyarrow_table().sort_by(by_n).to_pylist() == whole.sort_by(by_n).to_pylist()


def storages(tmp_path: Path) -> list[SavedDatasetStorage]:
    files = [
        SavedDatasetFileStorage(str(tmp_path / "kept.parquet")),
        SavedDatasetFileStorage(str(tmp_path / "kept"), file_format=DeltaFormat()),
    ]
    return [*files, LakeStorage("churn_v1")]


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:Saving dataset is an experimental feature")
@pytest.mark.filterwarnings("ignore:Retrieving datasets is an experimental feature")
def test_feasts_saved_datasets(store: FeatureStore, tmp_path: Path, number: int) -> None:
    place = storages(tmp_path)[number]
    kept = store.create_saved_dataset(training_set(store), "churn", place)
    features = [
        name for name in training_set(store).to_arrow().column_names if name not in ("movie_id", "request_time", "n")
    ]
    expected = training_set(store).to_df()[features].sort_values(features, ignore_index=True)
    for result in (kept, registry.open_store().get_saved_dataset("churn")):
        assert result.to_df()[features].sort_values(features, ignore_index=True).equals(expected)
        assert type(result.storage) is type(place)
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        store.create_saved_dataset(training_set(store), "churn", place)
    few = store.get_historical_features(SQL, ["guest_activity:paid_7d"])
    assert len(store.create_saved_dataset(few, "churn", place, allow_overwrite=True).to_df().columns) == 3


@pytest.mark.filterwarnings("ignore:Saving dataset is an experimental feature")
def test_instants_of_pandas_come_back(store: FeatureStore, tmp_path: Path) -> None:
    """They are in nanoseconds."""
    labels = (
        training_set(store).to_df()[["guest_id", "event_timestamp"]].astype({"event_timestamp": "datetime64[ns, UTC]"})
    )
    job = store.get_historical_features(labels, ["guest_activity:paid_7d"])
    for number, place in enumerate(storages(tmp_path)):
        assert len(store.create_saved_dataset(job, f"set_{number}", place).to_df()) == 160


def test_a_name_belongs_to_the_lake_of_the_home(cinema: Lake) -> None:
    assert LakeStorage("x").to_data_source().path == str(settings.lake() / "_saved_datasets" / "x")
    assert SavedDatasetStorage.from_proto(LakeStorage("x").to_proto()) == LakeStorage("x")
    assert str(settings.lake()) not in str(LakeStorage("x").to_proto())


def test_a_failure_leaves_nothing(store: FeatureStore, tmp_path: Path) -> None:
    broken = (
        "SELECT * REPLACE (CASE WHEN n < 1000000 AND guest_id = 404 THEN 0.5 ELSE guest_id END AS guest_id)"
        f" FROM ({SQL})"
    )
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(ValueError, match="guest_id"):
        training_set(store, broken).to_parquet(str(target / "set.parquet"), rows=2)
    with pytest.raises(Exception, match="guest_id"):
        training_set(store, broken).to_delta(str(target / "set"), rows=2)
    assert not (target / "set.parquet").exists()
    assert not DeltaTable.is_deltatable(str(target / "set"))
    assert [path for path in target.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("set.parquet", r"'set\.parquet' depends on where the process runs\. Give the whole path"),
        ("s3://bucket/set.parquet", "is in a bucket, where a file appears before it is whole. Save it as Delta there"),
    ],
)
def test_places_where_no_file_is_written(store: FeatureStore, path: str, message: str) -> None:
    with pytest.raises(SavedSetError, match=message):
        training_set(store).to_parquet(path)


def test_a_folder_with_files_is_not_replaced_and_an_empty_one_is(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    training_set(store).to_parquet(str(tmp_path / "set"), overwrite=True)
    assert pq.read_metadata(tmp_path / "set").num_rows == 160
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(SavedSetError, match="a folder with files in it"):
        training_set(store).to_parquet(str(tmp_path / "full"), overwrite=True)


def test_storages_that_are_none(store: FeatureStore) -> None:
    with pytest.raises(SavedSetError, match=r"NoneType is not written here\. Use LakeStorage"):
        training_set(store).persist(None)
    with pytest.raises(SavedSetError, match=r"'\.\./x' is no name for a training set"):
        LakeStorage("../x")
