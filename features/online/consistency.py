"""Online-offline consistency: served values compared with those of a training set, for the same entities and instant.

The online side is Feast's `get_online_features`, the offline side its `get_historical_features`, both as users call
them. Entities are drawn from both sides, so a row that either side lacks is found. A materialization compares each new
generation before it is served.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Any

import pandas as pd
from feast import FeatureStore, FeatureView
from feast.value_type import ValueType

from contracts.interval import midnight
from features import queries, registry
from features.instants import declaration
from features.instants.state import MARGIN
from features.lake_reader import LakeReader
from features.online import backends, generation
from features.online.generation import Key, Reader
from features.online.store import row_schema_of
from features.streaming import handover
from features.streaming.live import as_read_by
from features.views import REQUEST_TIME
from lake import release
from lake.release import Release
from lake.sql import identifier

SAMPLE = 500
"""Entities per view and side."""
BATCH = 10_000


class NothingToCompareError(generation.OnlineStoreError, LookupError):
    """No stream is ahead of the release that is served."""


class ConsistencyError(RuntimeError):
    """Values to be served differ from those of training; the message counts them per feature."""


@dataclass(frozen=True)
class FeatureComparison:
    """One feature: of `compared` entities, `mismatched` have different values, `missing` have one offline only and
    `extra` online only. `example` is the first difference.
    """

    view: str
    feature: str
    compared: int
    mismatched: int = 0
    missing: int = 0
    extra: int = 0
    example: str = ""

    @property
    def wrong(self) -> int:
        """Values that differ."""
        return self.mismatched + self.missing + self.extra

    def __str__(self) -> str:
        counts = ", ".join(
            f"{count:,} {name}" for name in ("mismatched", "missing", "extra") if (count := getattr(self, name))
        )
        return f"{self.view}:{self.feature}: {counts or 'none wrong'} of {self.compared:,}" + (
            f" ({self.example})" if self.example else ""
        )


@dataclass(frozen=True)
class Consistency:
    """All features of a release, as of its horizon. `generation` is the id of the one that was compared. `of_stream`:
    the release is not served yet, and was compared with what a stream serves.
    """

    release: int
    horizon: str
    generation: str
    features: tuple[FeatureComparison, ...]
    of_stream: bool = False

    @property
    def compared(self) -> int:
        """Number of values compared."""
        return sum(feature.compared for feature in self.features)

    @property
    def wrong(self) -> int:
        """Number of values that differ: training-serving mismatches."""
        return sum(feature.wrong for feature in self.features)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "features": [asdict(feature) for feature in self.features]}

    def _wrong_features(self) -> list[FeatureComparison]:
        """Features with differences, with one example per view."""
        wrong = [feature for feature in self.features if feature.wrong]
        return [
            feature if feature.view not in {other.view for other in wrong[:index]} else replace(feature, example="")
            for index, feature in enumerate(wrong)
        ]

    def ensure_match(self) -> None:
        """Raise ConsistencyError unless all values are equal."""
        if self.wrong and self.of_stream:
            differences = "; ".join(map(str, self._wrong_features()))
            raise ConsistencyError(
                f"release {self.release}: {self.wrong:,} of {self.compared:,} values that the stream serves are not its"
                f" own. {differences}. Files that landed since the release that is served, and corrections"
                " that move an event to another entity, count once the new one is served: millrace serve. See that the"
                " lag of the views is 0 (millrace stream lag). Anything else is a defect in features/: please report it"
            )
        if self.wrong:
            differences = "; ".join(map(str, self._wrong_features()))
            raise ConsistencyError(
                f"release {self.release}: {self.wrong:,} of {self.compared:,} values online are not those of a training"
                f" set. {differences}. What was served before still is. See that nothing else writes to the online"
                " store, and"
                " run again; if it stays, it is a defect in features/: please report it"
            )


def compare(release: Release, name: str, views: Sequence[FeatureView], sample: int | None = SAMPLE) -> Consistency:
    """Compare a generation with its release, for `sample` entities per view and side; None compares all of them.

    Disabled views are left out: neither side answers for them.
    """
    store = registry.open_store(release.number)
    reader = LakeReader(release)
    served = backends.configured().open(name)
    with generation.previewing(name, _instant(reader)):
        comparisons = [
            comparison
            for view in views
            if view.enabled
            for comparison in _compare_view(store, reader, served, view, sample)
        ]
    return Consistency(release.number, release.horizon, name, tuple(comparisons))


def online(sample: int | None = SAMPLE) -> Consistency:
    """`compare` the generation in use; OnlineStoreEmptyError when there is none."""
    served = generation.in_use(backends.configured())
    if served is None or served.metadata.release is None:
        raise generation.OnlineStoreEmptyError(
            "no release is online, so there is nothing to compare. Run the DAG `millrace` (or `make demo`) first"
        )
    return compare(
        release.read(served.metadata.release), served.name, registry.online_views(registry.open_store()), sample
    )


def stream(sample: int | None = SAMPLE) -> Consistency:
    """Compare what is served of a stream with the newest release, before that goes online: the generation in use with
    the messages that the release has, too, at random instants since the generation's horizon.

    Of `sample` entities per view with events since then; None takes all of them. What came as files alone meanwhile
    differs. NothingToCompareError where the release is online already, or no view counts messages at once.
    """
    backend, newest = backends.configured(), release.read()
    served = generation.in_use(backend)
    if served is None or served.metadata.release is None or served.metadata.horizon is None:
        raise generation.OnlineStoreEmptyError(
            "no release is online, so there is nothing to compare. Run the DAG `millrace` (or `make demo`) first"
        )
    cuts = handover.cuts(newest)
    views = [view for view in registry.online_views(registry.open_store()) if view.enabled and view.name in cuts]
    if served.metadata.release == newest.number or not views:
        raise NothingToCompareError(
            f"release {newest.number} is online already: compare a stream with the release of a run that has not been"
            " served"
            if views
            else "no view counts messages before a release has them. See docs/realtime.md"
        )
    online_store, offline_store, reader = registry.open_store(), registry.open_store(newest.number), LakeReader(newest)
    since = midnight(date.fromisoformat(served.metadata.horizon))
    comparisons: list[FeatureComparison] = []
    with as_read_by(cuts):
        for view in views:
            refs, numbers = _features(online_store, view)
            tallies = [_Tally(*ref.split(":")) for ref in refs]
            keys_left = iter(_keys_since(reader, view, since, sample))
            while keys := list(islice(keys_left, BATCH)):
                rows = _entities(view, keys, numbers)
                for at in _instants_since(reader, view, since):
                    offline, online = _trained(offline_store, refs, rows, at), _served(online_store, refs, rows, at)
                    for tally in tallies:
                        tally.count(keys, offline[tally.feature], online[tally.feature])
            comparisons += [tally.result() for tally in tallies]
    return Consistency(newest.number, newest.horizon, served.name, tuple(comparisons), of_stream=True)


def _keys_since(reader: LakeReader, view: FeatureView, since: datetime, sample: int | None) -> list[Key]:
    """Entities with an event in the two days before `since` or later."""
    source = view.batch_source
    names = ", ".join(identifier(source.column(name)) for name in row_schema_of(view).keys)
    limit = "" if sample is None else f" ORDER BY hash({names}, {reader.release.number}) LIMIT {sample}"
    recent = queries.between(source.event_column, since - MARGIN, None)
    keys: list[Key] = reader.connection.execute(
        f"SELECT DISTINCT {names} FROM {reader.table(source.table)} WHERE {recent}{limit}"
    ).fetchall()
    return keys


def _instants_since(reader: LakeReader, view: FeatureView, since: datetime) -> list[datetime]:
    """The release's horizon, and three random instants between `since`, or a day before the horizon, and there."""
    end = _instant(reader)
    span = max(end - since, timedelta(days=1))
    draw = random.Random(f"{reader.release.number} {view.name} stream")
    return [end, *(end - draw.random() * span for _ in range(3))]


