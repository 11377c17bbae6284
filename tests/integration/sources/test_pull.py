"""Tables of a real PostgreSQL, pulled into the landing zone and carried on. The oracle is the database's own SQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from contracts import catalog
from contracts.interval import Interval, IntervalError
from contracts.model import Database, Load
from contracts.report import TableReport
from etl.sources import database
from etl.sources.database import DatabaseUnreachableError, PullError
from etl.spark.server import free_port
from lake import settings
from millrace import cli, pipeline
from tests.certificates import Certificates
from tests.integration.sources.conftest import Depot
from tests.landing import rows
from tests.projects import DEPOT
from tests.servers import Postgres

PROJECT = DEPOT
DAY = timedelta(days=1)
PARCELS = "SELECT id, customer, sent_at, weight, label FROM parcels ORDER BY id"
STOCK = "SELECT product, pieces::bigint FROM stock ORDER BY product"


def today() -> date:
    return datetime.now(UTC).date()


def build(*names: str) -> dict[str, TableReport]:
    """Build tables from what has landed, today included."""
    interval = Interval(today() - DAY, today() + DAY)
    return {name: pipeline.run_table(name, interval, "test") for name in names}


def pull_parcels() -> list[tuple[Any, ...]]:
    """Pull and build the parcels. Returns the identifiers of the rows that landed."""
    pulled = pipeline.pull("bronze.parcels")
    build("bronze.parcels", "silver.parcels")
    return [] if pulled.file is None else ids(settings.landing() / pulled.file)


def ids(file: Path) -> list[int]:
    return sorted(map(int, pq.read_table(file)["id"].to_pylist()))


def redeclare(monkeypatch: pytest.MonkeyPatch, table: str, declared: Database) -> None:
    """Give a table another database than its contract does, for this test."""
    monkeypatch.setitem(catalog.table(table).__dict__, "database", declared)


def test_a_run_pulls_first_and_later_states_replace_earlier_ones(depot: Depot) -> None:
    depot.execute(
        "INSERT INTO parcels VALUES (1, 'ann', now() - interval '3 days', 1.5, E'a\\r\\n\"b\"'),"
        " (2, 'bob', now(), 'NaN', ''), (3, NULL, now(), 1e-300, NULL), (4, 'eve', now(), 0.1, 'Ä🌾,;')"
    )
    depot.execute("INSERT INTO stock VALUES ('salt', 3), ('tea', 4)")
    said: list[Any] = []
    pipeline.run_all(str(today()), str(today() + DAY), "test", said.append)
    assert [(line.table, line.rows) for line in said[:2]] == [("bronze.parcels", 4), ("bronze.stock", 2)]
    good = [row for row in depot.execute(PARCELS) if row[0] != 2]
    assert (depot.silver("parcels"), depot.silver("stock")) == (good, depot.execute(STOCK))
    [rejected] = rows("quarantine.parcels")
    assert rejected["reasons"] == ["weight is 'NaN', not a double that is finite"]
    sent = {row["customer"]: row["parcels_7d"] for row in rows("gold.customer_parcels", order="event_timestamp")}
    assert sent == {"ann": 1, "eve": 1}
    depot.execute("UPDATE parcels SET sent_at = sent_at - interval '1 day', weight = 2, changed_at = now()")
    depot.execute("DELETE FROM stock WHERE product = 'tea'")
    pipeline.run_all(str(today()), str(today() + DAY), "test")
    assert (depot.silver("parcels"), depot.silver("stock")) == (depot.execute(PARCELS), depot.execute(STOCK))


def test_a_cursor_does_not_see_deletions(depot: Depot) -> None:
    depot.execute("INSERT INTO parcels SELECT n, 'ann', now() FROM generate_series(1, 3) n")
    pull_parcels()
    depot.execute("DELETE FROM parcels WHERE id = 2")
    pull_parcels()
    assert [row[0] for row in depot.silver("parcels")] == [1, 2, 3]


# --- the cursor


def test_only_rows_from_the_overlap_on_are_read_again_and_nothing_lands_twice(depot: Depot) -> None:
    depot.execute(
        "INSERT INTO parcels SELECT n, 'ann', now(), 1, '', now() - n * interval '4 minutes'"
        " FROM generate_series(1, 9) n"
    )
    assert pull_parcels() == [*range(1, 10)]
    assert pull_parcels() == [1, 2, 3]
    assert [pull_parcels(), pull_parcels()] == [[], []]
    assert len(depot.landed("parcels")) == 2
    depot.execute("UPDATE parcels SET weight = 7, changed_at = now() WHERE id = 9")
    assert pull_parcels() == [1, 2, 3, 9]
    assert depot.silver("parcels") == depot.execute(PARCELS)


def test_rows_of_equal_or_no_value_are_read(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    redeclare(monkeypatch, "bronze.parcels", Database("depot", "parcels", "changed_at", timedelta(0)))
    at = "'2031-01-01 00:00:00.000001+00'" if today().year > 2031 else "date_trunc('day', now())"
    depot.execute(f"INSERT INTO parcels VALUES (1, 'ann', now(), 1, '', {at}), (2, 'ann', now(), 1, '', NULL)")
    assert pull_parcels() == [1, 2]
    depot.execute(f"INSERT INTO parcels VALUES (3, 'ann', now(), 1, '', {at}), (4, 'ann', now(), 1, '', NULL)")
    assert pull_parcels() == [1, 2, 3, 4]


def test_rows_that_are_committed_late_are_read(depot: Depot) -> None:
    """Within the overlap; and after it, if their transaction was open when the newest rows were read."""
    with psycopg.connect(depot.url) as late:
        late.execute("INSERT INTO parcels VALUES (1, 'ann', now())")
        late.execute("UPDATE parcels SET changed_at = now() - interval '9 minutes' WHERE id = 1")
        depot.execute("INSERT INTO parcels VALUES (2, 'ann', now(), 1, '', now() + interval '1 hour')")
        assert pull_parcels() == [2]
        time.sleep(0.01)
        depot.execute("INSERT INTO parcels VALUES (3, 'ann', now())")
    assert pull_parcels() == [1, 2, 3]


def test_an_open_transaction_holds_the_cursor_back(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    redeclare(monkeypatch, "bronze.parcels", Database("depot", "parcels", "changed_at", timedelta(0)))
    with psycopg.connect(depot.url) as late:
        late.execute("SELECT 1")
        time.sleep(0.05)
        depot.execute("INSERT INTO parcels VALUES (2, 'ann', now())")
        assert pull_parcels() == [2]
        late.execute("INSERT INTO parcels VALUES (1, 'ann', now())")
    assert pull_parcels() == [1, 2]


def test_a_time_in_the_future_holds_nothing_up(depot: Depot) -> None:
    depot.execute(
        "INSERT INTO parcels VALUES (1, 'ann', now(), 1, '', '2199-01-01'), (2, 'bob', now(), 1, '', 'infinity')"
    )
    pull_parcels()
    depot.execute("INSERT INTO parcels VALUES (3, 'ann', now())")
    assert pull_parcels() == [1, 2, 3]


def test_a_number_is_a_cursor_too(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    redeclare(monkeypatch, "bronze.parcels", Database("depot", "parcels", "id", 2))
    depot.execute("INSERT INTO parcels SELECT n, 'ann', now() FROM generate_series(1, 9) n WHERE n <> 8")
    assert pull_parcels() == [1, 2, 3, 4, 5, 6, 7, 9]
    depot.execute("INSERT INTO parcels VALUES (8, 'late', now()), (10, 'ann', now())")
    assert pull_parcels() == [7, 8, 9, 10]
    depot.execute("DELETE FROM parcels WHERE id > 7")
    assert pull_parcels() == []
    depot.execute("INSERT INTO parcels VALUES (11, 'ann', now())")
    assert pull_parcels() == [11]


def test_a_landing_zone_that_is_emptied_is_no_reason_to_begin_again(depot: Depot) -> None:
    depot.execute(
        "INSERT INTO parcels SELECT n, 'ann', now(), 1, '', now() - n * interval '1 day' FROM generate_series(1, 9) n"
    )
    pull_parcels()
    [file] = depot.landed("parcels")
    file.unlink()
    depot.execute("INSERT INTO parcels VALUES (10, 'ann', now())")
    assert pull_parcels() == [1, 10]


def test_another_cursor_begins_anew(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    depot.execute("INSERT INTO parcels SELECT n, 'ann', now() FROM generate_series(1, 3) n")
    pull_parcels()
    redeclare(monkeypatch, "bronze.parcels", Database("depot", "parcels", "id", 0))
    assert pull_parcels() == [1, 2, 3]


# --- snapshots, days and names


def test_a_table_that_was_always_empty_is_published_empty_and_one_that_became_so_is_refused(depot: Depot) -> None:
    for name in ("parcels", "stock"):
        assert pipeline.pull(f"bronze.{name}").rows == 0
        build(f"bronze.{name}", f"silver.{name}")
        assert depot.silver(name) == []
    assert pipeline.pull("bronze.stock").file is None
    depot.execute("INSERT INTO stock VALUES ('salt', 3)")
    assert pipeline.pull("bronze.stock").rows == 1
    depot.execute("DELETE FROM stock")
    with pytest.raises(PullError, match=r"stock is empty, and had 1 rows when it was pulled last. If that is right, "):
        pipeline.pull("bronze.stock")
    assert len(depot.landed("stock")) == 2


def test_an_unchanged_snapshot_lands_once_a_day(depot: Depot) -> None:
    depot.execute("INSERT INTO stock VALUES ('salt', 3)")
    yesterday = Interval(today() - DAY, today())
    assert [pipeline.pull("bronze.stock", yesterday).rows for _ in range(2)] == [1, 0]
    assert [pipeline.pull("bronze.stock").rows for _ in range(2)] == [1, 0]
    assert [file.parent.name for file in depot.landed("stock")] == [str(today() - DAY), str(today())]


def test_a_table_that_returns_to_an_earlier_state_is_in_that_state(depot: Depot) -> None:
    depot.execute("INSERT INTO stock VALUES ('salt', 3)")
    for pieces in (3, 4, 3):
        depot.execute("UPDATE stock SET pieces = %s", pieces)
        assert pipeline.pull("bronze.stock").rows == 1
        build("bronze.stock", "silver.stock")
        assert depot.silver("stock") == [("salt", pieces)]


def test_a_snapshot_of_events_empties_the_days_that_it_lacks(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    redeclare(monkeypatch, "bronze.parcels", Database("depot", "parcels"))
    monkeypatch.setitem(catalog.table("bronze.parcels").__dict__, "load", Load.SNAPSHOT)
    depot.execute("INSERT INTO parcels SELECT n, 'ann', now() - n * interval '1 day' FROM generate_series(1, 3) n")
    pull_parcels()
    depot.execute("DELETE FROM parcels WHERE id = 2")
    pull_parcels()
    assert depot.silver("parcels") == depot.execute(PARCELS)


def test_a_pull_lands_in_the_interval_of_its_run_and_never_before_an_earlier_pull(depot: Depot) -> None:
    depot.execute("INSERT INTO stock VALUES ('salt', 3)")
    pipeline.pull("bronze.stock", Interval(today() - DAY, today()))
    depot.execute("UPDATE stock SET pieces = 4")
    pipeline.pull("bronze.stock", Interval(today() - DAY, today() + DAY))
    depot.execute("UPDATE stock SET pieces = 5")
    pipeline.pull("bronze.stock", Interval(today() - DAY, today()))
    days = [file.parent.name for file in depot.landed("stock")]
    assert days == [str(today() - DAY), str(today()), str(today())]
    build("bronze.stock", "silver.stock")
    assert depot.silver("stock") == [("salt", 5)]
    with pytest.raises(IntervalError, match="ends before today"):
        pipeline.pull("bronze.stock", Interval(date(2017, 1, 1), date(2017, 1, 2)))


def test_a_clock_that_is_set_back_does_not_hide_a_pull(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    class Earlier(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - timedelta(hours=1)

    depot.execute("INSERT INTO stock VALUES ('salt', 3)")
    pipeline.pull("bronze.stock")
    monkeypatch.setattr(database, "datetime", Earlier)
    monkeypatch.setattr(Earlier, "strptime", datetime.strptime)
    depot.execute("UPDATE stock SET pieces = 4")
    pipeline.pull("bronze.stock")
    build("bronze.stock", "silver.stock")
    assert depot.silver("stock") == [("salt", 4)]


def test_many_rows_come_in_several_blocks_and_parts(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BLOCK", 1000)
    monkeypatch.setattr("etl.sources.landing.PART_ROWS", 100)
    depot.execute(
        "INSERT INTO parcels SELECT n, 'c' || n % 7, now() - n * interval '1 minute', n / 3.0, E'\\r\\n\"' || n"
        " FROM generate_series(1, 3000) n"
    )
    assert len(pull_parcels()) == 3000
    assert pq.ParquetFile(depot.landed("parcels")[0]).num_row_groups > 100
    assert depot.silver("parcels") == depot.execute(PARCELS)


# --- what is refused


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("ALTER TABLE parcels DROP COLUMN label", r"public.parcels lacks label. It has id, customer, sent_at"),
        ("ALTER TABLE parcels RENAME label TO labels", r"lacks label. .* Did you mean labels for label\? Correct"),
        (
            "ALTER TABLE parcels ALTER weight TYPE text",
            r"columns of other types: weight is text, not double. Correct contracts/bronze/parcels.py",
        ),
        (
            "ALTER TABLE parcels ALTER changed_at DROP DEFAULT, ALTER changed_at TYPE text",
            r"changed_at is text, not timestamp",
        ),
        ("DROP TABLE parcels", r"MILLRACE_SOURCE_DEPOT has no public.parcels, or this user may not see it"),
    ],
)
def test_a_table_of_another_shape_is_refused(depot: Depot, statement: str, message: str) -> None:
    depot.execute(statement)
    with pytest.raises(PullError, match=message):
        pipeline.pull("bronze.parcels")
    assert depot.landed("parcels") == []


def test_a_cursor_without_an_order_is_refused(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    redeclare(monkeypatch, "bronze.parcels", Database("depot", "parcels", "label", timedelta(1)))
    with pytest.raises(PullError, match="the cursor label is text, and its overlap is for a timestamp or a date"):
        pipeline.pull("bronze.parcels")


def test_a_table_that_may_not_be_read_is_refused(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    depot.execute("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'guest'")
    monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", depot.url.replace("millrace:opensesame", "guest:guest"))
    with pytest.raises(PullError, match=r"cannot be read \(permission denied for table parcels\)"):
        pipeline.pull("bronze.parcels")


def test_a_table_whose_rows_are_hidden_from_the_user_is_refused(depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    depot.execute(
        "DROP ROLE IF EXISTS clerk; CREATE ROLE clerk LOGIN PASSWORD 'clerk'; GRANT SELECT ON parcels TO clerk;"
        " ALTER TABLE parcels ENABLE ROW LEVEL SECURITY;"
        " CREATE POLICY ann ON parcels FOR SELECT TO clerk USING (customer = 'ann')"
    )
    monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", depot.url.replace("millrace:opensesame", "clerk:clerk"))
    try:
        with pytest.raises(PullError, match=r"cannot be read \(query would be affected by row-level security policy"):
            pipeline.pull("bronze.parcels")
    finally:
        depot.execute("DROP POLICY ann ON parcels; ALTER TABLE parcels DISABLE ROW LEVEL SECURITY")
        depot.execute("REVOKE ALL ON parcels FROM clerk")


def test_cells_that_do_not_fit_reject_their_row(depot: Depot) -> None:
    depot.execute(
        "INSERT INTO parcels VALUES (1, 'ann', '0044-03-15 BC'), (2, 'ann', 'infinity'), (3, 'ann', '99999-01-01'),"
        " (4, 'ann', now())" + "".join(f", ({n}, 'ann', now())" for n in range(5, 80))
    )
    depot.execute("ALTER TABLE parcels ALTER id TYPE numeric")
    depot.execute("UPDATE parcels SET id = 1e30 WHERE id = 4")
    pipeline.pull("bronze.parcels")
    report = build("bronze.parcels")["bronze.parcels"]
    assert (report.account.rows_in, report.account.published, report.account.quarantined) == (79, 75, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda url: url.replace("opensesame", "sesame"), "password authentication failed"),
        (lambda url: url.rpartition(":")[0] + f":{free_port()}/depot", "refused"),
        (lambda url: url + "_gone", 'database ".*_gone" does not exist'),
    ],
)
def test_a_database_that_cannot_be_reached(
    depot: Depot, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", change(depot.url))
    with pytest.raises(DatabaseUnreachableError, match=message) as caught:
        pipeline.pull("bronze.parcels")
    assert "sesame" not in str(caught.value)


def test_a_database_that_is_not_named(depot: Depot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", "postgresql://h/d?pasword=opensesame")
    with pytest.raises(PullError, match="MILLRACE_SOURCE_DEPOT is no URL that libpq can read") as caught:
        pipeline.pull("bronze.parcels")
    assert "sesame" not in str(caught.value)
    monkeypatch.delenv("MILLRACE_SOURCE_DEPOT")
    with pytest.raises(PullError, match="MILLRACE_SOURCE_DEPOT is not set"):
        pipeline.pull("bronze.parcels")
    secret = tmp_path / "secret"
    secret.write_text(depot.url + "\n")
    secret.chmod(0o600)
    monkeypatch.setenv("MILLRACE_SOURCE_DEPOT_FILE", str(secret))
    assert pipeline.pull("bronze.parcels").rows == 0


def test_a_server_that_falls_silent_is_given_up(
    depot: Depot, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database._Connection, "seconds", 1.0)
    monkeypatch.setattr(database, "_types", lambda *_: postgres.freeze() or {})
    monkeypatch.setattr(database, "_ensure_columns", lambda *_: None)
    monkeypatch.setattr(database, "_cursor_type", lambda *_: "timestamptz")
    try:
        with pytest.raises(DatabaseUnreachableError, match=r"was lost \(no answer within 1.0 s\). Nothing has landed"):
            pipeline.pull("bronze.parcels")
    finally:
        postgres.thaw()
    assert depot.landed("parcels") == []


def test_options_of_libpq_count(certificates: Certificates, depot: Depot, monkeypatch: pytest.MonkeyPatch) -> None:
    with Postgres(certificates=certificates) as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE stock AS SELECT 'salt' AS product, 3 AS pieces")
        monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", server.url)
        assert pipeline.pull("bronze.stock").rows == 1
        monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", server.url.partition("?")[0] + "?sslmode=disable")
        with pytest.raises(DatabaseUnreachableError, match="no encryption"):
            pipeline.pull("bronze.stock")


# --- kills

KILLED = """
import os, signal
from lake import files, storage
from etl.sources import database
def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
def after(function):
    def call(*arguments):
        function(*arguments)
        kill()
    return call
