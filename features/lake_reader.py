"""DuckDB over the tables of a release: reads exactly the files of each pinned Delta version."""

from __future__ import annotations

import ctypes
import os
from functools import cache, cached_property, reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from contracts.model import Layer
from features.queries import NumberedTable
from lake import release, settings, storage
from lake.release import Release
from lake.sql import identifier, parquet

if TYPE_CHECKING:  # a feature server imports this module, and its image holds no deltalake and no DuckDB
    import duckdb
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

ROW_POSITION = ("file_index", "file_row_number")
"""Columns that DuckDB adds where a table has none of these names."""


class SourceError(LookupError):
    """A feature view asks for a table or a column that the release does not have."""


def pinned(number: int | Release | None = None) -> Release:
    """The release with that number, else the one that `MILLRACE_RELEASE` names, else the newest. A Release is returned
    as it is.
    """
    if isinstance(number, Release):
        return number
    return release.read(settings.release() if number is None else number)


def published(qualified: str, version: int | None = None) -> LakeReader:
    """A reader of one table at its newest version or an older one, pinned by a release or not; SourceError if there is
    none.
    """
    if qualified.split(".")[0] not in [*Layer] or qualified.count(".") != 1:
        raise SourceError(f"{qualified!r} is no table. Name it with its layer, such as silver.transactions")
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    path = settings.table_path(qualified)
    try:
        newest = DeltaTable(str(path)).version()
    except TableNotFoundError as error:
        raise SourceError(
            f"{qualified} was never published: there is no table at {path}. Run the DAG `millrace`, or see what there"
            " is: python -m millrace tables"
        ) from error
    if version is not None and not 0 <= version <= newest:
        raise SourceError(f"{qualified} has no version {version}: its newest is {newest}")
    return LakeReader(Release(0, "", "", {qualified: newest if version is None else version}))


def is_plain(delta: DeltaTable) -> bool:
    """Whether plain Parquet readers see the version as Delta does: no partitions and no reader features."""
    return not delta.metadata().partition_columns and not delta.protocol().reader_features


def arrow_dataset(delta: DeltaTable) -> ds.Dataset:
    """The version's rows as a pyarrow dataset that DuckDB can query.

    delta-rs passes each column's bounds in the log to pyarrow. Where the log has none, as ours for text and decimals,
    it passes NULL, and pyarrow skips the file: `WHERE department = 'GROCERY'` returns no rows. So only the values of
    partition columns, which no file holds, come from the log. The files' own statistics still skip row groups.

    Arrow reads local files itself. delta-rs would have its threads call Python, and after a query that ends before its
    scan, by an error or a LIMIT, they still do so while the process exits, which then hangs or aborts.
    """
    import pyarrow.dataset as ds
    from pyarrow import fs

    path = Path(unquote(urlsplit(delta.table_uri).path) if delta.table_uri.startswith("file:") else delta.table_uri)
    native = fs.SubTreeFileSystem(str(path), fs.LocalFileSystem()) if path.is_dir() else None
    dataset = delta.to_pyarrow_dataset(filesystem=native)
    partitions = {*delta.metadata().partition_columns}
    fragments = []
    for fragment in dataset.get_fragments():
        values = ds.get_partition_keys(fragment.partition_expression)
        conditions = [_equals(ds.field(name), value) for name, value in values.items() if name in partitions]
        condition = reduce(and_, conditions) if conditions else None
        fragments.append(
            dataset.format.make_fragment(fragment.path, dataset.filesystem, partition_expression=condition)
        )
    return ds.FileSystemDataset(fragments, dataset.schema, dataset.format, dataset.filesystem)


def _equals(column: ds.Expression, value: Any) -> ds.Expression:
    return column.is_null() if value is None else column == value


@cache
def _shared_duckdb() -> duckdb.DuckDBPyConnection:
    """The DuckDB that this process shares: starting one takes as long as joining 100,000 rows. It caches no files."""
    import duckdb

    return duckdb.connect(config={"enable_external_file_cache": False})


def _keep_parent_connection() -> None:
    """In a forked child, keep the parent's DuckDB open: closing it would wait forever for threads that the fork did not
    copy.
    """
    if _shared_duckdb.cache_info().currsize:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(_shared_duckdb()))


os.register_at_fork(after_in_child=_keep_parent_connection)


