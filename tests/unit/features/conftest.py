"""A tiny lake of the cinema: tables written by delta-rs in a temporary home, with rows given inline."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from contracts import catalog, project
from contracts.model import BOOLEAN, DOUBLE, LONG, STRING, TIMESTAMP, DecimalType, Type
from features import views
from features.offline import as_of, frames
from features.offline.store import ReleaseOfflineStore, ReleaseOfflineStoreConfig
from lake import release, settings
from tests.projects import CINEMA

INSTANT = pa.timestamp("us", tz="UTC")
ARROW = {LONG: pa.int64(), STRING: pa.string(), DOUBLE: pa.float64(), BOOLEAN: pa.bool_(), TIMESTAMP: INSTANT}


def _declared() -> SimpleNamespace:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(project.SETTING, str(CINEMA))
        return SimpleNamespace(**views.declared())


definitions = _declared()
"""The Feast objects of the cinema by their names."""


def at(text: str) -> datetime:
    """`at("2017-01-05")` or `at("2017-01-05 12:00")`, UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def arrow(type_: Type) -> pa.DataType:
    return pa.decimal128(type_.precision, type_.scale) if isinstance(type_, DecimalType) else ARROW[type_]


class Lake:
    """Writes tables and releases."""

    def write(
        self, name: str, rows: list[dict[str, Any]], schema: pa.Schema | None = None, by: list[str] | None = None
    ) -> int:
        """Replace gold.<name>, in partitions if told by what; returns the Delta version."""
        path = settings.table_path(f"gold.{name}")
        path.mkdir(parents=True, exist_ok=True)
        write_deltalake(
            path,
            pa.Table.from_pylist(rows, schema or self.schema(name)),
            mode="overwrite",
            schema_mode="overwrite",
            partition_by=by,
        )
        return DeltaTable(str(path)).version()

    def append(self, name: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        """One more file of gold.<name>, whose columns may be new."""
        write_deltalake(
            settings.table_path(f"gold.{name}"), pa.Table.from_pylist(rows, schema), mode="append", schema_mode="merge"
        )

    def schema(self, name: str) -> pa.Schema:
        return pa.schema([(column.name, arrow(column.type)) for column in catalog.table(f"gold.{name}").columns])

    def release(self, *names: str, horizon: str = "2017-02-01") -> release.Release:
        """Pin the present versions."""
        return release.write(
            {f"gold.{name}": DeltaTable(str(settings.table_path(f"gold.{name}"))).version() for name in names}, horizon
        )


VIEWS = ("guest_activity", "guest_movie", "guest_profile", "movie_demand")


def activity(
    guest: int, when: str, spend: str = "1.00", last: str = "2017-01-01 09:30:15", **more: Any
) -> dict[str, Any]:
    """A row of gold.guest_activity."""
    windows = {f"{what}_{days}d": 1 for what in ("seats", "bookings") for days in (7, 30, 90)}
    money = {f"paid_{days}d": pa.scalar(spend).cast(pa.decimal128(18, 2)).as_py() for days in (7, 30, 90)}
    return {
        "guest_id": guest,
        "event_timestamp": at(when),
        **money,
        **windows,
        "saved_share_30d": 0.25,
        "last_booked_at": at(last),
        **more,
    }


def demand(movie: int, when: str, units: int = 1) -> dict[str, Any]:
    """A row of gold.movie_demand."""
    counts = {f"{what}_{days}d": units for what in ("sold", "visitors") for days in (7, 28)}
    money = {f"takings_{days}d": pa.scalar("2.50").cast(pa.decimal128(18, 2)).as_py() for days in (7, 28)}
    return {"movie_id": movie, "event_timestamp": at(when), **counts, **money, "showcased_share_28d": 0.5}


def pair(guest: int, movie: int, when: str, tickets: int = 1, last: str = "2017-01-01 09:30:15") -> dict[str, Any]:
    """A row of gold.guest_movie."""
    memory = {"recall_visits": tickets, "recall_began_at": at("2017-01-01"), "recall_weight": tickets * 2**20}
    return {
        "guest_id": guest,
        "movie_id": movie,
        "event_timestamp": at(when),
        "visits_90d": tickets,
        "last_seen_at": at(last),
        **memory,
    }


def profile(guest: int, when: str, age: str | None) -> dict[str, Any]:
    """A row of gold.guest_profile."""
    return {
        "guest_id": guest,
        "event_timestamp": at(when),
        "age_band": age,
        "tier": "Silver",
        "party_size": "2",
        "children": None,
    }


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    for name in ("MILLRACE_LAKE", "MILLRACE_RELEASE", "MILLRACE_ENGINE", "MILLRACE_ONLINE", "MILLRACE_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    return Lake()


@pytest.fixture
def cinema(lake: Lake) -> Lake:
    """A lake with a small cinema in it."""
    return fill(lake)


def fill(lake: Lake) -> Lake:
    """Two guests, two movies, a few days; guest 2 has no profile, and pairs (12, 3) and (1, 23) exist."""
    lake.write(
        "guest_activity",
        [
            activity(1, "2017-01-02", "10.00"),
            activity(1, "2017-01-09", "0.05"),
            activity(2, "2017-01-05", "7.77"),
            activity(1, "2017-02-03", "99.00"),
        ],
    )
    lake.write(
        "movie_demand",
        [demand(3, "2017-01-02", 5), demand(23, "2017-01-03", 6), demand(3, "2017-01-20", 0)],
    )
    lake.write(
        "guest_movie",
        [
            pair(12, 3, "2017-01-02", 7),
            pair(1, 23, "2017-01-02", 9),
            pair(1, 3, "2017-01-06", 2, "2017-01-05 23:59:59.75"),
        ],
    )
    lake.write(
        "guest_profile",
        [profile(1, "2017-01-01", "25-34"), profile(12, "2017-01-01", "65+"), profile(12, "2017-01-09", None)],
    )
    lake.release(*VIEWS)
    return lake


JOINS = ("duckdb", "spark", *frames.available())
"""What can join on this machine: Spark is Sail in this process, and pandas stands in for cuDF."""


@contextmanager
def joined_by(name: str) -> Iterator[ReleaseOfflineStoreConfig]:
    """A configuration of the offline store that joins by one of JOINS inside the block."""
    stand_in = as_of.stand_in(name) if name == frames.PANDAS else nullcontext()
    with stand_in:
        yield ReleaseOfflineStoreConfig(
            join=None if name == frames.PANDAS else name, session="etl.engine.session", beyond_horizon="allow"
        )


@pytest.fixture(params=JOINS)
def exact(request: pytest.FixtureRequest) -> Callable[..., pa.Table]:
    """`get_historical_features` of views that no registry knows, joined by each that this machine can run, as Arrow,
    which rounds nothing.
    """

    def run(views: list[Any], refs: list[str], labels: Any, full_names: bool = False) -> pa.Table:
        registry = SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: [])
        with joined_by(request.param) as offline:
            config = SimpleNamespace(offline_store=offline)
            return ReleaseOfflineStore.get_historical_features(
                config, views, refs, labels, registry, "test", full_names
            ).to_arrow()

    return run


@pytest.fixture
def join(exact: Callable[..., pa.Table]) -> Callable[..., pd.DataFrame]:
    """The same as a frame."""
    return lambda *arguments, **named: exact(*arguments, **named).to_pandas()
