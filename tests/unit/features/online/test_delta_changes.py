"""A generation made of the former one and what changed holds what a search of every row finds: late rows, corrections,
deletions and rows that a horizon uncovered included.
"""

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from feast import Entity, FeatureView, Field
from feast.types import Int64
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import registry
from features.online import backends, materialize
from features.online.store import row_schema_of
from features.source import GoldTable
from lake import release
from lake import settings as places
from tests.unit.features.conftest import VIEWS, Lake, activity, at, profile
from tests.unit.features.online.test_store import online, push

INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema([("id", pa.int64()), ("event_timestamp", INSTANT), ("created", INSTANT), ("value", pa.int64())])
FIRST = date(2017, 1, 1)
KEY = Entity(name="id", join_keys=["id"], value_type=ValueType.INT64)
SOURCE = GoldTable(table="gold.things", timestamp_field="event_timestamp", created_timestamp_column="created")
THINGS = FeatureView(
    name="things",
    entities=[KEY],
    schema=[Field(name="id", dtype=Int64), Field(name="value", dtype=Int64)],
    source=SOURCE,
    ttl=timedelta(0),
)

ROW = st.tuples(st.integers(1, 12), st.integers(0, 9), st.none() | st.integers(0, 3), st.integers(0, 99))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(ROW, min_size=1, max_size=4)),
        st.tuples(st.just("correct"), st.lists(ROW, min_size=1, max_size=2)),
        st.tuples(st.just("delete"), st.integers(1, 12)),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("wait"), st.integers(-1, 3)),
    ),
    min_size=1,
    max_size=6,
)


class Things:
    """A table of its own, the rows it has, and what was written to it."""

    def __init__(self) -> None:
        self.path = str(places.table_path("gold.things"))
        places.table_path("gold.things").mkdir(parents=True, exist_ok=True)
        self.rows = [(key, 0, None, 0) for key in range(1, 13)]
        self.horizon = 0
        write_deltalake(self.path, self.arrow(self.rows), mode="overwrite")

    def arrow(self, rows: list[Any]) -> pa.Table:
        def moment(days: int | None) -> datetime | None:
            return None if days is None else datetime(2017, 1, 1, tzinfo=UTC) + timedelta(days=days)

        return pa.Table.from_pylist(
            [
                {"id": key, "event_timestamp": moment(day), "created": moment(made), "value": value}
                for key, day, made, value in rows
            ],
            SCHEMA,
        )

    def step(self, what: str, inputs: Any) -> None:
        if what == "append":
            self._append(inputs)
        elif what == "correct":
            for key, day, *_ in inputs:
                self._delete(
                    f"id = {key} AND event_timestamp = '{FIRST + timedelta(days=day)}T00:00:00Z'",
                    lambda row, key=key, day=day: row[:2] == (key, day),
                )
            self._append(inputs)
        elif what == "delete":
            self._delete(f"id = {inputs}", lambda row: row[0] == inputs)
        elif what == "compact":
            DeltaTable(self.path).optimize.compact()
        else:
            self.horizon += inputs

    def _append(self, rows: list[Any]) -> None:
        alone = {
            row[:3]: row for row in rows if row[:3] not in {other[:3] for other in self.rows}
        }  # a tie of all three times is nobody's to break
        if alone:
            self.rows += alone.values()
            write_deltalake(self.path, self.arrow(list(alone.values())), mode="append")

    def _delete(self, predicate: str, gone: Any) -> None:
        self.rows = [row for row in self.rows if not gone(row)]
        DeltaTable(self.path).delete(predicate)

    def newest(self) -> dict[int, int]:
        """The value of each key, found by looking at all rows."""
        result: dict[int, Any] = {}
        for key, day, made, value in self.rows:
            rank = (day, -1 if made is None else made)
            if day <= self.horizon and (key not in result or rank > result[key][0]):
                result[key] = (rank, value)
        return {key: value for key, (_, value) in result.items()}

    def pinned(self) -> release.Release:
        table = DeltaTable(self.path)
        return release.write(
            {"gold.things": table.version()},
            str(FIRST + timedelta(days=self.horizon)),
            {"gold.things": str(table.metadata().id)},
        )


