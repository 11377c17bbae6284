"""Labels: the rows that features are requested for, checked and typed before the join. One row in is one row out, in
the same order.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.types import Float32, Float64, Int32, Int64, String

from contracts.interval import midnight
from features import queries, type_mapping
from features.type_mapping import INSTANT
from lake.release import Release
from lake.sql import identifier

if TYPE_CHECKING:
    import duckdb

EVENT_TIMESTAMP = "event_timestamp"


class LabelError(ValueError):
    """The entity_df cannot be joined; the message says which column and what to do."""


class BeyondHorizonError(LabelError):
    """Labels lie after the horizon of the release; the message says how many, and what to do."""


class BeyondHorizonWarning(UserWarning):
    """Labels after the horizon were joined, as allowed; the message says how many."""


@dataclass(frozen=True)
class Horizon:
    """The horizon of a release, up to which its features are known; a label at the horizon itself is fine.

    The row of the horizon's midnight covers all days before it. Later events are in no row yet, so a later label would
    get the features of the horizon, with no sign that they are stale.
    """

    day: str
    release: int

    @classmethod
    def of(cls, release: Release) -> Horizon:
        """The horizon of that release."""
        return cls(release.horizon, release.number)

    @property
    def microseconds(self) -> int:
        """The horizon's midnight, in microseconds since 1970, UTC."""
        return queries.microseconds(midnight(date.fromisoformat(self.day)))

    def count_beyond(self, instants: pa.ChunkedArray) -> int:
        """Number of these instants (or microseconds since 1970, UTC) after the horizon; NULLs do not count."""
        at = instants if pa.types.is_integer(instants.type) else _microseconds(instants).cast(pa.int64())
        return int(pc.sum(pc.greater(at, self.microseconds)).as_py() or 0)

    def sentence(self, beyond: int, rows: int) -> str:
        """A sentence that says how many of the labels lie after the horizon."""
        return f"{beyond:,} of {rows:,} labels lie after {self.day} 00:00 UTC, the horizon of release {self.release}"

    def error(self, beyond: int, rows: int, latest: datetime) -> BeyondHorizonError:
        """The error for labels after the horizon that were not allowed."""
        return BeyondHorizonError(
            f"{self.sentence(beyond, rows)}, up to which its features are known; the latest is"
            f" {latest:%Y-%m-%d %H:%M:%S}. Their features would be those of the horizon, and stale. Drop these labels,"
            " or run `millrace` up to their days first, or allow them: allow_beyond_horizon=True in Python,"
            " --allow-beyond-horizon on the command line, allow_beyond_horizon in the DAG's params,"
            " MILLRACE_BEYOND_HORIZON=allow for the Feast SDK"
        )

    def warning(self, beyond: int, rows: int) -> str:
        """The warning for labels after the horizon that were allowed."""
        return f"{self.sentence(beyond, rows)}: their features are those of the horizon"


@dataclass(frozen=True)
class JoinKey:
    """A key of a feature view: its Feast type, and the view, for messages."""

    dtype: Any
    view: str


@dataclass(frozen=True)
class Origin:
    """Where labels came from, for messages: what they are called there, and how to convert a column."""

    name: str
    key: str
    """A template with the column's `{name}` and its target types `{pandas}` and `{sql}`."""
    instant: str
    fraction: str
    """Why whole numbers may arrive as floats."""


_PANDAS = "pandas makes floats of whole numbers as soon as one is missing: drop such rows"
FRAME = Origin(
    "entity_df",
    "Convert it: entity_df.{name}.astype({pandas!r}), or CAST({name} AS {sql}) in a query",
    "Convert it: pd.to_datetime(entity_df.{name}, utc=True)",
    _PANDAS,
)
ROWS = Origin(
    "the rows",
    "Convert it: rows.{name}.astype({pandas!r})",
    "Convert it: pd.to_datetime(rows.{name}, utc=True)",
    _PANDAS,
)
SQL = Origin(
    "the labels' query",
    "Convert it: CAST({name} AS {sql})",
    "Convert it: CAST({name} AS TIMESTAMPTZ)",
    "DOUBLE is no type of a key",
)


def csv_file(name: str) -> Origin:
    """Labels in a CSV file of that name, whose types are inferred from its cells."""
    types = (
        "A CSV has no types of its own: if its cells cannot look like {sql}, give the labels as .parquet, or select"
        " them with SQL"
    )
    return Origin(
        name,
        types,
        "Write ISO instants, such as 2017-03-01T00:00:00Z, in every row",
        "Write whole numbers as 7, not as 7.0",
    )


