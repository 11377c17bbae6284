"""What the engine reads of a table: named files where few can hold the rows that are kept, and the same rows as its own
reader finds.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextvars import Context
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from pyspark.sql import DataFrame

from etl import engine, table_reader
from lake import delta, settings
from tests.unit.etl.visits import SCHEMA, VISITS, of, publish, visit

pytestmark = pytest.mark.usefixtures("home", "holding")
NAME, OURS = "silver.visits", "gold.visitors"
LINKS = "gold/visitors/_reading"
EPOCH = date(1969, 12, 20)
"""Days on both sides of 1970."""


@pytest.fixture
def holding(home: Path) -> Iterator[None]:
    """What a table's run does around all of its reads."""
    with table_reader.holding_files(OURS):
        yield


def by_log(version: int) -> DataFrame:
    """As the engine reads the table by itself."""
    return engine.session().read.format("delta").option("versionAsOf", version).load(str(settings.table_path(NAME)))


def rows(frame: DataFrame) -> list[tuple[Any, ...]]:
    return sorted(map(tuple, frame.collect()), key=repr)


def named(within: delta.Within, version: int | None = None) -> int | None:
    """How many files the engine is given by name; None where it looks for itself."""
    picked = table_reader._few_files(NAME, delta.version_of(NAME) if version is None else version, within)
    return None if picked is None else len(picked.files)


def days(*pairs: tuple[str, str]) -> delta.Within:
    return {"visited_at": [(date.fromisoformat(first), date.fromisoformat(last)) for first, last in pairs]}


def three_days() -> None:
    publish(visit(1, "2017-03-01 00:00"), visit(2, "2017-03-01 23:59:59.999999"))
    publish(visit(3, "2017-03-02 00:00", booked_date=None), visit(4, "2017-03-03 12:00", paid=None))
    publish(visit(5, "2017-03-09 00:00", visitor="ä%' \n"))


def test_only_files_that_can_hold_a_row_of_the_days_are_named() -> None:
    three_days()
    assert named({}) == 3
    assert named(days(("2017-03-01", "2017-03-01"))) == 1
    assert named(days(("2017-03-02", "2017-03-02"))) == 1
    assert named(days(("2017-03-03", "2017-03-09"))) == 2
    assert named(days(("2017-03-01", "2017-03-01"), ("2017-03-09", "2017-03-12"))) == 2
    assert named(days(("2017-03-04", "2017-03-08"))) == 0


def test_all_columns_that_are_named_must_be_met() -> None:
    three_days()
    assert named({"visit_id": [(3, 5)]}) == 2
    assert named({"visit_id": [(3, 5)], **days(("2017-03-01", "2017-03-03"))}) == 1
    assert named({"visit_id": [(1, 2)], **days(("2017-03-09", "2017-03-09"))}) == 0


def test_what_is_read_has_the_columns_and_types_of_the_table_and_its_rows() -> None:
    three_days()
    result = table_reader.read(NAME, 3)
    assert [(field.name, field.dataType) for field in result.schema] == [
        (field.name, field.dataType) for field in by_log(3).schema
    ]
    assert rows(result) == rows(by_log(3))


def test_where_no_file_can_hold_a_row_there_is_none_and_the_columns_are_the_same() -> None:
    three_days()
    result = table_reader.read(NAME, 3, days(("2017-03-04", "2017-03-08")))
    assert rows(result) == []
    assert [(field.name, field.dataType) for field in result.schema] == [
        (field.name, field.dataType) for field in by_log(3).schema
    ]


def foreign(*visits: dict[str, Any], schema: pa.Schema = SCHEMA) -> None:
    """A commit that somebody else makes."""
    write_deltalake(str(settings.table_path(NAME)), pa.Table.from_pylist([*visits], schema=schema), mode="append")


def test_a_file_without_statistics_may_hold_any_row() -> None:
    publish(visit(1))
    foreign(visit(99, "2017-05-05 10:00", booked_date=None))
    table, march = delta.open_table(NAME), (date(2017, 3, 1), date(2017, 3, 1))
    assert [
        len(delta.data_files(table, within={"booked_date": [(day, day)]}))
        for day in (date(2017, 2, 1), date(2017, 2, 2))
    ] == [2, 1]
    assert len(delta.data_files(table, within={"visited_at": [march]})) == 1
    assert len(delta.data_files(table, within={"no_such_column": [march]})) == 2
    assert len(delta.data_files(table, within={"visited_at": []})) == 0


