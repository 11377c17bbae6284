"""Stage: find out what a table still lacks, compute it, and write it aside. Nothing here is visible to readers.

`plan` compares what the table's newest commit was built from with what its inputs hold now, so a run does what is left
to do: after a late file, after a kill, after a change of the code, or nothing at all.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import reduce
from operator import and_
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from contracts import catalog, project
from contracts.interval import DAY, Interval, days_of, merged
from contracts.model import DATE, LONG, TIMESTAMP, Layer, Load, Severity, Table
from contracts.report import RowAccount
from etl import table_reader
from etl.bronze.load import Loaded, load
from etl.gold import aggregate, concerns, windows
from etl.gold.concerns import read_days
from etl.silver import PROVENANCE, select
from etl.sources.landing import Rejected
from lake import delta, release, settings, storage
from lake.delta import CommitMetadata
from lake.publishing import days_sql, ensure_schema, nullable_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame

    from contracts.aggregations import Aggregates

MANY_MONTHS = 240


class StageError(RuntimeError):
    """A table cannot be computed; the message says what is missing."""


@dataclass(frozen=True)
class Plan:
    """What is to be computed: for which days of the table (`days`), or for all of it (`whole`), from which versions of
    the inputs.

    `base` is the table's version at this moment, and `horizon` the exclusive end of the days it will then cover. A plan
    that `appends` adds rows and replaces none.
    """

    table: Table
    interval: Interval
    base: int | None
    inputs: dict[str, int]
    days: tuple[Interval, ...] = ()
    whole: bool = False
    appends: bool = False
    horizon: date | None = None
    last: CommitMetadata | None = None
    ids: dict[str, str] = field(default_factory=dict)
    code: str = ""

    @property
    def nothing_to_do(self) -> bool:
        """Whether the published table is already what this run would make of it."""
        return not self.appends and not self.whole and not self.days and self.last is not None


@dataclass
class Staged:
    """Rows written aside under `folder`, which stay invisible until they are published.

    `rows_in` is counted before anything is dropped; `rejected` are rows that never fitted the columns.
    """

    plan: Plan
    folder: Path
    rows_in: int
    rows: int
    duplicates: int
    distinct_keys: int | None = None
    rejected: list[Rejected] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    changed_days: tuple[Interval, ...] = ()

    @property
    def table(self) -> Table:
        """The contract."""
        return self.plan.table

    def frame(self) -> DataFrame:
        """The staged rows, in the contract's columns."""
        return _frame(self.table, self.folder)

    def paths(self) -> list[Path]:
        """The parquet files to publish; files without rows are left out. StageError unless they hold what was staged,
        as the engine reads one that is gone as if it were empty.
        """
        rows = _rows_by_file(self.folder)
        if sum(rows.values()) != self.rows:
            raise StageError(
                f"{self.table.qualified}: {self.rows} rows were staged, and {sum(rows.values())} are there. Nothing was"
                " published. See that nobody removes files below the lake, then run again"
            )
        return [path for path, count in rows.items() if count]

    def keep(self, good: DataFrame) -> None:
        """Stage only these rows from now on. They are computed from the old stage, which goes once they are written."""
        folder = self.folder.parent / uuid.uuid4().hex
        _write(self.table, good, folder)
        storage.remove_tree(self.folder)
        self.folder, self.rows = folder, _rows_in(folder)

    def discard(self) -> None:
        """Take what was written aside away."""
        storage.remove_tree(self.folder)


def parquet_files(folder: Path) -> list[Path]:
    """The files under a stage that hold rows."""
    return [path for path, count in _rows_by_file(folder).items() if count]


def _rows_by_file(folder: Path) -> dict[Path, int]:
    """The files under a stage, with their rows."""
    return {path: storage.footer(path).num_rows for path in storage.tree(folder, ".parquet")}


def _frame(table: Table, folder: Path) -> DataFrame:
    from etl import engine

    found = parquet_files(folder)
    if not found:
        return engine.empty(", ".join(f"{c.name} {c.type.spark}" for c in table.columns))
    return engine.session().read.parquet(*(str(path) for path in found)).select(*table.column_names)


def new_folder(table: Table) -> Path:
    """A fresh stage on the table's own file system, so that publishing can move files instead of copying them."""
    root = settings.table_path(table.qualified) / "_stage"
    storage.remove_tree(root)
    return root / uuid.uuid4().hex


