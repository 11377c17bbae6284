"""A sandbox for users' SQL: it reads the tables of one release, and no file, bucket, network or setting.

The SQL may come over Airflow's REST API, from somebody who may trigger a DAG but not read the machine's files. It runs
in a separate DuckDB, which gets the tables as Arrow datasets: DuckDB itself opens no file, and external access is
disabled, wherever the lake is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import psutil
import pyarrow as pa
from deltalake import DeltaTable

from features.lake_reader import LakeReader, arrow_dataset
from features.offline.labels import LabelError
from lake.release import Release

SECONDS = 3600.0
"""A query that takes longer is interrupted."""
MEMORY_DIVISOR = 4
"""The rows of a query may take this fraction (1/n) of the machine's memory, where they are joined and written."""
BATCH = 100_000
_LOCKDOWN = (
    "SET TimeZone = 'UTC'",
    "SET preserve_insertion_order = false",
    "SET enable_progress_bar = false",
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET temp_directory = ''",  # a query that outgrows memory fails instead of filling the disk
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def select(sql: str, release: Release) -> pa.Table:
    """The rows of one SELECT over the release's tables, by their own names, such as `gold.customer_product`.

    LabelError when it is anything else, reads anything else, takes longer than SECONDS, or returns too many rows.
    """
    reader = ArrowReader(release)
    try:
        statements = reader.connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise LabelError(
                "labels as SQL must be one SELECT over the tables of the release, such as gold.customer_product"
            )
        reader.create_views(sql)
        for statement in _LOCKDOWN:
            reader.connection.execute(statement)
        with _time_limit(reader.connection):
            return _rows(reader.connection.sql(sql))
    except duckdb.InterruptException:
        raise LabelError(
            f"the labels' SQL ran for {SECONDS:.0f} s and was ended. Select fewer labels, or write them to a file first"
            " and name the file"
        ) from None
    except duckdb.Error as error:
        tables = ", ".join(release.tables)
        raise LabelError(
            f"the labels' SQL cannot be run: {str(error).splitlines()[0].rstrip('.!')}. It may read the tables of"
            f" release {release.number}: {tables}, and no file"
        ) from error
    finally:
        reader.connection.close()


class ArrowReader(LakeReader):
    """A reader with its own DuckDB, which gets the tables of a release as Arrow datasets."""

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB in memory, locked down right before the query."""
        return duckdb.connect()

    def attach(self, qualified: str, delta: DeltaTable) -> None:
        """Register the table as a dataset that pyarrow reads."""
        self.connection.register(qualified, arrow_dataset(delta))


def _rows(query: duckdb.DuckDBPyRelation) -> pa.Table:
    limit = psutil.virtual_memory().total // MEMORY_DIVISOR
    batches, size = [], 0
    with query.to_arrow_reader(BATCH) as reader:
        for batch in reader:
            batches.append(batch)
            size += batch.nbytes
            if size > limit:
                raise LabelError(
                    f"the labels' SQL gives more than {limit >> 20:,} MiB of rows. A training set is made in memory:"
                    " select fewer labels or columns, or write a larger set piece by piece with"
                    " store.get_historical_features(sql, service).to_parquet(path)"
                )
        return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def _time_limit(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Interrupt the query if it still runs after SECONDS."""
    timer = threading.Timer(SECONDS, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
