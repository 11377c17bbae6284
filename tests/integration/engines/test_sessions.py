"""A session that the server forgot goes on, on each engine."""

import pytest

from etl import engine as engines
from etl.spark import keep_alive


def test_a_forgotten_session_is_renewed_with_its_settings_and_its_frames(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spark = engines.session()
    frame = spark.createDataFrame([(1,), (2,)], "a int").where("a > 1")
    spark.client.release_session()
    monkeypatch.setattr(keep_alive._kept[spark], "seen", 0.0)  # as after hours of sleep
    assert engines.session() is spark
    assert frame.collect() == [(2,)]
    assert {name: spark.conf.get(name) for name in engines.OPTIONS} == engines.OPTIONS
