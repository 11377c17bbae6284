"""A contract that gains a column after its table was published: the table takes it, and what is derived from it
follows. Anything else is refused, and nothing is written.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contracts import catalog
from etl.sources.messages import Message
from etl.sources.offsets import Start
from lake import delta, release
from lake.publishing import SchemaError
from millrace import cli, pipeline
from tests.conftest import set_home
from tests.landing import LandingZone, rows
from tests.projects import write

HEAD = '''"""A table of this test."""

from datetime import timedelta

from contracts.aggregations import Count, Sum, days, feature_table
from contracts.columns import AUDIT_COLUMNS, STREAM_COLUMNS
from contracts.model import DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Table, Topic

'''
BRONZE = """sales = Table(
    layer=Layer.BRONZE, name="sales", doc="Sales", grain="one row per sale", owner="tests",
    freshness=timedelta(days=1), time_column="sold_at", {topic}
    columns=(
        Column("sale", LONG, "Sale", required=True),
        Column("guest", STRING, "Guest", required=True),
        Column("sold_at", TIMESTAMP, "When", required=True),
        {columns}
        *AUDIT_COLUMNS, {audit}
    ),
)
"""
SILVER = """sales = Table(
    layer=Layer.SILVER, name="sales", doc="Sales", grain="one row per sale", owner="tests", key=("sale",),
    freshness=timedelta(days=1), time_column="sold_at", inputs=("bronze.sales",),
    columns=(
        Column("sale", LONG, "Sale", required=True),
        Column("guest", STRING, "Guest", required=True),
        Column("sold_at", TIMESTAMP, "When", required=True),
        {columns}
    ),
)
"""
GOLD = """from {name}.contracts.silver.sales import sales

guests = feature_table(
    name="guests", doc="Guests", owner="tests", key=(Column("guest", STRING, "Guest", required=True),), events=sales,
    aggregations=(Count("sales", windows=days(7)), {aggregations}),
)
"""
SERVICES = """from feast import FeatureService

from features import views

guest_v1 = FeatureService(name="guest_v1", features=[views.view("guests")])
"""
POINTS = 'Column("points", LONG, "Points"),'
NOTE = 'Column("note", STRING, "Note", source="remark"),'
STREAMED: dict[str, Any] = {"topic": 'topic=Topic("sales"),', "audit": "*STREAM_COLUMNS,"}


class Shop:
    """A project whose contracts a test changes, as a new process would find them."""

    def __init__(self, root: Path, home: Path, name: str) -> None:
        self.root, self.name = root, name
        self.zone = LandingZone(home / "landing")

    def declare(self, bronze: str = "", silver: str = "", gold: str = "", topic: str = "", audit: str = "") -> None:
        columns = BRONZE.format(columns=bronze, topic=topic, audit=audit)
        files = {
            "contracts/bronze/sales.py": HEAD + columns,
            "contracts/silver/sales.py": HEAD + SILVER.format(columns=silver),
            "services.py": SERVICES,
            "contracts/gold/guests.py": HEAD + GOLD.format(name=self.name, aggregations=gold),
        }
        write(self.root, self.name, files)
        for module in [module for module in sys.modules if module.startswith(f"{self.name}.")]:
            del sys.modules[module]
        catalog._tables.cache_clear()

    def land(self, day: int, *found: dict[str, Any], suffix: str = ".parquet") -> None:
        self.zone.land(
            "sales", pa.Table.from_pylist([*found]), date(2031, 1, day), f"{found[0]['sale']}", suffix=suffix
        )

    def run(self, start: int = 1, end: int = 9) -> dict[str, Any]:
        reports = pipeline.run_all(f"2031-01-{start:02}", f"2031-01-{end:02}", "test")
        return {report.table: report for report in reports}

    def receive(self, offset: int, **row: Any) -> Any:
        """Publish a message, as the lake writer does."""
        message = Message(0, offset, json.dumps({"sold_at": "2031-01-03T10:00:00Z", "guest": "ada"} | row).encode())
        start = Start(offset or None, offset)
        return pipeline.append_messages(catalog.table("bronze.sales"), [message], "stream", 7, {0: start})


@pytest.fixture
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    set_home(tmp_path / "home", monkeypatch)
    name = f"growing_{abs(hash(request.node.name))}"
    made = Shop(tmp_path / "project", tmp_path / "home", name)
    made.declare()
    monkeypatch.setenv("MILLRACE_PROJECT", str(made.root))
    return made


def sale(number: int, day: int = 1, **more: Any) -> dict[str, Any]:
    return {"sale": number, "guest": "ada", "sold_at": datetime(2031, 1, day, 12), **more}


def values(table: str, *names: str) -> list[tuple[Any, ...]]:
    """The cells of the published rows, NULL where a row's file lacks the column."""
    published = delta.open_table(table)
    assert published is not None
    cells = published.to_pyarrow_table().select([*names]).to_pylist()
    return sorted(tuple(row[name] for name in names) for row in cells)


