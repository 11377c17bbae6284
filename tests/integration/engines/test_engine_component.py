"""Spark as the component `engine`, which a container with a GPU runs."""

from pathlib import Path

import psutil
import pytest

from etl import engine
from etl.spark import jars
from tests import programs
from tests.components import Stack


@pytest.mark.slow
def test_spark_is_the_engine_where_the_setting_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.java()
    variables = {"MILLRACE_ENGINE": "spark", "MILLRACE_JARS": str(jars.folder()), "MILLRACE_SPARK_MEMORY": "1g"}
    with Stack(tmp_path, variables) as stack:
        component = stack.start("engine")
        monkeypatch.setenv("MILLRACE_ENGINE", component.engine_url)
        assert engine.describe()[0] == "spark"
        assert engine.session().range(3).count() == 3
        engine.session().stop()
        family = psutil.Process(component.process.pid).children(recursive=True)
        assert component.end() == 0
        assert not [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
