"""What cannot work in a project is found before any run, with file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts import check, project
from tests.projects import ARCADE, CINEMA, write

BRONZE = '''"""`bronze.visits`."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, TIMESTAMP, Column, Layer, Table

visits = Table(
    layer=Layer.BRONZE, name="visits", doc="Visits", grain="one row per visit",
    owner="web", freshness=timedelta(days=1), time_column="seen_at",
    columns=(
        Column("visit", LONG, "Visit"),
        Column("guest", STRING, "Guest"),
        Column("seen_at", TIMESTAMP, "When"),
        *AUDIT_COLUMNS,
    ),
)
'''
SILVER = '''"""`silver.visits`."""
from datetime import timedelta

from contracts.model import LONG, STRING, TIMESTAMP, Column, Layer, Reference, Rule, Table

visits = Table(
    layer=Layer.SILVER, name="visits", doc="Visits", grain="one row per visit",
    owner="web", freshness=timedelta(days=1), time_column="seen_at",
    inputs=("bronze.visits",), key=("visit",),
    columns=(
        Column("visit", LONG, "Visit", required=True),
        Column("guest", STRING, "Guest", required=True),
        Column("seen_at", TIMESTAMP, "When", required=True),
    ),
)
'''
GOLD = '''"""`gold.guests`."""

from contracts.aggregations import Count, MappedInTime, Sum, days, feature_table
from contracts.model import LONG, STRING, Column
from {name}.contracts.silver.visits import visits

guests = feature_table(
    name="guests", doc="Guests", owner="web",
    key=(Column("guest", STRING, "Guest", required=True),),
    events=visits,
    aggregations=(
        Count("visits", windows=days(7)),
    ),
)
'''
PLAIN = '''"""`gold.totals`."""

from datetime import timedelta

from contracts.columns import EVENT_TIMESTAMP
from contracts.model import LONG, STRING, Column, Layer, Load, Table

