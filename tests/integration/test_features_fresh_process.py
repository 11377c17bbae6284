"""Feast in other processes: any working directory, a real kill, and a reader that lives through a materialization."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from features import registry
from features.online import backends, materialize, sqlite
from lake import release, settings
from tests import patience
from tests.unit.features.conftest import VIEWS, Lake, activity, cinema, pair  # noqa: F401 (a fixture)
from tests.unit.features.conftest import lake as lake

READ = f"""
import json, sys
from feast import FeatureStore
store = FeatureStore({str(settings.CHECKOUT / "features" / "feast_repo")!r})
features = ["guest_activity:paid_7d", "guest_recency:days_since_last_booking"]
features.append("guest_movie_decay:faded_visits")
for line in sys.stdin:
    answer = store.get_online_features(features, [{{"guest_id": int(line), "movie_id": 1}}])
    print(json.dumps(answer.to_dict()["paid_7d"]), flush=True)
"""
DIE = """
import os
from lake import release
from features.online.materialize import materialize
materialize(release.read(), lambda view, rows: os._exit(9) if view == "guest_movie" else None)
"""
FORK = """
import os, signal, sys
from lake import release
from features.lake_reader import LakeReader
assert LakeReader(release.read(), shared=True).columns("gold.guest_activity")
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
signal.alarm(10)
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(settings.CHECKOUT)}


def test_a_reader_elsewhere_lives_through_a_materialization(cinema: Lake, tmp_path: Path) -> None:  # noqa: F811
    materialize.materialize(release.read())
    with subprocess.Popen(
        [sys.executable, "-c", READ],
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdin
        assert reader.stdout

        def ask(guest: int) -> list[float | None]:
            print(guest, file=reader.stdin, flush=True)
            answer: list[float | None] = json.loads(reader.stdout.readline())
            return answer

        assert ask(2) == [7.77]
        cinema.write("guest_activity", [activity(2, "2017-01-05", "8.00")])
        cinema.release(*VIEWS)
        materialize.materialize(release.read())
        assert ask(2) == [8.0]
        assert ask(1) == [None]
        reader.stdin.close()
        assert reader.wait() == 0


def test_a_killed_materialization_leaves_the_former_generation(cinema: Lake) -> None:  # noqa: F811
    materialize.materialize(release.read())
    before = backends.current()
    cinema.write("guest_activity", [activity(2, "2017-01-05", "8.00")])
    cinema.write("guest_movie", [pair(1, 3, "2017-01-06", 3)])
    cinema.release(*VIEWS)
    assert subprocess.run([sys.executable, "-c", DIE], env=environment(), check=False).returncode == 9
    assert len(list(sqlite.folder().glob("*.sqlite"))) == 2
    assert backends.current() == before
    materialize.materialize(release.read())
    served = registry.open_store().get_online_features(["guest_activity:paid_7d"], [{"guest_id": 2}]).to_dict()
    assert served["paid_7d"] == [8.0]
    assert len(list(sqlite.folder().glob("*.sqlite"))) == 2


def test_the_feast_command_line_works(cinema: Lake) -> None:  # noqa: F811
    registry.apply()
    feast = Path(sys.executable).with_name("feast")
    if not feast.exists():
        pytest.skip("the feast command is not installed beside this Python")
    done = subprocess.run(
        [feast, "-c", "features/feast_repo", "apply"],
        cwd=settings.CHECKOUT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_forked_child_ends_like_anybody(cinema: Lake) -> None:  # noqa: F811
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], env=environment(), check=False, timeout=patience.SECONDS
    )
    assert done.returncode == 0
