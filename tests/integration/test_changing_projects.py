"""A project that changes between runs, or whose transform does what days cannot follow: no stale row, no lost row, or a
sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contracts.project import current
from contracts.report import UNCHANGED
from etl.transforms import StageError
from lake import release
from lake.delta import LakeError
from millrace import pipeline
from millrace.pipeline import RunError
from tests.conftest import set_home
from tests.landing import LandingZone, rows
from tests.projects import write

HEAD = """from datetime import timedelta

from contracts.aggregations import Count, Max, days, feature_table
from contracts.columns import AUDIT_COLUMNS
from contracts.model import DATE, LONG, STRING, TIMESTAMP, Column, Layer, Table

"""
TABLE = """{name} = Table(
    layer=Layer.{layer}, name="{name}", doc="{name}", grain="one row",
    owner="tests", freshness=timedelta(days=1), time_column="{time}",
    {more} columns=({columns}),
)
"""
VISITS = """
    Column("visit", LONG, "Visit", required=True), Column("guest", STRING, "Guest", required=True),
    Column("seen_at", TIMESTAMP, "When", required=True)"""
TIPS = """
    Column("tip", LONG, "Tip", required=True), Column("visit", LONG, "Visit", required=True),
    Column("given_at", TIMESTAMP, "When", required=True)"""
CLEAN = """from pyspark.sql import functions as F

from etl.silver import PROVENANCE
from {name}.transforms.common import BONUS


def clean(visits, tips):
    sums = tips.groupBy("visit").agg(F.count("tip").alias("tips"))
    joined = visits.join(sums, "visit", "left")
    with_bonus = (F.coalesce("tips", F.lit(0)) + F.lit(BONUS)).cast("bigint")
    return joined.select("visit", "guest", {seen}, with_bonus.alias("tips"), *PROVENANCE)
"""
GOLD = (
    HEAD
    + """from {name}.contracts.silver.visits import visits

