"""What jobs and datasets are called in lineage, so that every producer of events names the same thing alike.

A table is named by where it lies, as the OpenLineage naming spec wants: namespace `file` and the absolute path, or
`s3://bucket` and the key. The Airflow provider derives the same pair from an Asset whose URI is `asset_uri(table)`, so
its events and ours meet in one dataset. The short name (`silver.transactions` in namespace `millrace`) travels along as
a symlink. Imports nothing heavy: DAG files may use it while they are parsed.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from lake import settings

NAMESPACE = "millrace"
"""Of jobs, of the tables' short names, and of what Feast serves (the name of the Feast project, which is the namespace
that Feast itself uses).
"""

SAME_STORE = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
"""URI schemes that are another spelling of the one in the naming spec."""


class Name(NamedTuple):
    """Identity of a dataset or job."""

    namespace: str
    name: str


def of_location(location: str) -> Name:
    """A path, `file://` URI or object-store URI -> namespace and name of the dataset that lies there. Percent signs are
    taken as they are.
    """
    scheme, authority, path, *_ = urlsplit(location) if "://" in location else ("file", "", location)
    scheme = SAME_STORE.get(scheme, scheme)
    if scheme == "file":
        return Name(f"file://{authority}" if authority else "file", path.rstrip("/") or "/")
    return Name(f"{scheme}://{authority}", path.strip("/") or "/")


def of_table(qualified: str) -> Name:
    """`silver.transactions` -> the Delta table's place."""
    return of_location(str(settings.table_path(qualified)))


def of_landing(folder: str) -> Name:
    """The folder of the landing zone in which one source drops its files."""
    return of_location(str(settings.landing() / folder))


def of_online(view: str) -> Name:
    """What the online store serves for a feature view, named as Feast's own OpenLineage emitter names it."""
    return Name(NAMESPACE, f"online_store_{view}")


def short(qualified: str) -> Name:
    """The name that people use, wherever the table lies."""
    return Name(NAMESPACE, qualified)


def job(what: str) -> Name:
    """`silver.transactions` or `features.customer_activity` -> the job that makes it."""
    return Name(NAMESPACE, f"{NAMESPACE}.{what}")


def asset_uri(qualified: str) -> str:
    """URI for the Airflow Asset of a table: the provider translates it to `of_table(qualified)`.

    Not `Path.as_uri()`, whose percent-encoding Airflow keeps, and no scheme such as `delta://`, for which the provider
    has no translation and drops the dataset without a word.
    """
    namespace, name = of_table(qualified)
    return f"file://{name}" if namespace == "file" else f"{namespace}/{name.lstrip('/')}"