def parquet_file(name: str) -> Origin:
    """Labels in a parquet file of that name."""
    return Origin(name, "Write the file again with it as {sql}", "Write the file again with it as TIMESTAMP", _PANDAS)


@dataclass(frozen=True)
class Labels:
    """`table` is what the caller gave; `joinable` has `__row`, `__at` (microseconds, UTC) and each join key in the type
    of its entity.
    """

    table: pa.Table
    joinable: pa.Table
    instants: str
    """The column of the labels' instants."""

    def slice(self, start: int, rows: int) -> Labels:
        """`rows` of the labels, from row `start` on."""
        return Labels(self.table.slice(start, rows), self.joinable.slice(start, rows), self.instants)


class LabelSource(Protocol):
    """Labels from any source."""

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""

    @property
    def instants(self) -> str:
        """The column that says as of when."""

    @property
    def span(self) -> tuple[datetime | None, datetime | None]:
        """First and last instant."""

    def counts(self, horizon: Horizon) -> tuple[int, int]:
        """Number of labels after the horizon, and of all labels."""

    def batches(self, rows: int | None) -> Generator[Labels]:
        """Batches of `rows` labels, or one of all for None; at least one batch, which may be empty. `__row` continues
        across batches or starts at 0 in each.
        """


@dataclass(frozen=True)
class InMemoryLabels:
    """Checked labels in memory."""

    labels: Labels

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(self.labels.table.column_names)

    @property
    def instants(self) -> str:
        """The column that says as of when."""
        return self.labels.instants

    @property
    def span(self) -> tuple[datetime | None, datetime | None]:
        """First and last instant."""
        ends = pc.min_max(self.labels.table[self.labels.instants])
        return ends["min"].as_py(), ends["max"].as_py()

    def counts(self, horizon: Horizon) -> tuple[int, int]:
        """Counted in memory."""
        return horizon.count_beyond(self.labels.joinable["__at"]), self.labels.table.num_rows

    def batches(self, rows: int | None) -> Generator[Labels]:
        """Slices of the table."""
        whole = max(self.labels.table.num_rows, 1)
        for start in range(0, whole, rows or whole):
            yield self.labels.slice(start, rows or whole)


class QueriedLabels:
    """Labels of a query, streamed in batches. Nothing else may use the query's connection in the meantime."""

    def __init__(self, query: duckdb.DuckDBPyRelation, join_keys: dict[str, JoinKey]) -> None:
        self._query = query
        self._join_keys = join_keys
        self.instants = check(query.limit(0).to_arrow_table(), join_keys, SQL).instants

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return list(self._query.columns)

    @property
    def span(self) -> tuple[datetime | None, datetime | None]:
        """First and last instant; runs the query again."""
        column = identifier(self.instants)
        ends = self._query.aggregate(f"min({column}) AS low, max({column}) AS high").to_arrow_table()
        low, high = (_as_instants(ends[name], self.instants, SQL)[0].as_py() for name in ("low", "high"))
        return low, high

    def counts(self, horizon: Horizon) -> tuple[int, int]:
        """Counted by running the query again."""
        beyond = f"epoch_us(CAST({identifier(self.instants)} AS TIMESTAMPTZ)) > {horizon.microseconds}"
        (row,) = self._query.aggregate(f"count(*) FILTER ({beyond}), count(*)").fetchall()
        return int(row[0]), int(row[1])

    def batches(self, rows: int | None) -> Generator[Labels]:
        """Batches as the query returns them."""
        if rows is None:
            yield check(self._query.to_arrow_table(), self._join_keys, SQL)
            return
        with self._query.to_arrow_reader(rows) as reader:
            empty = True
            for batch in reader:
                empty = False
                yield check(pa.Table.from_batches([batch]), self._join_keys, SQL)
            if empty:
                yield check(reader.schema.empty_table(), self._join_keys)