# --- plan


def plan(table: Table, interval: Interval) -> Plan:
    """What this table lacks, given its inputs as they are now. The caller holds the table's lock until it has
    published.
    """
    mine = delta.open_table(table.qualified)
    if mine is not None:
        ensure_schema(table, mine)
    base, last = (mine.version() if mine else None), delta.last_commit(mine)
    if table.layer == Layer.BRONZE:
        return Plan(table, interval, base, {}, appends=True, last=last)
    sources = {name: _input(table, name) for name in table.inputs}
    versions = {name: source.version() for name, source in sources.items()}
    ids = {name: str(source.metadata().id) for name, source in sources.items()}
    code = code_of(table)
    fresh = last is None or last.code != code or last.ids != ids
    changed = {
        name: None if fresh or last is None else delta.changed_since(source, last.inputs[name])
        for name, source in sources.items()
    }
    everything = any(days is None for days in changed.values()) or _another_input_changed(table, sources, changed, last)
    common = Plan(table, interval, base, versions, whole=everything, last=last, ids=ids, code=code)
    if table.load == Load.SNAPSHOT:
        moved = (
            fresh
            or last is None
            or any(delta.rows_changed_since(source, last.inputs[name]) for name, source in sources.items())
        )
        return replace(common, whole=moved)  # a snapshot is replaced whole, so its commits name no days
    if table.layer == Layer.SILVER:
        days = _all_days(sources) if everything else merged(one for days in changed.values() for one in days or ())
        return replace(common, days=days)
    return _plan_gold(common, sources, changed)


def _another_input_changed(
    table: Table, sources: dict, changed: Mapping[str, Any], last: CommitMetadata | None
) -> bool:
    """Whether a table that a silver transform gets beside its rows has changed: any of these rows may depend on it."""
    if table.layer != Layer.SILVER or last is None:
        return False
    others = [name for name in table.inputs[1:] if name in last.inputs]
    return any(
        changed[name]
        or (catalog.table(name).load == Load.SNAPSHOT and delta.rows_changed_since(sources[name], last.inputs[name]))
        for name in others
    )


def plan_part(
    table: Table, interval: Interval, part: Mapping[str, Any], inputs: Mapping[str, int], ids: Mapping[str, str]
) -> Plan:
    """What it takes to add a part of a table that is computed elsewhere: the rows in which these columns have these
    values.

    A part is published in one commit, so it is there as a whole or not at all. `inputs` and `ids` are the versions and
    identities of the tables that it is made from. The caller holds the table's lock until it has published.
    """
    mine = delta.open_table(table.qualified)
    if mine is not None:
        ensure_schema(table, mine)
    base, last = (mine.version() if mine else None), delta.last_commit(mine)
    rows = _rows_of_part(table, mine, part) if mine else 0
    if rows:
        account = asdict(RowAccount(rows, rows, 0, 0))
        last = CommitMetadata("", dict(inputs), account=account, ids=dict(ids))
    return Plan(table, interval, base, dict(inputs), appends=not rows, last=last, ids=dict(ids))


def _rows_of_part(table: Table, mine: DeltaTable, part: Mapping[str, Any]) -> int:
    """Files are skipped by numbers and instants alone: for text our log has no bounds, and pyarrow takes a bound that
    is missing as one that no value is within.
    """
    import pyarrow.compute as pc

    equal = {name: pc.field(name) == value for name, value in part.items()}
    bounded = [equal[name] for name in part if table.column(name).type in (LONG, DATE, TIMESTAMP)]
    skipped = reduce(and_, bounded) if bounded else None
    rows = mine.to_pyarrow_dataset().to_table([*part], filter=skipped)
    return int(rows.filter(reduce(and_, equal.values())).num_rows)


def _input(table: Table, name: str):  # type: ignore[no-untyped-def]
    found = delta.open_table(name)
    if found is None:
        raise StageError(
            f"{table.qualified} needs {name}, which was never published. Run the DAG from the bronze layer on, or look"
            f" why {name} failed"
        )
    return found


def _all_days(sources: dict) -> tuple[Interval, ...]:
    return merged(days for name, source in sources.items() if (days := delta.extent(source, catalog.table(name))))


