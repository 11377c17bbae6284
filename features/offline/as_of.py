"""The as-of join of labels with feature views, whole or in pieces, by DuckDB, data frames or Spark.

One label in is one row out, in the same order. Feast's retrieval jobs do not belong here.
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
from features.instants import cluster, declaration, offline
from features.lake_reader import LakeReader, SourceError
from features.offline import frames, spark_join
from features.offline.labels import JoinKey, LabelError, Labels, LabelSource
from features.source import GoldTable

MAX_TAKE_BYTES = 2**31 - 1
"""Bytes; Arrow's `take` fails on a text column that is larger."""


@dataclass(frozen=True)
class RequestedFeatures:
    """Features to take from one view, in the caller's order."""

    view: FeatureView
    features: tuple[str, ...]

    def output(self, feature: str, full_names: bool) -> str:
        """What the training set calls the feature."""
        return f"{self.view.projection.name_to_use()}__{feature}" if full_names else feature


def requested_features(views: list[FeatureView], refs: list[str]) -> list[RequestedFeatures]:
    """The features that `view:feature` references name, by view; without on-demand views."""
    requested = [ref.split(":", 1) for ref in refs]
    selections = [
        RequestedFeatures(
            view, tuple(dict.fromkeys(feature for name, feature in requested if name == view.projection.name_to_use()))
        )
        for view in views
    ]
    return [selection for selection in selections if selection.features]


def join_keys(views: Sequence[FeatureView]) -> dict[str, JoinKey]:
    """The labels' names for the views' keys."""
    return {
        view.projection.join_key_map.get(key.name, key.name): JoinKey(key.dtype, view.name)
        for view in views
        for key in view.entity_columns
    }


def check_names(columns: Sequence[str], requested: list[RequestedFeatures], full_names: bool) -> None:
    """Raise LabelError where a column of the labels has the name of a feature."""
    outputs = [selection.output(feature, full_names) for selection in requested for feature in selection.features]
    clash = sorted(set(outputs) & set(columns))
    if clash:
        raise LabelError(
            f"entity_df already has {', '.join(clash)}, which is also the name of a feature. Rename it, or ask with"
            " full_feature_names=True"
        )


Join = Callable[[LakeReader, Labels, RequestedFeatures, GoldTable], pa.Table]


@dataclass(frozen=True)
class Joins:
    """What joins labels with rows of midnights, and with events."""

    at_midnights: Join
    at_instants: Join


def select_joins(engine: str | None, session: str | None) -> Joins:
    """The configured joins; `session` names the function that opens a Spark session. Data frames join no events."""
    if library := _stand_in.get():
        return Joins(partial(_join_by_frames, library), _join_events_by_duckdb)
    selected = frames.choose(engine)
    if selected == frames.DUCKDB:
        return Joins(_join_by_duckdb, _join_events_by_duckdb)
    if selected == frames.SPARK:
        opener = spark_join.opener(session)
        return Joins(partial(_join_by_spark, opener), partial(_join_events_by_spark, opener))
    return Joins(partial(_join_by_frames, selected), _join_events_by_duckdb)


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
class AsOfJoin:
    """Labels, the features requested for them, the release's reader, and the joins that run."""

    reader: LakeReader
    labels: LabelSource
    requested: list[RequestedFeatures]
    full_names: bool
    joins: Joins

    def pieces(self, rows: int | None) -> Iterator[pa.Table]:
        """Tables of `rows` labels each, or one of all labels for None; at least one table, empty when there are no
        labels.
        """
        for batch in self.labels.batches(rows):
            yield self._join(batch)

    def _join(self, batch: Labels) -> pa.Table:
        result = batch.table
        self.reader.connection.register("labels", batch.joinable)
        for selection in self.requested:
            is_of_instants = declaration.is_of_instants(selection.view)
            join = self.joins.at_instants if is_of_instants else self.joins.at_midnights
            joined = join(self.reader, batch, selection, _readable_source(self.reader, selection))
            if joined.num_rows != result.num_rows:
                raise _row_count_error(selection.view.name, result.num_rows, joined.num_rows)
            for feature in selection.features:
                result = result.append_column(selection.output(feature, self.full_names), joined[feature])
        return result


def _row_count_error(view: str, labels: int, rows: int) -> RuntimeError:
    return RuntimeError(
        f"{view}: {labels:,} labels gave {rows:,} rows, or some gave several. This is a defect in"
        " features/offline/as_of.py: please report it"
    )


def gold(source: Any) -> GoldTable:
    """The source as a GoldTable; SourceError for any other source."""
    if not isinstance(source, GoldTable):
        raise SourceError(
            f"{getattr(source, 'name', source)} is a {type(source).__name__}; this offline store reads"
            " GoldTable(table='gold.<name>') sources only"
        )
    return source