class HorizonCheckedLabels:
    """Labels that are checked against the horizon: later ones raise BeyondHorizonError, or are counted where they are
    `allowed`.

    Labels in memory are checked at once, those of a query batch by batch: counting first would run the query twice.
    """

    def __init__(self, labels: LabelSource, horizon: Horizon, *, allowed: bool) -> None:
        self._labels = labels
        self._horizon = horizon
        self._allowed = allowed
        self.beyond = 0
        """Labels after the horizon in the last read."""
        self.rows = 0
        """Labels in the last read."""
        if isinstance(labels, InMemoryLabels) and not allowed:
            self._raise_beyond_horizon(labels.counts(horizon)[0])

    @property
    def columns(self) -> list[str]:
        """The names of all columns."""
        return self._labels.columns

    @property
    def instants(self) -> str:
        """The column that says as of when."""
        return self._labels.instants

    @property
    def span(self) -> tuple[datetime | None, datetime | None]:
        """First and last instant."""
        return self._labels.span

    def counts(self, horizon: Horizon) -> tuple[int, int]:
        """Number of labels after the horizon, and of all labels."""
        return self._labels.counts(horizon)

    def batches(self, rows: int | None) -> Generator[Labels]:
        """The same batches; BeyondHorizonError at the first one with a label after the horizon, unless allowed."""
        self.beyond, self.rows = 0, 0
        batches = self._labels.batches(rows)
        for batch in batches:
            beyond = self._horizon.count_beyond(batch.joinable["__at"])
            if beyond and not self._allowed:
                batches.close()  # a query's connection takes no other while its rows are read
                self._raise_beyond_horizon(beyond)
            self.beyond, self.rows = self.beyond + beyond, self.rows + batch.table.num_rows
            yield batch

    def warn(self) -> None:
        """Warn of labels after the horizon, if any were read."""
        if self.beyond:
            warnings.warn(self._horizon.warning(self.beyond, self.rows), BeyondHorizonWarning, stacklevel=3)

    def _raise_beyond_horizon(self, beyond: int) -> None:
        if beyond:
            latest = self._labels.span[1]
            raise self._horizon.error(*self._labels.counts(self._horizon), latest or datetime.max)


def from_frame(frame: pd.DataFrame) -> pa.Table:
    """An Arrow table of a pandas entity_df; columns of Python datetimes become instants."""
    if EVENT_TIMESTAMP in frame and frame[EVENT_TIMESTAMP].dtype == object:
        frame = frame.assign(**{EVENT_TIMESTAMP: _instants(frame[EVENT_TIMESTAMP])})
    _ensure_distinct([str(name) for name in frame.columns], FRAME)
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise LabelError(
            f"entity_df has a column of mixed types: {'; '.join(map(str, error.args))}. Give each column one type, with"
            " frame.astype(...)"
        ) from error


def _ensure_distinct(names: list[str], origin: Origin) -> None:
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise LabelError(f"{origin.name} has more than one column {', '.join(duplicates)}. Rename or drop all but one")


def check(table: pa.Table, join_keys: dict[str, JoinKey], origin: Origin = FRAME) -> Labels:
    """Labels with an instant and keys in the types of their entities. LabelError, which names their origin, for missing
    or duplicate columns and wrong types.
    """
    _ensure_distinct(table.column_names, origin)
    instant = _instant_column(table)
    missing = [name for name in (instant, *join_keys) if name not in table.column_names]
    if missing:
        blank = [name for name in table.column_names if name != name.strip() and name.strip() in missing]
        hint = f" Remove the blanks around {', '.join(map(str.strip, blank))}." if blank else ""
        raise LabelError(
            f"{origin.name} has no column {', '.join(missing)}. Got:"
            f" {', '.join(map(repr, table.column_names) if blank else table.column_names)}.{hint} These features need"
            f" {', '.join([*join_keys, EVENT_TIMESTAMP])}, the instant as of which a row's features are read"
        )
    instants = _as_instants(table[instant], instant, origin)
    _ensure_calendar(instants, instant)
    table = table.set_column(table.column_names.index(instant), instant, instants)
    keys = {name: as_key(name, table[name], key, origin) for name, key in join_keys.items()}
    return Labels(
        table,
        pa.table({"__row": np.arange(table.num_rows), "__at": _microseconds(instants).cast(pa.int64()), **keys}),
        instant,
    )


def _instant_column(table: pa.Table) -> str:
    """`event_timestamp`, or where there is none, the only timestamp column, as in Feast."""
    candidates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    return candidates[0] if EVENT_TIMESTAMP not in table.column_names and len(candidates) == 1 else EVENT_TIMESTAMP