def _plan_gold(common: Plan, sources: dict, changed: dict[str, tuple[Interval, ...] | None]) -> Plan:
    """Which midnights a change concerns: those that look back on its days, but none beyond the horizon."""
    reach, drivers = _reach(common.table), _drivers(common.table)
    reached = common.last.horizon if common.last else _released_horizon()
    horizon = max(common.interval.end, reached) if reached else common.interval.end
    days = None if common.whole else _changed_days(common, sources, changed)
    if days is None:
        common = replace(common, whole=True)
        known = _all_days({name: sources[name] for name in drivers})
        spans = [Interval(known[0].start, max(known[-1].end, horizon))] if known else []
        midnights = [Interval(span.start + DAY, span.end + DAY) for span in spans]
    else:
        midnights = [windows.midnights_changed_by(span, reach) for span in days]
        if common.last and common.last.horizon and horizon > common.last.horizon:
            midnights.append(Interval(common.last.horizon + DAY, horizon + DAY))
    clipped = [kept for span in midnights if (kept := span.clipped(horizon + DAY))]
    return replace(common, days=merged(clipped), horizon=horizon)


def _released_horizon() -> date | None:
    """Up to when the newest release knows; a rebuilt table has to reach as far."""
    numbers = release.numbers()
    return date.fromisoformat(release.read(numbers[-1]).horizon) if numbers else None


def _changed_days(
    common: Plan, sources: dict, changed: dict[str, tuple[Interval, ...] | None]
) -> tuple[Interval, ...] | None:
    """The days on which something happened that the inputs' changes concern; None where everything is concerned."""
    before = common.last.inputs if common.last else {}
    if common.table.aggregates:
        return concerns.changed_event_days(common.table.aggregates, before, common.inputs, changed)
    snapshots = [name for name in sources if catalog.table(name).load == Load.SNAPSHOT]
    if any(delta.rows_changed_since(sources[name], before[name]) for name in snapshots):
        return None
    return merged(span for name in sources if name not in snapshots for span in changed[name] or ())


def _reach(table: Table) -> int | None:
    """How many days before a midnight's own day decide its rows; None: all of them. StageError where the contract does
    not say.
    """
    if table.aggregates:
        return table.aggregates.reach
    if table.history_days is None:
        raise StageError(
            f"{table.qualified} neither declares aggregations nor says what its rows depend on. Give its contract"
            " `history`, as long as its transform looks back, or `load=Load.SNAPSHOT` to rebuild it after each change"
        )
    return table.history_days


def _drivers(table: Table) -> list[str]:
    """The inputs whose days the table's midnights follow."""
    if table.aggregates:
        return [table.aggregates.events.qualified]
    return [
        name for name in table.inputs if catalog.table(name).time_column and catalog.table(name).load != Load.SNAPSHOT
    ]


def transform(table: Table) -> ModuleType:
    """The project's module that computes the table, or prepares its events: its path is the table's name. StageError
    where there is none.
    """
    found = project.module(_path_of(table))
    if found is None:
        raise StageError(f"{table.qualified} needs a transform: write {project.current().file(_path_of(table))}")
    return found


def has_transform(table: Table) -> bool:
    """Whether the project has one. Declarations of columns and aggregations need none."""
    return project.current().has_module(_path_of(table))


def _path_of(table: Table) -> str:
    return f"transforms.{table.layer}.{table.name}"


def code_of(table: Table) -> str:
    """A fingerprint of what decides the table's content: the transform, what the layer shares, and the contract's
    columns, key and checks. Empty for one without a transform.
    """
    if table.layer not in (Layer.SILVER, Layer.GOLD):
        return ""
    shared = [windows, aggregate] if table.layer == Layer.GOLD else [select]
    own = _sources(transform(table)) if has_transform(table) else {}
    facts = (
        repr([(c.name, c.type.spark, c.source) for c in table.columns])
        + repr(table.key)
        + repr([(c.name, c.sql, c.severity) for c in table.checks()])
        + repr(table.references)
        + repr([_declaration(table.aggregates)] if table.aggregates else table.history)
    )
    text = "".join((*(own[name] for name in sorted(own)), *(inspect.getsource(module) for module in shared))) + facts
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources(module: ModuleType) -> dict[str, str]:
    """The text of a project's module and of all modules of the project that it imports, by name. Contracts are left
    out: what of them counts is said apart.
    """
    of, found, waiting = project.current(), {}, [module]
    while waiting:
        module = waiting.pop()
        found[module.__name__] = text = inspect.getsource(module)
        for name in _imported(text, of.name):
            path = name.removeprefix(f"{of.name}.")
            if name not in found and not path.startswith("contracts.") and of.has_module(path):
                imported = of.module(path)
                waiting += [imported] if imported is not None and getattr(imported, "__file__", None) else []
    return found


