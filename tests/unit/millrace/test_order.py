"""Which tables go first when several may: those that the most others wait for."""

import threading
from types import SimpleNamespace

import pytest

from contracts import catalog
from contracts.interval import Interval
from millrace import pipeline


def test_downstream_follows_inputs_and_references_over_any_number_of_steps() -> None:
    gold = {"gold.guest_activity", "gold.guest_movie", "gold.movie_demand"}
    assert pipeline._downstream(catalog.table("silver.tickets")) == gold
    assert pipeline._downstream(catalog.table("bronze.tickets")) == gold | {"silver.tickets"}
    assert {"silver.movies", "silver.tickets", "silver.showcases", *gold} <= pipeline._downstream(
        catalog.table("bronze.movies")
    )
    assert pipeline._downstream(catalog.table("gold.guest_profile")) == set()


def test_no_more_tables_run_than_there_are_workers_and_each_after_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    running: set[str] = set()
    most, done, lock = [0], [], threading.Lock()

    def run_table(name: str, *_: object) -> SimpleNamespace:
        with lock:
            assert set(pipeline.needs(catalog.table(name))) <= set(done)
            running.add(name)
            most[0] = max(most[0], len(running))
        threading.Event().wait(0.002)
        with lock:
            running.remove(name)
            done.append(name)
        return SimpleNamespace(table=name)

    monkeypatch.setattr(pipeline, "check_interval", lambda start, end: Interval.parse(start, end))
    monkeypatch.setattr(pipeline, "run_table", run_table)
    monkeypatch.setattr(pipeline, "make_release", lambda *_: None)
    assert [report.table for report in pipeline.run_all("2017-01-01", "2017-01-02", "test")] == [
        table.qualified for table in catalog.tables()
    ]
    assert most == [pipeline.WORKERS]
    assert sorted(done) == sorted(table.qualified for table in catalog.tables())
    done.clear()
    monkeypatch.setattr(pipeline, "WORKERS", 1)
    pipeline.run_all("2017-01-01", "2017-01-02", "test")
    assert done[:4] == ["bronze.movies", "silver.movies", "bronze.tickets", "silver.tickets"]


def test_a_table_that_is_under_way_when_another_fails_is_reported_and_no_other_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, failed, message = [], threading.Event(), []

    def run_table(name: str, *_: object) -> SimpleNamespace:
        begun.append(name)
        if len(begun) == 1:
            failed.set()
            raise ValueError(f"{name} failed")
        assert failed.wait(60)
        return SimpleNamespace(table=name)

    monkeypatch.setattr(pipeline, "check_interval", lambda start, end: Interval.parse(start, end))
    monkeypatch.setattr(pipeline, "run_table", run_table)
    with pytest.raises(ValueError, match="failed"):
        pipeline.run_all("2017-01-01", "2017-01-02", "test", lambda report: message.append(report.table))
    assert message == begun[1:]
    assert len(begun) == pipeline.WORKERS