def _instants(column: pd.Series) -> pd.Series:
    texts = [value for value in column if isinstance(value, str)]
    if texts:
        raise LabelError(
            f"{EVENT_TIMESTAMP} is text, such as {texts[0]!r}, not instants. Convert it:"
            f" pd.to_datetime(entity_df.{EVENT_TIMESTAMP}, utc=True)"
        )
    try:
        return pd.to_datetime(column, utc=True)
    except pd.errors.OutOfBoundsDatetime:  # before 1677 or after 2262, outside the range of nanoseconds
        aware = [value if value is None or value.tzinfo else value.replace(tzinfo=UTC) for value in column]
        return pd.Series(aware, column.index).astype("datetime64[us, UTC]")


def _as_instants(column: pa.ChunkedArray, name: str, origin: Origin) -> pa.ChunkedArray:
    if pa.types.is_date(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.timestamp("us")).cast(INSTANT)
    if not pa.types.is_timestamp(column.type):
        raise LabelError(
            f"{name} is {column.type} in {origin.name}, not an instant. {origin.instant.format(name=name)}"
        )
    return column.cast(pa.timestamp(column.type.unit, tz="UTC"))


def _ensure_calendar(instants: pa.ChunkedArray, name: str) -> None:
    """Raise LabelError for instants outside of the years 1 to 9999, such as infinity, which Python's datetime cannot
    hold.
    """
    first, last = (
        pa.scalar(end, INSTANT) for end in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    )
    at = _microseconds(instants)
    outside = pc.sum(pc.or_(pc.less(at, first), pc.greater(at, last))).as_py() or 0
    if outside:
        raise LabelError(
            f"{outside:,} of {len(at):,} labels have {name} outside of the years 1 to 9999. Correct or drop such rows"
        )


def _microseconds(instants: pa.ChunkedArray) -> pa.ChunkedArray:
    """In microseconds, rounded down. Rounding takes ten times as long as a cast, so it is only done where needed."""
    try:
        return instants.cast(INSTANT)
    except pa.ArrowInvalid:
        return pc.floor_temporal(instants, unit="microsecond").cast(INSTANT, safe=False)


def as_key(name: str, column: pa.ChunkedArray, key: JoinKey, origin: Origin = FRAME) -> pa.ChunkedArray:
    """A key column in the Arrow type of the view's key; LabelError where its type is another one or a value does not
    fit.
    """
    expected = type_mapping.of(key.dtype, name).arrow
    if pa.types.is_null(column.type):
        return column.cast(expected)
    if not _is_kind_of(column.type, key.dtype):
        raise LabelError(
            f"{name} is {column.type} in {origin.name}, and the key of the feature view {key.view} is {key.dtype}."
            f" Keys are not converted. {_remedy(name, column.type, key.dtype, origin)}"
        )
    try:
        return _without_nan(column).cast(expected)
    except pa.ArrowInvalid as error:
        raise LabelError(
            f"{name} has a value that is no {key.dtype}, the type of the key of the feature view {key.view}:"
            f" {str(error).rstrip('.')}. Correct or drop such rows"
        ) from error


def _is_kind_of(type_: pa.DataType, dtype: Any) -> bool:
    """Whether a column's type matches the key's, at any width. Floats are not whole numbers, even without a
    fraction.
    """
    if dtype in (Int64, Int32):
        return bool(pa.types.is_integer(type_))
    if dtype in (Float64, Float32):
        return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))
    if dtype == String:
        return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_dictionary(type_))
    return bool(type_ == type_mapping.of(dtype, "key").arrow)


def _remedy(name: str, type_: pa.DataType, dtype: Any, origin: Origin) -> str:
    """How to convert a column to its key's type, for the labels' origin."""
    pandas, sql = _CASTS.get(dtype, (str(dtype).lower(), str(dtype).upper()))
    cast = origin.key.format(name=name, pandas=pandas, sql=sql)
    return f"{origin.fraction}. {cast}" if dtype in (Int64, Int32) and pa.types.is_floating(type_) else cast


def _without_nan(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


_CASTS = {
    Int64: ("Int64", "BIGINT"),
    Int32: ("Int32", "INTEGER"),
    String: ("string", "VARCHAR"),
    Float64: ("float64", "DOUBLE"),
    Float32: ("float32", "FLOAT"),
}
"""Target types of conversions, in pandas and in SQL."""
