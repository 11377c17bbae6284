"""Plan: find out what a table lacks, given its inputs as they are now.

`plan` compares the versions that the table's newest commit was built from with the inputs' current versions. So a run
does only what is left to do: after a late file, after a kill, after a change of the code, or nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from functools import reduce
from operator import and_
from typing import TYPE_CHECKING, Any, TypeAlias

from contracts import catalog
from contracts.interval import DAY, Interval, merged
from contracts.model import DATE, LONG, TIMESTAMP, Layer, Load, Table
from contracts.report import RowAccount
from etl.gold import dependencies, windows
from etl.transforms import StageError, code_of
from lake import delta, release
from lake.delta import CommitMetadata
from lake.publishing import ensure_schema, missing_columns, take_columns

if TYPE_CHECKING:
    from deltalake import DeltaTable

Days: TypeAlias = tuple[Interval, ...]
Inputs: TypeAlias = "Mapping[str, DeltaTable]"
"""A table's inputs at their current versions, by name."""
Changes: TypeAlias = Mapping[str, Days | None]
"""The days of each input that changed since the last run; None where that cannot be known."""


@dataclass(frozen=True)
class Plan:
    """What a run computes: some days of the table (`days`) or all of it (`whole`), from these versions of its inputs.

    `base` is the table's version when the plan was made, and `horizon` the exclusive end of the days that it covers
    afterwards. With `appends`, rows are only added. `last` describes the table's newest commit, `ids` the identities of
    the inputs, and `code` is the fingerprint of the code (`code_of`).
    """

    table: Table
    interval: Interval
    base: int | None
    inputs: dict[str, int]
    days: Days = ()
    whole: bool = False
    appends: bool = False
    horizon: date | None = None
    last: CommitMetadata | None = None
    ids: dict[str, str] = field(default_factory=dict)
    code: str = ""

    @property
    def nothing_to_do(self) -> bool:
        """Whether the published table is up to date."""
        return not self.appends and not self.whole and not self.days and self.last is not None


def plan(table: Table, interval: Interval) -> Plan:
    """What the table lacks, given its inputs as they are now. The caller holds the table's lock until it has published.

    StageError where an input was never published, or where the contract does not say how far back the rows look.
    """
    if table.layer == Layer.BRONZE:
        take_columns(table)
    published = _open_published(table)
    base, last = (published.version() if published else None), delta.last_commit(published)
    if table.layer == Layer.BRONZE:
        return Plan(table, interval, base, {}, appends=True, last=last)
    inputs = {name: _input(table, name) for name in table.inputs}
    versions = {name: source.version() for name, source in inputs.items()}
    ids = {name: str(source.metadata().id) for name, source in inputs.items()}
    code = code_of(table)
    is_current = last is not None and last.code == code and last.ids == ids
    comparable = last if is_current and not (published and missing_columns(table, published)) else None
    changed = {
        name: delta.changed_since(source, comparable.inputs[name]) if comparable else None
        for name, source in inputs.items()
    }
    whole = any(days is None for days in changed.values()) or _other_input_changed(table, inputs, changed, last)
    whole = whole or _is_replaced(table, changed)
    common = Plan(table, interval, base, versions, whole=whole, last=last, ids=ids, code=code)
    if table.load == Load.SNAPSHOT:  # replaced as a whole, so its commits name no days
        return replace(common, whole=comparable is None or _any_rows_changed(inputs, comparable.inputs))
    if table.layer == Layer.SILVER:
        days = _all_days(inputs) if whole else merged(span for spans in changed.values() for span in spans or ())
        return replace(common, days=days)
    return _plan_gold(common, inputs, changed)


def plan_part(
    table: Table, interval: Interval, part: Mapping[str, Any], inputs: Mapping[str, int], ids: Mapping[str, str]
) -> Plan:
    """Plan to add a part of a table that is computed elsewhere: the rows with the column values in `part`.

    A part is published in one commit, so either all of it is there or none. `inputs` and `ids` are the versions and
    identities of the tables that it is made from. The caller holds the table's lock until it has published.
    """
    published = _open_published(table)
    base, last = (published.version() if published else None), delta.last_commit(published)
    rows = _count_part(table, published, part) if published else 0
    if rows:
        account = asdict(RowAccount(rows, rows, 0, 0))
        last = CommitMetadata("", dict(inputs), account=account, ids=dict(ids))
    return Plan(table, interval, base, dict(inputs), appends=not rows, last=last, ids=dict(ids))


def _open_published(table: Table) -> DeltaTable | None:
    published = delta.open_table(table.qualified)
    if published is not None:
        ensure_schema(table, published)
    return published


