"""The sources of a column are those that can change it: each is perturbed in turn, and DuckDB computes the features."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import duckdb
import pytest

from contracts import catalog, project
from contracts.aggregations import (
    AsOf,
    At,
    Count,
    Decayed,
    Dimension,
    Distinct,
    Latest,
    MappedInTime,
    Ratio,
    Sum,
    before_latest,
    days,
    feature_table,
)
from contracts.columns import AUDIT_COLUMNS
from contracts.model import DATE, DOUBLE, LONG, MONEY, STRING, TIMESTAMP, Column, ContractError, Layer
from expectations import brute_force
from lineage.columns import LANDING, Source, Use, names_in, sources_of, sources_of_view, trace, view_columns
from tests.declared import column, silver

GUEST = column("guest", STRING)
STAYS = silver(
    "stays",
    ("stay_id",),
    column("stay_id", LONG),
    GUEST,
    column("hotel", LONG),
    column("arrived_at", TIMESTAMP),
    column("nights", LONG),
    column("paid", MONEY),
    column("tip", MONEY),
    column("channel", STRING),
    time_column="arrived_at",
)
HOTELS = silver("hotels", ("hotel_id",), column("hotel_id", LONG), column("stars", LONG))
OFFERS = silver("offers", ("channel",), column("channel", STRING), column("hotel", LONG), column("percent", LONG))
guests = partial(feature_table, name="guests", doc="Guests", owner="tests", key=(GUEST,), events=STAYS)
GUESTS = guests(
    joined=(Dimension(HOTELS, {"hotel": "hotel_id"}, ("stars",)),),
    aggregations=(
        Sum("spent", "paid + tip", windows=days(7, 30)),
        Count("web_stays", windows=days(30), where="channel = 'nights' OR channel = 'web'"),
        Distinct("hotels", "hotel", windows=days(30)),
        Sum("stars", "stars", windows=days(30)),
        Ratio("long_share", part=Count(where="nights > 3"), whole=Count(), windows=days(30)),
        Latest("last_tip", "tip"),
        Decayed("weight", windows=before_latest(60), half_life=7),
    ),
)


def features(changed: str = "") -> dict[str, list]:
    """Each feature at a few instants, with one column of the events or of the dimension changed in every row."""
    guests, midnight = ("ada", "bob"), datetime(2030, 3, 1, tzinfo=UTC)
    stays = [
        {
            "stay_id": n,
            "guest": guests[n % 2],
            "hotel": n % 3,
            "arrived_at": midnight - timedelta(days=n * 3, hours=1),
            "nights": n % 7,
            "paid": Decimal(10 + n),
            "tip": Decimal(n),
            "channel": ("web", "phone")[n % 3 == 0],
        }
        for n in range(12)
    ]
    hotels = [{"hotel_id": n, "stars": n + 1} for n in range(3)]
    move = {
        "stay_id": lambda value: value + 100,
        "guest": {"ada": "bob", "bob": "ada"}.get,
        "hotel": lambda value: value // 2,
        "arrived_at": lambda value: value - timedelta(days=11),
        "nights": lambda value: 6 - value,
        "paid": lambda value: value + 1,
        "tip": lambda value: value + 2,
        "channel": {"web": "phone", "phone": "web"}.get,
        "hotel_id": lambda value: value + 1,
        "stars": lambda value: value + 10,
    }
    for row in (*stays, *hotels):
        if changed in row:
            row[changed] = move[changed](row[changed])
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        con.execute(
            "CREATE TABLE stays (stay_id BIGINT, guest VARCHAR, hotel BIGINT, arrived_at TIMESTAMP, nights BIGINT,"
            " paid DECIMAL(12, 2), tip DECIMAL(12, 2), channel VARCHAR)"
        )
        con.executemany(
            "INSERT INTO stays VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                [value.replace(tzinfo=None) if name == "arrived_at" else value for name, value in row.items()]
                for row in stays
            ],
        )
        con.execute("CREATE TABLE hotels (hotel_id BIGINT, stars BIGINT)")
        con.executemany("INSERT INTO hotels VALUES (?, ?)", [[*row.values()] for row in hotels])
        declared = GUESTS.aggregates
        assert declared
        events = brute_force.events_of(con, declared, {"silver.stays": "stays", "silver.hotels": "hotels"})
        samples = [((guest,), midnight - timedelta(days=n)) for guest in guests for n in (0, 5, 12)]
        rows = brute_force.counted(con, declared, events, samples)
    names = [feature.name for _, _, feature in declared.features()]
    return {name: [rows[sample][name] if sample in rows else None for sample in samples] for name in names}


@pytest.mark.parametrize("source", [*STAYS.columns, *HOTELS.columns], ids=lambda source: source.name)
def test_a_source_changes_a_feature_if_and_only_if_it_is_named(source: Column) -> None:
    of = "silver.hotels" if source in HOTELS.columns else "silver.stays"
    named = {
        name
        for name, origins in sources_of(GUESTS).items()
        if any((origin.table, origin.column) == (of, source.name) for origin in origins)
    }
    before, after = features(), features(source.name)
    moved = {name for name in before if before[name] != after[name]}
    everywhere = {*before} if source.name in ("guest", "arrived_at") else set()
    assert moved <= named
    assert named - {"guest", "event_timestamp"} == moved | everywhere


def test_how_a_source_is_used() -> None:
    result = sources_of(GUESTS)
    keys = (Source("silver.stays", "guest", Use.GROUP_BY), Source("silver.stays", "arrived_at", Use.WINDOW))
    assert result["guest"] == (Source("silver.stays", "guest", Use.IDENTITY),)
    assert result["spent_7d"] == (
        Source("silver.stays", "paid", Use.AGGREGATION),
        Source("silver.stays", "tip", Use.AGGREGATION),
        *keys,
    )
    assert Source("silver.stays", "channel", Use.FILTER) in result["web_stays_30d"]
    assert {origin.use for origin in result["stars_30d"]} == {Use.AGGREGATION, Use.JOIN, Use.GROUP_BY, Use.WINDOW}
    assert Use.FILTER in {origin.use for origin in result["long_share_30d"]}


def prepared(**mapped: tuple[str, ...]) -> set[Source]:
    """The sources of a feature over a prepared column, besides key and time."""
    declared = guests(
        joined=(MappedInTime(OFFERS, ("channel",), **mapped),),
        prepared=(column("reduced", MONEY, source="paid"),),
        aggregations=(Sum("reduced", "reduced", windows=days(7)),),
    )
    return {source for source in sources_of(declared)["reduced_7d"] if source.use not in (Use.GROUP_BY, Use.WINDOW)}


def test_a_prepared_column_depends_on_its_source_and_on_what_the_transform_reads() -> None:
    by = {Source("silver.offers", "channel", Use.JOIN), Source("silver.stays", "channel", Use.JOIN)}
    own = {Source("silver.stays", "paid", Use.AGGREGATION)}
    percent, hotel = Source("silver.offers", "percent", Use.AGGREGATION), Source("silver.offers", "hotel", Use.JOIN)
    assert prepared() == {*own, *by, percent, hotel, Source("silver.stays", "hotel", Use.JOIN)}
    assert prepared(reads=("percent",)) == {*own, *by, percent}


def test_a_column_that_is_not_there_cannot_be_read() -> None:
    with pytest.raises(ContractError, match=r"silver\.offers has no column procent; it has channel, hotel, percent"):
        prepared(reads=("procent",))


@pytest.mark.parametrize(
    ("valid_from", "deciding"), [("valid_from", {"valid_from"}), (None, {"valid_from", "seen_at"})]
)
def test_a_dimension_with_a_history_depends_on_what_chooses_its_row(valid_from: str | None, deciding: set[str]) -> None:
    history = silver(
        "grades",
        ("hotel_id", "valid_from"),
        column("hotel_id", LONG),
        column("valid_from", DATE),
        column("stars", LONG),
        column("seen_at", TIMESTAMP),
        time_column="seen_at",
    )
    as_of = AsOf.EVENT if valid_from else AsOf.NEWEST
    declared = guests(
        joined=(Dimension(history, {"hotel": "hotel_id"}, ("stars",), as_of=as_of, valid_from=valid_from),),
        aggregations=(Sum("stars", "stars", windows=days(7)),),
    )
    of_dimension = {source for source in sources_of(declared)["stars_7d"] if source.table == "silver.grades"}
    joins = {Source("silver.grades", name, Use.JOIN) for name in {"hotel_id", *deciding}}
    assert of_dimension == {Source("silver.grades", "stars", Use.AGGREGATION), *joins}


def test_a_feature_at_instants_has_the_sources_that_it_has_at_midnights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its view reads the columns of the table's measures, and those have the sources."""
    declared = GUESTS.aggregates
    assert declared
    aggregations = tuple(part for part in declared.aggregations if not isinstance(part, Decayed))
    midnights = guests(joined=declared.joined, aggregations=aggregations)
    table = guests(joined=declared.joined, aggregations=aggregations, at=At.INSTANTS)
    of_columns, of_view = sources_of(table), sources_of_view(table)
    assert [served.name for served in view_columns(table)] == [*of_view]
    assert [*of_columns] == [*table.column_names]
    for _, _, feature in declared.features():
        if feature.name in of_view:
            read = [field for field in of_view[feature.name] if field.table == "gold.guests"]
            through = {(source.table, source.column) for field in read for source in of_columns[field.column]}
            assert through == {(source.table, source.column) for source in sources_of(midnights)[feature.name]}
    tables = {found.qualified: found for found in (table, STAYS, HOTELS)}
    monkeypatch.setattr(catalog, "table", tables.__getitem__)
    steps = [source for _, _, source in trace(table, "spent_7d")]
    assert Source("gold.guests", "spent", Use.AGGREGATION) in steps
    assert Source("silver.stays", "tip", Use.AGGREGATION) in steps


