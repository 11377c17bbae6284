"""A plan says what a table still lacks, from what its newest commit was built from and what its inputs hold now."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import catalog
from contracts.interval import Interval
from contracts.model import DATE, TIMESTAMP
from etl import planning, transforms
from etl.transforms import StageError
from lake import delta, publishing, settings
from lake.delta import CommitMetadata
from tests.unit.etl.visits import of

pytestmark = pytest.mark.usefixtures("home")
SOLD, SILVER, GOLD = "bronze.tickets", "silver.tickets", "gold.guest_activity"
FIRST, SECOND, FIFTH = (of(f"2017-03-0{n}", f"2017-03-0{n + 1}") for n in (1, 2, 5))


def write(name: str, *days: Interval, cells: dict[str, Any] | None = None) -> int:
    """Publish a row on each of these days, as a run would that only touched them."""
    table = catalog.table(name)
    time = table.time_column or ""
    rows = [
        {time: datetime(day.start.year, day.start.month, day.start.day, 10, tzinfo=UTC), **(cells or {})}
        for day in days
    ]
    if time and table.column(time).type == DATE:
        rows = [{**row, time: row[time].date()} for row in rows]
    path = settings.table_path(name) / "_stage" / "rows.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.Table.from_pylist(
            rows, schema=pa.schema([(column.name, publishing.arrow_type(column.type)) for column in table.columns])
        ),
        path,
    )
    return publishing.publish(table, [path], CommitMetadata("run", changed_days=days), base=delta.version_of(name))


def carry_out(planned: planning.Plan) -> None:
    """Record that the plan was carried out, with no rows."""
    table = planned.table
    state = CommitMetadata(
        "run", planned.inputs, planned.days, planned.horizon, transforms.code_of(table), ids=planned.ids
    )
    publishing.publish(table, [], state, base=planned.base)


def plan(name: str, interval: Interval = FIRST) -> planning.Plan:
    return planning.plan(catalog.table(name), interval)


def midnights(sold: Interval, window: int) -> Interval:
    """The midnights t at which [t - window, t) holds the day and [t - 1 - window, t - 1) did not, or the other way
    round, and those between, counted one by one.
    """
    holds = [sold.start - timedelta(days=n) for n in range(-200, 0)]
    concerned = [
        t
        for t in holds
        if t - timedelta(days=window) <= sold.start < t
        or t - timedelta(days=1 + window) <= sold.start < t - timedelta(days=1)
    ]
    return of(str(min(concerned)), str(max(concerned) + timedelta(days=1)))


# --- silver


def test_a_new_table_does_every_day_of_its_input() -> None:
    write(SOLD, FIRST, FIFTH)
    planned = plan(SILVER)
    assert (planned.whole, planned.days, planned.base, planned.inputs) == (
        True,
        (of("2017-03-01", "2017-03-06"),),
        None,
        {SOLD: 1},
    )
    assert not planned.nothing_to_do


def test_nothing_is_left_to_do_when_no_input_moved() -> None:
    write(SOLD, FIRST)
    carry_out(plan(SILVER))
    for interval in (FIRST, FIFTH):
        assert plan(SILVER, interval).nothing_to_do


def test_after_a_late_file_only_its_days_are_done_whatever_the_interval_says() -> None:
    write(SOLD, FIRST, SECOND, FIFTH)
    carry_out(plan(SILVER))
    write(SOLD, SECOND)
    planned = plan(SILVER, FIFTH)
    assert (planned.whole, planned.days, planned.base, planned.inputs) == (False, (SECOND,), 1, {SOLD: 2})


def test_the_days_of_two_late_files_are_done_together() -> None:
    write(SOLD, FIRST)
    carry_out(plan(SILVER))
    write(SOLD, FIFTH)
    write(SOLD, SECOND)
    assert plan(SILVER).days == (SECOND, FIFTH)


def test_after_a_change_of_the_code_the_whole_table_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    write(SOLD, FIRST, FIFTH)
    carry_out(plan(SILVER))
    monkeypatch.setattr(planning, "code_of", lambda _: "another")
    planned = plan(SILVER)
    assert (planned.whole, planned.days) == (True, (of("2017-03-01", "2017-03-06"),))


def test_after_a_foreign_commit_to_the_input_the_whole_table_is_done() -> None:
    write(SOLD, FIRST)
    carry_out(plan(SILVER))
    delta.open_table(SOLD).delete()
    write(SOLD, SECOND)
    assert plan(SILVER).whole


def test_after_an_input_was_made_anew_the_whole_table_is_done_also_at_the_same_version() -> None:
    import shutil

    write(SOLD, FIRST)
    carry_out(plan(SILVER))
    shutil.rmtree(settings.table_path(SOLD))
    write(SOLD, SECOND)
    planned = plan(SILVER)
    assert (planned.whole, planned.inputs) == (True, {SOLD: 1})


def test_after_a_foreign_commit_to_the_table_itself_the_whole_table_is_done() -> None:
    write(SOLD, FIRST)
    carry_out(plan(SILVER))
    delta.open_table(SILVER).alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 9 days"})
    planned = plan(SILVER)
    assert (planned.whole, planned.base) == (True, 2)


def test_an_input_that_was_never_published_is_named() -> None:
    with pytest.raises(
        StageError,
        match=(
            r"^silver\.tickets needs bronze\.tickets, which was never published\. Run the DAG from the bronze"
            r" layer on"
        ),
    ):
        plan(SILVER)


def test_a_snapshot_is_done_whole_when_its_input_moved_and_else_not_at_all() -> None:
    write("bronze.movies", FIRST)
    first = plan("silver.movies")
    assert (first.whole, first.days) == (True, ())
    carry_out(first)
    assert plan("silver.movies").nothing_to_do
    write("bronze.movies", SECOND)
    assert plan("silver.movies").whole


def test_bronze_looks_at_its_files_each_time() -> None:
    write(SOLD, FIRST)
    planned = plan(SOLD)
    assert (planned.nothing_to_do, planned.base) == (False, 1)


# --- gold


def test_gold_begins_at_the_midnight_after_the_first_ticket_and_ends_at_the_horizon() -> None:
    write(SILVER, FIRST)
    planned = plan(GOLD, of("2017-03-01", "2017-03-10"))
    assert (planned.days, planned.horizon) == ((of("2017-03-02", "2017-03-11"),), date(2017, 3, 10))


def test_a_horizon_that_moves_adds_its_midnights_and_no_other() -> None:
    write(SILVER, FIRST)
    carry_out(plan(GOLD, of("2017-03-01", "2017-03-10")))
    planned = plan(GOLD, of("2017-03-10", "2017-03-12"))
    assert (planned.whole, planned.days, planned.horizon) == (
        False,
        (of("2017-03-11", "2017-03-13"),),
        date(2017, 3, 12),
    )


def test_a_horizon_never_moves_back() -> None:
    write(SILVER, FIRST)
    carry_out(plan(GOLD, of("2017-03-01", "2017-03-10")))
    planned = plan(GOLD, FIRST)
    assert (planned.nothing_to_do, planned.horizon) == (True, date(2017, 3, 10))


def test_a_late_ticket_concerns_the_midnights_of_ninety_days_but_none_beyond_the_horizon() -> None:
    write(SILVER, FIRST, SECOND)
    carry_out(plan(GOLD, of("2017-03-01", "2017-07-01")))
    write(SILVER, SECOND)
    assert plan(GOLD, FIRST).days == (midnights(SECOND, 90),)


def test_a_late_ticket_near_the_horizon_is_clipped_to_it() -> None:
    write(SILVER, FIRST)
    carry_out(plan(GOLD, of("2017-03-01", "2017-03-10")))
    write(SILVER, FIFTH)
    planned = plan(GOLD, FIRST)
    assert (planned.days, planned.horizon) == ((of("2017-03-06", "2017-03-11"),), date(2017, 3, 10))


def test_a_late_showcase_concerns_the_tickets_of_its_weeks_only() -> None:
    demand = "gold.movie_demand"
    write(SILVER, FIRST, cells={"show_week": 9})
    write(SILVER, FIFTH, cells={"show_week": 10})
    write("silver.showcases", FIRST, cells={"show_week": 9})
    carry_out(plan(demand, of("2017-03-01", "2017-07-01")))
    write("silver.showcases", SECOND, cells={"show_week": 10})
    assert plan(demand, FIRST).days == (midnights(FIFTH, 28),)


def test_a_late_showcase_of_a_week_without_tickets_is_nothing_to_do() -> None:
    demand = "gold.movie_demand"
    write(SILVER, FIRST, cells={"show_week": 9})
    write("silver.showcases", FIRST, cells={"show_week": 9})
    carry_out(plan(demand, of("2017-03-01", "2017-07-01")))
    write("silver.showcases", SECOND, cells={"show_week": 11})
    assert plan(demand, FIRST).nothing_to_do


# --- the fingerprint of the code


def test_the_fingerprint_follows_the_transform_the_layer_and_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    table = catalog.table(SILVER)
    before = transforms.code_of(table)
    assert transforms.code_of(table) == before
    assert transforms.code_of(replace(table, doc="Other words")) == before
    changed = {
        "key": transforms.code_of(replace(table, key=("booking_id",))),
        "rules": transforms.code_of(replace(table, rules=())),
        "columns": transforms.code_of(replace(table, columns=table.columns[:-1])),
    }
    assert len({before, *changed.values()}) == 4
    demand = catalog.table("gold.movie_demand")
    assert demand.aggregates
    [mapped] = demand.aggregates.mapped
    for join, is_same in ((replace(mapped, reads=("show_week",)), True), (replace(mapped, by=("movie_id",)), False)):
        other = replace(demand, aggregates=replace(demand.aggregates, joined=(join,)))
        assert (transforms.code_of(other) == transforms.code_of(demand)) is is_same, join
    sources, movies = transforms.inspect.getsource, catalog.table("silver.movies")
    for contract, module in (
        (table, "etl.silver.select"),
        (movies, "etl.silver.select"),
        (movies, "cinema.transforms.silver.movies"),
    ):
        before = transforms.code_of(contract)
        with monkeypatch.context() as edited:
            edited.setattr(
                transforms.inspect,
                "getsource",
                lambda module_, module=module: sources(module_) + "# edited" * (module_.__name__ == module),
            )
            assert transforms.code_of(contract) != before, module


def test_a_time_column_is_an_instant_or_a_date() -> None:
    assert {table.column(table.time_column).type for table in catalog.tables() if table.time_column} <= {
        TIMESTAMP,
        DATE,
    }
