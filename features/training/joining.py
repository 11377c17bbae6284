"""Features of labels, out of one release, or for each label out of the release that was the newest when it was asked
for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from features import queries, registry
from features.lake_reader import LakeReader
from features.offline.labels import EVENT_TIMESTAMP, BeyondHorizonWarning
from features.training.services import Service
from lake import release
from lake.release import Release

Say = Callable[[str], None]


class KnowledgeError(LookupError):
    """What was known at a label's instant cannot be told any more."""


def at_release(labels: pa.Table, service: Service, one: Release, names: Sequence[str] = ()) -> pa.Table:
    """The features of each label, in the order of the labels; `names` asks for these alone.

    Labels after the release's horizon get its newest features: whether they may is for callers to say, who know whether
    the release was chosen by the user or was in force at the label's instant, which is as a rule after its horizon.
    """
    store = registry.open_store(one, allow_beyond_horizon=True)
    wanted = [service.columns[name].ref for name in names] if names else store.get_feature_service(service.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BeyondHorizonWarning)
        found = store.get_historical_features(labels.to_pandas(types_mapper=pd.ArrowDtype), wanted).to_arrow()
    return pa.table(
        {name: found[name].cast(column.type) for name, column in service.columns.items() if not names or name in names}
    )


def by_knowledge(
    labels: pa.Table, service: Service, releases: Sequence[Release], say: Say = lambda _: None
) -> pa.Table:
    """The features of each label from the release in force at its instant, those that it had; NULL before the first.
    Releases that hold the same are read once.
    """
    parts, rows = [], []
    groups = [*grouped(labels, service, releases)]
    for number, (one, places) in enumerate(groups, 1):
        if one:
            say(f"joining {len(places):,} labels with release {one.number} ({number} of {len(groups)})")
        parts.append(_known(labels.take(places), service, one))
        rows.append(places)
    return pa.concat_tables(parts).take(np.argsort(np.concatenate(rows), kind="stable"))


def grouped(
    labels: pa.Table, service: Service, releases: Sequence[Release]
) -> Iterator[tuple[Release | None, np.ndarray]]:
    """The labels' row numbers by the release in force; None for those before the first."""
    which = in_force(labels, releases)
    same: dict[str, list[int]] = {}
    for place in np.unique(which[which >= 0]):
        kept = service.of(releases[place])
        same.setdefault(f"{kept.tables} {kept.ids}", []).append(place)
    if (which < 0).any():
        yield None, np.flatnonzero(which < 0)
    for places in same.values():
        yield releases[places[0]], np.flatnonzero(np.isin(which, places))


def in_force(labels: pa.Table, releases: Sequence[Release]) -> np.ndarray:
    """For each label the place in `releases` (oldest first) of the newest one that was created at or before its
    instant; -1 where there was none.
    """
    instants = labels[EVENT_TIMESTAMP].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    found = np.full(len(instants), -1)
    for place, one in enumerate(releases):
        found[instants >= _created(one)] = place
    return found


def _created(one: Release) -> int:
    return queries.microseconds(datetime.fromisoformat(one.created_at))


def told(labels: pa.Table, upto: int, used: Sequence[Release] = ()) -> list[Release]:
    """All releases up to that number, `used` ones also when their file is gone; KnowledgeError when a label fell into
    the time of others that were removed.
    """
    there = [release.read(number) for number in release.numbers() if number <= upto]
    known = sorted({one.number: one for one in (*used, *there)}.values(), key=lambda one: one.number)
    which = in_force(labels, known)
    lost = [place - 1 for place, one in enumerate(known) if one.number - _number(known, place - 1) > 1]
    hidden = np.isin(which, lost)
    if hidden.any():
        after = known[int(which[hidden][0]) + 1]
        raise KnowledgeError(
            f"{int(hidden.sum()):,} labels lie before release {after.number} ({after.created_at}), and releases before"
            " it were removed: what was known then cannot be told. Drop these labels, or do without knowledge time and"
            " leak check"
        )
    return known


def _number(known: list[Release], place: int) -> int:
    return known[place].number if place >= 0 else 0


def needed(labels: pa.Table, service: Service, known: Sequence[Release]) -> tuple[Release, ...]:
    """The releases in force at any label, cut down to what the service reads."""
    return tuple(service.of(known[place]) for place in np.unique(in_force(labels, known)) if place >= 0)


def _known(labels: pa.Table, service: Service, one: Release | None) -> pa.Table:
    had = held_by(LakeReader(one), service) if one else []
    nothing = {name: pa.nulls(labels.num_rows, column.type) for name, column in service.columns.items()}
    found = at_release(labels, service, one, had) if one and had else pa.table({})
    return pa.table({**nothing, **{name: found[name] for name in found.column_names}})


def held_by(reader: LakeReader, service: Service) -> list[str]:
    """The features that a release had: one that was made later was not known."""
    return [
        name
        for name, feature in service.columns.items()
        if all(table in reader.release.tables and column in reader.columns(table) for table, column in feature.places)
    ]
