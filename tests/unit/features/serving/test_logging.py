"""Served features are logged to a folder of parquet files and read back; what cannot be is refused when the service is
applied.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureService
from feast.feature_logging import FeatureServiceLoggingSource, LoggingConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination
from feast.infra.offline_stores.redshift_source import RedshiftLoggingDestination

from features import registry
from features.registry import DefinitionError
from lake import settings
from tests.unit.features.conftest import Lake, definitions

NOW = datetime(2017, 3, 1, 12, tzinfo=UTC)


def service(destination: object) -> FeatureService:
    return FeatureService(
        name="logged",
        features=[definitions.guest_profile[["age_band"]]],
        logging_config=LoggingConfig(destination=destination),
    )


def rows(of: FeatureService, *ages: str) -> pa.Table:
    source = FeatureServiceLoggingSource(of, "millrace")
    schema = source.get_schema(registry.open_store().registry)
    values = {
        "guest_id": [1] * len(ages),
        "guest_profile__age_band": list(ages),
        source.get_log_timestamp_column(): [NOW] * len(ages),
    }
    return pa.table({field.name: pa.array(values.get(field.name, [None] * len(ages)), field.type) for field in schema})


def test_what_is_logged_is_read_back(lake: Lake, tmp_path: Path) -> None:
    registry.apply()
    store, logged = registry.open_store(), service(FileLoggingDestination(path=str(tmp_path / "logs")))
    store.apply([logged])
    (tmp_path / "more").mkdir()
    pq.write_table(rows(logged, "65+"), tmp_path / "more" / "part.parquet")
    store.write_logged_features(rows(logged, "25-34", "35-44"), logged)
    store.write_logged_features(tmp_path / "more", logged)
    read = store._get_provider().retrieve_feature_service_logs
    result = read(
        store.get_feature_service("logged"), NOW - timedelta(days=1), NOW, store.config, store.registry
    ).to_arrow()
    assert sorted(result["guest_profile__age_band"].to_pylist()) == ["25-34", "35-44", "65+"]
    assert set(result["guest_id"].to_pylist()) == {1}
    assert (
        read(logged, NOW + timedelta(seconds=1), NOW + timedelta(days=1), store.config, store.registry)
        .to_arrow()
        .num_rows
        == 0
    )


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        (lambda: RedshiftLoggingDestination(table_name="t"), "a redshift_destination"),
        (lambda: FileLoggingDestination(path="s3://bucket/logs"), "not an absolute path"),
        (lambda: FileLoggingDestination(path="logs"), "not an absolute path"),
        (lambda: FileLoggingDestination(path="/tmp/logs", partition_by=["age_band"]), r"partitions \(age_band\)"),
        (
            lambda: FileLoggingDestination(path=str(settings.lake() / "gold" / "logs")),
            "in the lake, where only audited tables are",
        ),
    ],
)
def test_what_cannot_be_logged_is_refused_at_apply(lake: Lake, destination: object, message: str) -> None:
    registry.apply()
    before, store = registry.path().read_bytes(), registry.open_store()
    with pytest.raises(DefinitionError, match=f"feature service logged logs what was served to .*{message}"):
        store.apply([service(destination())])
    assert registry.path().read_bytes() == before
