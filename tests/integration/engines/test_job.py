"""The whole job on a real Spark: the same tables as on Sail, one engine going on where the other stopped, and a server
that dies.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from etl import stage
from etl.spark import server
from lake import delta, release, settings
from millrace.pipeline import RunError
from tests import patience
from tests.carrying import FIRST, THEN, WRITER, carry, differing, keep_only, land, land_more, quarantined
from tests.cinema import Cinema
from tests.landing import rows
from tests.spark import running, share_jars
from tests.unit.lake.processes import at_once


@pytest.mark.slow
def test_tables_accounts_and_quarantine_are_the_same(
    cinema: Cinema, home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(cinema)
    accounts, rejected = {}, {}
    for name, engine in (("sail", "sail"), ("spark", spark_url)):
        accounts[name] = carry(monkeypatch, engine, home / name, FIRST)
        rejected[name] = quarantined()
    assert differing(home / "sail", home / "spark") == []
    assert accounts["spark"] == accounts["sail"]
    assert (accounts["sail"]["silver.tickets"].duplicates, sum(rejected["sail"].values())) != (0, 0)
    assert rejected["spark"].keys() == rejected["sail"].keys()
    _goes_on_where_the_other_stopped(cinema, home, spark_url, monkeypatch)


def _goes_on_where_the_other_stopped(
    cinema: Cinema, home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_only(monkeypatch, "gold.guest_activity", "gold.guest_movie")
    land_more(cinema)
    carry(monkeypatch, spark_url, home / "sail", THEN)
    carry(monkeypatch, "sail", home / "spark", THEN)
    carry(monkeypatch, "sail", home / "whole", (FIRST[0], THEN[1]))
    assert differing(home / "sail", home / "spark") == []
    assert [name for name in differing(home / "sail", home / "whole") if not name.startswith("bronze.")] == []


# --- faults


@pytest.fixture
def killable(home: Path, spark_url: str) -> Iterator[Any]:
    """A server that the test may kill; the shared one has fetched the jars."""
    with running(home) as found:
        yield found


@pytest.mark.slow
def test_a_server_that_dies_in_the_middle_costs_the_run_and_nothing_else(
    cinema: Cinema, home: Path, spark_url: str, killable: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, url = killable
    keep_only(monkeypatch, "gold.guest_activity")
    land(cinema)
    begun = time.monotonic()

    def killed(*arguments: Any) -> Any:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.wait()
        return original(*arguments)

    original = stage._stage_gold
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_stage_gold", killed)
        with pytest.raises(
            RunError,
            match=(
                r"^\w+\.\w+: the run failed \(no engine answers at 127\.0\.0\.1:\d+ any more\)\. Published tables are"
                r" intact\. Start"
            ),
        ):
            carry(monkeypatch, url, home / "killed", FIRST)
    assert time.monotonic() - begun < patience.SECONDS  # a client tries again for longer than that if nobody stops it
    assert release.numbers() == []
    assert delta.version_of("silver.tickets") == 1
    carry(monkeypatch, spark_url, home / "killed", FIRST)
    carry(monkeypatch, "sail", home / "whole", FIRST)
    assert differing(home / "killed", home / "whole") == []
    assert len(release.numbers()) == 1


@pytest.mark.slow
def test_a_spark_of_a_process_that_is_killed_ends_too(home: Path, spark_url: str) -> None:
    share_jars(home)
    script = "import time; from etl import engine; print(engine._local_spark(), flush=True); time.sleep(600)"
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=settings.CHECKOUT,
        env={**os.environ, "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        url = owner.stdout.readline().strip()
        port = int(url.rpartition(":")[2])
        family = psutil.Process(owner.pid).children(recursive=True)
        assert server.listens(port)
    finally:
        owner.kill()
        owner.wait()
    gone, alive = psutil.wait_procs(family, timeout=patience.SECONDS)
    assert (len(gone), alive) == (len(family), [])
    assert not server.listens(port)


@pytest.mark.slow
def test_two_processes_commit_through_spark_and_lose_no_row(
    home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    with at_once(WRITER, (0, 3, "one"), (100, 3, "other")):
        pass
    table = delta.open_table("silver.visits")
    assert sorted(row["visit_id"] for row in rows("silver.visits")) == [0, 1, 2, 100, 101, 102]
    assert table.version() == 6
    recorded = [state.run_id for state in delta.commit_history(table) if state]
    assert (recorded.count("one"), recorded.count("other")) == (3, 3)
