"""Whether the components that share a metadata database share their keys, too: a digest of each key lies in a table
beside Airflow's.

`millrace migrate` writes them. A component with another key would start, and fail later where nobody looks for the
cause: its tasks are refused, or a connection cannot be decrypted.
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
"""Of PBKDF2: who may read the table does not get at a key that somebody chose, and not the machine."""


def of(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A digest of each key that these variables give."""
    keys = {name: variables[name] for name in SHARED_SECRETS if variables.get(name)}
    return {
        name: hashlib.pbkdf2_hmac("sha256", key.encode(), f"millrace {name}".encode(), ROUNDS).hex()
        for name, key in keys.items()
    }


def record(connection: Connection, ours: Mapping[str, str]) -> None:
    """Keep these digests in the place of those of before."""
    from sqlalchemy import text

    connection.execute(
        text(f"CREATE TABLE IF NOT EXISTS {TABLE} (name VARCHAR(100) PRIMARY KEY, digest VARCHAR(64) NOT NULL)")
    )
    for name, digest in ours.items():
        statement = (
            f"INSERT INTO {TABLE} (name, digest) VALUES (:name, :digest) ON CONFLICT (name) DO UPDATE SET digest ="
            " excluded.digest"
        )
        connection.execute(text(statement), {"name": name, "digest": digest})


def recorded(connection: Connection) -> dict[str, str]:
    """The digests that are there; none before the first migration by this version."""
    from sqlalchemy import inspect, text

    if not inspect(connection).has_table(TABLE):
        return {}
    return {row.name: row.digest for row in connection.execute(text(f"SELECT name, digest FROM {TABLE}"))}


def differing(connection: Connection) -> str:
    """A sentence about the keys of this process that are not those of the other components; empty where there is
    none.
    """
    theirs = recorded(connection)
    if not theirs:
        return ""
    names = [name for name, digest in of().items() if theirs.get(name, digest) != digest]
    if not names:
        return ""
    are = "is not that" if len(names) == 1 else "are not those"
    return (
        f"{' and '.join(names)} {are} of the other components, which share this metadata database."
        " Give all of them the same; after a change of all, run `millrace migrate` first"
    )