def test_columns_are_followed_to_the_landed_field(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = (Column("visit", LONG, "Visit", source="Visit No"), Column("fee", DOUBLE, "Fee"))
    landed = replace(silver("visits", (), *fields, *AUDIT_COLUMNS), layer=Layer.BRONZE)
    cleaned = silver(
        "visits",
        ("id",),
        column("id", LONG, source="visit"),
        column("fee", MONEY),
        column("made_up", DATE),
        inputs=("bronze.visits",),
    )
    tables = {result.qualified: result for result in (landed, cleaned)}
    monkeypatch.setattr(catalog, "table", tables.__getitem__)
    assert {*sources_of(landed)} == {"visit", "fee"}
    assert "made_up" not in sources_of(cleaned)
    assert [*trace(cleaned, "id")] == [
        (0, "silver.visits.id", Source("bronze.visits", "visit", Use.IDENTITY)),
        (1, "bronze.visits.visit", Source("landing.visits", "Visit No", Use.IDENTITY)),
    ]
    assert [origin.use for _, _, origin in trace(cleaned, "fee")] == [Use.TRANSFORMATION, Use.IDENTITY]
    with pytest.raises(ContractError, match=r"silver\.visits has no column fees; it has id, fee, made_up"):
        [*trace(cleaned, "fees")]


@pytest.mark.parametrize(
    "expression",
    [
        "paid + tip",
        "CASE WHEN channel = 'paid' THEN nights END",
        "coalesce(tip, 0) * nights",
        "round(paid / nights, 2)",
        "channel IN ('web', 'tip''s') AND nights BETWEEN 1 AND 3",
        "CAST(paid AS DOUBLE)",
        "PAID + Tip",
        "paid /* and tip, it's */ + nights -- hotel",
        '"paid" + "tip"',
        "hotel",
    ],
)
def test_names_are_those_that_duckdb_finds(expression: str) -> None:
    known = {field.name: field for field in STAYS.columns}
    tree = duckdb.sql("SELECT json_serialize_sql(?)", params=[f"SELECT {expression}"]).fetchall()[0][0]
    result: set[str] = set()

    def visit(node: object) -> None:
        if isinstance(node, dict):
            if node.get("class") == "COLUMN_REF":
                result.add(node["column_names"][-1].lower())
            for child in node.values():
                visit(child)
        elif isinstance(node, list):
            for child in node:
                visit(child)

    visit(json.loads(tree))
    assert {*names_in(expression, known)} == result


def test_every_feature_of_the_loaded_project_is_traced_to_a_landed_field() -> None:
    project.current()
    for gold in (table for table in catalog.tables(Layer.GOLD) if table.aggregates):
        for field in gold.columns:
            origins = [origin.table for _, _, origin in trace(gold, field.name)]
            assert any(origin.startswith(LANDING) for origin in origins), f"{gold.qualified}.{field.name}"
