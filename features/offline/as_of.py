"""The as-of join: labels with each view as of each label's instant, whole or piece by piece, by whichever way of
joining was chosen.

One label in is one row out, in the same order. This knows Feast's views, not its jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from feast.feature_view import FeatureView

from features import queries
from features.lake_reader import LakeReader, SourceError
from features.offline import frames, spark_join
from features.offline.labels import JoinKey, LabelError, Labels, LabelSource
from features.source import GoldTable

TAKEN_AT_ONCE = 2**31 - 1
"""Bytes: Arrow cannot take rows from a column with more text."""


@dataclass(frozen=True)
class Wanted:
    """Features to take from one view, in the caller's order."""

    view: FeatureView
    features: tuple[str, ...]

    def output(self, feature: str, full_names: bool) -> str:
        """What the training set calls the feature."""
        return f"{self.view.projection.name_to_use()}__{feature}" if full_names else feature


def wanted(views: list[FeatureView], refs: list[str]) -> list[Wanted]:
    """What `view:feature` references ask of the views; on-demand views are not among them."""
    asked = [ref.split(":", 1) for ref in refs]
    picked = [
        Wanted(view, tuple(dict.fromkeys(feature for name, feature in asked if name == view.projection.name_to_use())))
        for view in views
    ]
    return [one for one in picked if one.features]


def join_keys(views: Sequence[FeatureView]) -> dict[str, JoinKey]:
    """What labels call the keys of the views."""
    return {
        view.projection.join_key_map.get(key.name, key.name): JoinKey(key.dtype, view.name)
        for view in views
        for key in view.entity_columns
    }


def check_names(columns: Sequence[str], wanted: list[Wanted], full_names: bool) -> None:
    """Raise LabelError where a column of the labels has the name of a feature."""
    outputs = [one.output(feature, full_names) for one in wanted for feature in one.features]
    clash = sorted(set(outputs) & set(columns))
    if clash:
        raise LabelError(
            f"entity_df already has {', '.join(clash)}, which is also the name of a feature. Rename it, or ask with"
            " full_feature_names=True"
        )


Join = Callable[[LakeReader, Labels, Wanted, GoldTable], pa.Table]


def joiner(who: str | None, session: str | None) -> Join:
    """The configured join; `session` names the function that opens a Spark session."""
    if library := _stand_in.get():
        return partial(_joined_by_frames, library)
    chosen = frames.chosen(who)
    if chosen == frames.DUCKDB:
        return _joined_by_duckdb
    if chosen == frames.SPARK:
        return partial(_joined_by_spark, spark_join.opener(session))
    return partial(_joined_by_frames, chosen)


_stand_in: ContextVar[str | None] = ContextVar("stand_in", default=None)


@contextmanager
def stand_in(library: str) -> Iterator[None]:
    """Join with this data-frame library inside the block, whatever the settings say.

    For tests and benchmarks: pandas runs the code of cuDF on a machine without a GPU.
    """
    token = _stand_in.set(library)
    try:
        yield
    finally:
        _stand_in.reset(token)


@dataclass(frozen=True)
class Joined:
    """Labels, what is wanted for them, of which release, and who joins."""

    reader: LakeReader
    labels: LabelSource
    wanted: list[Wanted]
    full_names: bool
    join: Join

    def pieces(self, rows: int | None) -> Iterator[pa.Table]:
        """Tables of so many labels, or one of all; at least one, which is empty when there are no labels."""
        for given in self.labels.batches(rows):
            yield self._joined(given)

    def _joined(self, given: Labels) -> pa.Table:
        result = given.table
        self.reader.connection.register("labels", given.joinable)
        for one in self.wanted:
            joined = self.join(self.reader, given, one, _readable(self.reader, one))
            if joined.num_rows != result.num_rows:
                raise _defect(one.view.name, result.num_rows, joined.num_rows)
            for feature in one.features:
                result = result.append_column(one.output(feature, self.full_names), joined[feature])
        return result


def _defect(view: str, labels: int, rows: int) -> RuntimeError:
    return RuntimeError(
        f"{view}: {labels:,} labels gave {rows:,} rows, or some gave several. This is a defect in"
        " features/offline/as_of.py: please report it"
    )


def gold(source: Any) -> GoldTable:
    """The source, or SourceError if it is of another kind."""
    if not isinstance(source, GoldTable):
        raise SourceError(
            f"{getattr(source, 'name', source)} is a {type(source).__name__}; this offline store reads"
            " GoldTable(table='gold.<name>') sources only"
        )
    return source


def _readable(reader: LakeReader, one: Wanted) -> GoldTable:
    """The view's source, which has all that is asked of it."""
    source = gold(one.view.batch_source)
    names = [*(key.name for key in one.view.entity_columns), *one.features]
    reader.require(
        source.table,
        [*map(source.column, names), source.event_column, *([source.created_column] if source.created_column else [])],
    )
    return source


def _joined_by_duckdb(reader: LakeReader, given: Labels, one: Wanted, source: GoldTable) -> pa.Table:
    found = reader.connection.sql(
        queries.as_of(reader.rows(source.table), source, one.view, one.features)
    ).to_arrow_table()
    if found.nbytes <= TAKEN_AT_ONCE:
        return found.take(_places(found["__row"], given.joinable["__row"], one.view.name))
    reader.connection.register("found", found)
    return reader.connection.sql(queries.in_order()).to_arrow_table()


def _places(found: pa.ChunkedArray, asked: pa.ChunkedArray, view: str) -> pa.Array:
    """For each label the place of its row among those that were found; NULL where there is none."""
    rows = found.to_numpy() - (asked[0].as_py() if len(asked) else 0)
    places = np.full(len(asked), -1)
    places[rows] = np.arange(len(rows))
    if np.count_nonzero(places >= 0) < len(rows):
        raise _defect(view, len(asked), len(rows))
    return pa.array(places, mask=places < 0)


def _joined_by_frames(library: str, reader: LakeReader, given: Labels, one: Wanted, source: GoldTable) -> pa.Table:
    """DuckDB reads the rows of the labelled keys and casts those that were found; which row belongs to which label is
    found in data frames.
    """
    known = reader.connection.sql(
        queries.known(reader.table(source.table), source, one.view, one.features)
    ).to_arrow_table()
    keys = queries.labelled(one.view)
    rows = frames.as_of(
        frames.library(library),
        frames.Side(tuple(given.joinable[key] for key in keys), given.joinable["__at"]),
        frames.Side(tuple(known[f"__k{i}"] for i in range(len(keys))), known["__at"], known["__created"]),
        one.view.ttl,
    )
    return _cast(reader, known.take(rows).append_column("__row", given.joinable["__row"]), one)


def _joined_by_spark(
    session: Callable[[], Any], reader: LakeReader, given: Labels, one: Wanted, source: GoldTable
) -> pa.Table:
    """Spark reads the table and finds each label's row; DuckDB casts what it found, so that values are those of the
    other joins.
    """
    if not given.joinable.num_rows:  # Spark Connect takes no table without rows
        return _joined_by_duckdb(reader, given, one, source)
    spark = session()
    known = spark_join.read(spark, source.table, reader.release.tables[source.table])
    return _cast(reader, spark_join.as_of(spark, known, given.joinable, source, one.view, one.features), one)


def _cast(reader: LakeReader, taken: pa.Table, one: Wanted) -> pa.Table:
    reader.connection.register("taken", taken)
    return reader.connection.sql(queries.taken(one.view, one.features)).to_arrow_table()
