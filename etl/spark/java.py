"""Find a Java that Spark 4.1 runs on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from etl.spark import SparkError

SUPPORTED = (17, 21)
REMEDY = "Install Java 17 or 21 and set JAVA_HOME to it, or leave MILLRACE_ENGINE unset: Sail, the default, needs no Java"


def find() -> Path:
    """The `java` of JAVA_HOME, or else of PATH; SparkError when there is none, or one of another version."""
    home = os.environ.get("JAVA_HOME")
    found = Path(home) / "bin" / "java" if home else shutil.which("java")
    if found is None:
        raise SparkError(f"MILLRACE_ENGINE=spark needs Java, and there is none on PATH. {REMEDY}")
    java = Path(found)
    if not java.is_file():
        raise SparkError(f"JAVA_HOME is {home}, and there is no {java}. {REMEDY}")
    version = _version(java)
    if version not in SUPPORTED:
        raise SparkError(f"{java} is Java {version}, and Spark 4.1 runs on Java {' or '.join(map(str, SUPPORTED))}. {REMEDY}")
    return java


def _version(java: Path) -> int:
    """The major version, from what `java -version` says: 17 of `openjdk version "17.0.15"`, 8 of `java version "1.8.0_402"`."""
    try:
        told = subprocess.run([str(java), "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise SparkError(f"{java} cannot be run ({error}). {REMEDY}") from error
    found = re.search(r'version "(?:1\.)?(\d+)', told.stderr + told.stdout)
    if not found:
        raise SparkError(f"{java} -version does not tell a version: {(told.stderr + told.stdout).strip()[:200]!r}. {REMEDY}")
    return int(found.group(1))
