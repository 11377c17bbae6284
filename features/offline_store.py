"""The offline store: training sets from a release, joined as of each label's instant, by DuckDB's ASOF join or by the data frames of `features.frames`.

One label in is one row out, in the same order: labels may repeat, and a label with a NULL key or no earlier feature row gets NULL features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Literal, NoReturn

import pandas as pd
import pyarrow as pa
from feast.errors import RequestDataNotFoundInEntityDfException
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from features import frames, kinds, labels, queries
from features.labels import LabelError, Labels
from features.lake_reader import LakeReader, SourceError, pinned
from features.queries import identifier
from features.source import GoldTable


class ReleaseOfflineStoreConfig(FeastConfigBaseModel):
    """`release` pins a release by number; without it `MILLRACE_RELEASE` counts, and then the newest.

    `join` says who joins; without it `MILLRACE_JOIN` counts, and then `auto`: cuDF where there is a GPU, and DuckDB elsewhere. The rows are the same.
    """

    type: Literal["features.offline_store.ReleaseOfflineStore"] = "features.offline_store.ReleaseOfflineStore"
    release: int | None = None
    join: Literal["auto", "duckdb", "cudf", "pandas"] | None = None


class ReleaseRetrievalJob(RetrievalJob):
    """Runs when asked for its rows. The release was chosen before, so a job gives the same rows however late it runs."""

    def __init__(
        self, run: Callable[[], pa.Table], metadata: RetrievalMetadata | None = None, on_demand: list[Any] | None = None, full_names: bool = False
    ) -> None:
        self._run = run
        self._metadata = metadata
        self._on_demand = on_demand or []
        self._full_names = full_names

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 (Feast's signature)
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called `view__feature`."""
        return self._full_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """Views that Feast computes on the result."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and the labels' span."""
        return self._metadata

    def to_sql(self) -> str:
        """Not available: a training set takes one query per feature view."""
        raise NotImplementedError("a training set is several queries, one per feature view, so there is no single SQL text. Use to_df() or to_arrow()")

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> NoReturn:
        """Not available: releases are written by the DAG alone."""
        raise NotImplementedError("this offline store is read-only. Keep a training set by writing to_arrow() to a file, with the release's number beside it")


class ReleaseOfflineStore(OfflineStore):
    """Feast's interface to the gold tables of a release."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **_: Any,
    ) -> RetrievalJob:
        """Features as of each label's event_timestamp."""
        reader, joined = LakeReader(pinned(config.offline_store.release)), _JOINS[frames.chosen(config.offline_store.join)]
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        wanted = _wanted(feature_views, feature_refs)
        given = labels.check(_label_table(reader, entity_df), _join_keys(feature_views))
        _check_request_data(given, on_demand)
        _check_names(given, wanted, full_feature_names)
        return ReleaseRetrievalJob(
            run=lambda: _join_all(reader, given, wanted, full_feature_names, joined),
            metadata=RetrievalMetadata(feature_refs, [name for name in given.table.column_names if name != labels.EVENT_TIMESTAMP], *given.span),
            on_demand=[NarrowView(view, given.table.column_names) for view in on_demand],
            full_names=full_feature_names,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: GoldTable,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None,
        end_date: datetime | None,
    ) -> RetrievalJob:
        """The newest row of each key from `start_date` to `end_date`, both inclusive."""
        reader = LakeReader(pinned(config.offline_store.release))
        table, created = _source(data_source).table, created_timestamp_column or None
        times = [timestamp_field, *([created] if created else [])]
        reader.require(table, [*join_key_columns, *feature_name_columns, *times])
        values = {name: _as_served(reader.columns(table)[name], name) for name in [*feature_name_columns, *times]}
        query = queries.newest(reader.table(table), join_key_columns, values, timestamp_field, created, queries.between(timestamp_field, start_date, end_date))
        return ReleaseRetrievalJob(lambda: reader.connection.sql(query).to_arrow_table())

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: GoldTable,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row from `start_date` to `end_date`, both inclusive."""
        reader = LakeReader(pinned(config.offline_store.release))
        table = _source(data_source).table
        names = [*join_key_columns, *feature_name_columns, timestamp_field, *([created_timestamp_column] if created_timestamp_column else [])]
        reader.require(table, names)
        picked = ", ".join(f"{_as_served(reader.columns(table)[name], name)} AS {identifier(name)}" for name in dict.fromkeys(names))
        query = f"SELECT {picked} FROM {reader.table(table)} WHERE {queries.between(timestamp_field, start_date, end_date)}"
        return ReleaseRetrievalJob(lambda: reader.connection.sql(query).to_arrow_table())

    @staticmethod
    def offline_write_batch(config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None) -> NoReturn:
        """Not available: gold tables are audited before they are published."""
        raise NotImplementedError(
            f"feature view {feature_view.name} cannot be written to: its gold table is published only by the DAG `millrace`, after an audit. Land the rows as files and run it"
        )

    @staticmethod
    def write_logged_features(config: RepoConfig, data: Any, source: Any, logging_config: Any, registry: BaseRegistry) -> NoReturn:
        """Not available: the lake holds audited tables only."""
        raise NotImplementedError(
            "served features cannot be logged to the lake, which holds audited tables only. Log them where the model runs, and land them as files"
        )


class NarrowView:
    """An on-demand view that is handed its declared inputs only, and whose results have the declared types even when all are NULL.

    Feast hands such a view the whole training set as Python objects, and takes an all-NULL result as a column without a type.
    """

    def __init__(self, view: OnDemandFeatureView, label_columns: list[str]) -> None:
        self._view = view
        self._label_columns = label_columns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def transform_arrow(self, table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        """One column per feature of the view."""
        inputs = {*self._view.get_request_data_schema()}
        for projection in self._view.source_feature_view_projections.values():
            inputs |= {name for feature in projection.features for name in (feature.name, f"{projection.name_to_use()}__{feature.name}")}
        given = table.select([name for name in table.column_names if name in inputs])
        result = self._view.feature_transformation.transform(self._view._preprocess_arrow_table(_microseconds(given))[0].to_pydict())
        prefix = f"{self._view.projection.name_to_use()}__" if full_feature_names else ""
        return pa.table({prefix + feature.name: pa.array(result[feature.name], kinds.of(feature.dtype, feature.name).arrow) for feature in self._view.features})


@dataclass(frozen=True)
class _Wanted:
    """Features to take from one view, in the caller's order."""

    view: FeatureView
    features: tuple[str, ...]

    def output(self, feature: str, full_names: bool) -> str:
        return f"{self.view.projection.name_to_use()}__{feature}" if full_names else feature


