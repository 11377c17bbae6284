"""The jars that Spark needs besides its own: fetched once with Ivy, which Spark brings along, and checked against the
sums below.

A machine without network takes them from `<home>/jars`, where they may be put by hand, or from `MILLRACE_JARS`, where
an image brings them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from etl.spark import SparkError, java
from lake import settings
from lake.files import locked

SILENT_SECONDS = 60
"""A repository that sends nothing for this long is given up; Ivy by itself waits forever."""


@dataclass(frozen=True)
class Jar:
    """A Maven artifact and the SHA-256 of its jar."""

    organisation: str
    name: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}-{self.version}.jar"


DELTA = (
    Jar(
        "io.delta", "delta-spark_4.1_2.13", "4.1.0", "9b05d7a82196ee1f1073733a45a2faae59161e52b86ae918fe6742fad6eaf036"
    ),
    Jar("io.delta", "delta-storage", "4.1.0", "6d0520ffcc35b582369f92c23fa24e14a5bb935cf6e31ed7f47c5046ae17cb25"),
    Jar(
        "io.unitycatalog",
        "unitycatalog-client",
        "0.4.0",
        "deb90c0902379645ee6dca070bd1d4c57e211ca3a9c21f59784b1392abe72802",
    ),
)
"""Delta on Spark. Its catalog class refers to the last one."""

S3 = (
    Jar("org.apache.hadoop", "hadoop-aws", "3.4.2", "d2d24e6b715b5656b9d238bf13b6682a07e2004dd36aad74a73aeb854319f4d9"),
    Jar(
        "software.amazon.awssdk",
        "bundle",
        "2.29.52",
        "62638f33045690c6bc5e496b54b0b2e89a9ad38cbedacdf6e017fea6bc85f55c",
    ),
)
"""Hadoop's S3 client, of the Hadoop that Spark brings, and the AWS library that it was built with: 600 MB, fetched only
for a lake in a bucket.
"""


KAFKA = (
    Jar(
        "org.apache.spark",
        "spark-sql-kafka-0-10_2.13",
        "4.1.1",
        "9c1ce986f548e6b1dcb0e2dfe2f253a0bc58f2232a32a0c9c6c674dd25a8570c",
    ),
    Jar(
        "org.apache.spark",
        "spark-token-provider-kafka-0-10_2.13",
        "4.1.1",
        "e510adc37b03d01d0a190d0dab472b5538e05eaa77454f7e9477156d7a6820ae",
    ),
    Jar(
        "org.apache.kafka", "kafka-clients", "3.9.1", "7568b998572d256f0b7bc0afdc1b7a2588b8b08415c62ce314c864a6851ae9d9"
    ),
    Jar(
        "org.apache.commons",
        "commons-pool2",
        "2.12.1",
        "5273c8bc8c0dca2211175c0d27efbd7228efae99689aac001a8e1ef8e872e9ef",
    ),
)
"""Spark's Kafka source and what it was built with, fetched only where a lake writer reads by Spark."""


def spark_home() -> Path:
    """The Spark that the package `pyspark` contains."""
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        raise SparkError("pyspark is not installed. Run `make` in the checkout, which builds .venv")
    return Path(found.origin).parent


def folder() -> Path:
    """Where jars lie: `MILLRACE_JARS`, or `jars` in the home."""
    return settings.jars()


def share(home: Path, kept: Path | None = None) -> None:
    """Let another home take the jars from this one's, or from where they are `kept`: they are many megabytes, RAPIDS a
    gigabyte.
    """
    source = kept or folder()
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "jars").exists():
        source.mkdir(parents=True, exist_ok=True)
        (home / "jars").symlink_to(source)


def fetched(wanted: Iterable[Jar]) -> list[Path]:
    """The jars' files, fetched if they are not there yet. One that differs from its sum is refused, wherever it came
    from.
    """
    jars = tuple(wanted)
    with nullcontext() if _is_read_only(folder()) else locked(folder() / ".lock"):
        missing = [jar for jar in jars if not (folder() / jar.file).exists()]
        if missing:
            _fetch(missing)
        for jar in jars:
            _check(jar)
    return [folder() / jar.file for jar in jars]


def _is_read_only(path: Path) -> bool:
    """As an image's folder is: nobody fetches into it, and there is nothing to lock."""
    return path.exists() and not os.access(path, os.W_OK)


def _check(jar: Jar) -> None:
    path = folder() / jar.file
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise SparkError(
            f"{path} is not the jar that Millrace was tested with: SHA-256 {found}, expected {jar.sha256}. Remove it"
            " and run again to fetch it anew"
        )


def _fetch(jars: list[Jar]) -> None:
    """Resolve exactly these, without what they depend on: Spark has that already. Their poms are not asked, some have a
    parent that was never published.
    """
    descriptor, resolver = folder() / ".ivy.xml", folder() / ".ivysettings.xml"
    resolver.write_text(
        '<ivysettings><settings defaultResolver="central"/>'
        '<timeout-constraints><timeout-constraint name="silent" connectionTimeout="30000"'
        f' readTimeout="{1000 * SILENT_SECONDS}"/>'
        '</timeout-constraints><resolvers><ibiblio name="central" m2compatible="true" usepoms="false"'
        ' timeoutConstraint="silent"/></resolvers></ivysettings>'
    )
    lines = [
        f'<dependency org="{jar.organisation}" name="{jar.name}" rev="{jar.version}" conf="default->default"'
        ' transitive="false"/>'
        for jar in jars
    ]
    descriptor.write_text(
        '<ivy-module version="2.0"><info organisation="millrace" module="jars"/><configurations><conf'
        ' name="default"/></configurations>'
        f"<dependencies>{''.join(lines)}</dependencies></ivy-module>"
    )
    ivy = next((spark_home() / "jars").glob("ivy-*.jar"), None)
    if ivy is None:
        raise SparkError(f"there is no Ivy below {spark_home() / 'jars'}. Put {_named(jars)} into {folder()}")
    pattern = f"{folder()}/[artifact]-[revision].[ext]"
    options = {
        "-settings": resolver,
        "-ivy": descriptor,
        "-cache": folder() / ".ivy",
        "-retrieve": pattern,
        "-types": "jar",
    }
    arguments = [
        str(java.find()),
        "-jar",
        str(ivy),
        "-warn",
        *(str(part) for option in options.items() for part in option),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    absent = [jar for jar in jars if not (folder() / jar.file).exists()]
    if absent:
        told = next(
            (
                line.strip()
                for line in (done.stdout + done.stderr).splitlines()
                if "not found" in line or "FAILED" in line or "exception" in line.lower()
            ),
            "",
        )
        raise SparkError(
            f"{_named(absent)} could not be fetched with Ivy ({told or f'exit status {done.returncode}'}). Look at the"
            f" network, or put the files into {folder()}"
        )


def _named(jars: list[Jar]) -> str:
    return ", ".join(jar.file for jar in jars)
