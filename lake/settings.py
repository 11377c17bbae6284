"""Where things are: the home of all state, the landing zone, the lake, the lineage. Read from the environment on each
call, never at import.
"""

import ipaddress
import os
from pathlib import Path

from lake import secret_files, storage

CHECKOUT = Path(__file__).resolve().parent.parent
COUNTS = ("auto", "duckdb", "cudf")
JOINS = (*COUNTS, "spark")
REFUSE, ALLOW = "refuse", "allow"
LAKE_FORMAT = 1
"""Version of the lake's own files (format marker, commit metadata, releases). A lake with a higher one is refused."""


class SettingError(ValueError):
    """An environment variable has a value that it cannot have; the message says which it may have."""


def home() -> Path:
    """`MILLRACE_HOME`, or `.millrace` in the checkout: everything that a run writes lies below it."""
    return storage.absolute(os.environ.get("MILLRACE_HOME") or CHECKOUT / ".millrace")


def lake() -> Path:
    """`MILLRACE_LAKE`, or `lake` in the home: the root of all Delta tables, a folder or `s3://bucket/path`."""
    return storage.to_path(os.environ.get("MILLRACE_LAKE") or str(home() / "lake"))


def landing() -> Path:
    """`MILLRACE_LANDING`, or `landing` in the home: where the shop drops its files, a folder or `s3://bucket/path`."""
    return storage.to_path(os.environ.get("MILLRACE_LANDING") or str(home() / "landing"))


def labels() -> Path:
    """`MILLRACE_LABELS`, or `labels` in the home: the only folder from which labels are read whose path came over a
    network.
    """
    chosen = os.environ.get("MILLRACE_LABELS") or home() / "labels"
    if storage.is_remote(chosen):
        raise SettingError(f"MILLRACE_LABELS is {chosen}, and labels are read from a folder only. Set it to a folder")
    return storage.absolute(chosen)


def lineage() -> Path:
    """Folder of the OpenLineage events, one JSON a line."""
    return home() / "lineage"


def bind() -> str:
    """`MILLRACE_BIND`: the address that components listen on; `127.0.0.1` (default), or `0.0.0.0` in a container."""
    address = os.environ.get("MILLRACE_BIND") or "127.0.0.1"
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise SettingError(
            f"MILLRACE_BIND is {address!r}. Set it to an address of this machine, such as 127.0.0.1, 0.0.0.0 or ::"
        ) from None


def engine() -> str:
    """`MILLRACE_ENGINE`: `sail` (default), `spark` (a Spark of this machine), or a Spark Connect URL
    `sc://host:port`.
    """
    return secret_files.get("MILLRACE_ENGINE") or "sail"


def join() -> str:
    """`MILLRACE_JOIN`: what joins training sets and profiles tables: `auto` (default), `duckdb`, `cudf` (on the GPU),
    or `spark`, which only joins.
    """
    return os.environ.get("MILLRACE_JOIN") or "auto"


def beyond_horizon() -> str:
    """`MILLRACE_BEYOND_HORIZON`: what becomes of labels after a release's horizon; `refuse` (default) or `allow`."""
    chosen = os.environ.get("MILLRACE_BEYOND_HORIZON") or REFUSE
    if chosen not in (REFUSE, ALLOW):
        raise SettingError(
            f"MILLRACE_BEYOND_HORIZON is {chosen!r}. Set it to {REFUSE} or {ALLOW}, or unset it to refuse labels after"
            " a release's horizon"
        )
    return chosen


def online() -> str:
    """`MILLRACE_ONLINE`: where features are served from; `sqlite` (default: files in the home), `redis://...` or
    `postgresql://...`. It may hold a password.
    """
    return secret_files.get("MILLRACE_ONLINE") or "sqlite"


def registry() -> str:
    """`MILLRACE_REGISTRY`: the `postgresql://user@host:port/database` that holds Feast's registry, perhaps with a
    password.

    Empty (default): a file in the home.
    """
    return secret_files.get("MILLRACE_REGISTRY") or ""


def table_path(qualified: str) -> Path:
    """`silver.transactions` -> `<lake>/silver/transactions`."""
    layer, name = qualified.split(".")
    return lake() / layer / name
