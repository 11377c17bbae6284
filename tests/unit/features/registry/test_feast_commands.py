"""The plain `feast` commands, as a user runs them in the repository: each does something sensible with our stores, or
says why not.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable
from feast import BatchFeatureView, Entity, FeatureStore, FeatureView, Field, FileSource, PushSource
from feast.types import Int64
from feast.value_type import ValueType

from contracts.project import current
from features import lake_reader, registry
from features.online import backends, consistency, materialize
from features.online.materialize import NothingToServeError
from features.registry import DefinitionError
from features.source import GoldTable
from lake import release, settings
from lake.files import locked
from tests.unit.features.conftest import VIEWS, Lake, activity, at

COMMANDS = """
import json, os, sys, traceback
import feast.cli.cli, features.provider, features.offline.store
for arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            feast.cli.cli.cli(arguments, prog_name="feast")
        except SystemExit as done:
            code = done.code or 0
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(code)
    print(f"== {arguments[0]} {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", flush=True)
"""
"""Each command is a process of its own; they share the import of Feast, which takes longer than all of them."""


def feast(*commands: str) -> dict[str, tuple[int, str]]:
    """Exit status and output of each command, run one after the other in the repository."""
    arguments = [sys.executable, "-W", "ignore", "-c", COMMANDS, json.dumps([command.split() for command in commands])]
    output = subprocess.run(arguments, cwd=registry.REPO, capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^== .* (\d+)\n", output, flags=re.MULTILINE)
    return {command: (int(parts[2 * at + 1]), parts[2 * at]) for at, command in enumerate(commands)}


def spend(guest: int) -> float | None:
    answer = registry.open_store().get_online_features(["guest_activity:paid_7d"], [{"guest_id": guest}]).to_dict()
    return answer["paid_7d"][0]


def test_plan_apply_and_materialize(cinema: Lake) -> None:
    """With data of 2017, of which Feast's own `materialize-incremental` loads nothing: it begins a year ago."""
    registry.apply()
    before = registry.open_store().registry.list_projects()
    output = feast("plan", "apply", "materialize-incremental 2026-01-01T00:00:00")
    assert [status for status, _ in output.values()] == [0, 0, 0]
    assert "No changes to registry" in output["plan"][1]
    assert "guest_movie: 3 rows of release 1 (3 loaded)" in output["materialize-incremental 2026-01-01T00:00:00"][1]
    [project], [applied] = before, registry.open_store().registry.list_projects()
    assert (
        (applied.description, applied.tags)
        == (project.description, project.tags)
        == ("Features of the Millrace lake", {"definitions": registry.fingerprint(), "project": current().name})
    )
    assert not registry.apply()
    served = backends.metadata()
    assert served is not None
    assert (served.release, served.horizon, served.pushed) == (1, "2017-02-01", False)
    assert (spend(2), consistency.online(sample=None).wrong) == (7.77, 0)


def test_apply_without_a_registry_says_what_to_run(lake: Lake) -> None:
    [(status, output)] = feast("apply").values()
    assert status != 0
    assert "there is no feature registry" in output
    assert "features.registry.apply()" in output


