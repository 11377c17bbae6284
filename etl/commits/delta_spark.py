"""Commits by delta-spark, on the engine's own Spark: each is one statement there, so rows never pass through this process.

New tables are created by delta-rs on every engine, which alone writes NOT NULL, comments and PII tags of a column at once.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from contracts import settings, storage
from contracts.interval import Interval
from contracts.model import Table
from etl import delta, publishing
from etl.commits import Commit
from etl.commits.delta_rs import refuse_doubled_keys, untouched
from etl.delta import State
from etl.publishing import PublishError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

METADATA = "spark.databricks.delta.commitInfo.userMetadata"
LISTERS = "16"
"""Tasks that list a table's folder; Spark starts 10,000 for a vacuum, which takes a minute on a laptop."""
_one_at_a_time = threading.Lock()
"""Commit metadata is a setting of the session, which the threads of a process share."""


class DeltaSpark:
    """See `etl.commits.Committer`."""

    def publish(self, contract: Table, staged: Sequence[Path], state: State, *, base: int | None, replace: Sequence[Interval] = (), whole: bool = False) -> int:
        """`replaceWhere` for days, an overwrite for all, an append otherwise."""
        publishing.refuse_moved(contract, base)
        table = publishing.open_or_create(contract)
        app_id = f"millrace/{state.run_id}"
        options = {"txnAppId": app_id, "txnVersion": str((table.transaction_version(app_id) or 0) + 1), "userMetadata": state.to_json()}
        if replace and not whole:
            options["replaceWhere"] = publishing.days_sql(contract, replace)
        self._write(contract, staged, "overwrite" if whole or replace else "append", options)
        return self._settled(contract, table.version())

    def append_once(self, contract: Table, staged: Sequence[Path], state: State, once: str) -> int:
        """Delta's transaction id remembers what was appended, and passes a repeat over."""
        before = publishing.open_or_create(contract)
        if before.transaction_version(once) is None:
            self._write(contract, staged, "append", {"txnAppId": once, "txnVersion": "1", "userMetadata": state.to_json()})
            return self._settled(contract, before.version())
        return int(before.version())

    def merge(self, contract: Table, staged: Sequence[Path], state: State, *, base: int | None) -> int:
        """MERGE INTO by the contract's key."""
        refuse_doubled_keys(contract, staged)
        publishing.refuse_moved(contract, base)
        before = publishing.open_or_create(contract)
        same = " AND ".join(f"target.{name} = source.{name}" for name in contract.key)
        with self._session(state) as spark:
            query = f"MERGE INTO {_name(contract)} AS target USING {{rows}} AS source ON {same} WHEN MATCHED THEN UPDATE SET * WHEN NOT MATCHED THEN INSERT *"
            spark.sql(query, rows=_rows(spark, contract, staged)).collect()
        return self._settled(contract, before.version())

    def delete(self, contract: Table, condition: str, state: State, *, base: int) -> int:
        """DELETE FROM."""
        publishing.refuse_moved(contract, base)
        with self._session(state) as spark:
            spark.sql(f"DELETE FROM {_name(contract)} WHERE {condition}").collect()
        return self._newest(contract)

    def optimize(self, contract: Table) -> int:
        """OPTIMIZE; the commit repeats the last state, with no day touched."""
        with self._session(untouched(delta.last_state(publishing.open_or_create(contract)))) as spark:
            spark.sql(f"OPTIMIZE {_name(contract)}").collect()
        return self._newest(contract)

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = ()) -> int:
        """VACUUM counts in hours only, so all that came after the oldest version to keep stays too."""
        root = settings.table_path(contract.qualified)
        before = len(storage.tree(root, ".parquet"))
        spared = [one.at for one in self.history(contract) if keep and one.version > min(keep)]
        oldest = min([datetime.now(UTC) - older_than, *spared])
        hours = math.ceil((datetime.now(UTC) - oldest) / timedelta(hours=1))
        with self._session(State("vacuum")) as spark:
            spark.conf.set("spark.databricks.delta.retentionDurationCheck.enabled", "false")
            spark.conf.set("spark.sql.sources.parallelPartitionDiscovery.parallelism", LISTERS)
            spark.sql(f"VACUUM {_name(contract)} RETAIN {hours} HOURS").collect()
        return before - len(storage.tree(root, ".parquet"))

    def history(self, contract: Table) -> list[Commit]:
        """DESCRIBE HISTORY."""
        from etl.engine import session

        if delta.open_table(contract.qualified) is None:
            return []
        rows = session().sql(f"DESCRIBE HISTORY {_name(contract)}").select("version", "timestamp", "operation", "userMetadata").toArrow().to_pylist()
        runs = {one.version: one.run_id for one in self._recorded(contract)}
        return [Commit(row["version"], row["timestamp"].astimezone(UTC), row["operation"], runs.get(row["version"], "")) for row in rows]

    def at(self, contract: Table, version: int) -> DataFrame:
        """As the engine reads it."""
        return delta.read(contract.qualified, version).select(*contract.column_names)

    def _recorded(self, contract: Table) -> list[Commit]:
        """Commits of delta-rs keep their state where DESCRIBE HISTORY does not look."""
        from etl.commits.delta_rs import DeltaRs

        return DeltaRs().history(contract)

    def _write(self, contract: Table, staged: Sequence[Path], mode: str, options: dict[str, str]) -> None:
        from etl.engine import session

        spark = session()
        rows = _rows(spark, contract, staged)
        try:
            rows.write.format("delta").mode(mode).options(**options).save(str(settings.table_path(contract.qualified)))
        except Exception as error:
            if "Concurrent" in str(error):
                told = str(error).splitlines()[0]
                raise PublishError(
                    f"{contract.qualified}: another writer committed at the same time ({told}). Nothing was written; run the interval again"
                ) from error
            raise

    @contextmanager
    def _session(self, state: State) -> Iterator[SparkSession]:
        """The session, with `state` as the metadata of what is committed inside."""
        from etl.engine import session

        spark = session()
        with _one_at_a_time:
            spark.conf.set(METADATA, state.to_json())
            try:
                yield spark
            finally:
                spark.conf.unset(METADATA)

    def _settled(self, contract: Table, before: int) -> int:
        newest = self._newest(contract)
        if newest != before + 1:
            raise PublishError(f"{contract.qualified}: version {before + 1} was to be written, and the newest is {newest}. Run the interval again")
        return newest

    def _newest(self, contract: Table) -> int:
        newest = delta.version_of(contract.qualified) or 0
        publishing.sync_log(contract.qualified, newest)
        return newest


def _name(contract: Table) -> str:
    return f"delta.`{settings.table_path(contract.qualified)}`"


def _rows(spark: SparkSession, contract: Table, staged: Sequence[Path]) -> DataFrame:
    if not staged:
        return spark.createDataFrame([], ", ".join(f"{column.name} {column.type.spark}" for column in contract.columns))
    return spark.read.parquet(*(str(path) for path in staged)).select(*contract.column_names)