def _compare_view(
    store: FeatureStore, reader: LakeReader, served: Reader, view: FeatureView, sample: int | None
) -> list[FeatureComparison]:
    refs, numbers = _features(store, view)
    tallies = [_Tally(*ref.split(":")) for ref in refs]
    all_keys = iter(sorted({*_offline_keys(reader, view, sample), *served.keys(row_schema_of(view), sample)}, key=repr))
    while keys := list(islice(all_keys, BATCH)):
        rows = _entities(view, keys, numbers)
        for at in _instants(reader, view):
            offline, online = _trained(store, refs, rows, at), _served(store, refs, rows, at)
            for tally in tallies:
                tally.count(keys, offline[tally.feature], online[tally.feature])
    return [tally.result() for tally in tallies]


def _features(store: FeatureStore, view: FeatureView) -> tuple[list[str], list[str]]:
    """References of the view's features, and of on-demand features computed from this view and the request alone, and
    the numbers that these take from the request. On-demand views that take anything else from it are not compared.
    """
    refs, numbers = [f"{view.name}:{feature.name}" for feature in view.features], set[str]()
    for on_demand in store.list_on_demand_feature_views():
        sources = {source.name for source in on_demand.source_feature_view_projections.values()}
        inputs = on_demand.get_request_data_schema()
        taken = {name for name in inputs if name != REQUEST_TIME}
        if on_demand.enabled and sources == {view.name} and {inputs[name] for name in taken} <= {ValueType.DOUBLE}:
            refs += [f"{on_demand.name}:{feature.name}" for feature in on_demand.features]
            numbers |= taken
    return refs, sorted(numbers)


