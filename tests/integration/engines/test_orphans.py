"""A client is killed while its statement is at work on a Spark server, which goes on with it. Whichever comes first,
that statement or the rerun: each row is there once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from etl import engine
from etl.commits import committer
from lake import delta, publishing, settings
from lake.delta import CommitMetadata
from lake.publishing import PublishError
from tests.landing import rows
from tests.patience import until
from tests.unit.etl.visits import VISITS, staged, visit

NAME = VISITS.qualified
TICKS = 3000
"""The statement works until it is let go, and gives up after so many tenths of a second."""
CLIENT = f"""
import sys
from pyspark.sql import functions as F
from etl.commits import committer, delta_spark
from lake.delta import CommitMetadata
from tests.unit.etl.visits import VISITS, staged, visit
base, name = int(sys.argv[1]), sys.argv[2]
original = delta_spark._rows
begun = f"reflect('java.lang.System', 'setProperty', 'begun-{{name}}', '1')"
let_go = f"nullif(reflect('java.lang.System', 'getProperty', 'go-{{name}}'), 'null')"
waits = f"coalesce({{let_go}}, reflect('java.lang.Thread', 'sleep', 100L))"

def rows(*arguments):
    columns = original(*arguments).columns
    ticks = original(*arguments).withColumn("tick", F.explode(F.sequence(F.lit(0), F.lit({TICKS}))))
    return ticks.filter(f"length(concat({{begun}}, {{waits}})) > 0 AND tick = {TICKS}").select(*columns)

delta_spark._rows = rows
committer().publish(VISITS, [staged(visit(2), name="orphan")], CommitMetadata("killed"), base=base)
"""


def files() -> set[Path]:
    """The data files that are written to their end, committed or not."""
    return {path for path in settings.table_path(NAME).glob("*.parquet") if path.read_bytes()[-4:] == b"PAR1"}


def property_of_the_server(url: str, expression: str) -> str:
    """What Java says in the process that the statement runs in: the way to know that it has begun, and to let it go."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_ENGINE", url)
        ((value,),) = engine.session().sql(f"SELECT reflect('java.lang.System', {expression})").collect()
    return str(value)


@dataclass
class Orphan:
    """A statement that a killed client left at work."""

    url: str
    name: str

    def let_go(self) -> None:
        """Let it go on to its commit."""
        property_of_the_server(self.url, f"'setProperty', 'go-{self.name}', '1'")


@pytest.fixture
def orphan(spark_url: str, home: Path) -> Iterator[Orphan]:
    """Start a client, and kill it when its statement is at work on the server."""
    found = Orphan(spark_url, uuid.uuid4().hex)
    command = [sys.executable, "-W", "ignore", "-c", CLIENT, "1", found.name]
    client = subprocess.Popen(command, cwd=settings.CHECKOUT, env={**os.environ, "PYTHONPATH": "."})
    try:
        until(
            lambda: (
                property_of_the_server(spark_url, f"'getProperty', 'begun-{found.name}'") == "1"
                or client.poll() is not None
            ),
            "the statement did not begin",
        )
        assert client.poll() is None, "the client ended before its statement began"
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    assert delta.version_of(NAME) == 1, "the statement had ended before the kill"
    yield found
    found.let_go()


def again(base: int, run: str = "again") -> int:
    """What a rerun does."""
    return committer().publish(VISITS, [staged(visit(2), name=run)], CommitMetadata(run), base=base)


def found() -> list[int]:
    return [row["visit_id"] for row in rows(NAME, "visit_id")]


def runs() -> list[str]:
    table = delta.open_to_write(NAME)
    return [state.run_id for state in delta.commit_history(table) if state] if table else []


@pytest.fixture(autouse=True)
def first(home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with a row, and a Spark whose session is open."""
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    committer().publish(VISITS, [staged(visit(1))], CommitMetadata("first"), base=None)


@pytest.mark.parametrize("engine_name", [pytest.param("spark", marks=pytest.mark.slow), "sail"])
def test_a_rerun_that_is_quicker_than_what_a_killed_client_left(
    orphan: Orphan, engine_name: str, monkeypatch: pytest.MonkeyPatch, spark_url: str
) -> None:
    before = files()
    monkeypatch.setenv("MILLRACE_ENGINE", "sail" if engine_name == "sail" else spark_url)
    assert again(1) == 2
    orphan.let_go()
    until(lambda: len(files() - before) > 1, "the orphaned statement wrote nothing: it was ended with its client")
    time.sleep(3)  # the time to commit: that it does not is what is shown, so there is nothing to wait for
    assert (found(), runs()) == ([1, 2], ["again", "first"])
    assert committer().publish(VISITS, [staged(visit(3))], CommitMetadata("next"), base=2) == 3
    assert found() == [1, 2, 3]


def overtaken(orphan: Orphan, original: Callable[..., Any]) -> Callable[..., Any]:
    """`original`, and then the orphaned statement is let go and commits."""

    def late(*arguments: Any) -> Any:
        done = original(*arguments)
        orphan.let_go()
        until(lambda: delta.version_of(NAME) == 2, "the orphaned statement did not commit")
        return done

    return late


@pytest.mark.parametrize("engine_name", [pytest.param("spark", marks=pytest.mark.slow), "sail"])
def test_what_a_killed_client_left_is_quicker_than_the_rerun(
    orphan: Orphan, engine_name: str, monkeypatch: pytest.MonkeyPatch, spark_url: str
) -> None:
    """It commits after the rerun has looked which version is the newest, at the last moment: below the check, above the
    statement.
    """
    monkeypatch.setenv("MILLRACE_ENGINE", "sail" if engine_name == "sail" else spark_url)
    original = publishing._move_into_table if engine_name == "sail" else publishing.open_at
    told = (
        "another writer committed at the same time"
        if engine_name == "sail"
        else r"version 2 was to be written, and it is another's: a client that was killed"
    )
    with monkeypatch.context() as patch:
        patch.setattr(publishing, original.__name__, overtaken(orphan, original))
        with pytest.raises(
            PublishError, match=rf"^silver\.visits: {told}.*Nothing.* was written; run the interval again$"
        ):
            again(1)
    assert (found(), runs()) == ([1, 2], ["killed", "first"])
    with pytest.raises(PublishError, match="the table moved from version 1 to 2"):
        again(1)
    assert found() == [1, 2]


def test_a_rerun_under_the_same_name_is_not_taken_for_what_was_left(
    orphan: Orphan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow tries a task again under the same run id, with the same state."""
    monkeypatch.setattr(publishing, "open_at", overtaken(orphan, publishing.open_at))
    with pytest.raises(PublishError, match="it is another's"):
        again(1, run="killed")
    assert found() == [1, 2]