def _count_part(table: Table, published: DeltaTable, part: Mapping[str, Any]) -> int:
    """How many rows of the part are published.

    Only numbers and instants skip files: our log has no bounds for text, and pyarrow takes a missing bound as one that
    no value is within.
    """
    import pyarrow.compute as pc

    equal = {name: pc.field(name) == value for name, value in part.items()}
    bounded = [equal[name] for name in part if table.column(name).type in (LONG, DATE, TIMESTAMP)]
    skipping = reduce(and_, bounded) if bounded else None
    rows = published.to_pyarrow_dataset().to_table([*part], filter=skipping)
    return int(rows.filter(reduce(and_, equal.values())).num_rows)


def _input(table: Table, name: str) -> DeltaTable:
    source = delta.open_table(name)
    if source is None:
        raise StageError(
            f"{table.qualified} needs {name}, which was never published. Run the DAG from the bronze layer on, or look"
            f" why {name} failed"
        )
    return source


def _other_input_changed(table: Table, inputs: Inputs, changed: Changes, last: CommitMetadata | None) -> bool:
    """Whether an input that a silver transform gets beside its rows has changed: any of its rows may depend on it."""
    if table.layer != Layer.SILVER or last is None:
        return False
    others = {name: inputs[name] for name in table.inputs[1:] if name in last.inputs}
    return any(changed[name] for name in others) or _any_rows_changed(_snapshots(others), last.inputs)


def _is_replaced(table: Table, changed: Changes) -> bool:
    """Whether a new snapshot replaces all rows of a silver table: also those of days that it has no row of."""
    return table.layer == Layer.SILVER and any(changed[name] for name in table.inputs[:1] if _is_pulled(name))


def _is_pulled(name: str) -> bool:
    return catalog.table(name).is_replaced_by_pulls


def _snapshots(inputs: Inputs) -> Inputs:
    return {name: source for name, source in inputs.items() if catalog.table(name).load == Load.SNAPSHOT}


def _any_rows_changed(inputs: Inputs, before: Mapping[str, int]) -> bool:
    """Whether any of the inputs has other rows than at the version `before`."""
    return any(delta.rows_changed_since(source, before[name]) for name, source in inputs.items())


def _all_days(inputs: Inputs) -> Days:
    return merged(span for name, source in inputs.items() if (span := delta.extent(source, catalog.table(name))))


# --- gold


def _plan_gold(common: Plan, inputs: Inputs, changed: Changes) -> Plan:
    """Plan the midnights that look back on a changed day, up to the horizon; in a table of instants, the changed days
    of events.
    """
    look_back, horizon = reach(common.table), _horizon(common)
    days = None if common.whole else _changed_event_days(common, inputs, changed)
    if common.table.is_of_instants:
        known = _all_days({name: inputs[name] for name in drivers(common.table)})
        return replace(common, whole=days is None, days=known if days is None else merged(days), horizon=horizon)
    if days is None:
        common = replace(common, whole=True)
        known = _all_days({name: inputs[name] for name in drivers(common.table)})
        midnights = [Interval(known[0].start + DAY, max(known[-1].end, horizon) + DAY)] if known else []
    else:
        midnights = [windows.midnights_changed_by(span, look_back) for span in days]
        if common.last and common.last.horizon and horizon > common.last.horizon:
            midnights.append(Interval(common.last.horizon + DAY, horizon + DAY))
    clipped = [kept for span in midnights if (kept := span.clipped(horizon + DAY))]
    return replace(common, days=merged(clipped), horizon=horizon)


def _horizon(common: Plan) -> date:
    """The exclusive end of the days to cover: never less than before. A table that is rebuilt from nothing reaches as
    far as the newest release.
    """
    before = common.last.horizon if common.last else _released_horizon()
    return max(common.interval.end, before) if before else common.interval.end


def _released_horizon() -> date | None:
    numbers = release.numbers()
    return date.fromisoformat(release.read(numbers[-1]).horizon) if numbers else None


def _changed_event_days(common: Plan, inputs: Inputs, changed: Changes) -> Days | None:
    """The days of events that the inputs' changes concern; None for all of them."""
    before = common.last.inputs if common.last else {}
    if common.table.aggregates:
        return dependencies.changed_event_days(common.table.aggregates, before, common.inputs, changed)
    snapshots = _snapshots(inputs)
    if _any_rows_changed(snapshots, before):
        return None
    return merged(span for name in inputs if name not in snapshots for span in changed[name] or ())


def reach(table: Table) -> int | None:
    """How many days before a midnight's own day decide its rows; None for all of them.

    StageError where the contract does not say.
    """
    if table.aggregates:
        return table.aggregates.reach
    if table.history_days is None:
        raise StageError(
            f"{table.qualified} neither declares aggregations nor says what its rows depend on. Give its contract"
            " `history`, as long as its transform looks back, or `load=Load.SNAPSHOT` to rebuild it after each change"
        )
    return table.history_days


def drivers(table: Table) -> list[str]:
    """The inputs whose days the table's midnights follow."""
    if table.aggregates:
        return [table.aggregates.events.qualified]
    return [
        name for name in table.inputs if catalog.table(name).time_column and catalog.table(name).load != Load.SNAPSHOT
    ]