def test_rows_that_the_log_does_not_count_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    three_days()
    counted = delta._actions(delta.open_table(NAME))
    rows_of = counted["num_records"].to_pylist()
    uncounted = counted.set_column(
        counted.column_names.index("num_records"), "num_records", pa.array([None, *rows_of[1:]], pa.int64())
    )
    monkeypatch.setattr(delta, "_actions", lambda _: uncounted)
    assert delta.size(delta.open_table(NAME), settings.table_path(NAME)) == (5, sum(counted["size_bytes"].to_pylist()))
    assert delta.extent(delta.open_table(NAME), VISITS) == of("2017-03-01", "2017-03-10")


def test_files_that_others_wrote_are_left_to_the_engine() -> None:
    """Their columns may have other types inside: Sail's parquet reader refuses to bring them together, its Delta reader
    does.
    """
    publish(visit(1))
    assert named({}) == 1
    foreign(
        visit(2, visitor="bob"),
        schema=pa.schema(
            [field.with_type(pa.large_string()) if field.name == "visitor" else field for field in SCHEMA]
        ),
    )
    assert named({}) is None
    assert [row[-1] for row in rows(table_reader.read(NAME, 2))] == ["ada", "bob"]


@pytest.mark.parametrize(
    "name",
    [
        "_part.zst.parquet",
        "a[b].zst.parquet",
        "a*b.zst.parquet",
        "part%20a.zst.parquet",
        "s3://elsewhere/part.zst.parquet",
    ],
)
def test_names_that_mean_something_to_the_engine_are_left_to_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    three_days()
    monkeypatch.setattr(delta, "data_files", lambda *_, **__: [{"path": name, "size_bytes": 1}])
    assert named({}) is None


def test_an_older_version_is_left_to_the_engine() -> None:
    three_days()
    assert named({}, 1) is None
    assert rows(table_reader.read(NAME, 1)) == rows(by_log(1))
    assert len(rows(table_reader.read(NAME, 1))) == 2


def test_many_files_are_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    three_days()
    monkeypatch.setattr(table_reader, "FEW_FILES", 2)
    assert named({}) is None
    assert named(days(("2017-03-03", "2017-03-09"))) == 2
    assert rows(table_reader.read(NAME, 3)) == rows(by_log(3))


def test_a_table_that_somebody_else_partitioned_is_left_to_the_engine() -> None:
    path = settings.table_path(NAME)
    path.mkdir(parents=True)
    write_deltalake(
        str(path), pa.Table.from_pylist([visit(1), visit(2, visitor="bob")], schema=SCHEMA), partition_by="visitor"
    )
    assert named({}, 0) is None
    assert sorted(row.visitor for row in table_reader.read(NAME, 0).collect()) == ["ada", "bob"]


def test_a_lake_in_a_bucket_is_left_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delta, "open_table", lambda *_: pytest.fail("each file would be asked after"))
    monkeypatch.setenv("MILLRACE_LAKE", "s3://bucket/lake")
    assert named({}, 3) is None


def test_another_engine_reads_by_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    three_days()
    spark = engine.session()
    monkeypatch.setattr(engine, "session", lambda: spark)
    monkeypatch.setenv("MILLRACE_ENGINE", "spark")
    assert named({}) is None
    assert rows(table_reader.read(NAME, 3)) == rows(by_log(3))


# --- files that go away


def data_files() -> list[Path]:
    return sorted(settings.table_path(NAME).glob("*.parquet"))


def links() -> list[Path]:
    return sorted((settings.lake() / LINKS).glob("*"))


def test_nothing_is_named_where_nobody_holds_the_files() -> None:
    three_days()
    assert Context().run(lambda: rows(table_reader.read(NAME, 3))) == rows(by_log(3))
    assert links() == []
    table_reader.read(NAME, 3)
    assert [link.name for link in links()] == [file.name for file in data_files()]
    assert all(link.samefile(other) for link, other in zip(links(), data_files(), strict=True))