def test_a_killed_materialize_changes_nothing(cinema: Lake) -> None:
    materialize.materialize(release.read())
    registry.open_store().materialize(at("2016-01-01"), at("2017-02-01"))
    cinema.write("guest_activity", [activity(2, "2017-01-05", "8.00")])
    cinema.release(*VIEWS)
    feast_folder = settings.home() / "feast"
    arguments = [
        str(Path(sys.executable).with_name("feast")),
        "materialize",
        "2016-01-01T00:00:00",
        "2017-02-01T00:00:00",
    ]
    with (
        locked(feast_folder / ".materialize.lock"),
        locked(feast_folder / ".online.lock"),
    ):  # it cannot end before it is killed
        killed = subprocess.Popen(
            arguments, cwd=registry.REPO, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert killed.stdout is not None
        assert any(b"guest_activity" in line for line in killed.stdout)
        time.sleep(1)
        killed.kill()
        killed.wait()
        killed.stdout.close()
    assert (spend(2), consistency.online().wrong) == (7.77, 0)
    materialize.materialize(release.read())
    assert (spend(2), spend(1)) == (8.0, None)


def test_materialize_serves_the_release_as_of_its_end(cinema: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    with pytest.raises(
        NothingToServeError,
        match=r"no feature row that was known at 2016-12-31T00:00 UTC.* The first is of 2017-01-01T00:00 UTC",
    ):
        store.materialize(at("2016-01-01"), at("2016-12-31 23:00"))
    assert backends.current() is None
    store.materialize(at("2016-01-01"), at("2017-01-08 12:00"))
    assert (spend(1), spend(2)) == (10.0, 7.77)
    store.materialize_incremental(at("2026-01-01"))
    assert spend(1) == 0.05
    newest = backends.current()
    store.materialize(at("2016-01-01"), at("2017-01-08"))  # a later day is online, and stays
    assert (spend(1), backends.current()) == (0.05, newest)


def test_materialize_loads_what_came_late(cinema: Lake) -> None:
    """A row of the past lands after its interval was materialized: Feast's own would never load it."""
    materialize.materialize(release.read())
    store = registry.open_store()
    store.materialize_incremental(at("2017-02-01"))
    cinema.write("guest_activity", [activity(2, "2017-01-05", "8.00"), activity(3, "2017-01-03", "3.00")])
    cinema.release(*VIEWS)
    store.materialize_incremental(at("2017-02-01"))
    assert (spend(2), spend(3)) == (8.0, 3.0)


def test_one_view_brings_all_of_them(cinema: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    store.materialize(at("2016-01-01"), at("2018-01-01"), feature_views=["movie_demand"])
    assert spend(2) == 7.77


def test_materialize_after_the_definitions_changed_keeps_both(cinema: Lake) -> None:
    """Feast writes its own copy of the registry after a load, which may be older than what was applied meanwhile."""
    registry.apply()
    store = registry.open_store()
    [project] = store.registry.list_projects()
    project.tags = {}
    store.registry.apply_project(project)
    store.materialize(at("2016-01-01"), at("2018-01-01"))
    assert not registry.apply()
    assert registry.open_store().get_feature_view("guest_activity").materialization_intervals == [
        (at("2016-01-01"), at("2018-01-01"))
    ]


def view(name: str, source: object, kind: type[FeatureView] = FeatureView) -> FeatureView:
    guest = Entity(name="guest_id", join_keys=["guest_id"], value_type=ValueType.INT64)
    return kind(
        name=name,
        entities=[guest],
        schema=[Field(name="n", dtype=Int64), Field(name="guest_id", dtype=Int64)],
        source=source,
    )


@pytest.mark.parametrize("kind", [FeatureView, BatchFeatureView])
def test_a_view_that_cannot_be_trained_on_is_refused_at_apply(cinema: Lake, kind: type[FeatureView]) -> None:
    materialize.materialize(release.read())
    store, before = registry.open_store(), registry.path().read_bytes()
    files = FileSource(name="files", path=str(settings.home() / "rows.parquet"), timestamp_field="event_timestamp")
    with pytest.raises(
        DefinitionError, match=r"feature view scores reads a FileSource.* GoldTable\(table='gold.<name>'\)"
    ):
        store.apply(
            [view("scores", files, kind)], objects_to_delete=[store.get_feature_view("guest_profile")], partial=False
        )
    assert registry.path().read_bytes() == before
    assert registry.open_store().get_online_features(["guest_profile:age_band"], [{"guest_id": 1}]).to_dict()[
        "age_band"
    ] == ["25-34"]
    with pytest.raises(DefinitionError, match="feature view scores reads a FileSource"):
        store.registry.apply_feature_view(view("scores", files, kind), store.project)
    assert registry.path().read_bytes() == before
    store.registry.apply_feature_view(
        view("pushed", PushSource(name="push", batch_source=GoldTable(table="gold.guest_activity"))), store.project
    )
    assert isinstance(store, FeatureStore)


def test_another_view_of_a_released_table_comes_online_with_the_next_load(cinema: Lake) -> None:
    """The release and the definitions in the code are the same, and yet there is work."""
    materialize.materialize(release.read())
    store = registry.open_store()
    mine = view("mine", GoldTable(table="gold.guest_activity", name="mine", field_mapping={"seats_7d": "n"}))
    store.apply([mine])
    reports = {report.view: report for report in materialize.materialize(lake_reader.pinned()).views}
    assert reports["mine"].rows == 2
    assert registry.open_store().get_online_features(["mine:n"], [{"guest_id": 2}]).to_dict()["n"] == [1]
    assert DeltaTable(str(settings.table_path("gold.guest_activity"))).version() == 0
