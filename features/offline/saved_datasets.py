"""Saved datasets: training sets written piece by piece to a parquet file or a Delta table, and read back."""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FileSource
from feast.data_format import DeltaFormat
from feast.errors import SavedDatasetLocationAlreadyExists
from feast.infra.offline_stores.file_source import FileLoggingDestination, SavedDatasetFileStorage
from feast.protos.feast.core.DataSource_pb2 import DataSource as DataSourceProto
from feast.saved_dataset import SavedDatasetStorage

from features.lake_reader import LakeReader, arrow_dataset
from lake import settings, storage
from lake.release import Release
from lake.sql import literal

RELEASE = "millrace_release"
"""Key of the release number in the metadata of the parquet file or Delta commit."""


class SavedSetError(ValueError):
    """A training set cannot be saved to such a destination; the message says which ones there are."""


class LakeStorage(SavedDatasetStorage):
    """A Delta table beside the lake's own: `LakeStorage("churn_v1")` is `<lake>/_saved_datasets/churn_v1`. The registry
    holds only the name.
    """

    _proto_attr_name = "custom_storage"

    def __init__(self, name: str) -> None:
        if not name.isidentifier():
            raise SavedSetError(
                f"{name!r} is no name for a training set. Use letters, digits and underscores, such as churn_v1"
            )
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LakeStorage) and self.name == other.name

    __hash__ = None  # type: ignore[assignment]

    @staticmethod
    def from_proto(storage_proto: Any) -> LakeStorage:
        """The storage that `to_proto` wrote."""
        return LakeStorage(json.loads(storage_proto.custom_storage.configuration)["name"])

    def to_proto(self) -> Any:
        """The name, and the class to read it with."""
        return self._custom_storage_proto(
            DataSourceProto.CustomSourceOptions(configuration=json.dumps({"name": self.name}).encode())
        )

    def to_data_source(self) -> FileSource:
        """The table's location in this lake."""
        return FileSource(
            path=str(settings.lake() / "_saved_datasets" / self.name),
            file_format=DeltaFormat(),
            timestamp_field="event_timestamp",
        )


def save(pieces: Iterator[pa.Table], storage_spec: SavedDatasetStorage, release: Release, *, overwrite: bool) -> None:
    """Write all pieces to a `LakeStorage` or to Feast's `SavedDatasetFileStorage`; readers see all of them or none."""
    if not isinstance(storage_spec, LakeStorage | SavedDatasetFileStorage):
        raise SavedSetError(
            f"{type(storage_spec).__name__} is not written here. Use LakeStorage(name), or"
            " SavedDatasetFileStorage(path) with"
            " parquet or Delta as its format"
        )
    source = storage_spec.to_data_source()
    write = to_delta if isinstance(source.file_format, DeltaFormat) else to_parquet
    write(pieces, source.path, release, overwrite=overwrite)


def to_parquet(pieces: Iterator[pa.Table], path: str, release: Release, *, overwrite: bool = False) -> None:
    """Write one parquet file with a row group per piece; it appears when it is complete."""
    if storage.is_remote(path):
        raise SavedSetError(f"{path} is in a bucket, where a file appears before it is whole. Save it as Delta there")
    target = Path(path)
    if not target.is_absolute():
        raise SavedSetError(f"{path!r} depends on where the process runs. Give the whole path")
    if target.exists() and not overwrite:
        raise SavedDatasetLocationAlreadyExists(location=path)
    if target.is_dir() and any(target.iterdir()):
        raise SavedSetError(
            f"{path} is a folder with files in it, and a parquet file would replace it. Name a file in it, such as"
            f" {target / 'training.parquet'}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}.{os.getpid()}")
    first = next(pieces)
    try:
        with pq.ParquetWriter(hidden, first.schema) as writer:
            for piece in itertools.chain([first], pieces):
                writer.write_table(piece)
            writer.add_key_value_metadata({RELEASE: str(release.number)})
        if target.is_dir():
            target.rmdir()
        storage.move(hidden, target)
    finally:
        hidden.unlink(missing_ok=True)


def to_delta(pieces: Iterator[pa.Table], path: str, release: Release, *, overwrite: bool = False) -> None:
    """Write a Delta table in one commit."""
    from deltalake import CommitProperties, DeltaTable, write_deltalake

    if DeltaTable.is_deltatable(path) and not overwrite:
        raise SavedDatasetLocationAlreadyExists(location=path)
    first = next(pieces)
    batches = (batch for piece in itertools.chain([first], pieces) for batch in piece.to_batches())
    properties = CommitProperties(custom_metadata={RELEASE: str(release.number)})
    reader = pa.RecordBatchReader.from_batches(first.schema, batches)
    write_deltalake(path, reader, mode="overwrite", schema_mode="overwrite", commit_properties=properties)


def log(rows: pa.Table | Path, destination: Any) -> None:
    """Add served features to a FileLoggingDestination's folder, as a parquet file that appears when it is complete."""
    if not isinstance(destination, FileLoggingDestination):
        raise SavedSetError(
            f"served features are not logged to a {type(destination).__name__}. Use"
            " FileLoggingDestination(path='/an/absolute/path')"
        )
    folder = Path(destination.path)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{uuid.uuid4().hex}.parquet"
    hidden = folder / f".{name}"
    try:
        pq.write_table(pq.read_table(rows) if isinstance(rows, Path) else rows, hidden)
        storage.move(hidden, folder / name)
    finally:
        hidden.unlink(missing_ok=True)


def open_saved(source: FileSource) -> tuple[LakeReader, str]:
    """A connection, and the name of a view in it, over a saved training set or a folder of logged features."""
    reader = LakeReader(Release(0, "", "", {}))
    if isinstance(source.file_format, DeltaFormat):
        from deltalake import DeltaTable

        reader.connection.register("saved", arrow_dataset(DeltaTable(source.path)))
    else:
        files = f"{source.path.rstrip('/')}/*.parquet" if Path(source.path).is_dir() else source.path
        reader.connection.execute(f"CREATE VIEW saved AS FROM read_parquet({literal(files)})")
    return reader, "saved"
