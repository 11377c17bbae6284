"""SQL of a user, run where it reaches the tables of one release and nothing else: no file, no bucket, no network, no
setting.

The text may come over Airflow's REST API, from somebody who may trigger a DAG and may not read the machine's files. It
runs in a DuckDB of its own, to which the tables are handed as Arrow data sets. So DuckDB itself opens no file, and all
of its ways to one are shut, wherever the lake lies.
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
"""A query that takes longer is ended."""
SHARE_OF_MEMORY = 4
"""The rows of a query may take one part in so many of the machine's memory: they are joined and written from memory."""
BATCH = 100_000
_SHUT = (
    "SET TimeZone = 'UTC'",
    "SET preserve_insertion_order = false",
    "SET enable_progress_bar = false",
    "SET python_enable_replacements = false",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET temp_directory = ''",  # a query that outgrows memory fails, and does not fill the disk
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


def select(sql: str, release: Release) -> pa.Table:
    """The rows of one SELECT over the release's tables, which have their own names in it, such as
    `gold.customer_product`.

    LabelError when it is no such SELECT, reaches for anything else, takes longer than SECONDS, or has too many rows.
    """
    reader = ArrowReader(release)
    try:
        statements = reader.connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise LabelError(
                "labels as SQL must be one SELECT over the tables of the release, such as gold.customer_product"
            )
        reader.offer(sql)
        for statement in _SHUT:
            reader.connection.execute(statement)
        with _limited(reader.connection):
            return _rows(reader.connection.sql(sql))
    except duckdb.InterruptException:
        raise LabelError(
            f"the labels' SQL ran for {SECONDS:.0f} s and was ended. Select fewer labels, or write them to a file first"
            " and name the file"
        ) from None
    except duckdb.Error as error:
        known = ", ".join(release.tables)
        raise LabelError(
            f"the labels' SQL cannot be run: {str(error).splitlines()[0].rstrip('.!')}. It may read the tables of"
            f" release {release.number}: {known}, and no file"
        ) from error
    finally:
        reader.connection.close()


class ArrowReader(LakeReader):
    """A DuckDB of its own that knows the tables of a release as Arrow data sets, and no file system but the
    machine's.
    """

    def connect(self) -> duckdb.DuckDBPyConnection:
        """A DuckDB in memory. Its settings come before the query, all at once."""
        return duckdb.connect()

    def attach(self, qualified: str, delta: DeltaTable) -> None:
        """Register the table; its rows are read by pyarrow."""
        self.connection.register(qualified, arrow_dataset(delta))


def _rows(query: duckdb.DuckDBPyRelation) -> pa.Table:
    most = psutil.virtual_memory().total // SHARE_OF_MEMORY
    batches, size = [], 0
    with query.to_arrow_reader(BATCH) as reader:
        for batch in reader:
            batches.append(batch)
            size += batch.nbytes
            if size > most:
                raise LabelError(
                    f"the labels' SQL gives more than {most >> 20:,} MiB of rows. A training set is made in memory:"
                    " select fewer labels or columns, or write a larger set piece by piece with"
                    " store.get_historical_features(sql, service).to_parquet(path)"
                )
        return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def _limited(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """End what still runs after SECONDS."""
    timer = threading.Timer(SECONDS, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
