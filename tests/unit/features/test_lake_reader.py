"""Readers that share a DuckDB know nothing of each other, nor of those that have their own."""

from features.lake_reader import LakeReader
from lake import release
from tests.unit.features.conftest import VIEWS, Lake, activity

ROWS = "SELECT count(*) FROM {}"


def rows(reader: LakeReader) -> int:
    result: int = reader.connection.execute(ROWS.format(reader.table("gold.guest_activity"))).fetchall()[0][0]
    return result


def test_readers_of_two_releases(cinema: Lake) -> None:
    cinema.write("guest_activity", [activity(1, "2017-01-02")])
    cinema.release(*VIEWS)
    older, newer = (LakeReader(release.read(number), shared=True) for number in (1, 2))
    assert [rows(version) for version in (older, newer, older, newer)] == [4, 1, 4, 1]


def test_what_users_ask_is_asked_elsewhere(cinema: Lake) -> None:
    shared, own = LakeReader(release.read(), shared=True), LakeReader(release.read())
    own.create_views("FROM gold.guest_activity")
    own.connection.execute(
        "SET enable_external_access = false; SET TimeZone = 'Asia/Kolkata'; SET threads = 1; CREATE TABLE labels (n"
        " INT)"
    )
    assert rows(shared) == 4
    assert shared.connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    assert shared.connection.execute("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]
