"""Training sets without labels: `get_historical_features(entity_df=None, start_date=..., end_date=...)`.

Feast documents it as all features of a time range.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from feast import FeatureView
from feast.on_demand_feature_view import OnDemandFeatureView

from contracts.interval import midnight
from features import queries
from features.offline import as_of
from features.offline.labels import EVENT_TIMESTAMP, LabelError
from features.views import REQUEST_TIME
from lake.release import Release
from lake.sql import identifier


def labels(
    release: Release,
    views: Sequence[FeatureView],
    on_demand: Sequence[OnDemandFeatureView],
    start: datetime | None,
    end: datetime | None,
) -> str:
    """SQL of labels: one row per entity and instant at which a feature row became known, ordered by instant and key.

    From `start` to `end`, both inclusive, and none after the release's horizon. Entities are those of the views that
    have all keys of the request; views with fewer keys are joined to them as to any label. `request_time` is the
    instant itself.
    """
    if start is None:
        raise LabelError(
            "without an entity_df, start_date is needed: the first instant whose feature rows to return. end_date is"
            " now unless you give it"
        )
    keys = as_of.join_keys(views)
    entities = [view for view in views if {*queries.label_keys(view)} == {*keys}]
    if not entities:
        raise LabelError(
            f"without an entity_df, one of the feature views must have all keys of the request, {', '.join(keys)},"
            f" and none of {', '.join(view.name for view in views)} has."
            " Ask for fewer views, or give an entity_df"
        )
    horizon = midnight(date.fromisoformat(release.horizon))
    until = horizon if end is None else min(queries.utc(end), horizon)
    rows = " UNION ".join(_rows(view, queries.utc(start), until) for view in entities)
    has_request_time = any(REQUEST_TIME in view.get_request_data_schema() for view in on_demand)
    moment = f", {EVENT_TIMESTAMP} AS {REQUEST_TIME}" if has_request_time else ""
    return f"SELECT *{moment} FROM ({rows}) ORDER BY {', '.join([EVENT_TIMESTAMP, *map(identifier, keys)])}"


def _rows(view: FeatureView, start: datetime, end: datetime) -> str:
    """Distinct keys (under the labels' names for them, sorted by name) and instants of a view's rows."""
    source = as_of.gold(view.batch_source)
    columns = [source.column(key.name) for key in view.entity_columns]
    names = dict(zip(queries.label_keys(view), columns, strict=True))
    selected = [f"{identifier(names[label])} AS {identifier(label)}" for label in sorted(names)]
    selected.append(f"{identifier(source.event_column)} AS {EVENT_TIMESTAMP}")
    in_range = queries.between(source.event_column, start, end)
    return f"SELECT DISTINCT {', '.join(selected)} FROM {source.table} WHERE {in_range}"
