"""Check that components that share a metadata database share their keys as well: a table beside Airflow's holds a
digest of each key.

`millrace migrate` writes them. A component with a different key would start, and fail later far from the cause: its
tasks are rejected, or a connection cannot be decrypted.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from millrace.environment import SHARED_SECRETS

if TYPE_CHECKING:
    from sqlalchemy import Connection

TABLE = "millrace_keys"
ROUNDS = 100_000
"""Iterations of PBKDF2: a reader of the table must not find a key that a person chose."""


def digests(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A digest of each shared key that is set in these variables, by name."""
    keys = {name: variables[name] for name in SHARED_SECRETS if variables.get(name)}
    return {
        name: hashlib.pbkdf2_hmac("sha256", key.encode(), f"millrace {name}".encode(), ROUNDS).hex()
        for name, key in keys.items()
    }


def record(connection: Connection, digests: Mapping[str, str]) -> None:
    """Write these digests, and replace earlier ones of the same names."""
    from sqlalchemy import text

    connection.execute(
        text(f"CREATE TABLE IF NOT EXISTS {TABLE} (name VARCHAR(100) PRIMARY KEY, digest VARCHAR(64) NOT NULL)")
    )
    for name, digest in digests.items():
        statement = (
            f"INSERT INTO {TABLE} (name, digest) VALUES (:name, :digest) ON CONFLICT (name) DO UPDATE SET digest ="
            " excluded.digest"
        )
        connection.execute(text(statement), {"name": name, "digest": digest})


def recorded(connection: Connection) -> dict[str, str]:
    """The recorded digests by name; none before the first migration by this version."""
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table(TABLE):
        return {}
    return {row.name: row.digest for row in connection.execute(text(f"SELECT name, digest FROM {TABLE}"))}


def mismatch(connection: Connection) -> str:
    """A sentence about the keys of this process that differ from those of the other components; empty if none does."""
    expected = recorded(connection)
    if not expected:
        return ""
    names = [name for name, digest in digests().items() if expected.get(name, digest) != digest]
    if not names:
        return ""
    are = "is not that" if len(names) == 1 else "are not those"
    return (
        f"{' and '.join(names)} {are} of the other components, which share this metadata database."
        " Give all of them the same; after a change of all, run `millrace migrate` first"
    )