def test_bronze_takes_an_optional_column_and_what_is_derived_from_it_is_rebuilt(shop: Shop) -> None:
    shop.land(1, sale(1))
    shop.land(2, sale(2, 2, points=9))
    shop.run()
    before = release.read()
    shop.declare(POINTS)
    report = shop.run()
    assert report["silver.sales"].status == "unchanged"  # nothing of it is made from the column
    shop.land(3, sale(3, 3, points=4))
    shop.land(4, sale(4, 4))
    shop.land(5, sale(5, 5, points=6), suffix=".csv")
    shop.land(6, sale(6, 6), suffix=".csv")
    shop.declare(POINTS, POINTS, 'Sum("points", "points", windows=days(7))')
    report = shop.run()
    expected = [(1, None), (2, None), (3, 4), (4, None), (5, 6), (6, None)]
    assert values("bronze.sales", "sale", "points") == values("silver.sales", "sale", "points") == expected
    newest = {row["event_timestamp"].day: row["points_7d"] for row in rows("gold.guests")}
    assert (newest[3], newest[4], newest[6], newest[7]) == (0, 4, 10, 10)
    for name, version in before.tables.items():  # the former release is readable as it was
        former = delta.open_table(name, version)
        assert former is not None
        assert not {"points", "points_7d"} & {*former.to_pyarrow_table().column_names}
    assert shop.run()["gold.guests"].status == "unchanged"
    assert pipeline.verify("gold.guests", 5).differences == ()