def _imported(text: str, package: str) -> Iterator[str]:
    """The modules of a package that a module's text imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{package}."))
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module
            and (node.module == package or node.module.startswith(f"{package}."))
        ):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _declaration(declared: Aggregates) -> tuple[Any, ...]:
    """What of a declaration decides values: no words, and of an input's contract what decides which of its rows is
    taken.
    """
    parts = [replace(part, doc="", meaning="", unit=None) for part in declared.aggregations]
    joined = [
        (type(other).__name__, _identity(other.table), {**vars(other), "table": None}) for other in declared.joined
    ]
    prepared = [(column.name, column.type.spark, column.required) for column in declared.prepared]
    return (_identity(declared.events), [column.name for column in declared.key], parts, joined, prepared)


def _identity(table: Table) -> tuple[Any, ...]:
    """What of an input's contract decides what is made of it."""
    return (
        table.qualified,
        table.key,
        table.time_column,
        [(column.name, column.type.spark, column.required) for column in table.columns],
    )


# --- stage


def stage(planned: Plan) -> Staged:
    """Compute what the plan names and write it aside."""
    folder = new_folder(planned.table)
    if planned.table.layer == Layer.BRONZE:
        return _stage_bronze(planned, folder)
    if planned.table.layer == Layer.SILVER:
        return _stage_silver(planned, folder)
    return _stage_gold(planned, folder)


def stage_rows(planned: Plan, rows: pa.Table, rows_in: int) -> Staged:
    """Write aside rows that were computed elsewhere, with at least the contract's columns; `rows_in` is how many the
    caller expects, counted from what they were made of.
    """
    import pyarrow.parquet as pq

    table, folder = planned.table, new_folder(planned.table)
    storage.make_folder(folder)
    kept = rows.select(table.column_names).cast(nullable_schema(table))
    with (folder / "part-0.parquet").open("wb") as output:
        pq.write_table(kept, output, compression="zstd")
    keys = kept.group_by([*table.key]).aggregate([]).num_rows if table.key else None
    return Staged(planned, folder, rows_in, _rows_in(folder), 0, distinct_keys=keys)


def _stage_bronze(planned: Plan, folder: Path) -> Staged:
    loaded: Loaded = load(planned.table, planned.interval, folder)
    return Staged(
        planned,
        folder,
        loaded.rows_in,
        loaded.staged,
        loaded.duplicates,
        rejected=loaded.rejected,
        files=loaded.files,
        changed_days=loaded.changed_days,
    )


def _stage_silver(planned: Plan, folder: Path) -> Staged:
    table = planned.table
    incoming, cleaned = _cleaned(planned)
    while displaced := _days_of_later_twins(planned, cleaned):
        planned = replace(planned, days=merged((*planned.days, *displaced)))
        incoming, cleaned = _cleaned(planned)
    _refuse_other_days(planned, cleaned)
    rows_in = incoming.count()
    unique = _all_distinct(table, cleaned, rows_in)
    once = cleaned if unique else _without_duplicates(table, cleaned)
    if planned.base is not None and planned.days:
        once = once.join(_published_elsewhere(planned, cleaned).select(*table.key), list(table.key), "left_anti")
    if unique and table.time_column and sum(1 for one in planned.days for _ in one.months()) <= MANY_MONTHS:
        _write_by_month(table, once, planned.days, folder)
    else:
        _write(table, once.select(*table.column_names), folder)
    rows = _rows_in(folder)
    if rows != rows_in:
        RowAccount(rows_in, cleaned.count(), 0, 0).verify(
            table.qualified
        )  # only a row that has a twin is a duplicate, not one that the transform lost
    keys = rows_in if unique and rows == rows_in else _distinct_keys(table, _frame(table, folder), rows)
    return Staged(planned, folder, rows_in, rows, rows_in - rows, distinct_keys=keys, changed_days=planned.days)