point = {point!r}
if point == "while rows come": database.BLOCK, database._parsed = 1, kill
if point == "before the file is complete": storage.footer = kill
if point == "before the rename": storage.place = kill
if point == "after the rename": files.sync = lambda path: kill() if path.is_dir() else None
if point == "at the end": storage.place = after(storage.place)
from millrace import cli
cli.main(["pull", "bronze.{table}"])
"""
POINTS = (
    "while rows come",
    "before the file is complete",
    "before the rename",
    "after the rename",
    "at the end",
)


def kill_at(point: str, table: str) -> None:
    code = KILLED.format(point=point, table=table)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=settings.CHECKOUT, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()


@pytest.mark.parametrize("table", ["parcels", "stock"])
def test_a_pull_that_is_killed_loses_and_doubles_nothing(depot: Depot, table: str) -> None:
    """Before and after each step: a file is there as a whole or not at all, and the next pull goes on from it."""
    insert = {
        "parcels": "INSERT INTO parcels VALUES ({0}, 'ann', now() - interval '{0} days')",
        "stock": "INSERT INTO stock VALUES ('p{0}', {0})",
    }[table]
    query = {"parcels": PARCELS, "stock": STOCK}[table]
    for number, point in enumerate(POINTS, 1):
        depot.execute(insert.format(number))
        before = depot.landed(table)
        kill_at(point, table)
        landed = [file for file in depot.landed(table) if file not in before]
        assert len(landed) == (number > 3), point
        pulled = pipeline.pull(f"bronze.{table}")
        assert (pulled.file is None) == (number > 3), point
        report = build(f"bronze.{table}", f"silver.{table}")[f"silver.{table}"]
        assert depot.silver(table) == depot.execute(query), point
        assert report.account.quarantined == 0
    assert not [*(settings.landing() / table / database.ASIDE).glob("*")]


# --- the command line


def test_the_command_pulls_one_table_or_all(depot: Depot, capsys: pytest.CaptureFixture[str]) -> None:
    depot.execute("INSERT INTO stock VALUES ('salt', 3)")
    assert cli.main(["pull", "bronze.stock"]) == 0
    assert "bronze.stock: 1 rows landed as stock/" in capsys.readouterr().out
    assert cli.main(["pull"]) == 0
    assert "bronze.stock: nothing new" in capsys.readouterr().out
    assert cli.main(["pull", "silver.stock"]) == 1
    assert "PullError: silver.stock has no database" in capsys.readouterr().err


def test_a_url_is_a_secret(depot: Depot, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings", "--json"]) == 0
    shown = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert shown["MILLRACE_SOURCE_DEPOT"]["value"] == "postgresql://***"
    assert not shown["MILLRACE_SOURCE_DEPOT"]["problem"]
    monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", "mysql://root:opensesame@h/d")
    assert cli.main(["pull"]) == 1
    error = capsys.readouterr().err
    assert "MILLRACE_SOURCE_DEPOT is set to a value that it cannot have" in error
    assert "sesame" not in error
    assert os.environ["MILLRACE_SOURCE_DEPOT"]
