"""Labels as a user gives them (a frame, an Arrow table, a file, SQL), made into one Arrow table with an instant in every row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from contracts import settings, storage
from features import labels
from features.labels import EVENT_TIMESTAMP, LabelError
from features.lake_reader import LakeReader
from features.queries import literal
from features.training import columns
from features.training.services import Service

Given = Any
"""A pandas DataFrame, an Arrow table, a path, or text, which is SQL over the release's tables, unless it ends like a file's name."""
FILES = (".parquet", ".csv")


def table(given: Given, reader: LakeReader, service: Service) -> pa.Table:
    """The labels, typed; where an on-demand view asks for a request time and they have none, it is the label's own instant."""
    found = _raw(given, reader)
    if not found.num_rows:
        raise LabelError("there are no labels: the label set is empty. Give at least one row with the join keys and event_timestamp")
    found = labels.check(found, service.join_keys).table
    _refuse_without_instant(found[EVENT_TIMESTAMP])
    for name in service.request:
        if name not in found.column_names:
            found = found.append_column(name, found[EVENT_TIMESTAMP])
        elif pa.types.is_date(found[name].type):
            found = found.set_column(found.column_names.index(name), name, found[name].cast(pa.timestamp("us")))
    clash = sorted({*service.columns} & {*found.column_names})
    if clash:
        raise LabelError(f"labels already have {', '.join(clash)}, which is also the name of a feature of {service.name}. Rename the column")
    return columns.plain(found)


def _raw(given: Given, reader: LakeReader) -> pa.Table:
    if isinstance(given, pa.Table):
        return given
    if isinstance(given, pd.DataFrame):
        return labels.from_frame(given)
    if not isinstance(given, Path | str):
        raise LabelError(f"labels are {type(given).__name__}. Give a pandas DataFrame, an Arrow table, the path of a .parquet or .csv file, or SQL")
    if isinstance(given, Path) or given.strip().endswith(FILES):
        return _file(Path(str(given).strip()).expanduser())
    return _selected(given, reader)


def _file(path: Path) -> pa.Table:
    if not path.exists():
        raise LabelError(f"there is no file {path} with labels. Give the path of a .parquet or .csv file, or SQL")
    try:
        return pq.read_table(path) if path.suffix == ".parquet" else pa.csv.read_csv(path)
    except pa.ArrowInvalid as error:
        if path.suffix == ".csv" and not path.read_text().strip():
            raise LabelError(f"{path} is empty: there are no labels. Give a line of column names and at least one row") from None
        raise LabelError(f"{path} cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}. Write the file again") from error


def _selected(sql: str, reader: LakeReader) -> pa.Table:
    """The rows of one SELECT, which sees the tables of the release and no other file."""
    connection = reader.connection
    try:
        statements = connection.extract_statements(sql)
        if [one.type for one in statements] != [duckdb.StatementType.SELECT]:
            raise LabelError("labels as SQL must be one SELECT over the tables of the release, such as gold.customer_product")
        reader.offer(sql)
        if not storage.is_remote(settings.lake()):
            connection.execute(f"SET allowed_directories = [{literal(str(settings.lake()))}]; SET enable_external_access = false")
        return connection.sql(sql).to_arrow_table()
    except duckdb.Error as error:
        known = ", ".join(reader.release.tables)
        raise LabelError(
            f"the labels' SQL cannot be run: {str(error).splitlines()[0]}. It may read the tables of release {reader.release.number}: {known}"
        ) from error


def _refuse_without_instant(instants: pa.ChunkedArray) -> None:
    missing = pc.indices_nonzero(instants.is_null())
    if len(missing):
        raise LabelError(
            f"{len(missing):,} of {len(instants):,} labels have no {EVENT_TIMESTAMP} (the first is row {missing[0].as_py() + 1})."
            " Nothing can be said to be known at no instant: fill it in, or drop these rows"
        )