def _wanted(views: list[FeatureView], refs: list[str]) -> list[_Wanted]:
    asked = [ref.split(":", 1) for ref in refs]
    picked = [_Wanted(view, tuple(dict.fromkeys(feature for name, feature in asked if name == view.projection.name_to_use()))) for view in views]
    return [one for one in picked if one.features]


def _join_keys(views: list[FeatureView]) -> dict[str, Any]:
    return {view.projection.join_key_map.get(key.name, key.name): key.dtype for view in views for key in view.entity_columns}


def _label_table(reader: LakeReader, entity_df: Any) -> pa.Table:
    if isinstance(entity_df, str):
        reader.offer(entity_df)
        return reader.connection.sql(entity_df).to_arrow_table()
    if not isinstance(entity_df, pd.DataFrame):
        raise LabelError(
            f"entity_df is {type(entity_df).__name__}. Give a pandas DataFrame or the text of a DuckDB query, with the join keys and event_timestamp"
        )
    return labels.from_frame(entity_df)


def _check_request_data(given: Labels, on_demand: list[OnDemandFeatureView]) -> None:
    for view in on_demand:
        for name in view.get_request_data_schema():
            if name not in given.table.column_names:
                raise RequestDataNotFoundInEntityDfException(feature_name=name, feature_view_name=view.name)


def _check_names(given: Labels, wanted: list[_Wanted], full_names: bool) -> None:
    outputs = [one.output(feature, full_names) for one in wanted for feature in one.features]
    clash = sorted(set(outputs) & set(given.table.column_names))
    if clash:
        raise LabelError(f"entity_df already has {', '.join(clash)}, which is also the name of a feature. Rename it, or ask with full_feature_names=True")


def _join_all(reader: LakeReader, given: Labels, wanted: list[_Wanted], full_names: bool, join: _Join) -> pa.Table:
    result = given.table
    reader.connection.register("labels", given.joinable)
    for one in wanted:
        joined = join(reader, given, one, _readable(reader, one))
        if joined.num_rows != result.num_rows:
            raise RuntimeError(
                f"{one.view.name}: {result.num_rows:,} labels gave {joined.num_rows:,} rows. This is a defect in features/offline_store.py: please report it"
            )
        for feature in one.features:
            result = result.append_column(one.output(feature, full_names), joined[feature])
    return result


def _readable(reader: LakeReader, one: _Wanted) -> GoldTable:
    """The view's source, which has all that is asked of it."""
    source = _source(one.view.batch_source)
    names = [*(key.name for key in one.view.entity_columns), *one.features]
    reader.require(source.table, [*map(source.column, names), source.event_column, *([source.created_column] if source.created_column else [])])
    return source


def _joined_by_duckdb(reader: LakeReader, _given: Labels, one: _Wanted, source: GoldTable) -> pa.Table:
    return reader.connection.sql(queries.as_of(reader.table(source.table), source, one.view, one.features)).to_arrow_table()


def _joined_by_frames(library: str, reader: LakeReader, given: Labels, one: _Wanted, source: GoldTable) -> pa.Table:
    """DuckDB reads the rows of the labelled keys and casts those that were found; which row belongs to which label is found in data frames."""
    known = reader.connection.sql(queries.known(reader.table(source.table), source, one.view, one.features)).to_arrow_table()
    keys = queries.labelled(one.view)
    rows = frames.as_of(
        frames.library(library),
        frames.Side(tuple(given.joinable[key] for key in keys), given.joinable["__at"]),
        frames.Side(tuple(known[f"__k{i}"] for i in range(len(keys))), known["__at"], known["__created"]),
        one.view.ttl,
    )
    reader.connection.register("taken", known.take(rows).append_column("__row", given.joinable["__row"]))
    return reader.connection.sql(queries.taken(one.view, one.features)).to_arrow_table()


_Join = Callable[[LakeReader, Labels, _Wanted, GoldTable], pa.Table]
_JOINS: dict[str, _Join] = {
    frames.DUCKDB: _joined_by_duckdb,
    frames.CUDF: partial(_joined_by_frames, frames.CUDF),
    frames.PANDAS: partial(_joined_by_frames, frames.PANDAS),
}


def _as_served(duckdb_type: str, name: str) -> str:
    """An expression over a source column; money becomes a double."""
    return f"CAST({identifier(name)} AS DOUBLE)" if duckdb_type.startswith("DECIMAL") else identifier(name)


def _source(source: Any) -> GoldTable:
    if not isinstance(source, GoldTable):
        raise SourceError(
            f"{getattr(source, 'name', source)} is a {type(source).__name__}; this offline store reads GoldTable(table='gold.<name>') sources only"
        )
    return source


def _microseconds(table: pa.Table) -> pa.Table:
    """The same with instants as Arrow hands them out as Python datetimes."""
    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(i, field.name, table[i].cast(pa.timestamp("us", tz=field.type.tz), safe=False))
    return table
