"""Features of labels, from one release, or for each label from the release in force at its instant."""

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
from lake.release import Release
from lake.release import numbers as release_numbers
from lake.release import read as read_release

Say = Callable[[str], None]


class KnowledgeError(LookupError):
    """What was known at a label's instant can no longer be determined."""


def join_at_release(labels: pa.Table, service: Service, release: Release, names: Sequence[str] = ()) -> pa.Table:
    """The features of each label, in the order of the labels; `names` limits them.

    Labels after the release's horizon get its newest features. Callers decide whether that is allowed: they know
    whether the user chose the release or it was in force at the label's instant, which is usually after its horizon.
    """
    store = registry.open_store(release, allow_beyond_horizon=True)
    requested = [service.columns[name].ref for name in names] if names else store.get_feature_service(service.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BeyondHorizonWarning)
        features = store.get_historical_features(labels.to_pandas(types_mapper=pd.ArrowDtype), requested).to_arrow()
    return pa.table(
        {
            name: features[name].cast(column.type)
            for name, column in service.columns.items()
            if not names or name in names
        }
    )


def join_by_knowledge(
    labels: pa.Table, service: Service, releases: Sequence[Release], say: Say = lambda _: None
) -> pa.Table:
    """The features of each label from the release in force at its instant; NULL for features that it lacked, and before
    the first release. Releases with the same tables are read once.
    """
    parts, taken_rows = [], []
    groups = [*group_by_release(labels, service, releases)]
    for number, (release, row_numbers) in enumerate(groups, 1):
        if release:
            say(f"joining {len(row_numbers):,} labels with release {release.number} ({number} of {len(groups)})")
        parts.append(_join_known(labels.take(row_numbers), service, release))
        taken_rows.append(row_numbers)
    return pa.concat_tables(parts).take(np.argsort(np.concatenate(taken_rows), kind="stable"))


def group_by_release(
    labels: pa.Table, service: Service, releases: Sequence[Release]
) -> Iterator[tuple[Release | None, np.ndarray]]:
    """The labels' row numbers by release in force; None for labels before the first release."""
    index_of = release_indexes(labels, releases)
    same: dict[str, list[int]] = {}
    for index in np.unique(index_of[index_of >= 0]):
        restricted = service.of(releases[index])
        same.setdefault(f"{restricted.tables} {restricted.ids}", []).append(index)
    if (index_of < 0).any():
        yield None, np.flatnonzero(index_of < 0)
    for indexes in same.values():
        yield releases[indexes[0]], np.flatnonzero(np.isin(index_of, indexes))


def release_indexes(labels: pa.Table, releases: Sequence[Release]) -> np.ndarray:
    """For each label the index in `releases` (oldest first) of the newest release created at or before its instant; -1
    for none.
    """
    instants = labels[EVENT_TIMESTAMP].cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    indexes = np.full(len(instants), -1)
    for index, release in enumerate(releases):
        indexes[instants >= _created_microseconds(release)] = index
    return indexes


def _created_microseconds(release: Release) -> int:
    return queries.microseconds(datetime.fromisoformat(release.created_at))


def known_releases(labels: pa.Table, upto: int, used: Sequence[Release] = ()) -> list[Release]:
    """All releases up to that number, oldest first, `used` ones even when their file is gone; KnowledgeError when a
    removed release was in force at a label's instant.
    """
    present = [read_release(number) for number in release_numbers() if number <= upto]
    releases = sorted(
        {release.number: release for release in (*used, *present)}.values(), key=lambda release: release.number
    )
    which = release_indexes(labels, releases)
    lost = [index - 1 for index, release in enumerate(releases) if release.number - _number(releases, index - 1) > 1]
    hidden = np.isin(which, lost)
    if hidden.any():
        after = releases[int(which[hidden][0]) + 1]
        raise KnowledgeError(
            f"{int(hidden.sum()):,} labels lie before release {after.number} ({after.created_at}), and releases before"
            " it were removed: what was known then cannot be determined. Drop these labels, or do without knowledge"
            " time and leak check"
        )
    return releases


def _number(releases: list[Release], index: int) -> int:
    return releases[index].number if index >= 0 else 0


def releases_needed(labels: pa.Table, service: Service, releases: Sequence[Release]) -> tuple[Release, ...]:
    """The releases in force at any label, limited to the tables that the service reads."""
    return tuple(service.of(releases[index]) for index in np.unique(release_indexes(labels, releases)) if index >= 0)


def _join_known(labels: pa.Table, service: Service, release: Release | None) -> pa.Table:
    available = available_features(LakeReader(release), service) if release else []
    nulls = {name: pa.nulls(labels.num_rows, column.type) for name, column in service.columns.items()}
    features = join_at_release(labels, service, release, available) if release and available else pa.table({})
    return pa.table({**nulls, **{name: features[name] for name in features.column_names}})


def available_features(reader: LakeReader, service: Service) -> list[str]:
    """The features whose tables and columns a release has; features that were added later were not known."""
    return [
        name
        for name, feature in service.columns.items()
        if all(table in reader.release.tables and column in reader.columns(table) for table, column in feature.sources)
    ]