totals = Table(
    layer=Layer.GOLD, name="totals", doc="Totals", grain="one row per guest and midnight",
    owner="web", freshness=timedelta(days=1),
    inputs=("silver.visits",), key=("guest", "event_timestamp"), time_column="event_timestamp",
    history=timedelta(days=7),
    columns=(Column("guest", STRING, "Guest", required=True), EVENT_TIMESTAMP, Column("total", LONG, "Total")),
)
'''
FEATURES = "def features(midnights, visits):\n    return visits\n"
count = 0


def problems_of(tmp_path: Path, **changed: str | None) -> list[str]:
    """The problems of a sound project in which these files are others (or gone: None); `a__b` is a/b.py. Paths are
    below the project's folder.
    """
    global count
    count += 1
    name = f"checked_{count}"
    files: dict[str, str | None] = {
        "contracts__bronze__visits": BRONZE,
        "contracts__silver__visits": SILVER,
        "contracts__gold__guests": GOLD,
        "contracts__gold__totals": PLAIN,
        "transforms__gold__totals": FEATURES,
        **changed,
    }
    kept = {
        f"{path.replace('__', '/')}.py".replace("INIT", "__init__"): text.replace("{name}", name)
        for path, text in files.items()
        if text is not None
    }
    root = write(tmp_path / name, name, kept)
    return [str(problem).removeprefix(f"{root}/") for problem in check.problems(project.load(root))]


def test_a_renamed_project_says_what_its_modules_are_imported_from(tmp_path: Path) -> None:
    assert problems_of(tmp_path, contracts__gold__guests=GOLD.replace("{name}", "former"))[0] == (
        "contracts/gold/guests.py:5: ModuleNotFoundError: No module named 'former'. If that is this project, import"
        f" its modules from checked_{count}, its name in millrace.toml"
    )


def test_a_sound_project_has_none(tmp_path: Path) -> None:
    assert problems_of(tmp_path) == []


@pytest.mark.parametrize("part", [*check.SHARED[:-1], *(f"EXTRACT({field} FROM" for field in check.FIELDS)])
def test_parts_of_times_are_allowed(tmp_path: Path, part: str) -> None:
    call = f"{part} seen_at)" if " " in part else f"{part}(seen_at)"
    counted = f'Count("visits", windows=days(7), where="{call} IS NOT NULL")'
    assert (
        problems_of(tmp_path, contracts__gold__guests=GOLD.replace('Count("visits", windows=days(7))', counted)) == []
    )


def test_the_examples_have_none() -> None:
    for root in (project.DEFAULT, project.DEFAULT.parent / "starter", ARCADE, CINEMA):
        assert check.problems(project.load(root)) == []


CASES = {
    "a date to serve": (
        {
            "contracts__gold__guests": GOLD.replace(
                'Count("visits", windows=days(7))', 'Latest("last_on", "CAST(seen_at AS date)", type=DATE)'
            )
            .replace("Count, MappedInTime", "Latest, MappedInTime")
            .replace("import LONG, STRING", "import DATE, LONG, STRING")
        },
        (
            "contracts/gold/guests.py:12: gold.guests: the feature last_on is a date, which Feast cannot serve. Make it"
            " a timestamp, such as Latest('last_on', 'CAST(day AS timestamp)', type=TIMESTAMP)"
        ),
    ),
    "unknown input": (
        {"contracts__silver__visits": SILVER.replace('inputs=("bronze.visits",)', 'inputs=("bronze.visit",)')},
        (
            "contracts/silver/visits.py:9: silver.visits: its input bronze.visit does not exist. Did you mean"
            " bronze.visits?"
        ),
    ),
    "input of a later layer": (
        {"contracts__gold__totals": PLAIN.replace("silver.visits", "bronze.visits")},
        "contracts/gold/totals.py:11: gold.totals: its input bronze.visits is not a table of silver or gold",
    ),
    "no inputs": (
        {"contracts__silver__visits": SILVER.replace('inputs=("bronze.visits",), ', "")},
        (
            "contracts/silver/visits.py:1: silver.visits: it has no inputs. Name the tables that its transform reads in"
            " `inputs`"
        ),
    ),
    "unknown column of bronze": (
        {
            "contracts__silver__visits": SILVER.replace(
                'Column("guest", STRING, "Guest", required=True)', 'Column("guest", STRING, "Guest", source="gast")'
            )
        },
        (
            "contracts/silver/visits.py:12: silver.visits: guest comes from bronze.visits.gast, and there is no such"
            " column. Did you mean guest? Name another by `source`, or write transforms/silver/visits.py"
        ),
    ),
    "reference to nothing": (
        {
            "contracts__silver__visits": SILVER.replace(
                'key=("visit",),', 'key=("visit",), references=(Reference(("guest",), "silver.guests", ("guest",)),),'
            )
        },
        (
            "contracts/silver/visits.py:9: silver.visits: it refers to silver.guests, which does not exist. Did you"
            " mean silver.visits?"
        ),
    ),
    "reference of another type": (
        {
            "contracts__silver__visits": SILVER.replace(
                'key=("visit",),', 'key=("visit",), references=(Reference(("guest",), "silver.visits", ("visit",)),),'
            )
        },
        (
            "contracts/silver/visits.py:9: silver.visits: guest is string, and silver.visits.visit is bigint. Declare"
            " one type"
        ),
    ),
    "a rule with an unknown column": (
        {
            "contracts__silver__visits": SILVER.replace(
                'key=("visit",),', 'key=("visit",), rules=(Rule("known", "gest <> \'\'", "who?"),),'
            )
        },
        (
            'contracts/silver/visits.py:9: silver.visits: the rule known: Binder Error: Referenced column "gest" not'
            ' found in FROM clause! Candidate bindings: "guest", "visit"'
        ),
    ),
    "a rule that names no column": (
        {
            "contracts__silver__visits": SILVER.replace(
                'key=("visit",),', 'key=("visit",), rules=(Rule("truth", "1 = 1", "why?"),),'
            )
        },
        (
            "contracts/silver/visits.py:9: silver.visits: the rule truth names no column of the table, so it says"
            " nothing about a row"
        ),
    ),
    "a column named by a word of SQL": (
        {"contracts__silver__visits": SILVER.replace('Column("guest", STRING', 'Column("order", STRING')},
        (
            "contracts/silver/visits.py:12: silver.visits: order is a SQL keyword, so no rule could use the column."
            " Call it order_, or what it is"
        ),
    ),
    "an unsupported key": (
        {
            "contracts__gold__guests": (
                GOLD.replace("    aggregations", "    aggregations")
                .replace('Column("guest", STRING, "Guest", required=True)', 'Column("seen_at", TIMESTAMP, "At")')
                .replace("STRING,", "STRING, TIMESTAMP,")
            )
        },
        (
            "contracts/gold/guests.py:7: gold.guests: the key seen_at is timestamp, and a key is bigint, string or"
            " date. Make it one of them in silver"
        ),
    ),
    "an unknown column in an aggregation": (
        {
            "contracts__gold__guests": GOLD.replace(
                'Count("visits", windows=days(7))', 'Count("visits", windows=days(7), where="page = 1")'
            )
        },
        (
            "contracts/gold/guests.py:12: gold.guests: visits, where='page = 1': Binder Error: Referenced column"
            ' "page" not found in FROM clause! Candidate bindings: "guest"'
        ),
    ),
    "two features of one name": (
        {
            "contracts__gold__guests": GOLD.replace(
                'Count("visits", windows=days(7)),',
                'Count("visits", windows=days(7)), Count("visits", windows=days(7)),',
            )
        },
        "contracts/gold/guests.py:7: gold.guests: two features are called visits_7d. Rename one of the aggregations",
    ),
    "an input that nothing maps": (
        {"contracts__gold__totals": PLAIN.replace("    history=timedelta(days=7),\n", "")},
        (
            "contracts/gold/totals.py:1: gold.totals: nothing tells which of its rows a change of its inputs"
            " affects. Declare aggregations (feature_table), or give `history`, as long as its transform looks back,"
            " or `load=Load.SNAPSHOT` to rebuild it after each change"
        ),
    ),
    "no key": (
        {"contracts__silver__visits": SILVER.replace('key=("visit",),', "")},
        (
            "contracts/silver/visits.py:1: silver.visits: it has no key, so a row that lands twice would be published"
            " twice. Name the columns that tell its rows apart"
        ),
    ),
    "rows from silver": (
        {"contracts__silver__visits": SILVER.replace('inputs=("bronze.visits",)', 'inputs=("silver.visits",)')},
        (
            "contracts/silver/visits.py:1: silver.visits: its first input silver.visits is not a bronze table, and its"
            " rows come from the first input"
        ),
    ),
    "a transform of no table": (
        {"transforms__silver__visit": "def clean(visits):\n    return visits\n"},
        (
            "transforms/silver/visit.py:1: there is no table silver.visit, so nothing calls this. Did you mean"
            " silver.visits?"
        ),
    ),
    "a transform that aggregations do not need": (
        {"transforms__gold__guests": "def events(visits):\n    return visits\n"},
        (
            "transforms/gold/guests.py:1: gold.guests is computed from its aggregations alone, so nothing calls this."
            " Declare `prepared` or `joined`, or remove the file"
        ),
    ),
    "an expression that changes": (
        {
            "contracts__gold__guests": GOLD.replace(
                'Count("visits", windows=days(7))', 'Count("visits", windows=days(7), where="seen_at < now()")'
            )
        },
        (
            "contracts/gold/guests.py:12: gold.guests: visits, where='seen_at < now()': now does not give one value of"
            " one row, the same each time"
        ),
    ),
    "days of the week": (
        {
            "contracts__gold__guests": GOLD.replace(
                'Count("visits", windows=days(7))', 'Count("visits", windows=days(7), where="dayofweek(seen_at) = 1")'
            )
        },
        (
            "contracts/gold/guests.py:12: gold.guests: visits, where='dayofweek(seen_at) = 1': dayofweek differs"
            " between engines. The same on all are year, quarter, month, day, hour, minute, dayofmonth, dayofyear,"
            " weekofyear, second, last_day, date_trunc"
        ),
    ),
    "a part of a time that engines number differently": (
        {
            "contracts__gold__guests": GOLD.replace(
                'Count("visits", windows=days(7))',
                'Count("visits", windows=days(7), where="EXTRACT(DOW FROM seen_at) = 1")',
            )
        },
        (
            "contracts/gold/guests.py:12: gold.guests: visits, where='EXTRACT(DOW FROM seen_at) = 1': EXTRACT(DOW)"
            " differs between engines. The same are year, quarter, month, day, hour, minute, week, doy"
        ),
    ),
    "an expression of several rows": (
        {
            "contracts__gold__guests": GOLD.replace(
                'Count("visits", windows=days(7))', 'Count("visits", "max(visit)", windows=days(7))'
            )
        },
        (
            "contracts/gold/guests.py:12: gold.guests: visits, of='max(visit)': max does not give one value of one row,"
            " the same each time"
        ),
    ),
    "neither time nor snapshot": (
        {"contracts__silver__visits": SILVER.replace('time_column="seen_at"', "time_column=None")},
        (
            "contracts/silver/visits.py:10: silver.visits: it has no time_column, so its days are unknown. Name one, or"
            " say load=Load.SNAPSHOT where a file is the whole state"
        ),
    ),
    "another time than bronze": (
        {"contracts__bronze__visits": BRONZE.replace('time_column="seen_at"', 'time_column="_landed_date"')},
        (
            "contracts/silver/visits.py:8: silver.visits: its time_column comes from seen_at, and the time_column of"
            " bronze.visits is _landed_date. A day must be the same day in both: give both the same"
        ),
    ),
    "no transform": (
        {"transforms__gold__totals": None},
        (
            "contracts/gold/totals.py:1: gold.totals: it needs a transform: write `def features(midnights, visits)` in"
            " transforms/gold/totals.py"
        ),
    ),
    "no function": (
        {"transforms__gold__totals": "def feature(midnights, visits):\n    return visits\n"},
        (
            "transforms/gold/totals.py:1: gold.totals: there is no function features. Write `def features(midnights,"
            " visits)`"
        ),
    ),
    "too few arguments": (
        {"transforms__gold__totals": "\n\ndef features(visits):\n    return visits\n"},
        "transforms/gold/totals.py:3: gold.totals: features gets 2 arguments. Write `def features(midnights, visits)`",
    ),
    "a syntax error": (
        {"contracts__gold__totals": "totals = (\n"},
        "contracts/gold/totals.py:1: SyntaxError: '(' was never closed (totals.py, line 1)",
    ),
    "an error of the user's": (
        {"contracts__gold__totals": "\n\ntotals = 1 / 0\n"},
        "contracts/gold/totals.py:3: ZeroDivisionError: division by zero",
    ),
    "another variable": (
        {"contracts__gold__totals": PLAIN.replace("totals = Table", "total = Table")},
        (
            "contracts/gold/totals.py:1: contracts/gold/totals.py must declare `totals`, the contract of the table"
            " gold.totals: Table(layer=Layer.GOLD, name='totals', ...)"
        ),
    ),
    "a file that hides a package": (
        {"features": "x = 1\n"},
        "features.py:1: it hides Millrace's own package features from scripts in this folder. Rename it",
    ),
    "a package that hides a package": (
        {"contracts__INIT": ""},
        "contracts/__init__.py:1: it hides Millrace's own package contracts from scripts in this folder. Remove it",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_problem_is_reported_with_its_line_and_remedy(tmp_path: Path, case: str) -> None:
    changed, expected = CASES[case]
    assert expected in problems_of(tmp_path, **changed)


def test_a_project_without_contracts_gets_an_error_that_says_how_to_write_one(tmp_path: Path) -> None:
    root = write(tmp_path, "empty_project", {})
    [problem] = check.problems(project.load(root))
    assert problem.message == "there is no contract. Write one: millrace new bronze NAME --from FILE"