def test_an_engine_that_reads_the_log_itself_fills_the_column_with_nulls(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("etl.table_reader.FEW_FILES", 0)
    shop.land(1, sale(1))
    shop.run()
    shop.declare(POINTS, POINTS)
    shop.run()
    shop.land(2, sale(2, 2, points=3))
    shop.run()
    assert values("silver.sales", "sale", "points") == [(1, None), (2, 3)]


def test_a_column_that_loads_from_a_lake_built_anew_is_the_same(shop: Shop) -> None:
    """Files that landed before the column was declared load into a new lake, too."""
    shop.land(1, sale(1))
    shop.land(3, sale(3, 3, points=4))
    shop.declare(POINTS, POINTS)
    shop.run()
    assert values("silver.sales", "sale", "points") == [(1, None), (3, 4)]


def test_messages_have_the_column_and_a_table_of_files_becomes_one_with_a_topic(shop: Shop) -> None:
    shop.land(1, sale(1))
    shop.run()
    shop.declare(**STREAMED)
    assert shop.receive(0, sale=2, points=1).account.published == 1
    shop.declare(POINTS, **STREAMED)
    shop.receive(1, sale=3, points=5)
    shop.receive(2, sale=4)
    report = shop.receive(3, sale=5, points="many")
    assert (report.account.published, report.account.quarantined) == (0, 1)
    [rejected] = rows("quarantine.sales")
    assert rejected["reasons"] == ["points is 'many', not a bigint"]
    places = [(1, None, None), (2, 0, None), (3, 1, 5), (4, 2, None)]
    assert values("bronze.sales", "sale", "_offset", "points") == places
    shop.land(1, sale(1))  # as it was: it is known, although its rows have no offset
    shop.run()
    assert values("silver.sales", "sale") == [(1,), (2,), (3,), (4,)]
    assert len(values("bronze.sales", "sale")) == 4


def test_a_profile_shows_a_column_that_no_file_has_yet(shop: Shop) -> None:
    shop.land(1, sale(1))
    shop.run()
    shop.declare(POINTS)
    shop.run()
    [column] = [column for column in pipeline.profile("bronze.sales").profile.columns if column.name == "points"]
    assert (column.type, column.nulls) == ("int64", 1)


def test_compaction_keeps_rows_of_before_and_after(shop: Shop) -> None:
    shop.land(1, sale(1))
    shop.run()
    shop.declare(POINTS)
    shop.land(2, sale(2, 2, points=3))
    shop.run()
    assert cli.main(["optimize", "bronze.sales"]) == 0
    assert values("bronze.sales", "sale", "points") == [(1, None), (2, 3)]


REFUSED = {
    "removed": (
        "",
        r"note string \(which the contract lacks\)\. .*Or change the contract: declare note again \(files and messages",
        '"""',
    ),
    "renamed": (
        NOTE.replace('"note"', '"comment"'),
        r'declare note again, with source="comment" if it is called comment now \(files',
        '"""',
    ),
    "retyped": (
        NOTE.replace("STRING", "LONG"),
        r"note string \(the contract says int64\)\. .*give note its type back, and cast it in silver",
        'Column("note", LONG',
    ),
    "required": (
        NOTE + POINTS.replace('"Points"', '"Points", required=True'),
        r"points int64 \(which the table lacks\)\. .*declare points optional, and require it in silver",
        'Column("note", STRING, "Note", source="remark"),Column("points"',
    ),
}


@pytest.mark.parametrize("change", REFUSED)
def test_another_change_is_refused_and_nothing_is_written(
    shop: Shop, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.declare(NOTE)
    shop.land(1, sale(1, remark="x"))
    shop.run()
    columns, message, declared = REFUSED[change]
    shop.declare(columns)
    shop.land(2, sale(2, 2, remark="y", comment="z", points=1))
    versions = {name: delta.version_of(name) for name in ("bronze.sales", "silver.sales", "gold.guests")}
    with pytest.raises(SchemaError, match=message):
        shop.run()
    with pytest.raises(SchemaError, match=message):
        shop.receive(0, sale=9)
    for command in (["check", "--json"], ["run", "--start", "2031-01-01", "--end", "2031-01-09"]):
        assert cli.main(command) == 1
    shown = capsys.readouterr()
    [problem] = json.loads(shown.out)
    assert re.search(message, problem["message"])
    assert re.search(message, shown.err)
    assert Path(problem["file"]).read_text().splitlines()[problem["line"] - 1].strip().startswith(declared)
    assert {name: delta.version_of(name) for name in versions} == versions


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_optional_column_that_looks_renamed_is_refused(shop: Shop, suffix: str) -> None:
    shop.declare(POINTS)
    shop.land(1, sale(1, Points=3), suffix=suffix)
    with pytest.raises(RuntimeError, match=r"lacks 1 column: points\. .*It has Points instead of points"):
        shop.run()


def test_a_process_with_the_former_contract_is_refused_and_drops_nothing(shop: Shop) -> None:
    shop.declare(**STREAMED)
    shop.receive(0, sale=1)
    former = catalog.table("bronze.sales")
    shop.declare(POINTS, **STREAMED)
    shop.receive(1, sale=2, points=5)
    message = Message(0, 2, b'{"sale": 3, "guest": "ada", "sold_at": "2031-01-03", "points": 7}')
    with pytest.raises(SchemaError, match=r"differ in points int64 \(which the contract lacks\)"):
        pipeline.append_messages(former, [message], "stream", 7, {0: Start(2, 2)})
    shop.receive(2, sale=3, points=7)
    assert values("bronze.sales", "sale", "points") == [(1, None), (2, 5), (3, 7)]


def test_a_kill_after_the_column_was_added_is_made_up_by_the_rerun(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.land(1, sale(1))
    shop.run()
    shop.declare(POINTS, POINTS)
    shop.land(2, sale(2, 2, points=3))

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("etl.quarantine.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run_table("bronze.sales", pipeline.check_interval("2031-01-01", "2031-01-09"), "killed")
    assert values("bronze.sales", "sale", "points") == [(1, None)]
    shop.run()
    assert values("silver.sales", "sale", "points") == [(1, None), (2, 3)]
