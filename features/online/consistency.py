"""Online-offline consistency: what is served, compared with what a training set would hold, value by value, for the
same entities and the same instant.

The online side is Feast's `get_online_features`, the offline side its `get_historical_features`, both of them as users
call them. Entities come from both sides, so that what one of them lacks is found. A materialization runs this on the
generation that it has filled, before anybody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any

import pandas as pd
from feast import FeatureStore, FeatureView

from contracts.interval import midnight
from features import queries, registry
from features.lake_reader import LakeReader
from features.online import backends, generation
from features.online.generation import Key, Reader
from features.online.store import layout_of
from features.views import REQUEST_TIME
from lake import release
from lake.release import Release
from lake.sql import identifier

SAMPLE = 500
"""Entities of each view and side."""
BATCH = 10_000


class ConsistencyError(RuntimeError):
    """What would be served differs from what is trained on; the message counts the values of each feature."""


@dataclass(frozen=True)
class Compared:
    """One feature: of `compared` entities, `mismatched` have two different values, `missing` one only offline and
    `extra` one only online. `example` is the first of these.
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
        """Values that are not the same."""
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
    features: tuple[Compared, ...]

    @property
    def compared(self) -> int:
        """Values that were compared."""
        return sum(one.compared for one in self.features)

    @property
    def wrong(self) -> int:
        """Values that are not the same: training-serving mismatches."""
        return sum(one.wrong for one in self.features)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "features": [asdict(one) for one in self.features]}

    def _wrong_features(self) -> list[Compared]:
        """One example for each view will do."""
        wrong = [one for one in self.features if one.wrong]
        return [
            one if one.view not in {other.view for other in wrong[:at]} else replace(one, example="")
            for at, one in enumerate(wrong)
        ]

    def refuse_mismatch(self) -> None:
        """Raise ConsistencyError unless all values are the same."""
        if self.wrong:
            told = "; ".join(map(str, self._wrong_features()))
            raise ConsistencyError(
                f"release {self.release}: {self.wrong:,} of {self.compared:,} values online are not those of a training"
                f" set. {told}. What was served before still is. See that nothing else writes to the online store, and"
                " run again; if it stays, it is a defect in features/: please report it"
            )


def compare(of: Release, name: str, views: Sequence[FeatureView], sample: int | None = SAMPLE) -> Consistency:
    """Compare a generation with the release, for `sample` entities of each view and side, or for all of them.

    A view that was disabled is answered by neither side, and left out.
    """
    store = registry.open_store(of.number)
    reader = LakeReader(of)
    served = backends.configured().open(name)
    with generation.previewing(name, _instant(reader)):
        found = [one for view in views if view.enabled for one in _compare_view(store, reader, served, view, sample)]
    return Consistency(of.number, of.horizon, name, tuple(found))


def online(sample: int | None = SAMPLE) -> Consistency:
    """The same for the generation in use; OnlineStoreEmptyError when there is none."""
    served = generation.in_use(backends.configured())
    if served is None or served.about.release is None:
        raise generation.OnlineStoreEmptyError(
            "no release is online, so there is nothing to compare. Run the DAG `millrace` (or `make demo`) first"
        )
    return compare(
        release.read(served.about.release), served.name, registry.online_views(registry.open_store()), sample
    )


def _compare_view(
    store: FeatureStore, reader: LakeReader, served: Reader, view: FeatureView, sample: int | None
) -> list[Compared]:
    refs = _features(store, view)
    tallies = [_Tally(*ref.split(":")) for ref in refs]
    known = iter(sorted({*_offline_keys(reader, view, sample), *served.keys(layout_of(view), sample)}, key=repr))
    while keys := list(islice(known, BATCH)):
        rows = pd.DataFrame(keys, columns=list(layout_of(view).keys))
        trained, answered = _trained(store, refs, rows, _instant(reader)), _served(store, refs, rows, _instant(reader))
        for one in tallies:
            one.count(keys, trained[one.feature], answered[one.feature])
    return [one.result() for one in tallies]


def _features(store: FeatureStore, view: FeatureView) -> list[str]:
    """All of the view, and of what is computed on demand from it alone."""
    found = [f"{view.name}:{feature.name}" for feature in view.features]
    for on_demand in store.list_on_demand_feature_views():
        sources = {source.name for source in on_demand.source_feature_view_projections.values()}
        if on_demand.enabled and sources == {view.name}:
            found += [f"{on_demand.name}:{feature.name}" for feature in on_demand.features]
    return found


def _instant(reader: LakeReader) -> datetime:
    return midnight(date.fromisoformat(reader.release.horizon))


def _offline_keys(reader: LakeReader, view: FeatureView, sample: int | None) -> list[Key]:
    """Entities with a row at the horizon; in a sample they are drawn anew for each release, and alike each time."""
    source = view.batch_source
    names = ", ".join(identifier(source.column(name)) for name in layout_of(view).keys)
    some = "" if sample is None else f" ORDER BY hash({names}, {reader.release.number}) LIMIT {sample}"
    known = queries.between(source.event_column, None, _instant(reader))
    found: list[Key] = reader.connection.execute(
        f"SELECT DISTINCT {names} FROM {reader.table(source.table)} WHERE {known}{some}"
    ).fetchall()
    return found


def _trained(store: FeatureStore, refs: list[str], rows: pd.DataFrame, at: datetime) -> dict[str, list[Any]]:
    labels = rows.assign(event_timestamp=at, **{REQUEST_TIME: at})
    found: dict[str, list[Any]] = store.get_historical_features(labels, refs).to_arrow().to_pydict()
    return found


def _served(store: FeatureStore, refs: list[str], rows: pd.DataFrame, at: datetime) -> dict[str, list[Any]]:
    entities = {**{name: rows[name].tolist() for name in rows}, REQUEST_TIME: [at] * len(rows)}
    found: dict[str, list[Any]] = store.get_online_features(refs, entities).to_dict()
    return found


class _Tally:
    """The counts of one feature over the batches."""

    def __init__(self, view: str, feature: str) -> None:
        self.view, self.feature, self.compared, self.example = view, feature, 0, ""
        self.counts = {"mismatched": 0, "missing": 0, "extra": 0}

    def count(self, keys: list[Key], offline: list[Any], served: list[Any]) -> None:
        for key, trained, answer in zip(keys, offline, served, strict=True):
            self.compared += 1
            if wrong := _wrong(trained, answer):
                self.counts[wrong] += 1
                self.example = (
                    self.example
                    or f"{', '.join(map(str, key))} has {_told(trained)} offline and {_told(answer)} online"
                )

    def result(self) -> Compared:
        return Compared(self.view, self.feature, self.compared, **self.counts, example=self.example)


def _wrong(trained: Any, answer: Any) -> str:
    """How two values differ; empty when they are the same, of the same type, NaN included."""
    if trained is None or answer is None:
        return "" if trained is answer else "extra" if trained is None else "missing"
    same = type(trained) is type(answer) and (trained == answer or (trained != trained and answer != answer))
    return "" if same else "mismatched"


def _told(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return "NULL" if value is None else repr(value)
