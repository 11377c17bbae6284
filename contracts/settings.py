"""Where things are: the home of all state, the landing zone, the lake, the lineage. Read from the environment on each call, never at import."""

import os
from pathlib import Path

from contracts import storage

CHECKOUT = Path(__file__).resolve().parent.parent
COUNTS = ("auto", "duckdb", "cudf", "pandas")
JOINS = (*COUNTS, "spark")
LAKE_FORMAT = 1
"""Version of the lake's own files (format marker, commit metadata, releases). A lake with a higher one is refused."""


def home() -> Path:
    """`MILLRACE_HOME`, or `.millrace` in the checkout: everything that a run writes lies below it."""
    return storage.absolute(os.environ.get("MILLRACE_HOME") or CHECKOUT / ".millrace")


def lake() -> Path:
    """`MILLRACE_LAKE`, or `lake` in the home: the root of all Delta tables, a folder or `s3://bucket/path`."""
    return storage.place(os.environ.get("MILLRACE_LAKE") or str(home() / "lake"))


def landing() -> Path:
    """`MILLRACE_LANDING`, or `landing` in the home: where the shop's systems drop their files."""
    return storage.absolute(os.environ.get("MILLRACE_LANDING") or home() / "landing")


def lineage() -> Path:
    """Folder of the OpenLineage events, one JSON a line."""
    return home() / "lineage"


def engine() -> str:
    """`MILLRACE_ENGINE`: `sail` (default), `spark` (a Spark of this machine), or a Spark Connect URL `sc://host:port`."""
    return os.environ.get("MILLRACE_ENGINE") or "sail"


def join() -> str:
    """`MILLRACE_JOIN`: who joins training sets and profiles tables; `auto` (default), `duckdb`, `cudf` (on the GPU) or `pandas`; `spark` joins only."""
    return os.environ.get("MILLRACE_JOIN") or "auto"


def online() -> str:
    """`MILLRACE_ONLINE`: where features are served from; `sqlite` (default: files in the home), `redis://...` or `postgresql://...`. It may hold a password."""
    return os.environ.get("MILLRACE_ONLINE") or "sqlite"


def table_path(qualified: str) -> Path:
    """`silver.transactions` -> `<lake>/silver/transactions`."""
    layer, name = qualified.split(".")
    return lake() / layer / name
