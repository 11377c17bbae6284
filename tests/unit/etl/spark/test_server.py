"""The environment in which a Spark of this machine starts."""

from pathlib import Path

import pytest

from etl.spark import server
from tests import programs


@pytest.mark.parametrize(
    ("master", "own", "expected"),
    [("local[2]", None, "127.0.0.1"), ("local[2]", "10.0.0.1", "10.0.0.1"), ("spark://host:7077", None, None)],
)
def test_a_local_spark_uses_loopback_unless_told_otherwise(
    home: Path, monkeypatch: pytest.MonkeyPatch, master: str, own: str | None, expected: str | None
) -> None:
    programs.java()
    monkeypatch.setenv("MILLRACE_SPARK_MASTER", master)
    monkeypatch.delenv("SPARK_LOCAL_IP", raising=False)
    if own:
        monkeypatch.setenv("SPARK_LOCAL_IP", own)
    assert server.environment().get("SPARK_LOCAL_IP") == expected
