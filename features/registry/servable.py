"""Checks of definitions before they are applied: only what both stores support may enter the registry."""

from __future__ import annotations

from pathlib import Path

from feast.data_source import DataSource
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig as LoggingConfigProto
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto

from features.source import GoldTable
from lake import settings, storage


class DefinitionError(ValueError):
    """A definition that the stores do not support; the message says which one, and what to use. Nothing was applied."""


def ensure_servable(registry_proto: RegistryProto) -> None:
    """Raise DefinitionError for a view that cannot be both trained on and served, or a service that cannot be
    logged.
    """
    for view in (*registry_proto.feature_views, *registry_proto.stream_feature_views):
        source = DataSource.from_proto(view.spec.batch_source) if view.spec.HasField("batch_source") else None
        ensure_gold(view.spec.name, source)
    for service in registry_proto.feature_services:
        if service.spec.HasField("logging_config"):
            _ensure_loggable(service.spec.name, service.spec.logging_config)


def _ensure_loggable(service: str, logging: LoggingConfigProto) -> None:
    destination, file = logging.WhichOneof("destination"), logging.file_destination
    problem = ""
    if destination != "file_destination":
        problem = f"a {destination}"
    elif storage.is_remote(file.path) or not Path(file.path).is_absolute():
        problem = f"{file.path!r}, which is not an absolute path of this machine"
    elif file.partition_by:
        problem = f"files in partitions ({', '.join(file.partition_by)})"
    elif _is_in_lake(Path(file.path)):
        problem = f"{file.path}, which is in the lake, where only audited tables are"
    if problem:
        raise DefinitionError(
            f"feature service {service} logs what was served to {problem}."
            " Served features are logged to parquet files in a folder outside of the lake:"
            " LoggingConfig(destination=FileLoggingDestination(path='/an/absolute/path')), without partition_by"
        )


def _is_in_lake(path: Path) -> bool:
    lake = settings.lake()
    return not storage.is_remote(lake) and path.resolve().is_relative_to(Path(str(lake)).resolve())


def ensure_gold(view: str, source: DataSource | None) -> None:
    """Raise DefinitionError unless a view's source is a gold table."""
    if not isinstance(source, GoldTable):
        raise DefinitionError(
            f"feature view {view} reads {f'a {type(source).__name__}' if source else 'no table'}."
            " Training sets and the online store read the gold tables of a release:"
            " publish its rows as one (CONTRIBUTING.md, Add a table),"
            " and use GoldTable(table='gold.<name>') as its source,"
            " or as the batch_source of its push or stream source"
        )
