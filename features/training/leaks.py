"""The leak check: for every feature, how many values of a training set were not yet known at label time.

By publish time, each label is joined again with the release in force at its instant, and the values are compared. By
event time, each value is looked up in the release's rows with plain aggregates, which share no code with the join that
made the training set. Values of a view of instants are all computed again by DuckDB, and those of a sample of labels
are recounted from every event of their keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView

from features import queries, type_mapping
from features.instants import declaration, offline, recount
from features.lake_reader import LakeReader, pinned
from features.offline import labels
from features.offline.labels import EVENT_TIMESTAMP, Horizon
from features.training import availability, joining, label_input, services, sets
from features.training.joining import Say
from features.training.label_input import LabelInput
from features.training.services import Service
from lake import manifest
from lake.release import Release
from lake.sql import identifier

RECOUNTED = 500
"""Labels whose values of a view of instants are recounted."""


@dataclass(frozen=True)
class FeatureLeaks:
    """The values of one feature: `rows` = `known` + `changed` + `unpublished`.

    `known`: the release in force at the label's instant has the same value (or NULL, like the set); releases after the
    set's own do not count. `changed`: it has another value, which was corrected since. `unpublished`: it has none, or
    no release existed yet. `future`: not the value of the newest row at or before the label's instant, or in a view of
    instants, of the events before it.
    """

    feature: str
    rows: int
    known: int
    changed: int
    unpublished: int
    future: int

    @property
    def unknowable(self) -> int:
        """Values that were not known at label time."""
        return self.changed + self.unpublished


@dataclass(frozen=True)
class LeakReport:
    """Values of a training set that were not known at label time.

    `unheard` labels lie before the first release, created at `first_release_at`. `beyond_horizon` labels lie after the
    release's horizon: their values were known, but stale.
    """

    service: str
    release: int
    knowledge_time: bool
    rows: int
    unheard: int
    first_release_at: str
    features: tuple[FeatureLeaks, ...]
    horizon: str
    beyond_horizon: int

    @property
    def found(self) -> bool:
        """Whether any value was not known at label time."""
        return any(feature.unknowable or feature.future for feature in self.features)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the figures mean."""
        sentences = []
        if any(feature.future for feature in self.features):
            sentences.append(
                "Some values are not those of the newest row at or before their label: the training set knows the"
                " future. This is a defect: please report it"
            )
        if self.unheard and any(feature.unpublished for feature in self.features):
            sentences.append(
                f"{self.unheard:,} of {self.rows:,} labels lie before the first release ({self.first_release_at}):"
                " their values were published after label time, because the lake was backfilled. By event time they"
                " were knowable"
            )
        if any(feature.changed for feature in self.features):
            sentences.append(
                "Values were corrected after label time, by late or corrected files. With knowledge time, a training"
                " set holds what was known"
            )
        if self.beyond_horizon:
            sentences.append(
                f"{Horizon(self.horizon, self.release).warning(self.beyond_horizon, self.rows)}, and stale:"
                " what happened from then on up to the label is not in them"
            )
        elif not self.found:
            sentences.append("Every value was known at label time")
        return tuple(sentences)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            **asdict(self),
            "features": [asdict(feature) for feature in self.features],
            "found": self.found,
            "sentences": [*self.sentences],
        }


def check_leaks(name: str, say: Say = lambda _: None) -> LeakReport:
    """The leak report of the training set of that name."""
    training_set = manifest.read(name)
    service, data = sets.defined_as(training_set), sets.read(name)
    availability.ensure_available(training_set.versions, f"the leak check of training set {name}")
    horizon = Horizon(
        training_set.horizon or max(release.horizon for release in training_set.releases), training_set.release
    )
    return _check(data, service, training_set.releases, horizon, training_set.knowledge_time, say)


def check_labels(
    label_set: LabelInput, service: str, number: int | None = None, say: Say = lambda _: None
) -> LeakReport:
    """The leak report of the training set that these labels would make."""
    feature_service, release = services.load(service), pinned(number)
    rows = label_input.table(label_set, release, feature_service)
    features = joining.join_at_release(rows, feature_service, release)
    data = pa.table({name: side[name] for side in (rows, features) for name in side.column_names})
    return _check(data, feature_service, (feature_service.of(release),), Horizon.of(release), False, say)


def _check(
    data: pa.Table, service: Service, used: tuple[Release, ...], horizon: Horizon, knowledge_time: bool, say: Say
) -> LeakReport:
    rows = data.drop_columns([*service.columns])
    releases = joining.known_releases(rows, horizon.release, used)
    unheard = int((joining.release_indexes(rows, releases) < 0).sum())
    then_known = joining.join_by_knowledge(rows, service, releases, say)
    say("looking up every value by event time")
    future = _future(data, service, used, knowledge_time)
    features = tuple(_compare(name, data[name], then_known[name], future[name]) for name in service.columns)
    return LeakReport(
        service.name,
        horizon.release,
        knowledge_time,
        data.num_rows,
        unheard,
        releases[0].created_at if releases else "",
        features,
        horizon.day,
        horizon.count_beyond(rows[EVENT_TIMESTAMP]),
    )


