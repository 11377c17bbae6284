"""The leak check: for every feature, how many values of a training set could not be known when their labels were.

By publish time, each label is joined once more with the release that was the newest at its instant, and the values are
compared. By event time, each value is looked up in the rows of the release by plain aggregates, which share nothing
with the join that made the training set.
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
from features.lake_reader import LakeReader, pinned
from features.offline import labels
from features.offline.labels import EVENT_TIMESTAMP, Horizon
from features.training import availability, joining, label_input, services, sets
from features.training.joining import Say
from features.training.label_input import Given
from features.training.services import Service
from lake import manifest
from lake.release import Release
from lake.sql import identifier


@dataclass(frozen=True)
class FeatureLeaks:
    """The values of one feature: `rows` = `known` + `changed` + `unpublished`.

    `known`: what the release in force at the label's instant said, too (or nothing, in both); of those after the set's
    own release none counts. `changed`: that release said something else, which was corrected since. `unpublished`: it
    said nothing, or there was none yet. `future`: not the value of the newest row at or before the label's instant.
    """

    feature: str
    rows: int
    known: int
    changed: int
    unpublished: int
    future: int

    @property
    def unknowable(self) -> int:
        """Values that nobody could know at label time."""
        return self.changed + self.unpublished


@dataclass(frozen=True)
class Leaks:
    """What a training set knows too early. `unheard` labels lie before the first release, which was made at
    `first_release_at`.

    `beyond_horizon` labels lie after the horizon of the release: their values were known, and are stale.
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
        """Whether any value was unknowable at label time."""
        return any(one.unknowable or one.future for one in self.features)

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the figures mean."""
        said = []
        if any(one.future for one in self.features):
            said.append(
                "Some values are not those of the newest row at or before their label: the training set knows the"
                " future. This is a defect: please report it"
            )
        if self.unheard and any(one.unpublished for one in self.features):
            said.append(
                f"{self.unheard:,} of {self.rows:,} labels lie before the first release ({self.first_release_at}):"
                " their values were published after label time, because the lake was backfilled. By event time they"
                " were knowable"
            )
        if any(one.changed for one in self.features):
            said.append(
                "Values were corrected after label time, by late or corrected files. With knowledge time, a training"
                " set holds what was known"
            )
        if self.beyond_horizon:
            said.append(
                f"{Horizon(self.horizon, self.release).warning(self.beyond_horizon, self.rows)}, and stale:"
                " what happened from then on up to the label is not in them"
            )
        elif not self.found:
            said.append("Every value was known at label time")
        return tuple(said)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            **asdict(self),
            "features": [asdict(one) for one in self.features],
            "found": self.found,
            "sentences": [*self.sentences],
        }


def check_leaks(name: str, say: Say = lambda _: None) -> Leaks:
    """What the training set of that name holds that was unknowable at label time."""
    made = manifest.read(name)
    service, data = sets.defined_as(made), sets.read(name)
    availability.ensure_there(made.versions, f"the leak check of training set {name}")
    horizon = Horizon(made.horizon or max(one.horizon for one in made.releases), made.release)
    return _check(data, service, made.releases, horizon, made.knowledge_time, say)


def check_labels(given_labels: Given, service: str, number: int | None = None, say: Say = lambda _: None) -> Leaks:
    """What a training set of these labels would hold that was unknowable, before it is made."""
    wanted, asked = services.named(service), pinned(number)
    rows = label_input.table(given_labels, asked, wanted)
    found = joining.at_release(rows, wanted, asked)
    data = pa.table({name: side[name] for side in (rows, found) for name in side.column_names})
    return _check(data, wanted, (wanted.of(asked),), Horizon.of(asked), False, say)


def _check(
    data: pa.Table, service: Service, used: tuple[Release, ...], horizon: Horizon, knowledge_time: bool, say: Say
) -> Leaks:
    rows = data.drop_columns([*service.columns])
    releases = joining.told(rows, horizon.release, used)
    unheard = int((joining.in_force(rows, releases) < 0).sum())
    then = joining.by_knowledge(rows, service, releases, say)
    say("looking up every value by event time")
    future = _future(data, service, used, knowledge_time)
    features = tuple(_compared(name, data[name], then[name], future[name]) for name in service.columns)
    return Leaks(
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


def _compared(name: str, held: pa.ChunkedArray, then: pa.ChunkedArray, future: int) -> FeatureLeaks:
    equal = pc.fill_null(pc.equal(held, then), False)
    if pa.types.is_floating(held.type):
        equal = pc.or_(equal, pc.fill_null(pc.and_(pc.is_nan(held), pc.is_nan(then)), False))
    equal = pc.or_(equal, pc.and_(held.is_null(), then.is_null()))
    known = _count(equal)
    unpublished = _count(pc.and_(held.is_valid(), then.is_null()))
    return FeatureLeaks(name, len(held), known, len(held) - known - unpublished, unpublished, future)


def _count(flags: pa.ChunkedArray) -> int:
    return int(pc.sum(flags).as_py() or 0)


def _future(data: pa.Table, service: Service, used: tuple[Release, ...], knowledge_time: bool) -> dict[str, int]:
    """Feature -> values that are not of the newest row by the label's instant; of one that is computed on demand, those
    with a later request time.
    """
    found = dict.fromkeys(service.columns, 0)
    rows = data.drop_columns([*service.columns])
    groups = joining.grouped(rows, service, used) if knowledge_time else [(used[0], np.arange(data.num_rows))]
    for one, places in groups:
        if one is None:
            continue
        reader, held = LakeReader(one), data.take(pa.array(places))
        had = joining.held_by(reader, service)
        for view in service.views:
            prefix = f"{view.projection.name_to_use()}:"
            names = [name for name in had if service.columns[name].ref.startswith(prefix)]
            for name, count in zip(names, _not_newest(reader, held, service, view, names), strict=True):
                found[name] += count
    for name in service.on_demand:
        later = [
            pc.greater(data[asked], data[EVENT_TIMESTAMP])
            for asked in service.request
            if pa.types.is_timestamp(data[asked].type)
        ]
        found[name] = sum(_count(pc.and_(pc.fill_null(late, False), data[name].is_valid())) for late in later)
    return found


def _not_newest(
    reader: LakeReader, held: pa.Table, service: Service, view: FeatureView, names: Sequence[str]
) -> list[int]:
    """For each feature of the view, in how many rows it has a value that no row of the key at its newest instant up to
    the label has.
    """
    if not names:
        return []
    checked = labels.check(held, service.join_keys).joinable
    for i, name in enumerate(names):
        checked = checked.append_column(f"__s{i}", held[name])
    source, fields = view.batch_source, {field.name: field.dtype for field in view.features}
    features = [service.columns[name].ref.split(":", 1)[1] for name in names]
    reader.connection.register("labels", checked)
    keys = [*map(identifier, queries.labelled(view))]
    named = ", ".join(f"__k{i}" for i in range(len(keys)))
    asked, same_key = (" AND ".join(f"l.{key} = {side}.__k{i}" for i, key in enumerate(keys)) for side in "af")
    values = [
        type_mapping.of(fields[feature], feature).offline.format(f"f.__f{i}") for i, feature in enumerate(features)
    ]
    agree = ", ".join(f"bool_or({value} IS NOT DISTINCT FROM l.__s{i}) AS ok{i}" for i, value in enumerate(values))
    counts = ", ".join(
        f"count(*) FILTER (l.__s{i} IS NOT NULL AND NOT coalesce(seen.ok{i}, false))" for i in range(len(names))
    )
    query = f"""
        WITH f AS MATERIALIZED ({queries.known(reader.table(source.table), source, view, features)}),
        instants AS (SELECT {named}, __at, __at AS told FROM f UNION ALL SELECT DISTINCT {", ".join(keys)}, __at, NULL
            FROM labels),
        newest AS (SELECT *, max(told) OVER (PARTITION BY {named} ORDER BY __at RANGE UNBOUNDED PRECEDING) AS newest
            FROM instants),
        asked AS (SELECT * FROM newest WHERE told IS NULL),
        seen AS (
            SELECT l.__row, {agree}
            FROM labels l JOIN asked a ON {asked} AND a.__at = l.__at JOIN f ON {same_key} AND f.__at = a.newest
            GROUP BY l.__row)
        SELECT {counts} FROM labels l LEFT JOIN seen ON seen.__row = l.__row"""
    (found,) = reader.connection.sql(query).fetchall()
    return [int(count) for count in found]
