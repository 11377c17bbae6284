"""Online-offline consistency: served values compared with those of a training set, for the same entities and instant.

The online side is Feast's `get_online_features`, the offline side its `get_historical_features`, both as users call
them. Entities are drawn from both sides, so a row that either side lacks is found. A materialization compares each new
generation before it is served.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any

import pandas as pd
from feast import FeatureStore, FeatureView

from contracts.interval import midnight
from features import queries, registry
from features.instants import declaration
from features.instants.state import MARGIN
from features.lake_reader import LakeReader
from features.online import backends, generation
from features.online.generation import Key, Reader
from features.online.store import row_schema_of
from features.views import REQUEST_TIME
from lake import release
from lake.release import Release
from lake.sql import identifier

SAMPLE = 500
"""Entities per view and side."""
BATCH = 10_000


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
    """All features of a release, as of its horizon. `generation` is the id of the one that was compared."""

    release: int
    horizon: str
    generation: str
    features: tuple[FeatureComparison, ...]

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


def _compare_view(
    store: FeatureStore, reader: LakeReader, served: Reader, view: FeatureView, sample: int | None
) -> list[FeatureComparison]:
    refs = _features(store, view)
    tallies = [_Tally(*ref.split(":")) for ref in refs]
    all_keys = iter(sorted({*_offline_keys(reader, view, sample), *served.keys(row_schema_of(view), sample)}, key=repr))
    while keys := list(islice(all_keys, BATCH)):
        rows = pd.DataFrame(keys, columns=list(row_schema_of(view).keys))
        for at in _instants(reader, view):
            offline, online = _trained(store, refs, rows, at), _served(store, refs, rows, at)
            for tally in tallies:
                tally.count(keys, offline[tally.feature], online[tally.feature])
    return [tally.result() for tally in tallies]


def _features(store: FeatureStore, view: FeatureView) -> list[str]:
    """References of the view's features, and of on-demand features computed from this view alone."""
    refs = [f"{view.name}:{feature.name}" for feature in view.features]
    for on_demand in store.list_on_demand_feature_views():
        sources = {source.name for source in on_demand.source_feature_view_projections.values()}
        if on_demand.enabled and sources == {view.name}:
            refs += [f"{on_demand.name}:{feature.name}" for feature in on_demand.features]
    return refs


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
