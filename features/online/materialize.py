"""Materialization: the newest feature row of each entity, from a release's pinned tables into a new generation of the
online store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from time import perf_counter
from typing import Any

from feast import FeatureView

from contracts.interval import midnight
from contracts.report import PUBLISHED, UNCHANGED
from features import queries, registry
from features.lake_reader import LakeReader, SourceError
from features.offline import as_of
from features.online import backends, consistency, delta_changes, generation
from features.online.consistency import Consistency
from features.online.generation import Draft, GenerationMetadata, InUse, OnlineBackend, OnlineStoreDamagedError, Stored
from features.online.store import layout_of
from features.queries import EPOCH
from lake.release import Release
from lake.sql import identifier

BATCH = 50_000
MOST_CHANGED = 0.5
"""Where more of a view's entities changed than this share, all are loaded anew: appending is faster than searching."""
Progress = Callable[[str, int], Any]
"""Called with a view's name and the number of its rows loaded so far."""

log = logging.getLogger(__name__)


class NothingToServeError(generation.OnlineStoreError, LookupError):
    """No feature row was known at the day for which features were to be put online."""


@dataclass(frozen=True)
class ViewReport:
    """One feature view in one materialization: its rows, of which `loaded` were read from the lake and the others were
    online already. `generation` is the id of what serves it.
    """

    view: str
    status: str
    rows: int
    seconds: float
    generation: str
    loaded: int = 0

    @property
    def entities_per_second(self) -> float:
        """Speed of this view's load."""
        return self.loaded / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Materialized:
    """What was loaded, and how it compared with training before it was served; None when it was being served
    already.
    """

    views: list[ViewReport]
    consistency: Consistency | None


def online_release() -> GenerationMetadata | None:
    """What is being served: release number, horizon, table versions, definitions and rows per view. None when nothing
    is.
    """
    return backends.about()


def materialize(
    release: Release, progress: Progress | None = None, sample: int | None = consistency.SAMPLE, *, fresh: bool = False
) -> Materialized:
    """Serve a release, as of its horizon. Nothing is done when it is already being served with the same definitions.

    `fresh` loads every row from the release all the same, whatever the store holds: it repairs rows that were changed
    in the store.

    Before it is served, `sample` entities of each view and side (None: all) are compared with training;
    ConsistencyError, and the former generation stays, when any value differs.

    The registry is brought up to the definitions first. A row counts if it was knowable at the horizon's midnight;
    later rows, which say how windows will empty, wait for a later release. A horizon in the future therefore serves
    what there is.
    """
    registry.apply()
    views = registry.online_views(registry.open_store())
    ensure_tables(release, (as_of.gold(view.batch_source).table for view in views))
    judged: list[Consistency] = []

    def judge(name: str) -> None:
        judged.append(consistency.compare(release, name, views, sample))
        judged[-1].refuse_mismatch()

    reports = load(release, views, registry.fingerprint(), progress, judge, fresh=fresh)
    return Materialized(reports, judged[-1] if judged else None)


def ensure_tables(release: Release, tables: Iterable[str]) -> None:
    """Raise SourceError unless the release has all these tables, which the project declares."""
    if missing := sorted({*tables} - release.tables.keys()):
        raise SourceError(
            f"release {release.number} has no {', '.join(missing)}, which the project declares, so its features cannot"
            " be served. Run the DAG `millrace`, whose next release has every declared table, and serve that one; to"
            f" serve release {release.number}, check out the code that it was made with"
        )


def materialize_until(release: Release, end: datetime, progress: Progress | None = None) -> Materialized | None:
    """`materialize` as of the last midnight (UTC) at or before `end`, or as of the release's horizon if that is
    earlier.

    None, and nothing is done, when a later day is online: an older row never replaces a newer one. NothingToServeError
    when no row was knowable by `end`.
    """
    wanted = replace(release, horizon=min(release.horizon, queries.utc(end).date().isoformat()))
    served = _served(backends.configured())
    if served and served.about.horizon and served.about.horizon > wanted.horizon:
        return None
    registry.apply()
    first = _first_midnight(LakeReader(wanted), registry.online_views(registry.open_store()))
    if first is None or first > queries.microseconds(midnight(date.fromisoformat(wanted.horizon))):
        raise NothingToServeError(
            f"release {release.number} has no feature row that was known at {wanted.horizon}T00:00 UTC:"
            " nothing would be served."
            + (
                f" The first is of {EPOCH + timedelta(microseconds=first):%Y-%m-%dT%H:%M} UTC: give a later end"
                if first is not None
                else " Run the DAG `millrace`"
            )
        )
    return materialize(wanted, progress)


def _first_midnight(reader: LakeReader, views: Sequence[FeatureView]) -> int | None:
    """The first event time of any view, in microseconds since 1970."""
    firsts = []
    for view in views:
        source = as_of.gold(view.batch_source)
        event, table = identifier(source.event_column), reader.table(source.table)
        [(first,)] = reader.connection.execute(f"SELECT min(epoch_us({event})) FROM {table}").fetchall()
        firsts += [] if first is None else [first]
    return min(firsts, default=None)


