"""Materialization: load the newest feature row of each entity from a release into a new generation of the online
store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from itertools import islice
from time import perf_counter
from typing import Any

from feast import FeatureView

from contracts import catalog, project
from contracts.interval import midnight
from contracts.report import PUBLISHED, UNCHANGED
from features import queries, registry
from features.instants import declaration, state
from features.lake_reader import LakeReader, SourceError
from features.offline import as_of
from features.online import backends, consistency, delta_changes, generation
from features.online.consistency import Consistency
from features.online.generation import (
    Draft,
    GenerationMetadata,
    InUse,
    OnlineBackend,
    OnlineStoreDamagedError,
    StoredRow,
)
from features.online.store import row_schema_of
from features.queries import EPOCH
from features.streaming import handover, tails
from lake.release import Release
from lake.sql import identifier

BATCH = 50_000
MOST_CHANGED = 0.5
"""Above this share of changed entities a view is loaded in full: appending is faster than searching."""
Progress = Callable[[str, int], Any]
"""Called with a view's name and the number of its rows loaded so far."""

log = logging.getLogger(__name__)


class NothingToServeError(generation.OnlineStoreError, LookupError):
    """No feature row was known on the day as of which features were to be put online."""


@dataclass(frozen=True)
class ViewReport:
    """One feature view in one materialization: its rows, of which `loaded` were read from the lake; the others were
    online already. `generation` is the id of the generation that serves it.
    """

    view: str
    status: str
    rows: int
    seconds: float
    generation: str
    loaded: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class MaterializationResult:
    """The loaded views, and their comparison with training; None when the release was online already."""

    views: list[ViewReport]
    consistency: Consistency | None


def materialize(
    release: Release, progress: Progress | None = None, sample: int | None = consistency.SAMPLE, *, fresh: bool = False
) -> MaterializationResult:
    """Serve a release as of its horizon, after applying the definitions to the registry. Does nothing when it is online
    already with the same definitions.

    `fresh` loads every row from the release, whatever the store holds, which repairs rows that were changed in the
    store. SourceError when the release lacks a declared table.

    Before it is served, `sample` entities per view and side (None: all) are compared with training; if any value
    differs, ConsistencyError is raised and the previous generation stays in use.

    Rows that were known at the horizon's midnight count; later rows, which record how windows empty, wait for a later
    release.
    """
    views = _applied_views()
    ensure_tables(release, (as_of.gold(view.batch_source).table for view in views))
    comparisons: list[Consistency] = []

    def validate(name: str) -> None:
        comparisons.append(consistency.compare(release, name, views, sample))
        comparisons[-1].ensure_match()

    reports = load(release, views, registry.fingerprint(), progress, validate, fresh=fresh)
    return MaterializationResult(reports, comparisons[-1] if comparisons else None)


def _applied_views() -> list[FeatureView]:
    """The views to load, after applying the definitions; OnlineStoreOwnedError before, if another project serves."""
    generation.ensure_own(backends.configured(), project.current().name)
    registry.apply()
    return registry.online_views(registry.open_store())


def ensure_tables(release: Release, tables: Iterable[str]) -> None:
    """Raise SourceError unless the release has all these tables, which the project declares."""
    if missing := sorted({*tables} - release.tables.keys()):
        raise SourceError(
            f"release {release.number} has no {', '.join(missing)}, which the project declares, so its features cannot"
            " be served. Run the DAG `millrace`, whose next release has every declared table, and serve that one; to"
            f" serve release {release.number}, check out the code that it was made with"
        )


def materialize_until(
    release: Release, end: datetime, progress: Progress | None = None
) -> MaterializationResult | None:
    """`materialize` as of the last midnight (UTC) at or before `end`, or the release's horizon if that is earlier.

    Returns None and does nothing when a later day is online: an older row never replaces a newer one.
    NothingToServeError when no row was known by `end`.
    """
    requested = replace(release, horizon=min(release.horizon, queries.utc(end).date().isoformat()))
    backend = backends.configured()
    generation.ensure_own(backend, project.current().name)
    served = _served(backend)
    if served and served.metadata.horizon and served.metadata.horizon > requested.horizon:
        return None
    first = _first_midnight(LakeReader(requested), _applied_views())
    if first is None or first > queries.microseconds(midnight(date.fromisoformat(requested.horizon))):
        raise NothingToServeError(
            f"release {release.number} has no feature row that was known at {requested.horizon}T00:00 UTC:"
            " nothing would be served."
            + (
                f" The first is of {EPOCH + timedelta(microseconds=first):%Y-%m-%dT%H:%M} UTC: give a later end"
                if first is not None
                else " Run the DAG `millrace`"
            )
        )
    return materialize(requested, progress)


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
    validate: Callable[[str], Any] | None = None,
    *,
    fresh: bool = False,
) -> list[ViewReport]:
    """Fill a generation with these views and put it in use, all at once; if `validate` raises, the previous one stays.

    If the generation in use was made with the same definitions and nothing was pushed into it, the new one starts as
    its copy, and only changes between the two releases are loaded. If that fails, rows may have been changed in the
    store: all rows are then loaded from the release, as with `fresh`.
    """
    backend, name = backends.configured(), project.current().name
    requested = GenerationMetadata(
        release.number,
        release.horizon,
        definitions,
        release.tables,
        release.ids,
        project=name,
        streams=handover.cuts(release),
    )
    if not fresh and (unchanged := _unchanged(backend, requested, views)):
        return unchanged
    while True:
        with backend.drafting(f"release-{release.number}") as draft:
            # another process may have served it, or another project, while this one waited
            generation.ensure_own(backend, name)
            if not fresh and (unchanged := _unchanged(backend, requested, views)):
                return unchanged
            base, reader = None if fresh else _base(backend, requested, views), LakeReader(release)
            try:
                if base:
                    draft.copy_from(base.name)
                reports = [_load_view(reader, draft, view, base.metadata if base else None, progress) for view in views]
                draft.finish(replace(requested, rows={report.view: report.rows for report in reports}))
                # rows pushed meanwhile may have been copied; the generation is no longer a base, so this happens once
                if base and _base(backend, requested, views) != base:
                    continue
                if validate:
                    validate(draft.name)
            except Exception as error:
                if base is None:
                    raise
                log.warning(
                    "%s cannot serve as a base (%s: %s), so every row is loaded from release %d",
                    base.name,
                    type(error).__name__,
                    error,
                    release.number,
                )
                fresh = True
                continue
            former = _served(backend)
            handover.prepare(backend, requested)
            draft.publish()
            handover.trim(backend, requested, former.metadata if former else None)
            return reports


