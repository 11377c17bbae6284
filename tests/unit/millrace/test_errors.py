"""What the machine refuses, told in a sentence with its remedy, however deep in a library it happened."""

import errno
import os
import sqlite3
from pathlib import Path

import duckdb
import pytest
from upath import UPath

from lake import settings
from millrace import errors
from millrace.pipeline import RunError

pytestmark = pytest.mark.usefixtures("home")


def full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk_names_the_file_the_room_and_the_folder_that_the_user_knows(home: Path) -> None:
    message, remedy = errors.explain(full(settings.lake() / "silver" / "x.parquet"))
    assert message.startswith(f"No space left on device: {home}/lake/silver/x.parquet (")
    assert message.endswith("bytes are free there)")
    assert remedy == f"See that {home}/lake has room and can be written"
    assert (
        errors.explain(full(home / "data_docs" / "index.html")).remedy == f"See that {home} has room and can be written"
    )
    assert errors.explain(full(Path("/elsewhere/x"))).remedy == "See that /elsewhere/x has room and can be written"


def test_a_full_disk_is_explained_with_lake_and_landing_zone_in_a_bucket(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "lake", lambda: UPath("s3://bucket/lake"))
    monkeypatch.setattr(settings, "landing", lambda: UPath("s3://bucket/landing"))
    explanation = errors.explain(full(home / "data_docs" / "index.html"))
    assert explanation.remedy == f"See that {home} has room and can be written"


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.OperationalError("database or disk is full"),
        duckdb.IOException('IO Error: Could not write file "/tmp/x": No space left on device'),
        OSError("Generic LocalFileSystem error: ... (os error 28)"),
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
        Exception("Unable to copy data to file: No space left on device (os error 28)"),
    ],
    ids=["sqlite", "duckdb", "delta-rs", "arrow", "sail"],
)
def test_a_full_disk_is_recognized_whoever_met_it(home: Path, error: Exception) -> None:
    explanation = errors.explain(error)
    assert explanation.reason.startswith("No space left on device")
    assert " has room and can be written" in explanation.remedy


@pytest.mark.parametrize("number", sorted(errors.REMEDIES), ids=errno.errorcode.get)
def test_every_remedy_is_a_sentence_to_act_on(number: int, home: Path) -> None:
    message = errors.sentence(OSError(number, os.strerror(number), str(home / "x")))
    assert message.startswith(f"{os.strerror(number)}: {home}/x")
    assert message.endswith(", then run the same command again")
    assert "{" not in message


def test_a_cause_below_another_error_counts(home: Path) -> None:
    outer = KeyError("what a library made of it")
    outer.__cause__ = full(home / "x")
    assert errors.explain(outer).reason.startswith("No space left on device")


def test_our_own_message_is_complete_and_a_defect_has_no_sentence() -> None:
    assert errors.sentence(RunError("as it is. Do this")) == "as it is. Do this"
    assert errors.sentence(AttributeError("'NoneType' object has no attribute 'x'")) is None
    assert errors.sentence(FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")) is None


@pytest.mark.parametrize("variable", ["MILLRACE_HOME", "MILLRACE_LAKE", "MILLRACE_LANDING"])
def test_a_link_that_leads_back_to_itself_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    loop = home / "loop"
    loop.symlink_to(loop)
    monkeypatch.setenv(variable, str(loop / "below"))
    reads = {"MILLRACE_HOME": settings.home, "MILLRACE_LAKE": settings.lake, "MILLRACE_LANDING": settings.landing}
    with pytest.raises(OSError, match="symbolic links") as caught:
        reads[variable]()
    assert (
        errors.sentence(caught.value)
        == f"Too many levels of symbolic links: {loop}/below. Put a folder, or a link to one, in the place of the"
        " symbolic link that leads back to itself, then run the same command again"
    )