def served() -> dict[int, int]:
    reader = backends.configured().session().reader()
    keys = reader.keys(row_schema_of(THINGS), None)
    return {
        key: row[1]
        for (key,), row in zip(keys, reader.rows(row_schema_of(THINGS), ("value",), keys), strict=True)
        if row
    }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_what_is_served_is_what_a_search_of_all_rows_finds(lake: Lake, steps: Any) -> None:
    """However much changed, so that so small a table is not loaded anew each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(materialize, "MOST_CHANGED", 10)
        _served_as_found(steps)


def _served_as_found(steps: Any) -> None:
    backends.configured().remove_all()
    things = Things()
    for what, how in [("wait", 0), *steps]:
        things.step(what, how)
        [report] = materialize.load(things.pinned(), [THINGS], "as defined")
        assert served() == things.newest(), (what, how)
        assert report.rows == len(things.newest())


@pytest.mark.parametrize(
    ("what", "how", "loaded"),
    [
        ("append", [(3, 0, 1, 7)], 1),
        ("append", [(3, 5, None, 7)], 1),
        ("correct", [(3, 0, None, 8)], 12),
        ("wait", 1, 0),
    ],
    ids=["late", "after the horizon", "corrected, in a file of twelve rows", "a day later"],
)
def test_only_what_changed_is_read(lake: Lake, what: str, how: Any, loaded: int) -> None:
    things = Things()
    write_deltalake(things.path, things.arrow([(key, 0, None, key) for key in range(100, 200)]), mode="append")
    materialize.load(things.pinned(), [THINGS], "as defined")
    things.step(what, how)
    [report] = materialize.load(things.pinned(), [THINGS], "as defined")
    assert report.loaded == loaded


def test_a_row_that_waited_is_served_when_the_horizon_reaches_it(lake: Lake) -> None:
    things = Things()
    things.step("append", [(3, 2, None, 7)])
    materialize.load(things.pinned(), [THINGS], "as defined")
    assert served()[3] == 0
    things.step("wait", 2)
    [report] = materialize.load(things.pinned(), [THINGS], "as defined")
    assert served() == things.newest()
    assert (served()[3], report.loaded) == (7, 1)


def test_all_is_read_again_for_an_earlier_horizon(lake: Lake) -> None:
    """What a row at the later horizon hides is in no file that changed."""
    things = Things()
    things.step("append", [(3, 1, None, 7)])
    things.step("wait", 1)
    materialize.load(things.pinned(), [THINGS], "as defined")
    things.step("wait", -1)
    [report] = materialize.load(things.pinned(), [THINGS], "as defined")
    assert report.loaded == 12
    assert served() == things.newest()


def test_a_late_row_is_served_and_only_its_entity_is_read(cinema: Lake) -> None:
    """`materialize_incremental` of Feast begins where it ended, and would never see it."""
    materialize.materialize(release.read())
    cinema.write(
        "guest_profile",
        [
            profile(1, "2017-01-01", "25-34"),
            profile(12, "2017-01-01", "65+"),
            profile(12, "2017-01-09", None),
            profile(7, "2016-12-31", "19-24"),
        ],
    )
    cinema.release(*VIEWS)
    reports = {report.view: report for report in materialize.materialize(release.read(), sample=None).views}
    assert (reports["guest_activity"].rows, reports["guest_activity"].loaded) == (2, 0)
    assert online(registry.open_store(), "guest_profile:age_band", guest_id=7) == "19-24"


def test_what_was_pushed_does_not_outlive_the_next_release(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    push(store, 1, at("2017-01-20"), 3.5)
    cinema.write("guest_activity", [activity(1, "2017-01-09", "0.05"), activity(2, "2017-01-05", "8.00")])
    cinema.release(*VIEWS)
    materialize.materialize(release.read(), sample=None)
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 0.05


def test_pushed_rows_go_when_the_same_release_is_served_again(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    push(store, 1, at("2017-01-20"), 3.5)
    assert {report.status for report in materialize.materialize(release.read()).views} == {"published"}
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 0.05


def test_files_that_were_vacuumed_are_no_base(lake: Lake) -> None:
    """What the former version had cannot be told any more, so that all is loaded anew."""
    things = Things()
    materialize.load(things.pinned(), [THINGS], "as defined")
    things.step("delete", 3)
    things.step("compact", None)
    DeltaTable(things.path).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    [report] = materialize.load(things.pinned(), [THINGS], "as defined")
    assert report.loaded == report.rows == 11
    assert served() == things.newest()


def test_other_definitions_are_loaded_anew(lake: Lake) -> None:
    things = Things()
    materialize.load(things.pinned(), [THINGS], "as defined")
    [report] = materialize.load(things.pinned(), [THINGS], "as defined since")
    assert report.loaded == report.rows == 12


def test_a_table_built_anew_with_the_same_versions_is_loaded_anew(lake: Lake) -> None:
    """Its version 1 is not the version 1 of which the rows online are."""
    things = Things()
    things.step("append", [(3, 0, 1, 7)])
    materialize.load(things.pinned(), [THINGS], "as defined")
    shutil.rmtree(things.path)
    again = Things()
    again.rows = [(key, 0, None, 50) for key in range(1, 13)]
    write_deltalake(again.path, again.arrow(again.rows), mode="overwrite")
    again.step("append", [(4, 0, 1, 8)])
    materialize.load(again.pinned(), [THINGS], "as defined")
    assert served() == again.newest()


def test_a_release_of_another_lake_is_not_taken_for_the_one_that_is_served(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the same number, horizon and versions."""
    materialize.load(Things().pinned(), [THINGS], "as defined")
    monkeypatch.setenv("MILLRACE_LAKE", str(tmp_path / "other"))
    other = Things()
    other.rows = [(key, 0, None, 1) for key in range(1, 13)]
    shutil.rmtree(other.path)
    write_deltalake(other.path, other.arrow(other.rows))
    materialize.load(other.pinned(), [THINGS], "as defined")
    assert served() == other.newest()
