"""A training set of a small cinema comes again byte for byte after all that can befall a lake, and a vacuum spares what
it needs, unless it is told not to.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from features import training
from features.training import sets
from lake import delta, manifest, release, settings
from millrace import cli, maintenance, pipeline
from tests.cinema import Cinema, ticket
from tests.conftest import copy_home, set_home

Out = pytest.CaptureFixture[str]
NOW = timedelta(0)
LABELS = """
    SELECT guest_id, movie_id, event_timestamp, visits_90d > 0 AS bought FROM gold.guest_movie
    UNION ALL SELECT 99, 1, TIMESTAMP '2017-03-03', false ORDER BY ALL"""
SERVICE = "suggestion_v1"
GOLD = "gold.guest_activity"


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two days, and the training set `kept` of what was known after them. Copy it, do not write to it."""
    path = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        set_home(path, patch)
        cinema = Cinema.open(path / "landing")
        cinema.land(
            "tickets",
            [ticket(3, at="2017-03-02 09:00"), ticket(4, movie=2, guest=2, at="2017-03-02 10:00")],
            "2017-03-02",
        )
        pipeline.run_all("2017-03-01", "2017-03-03", "first")
        training.create(LABELS, SERVICE, "kept", seed=1)
    return path


@pytest.fixture(scope="module")
def later_days(two_days: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with later days, a late file and a correction. Copy it, do not write to it."""
    path = tmp_path_factory.mktemp("later")
    with pytest.MonkeyPatch.context() as patch:
        set_home(path, patch)
        cinema = copy_home(two_days, path)
        cinema.land("tickets", [ticket(5, at="2017-03-03 08:00")], "2017-03-03")
        pipeline.run_all("2017-03-03", "2017-03-04", "second")
        cinema.land("tickets", [ticket(6, at="2017-03-01 20:00")], "2017-03-02", "late")
        answers = {"tier": "Gold", "party_size": "1", "children": "0"}
        cinema.land("members", [{"card_id": 1, "age_band": "65+", **answers}], name="corrected", suffix=".csv")
        pipeline.run_all("2017-03-01", "2017-03-04", "third")
    return path


@pytest.fixture
def lake(home: Path, two_days: Path) -> Cinema:
    """Two days and the training set, for the test to change."""
    return copy_home(two_days, home)


@pytest.fixture
def went_on(home: Path, later_days: Path) -> Cinema:
    """The later days too, for the test to change."""
    return copy_home(later_days, home)


def file() -> bytes:
    return (manifest.table_path("kept") / sets.FILE).read_bytes()


def tidy(**options: object) -> int:
    """Vacuum everything at once, as no command would; how many files went."""
    return sum(maintenance.vacuum(name, NOW, delete=True, **options).gone for name in maintenance.published_tables())  # type: ignore[arg-type]


def test_after_later_days_late_files_corrections_and_tidying_it_is_the_same(
    went_on: Cinema, two_days: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as as_it_was:
        as_it_was.setenv("MILLRACE_HOME", str(two_days))
        before, then = file(), training.read("kept")
    for name in maintenance.published_tables():
        maintenance.optimize(name)
    tidy()
    training.create(LABELS, SERVICE, "now")
    assert training.read("now")["paid_7d"] != then["paid_7d"]
    assert training.read("now")["age_band"] != then["age_band"]
    for kept in (manifest.table_path("kept"), release.folder()):
        for path in kept.rglob("*"):
            path.unlink() if path.is_file() else None
    done = training.rebuild("kept")
    assert (done.same_file, done.restored) == (True, True)
    assert file() == before
    assert training.read("kept") == then == done.data


def test_without_the_manifest_the_vacuum_would_have_taken_them(went_on: Cinema) -> None:
    """Were the versions spared for another reason, the test above would hold without a manifest."""
    for number in release.numbers()[:-1]:
        (release.folder() / f"{number}.json").unlink()
    needed = {version for table, _, version in manifest.read("kept").versions if table == GOLD}
    assert needed < {*maintenance.pinned_versions(GOLD)}
    tidy()
    assert training.rebuild("kept").same_file
    assert needed.isdisjoint(maintenance.pinned_versions(GOLD, forgotten=["kept"]))
    assert tidy(forgotten=["kept"]) > 0
    with pytest.raises(
        training.VersionGoneError,
        match=r"^training set kept needs version \d of gold\.\w+, which is gone: .* by the vacuum that made version",
    ):
        training.rebuild("kept")
    assert training.read("kept").num_rows == manifest.read("kept").rows


def test_a_release_of_the_time_of_the_labels_makes_no_difference_to_event_time(went_on: Cinema) -> None:
    found = training.check_leaks("kept")
    assert {feature.future for feature in found.features} == {0}
    assert found.unheard == found.rows
    assert found.sentences[0].startswith(f"{found.rows} of {found.rows} labels lie before the first release")


# --- the commands


def told(capsys: Out, *arguments: str, rc: int = 0) -> str:
    """What a command printed, errors where it failed."""
    assert cli.main([*arguments]) == rc
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    return err if rc else out


def test_vacuum_lets_old_releases_go_and_training_sets_only_by_name(
    went_on: Cinema, capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_age", lambda _: NOW)
    assert "there is no release 9" in told(capsys, "vacuum", "--forget-releases-before", "9", "--delete", rc=1)
    assert "there is no training set kapt. Did you mean kept?" in told(
        capsys, "vacuum", "--forget-training-set", "kapt", rc=1
    )
    newest = release.read().number
    foretold = told(capsys, "vacuum", "--forget-releases-before", str(newest)).splitlines()[-1]
    assert release.numbers() == [*range(1, newest + 1)]
    removed = told(capsys, "vacuum", "--forget-releases-before", str(newest), "--delete")
    assert removed.startswith(f"Releases removed: {', '.join(map(str, range(1, newest)))}\n")
    assert release.numbers() == [newest]
    assert foretold.split()[0] == removed.splitlines()[-1].split()[0] != "0"
    assert training.rebuild("kept").same_file
    assert not told(capsys, "vacuum", "--days", "1", "--forget-training-set", "kept", "--delete").endswith(
        "\n0 files deleted\n"
    )
    assert "VersionGoneError: training set kept needs version" in told(capsys, "training-set", "rebuild", "kept", rc=1)


def test_create_list_show_rebuild_and_leaks(lake: Cinema, capsys: Out) -> None:
    made = told(
        capsys,
        "training-set",
        "create",
        "--name",
        "cli",
        "--labels",
        LABELS,
        "--service",
        SERVICE,
        "--knowledge-time",
        "--seed",
        "3",
    )
    assert made.endswith(f"Training set cli: {manifest.read('cli').rows} rows at {manifest.table_path('cli')}\n")
    listed = [line.split() for line in told(capsys, "training-set", "list").splitlines() if line.strip()]
    assert [line[0] for line in listed[-2:]] == ["cli", "kept"]
    assert "each label's own, up to 1" in told(capsys, "training-set", "show", "cli")
    assert json.loads(told(capsys, "training-set", "show", "cli", "--json"))["seed"] == 3
    assert told(capsys, "training-set", "rebuild", "kept", "--check").endswith(
        "the same values as when it was made, and the same file byte for byte\n"
    )
    assert told(capsys, "training-set", "leaks", "cli").endswith("Every value was known at label time.\n")
    leaks = json.loads(told(capsys, "training-set", "leaks", "kept", "--json"))
    assert (leaks["found"], leaks["unheard"]) == (True, leaks["rows"])
    (manifest.table_path("kept") / sets.FILE).unlink()
    assert "was lost or altered: rebuild it without --check" in told(
        capsys, "training-set", "rebuild", "kept", "--check"
    )
    assert told(capsys, "training-set", "rebuild", "kept").endswith("was put back\n")
    assert delta.version_of(GOLD) == release.read().tables[GOLD]


def test_what_cannot_be_made_is_a_sentence(lake: Cinema, capsys: Out) -> None:
    create = ("training-set", "create", "--name", "bad", "--service", SERVICE, "--labels")
    assert told(capsys, *create, "nowhere.parquet", rc=1).startswith("LabelError: there is no file nowhere.parquet")
    assert (
        told(capsys, *create, LABELS, "--release", "5", rc=1) == "ReleaseError: there is no release 5. Known: 1 to 1\n"
    )
    assert (
        told(capsys, "training-set", "show", "bad", rc=1)
        == "ManifestError: there is no training set bad. There are: kept\n"
    )
    assert not Path(settings.lake() / "training" / "bad").exists()


def test_the_dag_makes_one_and_checks_it(lake: Cinema, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(lake.root.parent / "airflow"))
    from types import SimpleNamespace

    from airflow.sdk.exceptions import AirflowFailException

    from millrace import tasks

    params = {
        "name": "by_dag",
        "labels": LABELS,
        "service": SERVICE,
        "release": None,
        "knowledge_time": False,
        "seed": 5,
    }
    made = tasks.create_training_set(params, SimpleNamespace(conf=params))
    assert json.loads(json.dumps(made))["seed"] == 5
    assert tasks.check_leaks(made["name"])["rows"] == made["rows"]
    assert "labels lie before the first release" in capsys.readouterr().out
    with pytest.raises(
        AirflowFailException, match=r"^unknown param servce\. This DAG takes name, labels, .*Did you mean service\?$"
    ):
        tasks.create_training_set(params, SimpleNamespace(conf={"servce": "x"}))
    (lake.root.parent / "labels.csv").write_text("guest_id,movie_id,event_timestamp\n1,1,2017-03-02\n")
    outside = params | {"name": "outside", "labels": str(lake.root.parent / "labels.csv")}
    with pytest.raises(
        AirflowFailException, match=r"^labels are '.*labels\.csv', and there is no such file in the folder of labels"
    ):
        tasks.create_training_set(outside, SimpleNamespace(conf=outside))
    settings.labels().mkdir()
    (lake.root.parent / "labels.csv").rename(settings.labels() / "labels.csv")
    assert tasks.create_training_set(outside | {"labels": "labels.csv"}, SimpleNamespace(conf=outside))["rows"] == 1