def _served(backend: OnlineBackend) -> InUse | None:
    """The generation in use; None also when it is damaged, because it is replaced then."""
    try:
        return generation.in_use(backend)
    except OnlineStoreDamagedError:
        return None


def _unchanged(backend: OnlineBackend, requested: GenerationMetadata, views: Sequence[FeatureView]) -> list[ViewReport]:
    """Reports of the generation in use, if it equals the requested one; else empty."""
    served = _served(backend)
    if served is None or replace(served.metadata, rows={}) != requested:
        return []
    if {*served.metadata.rows} != {view.name for view in views}:  # a view was applied outside of the definitions
        return []
    return [
        ViewReport(view.name, UNCHANGED, served.metadata.rows.get(view.name, 0), 0.0, served.name) for view in views
    ]


def _base(backend: OnlineBackend, requested: GenerationMetadata, views: Sequence[FeatureView]) -> InUse | None:
    """The generation in use, if a new one can start as its copy: all rows come from a release, with the same
    definitions.
    """
    served = _served(backend)
    if (
        served is None
        or served.metadata.pushed
        or served.metadata.definitions != requested.definitions
        or {*served.metadata.rows} != {view.name for view in views}
        or served.metadata.streams.keys() != requested.streams.keys()  # the states of a view with a tail have more
    ):
        return None
    return served


def _load_view(
    reader: LakeReader, draft: Draft, view: FeatureView, base: GenerationMetadata | None, progress: Progress | None
) -> ViewReport:
    started, row_schema = perf_counter(), row_schema_of(view)
    changed = delta_changes.between(base, reader, view) if base else None
    loaded = 0

    def counted(batches: Iterator[list[StoredRow]]) -> Iterator[list[StoredRow]]:
        nonlocal loaded
        for batch in batches:
            yield batch
            loaded += len(batch)
            if progress:
                progress(view.name, loaded)

    read = _states if declaration.is_of_instants(view) else _rows
    if base is None or changed is None or changed > base.rows[view.name] * MOST_CHANGED:
        rows = draft.load(row_schema, counted(read(reader, view)))
    else:
        keys = reader.connection.execute(f"SELECT * FROM {delta_changes.CHANGED}").fetchall()
        rows = draft.apply_changes(row_schema, keys, counted(read(reader, view, delta_changes.CHANGED)))
    return ViewReport(view.name, PUBLISHED, rows, round(perf_counter() - started, 3), draft.name, loaded)


def _rows(reader: LakeReader, view: FeatureView, among: str | None = None) -> Iterator[list[StoredRow]]:
    result = reader.connection.execute(_newest(reader, view, among))
    while batch := result.fetchmany(BATCH):
        yield batch


def _states(reader: LakeReader, view: FeatureView, among: str | None = None) -> Iterator[list[StoredRow]]:
    """The states of a view of instants as rows."""
    source, horizon = as_of.gold(view.batch_source), _horizon(reader.release)
    names = declaration.columns_of(view, [field.name for field in view.features])
    keys = [source.column(key.name) for key in view.entity_columns]
    reader.require(source.table, [*keys, source.event_column, *names])
    tail = tails.of(catalog.table(source.table))
    event_key = tail.event_key if tail else ()
    reader.require(source.table, [column.name for column in event_key])
    events = reader.connection.sql(state.query(reader.table(source.table), source, view, horizon, among, event_key))
    packed = state.states(events.to_arrow_table(), view, horizon)
    rows: Iterator[StoredRow] = ([*key, newest, None, blob] for key, newest, blob in packed)
    while batch := list(islice(rows, BATCH)):
        yield batch


def _horizon(release: Release) -> int:
    return queries.microseconds(midnight(date.fromisoformat(release.horizon)))


def _newest(reader: LakeReader, view: FeatureView, among: str | None = None) -> str:
    """SQL for rows in the view's RowSchema, ordered by key, so that sqlite only appends; limited to keys in the table
    `among`, if given.
    """
    source, row_schema = as_of.gold(view.batch_source), row_schema_of(view)
    keys, event, created = [source.column(name) for name in row_schema.keys], source.event_column, source.created_column
    features = {name: source.column(name) for name in row_schema.features}
    reader.require(source.table, [*keys, event, *([created] if created else []), *features.values()])
    values = {
        generation.EVENT: f"epoch_us({identifier(event)})",
        generation.CREATED: f"epoch_us({identifier(created)})" if created else "NULL::BIGINT",
    }
    values |= {name: mapping.online.format(identifier(features[name])) for name, mapping in row_schema.features.items()}
    horizon = queries.between(event, None, midnight(date.fromisoformat(reader.release.horizon)))
    names = ", ".join(map(identifier, keys))
    key_filter = f" AND ({names}) IN (SELECT ({names}) FROM {among})" if among else ""
    rows = queries.newest(reader.table(source.table), keys, values, event, created, horizon + key_filter)
    return f"{rows} ORDER BY {names}"