def _entities(view: FeatureView, keys: list[Key], numbers: list[str]) -> pd.DataFrame:
    """The keys, and numbers for what on-demand features take from the request."""
    rows = pd.DataFrame(keys, columns=list(row_schema_of(view).keys))
    return rows.assign(**{name: [float(n % 100) for n in range(len(keys))] for name in numbers})


def _instant(reader: LakeReader) -> datetime:
    return midnight(date.fromisoformat(reader.release.horizon))


def _instants(reader: LakeReader, view: FeatureView) -> list[datetime]:
    """The instants at which a view is compared: the horizon and, for a view of instants, two random ones before it."""
    horizon = _instant(reader)
    if not declaration.is_of_instants(view):
        return [horizon]
    draw = random.Random(f"{reader.release.number} {view.name}")
    return [horizon, *(horizon - draw.random() * MARGIN for _ in range(2))]


def _offline_keys(reader: LakeReader, view: FeatureView, sample: int | None) -> list[Key]:
    """Entities with a row at the horizon. A sample depends on the release only, so it is reproducible."""
    source = view.batch_source
    names = ", ".join(identifier(source.column(name)) for name in row_schema_of(view).keys)
    sample_clause = "" if sample is None else f" ORDER BY hash({names}, {reader.release.number}) LIMIT {sample}"
    is_known = queries.between(source.event_column, None, _instant(reader))
    keys: list[Key] = reader.connection.execute(
        f"SELECT DISTINCT {names} FROM {reader.table(source.table)} WHERE {is_known}{sample_clause}"
    ).fetchall()
    return keys


def _trained(store: FeatureStore, refs: list[str], rows: pd.DataFrame, at: datetime) -> dict[str, list[Any]]:
    labels = rows.assign(event_timestamp=at, **{REQUEST_TIME: at})
    columns: dict[str, list[Any]] = store.get_historical_features(labels, refs).to_arrow().to_pydict()
    return columns


def _served(store: FeatureStore, refs: list[str], rows: pd.DataFrame, at: datetime) -> dict[str, list[Any]]:
    entities = {**{name: rows[name].tolist() for name in rows}, REQUEST_TIME: [at] * len(rows)}
    columns: dict[str, list[Any]] = store.get_online_features(refs, entities).to_dict()
    return columns


class _Tally:
    """The counts of one feature over the batches."""

    def __init__(self, view: str, feature: str) -> None:
        self.view, self.feature, self.compared, self.example = view, feature, 0, ""
        self.counts = {"mismatched": 0, "missing": 0, "extra": 0}

    def count(self, keys: list[Key], offline: list[Any], served: list[Any]) -> None:
        for key, expected, actual in zip(keys, offline, served, strict=True):
            self.compared += 1
            if wrong := _difference(expected, actual):
                self.counts[wrong] += 1
                self.example = (
                    self.example
                    or f"{', '.join(map(str, key))} has {_formatted(expected)} offline and {_formatted(actual)} online"
                )

    def result(self) -> FeatureComparison:
        return FeatureComparison(self.view, self.feature, self.compared, **self.counts, example=self.example)


def _difference(expected: Any, actual: Any) -> str:
    """How two values differ; empty when value and type are equal, NaN included."""
    if expected is None or actual is None:
        return "" if expected is actual else "extra" if expected is None else "missing"
    same = type(expected) is type(actual) and (expected == actual or (expected != expected and actual != actual))
    return "" if same else "mismatched"


def _formatted(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return "NULL" if value is None else repr(value)
