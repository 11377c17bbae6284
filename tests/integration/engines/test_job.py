"""The whole job on a real Spark: the same tables as on Sail, one engine going on where the other stopped, and a server that dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.parity import compared
from contracts import catalog, release, settings
from contracts.model import Layer
from dags import steps
from dags.steps import RunError
from etl import delta, stage
from etl.spark import server
from tests.landing import Shop, purchase, rows
from tests.unit.contracts.processes import at_once

FIRST = ("2017-03-01", "2017-03-03")
THEN = ("2017-03-03", "2017-03-05")


def land(shop: Shop) -> None:
    """Two days with what a till gets wrong: doubled and broken rows, unknown products, NULLs, odd letters, half cents."""
    shop.land(
        "transactions",
        [
            purchase(10, sales_value=1.005, coupon_disc=5.55e-17),
            purchase(10, sales_value=1.005, coupon_disc=5.55e-17),
            purchase(11, product=999, at="2017-03-02 23:59:59.999999"),
            purchase(12, quantity=0, at="2017-03-02"),
            purchase(13, quantity=-1, at="2017-03-02 12:00"),
            purchase(14, at="2017-03-02 12:00") | {"household_id": None},
            purchase(15, sales_value=1e300, at="2017-03-02 12:00"),
        ],
        day="2017-03-02",
    )
    shop.land("products", [{"product_id": 3, "manufacturer_id": 5, "department": "Ä\U0001f33e'", "brand": "National", "package_size": ""}], day="2017-03-02")


def land_more(shop: Shop) -> None:
    """What comes later: another day, a late file for a day that is done, a promotion."""
    shop.land("transactions", [purchase(20, customer=2, at="2017-03-04 08:00"), purchase(10, at="2017-03-04 09:00")], day="2017-03-04")
    shop.land("transactions", [purchase(21, product=3, at="2017-03-01 08:00")], day="2017-03-03")
    shop.land("promotions", [{"product_id": 2, "store_id": 10, "display_location": "0", "mailer_location": "A", "week": 10}], day="2017-03-04")


def carry(monkeypatch: pytest.MonkeyPatch, engine: str, lake: Path, interval: tuple[str, str]) -> dict[str, Any]:
    """Run on an engine into a lake; the row accounts by table."""
    monkeypatch.setenv("MILLRACE_ENGINE", engine)
    monkeypatch.setenv("MILLRACE_LAKE", str(lake))
    return {report.table: report.account for report in steps.run_all(*interval, "test")}


def differing(one: Path, other: Path) -> list[str]:
    return [found.table for found in (compared(table, {"one": one, "other": other}) for table in catalog.tables()) if not found.equal]


def quarantined() -> Counter:
    """Rejected rows of every table, without the times at which they were loaded and rejected."""
    found: Counter = Counter()
    for path in sorted((settings.lake() / Layer.QUARANTINE).iterdir()):
        found.update(
            (path.name, str(row["day"]), row["file"], tuple(sorted(row["reasons"])), _without_clock(row["row"])) for row in rows(f"quarantine.{path.name}")
        )
    return found


def _without_clock(row: str) -> str:
    return str({name: value for name, value in json.loads(row).items() if name != "_loaded_at"})


def test_tables_accounts_and_quarantine_are_the_same(shop: Shop, home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    land(shop)
    accounts, rejected = {}, {}
    for name, engine in (("sail", "sail"), ("spark", spark_url)):
        accounts[name] = carry(monkeypatch, engine, home / name, FIRST)
        rejected[name] = quarantined()
    assert differing(home / "sail", home / "spark") == []
    assert accounts["spark"] == accounts["sail"]
    assert (accounts["sail"]["silver.transactions"].duplicates, sum(rejected["sail"].values())) != (0, 0)
    assert rejected["spark"].keys() == rejected["sail"].keys()
    _goes_on_where_the_other_stopped(shop, home, spark_url, monkeypatch)


def _goes_on_where_the_other_stopped(shop: Shop, home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    land_more(shop)
    carry(monkeypatch, spark_url, home / "sail", THEN)
    carry(monkeypatch, "sail", home / "spark", THEN)
    carry(monkeypatch, "sail", home / "whole", (FIRST[0], THEN[1]))
    assert differing(home / "sail", home / "spark") == []
    assert [name for name in differing(home / "sail", home / "whole") if not name.startswith("bronze.")] == []


# --- faults


@pytest.fixture
def mortal(home: Path, spark_url: str) -> Iterator[Any]:
    """A server that the test may kill; the shared one has fetched the jars."""
    (home / "jars").symlink_to(settings.CHECKOUT / ".millrace" / "jars")
    process, port = server.start(home / "mortal.log")
    yield process, server.url(port)
    server.stop(process)


def test_a_server_that_dies_in_the_middle_costs_the_run_and_nothing_else(
    shop: Shop, home: Path, spark_url: str, mortal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, url = mortal
    land(shop)
    begun = time.monotonic()

    def killed(*arguments: Any) -> Any:
        for one in psutil.Process(process.pid).children(recursive=True):
            one.kill()
        process.wait()
        return original(*arguments)

    original = stage._stage_gold
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_stage_gold", killed)
        with pytest.raises(
            RunError, match=r"^\w+\.\w+: the run broke off \(no engine answers at 127\.0\.0\.1:\d+ any more\)\. What was published is whole\. Start"
        ):
            carry(monkeypatch, url, home / "struck", FIRST)
    assert time.monotonic() - begun < 90
    assert release.numbers() == []
    assert delta.version_of("silver.transactions") == 1
    carry(monkeypatch, spark_url, home / "struck", FIRST)
    carry(monkeypatch, "sail", home / "whole", FIRST)
    assert differing(home / "struck", home / "whole") == []
    assert len(release.numbers()) == 1


def test_a_spark_of_a_process_that_is_killed_ends_too(home: Path, spark_url: str) -> None:
    (home / "jars").symlink_to(settings.CHECKOUT / ".millrace" / "jars")
    script = "import time; from etl import engine; print(engine._local_spark(), flush=True); time.sleep(600)"
    owner = subprocess.Popen([sys.executable, "-c", script], cwd=settings.CHECKOUT, env={**os.environ, "PYTHONPATH": "."}, stdout=subprocess.PIPE, text=True)
    try:
        url = owner.stdout.readline().strip()
        port = int(url.rpartition(":")[2])
        family = psutil.Process(owner.pid).children(recursive=True)
        assert server.listens(port)
    finally:
        owner.kill()
        owner.wait()
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert (len(gone), alive) == (len(family), [])
    assert not server.listens(port)


WRITER = """
import os, sys
from etl import delta, publishing
from etl.commits import committer
from etl.delta import State
from tests.unit.etl.visits import VISITS, staged, visit
first, count, run = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
for number in range(first, first + count):
    with publishing.locked("silver.visits"):
        base = delta.version_of("silver.visits")
        committer().publish(VISITS, [staged(visit(number), name=run)], State(run), base=base)
"""


def test_two_processes_commit_through_spark_and_lose_no_row(home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    with at_once(WRITER, (0, 3, "one"), (100, 3, "other")):
        pass
    table = delta.open_table("silver.visits")
    assert sorted(row["visit_id"] for row in rows("silver.visits")) == [0, 1, 2, 100, 101, 102]
    assert table.version() == 6
    recorded = [state.run_id for state in delta.states(table) if state]
    assert (recorded.count("one"), recorded.count("other")) == (3, 3)
