"""Arrivals: landed files and streamed rows that no run has carried on. Found by comparison alone, so whatever watches
may be killed at any moment.

Landed files are compared with what runs recorded about the landing zone (`<lake>/_landed/<table>.json`), versions of
bronze tables with those that their consumers read. Starting a run is in `millrace.events`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from contracts import catalog
from contracts.interval import DAY, Interval, days_of, merged
from contracts.model import Layer, Table
from etl.sources import landing
from lake import delta, release, settings, storage
from lake.delta import STREAM_RUNS
from lake.storage import Mark

if TYPE_CHECKING:
    from deltalake import DeltaTable

PATIENCE = 30.0
"""Seconds that complete files wait for others that came later, so that a steady drip of files starts runs, too."""
Landed: TypeAlias = Mapping[date, str]
"""Day -> fingerprint of the files that landed for it."""


@dataclass(frozen=True)
class Arrival:
    """The files of one day, or the rows of a bronze table, that no run has carried on.

    `mark` changes when more comes. `starts` says whether it may start a run: not what a run itself has loaded.
    """

    table: str
    days: tuple[Interval, ...]
    mark: str
    starts: bool = True
    of_files: bool = True

    @property
    def key(self) -> tuple[str, date | None]:
        """What a later arrival replaces."""
        return self.table, self.days[0].start if self.of_files else None

    def __str__(self) -> str:
        what = "files" if self.of_files else f"version {self.mark}"
        return f"{self.table}: {what} for {', '.join(map(str, self.days))}"


@dataclass(frozen=True)
class Outstanding:
    """All that no run has carried on: what is complete, and the days with files that still change or just came."""

    arrivals: tuple[Arrival, ...] = ()
    changing: tuple[date, ...] = ()
    young: tuple[date, ...] = ()

    @property
    def interval(self) -> Interval | None:
        """From the first to the last day of what is complete; None where nothing is.

        Rows of a stream count up to today, or the newest release: a producer's clock must not move the horizon of all
        features into the future. They are carried on by the run that gets there.
        """
        landed = [span for arrival in self.arrivals if arrival.of_files for span in arrival.days]
        streamed = [span for arrival in self.arrivals if not arrival.of_files for span in arrival.days]
        end = max([_today() + DAY, *_horizon(), *(span.end for span in landed)])
        spans = [*landed, *(clipped for span in streamed if (clipped := span.clipped(end)))]
        return Interval(min(span.start for span in spans), max(span.end for span in spans)) if spans else None


@dataclass
class _Seen:
    mark: Mark
    since: float
    changed: bool = False


@dataclass
class Watcher:
    """Looks at landing zone and lake again and again. A file is complete once it has not changed for `settle` seconds.

    What was announced is not announced again, so a run that fails is not started over and over.
    """

    settle: float
    _files: dict[tuple[str, str], _Seen] = field(default_factory=dict)
    _done: dict[tuple[str, date], str] = field(default_factory=dict)
    _streams: dict[str, tuple[Any, Arrival | None]] = field(default_factory=dict)
    _announced: dict[tuple[str, date | None], str] = field(default_factory=dict)
    _waiting_since: float | None = None

    def look(self, now: float) -> Outstanding:
        """What is outstanding at this moment of a monotonic clock."""
        arrivals: list[Arrival] = []
        changing: list[date] = []
        young: list[date] = []
        for table in catalog.tables(Layer.BRONZE):
            for day, files in self._unloaded(table).items():
                seen = [self._see(table, path, mark, now) for path, mark in files.items()]
                unsettled = [file for file in seen if now - file.since < self.settle]
                if unsettled:
                    (changing if any(file.changed for file in unsettled) else young).append(day)
                else:
                    arrivals.append(Arrival(table.qualified, days_of([day]), fingerprint(files)))
            if streamed := self._uncarried(table):
                arrivals.append(streamed)
        return Outstanding(tuple(arrivals), tuple(changing), tuple(young))

    def news(self, now: float) -> Outstanding | None:
        """What is outstanding, where it should start a run now; the caller calls `announced` once it does."""
        outstanding = self.look(now)
        news = [arrival for arrival in outstanding.arrivals if arrival.starts and not self._is_announced(arrival)]
        interval = outstanding.interval if news else None
        if interval is None:
            self._waiting_since = None
            return None
        self._waiting_since = now if self._waiting_since is None else self._waiting_since
        if any(day in interval for day in outstanding.changing):
            return None  # the run would load it half-written
        return None if outstanding.young and now - self._waiting_since < PATIENCE else outstanding

    def announced(self, outstanding: Outstanding) -> None:
        """A run starts for this."""
        self._announced.update({arrival.key: arrival.mark for arrival in outstanding.arrivals})
        self._waiting_since = None

    def _is_announced(self, arrival: Arrival) -> bool:
        return self._announced.get(arrival.key) == arrival.mark

    def _unloaded(self, table: Table) -> dict[date, dict[str, Mark]]:
        """The days with files that no run has loaded. The record is read only where there is one."""
        days = landing.marks(table)
        unknown = {day: mark for day in days if self._done.get((table.name, day)) != (mark := fingerprint(days[day]))}
        if unknown:
            record = recorded(table)
            for day in [day for day, mark in unknown.items() if record.get(day) == mark]:
                self._done[table.name, day] = unknown.pop(day)
                for path in days[day]:
                    self._files.pop((table.name, path), None)
        return {day: days[day] for day in sorted(unknown)}

    def _see(self, table: Table, path: str, mark: Mark, now: float) -> _Seen:
        seen = self._files.get((table.name, path))
        if seen is None or seen.mark != mark:
            seen = self._files[table.name, path] = _Seen(mark, now, changed=seen is not None)
        return seen

    def _uncarried(self, table: Table) -> Arrival | None:
        published = delta.open_table(table.qualified)
        if published is None:
            return None
        consumers = [delta.open_table(consumer.qualified) for consumer in _consumers(table)]
        versions = (published.version(), [consumer and consumer.version() for consumer in consumers])
        former = self._streams.get(table.qualified)
        if former is None or former[0] != versions:
            former = self._streams[table.qualified] = versions, _of_commits(table, published, consumers)
        return former[1]


def _of_commits(table: Table, published: DeltaTable, consumers: list[DeltaTable | None]) -> Arrival | None:
    """The rows of a bronze table that a consumer has not read."""
    days: list[Interval] = []
    starts = False
    for consumer in consumers:
        last = delta.last_commit(consumer)
        is_same = last is not None and last.ids.get(table.qualified) == str(published.metadata().id)
        read = last.inputs.get(table.qualified) if last and is_same else None
        changed = None if read is None else delta.changed_since(published, read)
        if changed is None:
            extent = delta.extent(published, table)
            changed = (extent,) if extent else ()
        if changed:
            commits = delta.commit_history(published, since=-1 if read is None else read)
            starts = starts or any(commit is None or commit.run_id.startswith(STREAM_RUNS) for commit in commits)
            days += changed
    return Arrival(table.qualified, merged(days), str(published.version()), starts, of_files=False) if days else None


def _consumers(table: Table) -> list[Table]:
    """The tables that are built from a bronze table."""
    return [consumer for consumer in catalog.tables() if table.qualified in consumer.inputs]


def _today() -> date:
    return datetime.now(UTC).date()


def _horizon() -> list[date]:
    numbers = release.numbers()
    return [date.fromisoformat(release.read(numbers[-1]).horizon)] if numbers else []


# --- the record of what was loaded


def fingerprint(files: Mapping[str, Mark]) -> str:
    """Identifies the files of a day in these versions."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()[:16]


