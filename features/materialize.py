"""Materialization: the newest feature row of each entity, from a release's pinned tables into a new generation of the online store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

from feast import FeatureView

from contracts.interval import midnight
from contracts.release import Release
from contracts.report import PUBLISHED, UNCHANGED
from features import consistency, generation, queries, registry
from features.consistency import Consistency
from features.generation import About, Draft
from features.lake_reader import LakeReader
from features.online_store import layout_of
from features.queries import identifier
from features.source import GoldTable

BATCH = 50_000
Progress = Callable[[str, int], Any]
"""Called with a view's name and the number of its rows loaded so far."""


@dataclass(frozen=True)
class ViewReport:
    """One feature view in one materialization. `generation` is the id of the sqlite file that serves it."""

    view: str
    status: str
    rows: int
    seconds: float
    generation: str

    @property
    def entities_per_second(self) -> float:
        """Speed of this view's load."""
        return self.rows / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Materialized:
    """What was loaded, and how it compared with training before it was served; None when it was being served already."""

    views: list[ViewReport]
    consistency: Consistency | None


def online_release() -> About | None:
    """What is being served: release number, horizon, table versions, definitions and rows per view. None when nothing is."""
    return generation.about()


def materialize(release: Release, progress: Progress | None = None, sample: int | None = consistency.SAMPLE) -> Materialized:
    """Serve a release, as of its horizon. Nothing is done when it is already being served with the same definitions.

    Before it is served, `sample` entities of each view and side (None: all) are compared with training; ConsistencyError, and the former generation stays,
    when any value differs.

    The registry is brought up to the definitions first. A row counts if it was knowable at the horizon's midnight; later rows, which say how windows
    will empty, wait for a later release. A horizon in the future therefore serves what there is.
    """
    registry.apply()
    views = registry.online_views(registry.open_store())
    judged: list[Consistency] = []

    def judge(path: Path) -> None:
        judged.append(consistency.compare(release, path, views, sample))
        judged[-1].refuse_mismatch()

    reports = load(release, views, registry.fingerprint(), progress, judge)
    return Materialized(reports, judged[0] if judged else None)


def load(
    release: Release, views: Sequence[FeatureView], definitions: str, progress: Progress | None = None, judge: Callable[[Path], Any] | None = None
) -> list[ViewReport]:
    """Fill a generation with these views and put it in use, all of them at once, unless `judge` raises about its file: then the former one stays."""
    served = generation.about()
    path = generation.current()
    if (
        served
        and path
        and (served.release, served.tables, served.horizon, served.definitions) == (release.number, release.tables, release.horizon, definitions)
    ):
        return [ViewReport(view.name, UNCHANGED, served.rows.get(view.name, 0), 0.0, path.stem) for view in views]
    with generation.drafting(f"release-{release.number}") as draft:
        reader = LakeReader(release)
        reports = [_load_view(reader, draft, view, progress) for view in views]
        rows = {report.view: report.rows for report in reports}
        draft.finish(About(release.number, release.horizon, definitions, release.tables, rows))
        if judge:
            judge(draft.path)
        draft.publish()
        return reports


def _load_view(reader: LakeReader, draft: Draft, view: FeatureView, progress: Progress | None) -> ViewReport:
    started, layout, rows = perf_counter(), layout_of(view), 0
    draft.connection.execute(layout.create)
    result = reader.connection.execute(_newest(reader, view))
    while batch := result.fetchmany(BATCH):
        draft.connection.executemany(layout.insert, batch)
        rows += len(batch)
        if progress:
            progress(view.name, rows)
    return ViewReport(view.name, PUBLISHED, rows, round(perf_counter() - started, 3), draft.name)


def _newest(reader: LakeReader, view: FeatureView) -> str:
    """SQL whose rows fit the view's layout, in the order of its keys, so that sqlite only ever appends."""
    source, layout = view.batch_source, layout_of(view)
    if not isinstance(source, GoldTable):
        raise TypeError(f"feature view {view.name} reads a {type(source).__name__}; only GoldTable(table='gold.<name>') sources can be materialized")
    keys, event, created = [source.column(name) for name in layout.keys], source.event_column, source.created_column
    features = {name: source.column(name) for name in layout.features}
    reader.require(source.table, [*keys, event, *([created] if created else []), *features.values()])
    values = {generation.EVENT: f"epoch_us({identifier(event)})", generation.CREATED: f"epoch_us({identifier(created)})" if created else "NULL::BIGINT"}
    values |= {name: kind.online.format(identifier(features[name])) for name, kind in layout.features.items()}
    horizon = queries.between(event, None, midnight(date.fromisoformat(reader.release.horizon)))
    rows = queries.newest(reader.table(source.table), keys, values, event, created, horizon)
    return f"{rows} ORDER BY {', '.join(map(identifier, keys))}"
