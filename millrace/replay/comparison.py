"""Compare what the stream served with what the batch computes, over the Feast SDK alone.

Views of instants are read before the release, from its predecessor and the messages, and after it with
`get_historical_features`. Views of midnights are read after the release, online and offline.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from contracts import catalog
from contracts.aggregations import entity_columns
from contracts.model import Layer, Table
from features.views import REQUEST_TIME
from lake import settings
from millrace.replay.schedule import Event

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

INSTANTS = 3
"""How many instants of the day each entity is compared at, besides one soon after an event of its own."""
SOON_SECONDS = 1_200
DAY_SECONDS = 86_400
BATCH = 1_000
"""Rows of an online request."""
SHOWN = 5
"""Differences that are kept for the report."""
LABEL_TIME = "event_timestamp"


@dataclass(frozen=True)
class Difference:
    """A value that the stream served otherwise than the batch computes it."""

    feature: str
    row: Mapping[str, Any]
    served: Any
    computed: Any


@dataclass
class Comparison:
    """The values of a view that were compared, and how many differ."""

    view: str
    entities: int
    values: int = 0
    differing: int = 0
    examples: list[Difference] = field(default_factory=list)


@dataclass(frozen=True)
class Served:
    """What a view served: a row per entity and instant, with its features."""

    view: str
    keys: tuple[str, ...]
    entities: int
    rows: list[dict[str, Any]]
    features: tuple[str, ...]


@cache
def store() -> FeatureStore:
    """The feature repository."""
    from feast import FeatureStore

    return FeatureStore(str(settings.CHECKOUT / "features" / "feast_repo"))


def views(of_instants: bool) -> list[Table]:
    """The feature tables of instants, or those of midnights that have windows."""
    tables = [table for table in catalog.tables(Layer.GOLD) if table.aggregates]
    return [table for table in tables if table.aggregates and table.aggregates.is_of_instants == of_instants]


def serve_instants(events: Sequence[Event], day: datetime, seed: int) -> list[Served]:
    """What the views of instants serve for each entity of the events, at random instants of the day."""
    random_source = random.Random(seed)
    served = []
    for table in views(of_instants=True):
        newest = _newest_events(table, events)
        requests = [
            (keys, _instants(day, newest[tuple(keys.values())], random_source)) for keys in entities(table, events)
        ]
        served.append(_serve(table, requests))
    return served


def _newest_events(table: Table, events: Iterable[Event]) -> dict[tuple[Any, ...], datetime]:
    newest: dict[tuple[Any, ...], datetime] = {}
    for event in events:
        keys = tuple(event.entities.get(name) for name in key_names(table))
        newest[keys] = max(event.at, newest.get(keys, event.at))
    return newest


def _instants(day: datetime, newest: datetime, random_source: random.Random) -> list[datetime]:
    """Whole seconds of the day, at random, and one soon after the entity's newest event."""
    chosen = [day + timedelta(seconds=random_source.randrange(1, DAY_SECONDS)) for _ in range(INSTANTS)]
    soon = newest.replace(microsecond=0) + timedelta(seconds=random_source.randrange(1, SOON_SECONDS))
    return [*chosen, min(max(soon, day), day + timedelta(seconds=DAY_SECONDS - 1))]


def serve_midnight(events: Sequence[Event], midnight: datetime) -> list[Served]:
    """What the views of midnights serve for each entity of the events."""
    tables = views(of_instants=False)
    return [_serve(table, [(keys, [midnight]) for keys in entities(table, events)]) for table in tables]


def entities(table: Table, events: Iterable[Event]) -> list[dict[str, Any]]:
    """The distinct keys of a view in the events; none where they lack one of its keys."""
    names = key_names(table)
    distinct = {tuple(event.entities.get(name) for name in names) for event in events}
    return [dict(zip(names, keys, strict=True)) for keys in sorted(keys for keys in distinct if None not in keys)]


def key_names(table: Table) -> tuple[str, ...]:
    """The join keys of a view."""
    return tuple(column.name for column in entity_columns(table))


def _serve(table: Table, requests: Sequence[tuple[dict[str, Any], list[datetime]]]) -> Served:
    features = tuple(feature.name for feature in store().get_feature_view(table.name).features)
    rows = [{**keys, REQUEST_TIME: at} for keys, instants in requests for at in instants]
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        answer = store().get_online_features([f"{table.name}:{name}" for name in features], batch).to_dict()
        for name in features:
            for row, value in zip(batch, answer[name], strict=True):
                row[name] = value
    return Served(table.name, key_names(table), len(requests), rows, features)


def compare(served: Sequence[Served]) -> Iterator[Comparison]:
    """What was served against `get_historical_features` of the newest release."""
    for view in served:
        result = Comparison(view.view, view.entities)
        if view.rows:
            for row, computed in zip(view.rows, _computed(view), strict=True):
                compare_row(view, row, computed, result)
        yield result


def _computed(view: Served) -> list[dict[str, Any]]:
    import pandas as pd

    labels = pd.DataFrame(
        [{**{key: row[key] for key in view.keys}, LABEL_TIME: row[REQUEST_TIME]} for row in view.rows]
    )
    labels["position"] = range(len(labels))
    frame: pd.DataFrame = (
        store().get_historical_features(labels, [f"{view.view}:{name}" for name in view.features]).to_df()
    )
    rows = frame.sort_values("position").to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def compare_row(view: Served, row: dict[str, Any], computed: dict[str, Any], result: Comparison) -> None:
    """Compare the features of one row, and add them to the result."""
    for name in view.features:
        result.values += 1
        online, offline = comparable(row[name]), comparable(computed[name])
        if online == offline:
            continue
        result.differing += 1
        if len(result.examples) < SHOWN:
            shown = {key: row[key] for key in (*view.keys, REQUEST_TIME)}
            result.examples.append(Difference(f"{view.view}:{name}", shown, online, offline))


def comparable(value: Any) -> Any:
    """A value of either path in one form: None for a missing one, instants in whole seconds UTC."""
    import pandas as pd

    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        plain = value.tolist() if hasattr(value, "tolist") else value
        return tuple(map(comparable, plain)) if isinstance(plain, list | tuple) else comparable(plain)
    if value is None or value is pd.NA or value != value:
        return None
    if isinstance(value, datetime):
        zoned = value if value.tzinfo else value.replace(tzinfo=UTC)
        return int(zoned.timestamp())
    return value
