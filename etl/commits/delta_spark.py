"""Commit with delta-spark, one statement on the engine's Spark, so rows never pass through this process.

delta-rs creates the tables on every engine: only it writes a column's NOT NULL, comment and PII tag at once.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.interval import Interval
from contracts.model import Table
from lake import delta, publishing, settings
from lake.commits.delta_rs import maintenance_metadata, open_for_maintenance
from lake.delta import CommitMetadata
from lake.publishing import PublishError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

METADATA = "spark.databricks.delta.commitInfo.userMetadata"
_one_at_a_time = threading.Lock()
"""A SQL statement takes its commit metadata from the session, which the threads of a process share."""


class CommitMarker:
    """Identifies one commit: its version as Delta's transaction, and a unique name beside its metadata."""

    def __init__(self, version: int, metadata: CommitMetadata) -> None:
        self.version = version
        self.metadata = json.dumps({**json.loads(metadata.to_json()), delta.COMMIT_KEY: uuid.uuid4().hex})

    @property
    def options(self) -> dict[str, str]:
        """Options of a `DataFrameWriter`."""
        return {"txnAppId": publishing.FENCE, "txnVersion": str(self.version), "userMetadata": self.metadata}


class DeltaSpark:
    """See `lake.commits.Committer`.

    A killed client may leave its statement running on the server. So each statement names the version that it makes as
    Delta's transaction: of two statements for one version, Delta refuses or skips one. The log tells which.
    """

    def publish(
        self,
        contract: Table,
        staged: Sequence[Path],
        metadata: CommitMetadata,
        *,
        base: int | None,
        replace: Sequence[Interval] = (),
        whole: bool = False,
    ) -> int:
        """`replaceWhere` for days, an overwrite for the whole table, an append otherwise."""
        table = publishing.open_at(contract, base)
        if whole and publishing.missing_columns(contract, table):  # only delta-rs writes their NOT NULL and comments
            return publishing.publish(contract, staged, metadata, base=base or table.version(), whole=True)
        marker = CommitMarker((base or 0) + 1, metadata)
        days = {"replaceWhere": publishing.days_sql(contract, replace)} if replace and not whole else {}
        _write(contract, staged, "overwrite" if whole or replace else "append", {**marker.options, **days})
        return self._confirm(contract, marker)

    def optimize(self, contract: Table) -> int:
        """OPTIMIZE. The commit repeats the last metadata, with no changed days."""
        last = delta.last_commit(open_for_maintenance(contract, "optimize"))
        with self._session({METADATA: maintenance_metadata(last).to_json()}) as spark:
            spark.sql(f"OPTIMIZE {_name(contract)}").collect()
        return self._newest(contract)

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """With delta-rs: to keep an old version, Spark's VACUUM, which only counts hours, would keep all newer ones."""
        from lake.commits.delta_rs import DeltaRs

        return DeltaRs().vacuum(contract, older_than, keep, delete=delete)

    @contextmanager
    def _session(self, options: dict[str, str]) -> Iterator[SparkSession]:
        """The session with these options set for one statement."""
        from etl.engine import session

        spark = session()
        with _one_at_a_time:
            for name, value in options.items():
                spark.conf.set(name, value)
            try:
                yield spark
            finally:
                for name in options:
                    spark.conf.unset(name)

    def _confirm(self, contract: Table, marker: CommitMarker) -> int:
        """The version of this commit; PublishError unless the log has it as its newest."""
        newest = self._newest(contract)
        recorded = _metadata(contract, marker.version, newest)
        if (newest, recorded) == (marker.version, marker.metadata):
            return newest
        if recorded == marker.metadata:
            problem = f"this run made version {marker.version}, and others went on to {newest}. Nothing is lost"
        else:
            what = "another's" if newest >= marker.version else "not there"
            problem = (
                f"version {marker.version} was to be written, and it is {what}: a client that was killed may have left"
                " its statement on the server. Nothing of this run was written"
            )
        raise PublishError(f"{contract.qualified}: {problem}; run the interval again")

    def _newest(self, contract: Table) -> int:
        newest = delta.version_of(contract.qualified) or 0
        publishing.sync_log(contract.qualified, newest)
        return newest


def _write(contract: Table, staged: Sequence[Path], mode: str, options: dict[str, str]) -> None:
    from etl.engine import session

    with _translate_conflicts(contract):
        _rows(session(), contract, staged).write.format("delta").mode(mode).options(**options).save(
            str(settings.table_path(contract.qualified))
        )


@contextmanager
def _translate_conflicts(contract: Table) -> Iterator[None]:
    """Raise PublishError for Delta's errors of conflicting commits."""
    try:
        yield
    except Exception as error:
        if "Concurrent" not in str(error):
            raise
        message = str(error).splitlines()[0]
        raise PublishError(
            f"{contract.qualified}: another writer committed at the same time ({message}). Nothing was written; run the"
            " interval again"
        ) from error


def _metadata(contract: Table, version: int, newest: int) -> str | None:
    """The user metadata of the commit that made a version."""
    table = delta.open_to_write(contract.qualified)
    commits = table.history(newest - version + 1) if table and newest >= version else []
    return next((commit.get("userMetadata") for commit in commits if commit["version"] == version), None)


def _name(contract: Table) -> str:
    return f"delta.`{settings.table_path(contract.qualified)}`"


def _rows(spark: SparkSession, contract: Table, staged: Sequence[Path]) -> DataFrame:
    if not staged:
        return spark.createDataFrame([], ", ".join(f"{column.name} {column.type.spark}" for column in contract.columns))
    return spark.read.parquet(*(str(path) for path in staged)).select(*contract.column_names)
