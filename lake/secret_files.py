"""Secrets from files: `NAME_FILE` names a file whose content becomes `NAME`, as in Docker's official images.

Arguments show in process lists, and variables in `docker inspect` and in manifests. Entry points call `load` first;
`get` does it for processes without one, such as notebooks. `load` removes `NAME_FILE`: child processes inherit only
the value, and a second call has nothing to do.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
from collections.abc import Mapping, MutableMapping
from pathlib import Path

NAMES = (
    "MILLRACE_ONLINE",
    "MILLRACE_REGISTRY",
    "MILLRACE_DATABASE",
    "MILLRACE_KAFKA_CONF",
    "MILLRACE_ADMIN_PASSWORD",
    "MILLRACE_ENGINE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC",
    "AIRFLOW_CONN_AWS_DEFAULT",
    "OPENLINEAGE_API_KEY",
)
"""The only variables with a `_FILE` form, besides SOURCE. Others, such as `AWS_WEB_IDENTITY_TOKEN_FILE`, have their own
meaning.
"""
SUFFIX = "_FILE"
SOURCE = re.compile(r"(?!.*_FILE$)MILLRACE_SOURCE_[A-Z][A-Z0-9_]*")
"""The variables of databases to pull from, one for each connection that a project names."""
LARGEST = 1 << 16
"""Bytes. A larger file is not a secret."""
files: dict[str, Path] = {}
"""Variables of this process that came from a file, and the file."""
log = logging.getLogger("millrace")
_loading = threading.Lock()
"""While one thread replaces `NAME_FILE` by `NAME`, both are set, which another thread would report as an error."""


class SecretError(ValueError):
    """The file of a variable cannot be used. The message has the variable and the path, never the content."""


def load(environment: MutableMapping[str, str] | None = None) -> None:
    """Set each variable of `NAMES` whose `NAME_FILE` names a file, and remove `NAME_FILE`.

    SecretError for the first file that cannot be used.
    """
    variables = os.environ if environment is None else environment
    for name in (*NAMES, *sources(variables)):
        if name + SUFFIX in variables:
            with _loading:
                _load(name, variables)


def sources(environment: Mapping[str, str]) -> list[str]:
    """The variables of databases to pull from that are set, by value or by file."""
    names = {name.removesuffix(SUFFIX) for name in environment}
    return sorted(filter(SOURCE.fullmatch, names))


def get(name: str) -> str | None:
    """A variable of `NAMES`, or one of SOURCE; None where it is unset or empty."""
    if name + SUFFIX in os.environ:
        load()
    return os.environ.get(name) or None


def _load(name: str, environment: MutableMapping[str, str]) -> None:
    variable = name + SUFFIX
    if path := environment.get(variable):
        if environment.get(name):
            raise SecretError(f"{name} and {variable} are both set. Unset one of them")
        environment[name] = read(variable, Path(path))
        if environment is os.environ:
            files[name] = Path(path)
    environment.pop(variable, None)


def read(variable: str, path: Path) -> str:
    """The text of the file that `variable` names, without one newline at its end."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe without a writer blocks
            kind = "a folder" if path.is_dir() else "neither a file nor a link to one"
            raise SecretError(
                f"{variable} names {path}, which is {kind}. Name a file that holds the secret and nothing else"
            )
        with path.open("rb") as file:
            content, exposed = file.read(LARGEST + 1), is_exposed(file.fileno(), stat.S_IROTH | stat.S_IWOTH)
    except OSError as error:
        raise SecretError(
            f"{variable} names {path}, which cannot be read: {error.strerror}. Name a file that this user may read"
        ) from None
    if exposed:
        log.warning("%s names %s, which every user of this machine can read. Run `chmod o= %s`", variable, path, path)
    return _text(variable, path, content)


def _text(variable: str, path: Path, content: bytes) -> str:
    """The secret in `content`. Nothing is raised in an `except`: a UnicodeDecodeError as context shows the content."""
    if len(content) > LARGEST:
        raise SecretError(
            f"{variable} names {path}, which has more than {LARGEST >> 10} KiB. Name a file that holds the secret and"
            " nothing else"
        )
    text = _decoded(content)
    if text is None or "\0" in text:
        fault = "is not UTF-8" if text is None else "holds a NUL byte"
        raise SecretError(f"{variable} names {path}, which {fault}. Write the secret as text")
    text = text.removesuffix("\n").removesuffix("\r")
    if not text:
        raise SecretError(f"{variable} names {path}, which is empty. Write the secret into it, or unset {variable}")
    return text


def _decoded(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def is_exposed(file: int, bits: int) -> bool:
    """Whether an open file has one of these permission bits.

    A read-only mount does not count: Docker and Kubernetes mount secrets with mode 0444 or 0644, and every user of the
    container may have them.
    """
    return bool(os.fstat(file).st_mode & bits) and not os.fstatvfs(file).f_flag & os.ST_RDONLY