def _refuse_other_days(planned: Plan, cleaned: DataFrame) -> None:
    """A transform that moves a row to another day than bronze has it under: that day would be replaced without it, or
    with it alone.
    """
    table = planned.table
    if not has_transform(table) or not table.time_column or not planned.days:
        return
    elsewhere = cleaned.filter(f"{table.time_column} IS NOT NULL AND NOT ({days_sql(table, planned.days)})").count()
    if elsewhere:
        raise StageError(
            f"{table.qualified}: its transform moves {elsewhere:,} rows to other days than {table.inputs[0]} has them"
            f" under. A row's day must be the same in both: declare in bronze the time_column that {table.time_column}"
            " is made of, and keep its day"
        )


def _cleaned(planned: Plan) -> tuple[DataFrame, DataFrame]:
    """The rows that come in, and what the transform makes of them."""
    source = catalog.table(planned.table.inputs[0])
    version = planned.inputs[source.qualified]
    incoming = (
        table_reader.read(source.qualified, version)
        if planned.whole
        else read_days(source.qualified, version, planned.days)
    )
    others = [table_reader.read(name, planned.inputs[name]) for name in planned.table.inputs[1:]]
    return incoming, clean(planned.table, incoming, *others)


def clean(table: Table, incoming: DataFrame, *others: DataFrame) -> DataFrame:
    """A silver table's columns and the audit columns, from the rows of its inputs: by the project's transform, or as
    its columns are declared.
    """
    if not has_transform(table):
        return select.clean(table, catalog.table(table.inputs[0]), incoming)
    cleaned: DataFrame = transform(table).clean(incoming, *others)
    return cleaned


def _published_elsewhere(planned: Plan, cleaned: DataFrame) -> DataFrame:
    """What the table holds under other days: a row whose key is among them is a duplicate of theirs.

    Rows whose key lies outside of the range that comes in are left out, since they match none: so a long past is not
    read, as its files' statistics say that it lies outside.
    """
    from pyspark.sql import functions as F

    table, version = planned.table, planned.base or 0
    elsewhere = f"NOT ({days_sql(table, planned.days)})"
    ranged = [name for name in table.key if table.column(name).type in (LONG, DATE)]
    if not ranged:
        return table_reader.read(table.qualified, version).filter(elsewhere)
    found = cleaned.agg(*map(F.min, ranged), *map(F.max, ranged)).collect()[0]
    ranges = {
        name: (low, high) for name, low, high in zip(ranged, found[: len(ranged)], found[len(ranged) :], strict=True)
    }
    published = table_reader.read(
        table.qualified, version, {name: [one] for name, one in ranges.items() if one[0] is not None}
    ).filter(elsewhere)
    for name, (low, high) in ranges.items():
        published = published.filter(
            F.col(name).between(low, high)
        )  # of a key that is NULL in each row that comes in: no row
    return published


def _days_of_later_twins(planned: Plan, cleaned: DataFrame) -> tuple[Interval, ...]:
    """Days on which a key is published that now comes under an earlier day, which wins: they are done anew, so that the
    order of the runs does not matter.
    """
    from pyspark.sql import functions as F

    table = planned.table
    published = delta.open_table(table.qualified, planned.base) if planned.base is not None and planned.days else None
    extent = delta.extent(published, table) if published else None
    if extent is None or extent.end <= min(one.end for one in planned.days):
        return ()
    day = F.to_date(F.col(table.time_column or ""))
    ours = cleaned.filter(_kept_sql(table)).select(*table.key, day.alias("_day"))
    theirs = _published_elsewhere(planned, cleaned).select(*table.key, day.alias("_later"))
    return days_of(
        row["_later"]
        for row in theirs.join(ours, list(table.key)).filter("_day < _later").select("_later").distinct().collect()
    )


def _stage_gold(planned: Plan, folder: Path) -> Staged:
    table = planned.table
    if table.load == Load.SNAPSHOT:
        rows = transform(table).features(
            *(table_reader.read(name, version) for name, version in planned.inputs.items())
        )
    else:
        rows = _features(planned)
    if planned.whole or planned.days:
        _write(table, rows.select(*table.column_names), folder)
    count = _rows_in(folder)
    return Staged(
        planned,
        folder,
        count,
        count,
        0,
        distinct_keys=_distinct_keys(table, _frame(table, folder), count),
        changed_days=planned.days,
    )


