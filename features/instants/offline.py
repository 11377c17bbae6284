"""DuckDB SQL that computes features at each label's instant from the events of a table of instants.

The events of a window [t - w, t) are those before t without those before t - w. So sums and counts are differences of
running ones, found by as-of joins: one at t, and one for each window. A member is counted from each of its events until
its next one or the end of the window, whichever comes first: distinct values are running counts, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from feast import FeatureView

from contracts.aggregations import Aggregation, Count, Distinct, First, Latest, Max, Mean, Min, Ratio, Sum
from features import queries, type_mapping
from features.instants.declaration import Feature, features, of_view
from features.source import GoldTable
from lake.sql import identifier

TIME = "__t"
"""Microseconds since 1970 of an event."""


def as_of(table: str, source: GoldTable, view: FeatureView, requested: Sequence[str], *, as_served: bool = True) -> str:
    """`__row` and the requested features of each row of `labels` (`__row`, `__at`, join keys) whose key has an event
    before `__at`, in any order. `table` is a relation of the events. Values are in Feast's types, or unless
    `as_served`, in the contract's.
    """
    known = {feature.column.name: feature for feature in features(of_view(view))}
    return _Query(table, source, view, [known[name] for name in requested]).sql(as_served)


class _Query:
    """Collects the parts of the query: running sums, and as-of joins with them."""

    def __init__(self, table: str, source: GoldTable, view: FeatureView, requested: Sequence[Feature]) -> None:
        self._table, self._source, self._view, self._requested = table, source, view, requested
        self._running: dict[str, str] = {}
        """Aggregate of the events of one instant -> name of its running sum."""
        self._bounds: dict[int, str] = {}
        """Microseconds before the label -> the as-of join with the running sums there; 0 is the label's own instant."""
        self._parts: dict[str, str] = {}
        """Further common table expressions, each with `__row` and a value `v`."""
        self._names: dict[str, str] = {}

    def sql(self, as_served: bool) -> str:
        """The query."""
        self._bound(0)
        mappings = {field.name: type_mapping.of(field.dtype, field.name) for field in self._view.features}
        values = []
        for feature in self._requested:
            cast = f"CAST({self._value(feature)} AS {feature.column.type.duckdb})"
            name = feature.column.name
            value = mappings[name].offline.format(cast) if as_served else cast
            values.append(f"{value} AS {identifier(name)}")
        clauses = [*self._preparation(), *self._joins(), *self._parts.items()]
        joined = " ".join(f"LEFT JOIN {name} USING (__row)" for name in (*self._bounds.values(), *self._parts))
        return (
            f"WITH {', '.join(f'{name} AS MATERIALIZED ({query})' for name, query in clauses)}"
            f" SELECT requests.__row, {', '.join(values)} FROM requests {joined} WHERE b0.n > 0"
        )

    # --- events and running sums

    def _preparation(self) -> list[tuple[str, str]]:
        label_keys = [identifier(name) for name in queries.label_keys(self._view)]
        own_keys = [identifier(self._source.column(key.name)) for key in self._view.entity_columns]
        of_labels, of_events = (
            ", ".join(f"{name} AS __k{n}" for n, name in enumerate(names)) for names in (label_keys, own_keys)
        )
        same = ", ".join(f"__k{n}" for n in range(len(own_keys)))
        names = sorted({measure.column.name for f in self._requested for measure in f.measures if measure.column})
        columns = "".join(f", {identifier(name)}" for name in names)
        instant = f"epoch_us({identifier(self._source.event_column)}) AS {TIME}"
        labels = f"SELECT __row, __at, {of_labels} FROM labels"
        events = f"SELECT {of_events}, {instant}{columns} FROM {self._table}"
        sums = "".join(f", {aggregate} AS {name}" for aggregate, name in self._running.items())
        running = "".join(f", sum({name}) OVER w AS {name}" for name in self._running.values())
        by_time = f"WINDOW w AS (PARTITION BY __key ORDER BY {TIME})"
        return [
            ("entities", f"SELECT DISTINCT {of_labels} FROM labels"),
            ("numbered", "SELECT *, CAST(row_number() OVER () AS INTEGER) AS __key FROM entities"),
            ("requests", f"SELECT __row, __at, __key FROM ({labels}) JOIN numbered USING ({same})"),
            ("events", f"SELECT __key, {TIME}{columns} FROM ({events}) JOIN numbered USING ({same})"),
            ("instants", f"SELECT __key, {TIME}, count(*) AS n{sums} FROM events GROUP BY ALL"),
            ("running", f"SELECT __key, {TIME}, sum(n) OVER w AS n{running} FROM instants {by_time}"),
        ]

    def _joins(self) -> list[tuple[str, str]]:
        """The running sums of the events before each bound."""
        values = ", ".join(f"coalesce({name}, 0) AS {name}" for name in ("n", *self._running.values()))
        return [
            (name, f"SELECT __row, {values} FROM {_before('running', microseconds)}")
            for microseconds, name in self._bounds.items()
        ]

    def _bound(self, microseconds: int) -> str:
        return self._bounds.setdefault(microseconds, f"b{len(self._bounds)}")

    def _between(self, column: str, window: int | None) -> str:
        """The sum over the window of a column of `running`."""
        end = f"{self._bound(0)}.{column}"
        return end if window is None else f"({end} - {self._bound(window)}.{column})"

    def _sum(self, aggregate: str, window: int | None) -> str:
        """The sum over the window of an aggregate of the events of one instant."""
        return self._between(self._running.setdefault(aggregate, f"s{len(self._running)}"), window)

    # --- aggregations

    def _value(self, feature: Feature) -> str:
        part, window = feature.part, feature.microseconds
        columns = [identifier(measure.column.name) if measure.column else "" for measure in feature.measures]
        if isinstance(part, Ratio):
            top, bottom = (
                self._amount(side, column, window)
                for side, column in zip((part.part, part.whole), columns, strict=True)
            )
            return _ratio(top, bottom, part.empty)
        [column] = columns
        if isinstance(part, Mean):
            return _ratio(self._amount(part, column, window), self._sum(f"count({column})", window), None)
        if isinstance(part, (Sum, Count, Distinct)):
            return self._amount(part, column, window)
        if isinstance(part, Latest):
            return self._instant(part, self._latest(part, column, window))
        if isinstance(part, First):
            return self._instant(part, self._first(part, column, window or 0))
        if isinstance(part, (Min, Max)):
            return self._extreme("min" if isinstance(part, Min) else "max", column, window or 0)
        raise ValueError(f"{type(part).__name__} has no value at instants")

    def _amount(self, part: Aggregation, column: str, window: int | None) -> str:
        if isinstance(part, Distinct):
            return self._distinct(column, window)
        if isinstance(part, Count):
            return self._sum(f"count(*) FILTER (WHERE {column})", window) if column else self._between("n", window)
        return self._sum(f"coalesce(sum({column}), 0)", window)

    def _distinct(self, column: str, window: int | None) -> str:
        """How many members have an event before the instant, less those whose last one is too old by then."""
        name = self._name(f"distinct {column}")
        members = f"SELECT DISTINCT __key, {column} AS m, {TIME} FROM events WHERE {column} IS NOT NULL"
        following = f"lead({TIME}) OVER (PARTITION BY __key, m ORDER BY {TIME})"
        end = following if window is None else f"least(coalesce({following}, {TIME} + {window}), {TIME} + {window})"
        ended = f"SELECT __key, e AS {TIME} FROM (SELECT __key, {end} AS e FROM ({members})) WHERE e IS NOT NULL"
        started = self._count(f"{name}s", f"SELECT __key, {TIME} FROM ({members})")
        return f"({started} - {self._count(f'{name}e{window or 0}', ended)})"

    def _count(self, name: str, rows: str) -> str:
        """How many of these rows (`__key`, TIME) are before each label."""
        running = f"sum(count(*)) OVER (PARTITION BY __key ORDER BY {TIME})"
        counted = f"(SELECT __key, {TIME}, {running} AS v FROM ({rows}) GROUP BY __key, {TIME})"
        self._parts.setdefault(name, f"SELECT __row, coalesce(v, 0) AS {name}v FROM {_before(counted)}")
        return f"{name}.{name}v"

    def _latest(self, part: Aggregation, column: str, window: int | None) -> str:
        name = self._name(f"latest {part.of} {column}")
        rows = (
            f"(SELECT __key, {TIME}, max({_by_time(part, column)}) AS v FROM events{_kept(part, column)} GROUP BY ALL)"
        )
        self._parts.setdefault(name, f"SELECT __row, r.__at - c.{TIME} AS {name}a, v AS {name}v FROM {_before(rows)}")
        return f"{name}.{name}v" if window is None else f"CASE WHEN {name}.{name}a <= {window} THEN {name}.{name}v END"

    def _first(self, part: Aggregation, column: str, window: int) -> str:
        name = self._name(f"first {part.of} {column} {window}")
        rows = (
            f"(SELECT __key, {TIME}, min({_by_time(part, column)}) AS v FROM events{_kept(part, column)} GROUP BY ALL)"
        )
        joined = f"requests r ASOF JOIN {rows} c ON r.__key = c.__key AND r.__at - {window} <= c.{TIME}"
        value = f"CASE WHEN c.{TIME} < r.__at THEN v END"
        self._parts.setdefault(name, f"SELECT __row, {value} AS {name}v FROM {joined}")
        return f"{name}.{name}v"

    @staticmethod
    def _instant(part: Aggregation, value: str) -> str:
        return value if part.of else f"make_timestamptz({value})"

    def _extreme(self, function: str, column: str, window: int) -> str:
        """Every event of the window is looked at: extremes cannot be subtracted."""
        name = self._name(f"{function} {column} {window}")
        inside = f"e.{TIME} < r.__at AND e.{TIME} >= r.__at - {window}"
        joined = f"requests r JOIN events e ON r.__key = e.__key AND {inside}"
        self._parts.setdefault(name, f"SELECT __row, {function}({column}) AS {name}v FROM {joined} GROUP BY __row")
        return f"{name}.{name}v"

    def _name(self, what: str) -> str:
        return self._names.setdefault(what, f"p{len(self._names)}")


def _before(rows: str, microseconds: int = 0) -> str:
    """Each request `r` with the newest row `c` of its key that is older than `microseconds` before its instant."""
    return f"requests r ASOF LEFT JOIN {rows} c ON r.__key = c.__key AND r.__at - {microseconds} > c.{TIME}"


def _by_time(part: Aggregation, column: str) -> str:
    """The value of an event for `Latest` and `First`."""
    return column if part.of else TIME


def _kept(part: Aggregation, column: str) -> str:
    """Which events have such a value."""
    condition = f"{column} IS NOT NULL" if part.of else column
    return f" WHERE {condition}" if condition else ""


def _ratio(top: str, bottom: str, empty: float | None) -> str:
    otherwise = "NULL" if empty is None else f"CAST({empty!r} AS DOUBLE)"
    return f"CASE WHEN {bottom} = 0 THEN {otherwise} ELSE CAST({top} AS DOUBLE) / CAST({bottom} AS DOUBLE) END"
