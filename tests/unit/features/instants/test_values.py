"""Features at instants, by DuckDB and Spark for training and by the fold for serving, against brute force."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from feast import FeatureView
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from contracts import catalog
from contracts.aggregations import Aggregates
from contracts.model import DecimalType
from etl import engine
from expectations import brute_force
from features import queries, views
from features.instants import cluster, fold, offline, recount, state
from features.instants.fold import Fold, OtherDeclarationError, TooOldError
from tests.projects import ARCADE

PROJECT = ARCADE
START = datetime(2031, 1, 1, tzinfo=UTC)
HORIZON = START + timedelta(days=12)
"""The longest window is 7 days: of the events of the first 3, a state has only those that a value of any age needs."""
STEP = timedelta(minutes=5)
LENGTHS = [timedelta(0), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=24), timedelta(days=7)]
PLAYERS = ("ann", "bob")
Row = dict[str, Any]

# Instants on a grid of a few minutes, so that they often meet the ends of windows and each other.
instants = st.integers(0, 9 * 288 - 1).map(lambda n: START + n * STEP)
late_instants = st.integers(10 * 288, 12 * 288 - 1).map(lambda n: START + n * STEP)
rows = st.lists(
    st.builds(
        dict,
        player=st.sampled_from(PLAYERS),
        game=st.sampled_from(("go", "chess", "Ärger", "")),
        mode=st.sampled_from(("ranked", "casual", None)),
        ended_at=instants,
        seconds=st.integers(-5, 2**40),
        stake=st.none() | st.decimals(-9, 10**9, places=2),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def view() -> FeatureView:
    return views.view("player_now")


@pytest.fixture(scope="module")
def declared() -> Aggregates:
    found = catalog.table("gold.player_now").aggregates
    assert found
    return found


def events(connection: duckdb.DuckDBPyConnection, found: list[Row]) -> None:
    """`events` as silver has them, and `gold` as etl.gold.instants makes it of them."""
    money = pa.decimal128(12, 2)
    connection.register(
        "events",
        pa.table(
            {
                "round": [f"r{n}" for n in range(len(found))],
                "player": pa.array([row["player"] for row in found], pa.string()),
                "game": pa.array([row["game"] for row in found], pa.string()),
                "mode": pa.array([row["mode"] for row in found], pa.string()),
                "ended_at": pa.array([row["ended_at"] for row in found], pa.timestamp("us", "UTC")),
                "seconds": pa.array([row["seconds"] for row in found], pa.int64()),
                "stake": pa.array([row["stake"] for row in found], money),
            }
        ),
    )
    declared = catalog.table("gold.player_now").aggregates
    assert declared
    cells = [f"{_measure(part)} AS {column.name}" for part, column in declared.measure_columns()]
    connection.execute(
        f"CREATE TEMP TABLE gold AS SELECT player, round, ended_at AS event_timestamp, {', '.join(cells)} FROM events"
    )


def _measure(part: Any) -> str:
    where = f"coalesce({part.where}, false)" if part.where else "true"
    if type(part).__name__ == "Count" or not part.of:
        return f"({where}{f' AND {part.of} IS NOT NULL' if part.of else ''})"
    return f"CASE WHEN {where} THEN {part.of} END"


def connection() -> duckdb.DuckDBPyConnection:
    made = duckdb.connect()
    made.execute("SET TimeZone = 'UTC'; SET python_enable_replacements = false")
    return made


def moments(found: list[Row], drawn: list[datetime], shifts: list[int]) -> list[datetime]:
    """Drawn instants, and those at which an event comes and leaves, a microsecond before and after them, too."""
    borders = [
        row["ended_at"] + length + timedelta(microseconds=shift)
        for row, shift in zip(found, shifts, strict=False)
        for length in LENGTHS
    ]
    return [at for at in (*drawn, *borders) if at < HORIZON]


def served(value: Any, kind: Any) -> Any:
    """A value of brute force as training and serving give it."""
    if isinstance(kind, DecimalType) and value is not None:
        return float(Decimal(value))
    if isinstance(value, datetime):
        return int(value.replace(tzinfo=UTC).timestamp() // 1)
    return value


def counted(
    con: duckdb.DuckDBPyConnection, declared: Aggregates, labels: list[tuple[str, datetime]]
) -> dict[tuple[str, datetime], tuple[Any, ...]]:
    """The features of labels whose player has an event, by brute force."""
    con.execute("CREATE TEMP TABLE _source AS SELECT *, CAST(ended_at AS TIMESTAMP) AS _at FROM events")
    rows = brute_force.counted(con, declared, "_source", [((player,), at) for player, at in labels])
    return {
        (key[0], at): tuple(served(row[column.name], column.type) for _, _, column in declared.features())
        for (key, at), row in rows.items()
    }


def joinable(labels: list[tuple[str, datetime]]) -> pa.Table:
    return pa.table(
        {
            "__row": pa.array(range(len(labels)), pa.int64()),
            "__at": pa.array([queries.microseconds(at) for _, at in labels], pa.int64()),
            "player": [player for player, _ in labels],
        }
    )


def joined(con: duckdb.DuckDBPyConnection, query: str, labels: list[Any]) -> dict[Any, tuple[Any, ...]]:
    """The rows of a query with `__row`, by label."""
    return {labels[row[0]]: tuple(served(value, None) for value in row[1:]) for row in con.execute(query).fetchall()}


def by_spark(
    con: duckdb.DuckDBPyConnection, view: FeatureView, names: list[str], labels: list[Any]
) -> dict[Any, tuple[Any, ...]]:
    """What Spark finds in `gold`: MILLRACE_ENGINE says which."""
    gold = con.sql("FROM gold").to_arrow_table()
    if not gold.num_rows:  # Spark Connect takes no table without rows
        return {}
    history = engine.session().createDataFrame(gold)
    matches = cluster.find(engine.session(), history, joinable(labels), view.batch_source, view, names)
    con.register("matches", matches)
    return joined(con, cluster.computed(view, names), labels)


@settings(max_examples=40, deadline=None)
@given(rows, st.lists(instants | late_instants, min_size=1, max_size=8), st.lists(st.integers(-1, 1), max_size=25))
def test_training_and_serving_have_the_values_of_brute_force(
    view: FeatureView, declared: Aggregates, found: list[Row], drawn: list[datetime], shifts: list[int]
) -> None:
    names = [column.name for _, _, column in declared.features()]
    labels = [(player, at) for at in moments(found, drawn, shifts) for player in PLAYERS]
    con = connection()
    events(con, found)
    expected = counted(con, declared, labels)

    con.register("labels", joinable(labels))
    assert joined(con, offline.as_of("gold", view.batch_source, view, names), labels) == expected
    recounted = joined(con, recount.of_sample("gold", view.batch_source, view, names, len(labels)), labels)
    assert {label: row for label, row in recounted.items() if label in expected} == expected
    assert {row for label, row in recounted.items() if label not in expected} <= {(None,) * len(names)}

    horizon = queries.microseconds(HORIZON)
    known = con.sql(state.query("gold", view.batch_source, view, horizon)).to_arrow_table()
    packed = {key[0]: blob for key, _, blob in state.states(known, view, horizon)}
    folded, folding = {}, Fold(view, names)
    for player, at in labels:
        if at < HORIZON - state.MARGIN:
            continue
        values = folding.values(packed[player], queries.microseconds(at)) if player in packed else None
        if values is not None:
            folded[player, at] = values[1:]
    assert folded == {label: row for label, row in expected.items() if label[1] >= HORIZON - state.MARGIN}


@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(rows, st.lists(instants | late_instants, min_size=1, max_size=8), st.lists(st.integers(-1, 1), max_size=25))
def test_spark_has_the_values_of_brute_force(
    view: FeatureView, declared: Aggregates, found: list[Row], drawn: list[datetime], shifts: list[int]
) -> None:
    """On Sail, in this process."""
    names = [column.name for _, _, column in declared.features()]
    labels = [(player, at) for at in moments(found, drawn, shifts) for player in PLAYERS]
    con = connection()
    events(con, found)
    assert by_spark(con, view, names, labels) == counted(con, declared, labels)


def test_an_instant_without_all_events_is_refused(view: FeatureView) -> None:
    con, event = connection(), HORIZON - state.MARGIN - timedelta(days=7)
    row = {"player": "ann", "game": "go", "mode": None, "ended_at": event, "seconds": 1, "stake": None}
    events(con, [row])
    horizon = queries.microseconds(HORIZON)
    rows_of_state = con.sql(state.query("gold", view.batch_source, view, horizon)).to_arrow_table()
    [(key, newest, blob)] = state.states(rows_of_state, view, horizon)
    assert (key, newest) == (("ann",), queries.microseconds(event))
    folding = Fold(view, ["rounds_now_7d", "newest_game_now"])
    oldest = queries.microseconds(HORIZON - state.MARGIN)
    assert folding.values(blob, oldest) == (queries.microseconds(event), 1, "go")
    assert folding.values(blob, oldest + 1) == (queries.microseconds(event), 0, "go")
    with pytest.raises(TooOldError):
        folding.values(blob, oldest - 1)
    other = state.unpack(blob)
    other.declaration = "another"
    with pytest.raises(OtherDeclarationError):
        folding.values(state.pack(other), oldest)


def test_sums_beyond_64_bits_are_exact() -> None:
    row = {"player": "ann", "game": "go", "mode": None, "ended_at": START, "seconds": 2**62, "stake": None}
    con, horizon = connection(), queries.microseconds(START + STEP)
    view = views.view("player_now")
    events(con, [row] * 4)
    [(_, _, blob)] = state.states(
        con.sql(state.query("gold", view.batch_source, view, horizon)).to_arrow_table(), view, horizon
    )
    assert Fold(view, ["seconds_now_10m"]).values(blob, horizon) == (queries.microseconds(START), 2**64)
    cells = state.Cells((2**62).to_bytes(8, "little") * 4, None, None, wide=True)
    assert fold._sum(cells, 0, 4) == 2**64
