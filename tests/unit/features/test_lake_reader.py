"""Readers that share a DuckDB know nothing of each other, nor of those that have their own."""

from features.lake_reader import LakeReader
from lake import release
from tests.unit.features.conftest import VIEWS, Lake, activity

ROWS = "SELECT count(*) FROM {}"


def rows(reader: LakeReader) -> int:
    found: int = reader.connection.execute(ROWS.format(reader.table("gold.customer_activity"))).fetchall()[0][0]
    return found


def test_readers_of_two_releases(shop: Lake) -> None:
    shop.write("customer_activity", [activity(1, "2017-01-02")])
    shop.release(*VIEWS)
    older, newer = (LakeReader(release.read(number), shared=True) for number in (1, 2))
    assert [rows(one) for one in (older, newer, older, newer)] == [4, 1, 4, 1]


def test_what_users_ask_is_asked_elsewhere(shop: Lake) -> None:
    shared, own = LakeReader(release.read(), shared=True), LakeReader(release.read())
    own.create_views("FROM gold.customer_activity")
    own.connection.execute(
        "SET enable_external_access = false; SET TimeZone = 'Asia/Kolkata'; SET threads = 1; CREATE TABLE labels (n"
        " INT)"
    )
    assert rows(shared) == 4
    assert shared.connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    assert shared.connection.execute("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]