def _readable_source(reader: LakeReader, selection: RequestedFeatures) -> GoldTable:
    """The view's source; SourceError unless its table has all requested columns."""
    source = gold(selection.view.batch_source)
    read = selection.features
    if declaration.is_of_instants(selection.view):
        read = tuple(declaration.columns_of(selection.view, selection.features))
    names = [*(key.name for key in selection.view.entity_columns), *read]
    reader.require(
        source.table,
        [*map(source.column, names), source.event_column, *([source.created_column] if source.created_column else [])],
    )
    return source


def _join_by_duckdb(reader: LakeReader, labels: Labels, selection: RequestedFeatures, source: GoldTable) -> pa.Table:
    sql = queries.as_of(reader.rows(source.table), source, selection.view, selection.features)
    return _in_order(reader, labels, selection, sql)


def _join_events_by_duckdb(
    reader: LakeReader, labels: Labels, selection: RequestedFeatures, source: GoldTable
) -> pa.Table:
    sql = offline.as_of(reader.table(source.table), source, selection.view, selection.features)
    return _in_order(reader, labels, selection, sql)


def _in_order(reader: LakeReader, labels: Labels, selection: RequestedFeatures, sql: str) -> pa.Table:
    """The rows of a query with `__row`, one for each label, in the labels' order."""
    matches = reader.connection.sql(sql).to_arrow_table()
    if matches.nbytes <= MAX_TAKE_BYTES:
        return matches.take(_positions(matches["__row"], labels.joinable["__row"], selection.view.name))
    reader.connection.register("matches", matches)
    return reader.connection.sql(queries.in_order()).to_arrow_table()


def _positions(matched_rows: pa.ChunkedArray, label_rows: pa.ChunkedArray, view: str) -> pa.Array:
    """For each label the position of its row in the result; NULL where there is none."""
    rows = matched_rows.to_numpy() - (label_rows[0].as_py() if len(label_rows) else 0)
    positions = np.full(len(label_rows), -1)
    positions[rows] = np.arange(len(rows))
    if np.count_nonzero(positions >= 0) < len(rows):
        raise _row_count_error(view, len(label_rows), len(rows))
    return pa.array(positions, mask=positions < 0)


def _join_by_frames(
    library: str, reader: LakeReader, labels: Labels, selection: RequestedFeatures, source: GoldTable
) -> pa.Table:
    """DuckDB reads the rows of the labels' keys and casts the matches; the data frames find the matching row of each
    label.
    """
    history = reader.connection.sql(
        queries.history(reader.table(source.table), source, selection.view, selection.features)
    ).to_arrow_table()
    keys = queries.label_keys(selection.view)
    rows = frames.as_of(
        frames.library(library),
        frames.Side(tuple(labels.joinable[key] for key in keys), labels.joinable["__at"]),
        frames.Side(tuple(history[f"__k{i}"] for i in range(len(keys))), history["__at"], history["__created"]),
        selection.view.ttl,
    )
    return _cast(reader, history.take(rows).append_column("__row", labels.joinable["__row"]), selection)


def _join_by_spark(
    session: Callable[[], Any], reader: LakeReader, labels: Labels, selection: RequestedFeatures, source: GoldTable
) -> pa.Table:
    """Spark reads the table and finds each label's row; DuckDB casts the matches, so values equal those of the other
    joins.
    """
    if not labels.joinable.num_rows:  # Spark Connect takes no table without rows
        return _join_by_duckdb(reader, labels, selection, source)
    spark = session()
    history = spark_join.read(spark, source.table, reader.release.tables[source.table])
    return _cast(
        reader, spark_join.as_of(spark, history, labels.joinable, source, selection.view, selection.features), selection
    )


def _join_events_by_spark(
    session: Callable[[], Any], reader: LakeReader, labels: Labels, selection: RequestedFeatures, source: GoldTable
) -> pa.Table:
    """Spark looks up sums and values among the events; DuckDB computes the features from them, as it does from its own
    lookups.
    """
    if not labels.joinable.num_rows:  # Spark Connect takes no table without rows
        return _join_events_by_duckdb(reader, labels, selection, source)
    spark = session()
    history = spark_join.read(spark, source.table, reader.release.tables[source.table])
    matches = cluster.find(spark, history, labels.joinable, source, selection.view, selection.features)
    reader.connection.register("matches", matches)
    return _in_order(reader, labels, selection, cluster.computed(selection.view, selection.features))


def _cast(reader: LakeReader, matches: pa.Table, selection: RequestedFeatures) -> pa.Table:
    reader.connection.register("matches", matches)
    return reader.connection.sql(queries.cast_matches(selection.view, selection.features)).to_arrow_table()
