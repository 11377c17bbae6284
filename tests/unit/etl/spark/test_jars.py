"""Jars are those that were tested, or none; what cannot be fetched is named, with the folder to put it into."""

import hashlib
import socket
from pathlib import Path

import pytest

from etl.spark import SparkError, jars
from etl.spark.jars import Jar
from tests import programs

WHOLE = b"a jar"
ONE = Jar("org.example", "one", "1.0", hashlib.sha256(WHOLE).hexdigest())


def put(content: bytes) -> Path:
    path = jars.folder() / ONE.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_jar_put_by_hand_is_taken_without_network_or_java(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    path = put(WHOLE)
    assert jars.fetched([ONE]) == [path]


@pytest.mark.parametrize("content", [b"", WHOLE[:-1], WHOLE + b"!"])
def test_a_jar_that_differs_from_its_sum_is_refused(home: Path, content: bytes) -> None:
    path = put(content)
    with pytest.raises(
        SparkError,
        match=rf"^{path} is not the jar that Millrace was tested with: SHA-256 .*, expected {ONE.sha256}\. Remove it",
    ):
        jars.fetched([ONE])
    assert path.read_bytes() == content


def test_what_cannot_be_fetched_is_named_with_the_folder_it_belongs_into(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = home / "java"
    java.write_text(
        "#!/bin/sh\ncase $1 in -version) echo 'openjdk version \"17.0.1\"';; *) echo 'one#1.0: not found'; exit 1;;"
        " esac\n"
    )
    java.chmod(0o755)
    monkeypatch.setattr("etl.spark.java.find", lambda: java)
    with pytest.raises(
        SparkError,
        match=(
            r"^one-1\.0\.jar could not be fetched with Ivy \(one#1\.0: not found\)\. Look at the network, or put the"
            rf" files into {jars.folder()}"
        ),
    ):
        jars.fetched([ONE])


def test_a_repository_that_stays_silent_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs.java()
    monkeypatch.setattr(jars, "SILENT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxies = [f"-D{scheme}.proxy{key}" for scheme in ("http", "https") for key in ("Host", "Port")]
        options = zip(proxies, ["127.0.0.1", silent.getsockname()[1]] * 2, strict=True)
        monkeypatch.setenv("JAVA_TOOL_OPTIONS", " ".join(f"{name}={value}" for name, value in options))
        with pytest.raises(SparkError, match=r"^delta-storage-4\.1\.0\.jar could not be fetched with Ivy"):
            jars.fetched(jars.DELTA[1:2])
        silent.settimeout(0)
        silent.accept()  # it was asked


def test_every_jar_of_delta_is_pinned_with_a_sum() -> None:
    assert [(jar.name, jar.version) for jar in jars.DELTA][:2] == [
        ("delta-spark_4.1_2.13", "4.1.0"),
        ("delta-storage", "4.1.0"),
    ]
    assert all(len(jar.sha256) == 64 for jar in jars.DELTA)
