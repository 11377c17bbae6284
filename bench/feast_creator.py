"""Data source creator for Feast's own tests: a frame becomes a Delta table that a release pins.

Feast's tests invent tables of any schema, which have no contracts, so the source here takes its schema from Delta. Only
their test run imports this module.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import FeastConfigBaseModel
from feast.type_map import pa_to_feast_value_type
from feast.value_type import ValueType
from tests.universal.feature_repos.universal.data_source_creator import (  # type: ignore[import-not-found,import-untyped,unused-ignore]
    DataSourceCreator,
)

from features.offline.store import ReleaseOfflineStoreConfig
from features.source import GoldTable
from lake import release, settings

os.environ["MILLRACE_HOME"] = tempfile.mkdtemp(prefix="millrace-feast-")
AVAILABLE_ONLINE_STORES = {"sqlite": ({"type": "sqlite"}, None)}


class AnyTable(GoldTable):
    """A GoldTable without a contract."""

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> AnyTable:
        """The source that `to_proto` wrote."""
        plain = GoldTable.from_proto(data_source)
        plain.__class__ = AnyTable
        return plain  # type: ignore[return-value,unused-ignore]

    def _to_proto_impl(self) -> DataSourceProto:
        proto = super()._to_proto_impl()
        proto.data_source_class_type = f"{__name__}.AnyTable"
        return proto

    def validate(self, config: Any) -> None:
        """Do nothing: there is no contract to validate against."""

    def get_table_column_names_and_types(self, config: Any) -> Iterable[tuple[str, str]]:  # noqa: ARG002 (Feast's signature)
        """The columns of the Delta table and their Arrow types."""
        schema = DeltaTable(str(settings.table_path(self.table))).to_pyarrow_dataset().schema
        return [(field.name, str(field.type)) for field in schema]

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        """Arrow type name -> Feast value type."""
        return pa_to_feast_value_type  # type: ignore[no-any-return,unused-ignore]


class GoldTableCreator(DataSourceCreator):  # type: ignore[misc,unused-ignore]
    """Writes frames to the lake of a temporary home."""

    def create_data_source(
        self,
        df: pd.DataFrame,
        destination_name: str,
        created_timestamp_column: str = "created_ts",
        field_mapping: dict[str, str] | None = None,
        timestamp_field: str | None = "ts",
    ) -> AnyTable:
        """A source of the frame's rows: a Delta table in a new release."""
        table = f"gold.{self.project_name}_{destination_name}".replace("-", "_")
        path = settings.table_path(table)
        path.mkdir(parents=True, exist_ok=True)
        write_deltalake(
            str(path),
            _storable(pa.Table.from_pandas(df, preserve_index=False)),
            mode="overwrite",
            schema_mode="overwrite",
        )
        known = release.read().tables if release.numbers() else {}
        release.write({**known, table: DeltaTable(str(path)).version()}, "2100-01-01")
        mapping = field_mapping or {"ts_1": "ts"}
        return AnyTable(
            table=table,
            timestamp_field=timestamp_field or "ts",
            created_timestamp_column=created_timestamp_column,
            field_mapping=mapping,
        )

    def create_offline_store_config(self) -> FeastConfigBaseModel:
        """The config of Millrace's offline store; `MILLRACE_JOIN` selects the join."""
        return ReleaseOfflineStoreConfig(session="etl.engine.session")

    def create_saved_dataset_destination(self) -> SavedDatasetFileStorage:
        """An empty folder."""
        return SavedDatasetFileStorage(path=tempfile.mkdtemp(dir=settings.home()))

    def create_logged_features_destination(self) -> FileLoggingDestination:
        """An empty folder for logged features."""
        return FileLoggingDestination(path=tempfile.mkdtemp(dir=settings.home()))

    def teardown(self) -> None:
        """Do nothing: the home is temporary."""


def _storable(table: pa.Table) -> pa.Table:
    """The table as Delta stores it: instants in microseconds, UTC, and structs and maps as JSON text."""
    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(
                i,
                field.name,
                table[i].cast(pa.timestamp("us", field.type.tz), safe=False).cast(pa.timestamp("us", "UTC")),
            )
        if pa.types.is_struct(field.type) or pa.types.is_map(field.type):
            table = table.set_column(
                i, field.name, pa.array([json.dumps(value, default=str) for value in table[i].to_pylist()], pa.string())
            )
    return table


AVAILABLE_OFFLINE_STORES = [("local", GoldTableCreator)]
Path(os.environ["MILLRACE_HOME"]).mkdir(exist_ok=True)