def _compare(name: str, values: pa.ChunkedArray, then_known: pa.ChunkedArray, future: int) -> FeatureLeaks:
    equal = pc.fill_null(pc.equal(values, then_known), False)
    if pa.types.is_floating(values.type):
        equal = pc.or_(equal, pc.fill_null(pc.and_(pc.is_nan(values), pc.is_nan(then_known)), False))
    equal = pc.or_(equal, pc.and_(values.is_null(), then_known.is_null()))
    equal_count = _count(equal)
    unpublished = _count(pc.and_(values.is_valid(), then_known.is_null()))
    return FeatureLeaks(name, len(values), equal_count, len(values) - equal_count - unpublished, unpublished, future)


def _count(flags: pa.ChunkedArray) -> int:
    return int(pc.sum(flags).as_py() or 0)


def _future(data: pa.Table, service: Service, used: tuple[Release, ...], knowledge_time: bool) -> dict[str, int]:
    """Feature -> number of values that are not from the newest row at the label's instant; for an on-demand feature,
    values with a later request time.
    """
    counts = dict.fromkeys(service.columns, 0)
    rows = data.drop_columns([*service.columns])
    groups = joining.group_by_release(rows, service, used) if knowledge_time else [(used[0], np.arange(data.num_rows))]
    for release, row_numbers in groups:
        if release is None:
            continue
        reader, part = LakeReader(release), data.take(pa.array(row_numbers))
        available = joining.available_features(reader, service)
        for view in service.views:
            prefix = f"{view.projection.name_to_use()}:"
            names = [name for name in available if service.columns[name].ref.startswith(prefix)]
            for name, count in zip(names, _not_newest(reader, part, service, view, names), strict=True):
                counts[name] += count
    for name in service.on_demand:
        later = [
            pc.greater(data[name], data[EVENT_TIMESTAMP])
            for name in service.request
            if pa.types.is_timestamp(data[name].type)
        ]
        counts[name] = sum(_count(pc.and_(pc.fill_null(late, False), data[name].is_valid())) for late in later)
    return counts


def _not_newest(
    reader: LakeReader, data: pa.Table, service: Service, view: FeatureView, names: Sequence[str]
) -> list[int]:
    """For each feature of the view, the number of labels whose value differs from all rows of the key at its newest
    instant up to the label.
    """
    if not names:
        return []
    checked = labels.check(data, service.join_keys).joinable
    for i, name in enumerate(names):
        checked = checked.append_column(f"__s{i}", data[name])
    source, fields = view.batch_source, {field.name: field.dtype for field in view.features}
    features = [service.columns[name].ref.split(":", 1)[1] for name in names]
    reader.connection.register("labels", checked)
    if declaration.is_of_instants(view):
        return _not_of_earlier_events(reader, view, features)
    keys = [*map(identifier, queries.label_keys(view))]
    key_list = ", ".join(f"__k{i}" for i in range(len(keys)))
    same_label, same_key = (" AND ".join(f"l.{key} = {side}.__k{i}" for i, key in enumerate(keys)) for side in "af")
    values = [
        type_mapping.of(fields[feature], feature).offline.format(f"f.__f{i}") for i, feature in enumerate(features)
    ]
    agree = ", ".join(f"bool_or({value} IS NOT DISTINCT FROM l.__s{i}) AS ok{i}" for i, value in enumerate(values))
    counts = ", ".join(
        f"count(*) FILTER (l.__s{i} IS NOT NULL AND NOT coalesce(seen.ok{i}, false))" for i in range(len(names))
    )
    query = f"""
        WITH f AS MATERIALIZED ({queries.history(reader.table(source.table), source, view, features)}),
        instants AS (SELECT {key_list}, __at, __at AS row_at FROM f
            UNION ALL SELECT DISTINCT {", ".join(keys)}, __at, NULL FROM labels),
        newest AS (
            SELECT *, max(row_at) OVER (PARTITION BY {key_list} ORDER BY __at RANGE UNBOUNDED PRECEDING) AS newest
            FROM instants),
        at_labels AS (SELECT * FROM newest WHERE row_at IS NULL),
        seen AS (
            SELECT l.__row, {agree}
            FROM labels l JOIN at_labels a ON {same_label} AND a.__at = l.__at
            JOIN f ON {same_key} AND f.__at = a.newest
            GROUP BY l.__row)
        SELECT {counts} FROM labels l LEFT JOIN seen ON seen.__row = l.__row"""
    (row,) = reader.connection.sql(query).fetchall()
    return [int(count) for count in row]


def _not_of_earlier_events(reader: LakeReader, view: FeatureView, features: Sequence[str]) -> list[int]:
    """For each feature of a view of instants, the number of labels whose value (`__s0`, ... of `labels`) is not that of
    the events before the label, as the join computes it, and for some labels as it is recounted.
    """
    source = view.batch_source
    events = reader.table(source.table)
    computed = offline.as_of(events, source, view, features)
    recounted = recount.of_sample(events, source, view, features, RECOUNTED)
    differs = [
        f"l.__s{i} IS DISTINCT FROM v.{identifier(name)}"
        f" OR (r.__row IS NOT NULL AND l.__s{i} IS DISTINCT FROM r.{identifier(name)})"
        for i, name in enumerate(features)
    ]
    counts = ", ".join(f"count(*) FILTER (l.__s{i} IS NOT NULL AND ({each}))" for i, each in enumerate(differs))
    (row,) = reader.connection.sql(
        f"SELECT {counts} FROM labels l LEFT JOIN ({computed}) v USING (__row) LEFT JOIN ({recounted}) r"
        " ON r.__row = l.__row"
    ).fetchall()
    return [int(count) for count in row]
