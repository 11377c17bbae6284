"""Releases are numbered, never altered, and a reader sees a whole one or none."""

import json
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from lake import release, settings
from lake.release import ReleaseDamagedError, ReleaseError
from tests.unit.lake.processes import at_once

GOLD = {"gold.guest_activity": 3, "gold.guest_movie": 5}


def files(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "lake" / "_releases").iterdir())


def test_releases_are_numbered_from_1(home: Path) -> None:
    made = [release.write({"gold.guest_activity": version}, "2017-03-02") for version in (3, 4, 7)]
    assert [written.number for written in made] == release.numbers() == [1, 2, 3]


def test_a_release_reads_as_it_was_written(home: Path) -> None:
    made = release.write(GOLD, "2017-03-02")
    assert release.read() == made
    assert (made.tables, made.horizon) == (GOLD, "2017-03-02")


def test_the_tenth_release_is_newer_than_the_ninth(home: Path) -> None:
    for version in range(11):
        release.write({"gold.guest_activity": version}, "2017-03-02")
    assert release.read().tables == {"gold.guest_activity": 10}


def test_the_same_map_again_is_the_same_release(home: Path) -> None:
    first = release.write(GOLD, "2017-03-02")
    assert release.write(dict(reversed(GOLD.items())), "2017-03-02") == first
    assert release.numbers() == [1]


def test_a_new_horizon_is_a_new_release(home: Path) -> None:
    for day in ("2017-03-02", "2017-03-03"):
        release.write(GOLD, day)
    assert [release.read(number).horizon for number in (1, 2)] == ["2017-03-02", "2017-03-03"]


def test_a_table_made_anew_at_the_same_version_is_a_new_release(home: Path) -> None:
    for identity in ("first", "second", "second"):
        release.write(GOLD, "2017-03-02", {"gold.guest_activity": identity})
    assert [release.read(number).ids["gold.guest_activity"] for number in release.numbers()] == ["first", "second"]


def test_a_release_of_before_there_were_ids_is_read(home: Path) -> None:
    release.write(GOLD, "2017-03-02")
    path = release.folder() / "1.json"
    path.write_text(json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "ids"}))
    assert (release.read().tables, release.read().ids) == (GOLD, {})


def test_a_map_that_comes_back_is_a_release_of_its_own(home: Path) -> None:
    for version in (3, 4, 3):
        release.write({"gold.guest_activity": version}, "2017-03-02")
    assert [release.read(number).tables["gold.guest_activity"] for number in release.numbers()] == [3, 4, 3]


def test_a_release_is_never_older_than_the_one_before_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which release was in force at a label goes by their times, and a clock may be set back."""

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    first = release.write(GOLD, "2017-03-02")
    monkeypatch.setattr(release, "datetime", Yesterday)
    second = release.write(GOLD, "2017-03-03")
    assert (second.number, second.created_at) == (2, first.created_at)


def test_an_old_release_stays_readable_byte_for_byte(home: Path) -> None:
    release.write({"gold.guest_activity": 1}, "2017-03-02")
    before = (release.folder() / "1.json").read_bytes()
    for version in (2, 3):
        release.write({"gold.guest_activity": version}, "2017-03-02")
    assert (release.folder() / "1.json").read_bytes() == before
    assert release.read(1).tables == {"gold.guest_activity": 1}


def test_without_a_release_the_error_says_how_to_make_one(home: Path) -> None:
    with pytest.raises(
        ReleaseError, match=r"there is no release below .*_releases\. Run the DAG `millrace` \(or `make demo`\) first"
    ):
        release.read()


def test_an_unknown_number_is_answered_with_the_known_ones(home: Path) -> None:
    for version in (1, 2):
        release.write({"gold.guest_activity": version}, "2017-03-02")
    for number in (0, 3, -1):
        with pytest.raises(ReleaseError, match=rf"^there is no release {number}\. Known: 1 to 2$"):
            release.read(number)


def test_a_write_that_breaks_off_leaves_no_release(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release.write({"gold.guest_activity": 1}, "2017-03-02")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as torn:
        torn.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space"):
            release.write({"gold.guest_activity": 2}, "2017-03-02")
    assert release.read().tables == {"gold.guest_activity": 1}
    assert release.write({"gold.guest_activity": 2}, "2017-03-02").number == 2
    assert [name for name in files(home) if name.endswith(".json")] == ["1.json", "2.json"]


WRITER = """
import sys
from filelock import FileLock
from lake import release, settings
for version in range(int(sys.argv[2])):
    with FileLock(settings.home() / "release.lock"):
        release.write({sys.argv[1]: version, **{f"gold.table_{n}": n for n in range(300)}}, "2017-03-02")