def test_what_is_read_stays_whatever_happens_to_the_files() -> None:
    three_days()
    result, expected = table_reader.read(NAME, 3), rows(by_log(3))
    removed, moved, _ = data_files()
    removed.unlink()
    moved.rename(settings.lake() / "elsewhere.parquet")
    assert rows(result) == rows(table_reader.read(NAME, 3)) == expected
    shutil.rmtree(settings.table_path(NAME))
    assert rows(result) == expected


def test_the_engine_says_so_where_a_file_is_gone_already() -> None:
    """Sail's parquet reader would take it for empty."""
    three_days()
    data_files()[0].unlink()
    with pytest.raises(Exception, match=r"part-.*\.parquet"):
        table_reader.read(NAME, 3).collect()


@pytest.mark.parametrize("end", [-1, 0])
def test_a_file_that_is_cut_short_is_left_to_the_engine(end: int) -> None:
    """Sail's parquet reader would take one of no bytes for no rows."""
    three_days()
    data_files()[0].write_bytes(data_files()[0].read_bytes()[:end])
    with pytest.raises(Exception, match=r"(?i)parquet"):
        table_reader.read(NAME, 3).collect()


def test_a_file_system_without_links_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    three_days()

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert rows(table_reader.read(NAME, 3)) == rows(by_log(3))
    assert links() == []


def read_and_break_off() -> None:
    with table_reader.holding_files("gold.other"):
        table_reader.read(NAME, 3)
        assert len([*settings.table_path("gold.other").glob("_reading/*")]) == 3
        raise LookupError


def test_links_go_with_the_run_and_those_of_a_killed_one_with_the_next() -> None:
    three_days()
    with pytest.raises(LookupError):
        read_and_break_off()
    assert not [*settings.table_path("gold.other").glob("*")]
    left = settings.table_path("gold.other") / "_reading" / "part.parquet"
    left.parent.mkdir()
    left.touch()
    with table_reader.holding_files("gold.other"):
        assert not left.parent.exists()
    table_reader.read(NAME, 3)
    assert len(links()) == 3


DAYS = st.integers(0, 30).map(lambda n: EPOCH + timedelta(n))
RANGES = st.lists(
    st.tuples(DAYS, st.integers(0, 5)).map(lambda pair: (pair[0], pair[0] + timedelta(pair[1]))), min_size=1, max_size=3
)
VISITS_OF_A_FILE = st.lists(
    st.tuples(DAYS, st.integers(0, 86_399_999_999), st.integers(-5, 5), st.one_of(st.none(), DAYS)),
    min_size=1,
    max_size=4,
)


@hypothesis(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(VISITS_OF_A_FILE, min_size=1, max_size=5), RANGES, RANGES, st.tuples(st.integers(-6, 6), st.integers(0, 4))
)
def test_what_is_kept_is_what_a_search_of_all_rows_keeps(
    files: list[list[tuple[Any, ...]]], visited: Sequence, booked: Sequence, ids: tuple[int, int]
) -> None:
    for at, contents in enumerate(files):
        visits = [visit(number, f"{day} 00:00", booked_date=other) for day, _, number, other in contents]
        for row, (_, micros, _, _) in zip(visits, contents, strict=True):
            row["visited_at"] += timedelta(microseconds=micros)
        publish(*visits, whole=at == 0)
    version, low, high = delta.version_of(NAME), ids[0], sum(ids)
    within: delta.Within = {"visited_at": visited, "booked_date": booked, "visit_id": [(low, high)]}
    meets = {
        name: " OR ".join(f"to_date({name}) BETWEEN DATE '{first}' AND DATE '{last}'" for first, last in within[name])
        for name in ("visited_at", "booked_date")
    }
    kept = f"({meets['visited_at']}) AND ({meets['booked_date']}) AND visit_id BETWEEN {low} AND {high}"
    expected = [
        row
        for contents in files
        for row in contents
        if any(first <= row[0] <= last for first, last in visited)
        and row[3]
        and any(first <= row[3] <= last for first, last in booked)
        and low <= row[2] <= high
    ]
    assert sorted(row.visit_id for row in table_reader.read(NAME, version, within).filter(kept).collect()) == sorted(
        row[2] for row in expected
    )