def _features(planned: Plan) -> DataFrame:
    """The rows of the planned midnights."""
    table, versions = planned.table, planned.inputs
    if table.aggregates:
        prepare = transform(table).events if table.aggregates.needs_transform else None
        whole = (
            {name: table_reader.read(name, version) for name, version in versions.items()} if planned.whole else None
        )
        return aggregate.features(
            table, planned.days, whole or concerns.history(table, planned.days, versions), prepare
        )
    needed = merged(windows.history_for(span, _reach(table)) for span in planned.days)
    driven = () if planned.whole else _drivers(table)
    inputs = [
        read_days(name, version, needed) if name in driven else table_reader.read(name, version)
        for name, version in versions.items()
    ]
    return transform(table).features(planned.days, *inputs)


def _distinct_keys(table: Table, rows: DataFrame, count: int) -> int:
    """How many keys these `count` rows have, for the audit to compare with the rows. A row with a NULL in its key
    counts as one of its own: it goes to quarantine.
    """
    from pyspark.sql import functions as F

    whole_key = " AND ".join(f"{name} IS NOT NULL" for name in table.key)
    hashed = F.when(F.expr(whole_key), F.xxhash64(*table.key))
    found = (
        rows.select(hashed.alias("key"))
        .groupBy("key")
        .count()
        .agg(F.count("key").alias("keys"), F.sum(F.when(F.col("key").isNull(), F.col("count"))))
        .collect()[0]
    )
    counted = int(found[0]) + int(found[1] or 0)
    return counted if counted == count else int(rows.select(*table.key).distinct().count())


def _all_distinct(table: Table, cleaned: DataFrame, rows_in: int) -> bool:
    """Whether no key comes twice. Hashes that are all distinct prove keys that are all distinct; hashes that collide
    only cost time.
    """
    from pyspark.sql import functions as F

    return bool(cleaned.select(F.xxhash64(*table.key)).distinct().count() == rows_in)


def _kept_sql(table: Table) -> str:
    """A condition that a row breaks no critical check of its own."""
    return (
        " AND ".join(
            f"coalesce(({check.sql}), true)" for check in table.checks() if check.severity == Severity.CRITICAL
        )
        or "true"
    )


def _without_duplicates(table: Table, cleaned: DataFrame) -> DataFrame:
    """One row per key: one that keeps its contract wins over one that does not, then the earliest day, then the newest
    delivery.

    Rows with a NULL in their key are all kept, for the audit to judge.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    ranked = cleaned.withColumn("_kept", F.expr(_kept_sql(table)))
    days = [F.to_date(table.time_column)] if table.time_column else []
    order = [
        F.col("_kept").desc(),
        *days,
        *(F.col(name).desc() for name in PROVENANCE),
        *(F.col(name) for name in table.column_names),
    ]
    ranked = ranked.withColumn("_nth", F.row_number().over(Window.partitionBy(*table.key).orderBy(*order)))
    whole_key = " AND ".join(f"{name} IS NOT NULL" for name in table.key)
    return ranked.filter(f"_nth = 1 OR NOT ({whole_key})")


def _write(table: Table, rows: DataFrame, folder: Path) -> None:
    """Files apart by month of the time column, so that replacing a day later rewrites one month at most."""
    from pyspark.sql import functions as F

    writer = rows
    if table.time_column:
        day = F.col(table.time_column) if table.column(table.time_column).type == DATE else F.to_date(table.time_column)
        writer = rows.withColumn("part", F.date_format(day, "yyyy-MM"))
        writer.write.partitionBy("part").mode("overwrite").parquet(str(folder))
    else:
        writer.write.mode("overwrite").parquet(str(folder))


def _write_by_month(table: Table, rows: DataFrame, days: Sequence[Interval], folder: Path) -> None:
    """The same, a job per month: where rows are only read, filtered and written, that is cheaper than sorting each row
    into its month.

    Each is partitioned all the same, by a constant: Sail then writes one file, and otherwise 4 per partition of the
    plan. Every later plan goes through all files of a long past.
    """
    from pyspark.sql import functions as F

    for month in (part for one in days for part in one.months()):
        picked = rows.filter(days_sql(table, [month])).select(
            *table.column_names, F.lit(f"{month.start:%Y-%m}").alias("part")
        )
        picked.write.partitionBy("part").mode("overwrite").parquet(str(folder / str(month.start)))


def _rows_in(folder: Path) -> int:
    return sum(_rows_by_file(folder).values())