"""


def test_two_writers_under_the_lock_number_each_release_once_and_a_reader_sees_whole_ones(home: Path) -> None:
    seen = 0
    with at_once(WRITER, ("gold.a", 40), ("gold.b", 40)) as running:
        while running():
            for number in release.numbers()[-2:]:
                assert len(release.read(number).tables) == 301
                seen = number
    assert release.numbers() == [*range(1, 81)]
    made = [release.read(number).tables for number in release.numbers()]
    for name in ("gold.a", "gold.b"):
        assert [tables[name] for tables in made if name in tables] == [*range(40)]
    assert seen


def test_a_file_that_is_no_release_is_passed_over(home: Path) -> None:
    release.write(GOLD, "2017-03-02")
    (release.folder() / "notes.json").write_text(json.dumps({"number": 9}))
    (release.folder() / ".2.4711").write_text("{")
    assert release.numbers() == [1]


def test_releases_lie_in_the_lake_wherever_it_is(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MILLRACE_LAKE", str(tmp_path / "elsewhere"))
    release.write(GOLD, "2017-03-02")
    assert (tmp_path / "elsewhere" / "_releases" / "1.json").exists()
    assert settings.home() == tmp_path


VALID = {"number": 2, "created_at": "2026-01-01T00:00:00+00:00", "horizon": "2017-03-02", "tables": {"gold.a": 1}}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty"),
        ("\0\0\0", "is empty"),
        ('{"number": 2, "crea', "is not JSON"),
        ("[", "is not JSON"),
        ("[]", "is not a JSON object"),
        ("{}", "has no number"),
        ({**VALID, "number": 3}, "says that it is release 3"),
        ({**VALID, "number": "2"}, 'has an invalid number: "2"'),
        ({**VALID, "created_at": "yesterday"}, "has an invalid created_at"),
        ({**VALID, "created_at": "2026-01-01T00:00:00"}, "has an invalid created_at"),
        ({**VALID, "horizon": "2017-02-30"}, "has an invalid horizon"),
        ({**VALID, "horizon": 5}, "has an invalid horizon: 5"),
        ({**VALID, "tables": {"gold.a": -1}}, "has an invalid tables"),
        ({**VALID, "tables": {"gold.a": 2**63}}, "has an invalid tables"),
        ({**VALID, "tables": {"gold.a": True}}, "has an invalid tables"),
        ({**VALID, "tables": ["gold.a"]}, "has an invalid tables"),
        ({**VALID, "ids": {"gold.a": None}}, "has an invalid ids"),
        ({**VALID, "more": 1}, "has a field 'more'"),
    ],
)
def test_a_damaged_release_is_named_with_its_file_and_a_remedy(home: Path, content: object, problem: str) -> None:
    release.write(GOLD, "2017-03-02")
    path = release.folder() / "2.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    for read in (
        release.read,
        lambda: release.read(2),
        lambda: release.pinned_versions("gold.a", "id"),
        lambda: release.write({}, "2017-03-02"),
    ):
        with pytest.raises(ReleaseDamagedError, match=r"^release 2 cannot be read: ") as raised:
            read()
        assert f"{path} {problem}" in str(raised.value)
        assert "Restore the file from a backup, or remove it" in str(raised.value)
    assert release.read(1).tables == GOLD
    path.unlink()
    assert release.write({}, "2017-03-02").number == 2


@pytest.mark.parametrize("stray", ["007.json", "0.json", "\u00b2.json"])
def test_a_file_whose_name_no_release_has_is_passed_over(home: Path, stray: str) -> None:
    release.write(GOLD, "2017-03-02")
    (release.folder() / stray).write_text("{}")
    assert release.numbers() == [1]
    assert release.read().number == 1
    with pytest.raises(ReleaseError, match=r"^there is no release 7\. Known: 1 to 1$"):
        release.read(7)
