"""Feast's offline store over the tables of a release; `features.offline.as_of` does the joins.

One label in is one row out, in the same order: labels may repeat, and a label with a NULL key or no earlier feature row
gets NULL features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

import pandas as pd
import pyarrow as pa
from feast import FileSource
from feast.data_source import DataSource
from feast.errors import RequestDataNotFoundInEntityDfException
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from features import queries, type_mapping
from features.lake_reader import LakeReader, pinned
from features.offline import as_of, labels, ranges, saved_datasets
from features.offline.labels import (
    Horizon,
    HorizonCheckedLabels,
    InMemoryLabels,
    JoinKey,
    LabelError,
    LabelSource,
    QueriedLabels,
)
from lake import settings
from lake.release import Release
from lake.sql import identifier

PIECE_ROWS = 100_000
"""Rows in memory at a time while a training set is saved."""
Pieces = Callable[[int | None], Iterator[pa.Table]]


class ReleaseOfflineStoreConfig(FeastConfigBaseModel):
    """`release` pins a release by number; default `MILLRACE_RELEASE`, then the newest.

    `beyond_horizon` says what happens to labels after the release's horizon: `refuse` or `allow`; default
    `MILLRACE_BEYOND_HORIZON`. `join` says what joins; default `MILLRACE_JOIN`, then `auto`: cuDF where there is a GPU,
    DuckDB elsewhere. The rows are the same. `session` is the dotted name of a function that opens a Spark Connect
    session, used only where Spark joins.
    """

    type: Literal["features.offline.store.ReleaseOfflineStore"] = "features.offline.store.ReleaseOfflineStore"
    release: int | None = None
    beyond_horizon: Literal["refuse", "allow"] | None = None
    join: Literal["auto", "duckdb", "cudf", "spark"] | None = None
    session: str | None = None


class ReleaseRetrievalJob(RetrievalJob):
    """A lazy job: it runs when its rows are read. Its release is fixed, so it returns the same rows whenever it runs.

    `pieces` makes the rows without on-demand features, `rows` at a time, or all at once for None; `metadata` makes the
    metadata on first use.
    """

    def __init__(
        self,
        pieces: Pieces,
        release: Release,
        metadata: Callable[[], RetrievalMetadata | None] = lambda: None,
        on_demand: list[Any] | None = None,
        full_names: bool = False,
        labels: HorizonCheckedLabels | None = None,
    ) -> None:
        self._labels = labels
        self._pieces = pieces
        self._release = release
        self._metadata = metadata
        self._on_demand = on_demand or []
        self._full_names = full_names

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 (Feast's signature)
        whole = next(self._pieces(None))
        self._warn()
        return whole

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    @property
    def beyond_horizon(self) -> int:
        """Labels after the release's horizon in the last read: 0 unless such labels were allowed."""
        return self._labels.beyond if self._labels else 0

    @property
    def full_feature_names(self) -> bool:
        """Whether features are called `view__feature`."""
        return self._full_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        """On-demand views, which Feast computes on the result."""
        return self._on_demand

    @cached_property
    def metadata(self) -> RetrievalMetadata | None:
        """Features, keys and the labels' span."""
        return self._metadata()

    def to_sql(self) -> str:
        """Not available: a training set takes one query per feature view."""
        raise NotImplementedError(
            "a training set is several queries, one per feature view, so there is no single SQL text. Use to_df() or"
            " to_arrow()"
        )

    def pieces(self, rows: int = PIECE_ROWS) -> Iterator[pa.Table]:
        """The result in order, `rows` at a time, with on-demand features; at least one piece, empty when there are no
        rows.
        """
        # before the labels' query is open: another query on its connection would end it
        metadata = self.metadata if self._on_demand else None
        for piece in self._pieces(rows):
            yield ReleaseRetrievalJob(
                _single_piece(piece), self._release, lambda: metadata, self._on_demand, self._full_names
            ).to_arrow()
        self._warn()

    def _warn(self) -> None:
        if self._labels:
            self._labels.warn()

    def to_parquet(self, path: str, *, overwrite: bool = False, rows: int = PIECE_ROWS) -> None:
        """Write the result to one parquet file, `rows` at a time."""
        saved_datasets.to_parquet(self.pieces(rows), path, self._release, overwrite=overwrite)

    def to_delta(self, path: str, *, overwrite: bool = False, rows: int = PIECE_ROWS) -> None:
        """Write the result to a Delta table in one commit, `rows` at a time."""
        saved_datasets.to_delta(self.pieces(rows), path, self._release, overwrite=overwrite)

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:  # noqa: ARG002 (Feast's signature)
        """Write the result to the storage of `store.create_saved_dataset`, piece by piece."""
        saved_datasets.save(self.pieces(), storage, self._release, overwrite=allow_overwrite)


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
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        **_: Any,
    ) -> RetrievalJob:
        """Features as of each label's event_timestamp.

        Without labels (`entity_df` None): as of each feature row from `start_date` to `end_date`, see
        `features.offline.ranges`.
        """
        reader, joins = (
            LakeReader(pinned(config.offline_store.release), shared=True),
            as_of.select_joins(config.offline_store.join, config.offline_store.session),
        )
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        requested = as_of.requested_features(feature_views, feature_refs)
        if entity_df is None:
            entity_df = ranges.labels(
                reader.release, [selection.view for selection in requested], on_demand, start_date, end_date
            )
        checked = _checked_labels(
            _labels(reader.release, entity_df, as_of.join_keys(feature_views)),
            reader.release,
            config.offline_store.beyond_horizon,
        )
        _check_request_data(checked.columns, on_demand)
        as_of.check_names(checked.columns, requested, full_feature_names)
        return ReleaseRetrievalJob(
            as_of.AsOfJoin(reader, checked, requested, full_feature_names, joins).pieces,
            reader.release,
            lambda: RetrievalMetadata(
                feature_refs, [name for name in checked.columns if name != checked.instants], *checked.span
            ),
            [DeclaredInputsView(view, checked.columns) for view in on_demand],
            full_feature_names,
            checked,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime | None,
        end_date: datetime | None,
    ) -> RetrievalJob:
        """The newest row of each key from `start_date` to `end_date`, both inclusive."""
        reader = LakeReader(pinned(config.offline_store.release), shared=True)
        table, created = as_of.gold(data_source).table, created_timestamp_column or None
        times = [timestamp_field, *([created] if created else [])]
        reader.require(table, [*join_key_columns, *feature_name_columns, *times])
        values = {name: _as_served(reader.columns(table)[name], name) for name in [*feature_name_columns, *times]}
        query = queries.newest(
            reader.table(table),
            join_key_columns,
            values,
            timestamp_field,
            created,
            queries.between(timestamp_field, start_date, end_date),
        )
        return ReleaseRetrievalJob(_query_pieces(reader, query), reader.release)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row from `start_date` to `end_date`, both inclusive; `data_source` may also be a saved dataset's."""
        names = [
            *join_key_columns,
            *feature_name_columns,
            timestamp_field,
            *([created_timestamp_column] if created_timestamp_column else []),
        ]
        if isinstance(data_source, FileSource):
            reader, table = saved_datasets.open_saved(data_source)
            picked = ", ".join(map(identifier, dict.fromkeys(names)))
        else:
            reader, name = LakeReader(pinned(config.offline_store.release), shared=True), as_of.gold(data_source).table
            reader.require(name, names)
            table = reader.table(name)
            picked = ", ".join(
                f"{_as_served(reader.columns(name)[column], column)} AS {identifier(column)}"
                for column in dict.fromkeys(names)
            )
        query = f"SELECT {picked} FROM {table} WHERE {queries.between(timestamp_field, start_date, end_date)}"
        return ReleaseRetrievalJob(_query_pieces(reader, query), reader.release)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig, feature_view: FeatureView, table: pa.Table, progress: Callable[[int], Any] | None
    ) -> NoReturn:
        """Not available: gold tables are audited before they are published."""
        raise NotImplementedError(
            f"feature view {feature_view.name} cannot be written to: its gold table is published only by the DAG"
            " `millrace`, after an audit. Land the rows as files and run it"
        )

    @staticmethod
    def write_logged_features(
        config: RepoConfig,  # noqa: ARG004 (Feast's signature)
        data: pa.Table | Path,
        source: LoggingSource,  # noqa: ARG004
        logging_config: LoggingConfig,
        registry: BaseRegistry,  # noqa: ARG004
    ) -> None:
        """Add a parquet file of served features to the folder that the service's `logging_config` names.

        `data` is a table, or a folder of parquet files.
        """
        saved_datasets.log(data, logging_config.destination)