def landed(table: Table, interval: Interval) -> Landed:
    """What has landed for the days of an interval. To be recorded once these days are loaded: a file that changes in
    between has another fingerprint then.
    """
    return {day: fingerprint(files) for day, files in landing.marks(table).items() if day in interval}


def record(table: Table, loaded: Landed) -> None:
    """Record that a bronze table has all of this. Runs that record at once may lose one's days: they are then loaded
    again, which changes nothing.
    """
    former = recorded(table)
    days = {**former, **loaded}
    if days != former:
        published = {"id": delta.id_of(table.qualified), "version": delta.version_of(table.qualified)}
        content = {**published, "days": {str(day): days[day] for day in sorted(days)}}
        path = _path(table)
        storage.make_folder(path.parent)
        storage.write_whole(path, json.dumps(content).encode())


def recorded(table: Table) -> Landed:
    """What a bronze table has by the record; nothing where the table was removed, rebuilt or restored since."""
    content = storage.read(_path(table))
    published = delta.open_table(table.qualified) if content else None
    if content is None or published is None:
        return {}
    kept = json.loads(content)
    if kept["id"] != str(published.metadata().id) or kept["version"] > published.version():
        return {}
    return {date.fromisoformat(day): mark for day, mark in kept["days"].items()}


def _path(table: Table) -> Path:
    return settings.lake() / "_landed" / f"{table.name}.json"
