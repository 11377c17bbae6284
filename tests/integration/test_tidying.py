"""`optimize` and `vacuum` on a published lake: what a release pins stays readable, no row changes, and nothing is
computed anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts import catalog
from contracts.model import Layer
from etl.transforms import StageError
from features.lake_reader import LakeReader
from lake import delta, release, settings
from millrace import cli, maintenance, pipeline
from tests.cinema import Cinema, ticket
from tests.conftest import copy_home, set_home
from tests.landing import rows, versions

Out = pytest.CaptureFixture[str]
NOW = timedelta(0)
TABLE = "silver.tickets"


@pytest.fixture(scope="module")
def three_releases(published_cinema_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three runs and three releases, each of which replaced what the one before had published. Copy it, do
    not write to it.
    """
    path = tmp_path_factory.mktemp("three")
    with pytest.MonkeyPatch.context() as patch:
        set_home(path, patch)
        cinema = copy_home(published_cinema_home, path)
        cinema.land("tickets", [ticket(3), ticket(4, at="2017-03-02 09:00")], "2017-03-02")
        cinema.land(
            "movies",
            [{"movie_id": 7, "studio_id": 5, "genre": "DRAMA", "length": "Feature"}],
            "2017-03-02",
        )
        pipeline.run_all("2017-03-01", "2017-03-03", "second")
        cinema.land("tickets", [ticket(5)], "2017-03-03")
        pipeline.run_all("2017-03-01", "2017-03-04", "third")
        assert release.numbers() == [1, 2, 3]
    return path


@pytest.fixture
def lake(home: Path, three_releases: Path) -> Cinema:
    """A copy of it that the test may change."""
    return copy_home(three_releases, home)


def pinned() -> dict[tuple[int, str], list[dict[str, Any]]]:
    """All rows of all tables of all releases."""
    return {
        (number, name): rows(name, version=version)
        for number in release.numbers()
        for name, version in release.read(number).tables.items()
    }


def published() -> dict[str, list[dict[str, Any]]]:
    return {table.qualified: rows(table.qualified) for table in catalog.tables()}


def on_disk(name: str) -> int:
    return len([*settings.table_path(name).glob("*.parquet")])


def files(name: str) -> int:
    return len(delta.data_files(delta.open_to_write(name)))


def test_what_releases_pin_stays_readable_after_both(lake: Cinema, capsys: Out) -> None:
    before, rows_before = pinned(), published()
    assert cli.main(["optimize"]) == 0
    assert files("bronze.tickets") == 1
    for name in maintenance.published_tables():
        maintenance.vacuum(name, NOW, delete=True)
    assert pinned() == before
    assert published() == rows_before
    reader = LakeReader(release.read(1))
    assert reader.connection.sql(f"SELECT count(*) FROM {reader.table(TABLE)}").fetchall() == [(2,)]


def test_versions_that_no_release_pins_go(lake: Cinema) -> None:
    """Were every version pinned, the test above would hold for a vacuum that does nothing."""
    for number in (1, 2):
        (release.folder() / f"{number}.json").unlink()
    before, disk = pinned(), on_disk(TABLE)
    found = maintenance.vacuum(TABLE, NOW, delete=True)
    assert (found.gone, found.pinned) == (disk - files(TABLE), (release.read(3).tables[TABLE],))
    assert found.gone > 0
    assert pinned() == before
    assert maintenance.vacuum(TABLE, NOW, delete=True).gone == 0
    assert delta.version_of(TABLE) == found.version
    with pytest.raises(Exception, match=r"No files found|No such file"):
        rows(TABLE, version=1)


def test_a_release_of_a_table_that_was_removed_pins_nothing(lake: Cinema) -> None:
    identity = delta.id_of(TABLE)
    assert release.pinned_versions(TABLE, identity) == sorted(
        {release.read(number).tables[TABLE] for number in (1, 2, 3)}
    )
    assert release.pinned_versions(TABLE, "another") == []
    assert release.pinned_versions("bronze.tickets", delta.id_of("bronze.tickets")) == []


def test_nothing_is_out_of_date_after_both(lake: Cinema, run: Callable) -> None:
    for name in maintenance.published_tables():
        maintenance.optimize(name)
        maintenance.vacuum(name, NOW, delete=True)
    assert {report.status for report in run("2017-03-01", "2017-03-04").values()} == {"unchanged"}
    for name in maintenance.published_tables():
        (settings.table_path(name) / "part-of-a-kill.parquet").write_bytes(b"left")
        maintenance.vacuum(name, NOW, delete=True)
    assert {report.status for report in run("2017-03-01", "2017-03-04").values()} == {"unchanged"}


def test_what_comes_after_both_is_what_would_have_come(
    lake: Cinema, run: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in maintenance.published_tables():
        maintenance.optimize(name)
        maintenance.vacuum(name, NOW, delete=True)
    lake.land("tickets", [ticket(6, at="2017-03-01 20:00"), ticket(1, seats=4)], "2017-03-04", "late")
    run("2017-03-01", "2017-03-05")
    tidy = published()
    monkeypatch.setenv("MILLRACE_LAKE", str(lake.root.parent / "other"))
    run("2017-03-01", "2017-03-05")
    assert {name: found for name, found in tidy.items() if not name.startswith(Layer.BRONZE)} == {
        name: found for name, found in published().items() if not name.startswith(Layer.BRONZE)
    }


# --- the commands


def test_vacuum_changes_nothing_unless_it_is_told_to_delete(lake: Cinema, capsys: Out) -> None:
    orphan = settings.table_path(TABLE) / "part-of-a-kill.parquet"
    orphan.write_bytes(b"left by a run that was killed before its commit")
    old = orphan.stat().st_mtime - 8 * 86400
    os.utime(orphan, (old, old))
    before = versions()
    assert cli.main(["vacuum", TABLE]) == 0
    told = capsys.readouterr().out
    assert told.endswith("1 file would be deleted. Nothing was changed: give --delete to do it\n")
    assert orphan.exists()
    assert versions() == before
    assert cli.main(["vacuum", TABLE, "--days", "9", "--delete"]) == 0
    assert capsys.readouterr().out.endswith("0 files deleted\n")
    assert cli.main(["vacuum", "--delete"]) == 0
    assert capsys.readouterr().out.endswith("1 file deleted\n")
    assert not orphan.exists()


def test_optimize_says_how_many_files_it_saved(lake: Cinema, capsys: Out) -> None:
    before = files("bronze.tickets")
    assert cli.main(["optimize", "bronze.tickets"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "Compacted tables"
    (line,) = [line.split() for line in told if "bronze.tickets" in line]
    assert line[1:] == [str(delta.version_of("bronze.tickets")), "1", str(before - 1), "0"]
    assert "silver.tickets" not in "\n".join(told)


@pytest.mark.parametrize("command", ["optimize", "vacuum"])
def test_a_table_that_is_not_there_is_told(home: Path, command: str, capsys: Out) -> None:
    assert cli.main([command, "silver.ticket"]) == 1
    assert "Did you mean silver.tickets?" in capsys.readouterr().err
    assert cli.main([command, TABLE]) == 1
    assert capsys.readouterr().err == f"StageError: {TABLE} was never published. Run the DAG first\n"
    with pytest.raises(StageError, match=r"^no table was ever published"):
        maintenance.published_tables()