def load(
    release: Release,
    views: Sequence[FeatureView],
    definitions: str,
    progress: Progress | None = None,
    judge: Callable[[str], Any] | None = None,
    *,
    fresh: bool = False,
) -> list[ViewReport]:
    """Fill a generation with these views and put it in use, all of them at once, unless `judge` raises about it: then
    the former one stays.

    Where the generation in use was made by the same definitions and nothing was pushed into it, the new one is that one
    with what changed between the two releases. If that fails, its rows may have been changed in the store, and all rows
    are loaded from the release, as with `fresh`.
    """
    place, wanted = (
        backends.configured(),
        GenerationMetadata(release.number, release.horizon, definitions, release.tables, release.ids),
    )
    if not fresh and (unchanged := _unchanged(place, wanted, views)):
        return unchanged
    while True:
        with place.drafting(f"release-{release.number}") as draft:
            if not fresh and (
                unchanged := _unchanged(place, wanted, views)
            ):  # somebody else served it while this one waited for its turn
                return unchanged
            base, reader = None if fresh else _base(place, wanted, views), LakeReader(release)
            try:
                if base:
                    draft.copy_from(base.name)
                reports = [_load_view(reader, draft, view, base.about if base else None, progress) for view in views]
                draft.finish(replace(wanted, rows={report.view: report.rows for report in reports}))
                if (
                    base and _base(place, wanted, views) != base
                ):  # what was pushed meanwhile may have been copied; it is no base now, so that this happens once
                    continue
                if judge:
                    judge(draft.name)
            except Exception as error:
                if base is None:
                    raise
                log.warning(
                    "%s cannot be built upon (%s: %s), so every row is loaded from release %d",
                    base.name,
                    type(error).__name__,
                    error,
                    release.number,
                )
                fresh = True
                continue
            draft.publish()
            return reports


def _served(place: OnlineBackend) -> InUse | None:
    """What is served; None also when it is damaged, for then it is replaced."""
    try:
        return generation.in_use(place)
    except OnlineStoreDamagedError:
        return None


def _unchanged(place: OnlineBackend, wanted: GenerationMetadata, views: Sequence[FeatureView]) -> list[ViewReport]:
    """What is served already, if it is what is wanted and nothing else."""
    served = _served(place)
    if served is None or replace(served.about, rows={}) != wanted:
        return []
    if {*served.about.rows} != {view.name for view in views}:  # a view was applied besides the definitions
        return []
    return [ViewReport(view.name, UNCHANGED, served.about.rows.get(view.name, 0), 0.0, served.name) for view in views]


def _base(place: OnlineBackend, wanted: GenerationMetadata, views: Sequence[FeatureView]) -> InUse | None:
    """The generation in use that another one can begin with: all of its rows come from a release, by the same
    definitions.
    """
    served = _served(place)
    if (
        served is None
        or served.about.pushed
        or served.about.definitions != wanted.definitions
        or {*served.about.rows} != {view.name for view in views}
    ):
        return None
    return served


def _load_view(
    reader: LakeReader, draft: Draft, view: FeatureView, base: GenerationMetadata | None, progress: Progress | None
) -> ViewReport:
    started, layout = perf_counter(), layout_of(view)
    changed = delta_changes.between(base, reader, view) if base else None
    seen = 0

    def told(batches: Iterator[list[Stored]]) -> Iterator[list[Stored]]:
        nonlocal seen
        for batch in batches:
            yield batch
            seen += len(batch)
            if progress:
                progress(view.name, seen)

    if base is None or changed is None or changed > base.rows[view.name] * MOST_CHANGED:
        rows = draft.load(layout, told(_batches(reader, _newest(reader, view))))
    else:
        keys = reader.connection.execute(f"SELECT * FROM {delta_changes.CHANGED}").fetchall()
        rows = draft.apply_changes(layout, keys, told(_batches(reader, _newest(reader, view, delta_changes.CHANGED))))
    return ViewReport(view.name, PUBLISHED, rows, round(perf_counter() - started, 3), draft.name, seen)


def _batches(reader: LakeReader, sql: str) -> Iterator[list[Stored]]:
    result = reader.connection.execute(sql)
    while batch := result.fetchmany(BATCH):
        yield batch


def _newest(reader: LakeReader, view: FeatureView, among: str | None = None) -> str:
    """SQL whose rows fit the view's layout, in the order of its keys, so that sqlite only ever appends; only of keys in
    the table `among`, if given.
    """
    source, layout = as_of.gold(view.batch_source), layout_of(view)
    keys, event, created = [source.column(name) for name in layout.keys], source.event_column, source.created_column
    features = {name: source.column(name) for name in layout.features}
    reader.require(source.table, [*keys, event, *([created] if created else []), *features.values()])
    values = {
        generation.EVENT: f"epoch_us({identifier(event)})",
        generation.CREATED: f"epoch_us({identifier(created)})" if created else "NULL::BIGINT",
    }
    values |= {name: kind.online.format(identifier(features[name])) for name, kind in layout.features.items()}
    horizon = queries.between(event, None, midnight(date.fromisoformat(reader.release.horizon)))
    names = ", ".join(map(identifier, keys))
    some = f" AND ({names}) IN (SELECT ({names}) FROM {among})" if among else ""
    rows = queries.newest(reader.table(source.table), keys, values, event, created, horizon + some)
    return f"{rows} ORDER BY {names}"
