"""Names of jobs and datasets in lineage, the same for every producer of events.

A table is named by its location, as in the OpenLineage naming spec: namespace `file` and the absolute path, or
`s3://bucket` and the key. The Airflow provider derives the same name from an Asset with the URI `asset_uri(table)`, so
its events and ours share a dataset. The short name (`silver.transactions` in namespace `millrace`) is a symlink. This
module has no heavy imports: DAG files use it while they are parsed.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from lake import settings

NAMESPACE = "millrace"
"""Namespace of jobs, of short names, and of what Feast serves: Feast uses its project name as namespace."""

SCHEME_ALIASES = {"s3a": "s3", "s3n": "s3", "gcs": "gs"}
"""Alias of a URI scheme -> the scheme in the naming spec."""


class Name(NamedTuple):
    """The identity of a dataset or job."""

    namespace: str
    name: str


def of_location(location: str) -> Name:
    """Path, `file://` URI or object-store URI -> the name of the dataset there. Percent signs are not decoded."""
    scheme, authority, path, *_ = urlsplit(location) if "://" in location else ("file", "", location)
    scheme = SCHEME_ALIASES.get(scheme, scheme)
    if scheme == "file":
        return Name(f"file://{authority}" if authority else "file", path.rstrip("/") or "/")
    return Name(f"{scheme}://{authority}", path.strip("/") or "/")


def of_table(qualified: str) -> Name:
    """`silver.transactions` -> the name of the Delta table, by its location."""
    return of_location(str(settings.table_path(qualified)))


def of_landing(folder: str) -> Name:
    """The name of a folder of the landing zone."""
    return of_location(str(settings.landing() / folder))


def of_online(view: str) -> Name:
    """The name of a feature view in the online store, the same as from Feast's own OpenLineage emitter."""
    return Name(NAMESPACE, f"online_store_{view}")


def short(qualified: str) -> Name:
    """The short name of a table, wherever it is stored."""
    return Name(NAMESPACE, qualified)


def job(output: str) -> Name:
    """`silver.transactions` or `features.customer_activity` -> the job that makes it."""
    return Name(NAMESPACE, f"{NAMESPACE}.{output}")


def asset_uri(qualified: str) -> str:
    """The URI for the Airflow Asset of a table, which the provider translates to `of_table(qualified)`.

    `Path.as_uri()` would not do, because Airflow keeps its percent-encoding, nor a scheme such as `delta://`, because
    the provider cannot translate it and silently drops the dataset.
    """
    namespace, name = of_table(qualified)
    return f"file://{name}" if namespace == "file" else f"{namespace}/{name.lstrip('/')}"
