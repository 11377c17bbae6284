"""The trigger that starts runs: it waits for a run in work, survives what it cannot read, and keeps nothing."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lake import settings
from tests import patience
from tests.cinema import Cinema, ticket

pytestmark = pytest.mark.usefixtures("airflow", "cinema")
HEAVY = ("pyspark", "pysail", "great_expectations", "feast", "deltalake", "duckdb", "pandas", "pyarrow")


class Triggerer:
    """Runs a trigger of its own, as Airflow's triggerer does, beside runs of the DAG that are in work or not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runs: int = 0) -> None:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        self.runs: Any = runs
        self.asked: list[Any] = []
        self.events: list[dict[str, Any]] = []
        monkeypatch.setattr(RuntimeTaskInstance, "get_dr_count", staticmethod(self._count))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _count(self, **asked: Any) -> int:
        self.asked.append(asked)
        if isinstance(self.runs, Exception):
            raise self.runs
        count: int = self.runs
        return count

    def _run(self) -> None:
        from millrace.events import ArrivalTrigger

        async def collect() -> None:
            _, arguments = ArrivalTrigger(0.3).serialize()
            async for event in ArrivalTrigger(**arguments).run():
                self.events.append(event.payload)

        self._task = self._loop.create_task(collect())
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    def __enter__(self) -> Triggerer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(patience.SECONDS)


def test_what_has_landed_is_announced_once_with_its_days_and_files(
    cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Triggerer(monkeypatch) as triggerer:
        patience.until(lambda: triggerer.events, "nothing was announced")
        cinema.land("tickets", [ticket(3)], day="2017-03-04")
        patience.until(lambda: len(triggerer.events) > 1, "the next file was not announced")
    first, second = triggerer.events
    files = "files for [2017-03-01, 2017-03-02)"
    tables = ["members", "movies", "showcases", "tickets"]
    assert first == {
        "interval": "[2017-03-01, 2017-03-02)",
        "arrivals": [f"bronze.{table}: {files}" for table in tables],
    }
    assert second["interval"] == "[2017-03-01, 2017-03-05)"
    assert "bronze.tickets: files for [2017-03-04, 2017-03-05)" in second["arrivals"]


def test_a_run_in_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Triggerer(monkeypatch, runs=1) as triggerer:
        patience.until(lambda: len(triggerer.asked) > 2, "it did not ask for runs in work")
        assert triggerer.events == []
        triggerer.runs = 0
        patience.until(lambda: triggerer.events, "nothing was announced once the run had ended")
    assert triggerer.asked[0] == {"dag_id": "millrace", "states": ["queued", "running"]}


def test_where_airflow_does_not_say_what_is_in_work_the_event_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with Triggerer(monkeypatch) as triggerer:
        triggerer.runs = ConnectionError("no answer")
        patience.until(lambda: triggerer.events, "nothing was announced")


def test_a_lake_that_cannot_be_read_now_is_looked_at_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from millrace import events

    monkeypatch.setattr(events, "LONGEST_PAUSE", 0.1)
    record = home / "lake" / "_landed" / "tickets.json"
    record.mkdir(parents=True)
    with Triggerer(monkeypatch) as triggerer:
        patience.until(lambda: "New data cannot be looked for" in caplog.text, "nothing was said")
        assert triggerer.events == []
        record.rmdir()
        patience.until(lambda: triggerer.events, "it did not look again")
    assert caplog.text.count("New data cannot be looked for") == 1


def test_the_triggerer_imports_nothing_heavy_before_it_looks() -> None:
    code = f"import sys, millrace.events; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=settings.CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_airflow_is_asked_before_anything_comes_because_its_first_answer_takes_seconds(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(home / "landing")
    with Triggerer(monkeypatch) as triggerer:
        patience.until(lambda: triggerer.asked, "it did not ask for runs in work")
        assert triggerer.events == []
