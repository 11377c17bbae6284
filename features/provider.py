"""Feast's provider: what `feast materialize`, `materialize-incremental` and `apply` do in this repository.

Feast loads one view at a time into the store that is being served. Here a release goes online as a whole, after a
comparison with training, so these commands do what `millrace serve` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import click
import pandas as pd
import pyarrow as pa
from feast import FeatureView, OnDemandFeatureView
from feast.base_feature_view import BaseFeatureView
from feast.entity import Entity
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.passthrough_provider import PassthroughProvider
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig

from contracts import project
from contracts.report import UNCHANGED
from features.lake_reader import pinned
from features.offline import labels
from features.offline.labels import JoinKey
from features.online import backends, materialize
from features.registry.servable import ensure_gold

project.current()  # on-demand functions may import its modules


class ReleaseProvider(PassthroughProvider):
    """Millrace's offline and online stores, and a materialization that puts a whole release online."""

    def __init__(self, config: RepoConfig) -> None:
        super().__init__(config)
        self._loaded: dict[str, dict[str, int]] = {}
        """Generation -> view -> rows read from the lake, for the generation that this process loaded last."""

    def materialize_single_feature_view(
        self,
        config: RepoConfig,
        feature_view: FeatureView | OnDemandFeatureView,
        start_date: datetime,  # noqa: ARG002 (Feast's signature; see below)
        end_date: datetime,
        registry: BaseRegistry,
        project: str,
        tqdm_builder: Callable[[int], Any],  # noqa: ARG002 (Feast's signature)
        disable_event_timestamp: bool = False,  # noqa: ARG002 (rows from 1970 to now: `end_date` is now then)
    ) -> None:
        """Put all views of the release online, as of `end_date`'s midnight or the release's horizon, whichever is
        earlier.

        The first view of a call loads all of them; nothing happens where a later day is online already. Table versions,
        not `start_date`, say what was loaded before, so late rows count.
        """
        release = pinned(config.offline_store.release)
        done = materialize.materialize_until(release, end_date)
        registry.refresh(project)  # definitions may have been applied, and Feast is about to write its own copy back
        if done is None:
            served = backends.metadata()
            day = served.horizon if served else "a later day"
            click.echo(f"  nothing to do: what is online is as of {day}, after {end_date:%Y-%m-%dT%H:%M}")
            return
        loaded = {report.view: report.loaded for report in done.views if report.status != UNCHANGED}
        if loaded:
            self._loaded = {done.views[0].generation: loaded}
        for report in (report for report in done.views if report.view == feature_view.name):
            count = self._loaded.get(report.generation, {}).get(report.view)
            how = "online already" if count is None else f"{count:,} loaded"
            click.echo(f"  {report.view}: {report.rows:,} rows of release {release.number} ({how})")

    def _prep_rows_to_write_for_ingestion(
        self,
        feature_view: Any,
        df: pd.DataFrame,
        field_mapping: dict[str, str] | None = None,
    ) -> Any:
        """Pushed rows as Feast prepares them; LabelError where a key has the wrong type."""
        for key in getattr(feature_view, "entity_columns", []):
            if key.name in df and key.name != DUMMY_ENTITY_ID:
                column = pa.chunked_array([pa.array(df[key.name], from_pandas=True)])
                labels.as_key(key.name, column, JoinKey(key.dtype, feature_view.name), labels.ROWS)
        return super()._prep_rows_to_write_for_ingestion(feature_view, df, field_mapping)

    def update_infra(
        self,
        project: str,
        tables_to_delete: Sequence[BaseFeatureView],
        tables_to_keep: Sequence[BaseFeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Update as Feast does. DefinitionError, before any row is dropped, where a view's source is not a gold
        table.
        """
        for view in tables_to_keep:
            if isinstance(view, FeatureView):
                ensure_gold(view.name, view.batch_source)
        super().update_infra(project, tables_to_delete, tables_to_keep, entities_to_delete, entities_to_keep, partial)
