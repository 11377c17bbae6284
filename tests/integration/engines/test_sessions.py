"""A session that the server forgot goes on, on each engine."""

from datetime import UTC, datetime

import pytest
from pysail.spark import SparkConnectServer
from pyspark.sql import functions as F

from etl import engine as engines
from etl.spark import keep_alive


def test_a_forgotten_session_is_renewed_with_its_settings_and_its_frames(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spark = engines.session()
    frame = spark.createDataFrame([(1,), (2,)], "a int").where("a > 1")
    spark.client.release_session()
    monkeypatch.setattr(keep_alive._kept[spark], "seen", 0.0)  # as after hours of sleep
    assert engines.session() is spark
    assert frame.collect() == [(2,)]
    assert {name: spark.conf.get(name) for name in engines.OPTIONS} == engines.OPTIONS


def test_a_server_that_was_left_is_asked_no_more(home: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """PySpark builds the literal of an instant with the settings of the thread's active session, by itself the first
    one of the thread.
    """
    left = SparkConnectServer("127.0.0.1", 0)
    left.start()
    monkeypatch.setenv("MILLRACE_ENGINE", f"sc://127.0.0.1:{left.listening_address[1]}")
    engines.session()
    left.stop()
    monkeypatch.setenv("MILLRACE_ENGINE", "sail")
    moment = datetime(2017, 3, 1, tzinfo=UTC)
    assert engines.session().range(1).select(F.unix_seconds(F.lit(moment))).collect() == [(int(moment.timestamp()),)]
