"""GoldTable: a Feast data source that names a table of the lake. Its path and version come from the release, not from
the registry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from feast.data_source import DataSource
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from contracts import catalog
from features import type_mapping

CLASS = "features.source.GoldTable"


class GoldTable(DataSource):
    """`GoldTable(table="gold.customer_activity")`."""

    def __init__(
        self,
        *,
        table: str,
        name: str | None = None,
        timestamp_field: str = "event_timestamp",
        created_timestamp_column: str | None = None,
        field_mapping: dict[str, str] | None = None,
        description: str = "",
        tags: dict[str, str] | None = None,
        owner: str = "",
    ) -> None:
        super().__init__(
            name=name or table,
            timestamp_field=timestamp_field,
            created_timestamp_column=created_timestamp_column,
            field_mapping=field_mapping,
            description=description,
            tags=tags,
            owner=owner,
        )
        self.table = table

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GoldTable) and super().__eq__(other) and self.table == other.table

    __hash__ = DataSource.__hash__

    @staticmethod
    def from_proto(data_source: DataSourceProto) -> GoldTable:
        """The source that `to_proto` wrote."""
        return GoldTable(
            table=json.loads(data_source.custom_options.configuration)["table"],
            name=data_source.name,
            timestamp_field=data_source.timestamp_field,
            created_timestamp_column=data_source.created_timestamp_column,
            field_mapping=dict(data_source.field_mapping),
            description=data_source.description,
            tags=dict(data_source.tags),
            owner=data_source.owner,
        )

    def _to_proto_impl(self) -> DataSourceProto:
        return DataSourceProto(
            name=self.name,
            type=DataSourceProto.CUSTOM_SOURCE,
            data_source_class_type=CLASS,
            custom_options=DataSourceProto.CustomSourceOptions(
                configuration=json.dumps({"table": self.table}).encode()
            ),
            timestamp_field=self.timestamp_field,
            created_timestamp_column=self.created_timestamp_column,
            field_mapping=self.field_mapping,
            description=self.description,
            tags=self.tags,
            owner=self.owner,
        )

    def column(self, name: str) -> str:
        """The table's own name for a key, a feature or a timestamp: the field mapping, backwards."""
        return next((old for old, new in self.field_mapping.items() if new == name), name)

    @property
    def event_column(self) -> str:
        """The column with the time from which a row is known."""
        return self.column(self.timestamp_field)

    @property
    def created_column(self) -> str | None:
        """The column that decides between rows of the same key and event time, if there is one."""
        return self.column(self.created_timestamp_column) if self.created_timestamp_column else None

    def source_type(self) -> Any:
        """Feast's type for custom sources."""
        return DataSourceProto.CUSTOM_SOURCE

    def validate(self, config: RepoConfig) -> None:  # noqa: ARG002 (Feast's signature)
        """Raise ContractError unless the table has a contract; no data is read."""
        catalog.table(self.table)

    def get_table_column_names_and_types(self, config: RepoConfig) -> Iterable[tuple[str, str]]:  # noqa: ARG002 (Feast's signature)
        """The contract's columns and their Spark types."""
        return [(column.name, column.type.spark) for column in catalog.table(self.table).columns]

    @staticmethod
    def source_datatype_to_feast_value_type() -> Callable[[str], ValueType]:
        """Spark type name -> Feast value type."""
        return _value_type

    def get_table_query_string(self) -> str:
        """The table's name, as it is used in SQL."""
        return self.table


def _value_type(spark: str) -> ValueType:
    if spark.startswith("decimal"):
        return ValueType.DOUBLE
    value_types = {type_.spark: dtype.to_value_type() for type_, dtype in type_mapping.FROM_CONTRACT.items()}
    return value_types.get(spark, ValueType.UNKNOWN)