class DeclaredInputsView:
    """An on-demand view that receives only its declared inputs, and whose results have the declared types even when all
    are NULL.

    Feast passes such a view the whole training set as Python objects, and reads an all-NULL result as a column without
    a type.
    """

    def __init__(self, view: OnDemandFeatureView, label_columns: list[str]) -> None:
        self._view = view
        self._label_columns = label_columns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def transform_arrow(self, table: pa.Table, full_feature_names: bool = False) -> pa.Table:
        """One column per feature of the view; Feast itself computes views that are not functions of lists."""
        if self._view.mode != "python" or self._view.singleton:
            return self._view.transform_arrow(table, full_feature_names)
        input_names = {*self._view.get_request_data_schema()}
        for projection in self._view.source_feature_view_projections.values():
            input_names |= {
                name
                for feature in projection.features
                for name in (feature.name, f"{projection.name_to_use()}__{feature.name}")
            }
        inputs = table.select([name for name in table.column_names if name in input_names])
        result = self._view.feature_transformation.transform(
            self._view._preprocess_arrow_table(_microseconds(inputs))[0].to_pydict()
        )
        prefix = f"{self._view.projection.name_to_use()}__" if full_feature_names else ""
        return pa.table(
            {
                prefix + feature.name: pa.array(
                    result[feature.name], type_mapping.of(feature.dtype, feature.name).arrow
                )
                for feature in self._view.features
            }
        )


