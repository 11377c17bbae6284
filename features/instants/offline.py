"""DuckDB SQL that computes features at each label's instant from the events of a table of instants.

Running sums are found by as-of joins: one at the label, and one for each window. What they add up is in `lookups`.
"""

from __future__ import annotations

from collections.abc import Sequence

from feast import FeatureView

from features import queries
from features.instants.lookups import TIME, Extreme, Lookups, Newest, Oldest, Running, lookups, values
from features.source import GoldTable
from lake.sql import identifier


def as_of(table: str, source: GoldTable, view: FeatureView, requested: Sequence[str], *, as_served: bool = True) -> str:
    """`__row` and the requested features of each row of `labels` (`__row`, `__at`, join keys) whose key has an event
    before `__at`, in any order. `table` is a relation of the events. Values are in Feast's types, or unless
    `as_served`, in the contract's.
    """
    needed = lookups(view, requested)
    sums, others = _sums(needed), _others(needed)
    clauses = [*_preparation(table, source, view, needed), *sums.items(), *others.items()]
    joined = " ".join(f"LEFT JOIN {name} USING (__row)" for name in (*sums, *others))
    return (
        f"WITH {', '.join(f'{name} AS MATERIALIZED ({query})' for name, query in clauses)}"
        f" SELECT requests.__row, {values(needed, view, requested, as_served=as_served)} FROM requests {joined}"
        f" WHERE {needed.events} > 0"
    )


def _preparation(table: str, source: GoldTable, view: FeatureView, needed: Lookups) -> list[tuple[str, str]]:
    """Keys become integers, and the events of one instant one row of running sums."""
    label_keys = [identifier(name) for name in queries.label_keys(view)]
    own_keys = [identifier(source.column(key.name)) for key in view.entity_columns]
    of_labels, of_events = (
        ", ".join(f"{name} AS __k{n}" for n, name in enumerate(names)) for names in (label_keys, own_keys)
    )
    same = ", ".join(f"__k{n}" for n in range(len(own_keys)))
    columns = "".join(f", {identifier(source.column(column))} AS {name}" for column, name in needed.columns.items())
    instant = f"epoch_us({identifier(source.event_column)}) AS {TIME}"
    labels = f"SELECT __row, __at, {of_labels} FROM labels"
    events = f"SELECT {of_events}, {instant}{columns} FROM {table}"
    neighbors = "".join(
        f", lag({TIME}) OVER w{column} AS {before}, lead({TIME}) OVER w{column} AS {after}"
        for column, (before, after) in needed.members.items()
    )
    by_member = ", ".join(f"w{column} AS (PARTITION BY __key, {column} ORDER BY {TIME})" for column in needed.members)
    window = f" WINDOW {by_member}" if by_member else ""
    sums = ", ".join(f"{_of_instant(running)} AS {name}" for running, name in needed.running.items())
    running = ", ".join(f"sum({name}) OVER w AS {name}" for name in needed.running.values())
    return [
        ("entities", f"SELECT DISTINCT {of_labels} FROM labels"),
        ("numbered", "SELECT *, CAST(row_number() OVER () AS INTEGER) AS __key FROM entities"),
        ("requests", f"SELECT __row, __at, __key FROM ({labels}) JOIN numbered USING ({same})"),
        ("events", f"SELECT * EXCLUDE ({same}){neighbors} FROM ({events}) JOIN numbered USING ({same}){window}"),
        ("instants", f"SELECT __key, {TIME}, {sums} FROM events GROUP BY ALL"),
        ("running", f"SELECT __key, {TIME}, {running} FROM instants WINDOW w AS (PARTITION BY __key ORDER BY {TIME})"),
    ]


def _of_instant(running: Running) -> str:
    """What the events of one instant add."""
    if running.amount:
        return f"coalesce(sum({running.amount}), 0)"
    return "count(*)" if running.condition == "true" else f"count(*) FILTER (WHERE {running.condition})"


def _sums(needed: Lookups) -> dict[str, str]:
    """For each bound, the running sums of the events before it."""
    return {
        f"b{microseconds}": f"SELECT __row, {', '.join(f'coalesce({sum_}, 0) AS {name}' for sum_, name in at.items())}"
        f" FROM {_before('running', microseconds)}"
        for microseconds, at in needed.at.items()
    }


def _others(needed: Lookups) -> dict[str, str]:
    """The lookups that are no sums."""
    return {
        **{f"of_{name}": _newest(newest, name) for newest, name in needed.newest.items()},
        **{f"of_{name}": _oldest(oldest, name) for oldest, name in needed.oldest.items()},
        **{f"of_{name}": _extreme(extreme, name) for extreme, name in needed.extremes.items()},
    }


def _before(rows: str, microseconds: int = 0) -> str:
    """Each request `r` with the newest row `c` of its key that is older than `microseconds` before its instant."""
    return f"requests r ASOF LEFT JOIN {rows} c ON r.__key = c.__key AND r.__at - {microseconds} > c.{TIME}"


def _newest(newest: Newest, name: str) -> str:
    rows = f"(SELECT __key, {TIME}, max({newest.value}) AS v FROM events{_kept(newest.value)} GROUP BY ALL)"
    return f"SELECT __row, r.__at - c.{TIME} AS {name}a, v AS {name}v FROM {_before(rows)}"


def _oldest(oldest: Oldest, name: str) -> str:
    rows = f"(SELECT __key, {TIME}, min({oldest.value}) AS v FROM events{_kept(oldest.value)} GROUP BY ALL)"
    joined = f"requests r ASOF JOIN {rows} c ON r.__key = c.__key AND r.__at - {oldest.window} <= c.{TIME}"
    return f"SELECT __row, CASE WHEN c.{TIME} < r.__at THEN v END AS {name} FROM {joined}"


def _kept(value: str) -> str:
    """Which events have such a value."""
    return "" if value == TIME else f" WHERE {value} IS NOT NULL"


def _extreme(extreme: Extreme, name: str) -> str:
    """Every event of the window is looked at: extremes cannot be subtracted."""
    inside = f"e.{TIME} < r.__at AND e.{TIME} >= r.__at - {extreme.window}"
    joined = f"requests r JOIN events e ON r.__key = e.__key AND {inside}"
    return f"SELECT __row, {extreme.function}({extreme.column}) AS {name} FROM {joined} GROUP BY __row"