class LakeReader:
    """A DuckDB connection to the tables of one release. `shared` readers of local lakes use one DuckDB per process."""

    def __init__(self, release: Release, *, shared: bool = False) -> None:
        self.release = release
        self._shared = shared and not storage.is_remote(settings.lake())
        self._relations: dict[str, dict[str, str]] = {}
        self._rows: dict[str, NumberedTable] = {}

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """In memory, in UTC, without access to Python variables."""
        return self.connect()

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A new connection that can read the lake's files."""
        import duckdb

        connection = _shared_duckdb().cursor() if self._shared else storage.readable(duckdb.connect(), settings.lake())
        connection.execute(
            "SET TimeZone = 'UTC'; SET python_enable_replacements = false; SET preserve_insertion_order = false; SET"
            " enable_progress_bar = false"
        )
        return connection

    def attach(self, qualified: str, delta: DeltaTable) -> None:
        """Make a version of a table readable under the name `qualified`."""
        uris = delta.file_uris()
        view = identifier(qualified)
        names = {field.name.lower() for field in delta.schema().fields}
        if uris and is_plain(delta) and not names & {*ROW_POSITION} and self._have(qualified, uris, names):
            self._rows[qualified] = NumberedTable(
                parquet(uris), f"{ROW_POSITION[0]}::BIGINT * {2**40} + {ROW_POSITION[1]}"
            )
            self.connection.execute(f"CREATE TEMP VIEW {view} AS FROM {self._rows[qualified].table}")
        # empty, partitioned, or with a feature or a name that plain Parquet readers do not know: slower, and never
        # wrong
        else:
            self._rows[qualified] = NumberedTable(view, "row_number() OVER ()", is_stable=False)
            self.connection.register(qualified, arrow_dataset(delta))

    def _have(self, qualified: str, uris: list[str], names: set[str]) -> bool:
        """Whether each column is in one of the files at least. Only bronze tables take columns without new rows."""
        if not qualified.startswith(f"{Layer.BRONZE}."):
            return True
        described = self.connection.execute(f"DESCRIBE FROM {parquet(uris)}").fetchall()
        return names <= {row[0].lower() for row in described}

    def table(self, qualified: str) -> str:
        """The name of a DuckDB view over the pinned version of `layer.name`."""
        self.columns(qualified)
        return identifier(qualified)

    def rows(self, qualified: str) -> NumberedTable:
        """The pinned version of `layer.name` with an expression that numbers its rows."""
        self.columns(qualified)
        return self._rows[qualified]

    def columns(self, qualified: str) -> dict[str, str]:
        """Column name -> DuckDB type."""
        if qualified not in self._relations:
            self._open(qualified)
            described = self.connection.execute(f"DESCRIBE {identifier(qualified)}").fetchall()
            self._relations[qualified] = {row[0]: row[1] for row in described}
        return self._relations[qualified]

    def require(self, qualified: str, names: list[str]) -> None:
        """Raise SourceError unless the table has all these columns."""
        present = self.columns(qualified)
        missing = [name for name in names if name not in present]
        if missing:
            raise SourceError(
                f"{qualified} has no column {', '.join(missing)} in release {self.release.number} (Delta version"
                f" {self.release.tables[qualified]}). It has {', '.join(present)}. Build the table again for the new"
                " contract, or read an older release's features"
            )

    def create_views(self, sql: str) -> None:
        """Create views of the release's tables that `sql` mentions, under their own names, such as
        gold.customer_product.
        """
        for qualified in self.release.tables:
            if qualified in sql:
                layer = qualified.split(".")[0]
                self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {layer}")
                self.connection.execute(f"CREATE OR REPLACE VIEW {qualified} AS FROM {self.table(qualified)}")

    def _ensure_same_table(self, qualified: str, table_id: str) -> None:
        if self.release.ids.get(qualified, table_id) != table_id:
            raise SourceError(
                f"release {self.release.number} pins version {self.release.tables[qualified]} of a table {qualified}"
                " that was removed and rebuilt since. Its rows are gone; read the newest release"
            )

    def _open(self, qualified: str) -> None:
        from deltalake import DeltaTable

        if qualified not in self.release.tables:
            raise SourceError(
                f"release {self.release.number} has no table {qualified}. It has {', '.join(self.release.tables)}. Run"
                " the DAG `millrace` for it"
            )
        delta = DeltaTable(str(settings.table_path(qualified)), version=self.release.tables[qualified])
        self._ensure_same_table(qualified, str(delta.metadata().id))
        self.attach(qualified, delta)