guests = feature_table(
    name="guests", doc="guests", owner="tests", key=(Column("guest", STRING, "Guest", required=True),), events=visits,
    aggregations=(Count("visits", windows=days(7)), Max("most_tips", "tips", windows=days(7))),
)
"""
)


def table(layer: str, name: str, time: str, columns: str, more: str = "") -> str:
    return HEAD + TABLE.format(layer=layer, name=name, time=time, columns=columns, more=more)


def files(name: str, bonus: int = 0, seen: str = '"seen_at"') -> dict[str, str]:
    audit = ", *AUDIT_COLUMNS"
    return {
        "contracts/bronze/visits.py": table("BRONZE", "visits", "seen_at", VISITS + audit),
        "contracts/bronze/tips.py": table("BRONZE", "tips", "given_at", TIPS + audit),
        "contracts/silver/visits.py": table(
            "SILVER",
            "visits",
            "seen_at",
            VISITS + ', Column("tips", LONG, "Tips", required=True)',
            'inputs=("bronze.visits", "bronze.tips"), key=("visit",),',
        ),
        "contracts/gold/guests.py": GOLD.replace("{name}", name),
        "transforms/silver/visits.py": CLEAN.replace("{name}", name).replace("{seen}", seen),
        "transforms/common.py": f"BONUS = {bonus}\n",
    }


def forget(name: str) -> None:
    """As a new process would."""
    import sys

    for module in [module for module in sys.modules if module == name or module.startswith(f"{name}.")]:
        if module != name:
            del sys.modules[module]
    from contracts import catalog

    catalog._tables.cache_clear()


@pytest.fixture
def project(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., LandingZone]:
    """Write the project and choose it; its landing zone."""
    set_home(tmp_path / "home", monkeypatch)
    name = f"changing_{abs(hash(request.node.name))}"

    def opened(**changed: Any) -> LandingZone:
        root = write(tmp_path / "project", name, files(name, **changed))
        monkeypatch.setenv("MILLRACE_PROJECT", str(root))
        forget(name)
        return LandingZone(tmp_path / "home" / "landing")

    return opened


def visit(number: int, day: int, hour: int = 12) -> dict[str, Any]:
    return {"visit": number, "guest": "ada", "seen_at": datetime(2031, 1, day, hour)}


def land(shop: LandingZone, name: str, day: int, *found: dict[str, Any]) -> None:
    shop.land(name, pa.Table.from_pylist([*found]), date(2031, 1, day))


def run(start: int, end: int) -> dict[str, Any]:
    return {report.table: report for report in pipeline.run_all(f"2031-01-{start:02}", f"2031-01-{end:02}", "test")}


def tips() -> dict[int, int]:
    return {row["visit"]: row["tips"] for row in rows("silver.visits")}


def test_a_second_input_that_lands_later_reaches_the_rows_of_days_long_past(
    project: Callable[..., LandingZone],
) -> None:
    shop = project()
    land(shop, "visits", 1, visit(1, 1))
    land(shop, "tips", 1, {"tip": 1, "visit": 9, "given_at": datetime(2031, 1, 1, 13)})
    run(1, 2)
    assert tips() == {1: 0}
    land(shop, "tips", 5, {"tip": 2, "visit": 1, "given_at": datetime(2031, 1, 5)})
    run(5, 6)
    assert tips() == {1: 1}
    assert {row["most_tips_7d"] for row in rows("gold.guests") if row["event_timestamp"].day == 2} == {1}


def test_a_changed_helper_module_recomputes_what_imports_it(project: Callable[..., LandingZone]) -> None:
    shop = project()
    land(shop, "visits", 1, visit(1, 1))
    land(shop, "tips", 1, {"tip": 1, "visit": 1, "given_at": datetime(2031, 1, 1, 13)})
    run(1, 2)
    assert run(1, 2)["silver.visits"].status == UNCHANGED
    project(bonus=10)
    run(1, 2)
    assert tips() == {1: 11}


def test_a_transform_that_moves_rows_to_another_day_is_refused(project: Callable[..., LandingZone]) -> None:
    shop = project(seen='F.expr("seen_at - INTERVAL 2 HOURS").alias("seen_at")')
    land(shop, "visits", 1, visit(1, 1))
    land(shop, "tips", 1, {"tip": 1, "visit": 1, "given_at": datetime(2031, 1, 1, 13)})
    run(1, 2)
    land(shop, "visits", 2, visit(2, 2, hour=1))
    with pytest.raises(
        StageError, match=r"silver\.visits: its transform moves 1 rows to other days than bronze\.visits has them under"
    ):
        run(2, 3)


def test_a_transform_of_another_type_publishes_nothing_and_can_be_corrected(
    project: Callable[..., LandingZone],
) -> None:
    shop = project(seen='F.col("seen_at").cast("string").alias("seen_at")')
    land(shop, "visits", 1, visit(1, 1))
    land(shop, "tips", 1, {"tip": 1, "visit": 1, "given_at": datetime(2031, 1, 1, 13)})
    with pytest.raises(
        StageError, match=r"silver\.visits: its transform.* returns seen_at as string instead of timestamp"
    ):
        run(1, 2)
    project()
    run(1, 2)
    assert tips() == {1: 1}


def test_a_table_that_is_made_anew_reaches_as_far_as_the_release(project: Callable[..., LandingZone]) -> None:
    import shutil

    from lake import settings

    shop = project()
    land(shop, "visits", 1, visit(1, 1))
    land(shop, "tips", 1, {"tip": 1, "visit": 1, "given_at": datetime(2031, 1, 1, 13)})
    run(1, 9)
    before = rows("gold.guests")
    shutil.rmtree(settings.table_path("gold.guests"))
    run(1, 2)
    assert release.read().horizon == "2031-01-09"
    assert rows("gold.guests") == before
    assert max(row["event_timestamp"].day for row in before) == 9


def test_a_declaration_that_changed_since_the_release_is_told_by_verify(
    project: Callable[..., LandingZone], tmp_path: Path
) -> None:
    shop = project()
    land(shop, "visits", 1, visit(1, 1))
    land(shop, "tips", 1, {"tip": 1, "visit": 1, "given_at": datetime(2031, 1, 1, 13)})
    run(1, 2)
    assert pipeline.verify("gold.guests", 5).differences == ()
    path = tmp_path / "project" / "contracts" / "gold" / "guests.py"
    path.write_text(path.read_text().replace('Count("visits"', 'Count("stays"'))
    forget(current().name)
    with pytest.raises(
        RunError, match=r"gold\.guests cannot be verified: .*stays_7d.*run an interval first: millrace run"
    ):
        pipeline.verify("gold.guests", 5)


def test_a_lake_of_another_project_is_refused(
    project: Callable[..., LandingZone], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = project()
    land(shop, "visits", 1, visit(1, 1))
    land(shop, "tips", 1, {"tip": 1, "visit": 1, "given_at": datetime(2031, 1, 1, 13)})
    run(1, 2)
    monkeypatch.delenv("MILLRACE_PROJECT")
    with pytest.raises(
        LakeError,
        match=(
            r"belongs to the project changing_\d+, and this is grocery\. Give each project a home of its own"
            r" \(MILLRACE_HOME\)"
        ),
    ):
        run(1, 2)
