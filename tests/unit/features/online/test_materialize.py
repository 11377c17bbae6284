"""Serving a release whose tables are not those that the project declares."""

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from features.lake_reader import SourceError
from features.online import backends, materialize
from millrace import pipeline
from tests.unit.features.conftest import INSTANT, VIEWS, Lake, at


def test_a_table_that_the_project_no_longer_declares_is_left_out(cinema: Lake) -> None:
    schema = pa.schema([("guest_id", pa.int64()), ("event_timestamp", INSTANT), ("clicks_7d", pa.int64())])
    cinema.write("clicks", [{"guest_id": 1, "event_timestamp": at("2017-01-02"), "clicks_7d": 3}], schema)
    release = cinema.release(*VIEWS, "clicks", horizon="2017-02-02")
    served = pipeline.serve()
    assert served["release"] == release.number
    assert {view["view"] for view in served["views"]} == {*VIEWS}
    assert served["consistency"]["release"] == release.number


def test_a_declared_table_that_the_release_lacks_is_named_and_nothing_changes(cinema: Lake) -> None:
    pipeline.serve()
    before = backends.current()
    older = cinema.release(*VIEWS[:-1], horizon="2017-01-20")
    message = (
        rf"^release {older.number} has no gold\.{VIEWS[-1]}, which the project declares, so its features cannot be"
        rf" served\. Run the DAG `millrace`, .* to serve release {older.number}, check out the code"
    )
    with pytest.raises(SourceError, match=message):
        pipeline.serve(older.number)
    with pytest.raises(SourceError, match=message):
        materialize.materialize(older)
    assert backends.current() == before


def test_a_view_that_services_define_themselves_has_no_lineage_and_stops_nothing(
    cinema: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no gold table's, and lineage records what becomes of gold tables."""
    loaded = materialize.materialize

    def with_own_view(*arguments: Any, **options: Any) -> materialize.MaterializationResult:
        result = loaded(*arguments, **options)
        own = materialize.ViewReport("own", "published", 1, 0.1, "generation")
        return replace(result, views=[*result.views, own])

    monkeypatch.setattr(materialize, "materialize", with_own_view)
    assert [view["view"] for view in pipeline.serve()["views"]] == [*sorted(VIEWS), "own"]
