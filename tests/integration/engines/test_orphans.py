"""A client is killed while its statement is at work on a Spark server, which goes on with it. Whichever comes first, that statement or the rerun: each row is there once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from contracts import settings
from etl import delta, publishing
from etl.commits import committer
from etl.delta import State
from etl.publishing import PublishError
from tests.landing import rows
from tests.unit.etl.visits import VISITS, staged, visit

NAME = VISITS.qualified
SECONDS = 6
"""How long the statement works, once it has begun."""
CLIENT = f"""
import sys
from etl.commits import committer, delta_spark
from etl.delta import State
from tests.unit.etl.visits import VISITS, staged, visit
base = int(sys.argv[1])
original = delta_spark._rows
slow = "length(concat(reflect('java.lang.Thread', 'sleep', {SECONDS * 1000}L), '.')) > 0"  # one row, one sleep

def rows(*arguments):
    print("begins", flush=True)
    return original(*arguments).filter(slow)

delta_spark._rows = rows
committer().publish(VISITS, [staged(visit(2), name="orphan")], State("killed"), base=base)
"""


def files() -> set[Path]:
    """The data files that are written to their end, committed or not."""
    return {path for path in settings.table_path(NAME).glob("*.parquet") if path.read_bytes()[-4:] == b"PAR1"}


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def kill_while_it_writes(base: int) -> None:
    """Start the client, and kill it when its statement is on the server."""
    command = [sys.executable, "-W", "ignore", "-c", CLIENT, str(base)]
    client = subprocess.Popen(command, cwd=settings.CHECKOUT, env={**os.environ, "PYTHONPATH": "."}, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == "begins\n"
        time.sleep(SECONDS / 2)
        assert client.poll() is None, "the statement ended before the kill"
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait()
    assert delta.version_of(NAME) == base, "the statement had ended before the kill"


def again(base: int, run: str = "again") -> int:
    """What a rerun does."""
    return committer().publish(VISITS, [staged(visit(2), name=run)], State(run), base=base)


def found() -> list[int]:
    return [row["visit_id"] for row in rows(NAME, "visit_id")]


def runs() -> list[str]:
    table = delta.open_to_write(NAME)
    return [state.run_id for state in delta.states(table) if state] if table else []


@pytest.fixture(autouse=True)
def first(home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table with a row, and a Spark whose session is open."""
    monkeypatch.setenv("MILLRACE_ENGINE", spark_url)
    committer().publish(VISITS, [staged(visit(1))], State("first"), base=None)
    return


def ended(before: set[Path], others: int) -> None:
    """Wait until the orphaned statement has written its file beside `others` of the rerun, and has had the time to commit it."""
    until(lambda: len(files() - before) > others, "the orphaned statement wrote nothing: it was ended with its client")
    time.sleep(3)


@pytest.mark.parametrize("engine", ["spark", "sail"])
def test_a_rerun_that_is_quicker_than_what_a_killed_client_left(engine: str, monkeypatch: pytest.MonkeyPatch, spark_url: str) -> None:
    before = files()
    kill_while_it_writes(1)
    monkeypatch.setenv("MILLRACE_ENGINE", "sail" if engine == "sail" else spark_url)
    assert again(1) == 2
    ended(before, 1)
    assert (found(), runs()) == ([1, 2], ["again", "first"])
    assert committer().publish(VISITS, [staged(visit(3))], State("next"), base=2) == 3
    assert found() == [1, 2, 3]


@pytest.mark.parametrize("engine", ["spark", "sail"])
def test_what_a_killed_client_left_is_quicker_than_the_rerun(engine: str, monkeypatch: pytest.MonkeyPatch, spark_url: str) -> None:
    """It commits after the rerun has looked which version is the newest, at the last moment: below the check, above the statement."""
    kill_while_it_writes(1)
    monkeypatch.setenv("MILLRACE_ENGINE", "sail" if engine == "sail" else spark_url)
    original = publishing._move_under if engine == "sail" else publishing.open_at

    def late(*arguments: Any) -> Any:
        done = original(*arguments)
        until(lambda: delta.version_of(NAME) == 2, "the orphaned statement did not commit")
        return done

    told = "another writer committed at the same time" if engine == "sail" else r"version 2 was to be written, and it is another's: a client that was killed"
    with monkeypatch.context() as patch:
        patch.setattr(publishing, original.__name__, late)
        with pytest.raises(PublishError, match=rf"^silver\.visits: {told}.*Nothing.* was written; run the interval again$"):
            again(1)
    assert (found(), runs()) == ([1, 2], ["killed", "first"])
    with pytest.raises(PublishError, match="the table moved from version 1 to 2"):
        again(1)
    assert found() == [1, 2]


def test_a_rerun_under_the_same_name_is_not_taken_for_what_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow tries a task again under the same run id, with the same state."""
    kill_while_it_writes(1)
    original = publishing.open_at

    def late(*arguments: Any) -> Any:
        done = original(*arguments)
        until(lambda: delta.version_of(NAME) == 2, "the orphaned statement did not commit")
        return done

    monkeypatch.setattr(publishing, "open_at", late)
    with pytest.raises(PublishError, match="it is another's"):
        again(1, run="killed")
    assert found() == [1, 2]
