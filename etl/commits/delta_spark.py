"""Commits by delta-spark, on the engine's own Spark: each is one statement there, so rows never pass through this
process.

New tables are created by delta-rs on every engine, which alone writes NOT NULL, comments and PII tags of a column at
once.
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
from lake.commits.delta_rs import open_to_tidy, untouched
from lake.delta import CommitMetadata
from lake.publishing import PublishError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

METADATA = "spark.databricks.delta.commitInfo.userMetadata"
_one_at_a_time = threading.Lock()
"""What marks a SQL statement's commit is set in the session, which the threads of a process share."""


class CommitMarker:
    """How one commit is told from all others: its version as Delta's transaction, its state with a name that nobody
    else has.
    """

    def __init__(self, version: int, state: CommitMetadata) -> None:
        self.version = version
        self.metadata = json.dumps({**json.loads(state.to_json()), delta.COMMIT_KEY: uuid.uuid4().hex})

    @property
    def options(self) -> dict[str, str]:
        """For the writer of a frame."""
        return {"txnAppId": publishing.FENCE, "txnVersion": str(self.version), "userMetadata": self.metadata}


class DeltaSpark:
    """See `lake.commits.Committer`.

    A client that is killed may leave its statement at work on the server. So each statement names the version that it
    is to make as Delta's transaction: of two, one is refused or passed over there. What the log then says of that
    version tells which.
    """

    def publish(
        self,
        contract: Table,
        staged: Sequence[Path],
        state: CommitMetadata,
        *,
        base: int | None,
        replace: Sequence[Interval] = (),
        whole: bool = False,
    ) -> int:
        """`replaceWhere` for days, an overwrite for all, an append otherwise."""
        publishing.open_at(contract, base)
        ours = CommitMarker((base or 0) + 1, state)
        days = {"replaceWhere": publishing.days_sql(contract, replace)} if replace and not whole else {}
        _write(contract, staged, "overwrite" if whole or replace else "append", {**ours.options, **days})
        return self._settled(contract, ours)

    def optimize(self, contract: Table) -> int:
        """OPTIMIZE; the commit repeats the last state, with no day touched."""
        with self._session(
            {METADATA: untouched(delta.last_state(open_to_tidy(contract, "optimize"))).to_json()}
        ) as spark:
            spark.sql(f"OPTIMIZE {_name(contract)}").collect()
        return self._newest(contract)

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """By delta-rs: Spark's VACUUM counts in hours only, so to spare an old version it would spare all that came
        after it.
        """
        from lake.commits.delta_rs import DeltaRs

        return DeltaRs().vacuum(contract, older_than, keep, delete=delete)

    @contextmanager
    def _session(self, options: dict[str, str]) -> Iterator[SparkSession]:
        """The session, set for the one statement inside."""
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

    def _settled(self, contract: Table, ours: CommitMarker) -> int:
        """The version that was made, once the log says that it is ours and the newest."""
        newest = self._newest(contract)
        made = _metadata(contract, ours.version, newest)
        if (newest, made) == (ours.version, ours.metadata):
            return newest
        if made == ours.metadata:
            told = f"this run made version {ours.version}, and others went on to {newest}. Nothing is lost"
        else:
            what = "another's" if newest >= ours.version else "not there"
            told = (
                f"version {ours.version} was to be written, and it is {what}: a client that was killed may have left"
                " its statement on the server. Nothing of this run was written"
            )
        raise PublishError(f"{contract.qualified}: {told}; run the interval again")

    def _newest(self, contract: Table) -> int:
        newest = delta.version_of(contract.qualified) or 0
        publishing.sync_log(contract.qualified, newest)
        return newest


def _write(contract: Table, staged: Sequence[Path], mode: str, options: dict[str, str]) -> None:
    from etl.engine import session

    with _refusals(contract):
        _rows(session(), contract, staged).write.format("delta").mode(mode).options(**options).save(
            str(settings.table_path(contract.qualified))
        )


@contextmanager
def _refusals(contract: Table) -> Iterator[None]:
    """What Delta says of conflicting commits, in a sentence."""
    try:
        yield
    except Exception as error:
        if "Concurrent" not in str(error):
            raise
        told = str(error).splitlines()[0]
        raise PublishError(
            f"{contract.qualified}: another writer committed at the same time ({told}). Nothing was written; run the"
            " interval again"
        ) from error


def _metadata(contract: Table, version: int, newest: int) -> str | None:
    """What delta-spark recorded in a commit."""
    table = delta.open_to_write(contract.qualified)
    later = table.history(newest - version + 1) if table and newest >= version else []
    return next((one.get("userMetadata") for one in later if one["version"] == version), None)


def _name(contract: Table) -> str:
    return f"delta.`{settings.table_path(contract.qualified)}`"


def _rows(spark: SparkSession, contract: Table, staged: Sequence[Path]) -> DataFrame:
    if not staged:
        return spark.createDataFrame([], ", ".join(f"{column.name} {column.type.spark}" for column in contract.columns))
    return spark.read.parquet(*(str(path) for path in staged)).select(*contract.column_names)
