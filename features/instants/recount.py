"""DuckDB SQL that recounts features at a few labels' instants: every event of the key is looked at, and each window is
a plain filter.

It shares no code with `lookups`, `offline` and `cluster`, so that an error there shows as a difference.
"""

from __future__ import annotations

from collections.abc import Sequence

from feast import FeatureView

from contracts.aggregations import Aggregation, Count, Distinct, First, Latest, Max, Mean, Min, Ratio, Sum
from features import queries, type_mapping
from features.instants.declaration import Feature, features, of_view
from features.source import GoldTable
from lake.sql import identifier


def of_sample(table: str, source: GoldTable, view: FeatureView, requested: Sequence[str], count: int) -> str:
    """`__row` and the features of `count` rows of `labels` (`__row`, `__at`, join keys), always the same ones, in
    Feast's types. A label whose key has no event before its instant has NULL everywhere.
    """
    known = {feature.column.name: feature for feature in features(of_view(view))}
    mappings = {field.name: type_mapping.of(field.dtype, field.name) for field in view.features}
    recounted = []
    for name in requested:
        cast = f"CAST({_recount(known[name])} AS {known[name].column.type.duckdb})"
        any_event = f"CASE WHEN count(e._at) > 0 THEN {mappings[name].offline.format(cast)} END"
        recounted.append(f"{any_event} AS {identifier(name)}")
    own = [source.column(key.name) for key in view.entity_columns]
    same = " AND ".join(
        f"e.{identifier(key)} = l.{identifier(name)}" for key, name in zip(own, queries.label_keys(view), strict=True)
    )
    sample = f"SELECT * FROM labels ORDER BY hash(__row), __row LIMIT {count}"
    events = f"SELECT *, epoch_us({identifier(source.event_column)}) AS _at FROM {table}"
    return (
        f"SELECT l.__row, {', '.join(recounted)} FROM ({sample}) l LEFT JOIN ({events}) e ON {same} AND e._at < l.__at"
        " GROUP BY l.__row"
    )


def _recount(feature: Feature) -> str:
    part, measures = feature.part, [measure.column.name if measure.column else "" for measure in feature.measures]
    inside = "e._at IS NOT NULL"
    if feature.microseconds is not None:
        inside = f"e._at >= l.__at - {feature.microseconds}"
    values = [f"e.{identifier(name)}" if name else "" for name in measures]
    if isinstance(part, Ratio):
        top, bottom = _amount(part.part, values[0], inside), _amount(part.whole, values[1], inside)
        empty = "NULL" if part.empty is None else f"{part.empty!r}::DOUBLE"
        return f"if({bottom} = 0, {empty}, {top}::DOUBLE / {bottom}::DOUBLE)"
    [value] = values
    if isinstance(part, Mean):
        terms = f"count({value}) FILTER ({inside})"
        return f"if({terms} = 0, NULL, {_amount(part, value, inside)}::DOUBLE / {terms}::DOUBLE)"
    if isinstance(part, (Min, Max)):
        return f"{'min' if isinstance(part, Min) else 'max'}({value}) FILTER ({inside})"
    if isinstance(part, (Latest, First)):
        return _nearest(part, value, inside)
    return _amount(part, value, inside)


def _amount(part: Aggregation, value: str, inside: str) -> str:
    if isinstance(part, Count):
        return f"count(*) FILTER ({inside}{f' AND {value}' if value else ''})"
    if isinstance(part, Distinct):
        return f"count(DISTINCT {value}) FILTER ({inside})"
    if isinstance(part, (Sum, Mean)):
        return f"coalesce(sum({value}) FILTER ({inside}), 0)"
    raise ValueError(f"{type(part).__name__} has no value at instants")


def _nearest(part: Aggregation, value: str, inside: str) -> str:
    function = "max" if isinstance(part, Latest) else "min"
    if not part.of:
        return f"make_timestamptz({function}(e._at) FILTER ({inside}{f' AND {value}' if value else ''}))"
    order = "last" if isinstance(part, Latest) else "first"
    return f"{order}({value} ORDER BY e._at, {value}) FILTER ({inside} AND {value} IS NOT NULL)"