def _labels(release: Release, entity_df: Any, join_keys: dict[str, JoinKey]) -> LabelSource:
    if isinstance(entity_df, str):
        # a separate connection: the query stays open while pieces are joined on the other one
        reader = LakeReader(release)
        reader.create_views(entity_df)
        return QueriedLabels(reader.connection.sql(entity_df), join_keys)
    if not isinstance(entity_df, pd.DataFrame):
        raise LabelError(
            f"entity_df is {type(entity_df).__name__}. Give a pandas DataFrame or the text of a DuckDB query, with the"
            " join keys and event_timestamp, or None with start_date and end_date"
        )
    return InMemoryLabels(labels.check(labels.from_frame(entity_df), join_keys))


def _checked_labels(source: LabelSource, release: Release, beyond_horizon: str | None) -> HorizonCheckedLabels:
    return HorizonCheckedLabels(
        source, Horizon.of(release), allowed=(beyond_horizon or settings.beyond_horizon()) == settings.ALLOW
    )


def _check_request_data(columns: list[str], on_demand: list[OnDemandFeatureView]) -> None:
    for view in on_demand:
        for name in view.get_request_data_schema():
            if name not in columns:
                raise RequestDataNotFoundInEntityDfException(feature_name=name, feature_view_name=view.name)


def _single_piece(piece: pa.Table) -> Pieces:
    return lambda _: iter([piece])


def _query_pieces(reader: LakeReader, query: str) -> Pieces:
    def pieces(rows: int | None) -> Iterator[pa.Table]:
        relation = reader.connection.sql(query)
        if rows is None:
            yield relation.to_arrow_table()
            return
        yield relation.limit(0).to_arrow_table()
        yield from (pa.Table.from_batches([batch]) for batch in relation.to_arrow_reader(rows))

    return pieces


def _as_served(duckdb_type: str, name: str) -> str:
    """An expression over a source column; decimals become doubles."""
    return f"CAST({identifier(name)} AS DOUBLE)" if duckdb_type.startswith("DECIMAL") else identifier(name)


def _microseconds(table: pa.Table) -> pa.Table:
    """The table with timestamps in microseconds, which Arrow converts to Python datetimes."""
    for i, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type):
            table = table.set_column(i, field.name, table[i].cast(pa.timestamp("us", tz=field.type.tz), safe=False))
    return table
